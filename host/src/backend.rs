//! The ports: what the rest of the host asks of a store, and what an implementation must and must not do.
//!
//! A backend is one value that implements every port here. All of them speak of orders, events, deliveries
//! and effects; SQL, SQS and DynamoDB stop inside the adapters. Every adapter passes the same contract suite.
//!
//! **Invariants that every adapter keeps**
//! - What is returned as [`Durable`] survives a power cut.
//! - [`Inbox::finish`] commits a handler's effects together with the acknowledgement, or neither.
//! - Deliveries of one [`Lane`](crate::event::Lane) to one consumer are leased one after another, in journal order.
//! - A delivery is leased by at most one holder at a time.

#[cfg(test)]
mod contract;
pub mod embedded;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::effects::{Effects, Message, Reads};
use crate::event::{Custom, Event, EventId, KindPattern, Position};
use crate::order::{Change, Illegal, Order, OrderId, Status};
use crate::policy::{ConsumerName, OnDead, Rate, Start};

/// Proof that a value is on disk: only a backend's commit makes one, and only from one can a 201 be built.
#[derive(Clone, Debug)]
#[must_use]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// For adapters, after their commit.
    pub(in crate::backend) fn assert(value: T) -> Self {
        Self(value)
    }

    pub fn into_inner(self) -> T {
        self.0
    }

    /// What follows from a durable value is as durable.
    pub fn map<U>(self, follow: impl FnOnce(T) -> U) -> Durable<U> {
        Durable(follow(self.0))
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What went wrong in the store. Nothing of the request was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store does not accept now (full disk, overload, recovering); the same request may succeed later.
    #[error("the store does not accept right now: {0}")]
    Unavailable(Arc<str>),
    /// The store answered what it never should; a person must look.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// What was handed in as `after` came from no page of this list: the caller's doing.
    #[error("{0:?} is not a cursor: hand in `next` of the page before, as it was")]
    NotACursor(Arc<str>),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

// ---------------------------------------------------------------------------------------------- intake

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

// --------------------------------------------------------------------------------------------- journal

/// Reads orders and events. Sees what is durable and nothing else.
#[async_trait]
pub trait Journal: Send + Sync {
    async fn order(&self, id: OrderId) -> Result<Option<Order>>;

    /// Newest first. A page may hold fewer than `limit` orders while `next` says that there are more.
    async fn orders(&self, query: OrderQuery) -> Result<Page<Order>>;

    /// Every event of the order, oldest first: its changes and the custom events that name it.
    async fn events_of(&self, id: OrderId) -> Result<Vec<Arc<Event>>>;

    /// What became of each event of the order at each consumer, in journal order.
    async fn deliveries_of(&self, id: OrderId) -> Result<Vec<DeliveryReport>>;

    /// Events after `after` (from the first if `None`), oldest first, at most `limit`.
    async fn events_after(&self, after: Option<Position>, limit: usize) -> Result<Vec<Arc<Event>>>;

    /// Messages, newest first.
    async fn messages(&self, after: Option<String>, limit: usize) -> Result<Page<MessageReport>>;

    /// Rows of a data set, oldest first.
    async fn records(&self, dataset: &str, after: Option<String>, limit: usize) -> Result<Page<String>>;

    /// Fails if the store could not take an order now.
    async fn ready(&self) -> Result<()>;
}

#[derive(Clone, Debug, Default)]
pub struct OrderQuery {
    pub customer: Option<String>,
    pub status: Option<Status>,
    /// `next` of the page before.
    pub after: Option<String>,
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Hand it in as `after` to go on; `None` at the end.
    pub next: Option<String>,
}

/// What became of one event at one consumer.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryReport {
    pub consumer: ConsumerName,
    pub event_id: EventId,
    #[serde(rename = "type")]
    pub kind: String,
    pub state: DeliveryState,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Not tried yet, or being tried.
    Pending,
    /// Tried in vain, and to be tried again.
    Retrying,
    /// Behind a dead letter or a retry of its lane.
    Waiting,
    Dead,
    Done,
}

