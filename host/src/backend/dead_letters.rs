//! Deliveries that could not be done, and what a person makes of them.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{CauseKind, Durable, HttpCall, LogLine, Origin, Page, Result};
use crate::clock::Timestamp;
use crate::event::{Body, Event, EventId, Position};
use crate::order::OrderId;
use crate::policy::ConsumerName;

/// The dead letters of the consumers that the store knows. Of a consumer that it does not know there are none.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// In journal order.
    async fn list(&self, consumer: &ConsumerName, query: LetterQuery) -> Result<Page<DeadLetter>>;

    /// What all the dead letters died of, most frequent first; at most `limit` causes.
    async fn causes(&self, consumer: &ConsumerName, limit: usize) -> Result<Vec<CauseCount>>;

    /// Everything about one; `None` where the event is no dead letter of this consumer.
    async fn show(&self, consumer: &ConsumerName, event: EventId) -> Result<Option<LetterShown>>;

    /// Makes dead letters deliverable again, with their attempts counted from zero, and frees their lanes. What is not
    /// redriven stays dead.
    async fn retry(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>>;

    /// Makes one dead letter deliverable again with `copy` as the body of its event, for this consumer alone and until
    /// it is edited again. `copy` must be of the same kind and lane. `false` where the event is no dead letter.
    async fn retry_edited(&self, consumer: &ConsumerName, event: EventId, copy: Body) -> Result<Durable<bool>>;

    /// Gives dead letters up for good: their lanes go on behind them.
    async fn discard(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>>;
}

#[derive(Clone, Debug, Default)]
pub struct LetterQuery {
    pub cause: Option<CauseKey>,
    /// `next` of the page before.
    pub after: Option<String>,
    pub limit: usize,
}

/// Dead letters to do the same with, in one transaction: in journal order, the first `limit` behind `after`.
#[derive(Clone, Debug)]
pub struct Selection {
    pub which: Which,
    pub after: Option<Position>,
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub enum Which {
    All,
    Event(EventId),
    Cause(CauseKey),
}

impl Which {
    /// The first ones of these.
    #[must_use]
    pub fn first(self, limit: usize) -> Selection {
        Selection { which: self, after: None, limit }
    }
}

/// Names dead letters by what they died of.
#[derive(Clone, Debug)]
pub struct CauseKey {
    /// Whatever the outcome, if `None`.
    pub outcome: Option<CauseKind>,
    /// The cause of any of them, or what they have in common: [`in_general`](super::cause::in_general).
    pub text: String,
}

/// How far one [`Selection`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Redriven {
    pub count: u64,
    /// Hand it in as `after` to go on; `None` at the end.
    pub next: Option<Position>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CauseCount {
    pub outcome: CauseKind,
    /// In general: ids and numbers are `#`.
    pub cause: String,
    pub count: u64,
    /// There are so many that not all were counted in time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    /// When the first and the last of them died.
    pub first_at: Timestamp,
    pub last_at: Timestamp,
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
    /// Of the last attempt, like cause, version and backtrace.
    #[serde(serialize_with = "outcome")]
    pub outcome: Option<CauseKind>,
    pub cause: String,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// When it died.
    pub time: Timestamp,
    /// Whether later events of its lane wait behind it.
    pub parks: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct LetterShown {
    #[serde(flatten)]
    pub letter: DeadLetter,
    pub event: Arc<Event>,
    /// Its data as the event's own, and as it is taken for the next copy: of an order change, the order and the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited: Option<EditedCopy>,
    #[serde(rename = "history")]
    pub attempts: Vec<AttemptReport>,
}

/// What is delivered to one consumer in place of an event.
#[derive(Clone, Debug, Serialize)]
pub struct EditedCopy {
    pub time: Timestamp,
    /// Where it is kept, the data of a custom event, or the content of the order alone; where it is shown, what the event's own
    /// data would be.
    pub data: Box<RawValue>,
}

/// One attempt that the store remembers: those that failed, one that was done after one that had not, and those that called
/// over HTTP.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptReport {
    pub attempt: u32,
    /// `None` is done.
    #[serde(serialize_with = "outcome")]
    pub outcome: Option<CauseKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    pub version: String,
    pub duration_us: u64,
    /// When it ended.
    pub time: Timestamp,
    pub origin: Origin,
    /// It was given an edited copy of the event.
    pub edited: bool,
    /// It was by a version that was tried on a share of the orders. One that did not end done, before the same attempt by the
    /// live version, counted for nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub candidate: bool,
    /// What it staged in vain: [`Effects::sketch`](crate::effects::Effects::sketch).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effects: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// What it called over HTTP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<HttpCall>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn outcome<S: Serializer>(outcome: &Option<CauseKind>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome.map_or("done", CauseKind::as_str))
}
