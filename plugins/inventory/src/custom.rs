//! What the warehouse reports: deliveries and counts.

use fanfare_sdk::json::Data;
use fanfare_sdk::prelude::*;

use crate::{low, stock};

/// `{sku, quantity}`: so many units came in.
pub const RECEIVED: &str = "com.fanfare.stock.received";
/// `{sku, quantity}`: so many units are there and free to take, whatever was thought before.
pub const COUNTED: &str = "com.fanfare.stock.counted";

/// Far above any warehouse, far below where sums of such numbers would overflow and trap.
const QUANTITY_MAX: i64 = 1_000_000_000_000;

pub fn handle(event: &Custom) -> Result<(), Failure> {
    match event.kind.as_str() {
        RECEIVED => received(&Data::parse(&event.data)?),
        COUNTED => counted(&Data::parse(&event.data)?),
        // The operator's own subscriptions may bring more than was asked for.
        _ => Ok(()),
    }
}

fn received(data: &Data) -> Result<(), Failure> {
    let (sku, quantity) = (data.text("sku")?, data.integer("quantity", 1..=QUANTITY_MAX)?);
    state::add(&stock::key(sku), quantity);
    low::clear_if_risen(sku, low::threshold()?)
}

fn counted(data: &Data) -> Result<(), Failure> {
    let (sku, quantity) = (data.text("sku")?, data.integer("quantity", 0..=QUANTITY_MAX)?);
    let key = stock::key(sku);
    // The count is a condition of the commit: what orders take meanwhile is not counted away.
    state::add(&key, quantity - state::count(&key));
    let threshold = low::threshold()?;
    if quantity < threshold { low::warn_once(sku, threshold) } else { low::clear_if_risen(sku, threshold) }
}