#[derive(Clone, Debug, Serialize)]
pub struct MessageReport {
    pub id: String,
    pub consumer: ConsumerName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    pub state: MessageState,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub time: Timestamp,
    #[serde(flatten)]
    pub message: Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    Pending,
    Sent,
    Failed,
    /// It may or may not have gone out.
    Unknown,
}

// ------------------------------------------------------------------------------------------- consumers

/// The consumers that the store knows, present or not, and their inboxes.
#[async_trait]
pub trait Consumers: Send + Sync {
    /// The consumer's inbox. A name never seen before begins at `start`; a known one goes on where it stood.
    async fn attach(&self, name: &ConsumerName, start: Start) -> Result<Arc<dyn Inbox>>;

    /// Every known consumer, by name. "Nothing is pending" is said after a look during which nothing was committed;
    /// only where commits never cease, several looks must do.
    async fn known(&self) -> Result<Vec<ConsumerReport>>;

    /// State of a consumer as it is durable: entries and counters whose key starts with `prefix`.
    async fn state(&self, name: &ConsumerName, query: StateQuery) -> Result<StatePage>;

    /// Dead letters of a consumer, oldest first.
    async fn dead_letters(&self, name: &ConsumerName, after: Option<String>, limit: usize) -> Result<Page<DeadLetter>>;

    /// Makes dead letters deliverable again, with their attempts counted from zero, and frees their lanes.
    /// Returns how many.
    async fn retry(&self, name: &ConsumerName, which: Which) -> Result<Durable<u64>>;

    /// Gives dead letters up for good: their lanes go on behind them. Returns how many.
    async fn discard(&self, name: &ConsumerName, which: Which) -> Result<Durable<u64>>;
}

#[derive(Clone, Debug)]
pub struct ConsumerReport {
    pub name: ConsumerName,
    /// Events that match and are not done: in flight, retrying, waiting, dead or not reached yet.
    /// For a consumer whose subscriptions are not known now: every event behind its position.
    pub pending: u64,
    pub dead: u64,
    /// Events handled to outcome done since the consumer was first seen.
    pub done: u64,
}

#[derive(Clone, Debug, Default)]
pub struct StateQuery {
    pub prefix: String,
    pub after: Option<String>,
    pub limit: usize,
}

#[derive(Clone, Debug, Default)]
pub struct StatePage {
    pub entries: Vec<(String, Vec<u8>)>,
    pub counters: Vec<(String, i64)>,
    pub next: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    pub event_id: EventId,
    pub position: Position,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    pub attempts: u32,
    pub cause: String,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    pub time: Timestamp,
}

/// A selection of dead letters.
#[derive(Clone, Debug)]
pub enum Which {
    All,
    Event(EventId),
    /// Those with this very cause.
    Cause(String),
}

// ------------------------------------------------------------------------------------------ deliveries

/// The deliveries of one consumer.
///
/// Wake-ups are hints: a caller that finds nothing leased asks again after [`Inbox::changed`].
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Sets what is delivered and how; takes effect for every delivery leased afterwards.
    fn configure(&self, intake: InboxPolicy);

    /// The next delivery that may run now, or `None` when there is none or `concurrency` are running.
    fn lease(&self) -> Option<Delivery>;

    /// Returns when a lease may succeed where it did not before: new events, a freed lane, a retry that is
    /// due, another policy. May return without reason.
    async fn changed(&self);

    /// A view for one handling: this consumer's state and all orders, with everything this consumer committed,
    /// durable or not.
    fn view(&self) -> Arc<dyn View>;

    /// Ends a delivery. If what `reads` says does not hold any more, nothing is committed and the delivery comes
    /// back: handle it again on a fresh view. That is not an attempt.
    ///
    /// Returns before the commit is durable; later handlings of this consumer see it at once. If it does not
    /// become durable, it is undone together with everything that could have seen it, and leased again.
    fn finish(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished;
}

#[derive(Clone, Debug)]
pub struct InboxPolicy {
    pub subscriptions: Vec<KindPattern>,
    /// Deliveries leased at the same time; 0 pauses.
    pub concurrency: u32,
    pub rate: Option<Rate>,
    pub on_dead: OnDead,
}

