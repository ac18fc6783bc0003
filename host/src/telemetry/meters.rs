//! Meters, cheap enough for the hot path: each is looked up once and then only counted on.
//!
//! The registry is made on first use, so that no order of start-up can leave a meter that counts into nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::{Mutex, RwLock};

use crate::backend::{CauseKind, ConsumerReport, MessageState};
use crate::policy::ConsumerName;

/// How often [`drain`] should be called: samples gather in memory until then.
pub const DRAIN_EVERY: Duration = Duration::from_secs(5);

/// From the quickest handling of a warm instance to the longest wait that a client puts up with.
const SECONDS: &[f64] =
    &[50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Jobs that share one commit.
const BATCH: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The meters of one consumer. Make it once when the consumer starts.
#[derive(Clone)]
pub struct ConsumerMeters {
    done: Counter,
    retry: Counter,
    reject: Counter,
    trap: Counter,
    timeout: Counter,
    conflicts: Counter,
    seconds: Histogram,
    overlap: Arc<Overlap>,
}

/// Handlings of one consumer that are under way, and the most that were at once.
struct Overlap {
    now: AtomicU32,
    most: AtomicU32,
    shown: Gauge,
}

/// One handling under way, until it is dropped.
pub struct Underway<'a>(&'a Overlap);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConsumerMeters {
    #[must_use]
    pub fn of(name: &ConsumerName) -> Self {
        LazyLock::force(&REGISTRY);
        let name = || name.to_string();
        let outcome = |outcome| counter!("fanfare_handled_total", "consumer" => name(), "outcome" => outcome);
        Self {
            done: outcome("done"),
            retry: outcome("retry"),
            reject: outcome("reject"),
            trap: outcome("trap"),
            timeout: outcome("timeout"),
            conflicts: counter!("fanfare_conflicts_total", "consumer" => name()),
            seconds: histogram!("fanfare_handle_seconds", "consumer" => name()),
            overlap: Arc::new(Overlap {
                now: AtomicU32::new(0),
                most: AtomicU32::new(0),
                shown: gauge!("fanfare_overlapping_max", "consumer" => name()),
            }),
        }
    }

    /// A handling begins.
    #[must_use]
    pub fn begin(&self) -> Underway<'_> {
        let overlap = &*self.overlap;
        let now = overlap.now.fetch_add(1, Ordering::Relaxed) + 1;
        if now > overlap.most.load(Ordering::Relaxed) && now > overlap.most.fetch_max(now, Ordering::Relaxed) {
            overlap.shown.set(now);
        }
        Underway(overlap)
    }

    /// One handling came to its outcome: done, or not for `cause`.
    pub fn handled(&self, cause: Option<CauseKind>, took: Duration) {
        let outcome = match cause {
            None => &self.done,
            Some(CauseKind::Retry) => &self.retry,
            Some(CauseKind::Reject) => &self.reject,
            Some(CauseKind::Trap) => &self.trap,
            Some(CauseKind::Timeout) => &self.timeout,
        };
        outcome.increment(1);
        self.seconds.record(took);
    }

    /// What a handler read did not hold any more; it runs again.
    pub fn conflict(&self) {
        self.conflicts.increment(1);
    }
}

/// What became of an event that a candidate tried.
#[derive(Clone, Copy, Debug)]
pub enum CanaryEvent {
    Done,
    Failed,
    /// The live version failed it too.
    BothFailed,
}

/// A candidate tried an event. Looked up each time: candidates come and go, and meet a share alone.
pub fn canary(name: &ConsumerName, event: CanaryEvent) {
    LazyLock::force(&REGISTRY);
    let outcome = match event {
        CanaryEvent::Done => "done",
        CanaryEvent::Failed => "failed",
        CanaryEvent::BothFailed => "both_failed",
    };
    counter!("fanfare_canary_events_total", "consumer" => name.to_string(), "outcome" => outcome).increment(1);
}

/// A candidate was judged.
pub fn rollout(name: &ConsumerName, outcome: &'static str) {
    LazyLock::force(&REGISTRY);
    counter!("fanfare_rollouts_total", "consumer" => name.to_string(), "outcome" => outcome).increment(1);
}

/// A commit would have crossed a floor that held when the handler asked; it runs again.
pub fn floor_conflict() {
    static FLOORS: LazyLock<Counter> = LazyLock::new(|| {
        LazyLock::force(&REGISTRY);
        counter!("fanfare_floor_conflicts_total")
    });
    FLOORS.increment(1);
}

/// What DynamoDB counted for a transaction that was written.
pub fn aws_write_units(units: f64) {
    static UNITS: LazyLock<Counter> = LazyLock::new(|| {
        LazyLock::force(&REGISTRY);
        counter!("fanfare_aws_write_units_total")
    });
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers, and few")]
    UNITS.increment(units.round() as u64);
}

/// An order was placed and is durable.
pub fn order_placed() {
    static PLACED: LazyLock<Counter> = LazyLock::new(|| {
        LazyLock::force(&REGISTRY);
        counter!("fanfare_orders_placed_total")
    });
    PLACED.increment(1);
}

