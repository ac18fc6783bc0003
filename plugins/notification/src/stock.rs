//! The letter that tells the shop that a SKU runs low.

use fanfare_sdk::json::Data;
use fanfare_sdk::outbox::Email;
use fanfare_sdk::prelude::*;

use crate::is_address;
use crate::template::{Draft, Letter, fill};

/// `{sku, left, threshold}`, as inventory publishes it.
pub const LOW: &str = "com.fanfare.stock.low";

pub fn tell_shop(event: &Custom) -> Result<(), Failure> {
    let Some(to) = settings::get("stock_alert_to") else {
        log::debug(&format!("stock of {} is low; settings.stock_alert_to names nobody to tell", event.subject));
        return Ok(());
    };
    if !is_address(&to) {
        return Err(Failure::retry(format!("settings.stock_alert_to: must be an e-mail address, not {to:?}")));
    }
    let data = Data::parse(&event.data)?;
    let left = data.integer("left", i64::MIN..=i64::MAX)?.to_string();
    let threshold = data.integer("threshold", i64::MIN..=i64::MAX)?.to_string();
    let values = [("sku", data.text("sku")?), ("left", left.as_str()), ("threshold", threshold.as_str())];
    let draft = Draft {
        subject: fill("Stock of {sku} is low: {left} left", &values),
        paragraphs: vec![fill("Stock of {sku} has fallen below {threshold}: {left} left.", &values)],
        closing: "Fanfare inventory".to_owned(),
        ..Draft::default()
    };
    let Letter { subject, text, html } = draft.render();
    outbox::send_email(Email { to, subject, text, html: Some(html) });
    Ok(())
}
