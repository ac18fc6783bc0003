//! Orders as a handler sees them: as the view has them, with the handler's own changes on top.

use std::collections::BTreeMap;

use super::limits::{self, settable, within};
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
        let (changes, max) = (self.orders.changes.len() + 1, self.budget.limits.order_changes);
        settable("order_changes", "order changes for one event", changes, max)?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::{self, Memory, handling, order, overstep};
    use super::*;
    use crate::order::Shipment;
    use crate::policy::Grant;

    fn knowing(order: &Order) -> Handling {
        handling(Memory { orders: vec![order.clone()], ..Memory::default() })
    }

    #[tokio::test]
    async fn an_order_shows_own_changes_and_the_commit_expects_the_revision_seen() {
        let order = order();
        let id = order.id.to_string();
        let mut handling = knowing(&order);
        assert_eq!(handling.change_order(&id, Some(Change::Confirmed {})).await.unwrap(), Ok(()));
        let seen = handling.order(&id).await.unwrap().unwrap();
        assert_eq!((seen.status, seen.revision), (Status::Confirmed, 2));
        let (reads, effects) = handling.finish();
        assert_eq!(reads.orders, [(order.id, Some(1))]);
        assert_eq!(effects.order_changes, [(order.id, Change::Confirmed {})]);
    }

    #[tokio::test]
    async fn an_illegal_step_is_refused_with_the_status_and_stages_nothing() {
        let order = order();
        let id = order.id.to_string();
        let mut handling = knowing(&order);
        let shipment = Shipment { carrier: "local".into(), tracking_number: "1".into(), tracking_url: None };
        let refused = handling.change_order(&id, Some(Change::Shipped(shipment))).await.unwrap();
        assert_eq!(refused, Err(Refusal::Illegal(Status::Placed)));
        assert_eq!(handling.change_order(&id, None).await.unwrap(), Err(Refusal::Illegal(Status::Placed)));
        let (reads, effects) = handling.finish();
        assert!(effects.is_empty());
        assert_eq!(reads.orders, [(order.id, Some(1))], "the refusal must still hold at the commit");
    }

    #[tokio::test]
    async fn an_order_that_is_not_there_is_a_condition_of_the_commit() {
        let unknown = OrderId::generate();
        let mut handling = handling(Memory::default());
        assert_eq!(handling.order("no id at all").await.unwrap(), None);
        assert_eq!(handling.order(&unknown.to_string()).await.unwrap(), None);
        let refused = handling.change_order(&unknown.to_string(), Some(Change::Confirmed {})).await.unwrap();
        assert_eq!(refused, Err(Refusal::UnknownOrder));
        assert_eq!(handling.finish().0.orders, [(unknown, None)]);
    }

    #[tokio::test]
    async fn changing_orders_takes_a_grant() {
        let order = order();
        let rights = fixture::rights(Grant::default());
        let memory = Memory { orders: vec![order.clone()], ..Memory::default() };
        let mut handling = Handling::new(rights, fixture::placed(&order), Arc::new(memory));
        let stopped = handling.change_order(&order.id.to_string(), Some(Change::Confirmed {})).await;
        let (kind, message) = overstep(stopped);
        assert_eq!(kind, "grant");
        assert!(message.contains("grant.change_order = true in inventory.toml"), "{message}");
    }
}