/// One transaction of `jobs` jobs reached the disk.
pub fn commit(took: Duration, jobs: usize) {
    static SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
        LazyLock::force(&REGISTRY);
        histogram!("fanfare_commit_seconds")
    });
    static BATCH: LazyLock<Histogram> = LazyLock::new(|| {
        LazyLock::force(&REGISTRY);
        histogram!("fanfare_commit_batch")
    });
    SECONDS.record(took);
    BATCH.record(u32::try_from(jobs).unwrap_or(u32::MAX));
}

/// One request was answered. `route` must be a route's pattern, never a path: each route is a time series for ever.
pub fn http_request(route: &str, status: u16, took: Duration) {
    type Routes = HashMap<Box<str>, Vec<(u16, Histogram)>>;
    static ROUTES: LazyLock<RwLock<Routes>> = LazyLock::new(RwLock::default);
    let of_status = |seen: &Vec<(u16, Histogram)>| seen.iter().find(|(of, _)| *of == status).map(|(_, h)| h.clone());
    let known = ROUTES.read().get(route).and_then(of_status);
    let seconds = known.unwrap_or_else(|| {
        LazyLock::force(&REGISTRY);
        let seconds =
            histogram!("fanfare_http_request_seconds", "route" => route.to_owned(), "status" => status.to_string());
        ROUTES.write().entry(route.into()).or_default().push((status, seconds.clone()));
        seconds
    });
    seconds.record(took);
}

/// How a call of an AWS service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwsOutcome {
    Done,
    /// The service said no: a condition did not hold, nothing of that name is there, it is asked too much.
    Refused,
    /// There was no answer.
    Failed,
}

/// One call of an AWS service came to its end, after so many requests.
pub fn aws_call(service: &str, operation: &str, outcome: AwsOutcome, requests: u32, took: Duration) {
    static CALLS: LazyLock<RwLock<HashMap<(String, String), AwsMeters>>> = LazyLock::new(RwLock::default);
    let of = (service.to_owned(), operation.to_owned());
    let known = CALLS.read().get(&of).cloned();
    let meters = known.unwrap_or_else(|| CALLS.write().entry(of).or_insert_with_key(AwsMeters::of).clone());
    let outcome = match outcome {
        AwsOutcome::Done => &meters.done,
        AwsOutcome::Refused => &meters.refused,
        AwsOutcome::Failed => &meters.failed,
    };
    outcome.increment(1);
    meters.requests.increment(u64::from(requests));
    meters.seconds.record(took);
}

#[derive(Clone)]
struct AwsMeters {
    done: Counter,
    refused: Counter,
    failed: Counter,
    requests: Counter,
    seconds: Histogram,
}

impl AwsMeters {
    fn of((service, operation): &(String, String)) -> Self {
        LazyLock::force(&REGISTRY);
        let labels = || vec![Label::new("service", service.clone()), Label::new("operation", operation.clone())];
        let outcome = |outcome| {
            let labels = [labels(), vec![Label::new("outcome", outcome)]].concat();
            counter!("fanfare_aws_calls_total", labels)
        };
        Self {
            done: outcome("done"),
            refused: outcome("refused"),
            failed: outcome("failed"),
            requests: counter!("fanfare_aws_requests_total", labels()),
            seconds: histogram!("fanfare_aws_call_seconds", labels()),
        }
    }
}

/// One try at sending a message came to an end.
pub fn message(state: MessageState) {
    LazyLock::force(&REGISTRY);
    let state = match state {
        MessageState::Pending => "again",
        MessageState::Sent => "sent",
        MessageState::Failed => "failed",
        MessageState::Unknown => "unknown",
    };
    counter!("fanfare_messages_total", "outcome" => state).increment(1);
}

/// Everything measured so far, in the text format of Prometheus. Where nobody knows how the consumers stand, they stand as they
/// did.
#[must_use]
pub fn render(consumers: Option<&[ConsumerReport]>) -> String {
    LazyLock::force(&REGISTRY);
    consumers.map(stand);
    REGISTRY.render()
}

/// How the consumers stand. A gauge stays what it was set to: of one that was forgotten nothing is left to tell.
fn stand(consumers: &[ConsumerReport]) {
    static TOLD: Mutex<BTreeSet<ConsumerName>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock();
    for report in consumers {
        let held = report.held.as_ref().map_or(0, |held| held.events);
        stands(&report.name, report.pending, report.dead, u64::from(report.paused.is_some()), held);
        told.remove(&report.name);
    }
    told.iter().for_each(|forgotten| stands(forgotten, 0, 0, 0, 0));
    *told = consumers.iter().map(|report| report.name.clone()).collect();
}

fn stands(name: &ConsumerName, pending: u64, dead: u64, paused: u64, held: u64) {
    gauge!("fanfare_pending", "consumer" => name.to_string()).set(approximate(pending));
    gauge!("fanfare_dead", "consumer" => name.to_string()).set(approximate(dead));
    gauge!("fanfare_paused", "consumer" => name.to_string()).set(approximate(paused));
    gauge!("fanfare_retention_held", "consumer" => name.to_string()).set(approximate(held));
}

