//! Loyalty: points for confirmed orders, taken back exactly when an order is cancelled.
//!
//! State: counters `points/{customer}`; entries `ledger/{customer}/{order-id}`, what an order earned; entries
//! `tier/{customer}` for customers above bronze.
//!
//! **Invariant**: a customer's counter is the sum of `points` over the customer's ledger entries that are not reversed,
//! and the tier is [`Tier::of`] that sum.

#[cfg(test)]
mod tests;
mod tier;

use fanfare_sdk::prelude::*;
use fanfare_sdk::{money, settings};
use serde::{Deserialize, Serialize};
pub use tier::Tier;

pub struct Loyalty;

impl Consumer for Loyalty {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Keeps a ledger of points per customer")
            .on("order.confirmed")
            .on("order.cancelled")
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Body::OrderChanged(OrderChanged { order, change }) = event.body else { return Ok(()) };
        match change {
            Change::Confirmed => grant(&order),
            Change::Cancelled(_) => reverse(&order),
            _ => Ok(()),
        }
    }
}

fanfare_sdk::export!(Loyalty);

/// The value of `ledger/{customer}/{order-id}`. It stays when the order is cancelled: it says that the order had its turn.
#[derive(Serialize, Deserialize)]
struct Entry {
    points: i64,
    currency: String,
    total_amount: i64,
    reversed: bool,
}

fn grant(order: &Order) -> Result<(), Failure> {
    let key = ledger_key(order);
    if state::get(&key).is_some() {
        return Ok(());
    }
    let points_per_unit = settings::integer("points_per_unit", 1, 0..=1_000)?;
    let points = money::whole_units(order.total_amount, &order.currency).saturating_mul(points_per_unit);
    state::set_json(&key, &Entry { points, reversed: false, ..Entry::of(order) });
    move_points(&order.customer.id, points);
    Ok(())
}

fn reverse(order: &Order) -> Result<(), Failure> {
    let key = ledger_key(order);
    let Some(entry) = state::get_json::<Entry>(&key)? else {
        // Cancelled before it was confirmed. Should its confirmation come yet, from the dead letters, it earns nothing.
        state::set_json(&key, &Entry { points: 0, reversed: true, ..Entry::of(order) });
        return Ok(());
    };
    if !entry.reversed {
        move_points(&order.customer.id, -entry.points);
        state::set_json(&key, &Entry { reversed: true, ..entry });
    }
    Ok(())
}

impl Entry {
    fn of(order: &Order) -> Self {
        Self { points: 0, currency: order.currency.clone(), total_amount: order.total_amount, reversed: false }
    }
}

/// The count is a condition of the commit: of two orders that lift a customer over a limit together, exactly one does.
fn move_points(customer: &str, points: i64) {
    let key = format!("points/{customer}");
    state::add(&key, points);
    let balance = state::count(&key);
    let tier = Tier::of(balance);
    if tier != Tier::of(balance - points) {
        let key = format!("tier/{customer}");
        match tier {
            Tier::Bronze => state::delete(&key),
            Tier::Silver | Tier::Gold => state::set(&key, tier.name().as_bytes()),
        }
    }
}

fn ledger_key(order: &Order) -> String {
    format!("ledger/{}/{}", order.customer.id, order.id)
}
