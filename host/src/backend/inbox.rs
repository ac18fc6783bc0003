//! The deliveries of one consumer.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{BackfillEffects, FromBackfill, Result};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::{Event, Subscriptions};
use crate::order::{Order, OrderId};
use crate::policy::{OnDead, Rate};
use crate::version::Hash;

/// The deliveries of one consumer.
///
/// Wake-ups are hints: a caller that finds nothing leased asks again after [`Inbox::changed`].
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Sets what is delivered and how; takes effect for every delivery leased afterwards. What was passed by stays so,
    /// and what was tried already, or waits behind something that was, is delivered still.
    fn configure(&self, intake: InboxPolicy);

    /// The next delivery that may run now, or `None` when there is none or `concurrency` are running.
    fn lease(&self) -> Option<Delivery>;

    /// Returns when a lease may succeed where it did not before: new events, a freed lane, a retry that is
    /// due, another policy. May return without reason.
    async fn changed(&self);

    /// A view for one handling: this consumer's state and all orders, with everything this consumer committed,
    /// durable or not.
    fn view(&self) -> Arc<dyn View>;

    /// As [`Inbox::view`], of the generation of state that the delivery is handled on.
    fn view_for(&self, delivery: &Delivery) -> Arc<dyn View>;

    /// Ends a delivery. If what `reads` says does not hold any more, nothing is committed and the delivery comes
    /// back: handle it again on a fresh view. That is not an attempt.
    ///
    /// May return before the commit is durable, or only then; later handlings of this consumer see it at once. If it
    /// does not become durable, it is undone together with everything that could have seen it, and leased again.
    async fn finish(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished;

    /// Whether all of `reads` would be answered the same now.
    async fn holds(&self, reads: &Reads) -> Result<bool>;
}

#[derive(Clone, Debug)]
pub struct InboxPolicy {
    pub subscriptions: Subscriptions,
    /// Deliveries leased at the same time; 0 pauses.
    pub concurrency: u32,
    pub rate: Option<Rate>,
    pub on_dead: OnDead,
    /// What all keys and values of the consumer may weigh.
    pub state_bytes_max: u64,
    /// How the version that handles the deliveries lays its state out, if that is known: no delivery is leased on a state of
    /// another layout.
    pub layout: Option<u32>,
    pub back: Option<BackPolicy>,
}

/// The version that a way back leads to: it handles what that one delivers.
#[derive(Clone, Debug)]
pub struct BackPolicy {
    pub version: Hash,
    pub subscriptions: Subscriptions,
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
    /// What a guest remembers of another generation must not reach it.
    pub generation: Generation,
    /// Which of the consumer's versions this attempt is by: the live one, or that of a way back, unless its holder says
    /// otherwise.
    pub by: AttemptBy,
    /// The adapter's own mark.
    pub(in crate::backend) lease: Lease,
}

impl Delivery {
    /// What [`View::durable`] asks for.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// Whether order changes, events and messages of it are dropped.
    #[must_use]
    pub fn is_state_only(&self) -> bool {
        self.is_of_rebuild() || self.lease.backfill.is_some_and(|from| from.effects == BackfillEffects::StateOnly)
    }

    /// Whether it fills a generation of state that is not in use.
    #[must_use]
    pub fn is_of_rebuild(&self) -> bool {
        self.lease.rebuild.is_some()
    }
}

/// Names one of a consumer's states: the one in use, or one that a rebuild fills. Never given to another, nor to the same once
/// what a delivery left there was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    pub(in crate::backend) state: i64,
    /// Raised whenever what was not durable is undone.
    pub(in crate::backend) epoch: u64,
}

#[cfg(test)]
impl Generation {
    /// For tests of what is kept apart by one.
    pub(crate) fn of(number: i64) -> Self {
        Self { state: number, epoch: 0 }
    }
}

/// By which of a consumer's versions an attempt is.
#[derive(Debug, Default)]
pub enum AttemptBy {
    #[default]
    Live,
    /// One that is tried on a share of the orders.
    Candidate,
    /// The one that a way back leads to.
    Returning,
    /// The live one, after the candidate failed; that is remembered, and is no attempt.
    LiveAfter(Box<FailedTry>),
}

