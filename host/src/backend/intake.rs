//! Where orders and events enter.

use async_trait::async_trait;
use serde::Serialize;

use super::{Durable, Result};
use crate::event::{Custom, EventId};
use crate::order::{Change, Illegal, Order, OrderId};

/// Where orders and events enter.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Places an order: order, idempotency record and event `order.placed` in one durable transaction.
    ///
    /// Concurrent calls with the same key or reference are settled one after another: exactly one of them
    /// is `New`, and the others are answered only when that one is durable.
    async fn place(&self, placement: Placement) -> Result<Durable<Placed>>;

    /// Moves an order one step on, by a person or a program outside.
    async fn change(&self, id: OrderId, change: Change) -> Result<Durable<Changed>>;

    /// Records custom events from outside, all or none. An event whose `(source, origin_id)` was accepted
    /// before is answered with the first one's id and recorded no second time.
    async fn publish(&self, events: Vec<Custom>) -> Result<Durable<Vec<Published>>>;
}

/// An order to place.
#[derive(Clone, Debug)]
pub struct Placement {
    pub order: Order,
    /// SHA-256 of the content: what makes two submissions "the same".
    pub fingerprint: [u8; 32],
    pub idempotency_key: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Placed {
    New(Order),
    /// The key, with the same content, was used before: the order as it was placed then.
    Repeated(Order),
    /// The key was used before with other content.
    KeyReused,
    /// Another order has this reference. `same_content` compares the fingerprints.
    ReferenceTaken {
        by: OrderId,
        same_content: bool,
    },
}

#[derive(Clone, Debug)]
pub enum Changed {
    Done(Order),
    UnknownOrder,
    Illegal(Illegal),
}

#[derive(Clone, Debug, Serialize)]
pub struct Published {
    pub id: EventId,
    /// Whether this very event had been accepted before.
    pub repeated: bool,
}
