//! What a store does for itself beside its work: it lets go of what is old, is copied, and is looked through.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;

use super::Result;

use crate::clock::Timestamp;
use crate::policy::{ConsumerName, Rate};

/// Keeps a store fit for use, for as long as it is open.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Begins to let go of what is older than `retention` says, in steps so small that nothing waits for them.
    ///
    /// What a known consumer has still to do, or keeps as a dead letter, stays, however old it is: its event and all that
    /// follow it in the journal, and their orders. The newest event always stays, and its order with it.
    fn retain(&self, retention: Retention);

    /// Makes a copy of the store as it is at one moment, while it is used, and tells how far it is. What was durable when
    /// this was called is in it. One at a time; given up, it ends.
    /// A store that others make copies of says so: [`Error::NotHere`](super::Error::NotHere).
    async fn backup(&self, told: watch::Sender<Copied>) -> Result<Snapshot>;

    /// Looks through a piece of the store, from `place` on: the default is its beginning. What it finds disagrees with
    /// itself at one moment, while the store is used.
    async fn check(&self, place: CheckPlace) -> Result<CheckStep>;

    /// How many rows a second a check may read where nobody says so; `None` where nobody would notice more.
    fn check_rate(&self) -> Option<Rate>;
}

/// One step of a walk through the store.
#[derive(Debug, Default)]
pub struct CheckStep {
    /// What was looked at, by rule.
    pub checked: Vec<Checked>,
    /// Rows that were read for it.
    pub read: u64,
    /// Hand it in to go on; `None` at the end.
    pub next: Option<CheckPlace>,
}

/// What was looked at by one rule.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    pub rule: &'static str,
    /// How much of it.
    pub rows: u64,
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Default)]
pub struct CheckPlace {
    pub(in crate::backend) rule: usize,
    /// The last row looked at, as the store names it.
    pub(in crate::backend) cursor: (i64, i64, String),
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(skip)]
    pub rule: &'static str,
    pub place: String,
    pub fault: String,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Copied {
    pub pages: u64,
    pub of: u64,
    /// Of the log that commits go to before they go into the store: before the copy, and at most since.
    pub wal_bytes_before: u64,
    pub wal_bytes_max: u64,
}

/// A copy of the store, complete and on disk. The file is deleted when this is dropped.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
}

impl Snapshot {
    /// For adapters: the file need not be there yet.
    pub(in crate::backend) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // It may not have been made; and the next start deletes what could not be deleted.
        drop(std::fs::remove_file(&self.path));
    }
}

/// How long what is finished is kept. It goes some time after it may, never before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events, from when they were recorded; with them goes what is known of their deliveries.
    pub events: Keep,
    /// Orders at their end (rejected, delivered, cancelled), from their last event. Never shorter than `events`.
    pub orders: Keep,
    /// Orders that could still change, from their last event. Never shorter than `orders`.
    pub open_orders: Keep,
    /// Attempts of deliveries that have ended.
    pub attempts: Keep,
    /// Messages that are not pending.
    pub messages: Keep,
    /// Rows of data sets.
    pub records: Keep,
    /// Idempotency keys, and the ids of custom events that were accepted: a repeat after that is taken for new.
    /// Never longer than `orders`.
    pub idempotency: Keep,
}

impl Default for Retention {
    /// What a shop handed in stays for ever unless it says otherwise; what only tells how it was handled does not.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            events: Keep::Forever,
            orders: Keep::Forever,
            open_orders: Keep::Forever,
            attempts: Keep::For(90 * DAY),
            messages: Keep::For(90 * DAY),
            records: Keep::Forever,
            idempotency: Keep::For(7 * DAY),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    For(Duration),
    Forever,
}

impl Keep {
    /// What is from before this time may go; `None` if nothing may.
    #[must_use]
    pub fn cutoff(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::For(time) => Some(now.minus(time)),
            Self::Forever => None,
        }
    }

    /// Whether this keeps longer than `other`.
    #[must_use]
    pub fn is_longer_than(self, other: Self) -> bool {
        match (self, other) {
            (Self::For(this), Self::For(other)) => this > other,
            (Self::Forever, Self::For(_)) => true,
            (_, Self::Forever) => false,
        }
    }
}

/// A consumer that keeps events in the journal that are old enough to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    #[serde(skip)]
    pub by: ConsumerName,
    pub reason: HeldBy,
    /// How many events could go if it were not for this consumer.
    pub events: u64,
    /// When the oldest of them was recorded.
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// It has not come further: it is slow, paused, removed, or an order waits.
    Position,
    /// A delivery that retries, waits or is a dead letter.
    Delivery,
    /// A backfill that has not come further.
    Backfill,
}

impl HeldBy {
    /// What holds events back, in words that say what to do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Position => {
                "it has not handled them yet: let it run, or `fanfare consumers forget` it if it will not come back"
            }
            Self::Delivery => "one of them is retried, waits or is a dead letter: retry or discard it",
            Self::Backfill => "its backfill has not handled them yet: let it run, or cancel it",
        }
    }
}