/// What a candidate failed.
#[derive(Debug)]
pub struct FailedTry {
    pub cause: Cause,
    pub ran: Ran,
}

/// What an adapter has to remember of a delivery while it is leased.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Leases of an epoch before count for nothing.
    pub(in crate::backend) epoch: u64,
    /// The delivery has a row among the exceptions.
    pub(in crate::backend) stored: bool,
    /// The event is a copy that a person edited.
    pub(in crate::backend) edited: bool,
    pub(in crate::backend) backfill: Option<FromBackfill>,
    /// The adapter's own number of the rebuild that it comes from.
    pub(in crate::backend) rebuild: Option<i64>,
}

#[cfg(test)]
impl Lease {
    /// Of no delivery, for views that are not an adapter's.
    pub(crate) fn of_nothing() -> Self {
        Self { epoch: 0, stored: false, edited: false, backfill: None, rebuild: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Live,
    Backfill,
    Replay,
}

impl Origin {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Backfill => "backfill",
            Self::Replay => "replay",
        }
    }
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
    /// What it called over HTTP. Unlike effects, calls are not undone.
    pub calls: Vec<HttpCall>,
}

/// One call over HTTP, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCall {
    /// Which call of the handling it was, from 1.
    pub n: u32,
    pub method: String,
    /// Without its query.
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Until the head of the response was there, or the error.
    pub duration_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Why an attempt did not end done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub kind: CauseKind,
    /// In words; may quote the guest, so it is bounded and never trusted.
    pub detail: String,
    pub backtrace: Option<String>,
    pub evidence: Evidence,
}

impl Cause {
    #[must_use]
    pub fn new(kind: CauseKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), backtrace: None, evidence: Evidence::default() }
    }
}

/// What an attempt that did not end done leaves for people to look at. Nothing of it took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What it staged: [`Effects::sketch`].
    pub effects: Option<String>,
    /// The last lines that it logged, bounded in number and bytes.
    pub log: Vec<LogLine>,
}

/// A line that a guest logged: printable, and bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub level: Level,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Why a text is no [`CauseKind`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an outcome of a dead letter: use retry, reject, trap or timeout")]
pub struct NotAnOutcome(String);

impl FromStr for CauseKind {
    type Err = NotAnOutcome;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Retry, Self::Reject, Self::Trap, Self::Timeout];
        all.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| NotAnOutcome(text.to_owned()))
    }
}

/// Which outcome it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    Retry,
    Reject,
    Trap,
    Timeout,
}

impl CauseKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
        }
    }
}

#[derive(Debug)]
#[must_use]
pub enum Finished {
    /// Committed, or in the next commit.
    Accepted,
    /// A read or a floor does not hold any more.
    Conflict(Delivery),
    /// There is no room for the effects, however often they are handed in. Nothing was kept: settle it otherwise.
    Full { delivery: Delivery, effects: Box<Effects>, excess: Excess },
    /// The store went back to what is durable; the delivery will be leased again. Instances that saw
    /// undone results must be thrown away.
    Superseded,
}

/// What there is no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// The consumer's state would weigh more than [`InboxPolicy::state_bytes_max`], and more than it does.
    State { bytes: u64 },
    /// The effects of one delivery are more than the store commits at once; why, in words.
    Commit { why: Arc<str> },
}

/// What a handler may read. Reads are of the latest commit, but for the order that its event is about, which may be as a new event
/// tells; and the commit checks them all again.
#[async_trait]
pub trait View: Send + Sync {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>>;
    async fn count(&self, key: &str) -> Result<i64>;
    /// In key order, at most `limit`.
    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>>;
    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>>;
    async fn order(&self, id: OrderId) -> Result<Option<Order>>;

    /// Returns when everything that it answered until now is durable. An error where some of it was undone since `lease`,
    /// or may be: then nothing must follow from it, and the event is handled again.
    async fn durable(&self, lease: Lease) -> Result<()>;
}
