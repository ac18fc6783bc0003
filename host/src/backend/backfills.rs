//! Past events for a consumer that was not there.

use std::num::NonZeroU32;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{CauseKind, Durable, Result};
use crate::clock::Timestamp;
use crate::event::EventId;
use crate::event::filter::Filter;
use crate::policy::{ConsumerName, Rate};
use crate::version::Hash;

/// What a backfill runs at where nobody said: well below what a store does, so that it stays behind live traffic.
pub const BACKFILL_RATE_DEFAULT: Rate = Rate { per_second: const { NonZeroU32::new(1_000).unwrap() } };

/// Delivers past events to consumers, behind live traffic.
///
/// Without a rebuild, only events that the consumer was never offered are delivered: those from before it began, without
/// what an earlier backfill was through with. Until the history of a lane was delivered, live events of that lane wait;
/// other lanes are live at once. Everything survives a crash: no event is left out, and none comes twice.
///
/// A rebuild fills a new, empty generation of the consumer's state ([`Backfilled::Rebuild`]) while live events go on with
/// the one in use. One after another, in journal order, it delivers what the consumer has done, what it does meanwhile, and
/// what it was never offered. What is retried, waits or is dead is left for later: once it is done, it is delivered here, too;
/// what a person discarded is not. When nothing is left, no live delivery starts for a moment, and in one transaction the
/// new generation becomes the consumer's state. What is an exception then is delivered on it, once, as any live event.
///
/// A rebuild commits state alone: everything else took effect before, or would be left behind by a rebuild that is
/// cancelled. An event that fails for good, by the consumer's retry policy, pauses it and is told in
/// [`BackfillReport::failure`]; resumed, it begins with that event again. Cancelled, all that it filled is thrown away.
#[async_trait]
pub trait Backfills: Send + Sync {
    /// How many events the backfill would deliver now; `None` for a consumer that the store does not know.
    async fn count(&self, name: &ConsumerName, asked: &Backfill) -> Result<Option<u64>>;

    /// Starts one. A consumer has one at a time.
    async fn start(&self, name: &ConsumerName, asked: Backfill) -> Result<Durable<Started>>;

    /// The one that is under way, or else the last one.
    async fn latest(&self, name: &ConsumerName) -> Result<Option<BackfillReport>>;

    /// Pauses, resumes or cancels the one that is under way. What is delivered already stays.
    async fn steer(&self, name: &ConsumerName, step: BackfillStep) -> Result<Durable<Steered>>;
}

/// A backfill as asked for.
#[derive(Clone, Debug)]
pub struct Backfill {
    pub from: Since,
    /// Of the events that the consumer listens to, those whose data matches.
    pub filter: Option<Filter>,
    /// Deliveries started per second.
    pub rate: Rate,
    pub effects: BackfillEffects,
    pub of: Backfilled,
}

/// Which past events, and into which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backfilled {
    /// Those that the consumer was never offered, into the state in use.
    Missed,
    /// All, into a new generation. Takes no filter, and commits state alone, whatever `effects` says.
    Rebuild,
}

/// Where history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Beginning,
    /// Events recorded at this time or later.
    At(Timestamp),
}

/// What is committed of what handlers of past events stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackfillEffects {
    All,
    /// State and records; order changes, events and messages are dropped and counted.
    StateOnly,
}

impl BackfillEffects {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::StateOnly => "state-only",
        }
    }
}

#[derive(Clone, Debug)]
pub enum Started {
    Yes(BackfillReport),
    UnknownConsumer,
    /// Another one is under way.
    Runs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillStep {
    Pause,
    Resume,
    Cancel,
}

#[derive(Clone, Debug)]
pub enum Steered {
    Yes(BackfillReport),
    /// None is under way.
    None,
}

#[derive(Clone, Debug, Serialize)]
pub struct BackfillReport {
    pub state: BackfillState,
    pub rebuild: bool,
    /// The version that it is the way back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_to: Option<Hash>,
    pub from: Since,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_json")]
    pub filter: Option<Filter>,
    pub rate: Rate,
    pub effects: BackfillEffects,
    /// Positions of the journal that it is about, and up to which one it is through with all.
    pub first: u64,
    pub last: u64,
    pub position: u64,
    /// Events that it has to deliver, as counted when it was started; of a rebuild, with those done since.
    pub events: u64,
    /// Of these, handled to outcome done.
    pub delivered: u64,
    /// Effects that were dropped.
    pub dropped: u64,
    /// Live events that wait for history of their lane.
    pub held: u64,
    pub started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Of a rebuild: what failed last, unless it was done since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<BackfillFailure>>,
    /// Of a rebuild: it is not handed over, because live deliveries of its consumer lag too far behind.
    #[serde(skip)]
    pub lags: bool,
}

/// An event that a rebuild could not get done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillFailure {
    pub event_id: EventId,
    pub position: u64,
    pub attempt: u32,
    pub outcome: CauseKind,
    pub cause: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackfillState {
    Running,
    Paused,
    Done,
    Cancelled,
}

impl BackfillState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Serialize for Since {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Beginning => serializer.serialize_str("beginning"),
            Self::At(time) => time.serialize(serializer),
        }
    }
}

/// As the JSON that it is.
fn as_json<S: serde::Serializer>(filter: &Option<Filter>, serializer: S) -> Result<S::Ok, S::Error> {
    let json = filter.as_ref().map(|filter| serde_json::value::RawValue::from_string(filter.to_string())).transpose();
    json.map_err(serde::ser::Error::custom)?.serialize(serializer)
}

/// What an adapter has to remember of a delivery that comes from a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct FromBackfill {
    /// The adapter's own number of the backfill.
    pub number: i64,
    pub effects: BackfillEffects,
}
