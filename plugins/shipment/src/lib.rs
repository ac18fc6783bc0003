//! Shipment: sends a confirmed order on its way. Carriers are asked for a parcel over HTTP; without any, it prints a
//! consignment number of its own, and needs no grant to call out.
//!
//! State: entries `consignment/{order-id}`, the parcel of an order; entries `cancelled/{order-id}`, an order that was
//! cancelled before it had one and must not get one.

mod carrier;
mod consignment;
#[cfg(test)]
mod tests;

use carrier::Carrier;
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
            Change::Confirmed => ship(&order)?,
            Change::Cancelled(_) => remember_cancelled(&order.id),
            _ => {}
        }
        Ok(())
    }
}

fanfare_sdk::export!(Shipment);

fn ship(order: &Order) -> Result<(), Failure> {
    // Events of one order come in order, but a dead letter may be retried long after.
    if state::get(&cancelled_key(&order.id)).is_some() {
        log::info(&format!("order {} was cancelled: not shipped", order.id));
        return Ok(());
    }
    let consignment = match settings::get("carriers") {
        None => Consignment::local(order),
        Some(carriers) => match booked(order, &carriers)? {
            Some(consignment) => consignment,
            None => return Ok(()),
        },
    };
    let parcel = Parcel {
        carrier: consignment.carrier.clone(),
        tracking_number: consignment.tracking_number.clone(),
        tracking_url: consignment.tracking_url.clone(),
    };
    match outbox::change_order(&order.id, &Change::Shipped(parcel)) {
        Ok(()) => state::set_json(&consignment_key(&order.id), &consignment),
        Err(Refusal::Illegal(status)) => log::info(&format!("order {} is {}: not shipped", order.id, status.name())),
        Err(Refusal::UnknownOrder) => log::warn(&format!("order {} is unknown to the host: not shipped", order.id)),
    }
    Ok(())
}

/// A carrier's parcel. A call cannot be undone, so the order must be one that is waiting for it.
fn booked(order: &Order, carriers: &str) -> Result<Option<Consignment>, Failure> {
    let status = journal::get_order(&order.id).map(|order| order.status);
    if status != Some(Status::Confirmed) {
        log::info(&format!("order {} has moved on: not shipped", order.id));
        return Ok(None);
    }
    let Some(address) = &order.shipping_address else {
        return Err(Failure::reject(format!("order {} has no shipping address", order.id)));
    };
    Carrier::choose(carriers, &address.country)?.book(order, address).map(Some)
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