/// One event for one consumer, leased. Hand it back through [`Inbox::finish`]; dropped, it is delivered again
/// only after a restart.
#[derive(Debug)]
#[must_use]
pub struct Delivery {
    pub event: Arc<Event>,
    /// 1 at the first attempt.
    pub attempt: u32,
    pub origin: Origin,
    /// When the first attempt began.
    pub first_attempt_at: Timestamp,
    /// The adapter's own mark.
    pub(in crate::backend) lease: Lease,
}

/// What an adapter has to remember of a delivery while it is leased.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Lease {
    /// Leases of an epoch before count for nothing.
    pub epoch: u64,
    /// The delivery has a row among the exceptions.
    pub stored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Live,
    Backfill,
    Replay,
}

/// How a delivery ends.
#[derive(Debug)]
pub enum Settlement {
    /// Commit the effects and the acknowledgement.
    Done { effects: Effects, ran: Ran },
    /// The attempt counts; try again at `at`.
    Retry { at: Timestamp, cause: Cause, ran: Ran },
    /// To the dead letters.
    Dead { cause: Cause, ran: Ran },
    /// Not an attempt: nothing ran, or what ran is to be forgotten.
    Released,
}

impl Settlement {
    /// Why the attempt did not end done.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Retry { cause, .. } | Self::Dead { cause, .. } => Some(cause),
            Self::Done { .. } | Self::Released => None,
        }
    }
}

/// Which version handled it, and for how long.
#[derive(Clone, Debug)]
pub struct Ran {
    /// `1.2.0 (sha-256 prefix)`
    pub version: Arc<str>,
    pub duration: Duration,
}

/// Why an attempt did not end done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub kind: CauseKind,
    /// In words; may quote the guest, so it is bounded and never trusted.
    pub detail: String,
    pub backtrace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    Retry,
    Reject,
    Trap,
    Timeout,
}

#[derive(Debug)]
#[must_use]
pub enum Finished {
    /// Accepted; in the next commit.
    Accepted,
    /// A read or a floor does not hold any more.
    Conflict(Delivery),
    /// The store went back to what is durable; the delivery will be leased again. Instances that saw
    /// undone results must be thrown away.
    Superseded,
}

/// What a handler may read. Reads are of the latest commit, and the commit checks them again.
#[async_trait]
pub trait View: Send + Sync {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>>;
    async fn count(&self, key: &str) -> Result<i64>;
    /// In key order, at most `limit`.
    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>>;
    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>>;
    async fn order(&self, id: OrderId) -> Result<Option<Order>>;
}

// -------------------------------------------------------------------------------------------- messages

/// Messages on their way out. One sender at a time.
#[async_trait]
pub trait Outgoing: Send + Sync {
    /// Messages that are due, oldest first, at most `limit`; waits until there is one.
    async fn due(&self, limit: usize) -> Result<Vec<Parcel>>;

    /// Records what became of them, in one transaction.
    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> Result<()>;
}

pub type ParcelId = i64;

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub id: ParcelId,
    /// Stable over every try: `<event id>.<n>.<consumer>`.
    pub message_id: String,
    pub message: Message,
    /// Tries before this one.
    pub attempts: u32,
    pub time: Timestamp,
}

/// What became of one try at sending.
#[derive(Clone, Debug)]
pub enum Sending {
    Sent,
    Again { at: Timestamp, error: String },
    Failed { error: String },
    Unknown { error: String },
}

/// The end of a store.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    /// Returns only when the store has failed for good; the host must stop then.
    async fn failed(&self) -> Error;

    /// Takes nothing more, commits what waits, and ends. The inboxes must be drained before.
    async fn close(&self);
}

/// Everything a backend is.
#[derive(Clone)]
pub struct Backend {
    pub intake: Arc<dyn Intake>,
    pub journal: Arc<dyn Journal>,
    pub consumers: Arc<dyn Consumers>,
    pub outgoing: Arc<dyn Outgoing>,
    pub lifecycle: Arc<dyn Lifecycle>,
}
