//! What a shadow did otherwise than the live version: counted by kind, with examples. In memory, and bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

use super::differences::{Difference, Kind, Outcomes};
use crate::clock::Timestamp;
use crate::event::{Event, EventId};
use crate::order::OrderId;

/// Of one kind: enough to see what the rule behind them is. With both sides, one is 16 KiB at most.
const EXAMPLES_MAX: usize = 32;

/// One event, compared.
pub struct Compared {
    event_id: EventId,
    order_id: Option<OrderId>,
    kind: String,
    differences: Vec<Difference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub since: Timestamp,
    /// Events that both handled, or that the shadow did not hear.
    pub compared: u64,
    /// Of those, how many it did otherwise.
    pub differing: u64,
    /// Events that it did not see: it was too slow, its state could not be read, or a candidate handled them.
    pub passed_over: u64,
    pub differences: Vec<Group>,
}

/// Differences of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    pub what: Kind,
    pub count: u64,
    /// The first ones.
    pub examples: Vec<Example>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Example {
    pub event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    #[serde(rename = "type")]
    pub kind: String,
    pub live: Box<RawValue>,
    pub shadow: Box<RawValue>,
}

/// What a shadow did since it was loaded, and when it may be asked again.
pub struct Ledger {
    since: Timestamp,
    counts: Mutex<Counts>,
    rests_until: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Counts {
    compared: u64,
    differing: u64,
    passed_over: u64,
    groups: BTreeMap<Kind, (u64, Vec<Example>)>,
}

impl Compared {
    #[must_use]
    pub fn new(event: &Event, differences: Vec<Difference>) -> Self {
        Self { event_id: event.id, order_id: event.order_id(), kind: event.kind().to_owned(), differences }
    }

    /// One of them does not hear the event.
    #[must_use]
    pub fn unheard(event: &Event, live: Option<&Outcomes<'_>>, shadow: Option<&Outcomes<'_>>) -> Self {
        let shown = |side: Option<&Outcomes<'_>>| match side {
            Some(outcomes) => outcomes.shown(),
            None => RawValue::from_string(r#"{"outcome":"not heard"}"#.to_owned()).unwrap_or_default(),
        };
        let difference = Difference { kind: Kind::Subscription, live: shown(live), shadow: shown(shadow) };
        Self::new(event, vec![difference])
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    #[must_use]
    pub fn new() -> Self {
        Self { since: Timestamp::now(), counts: Mutex::default(), rests_until: Mutex::default() }
    }

    #[must_use]
    pub fn rests(&self) -> bool {
        self.rests_until.lock().is_some_and(|until| Instant::now() < until)
    }

    pub fn rest(&self, time: Duration) {
        *self.rests_until.lock() = Some(Instant::now() + time);
    }

    pub fn passed_over(&self) {
        self.counts.lock().passed_over += 1;
    }

    pub fn note(&self, compared: Compared) {
        let Compared { event_id, order_id, kind, differences } = compared;
        let mut counts = self.counts.lock();
        counts.compared += 1;
        counts.differing += u64::from(!differences.is_empty());
        for Difference { kind: what, live, shadow } in differences {
            let (count, examples) = counts.groups.entry(what).or_default();
            *count += 1;
            if examples.len() < EXAMPLES_MAX {
                examples.push(Example { event_id, order_id, kind: kind.clone(), live, shadow });
            }
        }
    }

    #[must_use]
    pub fn report(&self) -> Report {
        let counts = self.counts.lock();
        let group = |(what, (count, examples)): (&Kind, &(u64, Vec<Example>))| Group {
            what: *what,
            count: *count,
            examples: examples.clone(),
        };
        Report {
            since: self.since,
            compared: counts.compared,
            differing: counts.differing,
            passed_over: counts.passed_over,
            differences: counts.groups.iter().map(group).collect(),
        }
    }
}
