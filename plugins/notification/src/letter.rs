//! The letter that tells a customer of one step of an order.

use fanfare_sdk::prelude::*;

use crate::language::Language;
use crate::template::{Draft, Letter, fill};

/// None for a step that this version has no words for.
pub fn write(order: &Order, change: &Change) -> Option<Letter> {
    let language = Language::of(order.metadata_value("locale"));
    let step = match change {
        Change::Placed => &language.placed,
        Change::Confirmed => &language.confirmed,
        Change::Rejected(_) => &language.rejected,
        Change::Shipped(_) => &language.shipped,
        Change::Delivered => &language.delivered,
        Change::Cancelled(_) => &language.cancelled,
        Change::Other(_) => return None,
    };
    let name = order.customer.name.as_deref().unwrap_or_default();
    let reason = match change {
        Change::Rejected(reason) | Change::Cancelled(reason) => reason.as_str(),
        _ => "",
    };
    let parcel = match change {
        Change::Shipped(parcel) => Some(parcel),
        _ => None,
    };
    let values = [
        ("order", order.reference.as_deref().unwrap_or(&order.id)),
        ("name", name),
        ("reason", reason),
        ("carrier", parcel.map_or("", |parcel| &parcel.carrier)),
        ("number", parcel.map_or("", |parcel| &parcel.tracking_number)),
    ];
    let greeting = if name.is_empty() { language.greeting_nameless } else { language.greeting };
    let mut paragraphs = vec![fill(greeting, &values), fill(step.body, &values)];
    if !reason.is_empty() {
        paragraphs.push(fill(language.reason, &values));
    }
    let draft = Draft {
        subject: fill(step.subject, &values),
        paragraphs,
        table: if matches!(change, Change::Placed) { table(order, language) } else { Vec::new() },
        link: parcel.and_then(|parcel| parcel.tracking_url.as_deref()).map(|url| fill("{url}", &[("url", url)])),
        closing: language.closing.to_owned(),
    };
    Some(draft.render())
}

fn table(order: &Order, language: &Language) -> Vec<(String, String)> {
    let lines = order.lines.iter().map(|line| {
        let quantity = line.quantity.to_string();
        let values = [("quantity", quantity.as_str()), ("title", line.title.as_deref().unwrap_or(&line.sku))];
        (fill("{quantity} × {title}", &values), language.money(line.total_amount(), &order.currency))
    });
    let total = (language.total.to_owned(), language.money(order.total_amount, &order.currency));
    lines.chain([total]).collect()
}
