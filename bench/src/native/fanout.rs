//! What the five guests of plugins/bench do, by hand.

use fanfare::clock::Timestamp;
use fanfare::effects::Message;
use fanfare::order::{Change, Order};

use super::staged::{Rule, Staged};
use super::{MINOR_PER_MAJOR, line_amount};

// In the order of `mode::FANOUT`.
const MESSAGE: usize = 0;
const POINTS: usize = 1;
const SHIPMENT: usize = 2;
const STOCK: usize = 3;
const TOTALS: usize = 4;

pub fn stage(order: &Order, _now: Timestamp) -> serde_json::Result<Staged> {
    let mut staged = Staged::of([Change::Placed {}])?;
    let content = &*order.content;
    let id = order.id.to_string();
    for line in &content.lines {
        let quantity = i64::from(line.quantity);
        staged.adjust(STOCK, &["stock/", &line.sku], -quantity, Rule::Floor(0));
        staged.adjust(TOTALS, &["units/sku/", &line.sku], quantity, Rule::Free);
        staged.adjust(TOTALS, &["revenue/sku/", &line.sku], line_amount(line), Rule::Free);
    }
    let points = content.total_amount / MINOR_PER_MAJOR;
    staged.adjust(POINTS, &["points/", &content.customer.id], points, Rule::Free);
    let parcel = format!(r#"{{"carrier":"local","tracking_number":"FF-{id}"}}"#);
    staged.enter(SHIPMENT, format!("shipment/{id}"), parcel);
    let to = content.customer.email.clone();
    let message = Message::Email {
        to: to.unwrap_or_else(|| format!("{}@customers.example", content.customer.id)),
        subject: format!("We have your order {id}"),
        text: format!("Thank you for your order {id} of {} lines.\n", content.lines.len()),
        html: None,
    };
    staged.send(MESSAGE, "bench-message", 0, &message)?;
    Ok(staged)
}
