//! What happened to an order, moment by moment.

use async_trait::async_trait;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{AttemptReport, DeliveryState, MessageState, Page, Result};
use crate::clock::Timestamp;
use crate::event::{EventId, Position};
use crate::order::{Change, OrderId};
use crate::policy::ConsumerName;

/// The timelines of orders, as far as the store remembers.
#[async_trait]
pub trait Timelines: Send + Sync {
    /// What happened around at most `events` events of the order behind `after`, in order of time: the events and what they
    /// caused, every attempt of every consumer, and what is still open, last. `next` is for the events behind these.
    async fn timeline(&self, order: OrderId, after: Option<String>, events: usize) -> Result<Page<Moment>>;
}

/// One thing that happened, around one event.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    #[serde(flatten)]
    pub what: What,
    /// The event itself, or the one that was handled.
    pub event_id: EventId,
    #[serde(rename = "type")]
    pub kind: String,
    /// Who handled the event; of an event, who caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ConsumerName>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    Event {
        time: Timestamp,
        position: Position,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<EventId>,
        /// Of an order change.
        #[serde(skip_serializing_if = "Option::is_none")]
        change: Option<Change>,
    },
    Attempt {
        #[serde(flatten)]
        attempt: Box<AttemptReport>,
        /// Where many were done in a row by one version, time and duration are known of all of them together.
        #[serde(skip_serializing_if = "Option::is_none")]
        run: Option<RunReport>,
    },
    Message {
        time: Timestamp,
        id: String,
        kind: &'static str,
        to: String,
        state: MessageState,
    },
    /// Rows that were appended to a data set.
    Records {
        time: Timestamp,
        dataset: String,
        count: u64,
    },
    Edited {
        time: Timestamp,
        /// What the consumer gets in place of the event's data, or of the order's content.
        data: Box<RawValue>,
    },
    Discarded {
        time: Timestamp,
    },
    /// A delivery that is not over.
    Open {
        state: DeliveryState,
        /// Of one that is to be tried again.
        #[serde(skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
    },
}

impl What {
    /// When it happened; what is still open comes last.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Event { time, .. }
            | Self::Message { time, .. }
            | Self::Records { time, .. }
            | Self::Edited { time, .. }
            | Self::Discarded { time } => *time,
            Self::Attempt { attempt, .. } => attempt.time,
            Self::Open { .. } => Timestamp::MAX,
        }
    }
}

/// Deliveries that were done at the first attempt, in a row.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    pub count: u64,
    pub duration_mean_us: u64,
    pub duration_max_us: u64,
    /// When the first and the last of them was done.
    pub from: Timestamp,
    pub to: Timestamp,
}
