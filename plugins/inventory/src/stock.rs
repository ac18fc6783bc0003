//! The counters `stock/{sku}`.
//!
//! Taking reads no counter: it is an adjustment with a floor, so that any number of orders can take from one popular SKU
//! at once. The floor is first the low-stock threshold, which nearly always holds and proves in the same call that
//! nothing became low.

use std::collections::BTreeMap;

use fanfare_sdk::state::{self, Adjustment};

/// Units of each SKU, in SKU order: two orders that want the same SKUs ask for them in the same order.
pub type Units<'a> = BTreeMap<&'a str, i64>;

pub enum Taken<'a> {
    /// Everything is staged; `low` names the SKUs that are now below the threshold.
    All { low: Vec<&'a str> },
    /// Nothing is staged.
    None { shortages: Vec<Short<'a>> },
}

pub struct Short<'a> {
    pub sku: &'a str,
    pub wanted: i64,
    pub left: i64,
}

pub fn key(sku: &str) -> String {
    format!("stock/{sku}")
}

pub fn take<'a>(wanted: &Units<'a>, threshold: i64) -> Taken<'a> {
    let all: Vec<_> = wanted.iter().map(|(sku, &units)| Adjustment::take(key(sku), units, threshold)).collect();
    match state::adjust(&all) {
        Ok(()) => Taken::All { low: Vec::new() },
        Err(_) => take_each(wanted, threshold),
    }
}

/// Near the threshold or short: SKU by SKU, to learn which is which.
fn take_each<'a>(wanted: &Units<'a>, threshold: i64) -> Taken<'a> {
    let mut held = Units::new();
    let mut low = Vec::new();
    let mut shortages = Vec::new();
    for (&sku, &units) in wanted {
        let above_threshold = state::adjust(&[Adjustment::take(key(sku), units, threshold)]);
        let taken =
            above_threshold.or_else(|_| state::adjust(&[Adjustment::take(key(sku), units, 0)]).map(|()| low.push(sku)));
        match taken {
            Ok(()) => {
                held.insert(sku, units);
            }
            Err(shortage) => shortages.push(Short { sku, wanted: units, left: shortage.available }),
        }
    }
    if shortages.is_empty() {
        return Taken::All { low };
    }
    put(&held);
    Taken::None { shortages }
}

/// Takes what has left, also where history tells of it before the goods came that it was taken from: the counter says so
/// until they come.
pub fn take_anyway(wanted: &Units<'_>) {
    let all: Vec<_> = wanted.iter().map(|(sku, &units)| Adjustment::add(key(sku), -units)).collect();
    state::add_all(&all);
}

/// Adds units back, or what a delivery brought.
pub fn put(units: &Units<'_>) {
    let all: Vec<_> = units.iter().map(|(sku, &units)| Adjustment::add(key(sku), units)).collect();
    state::add_all(&all);
}

/// For the customer: each short SKU, wanted and left; of very many, as many as a reason has room for.
pub fn describe(shortages: &[Short<'_>]) -> String {
    /// The host takes 4 KiB, of which the last name and the number of those left out need a part.
    const NAMED_BYTES_MAX: usize = 3 << 10;
    let mut reason = String::from("Not enough stock of ");
    for (named, Short { sku, wanted, left }) in shortages.iter().enumerate() {
        if reason.len() > NAMED_BYTES_MAX {
            reason.push_str(&format!(" and {} more", shortages.len() - named));
            break;
        }
        let comma = if named == 0 { "" } else { ", " };
        reason.push_str(&format!("{comma}{sku} (wanted {wanted}, left {left})"));
    }
    reason
}
