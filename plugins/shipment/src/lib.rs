//! Shipment: sends a confirmed order on its way. Without a carrier it prints a consignment number of its own.
//!
//! State: entries `consignment/{order-id}`, the parcel of an order; entries `cancelled/{order-id}`, an order that was
//! cancelled before it had one and must not get one.

mod consignment;
#[cfg(test)]
mod tests;

use consignment::Consignment;
use fanfare_sdk::events::Shipment as Parcel;
use fanfare_sdk::outbox::Refusal;
use fanfare_sdk::prelude::*;

pub struct Shipment;

impl Consumer for Shipment {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Ships confirmed orders")
            .on("order.confirmed")
            .on("order.cancelled")
            .needs(Need::ChangeOrder)
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Body::OrderChanged(OrderChanged { order, change }) = event.body else { return Ok(()) };
        match change {
            Change::Confirmed => ship(&order),
            Change::Cancelled(_) => remember_cancelled(&order.id),
            _ => {}
        }
        Ok(())
    }
}

fanfare_sdk::export!(Shipment);

fn ship(order: &Order) {
    // Events of one order come in order, but a dead letter may be retried long after.
    if state::get(&cancelled_key(&order.id)).is_some() {
        return log::info(&format!("order {} was cancelled: not shipped", order.id));
    }
    let consignment = Consignment::local(order);
    let parcel = Parcel {
        carrier: consignment.carrier.clone(),
        tracking_number: consignment.tracking_number.clone(),
        tracking_url: None,
    };
    match outbox::change_order(&order.id, &Change::Shipped(parcel)) {
        Ok(()) => state::set_json(&consignment_key(&order.id), &consignment),
        Err(Refusal::Illegal(status)) => log::info(&format!("order {} is {}: not shipped", order.id, status.name())),
        Err(Refusal::UnknownOrder) => log::warn(&format!("order {} is unknown to the host: not shipped", order.id)),
    }
}

fn remember_cancelled(order_id: &str) {
    if state::get(&consignment_key(order_id)).is_none() {
        state::set(&cancelled_key(order_id), b"true");
    }
}

fn consignment_key(order_id: &str) -> String {
    format!("consignment/{order_id}")
}

fn cancelled_key(order_id: &str) -> String {
    format!("cancelled/{order_id}")
}
