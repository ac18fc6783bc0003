//! What a handler can do to the world: the host side of each import of the contract, without wasmtime.
//!
//! A [`Handling`] is the context of one event at one consumer. Reads go to a [`View`] and are remembered; writes are
//! staged. [`Handling::finish`] hands both out, and only the delivery decides whether they are committed.
//! `v0_1` maps the imports of one contract version onto it, and is the one place where [`Stop`] meets WIT.
//!
//! **Invariants**
//! - What the guest was told about a key or an order once, it is told again, its own changes aside.
//! - Nothing here acts but `http`: dropping a `Handling` undoes everything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{self, View};
use crate::effects::{Effects, Message, Reads, Record};
use crate::event::{Custom, Event};
use crate::policy::{ConsumerName, Grant, Limits, Policy};
use crate::sandbox::{Dataset, Description, Need};

#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod http;
mod journal;
mod limits;
mod log;
mod outbox;
mod records;
mod settings;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod v0_1;
#[cfg(test)]
mod v0_2;

pub use crate::backend::Level;
pub use journal::Refusal;
pub(crate) use log::GuestLog;
pub use state::Shortage;

/// The kind of a trap that a call over HTTP ends in where it would be the only thing to take effect.
pub const TRIAL: &str = "trial";

/// Why the guest cannot go on. Never a return value for the guest: it traps.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stop {
    /// The guest went too far. `kind` is `limit`, `grant`, `trial`, `event-loop`, `bad-argument` or `host`.
    #[error("{message}")]
    Overstep { kind: &'static str, message: String },
    #[error(transparent)]
    Store(#[from] backend::Error),
}

impl Stop {
    fn limit(message: String) -> Self {
        Self::Overstep { kind: "limit", message }
    }

    fn grant(message: String) -> Self {
        Self::Overstep { kind: "grant", message }
    }

    /// A call over HTTP, where whatever else is done is thrown away.
    fn trial(message: String) -> Self {
        Self::Overstep { kind: TRIAL, message }
    }

    fn bad_argument(message: String) -> Self {
        Self::Overstep { kind: "bad-argument", message }
    }

    fn event_loop(message: String) -> Self {
        Self::Overstep { kind: "event-loop", message }
    }

    fn host(message: &str) -> Self {
        Self::Overstep { kind: "host", message: message.to_owned() }
    }
}

/// What a version of a consumer may do, settled when it is linked.
#[derive(Debug)]
pub struct Rights {
    consumer: ConsumerName,
    /// CloudEvents `source` of what it publishes.
    source: Arc<str>,
    grant: Grant,
    settings: BTreeMap<String, String>,
    limits: Limits,
    /// Declared by the plugin and granted by the operator.
    datasets: Vec<(Arc<str>, Dataset)>,
}

impl Rights {
    #[must_use]
    pub fn new(consumer: &ConsumerName, description: &Description, policy: &Policy) -> Self {
        let datasets = description.needs.iter().filter_map(|need| match need {
            Need::Records(dataset) if policy.grant.records.contains(&dataset.name) => {
                Some((dataset.name.as_str().into(), dataset.clone()))
            }
            _ => None,
        });
        Self {
            consumer: consumer.clone(),
            source: format!("/fanfare/consumers/{consumer}").into(),
            grant: policy.grant.clone(),
            settings: policy.settings.clone(),
            limits: policy.limits,
            datasets: datasets.collect(),
        }
    }

    #[must_use]
    pub fn consumer(&self) -> &ConsumerName {
        &self.consumer
    }
}

/// What one handling took of the limits that are looked at here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub effects_bytes: usize,
    pub reads: usize,
    pub writes: usize,
    pub order_changes: usize,
    pub events: usize,
    pub messages: usize,
    pub records: usize,
    /// Of the call of a host function that handed over most.
    pub call_bytes: usize,
    pub http_calls: u32,
    pub http_bytes: u64,
}

/// One event being handled by one consumer.
pub struct Handling {
    rights: Arc<Rights>,
    event: Arc<Event>,
    view: Arc<dyn View>,
    budget: limits::Budget,
    entries: state::Entries,
    counters: state::Counters,
    orders: journal::Orders,
    events: Vec<Custom>,
    messages: Vec<Message>,
    records: Vec<Record>,
    outgoing: http::Outgoing,
}

impl Handling {
    #[must_use]
    pub fn new(rights: Arc<Rights>, event: Arc<Event>, view: Arc<dyn View>) -> Self {
        Self {
            budget: limits::Budget::new(rights.limits),
            rights,
            event,
            view,
            entries: state::Entries::default(),
            counters: state::Counters::default(),
            orders: journal::Orders::default(),
            events: Vec::new(),
            messages: Vec::new(),
            records: Vec::new(),
            outgoing: http::Outgoing::NotGranted,
        }
    }

    /// What it took of its limits.
    #[must_use]
    pub fn taken(&self) -> Taken {
        let (http_calls, http_bytes) = self.calls().map(|calls| calls.taken()).unwrap_or_default();
        Taken {
            effects_bytes: self.budget.staged_bytes,
            reads: self.budget.reads,
            writes: self.entries.written.len().max(self.counters.adjustments.len()),
            order_changes: self.orders.changes.len(),
            events: self.events.len(),
            messages: self.messages.len(),
            records: self.records.len(),
            call_bytes: self.budget.call_bytes,
            http_calls,
            http_bytes,
        }
    }

    /// What the handler was told, and what it staged.
    #[must_use]
    pub fn finish(self) -> (Reads, Effects) {
        let Self { entries, counters, orders, events, messages, records, .. } = self;
        let told = counters.known.into_iter().filter(|(_, counter)| counter.told);
        let reads = Reads {
            entries: entries.read.into_iter().collect(),
            counters: told.map(|(key, counter)| (key, counter.base)).collect(),
            orders: orders.reads(),
        };
        let effects = Effects {
            entries: entries.written.into_iter().collect(),
            adjustments: counters.adjustments,
            order_changes: orders.changes,
            events,
            messages,
            records,
        };
        (reads, effects)
    }
}
