//! What the events of each consumer took of its limits: the most that any of them did since the host started.
//!
//! Every event passes here, so a mark that is not crossed costs one relaxed load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use super::engine;
use crate::capability::Taken;
use crate::policy::{ConsumerName, Limits};

/// Each limit by its key in the side file, with what was taken of it.
pub type Usage = BTreeMap<&'static str, Gauge>;

/// One limit and what was taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gauge {
    /// Absent where things are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    pub limit: Amount,
    /// What is taken at this moment; absent where each event begins anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_water: Option<Amount>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Whole(u64),
    /// Of a unit that is shown with three decimals.
    Thousandths(u64),
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Whole(amount) => serializer.serialize_u64(amount),
            #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
            Self::Thousandths(amount) => serializer.serialize_f64(amount as f64 / 1_000.0),
        }
    }
}

/// The marks of all consumers, by name: they outlive versions.
#[derive(Debug, Default)]
pub struct AllMarks(Mutex<BTreeMap<ConsumerName, Arc<Marks>>>);

impl AllMarks {
    /// Those of a consumer; what it will run under, where it is new here.
    pub fn of(&self, name: &ConsumerName, limits: &Limits, handlings: usize) -> Arc<Marks> {
        let new = || {
            let marks = Marks::default();
            marks.run_under(limits, handlings);
            Arc::new(marks)
        };
        Arc::clone(self.0.lock().entry(name.clone()).or_insert_with(new))
    }

    pub fn usage(&self, name: &ConsumerName) -> Option<Usage> {
        self.0.lock().get(name).map(|marks| marks.usage())
    }
}

#[derive(Debug, Default)]
pub struct Marks {
    limits: Mutex<Limits>,
    concurrency_max: AtomicU64,
    running: AtomicU64,
    at_once: Mark,
    memory_bytes: Mark,
    cpu_us: Mark,
    time_us: Mark,
    log_bytes: Mark,
    effects_bytes: Mark,
    reads: Mark,
    writes: Mark,
    order_changes: Mark,
    events: Mark,
    messages: Mark,
    records: Mark,
    call_bytes: Mark,
    http_calls: Mark,
    http_bytes: Mark,
    handles: Mark,
}

/// The highest that was seen.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

/// One handling under way, until it is dropped.
pub struct Running<'a>(&'a Marks);

/// What one handling took of the limits that the sandbox looks at.
pub struct Spent {
    pub memory_bytes: usize,
    pub cpu: Duration,
    pub time: Duration,
    pub log_bytes: usize,
    pub handles: usize,
}

impl Mark {
    fn raise(&self, to: u64) {
        if to > self.0.load(Ordering::Relaxed) {
            self.0.fetch_max(to, Ordering::Relaxed);
        }
    }

    fn raise_to(&self, to: usize) {
        self.raise(to as u64);
    }
}

