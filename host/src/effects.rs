//! What a handler read and what it staged: the two halves of a commit.
//!
//! A handler's writes never reach a backend one by one. They gather in [`Effects`] and are committed
//! together with the acknowledgement of the event, if what stands in [`Reads`] still holds.

mod sketch;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::Custom;
use crate::order::{Change, OrderId};

/// What an entry holds; `None` where there is none.
pub type Value = Option<Arc<[u8]>>;

/// Everything a handler staged, in the order in which it staged it (per kind of effect).
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Each key once: the last write of it. `None` deletes.
    pub entries: Vec<(Arc<str>, Value)>,
    pub adjustments: Vec<Adjustment>,
    pub order_changes: Vec<(OrderId, Change)>,
    pub events: Vec<Custom>,
    pub messages: Vec<Message>,
    pub records: Vec<Record>,
}

impl Effects {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { entries, adjustments, order_changes, events, messages, records } = self;
        entries.is_empty()
            && adjustments.is_empty()
            && order_changes.is_empty()
            && events.is_empty()
            && messages.is_empty()
            && records.is_empty()
    }
}

/// Adds `by` to a counter. At the commit the sum must not be below `floor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    pub key: Arc<str>,
    pub by: i64,
    pub floor: Option<i64>,
}

/// What a handler was told, absence included. Each key stands once, with the first answer.
///
/// The commit holds only if every read would be answered the same again: then the outcome is the one that
/// the handler would have had if it had run at the moment of the commit.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    pub entries: Vec<(Arc<str>, Value)>,
    pub counters: Vec<(Arc<str>, i64)>,
    /// The revision that was seen; `None` where there was no such order.
    pub orders: Vec<(OrderId, Option<u64>)>,
}

/// Something to be sent once the event is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    Email {
        to: String,
        subject: String,
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        html: Option<String>,
    },
    Sms {
        to: String,
        text: String,
    },
}

impl Message {
    /// `email` or `sms`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Email { .. } => "email",
            Self::Sms { .. } => "sms",
        }
    }

    #[must_use]
    pub fn to(&self) -> &str {
        match self {
            Self::Email { to, .. } | Self::Sms { to, .. } => to,
        }
    }
}

/// One row of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub dataset: Arc<str>,
    /// A JSON object with the declared columns.
    pub row: String,
}
