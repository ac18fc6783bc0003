//! Inventory: takes stock for an order, all lines or none, and confirms or rejects it.
//!
//! State (see plugins/README.md for the exact layout): counters `stock/{sku}`; entries `taken/{order-id}`, what an order
//! holds, so that giving it back is exact and happens once; entries `low/{sku}`, there while a warning is out.
//!
//! **Invariant**: for every SKU, stock received or counted, minus what is in all `taken/` entries since, is the counter.

mod custom;
mod low;
mod stock;
#[cfg(test)]
mod tests;

use fanfare_sdk::outbox::Refusal;
use fanfare_sdk::prelude::*;
use stock::{Taken, Units};

pub struct Inventory;

impl Consumer for Inventory {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Takes stock for orders and warns when it runs low")
            .on("order.placed")
            .on("order.cancelled")
            .on("order.rejected")
            .on(custom::RECEIVED)
            .on(custom::COUNTED)
            .needs(Need::ChangeOrder)
            .needs(Need::publish(low::KIND))
    }

    fn handle(event: Event) -> Result<(), Failure> {
        match event.body {
            Body::OrderChanged(OrderChanged { order, change }) => match change {
                Change::Placed => take(&order),
                Change::Cancelled(_) | Change::Rejected(_) => give_back(&order.id),
                _ => Ok(()),
            },
            Body::Custom(event) => custom::handle(&event),
        }
    }
}

fanfare_sdk::export!(Inventory);

fn take(order: &Order) -> Result<(), Failure> {
    let wanted = order.units_by_sku();
    let threshold = low::threshold()?;
    match stock::take(&wanted, threshold) {
        Taken::All { low } => match outbox::change_order(&order.id, &Change::Confirmed) {
            Err(refusal) if !left_anyway(order, &refusal) => {
                stock::put(&wanted);
                log::info(&format!("order {} takes no stock: {}", order.id, cause(&refusal)));
                Ok(())
            }
            _ => hold(order, &wanted, &low, threshold),
        },
        // Nothing is staged but the change, so a refusal (the order was cancelled meanwhile) needs no undoing.
        Taken::None { shortages } => {
            let reason = stock::describe(&shortages);
            match outbox::change_order(&order.id, &Change::Rejected(reason)) {
                Err(refusal) if left_anyway(order, &refusal) => {
                    stock::take_anyway(&wanted);
                    let low: Vec<_> = shortages.iter().map(|short| short.sku).collect();
                    hold(order, &wanted, &low, threshold)
                }
                Err(refusal) => {
                    log::info(&format!("order {} is short and takes no stock: {}", order.id, cause(&refusal)));
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        }
    }
}

/// Somebody else confirmed it, or history is told again: the goods leave all the same. If this consumer is the one that
/// confirmed it, they are taken already.
fn left_anyway(order: &Order, refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Illegal(Status::Confirmed | Status::Shipped | Status::Delivered))
        && state::get(&taken_key(&order.id)).is_none()
}

fn hold(order: &Order, wanted: &Units<'_>, low: &[&str], threshold: i64) -> Result<(), Failure> {
    state::set_json(&taken_key(&order.id), wanted);
    low.iter().try_for_each(|sku| low::warn_once(sku, threshold))
}

fn give_back(order_id: &str) -> Result<(), Failure> {
    let key = taken_key(order_id);
    let Some(taken) = state::get_json::<std::collections::BTreeMap<String, i64>>(&key)? else { return Ok(()) };
    state::delete(&key);
    let units: Units<'_> = taken.iter().map(|(sku, &units)| (sku.as_str(), units)).collect();
    stock::put(&units);
    let threshold = low::threshold()?;
    units.keys().try_for_each(|sku| low::clear_if_risen(sku, threshold))
}

fn taken_key(order_id: &str) -> String {
    format!("taken/{order_id}")
}

fn cause(refusal: &Refusal) -> String {
    match refusal {
        Refusal::UnknownOrder => "the host does not know it".to_owned(),
        Refusal::Illegal(status) => format!("it is {}", status.name()),
    }
}