impl Marks {
    pub fn run(&self) -> Running<'_> {
        self.at_once.raise(self.running.fetch_add(1, Ordering::Relaxed) + 1);
        Running(self)
    }

    /// From now on, the consumer runs under `limits`, with at most so many `handlings` at once.
    pub fn run_under(&self, limits: &Limits, handlings: usize) {
        *self.limits.lock() = *limits;
        self.concurrency_max.store(handlings as u64, Ordering::Relaxed);
    }

    pub fn note(&self, spent: &Spent, taken: &Taken) {
        self.memory_bytes.raise_to(spent.memory_bytes);
        self.cpu_us.raise(micros(spent.cpu));
        self.time_us.raise(micros(spent.time));
        self.log_bytes.raise_to(spent.log_bytes);
        self.effects_bytes.raise_to(taken.effects_bytes);
        self.reads.raise_to(taken.reads);
        self.writes.raise_to(taken.writes);
        self.order_changes.raise_to(taken.order_changes);
        self.events.raise_to(taken.events);
        self.messages.raise_to(taken.messages);
        self.records.raise_to(taken.records);
        self.call_bytes.raise_to(taken.call_bytes);
        self.http_calls.raise(taken.http_calls.into());
        self.http_bytes.raise(taken.http_bytes);
        self.handles.raise_to(spent.handles);
    }

    fn usage(&self) -> Usage {
        let limits = *self.limits.lock();
        let whole = |amount: usize| Amount::Whole(amount as u64);
        let thousandths = |mark: &Mark| Amount::Thousandths(mark.0.load(Ordering::Relaxed));
        let fixed = |unit, limit| Gauge { unit, limit, now: None, high_water: None };
        let counted = |unit, limit, mark: &Mark| {
            let high_water = Some(Amount::Whole(mark.0.load(Ordering::Relaxed)));
            Gauge { unit, limit: Amount::Whole(limit), now: None, high_water }
        };
        let marked = |unit, limit: usize, mark| counted(unit, limit as u64, mark);
        let timed = |limit: Duration, mark: &Mark| {
            let high_water = Some(thousandths(mark));
            Gauge { unit: Some("ms"), limit: Amount::Thousandths(micros(limit)), now: None, high_water }
        };
        let loaded = |amount: &AtomicU64| Amount::Whole(amount.load(Ordering::Relaxed));
        let concurrency = Gauge {
            limit: loaded(&self.concurrency_max),
            now: Some(loaded(&self.running)),
            ..marked(None, 0, &self.at_once)
        };
        let bytes = Some("bytes");
        BTreeMap::from([
            ("concurrency", concurrency),
            ("memory", marked(bytes, limits.memory_bytes, &self.memory_bytes)),
            ("cpu", timed(limits.cpu, &self.cpu_us)),
            ("time", timed(limits.time, &self.time_us)),
            ("share", fixed(Some("cores"), Amount::Thousandths(limits.share_permille.into()))),
            ("state", fixed(bytes, Amount::Whole(limits.state_bytes))),
            ("effects", marked(bytes, limits.effects_bytes, &self.effects_bytes)),
            ("reads", marked(None, limits.reads, &self.reads)),
            ("writes", marked(None, limits.writes, &self.writes)),
            ("order_changes", marked(None, limits.order_changes, &self.order_changes)),
            ("events", marked(None, limits.events, &self.events)),
            ("messages", marked(None, limits.messages, &self.messages)),
            ("records", marked(None, limits.records, &self.records)),
            ("log", marked(bytes, limits.log_bytes, &self.log_bytes)),
            ("call", marked(bytes, limits.call_bytes, &self.call_bytes)),
            ("http_calls", counted(None, limits.http.calls.into(), &self.http_calls)),
            ("http_bytes", counted(bytes, limits.http.bytes, &self.http_bytes)),
            ("handles", marked(None, limits.handles, &self.handles)),
            ("stack", fixed(bytes, whole(engine::STACK_BYTES_MAX))),
            ("table", fixed(Some("elements"), whole(engine::TABLE_ELEMENTS_MAX))),
        ])
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marks_rise_and_do_not_fall_and_outlive_the_version() {
        let all = AllMarks::default();
        let name: ConsumerName = "inventory".parse().unwrap();
        assert_eq!(all.usage(&name), None);
        let marks = all.of(&name, &Limits::default(), 8);
        let took = |memory_bytes, cpu| Spent { memory_bytes, cpu, time: cpu, log_bytes: 3, handles: 0 };
        drop((marks.run(), marks.run()));
        let _running = marks.run();
        marks.note(&took(70_000, Duration::from_micros(1_500)), &Taken { events: 2, ..Taken::default() });
        marks.note(&took(65_536, Duration::from_micros(20)), &Taken { events: 1, ..Taken::default() });
        let other = Limits { events: 5, time: Duration::from_secs(1), ..Limits::default() };
        let next = all.of(&name, &other, 1);
        let shown = |limit: &str| serde_json::to_value(all.usage(&name).unwrap()).unwrap()[limit]["limit"].clone();
        assert_eq!((shown("events"), shown("time")), (json!(1_000), json!(5_000.0)), "it does not run yet");
        next.run_under(&other, 8);
        let usage = serde_json::to_value(all.usage(&name).unwrap()).unwrap();
        assert_eq!(usage["memory"], json!({"unit": "bytes", "limit": 67_108_864, "high_water": 70_000}));
        assert_eq!(usage["cpu"], json!({"unit": "ms", "limit": 50.0, "high_water": 1.5}));
        assert_eq!(usage["events"], json!({"limit": 5, "high_water": 2}));
        assert_eq!(usage["concurrency"], json!({"limit": 8, "now": 1, "high_water": 2}));
        assert_eq!(usage["share"], json!({"unit": "cores", "limit": 0.5}));
    }
}