/// Folds the samples gathered so far into their buckets.
pub fn drain() {
    REGISTRY.run_upkeep();
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float, exact up to 2^53")]
fn approximate(count: u64) -> f64 {
    count as f64
}

static REGISTRY: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    let buckets = |builder: PrometheusBuilder, suffix: &str, buckets: &[f64]| {
        // The only error is an empty list of buckets.
        builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets).unwrap_or_default()
    };
    let builder = buckets(PrometheusBuilder::new(), "_seconds", SECONDS);
    let recorder = buckets(builder, "_batch", BATCH).build_recorder();
    let handle = recorder.handle();
    // Fails only where a test installed another one; the meters then count there.
    let _ = metrics::set_global_recorder(recorder);
    describe();
    handle
});

fn describe() {
    describe_counter!("fanfare_orders_placed_total", "Orders placed and durable.");
    describe_counter!("fanfare_handled_total", "Handlings by consumer and outcome.");
    describe_counter!("fanfare_conflicts_total", "Handlings repeated because what they read had changed.");
    describe_counter!("fanfare_canary_events_total", "Events that a candidate tried, by outcome.");
    describe_counter!("fanfare_rollouts_total", "Candidates that were judged, by outcome.");
    describe_counter!(
        "fanfare_floor_conflicts_total",
        "Handlings repeated because a floor held no more, of all consumers."
    );
    describe_gauge!("fanfare_overlapping_max", "Most handlings of a consumer at once since it started.");
    describe_counter!("fanfare_messages_total", "Tries at sending an e-mail or SMS, by outcome.");
    describe_gauge!("fanfare_pending", "Events that a consumer has not done yet.");
    describe_gauge!("fanfare_dead", "Dead letters of a consumer.");
    describe_gauge!("fanfare_paused", "1 while a person has paused the consumer, else 0.");
    describe_gauge!("fanfare_retention_held", "Events old enough to go that stay for a consumer.");
    describe_histogram!("fanfare_handle_seconds", "Time that one handling took.");
    describe_histogram!("fanfare_http_request_seconds", "Time that one request took, by route and status.");
    describe_histogram!("fanfare_commit_seconds", "Time from the start of a transaction until it was on disk.");
    describe_histogram!("fanfare_commit_batch", "Jobs that shared one transaction.");
    describe_counter!("fanfare_aws_calls_total", "Calls of AWS services, by service, operation and outcome.");
    describe_counter!("fanfare_aws_requests_total", "Requests that these calls took, repeats included.");
    describe_counter!("fanfare_aws_write_units_total", "Write units of DynamoDB that transactions took.");
    describe_histogram!("fanfare_aws_call_seconds", "Time that one call of an AWS service took with its repeats.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered() {
        let name: ConsumerName = "inventory".parse().unwrap();
        order_placed();
        http_request("/v1/orders", 201, Duration::from_millis(3));
        commit(Duration::from_millis(2), 7);
        message(MessageState::Sent);
        let meters = ConsumerMeters::of(&name);
        meters.handled(None, Duration::from_micros(80));
        meters.handled(Some(CauseKind::Trap), Duration::from_micros(80));
        meters.conflict();
        floor_conflict();
        let (first, second) = (meters.begin(), meters.begin());
        drop(first);
        drop((second, meters.begin()));

        let (paused, held, backfill, cut_off) = (None, None, None, None);
        let report =
            ConsumerReport { name, pending: 4, dead: 1, done: 9, state_bytes: 0, paused, held, backfill, cut_off };
        let text = render(Some(&[report]));

        for line in [
            "fanfare_orders_placed_total 1",
            "fanfare_handled_total{consumer=\"inventory\",outcome=\"done\"} 1",
            "fanfare_handled_total{consumer=\"inventory\",outcome=\"trap\"} 1",
            "fanfare_conflicts_total{consumer=\"inventory\"} 1",
            "fanfare_floor_conflicts_total 1",
            "fanfare_overlapping_max{consumer=\"inventory\"} 2",
            "fanfare_handle_seconds_bucket{consumer=\"inventory\",le=\"0.0001\"} 2",
            "fanfare_http_request_seconds_count{route=\"/v1/orders\",status=\"201\"} 1",
            "fanfare_commit_batch_bucket{le=\"10\"} 1",
            "fanfare_messages_total{outcome=\"sent\"} 1",
            "fanfare_pending{consumer=\"inventory\"} 4",
            "fanfare_dead{consumer=\"inventory\"} 1",
            "fanfare_paused{consumer=\"inventory\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }

        let dead = |text: &str, count| text.contains(&format!("fanfare_dead{{consumer=\"inventory\"}} {count}"));
        assert!(dead(&render(None), 1), "nobody knows");
        assert!(dead(&render(Some(&[])), 0), "it was forgotten");
    }
}
