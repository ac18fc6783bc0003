//! The running totals that one change adds to.

use fanfare_sdk::prelude::*;
use fanfare_sdk::state::Adjustment;
use fanfare_sdk::time;

/// Counted for orders without an address: ISO 3166-1 keeps `ZZ` for whoever needs an unknown country.
pub const COUNTRY_UNKNOWN: &str = "ZZ";

/// Sales are counted when an order is placed, whatever becomes of it: `status/{kind}` tells the rest. Days are of
/// `placed-at`, in UTC. Amounts of different currencies are never added up.
pub fn of(order: &Order, change: &Change) -> Vec<Adjustment> {
    let mut totals = vec![Adjustment::add(format!("status/{}", change.kind()), 1)];
    if !matches!(change, Change::Placed) {
        return totals;
    }
    let Order { currency, total_amount, .. } = order;
    let day = time::date(order.placed_at);
    let country = order.country().unwrap_or(COUNTRY_UNKNOWN);
    totals.reserve(4 + 2 * order.lines.len());
    totals.push(Adjustment::add(format!("orders/day/{day}"), 1));
    totals.push(Adjustment::add(format!("revenue/{currency}/day/{day}"), *total_amount));
    totals.push(Adjustment::add(format!("orders/country/{country}"), 1));
    totals.push(Adjustment::add(format!("revenue/{currency}/country/{country}"), *total_amount));
    for line in &order.lines {
        totals.push(Adjustment::add(format!("units/sku/{}", line.sku), i64::from(line.quantity)));
        totals.push(Adjustment::add(format!("revenue/{currency}/sku/{}", line.sku), line.total_amount()));
    }
    totals
}
