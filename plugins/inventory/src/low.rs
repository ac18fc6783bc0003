//! The warning that a SKU runs low: once when it becomes low, and again only after it has risen.
//!
//! The entry `low/{sku}` is there while a warning is out and holds the threshold that was crossed. It is read with `get`:
//! of two orders that make a SKU low at the same time, one commits and the other runs again and finds the entry.

use fanfare_sdk::json::json;
use fanfare_sdk::prelude::*;
use fanfare_sdk::settings;

use crate::stock;

/// `{sku, left, threshold}`, about the SKU.
pub const KIND: &str = "com.fanfare.stock.low";

const THRESHOLD_DEFAULT: i64 = 10;

/// A SKU is low while fewer units than this are left.
pub fn threshold() -> Result<i64, settings::Error> {
    settings::integer("low_stock", THRESHOLD_DEFAULT, 0..=i64::from(u32::MAX))
}

/// For a SKU that is below the threshold.
pub fn warn_once(sku: &str, threshold: i64) -> Result<(), Failure> {
    let key = key(sku);
    // A warning for a higher threshold, set before the operator lowered it, does not stand for this one.
    if state::get_json::<i64>(&key)?.is_some_and(|crossed| crossed <= threshold) {
        return Ok(());
    }
    state::set_json(&key, &threshold);
    let left = state::count(&stock::key(sku));
    outbox::publish(&Custom {
        kind: KIND.to_owned(),
        subject: sku.to_owned(),
        order_id: None,
        data: json!({"sku": sku, "left": left, "threshold": threshold}).to_string(),
    });
    Ok(())
}

/// For a SKU that has gained units. Its counter is read only while a warning is out: otherwise there is nothing to clear,
/// and deliveries of a popular SKU do not wait for its orders.
pub fn clear_if_risen(sku: &str, threshold: i64) -> Result<(), Failure> {
    let key = key(sku);
    if state::get(&key).is_some() && state::count(&stock::key(sku)) >= threshold {
        state::delete(&key);
    }
    Ok(())
}

fn key(sku: &str) -> String {
    format!("low/{sku}")
}
