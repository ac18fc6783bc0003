//! What a store does for itself beside its work: it lets go of what is old.

use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// Keeps a store fit for use, for as long as it is open.
pub trait Upkeep: Send + Sync {
    /// Begins to let go of what is older than `retention` says, in steps so small that nothing waits for them.
    ///
    /// What a known consumer has still to do, or keeps as a dead letter, stays, however old it is: its event and all that
    /// follow it in the journal, and their orders. The newest event and the newest order always stay.
    fn retain(&self, retention: Retention);
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
