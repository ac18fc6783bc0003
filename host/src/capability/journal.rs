//! Orders as a handler sees them: as the view has them, with the handler's own changes on top.

use std::collections::BTreeMap;

use super::limits::{self, within};
use super::{Handling, Stop};
use crate::order::{Change, Order, OrderId, Status};

/// Orders looked at and changed.
#[derive(Debug, Default)]
pub struct Orders {
    known: BTreeMap<OrderId, Known>,
    pub(super) changes: Vec<(OrderId, Change)>,
}

#[derive(Debug)]
struct Known {
    /// The revision that the view answered; `None` where it knows no such order.
    revision: Option<u64>,
    now: Option<Order>,
}

impl Orders {
    pub(super) fn reads(&self) -> Vec<(OrderId, Option<u64>)> {
        self.known.iter().map(|(id, known)| (*id, known.revision)).collect()
    }
}

/// Why an order does not take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    UnknownOrder,
    Illegal(Status),
}

impl Handling {
    /// The order now, own changes included.
    pub async fn order(&mut self, id: &str) -> Result<Option<Order>, Stop> {
        // What is no id is no order, now and for ever: nothing to hold at the commit.
        let Ok(id) = id.parse() else { return Ok(None) };
        Ok(self.know(id).await?.now.clone())
    }

    /// Stages a step of an order. `None` is a step that no version of the host knows.
    pub async fn change_order(&mut self, id: &str, change: Option<Change>) -> Result<Result<(), Refusal>, Stop> {
        if !self.rights.grant.change_order {
            return Err(Stop::grant(format!(
                "change-order is not granted: set grant.change_order = true in {}.toml",
                self.rights.consumer
            )));
        }
        within("order changes for one event", self.orders.changes.len() + 1, limits::ORDER_CHANGES_MAX)?;
        let bytes = change.as_ref().map_or(Ok(0), check_texts)?;
        self.budget.stage(bytes)?;
        let Ok(id) = id.parse() else { return Ok(Err(Refusal::UnknownOrder)) };
        let known = self.know(id).await?;
        let Some(order) = &known.now else { return Ok(Err(Refusal::UnknownOrder)) };
        let status = order.status;
        let Some(change) = change else { return Ok(Err(Refusal::Illegal(status))) };
        let Ok(after) = order.after(&change) else { return Ok(Err(Refusal::Illegal(status))) };
        known.now = Some(after);
        self.orders.changes.push((id, change));
        Ok(Ok(()))
    }

    async fn know(&mut self, id: OrderId) -> Result<&mut Known, Stop> {
        if !self.orders.known.contains_key(&id) {
            let order = self.view.order(id).await?;
            // The content is shared with the view: what a read costs here is its row.
            self.budget.read(size_of::<Known>())?;
            let known = Known { revision: order.as_ref().map(|order| order.revision), now: order };
            self.orders.known.insert(id, known);
        }
        self.orders.known.get_mut(&id).ok_or_else(|| Stop::host("an order just read is gone"))
    }
}

/// Bytes of the texts of a change, each of them within its limit.
fn check_texts(change: &Change) -> Result<usize, Stop> {
    let texts: [Option<&str>; 3] = match change {
        Change::Rejected { reason } | Change::Cancelled { reason } => [Some(reason), None, None],
        Change::Shipped(shipment) => {
            [Some(&shipment.carrier), Some(&shipment.tracking_number), shipment.tracking_url.as_deref()]
        }
        Change::Placed {} | Change::Confirmed {} | Change::Delivered {} => [None; 3],
    };
    let mut bytes = 0;
    for text in texts.into_iter().flatten() {
        within("bytes of text in an order change", text.len(), limits::REASON_BYTES_MAX)?;
        bytes += text.len();
    }
    Ok(bytes)
}
