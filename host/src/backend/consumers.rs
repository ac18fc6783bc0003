//! The consumers that the store knows, present or not.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use super::{BackfillReport, Durable, Held, Inbox, Result};
use crate::clock::Timestamp;
use crate::policy::{ConsumerName, Start};

/// The consumers that the store knows, present or not, and their inboxes.
#[async_trait]
pub trait Consumers: Send + Sync {
    /// The consumer's inbox. A name never seen before begins at `start`; a known one goes on where it stood.
    async fn attach(&self, name: &ConsumerName, start: Start) -> Result<Arc<dyn Inbox>>;

    /// Knows the consumer from here on, as [`Consumers::attach`] would: its events wait for it, from `start` on. Nothing where
    /// it is known already.
    async fn introduce(&self, name: &ConsumerName, start: Start) -> Result<()>;

    /// Every known consumer, by name. "Nothing is pending" is said after a look during which nothing was committed;
    /// only where commits never cease, several looks must do.
    async fn known(&self) -> Result<Vec<ConsumerReport>>;

    /// State of a consumer as it is durable: entries and counters whose key starts with `prefix`.
    async fn state(&self, name: &ConsumerName, query: StateQuery) -> Result<StatePage>;

    /// Forgets a consumer: its position, its state and its dead letters are gone for good. Messages and records that
    /// were committed stay. A consumer of this name that comes later is a new one: whoever attaches meanwhile gets the one or the
    /// other, as a whole.
    async fn forget(&self, name: &ConsumerName) -> Result<Durable<Forgotten>>;

    /// Pauses the consumer, or with `None` lets it go on. `false` where no consumer has that name.
    ///
    /// A paused consumer starts no delivery and passes no event by; deliveries that run finish. It stays paused through
    /// restarts, whether its plugin is there or not. Paused once more it keeps its time, and its reason unless another
    /// is given.
    async fn set_pause(&self, name: &ConsumerName, pause: Option<Pause>) -> Result<Durable<bool>>;

    /// The pause that it is in. What it costs does not grow with what is pending, as that of [`Consumers::known`] does.
    async fn pause(&self, name: &ConsumerName) -> Result<Option<Pause>>;
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
    /// All keys and values of its state.
    pub state_bytes: u64,
    pub paused: Option<Pause>,
    /// Events that are old enough to go and stay for this consumer alone.
    pub held: Option<Held>,
    /// The backfill that is under way.
    pub backfill: Option<BackfillReport>,
    /// Why none of its events reaches this host, where they should.
    pub cut_off: Option<String>,
}

/// That a person stopped a consumer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    pub since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    Done,
    /// Nobody of this name is known.
    Unknown,
    /// It runs, on whatever host, or has not ended yet.
    InUse,
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

impl StatePage {
    /// A page of at most `limit`, from one key more of each where there is more. Both are cut at the same key, so that the
    /// next page goes on behind it in both.
    pub(in crate::backend) fn cut(
        mut entries: Vec<(String, Vec<u8>)>,
        mut counters: Vec<(String, i64)>,
        limit: usize,
    ) -> Self {
        let last = |keys: Vec<&String>| {
            (keys.len() > limit).then(|| keys.get(limit.saturating_sub(1)).map(|key| (*key).clone()))
        };
        let cut = last(entries.iter().map(|(key, _)| key).collect()).flatten();
        let other = last(counters.iter().map(|(key, _)| key).collect()).flatten();
        let next = match (cut, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if let Some(next) = &next {
            entries.retain(|(key, _)| key <= next);
            counters.retain(|(key, _)| key <= next);
        }
        Self { entries, counters, next }
    }
}
