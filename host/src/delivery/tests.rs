//! Real guests, fed from the embedded store.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::rollout::Progress;
use super::trial::Trial;
use super::{Candidate, Engine, Live, Worker};
use crate::backend::embedded::{self, Settings};
use crate::backend::{Backend, Delivery, Finished, Inbox, InboxPolicy, Result, Settlement, View};
use crate::effects::Reads;
use crate::event::{Custom, KindPattern, Subscriptions};
use crate::policy::{ConsumerName, Policy, Retry, Rollout, Start};
use crate::sandbox::Version;
use crate::sandbox::fixture::{DONE, REJECT, TRAP, guest, remembering, version};
use crate::version::{Binary, Hash};

const OLD: &str = "com.example.old";
const NEW: &str = "com.example.new";
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker may take to do what it must not.
const MOMENT: Duration = Duration::from_millis(300);

/// What the inbox says to whatever comes first, instead of what is so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    AsItIs,
    Conflict,
    Superseded,
    HoldsNoMore,
    /// Nothing, until the gate is open.
    Waits,
}

/// An inbox that is never in the worker's favour.
struct Watched {
    inbox: Arc<dyn Inbox>,
    backend: Backend,
    first: Mutex<First>,
    gate: Notify,
    views: AtomicUsize,
    /// Kinds that were done, and by which version.
    done: Mutex<Vec<(String, Arc<str>)>>,
}

impl Watched {
    fn take(&self, first: First) -> bool {
        let mut next = self.first.lock();
        let is_it = *next == first;
        if is_it {
            *next = First::AsItIs;
        }
        is_it
    }

    async fn publish(&self, kind: &str, subject: &str) {
        let event = Custom {
            kind: kind.into(),
            source: "/test".into(),
            origin_id: None,
            subject: subject.into(),
            order_id: None,
            data: RawValue::from_string("{}".to_owned()).unwrap().into(),
        };
        drop(self.backend.intake.publish(vec![event]).await.unwrap());
    }

    /// How many were done, and how many are dead, once these are all that came.
    async fn ended(&self, events: u64) -> (u64, u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.backend.consumers.known().await.unwrap().remove(0);
            if report.done + report.dead == events {
                return (report.done, report.dead);
            }
            assert!(Instant::now() < deadline, "waited in vain for {events}: {report:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn wait_for_done(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.done.lock().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl Inbox for Watched {
    /// As soon as it hears [`NEW`], such an event comes, and a worker is quicker than whoever swaps its version.
    fn configure(&self, policy: InboxPolicy) {
        let hears_new = policy.subscriptions.hear(NEW) && policy.concurrency > 0;
        self.inbox.configure(policy);
        if hears_new {
            block_in_place(|| {
                Handle::current().block_on(async {
                    self.publish(NEW, "a").await;
                    self.wait_for_done(MOMENT).await;
                });
            });
        }
    }

    fn lease(&self) -> Option<Delivery> {
        self.inbox.lease()
    }

    async fn changed(&self) {
        self.inbox.changed().await;
    }

    fn view(&self) -> Arc<dyn View> {
        self.inbox.view()
    }

    fn view_for(&self, delivery: &Delivery) -> Arc<dyn View> {
        self.views.fetch_add(1, Ordering::Relaxed);
        self.inbox.view_for(delivery)
    }

    async fn finish(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        if self.take(First::Waits) {
            self.gate.notified().await;
        }
        if self.take(First::Conflict) {
            return Finished::Conflict(delivery);
        }
        if self.take(First::Superseded) {
            return Finished::Superseded;
        }
        if let Settlement::Done { ran, .. } = &settlement {
            self.done.lock().push((delivery.event.kind().to_owned(), Arc::clone(&ran.version)));
        }
        self.inbox.finish(delivery, reads, settlement).await
    }

    async fn holds(&self, reads: &Reads) -> Result<bool> {
        if self.take(First::HoldsNoMore) {
            return Ok(false);
        }
        self.inbox.holds(reads).await
    }
}

fn name() -> ConsumerName {
    "inventory".parse().unwrap()
}

fn hears(kind: &str) -> Subscriptions {
    [kind.parse::<KindPattern>().unwrap()].into_iter().collect()
}

/// One event at a time.
fn policy() -> Policy {
    Policy { concurrency: NonZeroU32::MIN, ..Policy::default() }
}

async fn linked(bytes: Binary) -> Arc<Version> {
    version(bytes, &policy()).await
}

fn live(version: &Arc<Version>, kind: &str) -> Live {
    Live {
        version: Arc::clone(version),
        policy: Arc::new(policy()),
        subscriptions: hears(kind),
        layout: 1,
        candidate: None,
        shadow: None,
        back: None,
    }
}

async fn watched() -> (TempDir, Arc<Watched>) {
    let directory = tempfile::tempdir().unwrap();
    let backend = embedded::open(&Settings { data_dir: directory.path().to_owned() }).unwrap();
    let inbox = backend.consumers.attach(&name(), Start::Beginning).await.unwrap();
    let (first, gate, views) = (Mutex::new(First::AsItIs), Notify::new(), AtomicUsize::new(0));
    (directory, Arc::new(Watched { inbox, backend, first, gate, views, done: Mutex::default() }))
}

fn start(inbox: &Arc<Watched>, live: Live) -> Worker {
    Engine::new(Handle::current()).start(name(), Arc::clone(inbox) as _, live)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_only_the_new_version_hears_is_not_handled_by_the_old_one() {
    let (_directory, inbox) = watched().await;
    let (old, new) = (linked(guest(DONE)).await, linked(guest(&format!("nop {DONE}"))).await);
    assert_ne!(old.label(), new.label());
    let worker = start(&inbox, live(&old, OLD));
    worker.swap(live(&new, NEW));
    inbox.wait_for_done(PATIENCE).await;
    assert_eq!(*inbox.done.lock(), [(NEW.to_owned(), new.label())]);
    worker.stop().await;
    inbox.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stopped_leaves_no_delivery_to_be_leased() {
    let (_directory, inbox) = watched().await;
    let worker = start(&inbox, live(&linked(guest(DONE)).await, OLD));
    inbox.publish(OLD, "a").await;
    assert_eq!(inbox.ended(1).await, (1, 0));
    worker.stop().await;
    inbox.publish(OLD, "b").await;
    assert!(inbox.lease().is_none());
    inbox.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stopped_ends_what_runs_and_begins_nothing() {
    let (_directory, inbox) = watched().await;
    *inbox.first.lock() = First::Waits;
    let worker = start(&inbox, live(&linked(guest(DONE)).await, OLD));
    inbox.publish(OLD, "a").await;
    inbox.publish(OLD, "b").await;
    let deadline = Instant::now() + PATIENCE;
    while *inbox.first.lock() == First::Waits {
        assert!(Instant::now() < deadline, "nothing was handled");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut stopping = Box::pin(worker.stop());
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut stopping).await.is_err(), "something runs");
    inbox.gate.notify_one();
    stopping.await;
    assert_eq!((inbox.ended(1).await, inbox.views.load(Ordering::Relaxed)), ((1, 0), 1));
    inbox.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_commit_was_not_accepted_handles_nothing_more() {
    let (_directory, inbox) = watched().await;
    *inbox.first.lock() = First::Conflict;
    let worker = start(&inbox, live(&linked(remembering()).await, OLD));
    inbox.publish(OLD, "a").await;
    assert_eq!(inbox.ended(1).await, (1, 0), "the second try is by an instance that knows nothing of the first");
    worker.stop().await;
    inbox.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_what_was_done_is_undone_no_instance_stays_warm() {
    let (_directory, inbox) = watched().await;
    let version = linked(guest(DONE)).await;
    let worker = start(&inbox, live(&version, OLD));
    inbox.publish(OLD, "a").await;
    assert_eq!(inbox.ended(1).await, (1, 0));
    *inbox.first.lock() = First::Superseded;
    // Another that is warm, besides the one that handles the next event.
    let view = inbox.inbox.view();
    let event = inbox.backend.journal.events_after(None, 1).await.unwrap().remove(0);
    let other = version.handle_event(&event, 1, crate::backend::Origin::Live, view).await;
    version.keep_at_most(2);
    version.keep(other.instance.unwrap());
    inbox.publish(OLD, "b").await;
    let deadline = Instant::now() + PATIENCE;
    while version.warm() > 0 {
        assert!(Instant::now() < deadline, "{} are warm", version.warm());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    worker.stop().await;
    inbox.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_longer_than_it_may_is_dead_and_what_is_rejected_at_once() {
    let (_directory, inbox) = watched().await;
    let policy = Policy {
        retry: Retry {
            max_attempts: NonZeroU32::MAX,
            base: Duration::from_millis(5),
            cap: Duration::from_millis(5),
            max_age: Duration::from_millis(200),
        },
        ..policy()
    };
    let trapping = Live { policy: Arc::new(policy), ..live(&linked(guest(TRAP)).await, OLD) };
    let rejecting = Live { version: linked(guest(REJECT)).await, ..trapping.clone() };
    let worker = start(&inbox, trapping);
    inbox.publish(OLD, "a").await;
    assert_eq!(inbox.ended(1).await, (0, 1));
    let before = inbox.views.load(Ordering::Relaxed);
    assert!(before > 1, "it was tried again");
    worker.swap(rejecting);
    inbox.publish(OLD, "b").await;
    assert_eq!(inbox.ended(2).await, (0, 2));
    assert_eq!(inbox.views.load(Ordering::Relaxed), before + 1);
    worker.stop().await;
    inbox.backend.lifecycle.close().await;
}

/// What became of events that a guest was tried on beside another.
struct Tried {
    progress: Progress,
    done: u64,
    dead: u64,
    /// Handlings that began.
    tries: usize,
}

impl Tried {
    async fn of(candidate: &str, beside: &str, rule: Rollout, first: First, events: u64) -> Self {
        let (_directory, inbox) = watched().await;
        let (candidate, beside) = (linked(guest(candidate)).await, linked(guest(&format!("nop {beside}"))).await);
        let is_judged_by_the_first = rule.max_failure_rate <= 0.0;
        let trial = Arc::new(Trial::new(&Hash::of(b"candidate"), rule, Arc::default()));
        let candidate = Candidate { version: candidate, subscriptions: hears(OLD), trial: Arc::clone(&trial) };
        let worker = start(&inbox, Live { candidate: Some(candidate), ..live(&beside, OLD) });
        *inbox.first.lock() = first;
        for event in 0..events {
            inbox.publish(OLD, &event.to_string()).await;
            let deadline = Instant::now() + PATIENCE;
            // The next one may be handled beside it.
            while is_judged_by_the_first && trial.verdict().is_none() {
                assert!(Instant::now() < deadline, "it is not judged");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let (done, dead) = inbox.ended(events).await;
        worker.stop().await;
        inbox.backend.lifecycle.close().await;
        Self { progress: trial.progress(), done, dead, tries: inbox.views.load(Ordering::Relaxed) }
    }

    /// Judged, failed, and failed by both; and done.
    fn counts(&self) -> [u64; 4] {
        [self.progress.events, self.progress.failed, self.progress.both_failed, self.done]
    }
}

/// Of all orders, and never judged.
fn for_ever() -> Rollout {
    Rollout {
        share_permille: 1_000,
        min_events: NonZeroU32::new(1_000).unwrap(),
        max_failure_rate: 0.9,
        max_slowdown: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_answers_for_what_it_alone_fails() {
    let failed = Tried::of(REJECT, DONE, for_ever(), First::AsItIs, 3).await;
    assert_eq!(failed.counts(), [3, 3, 0, 3]);
    assert_eq!(failed.progress.live_duration_mean_us, None, "what is handled after it is no comparison");
    let both = Tried::of(REJECT, REJECT, for_ever(), First::AsItIs, 3).await;
    assert_eq!((both.counts(), both.dead), ([0, 0, 3, 0], 3));
    let done = Tried::of(DONE, REJECT, for_ever(), First::AsItIs, 3).await;
    assert_eq!((done.counts(), done.tries), ([3, 0, 0, 3], 3));
    let beside = Tried::of(REJECT, DONE, Rollout { share_permille: 0, ..for_ever() }, First::AsItIs, 3).await;
    assert_eq!(beside.counts(), [0, 0, 0, 3]);
    assert!(beside.progress.live_duration_mean_us.is_some(), "its speed is compared with that of others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_failed_too_much_gets_no_event_more() {
    let rule = Rollout { max_failure_rate: 0.0, ..for_ever() };
    let tried = Tried::of(REJECT, DONE, rule, First::AsItIs, 5).await;
    assert_eq!((tried.counts(), tried.tries), ([1, 1, 0, 5], 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_whose_reads_hold_no_more_tries_again_and_is_judged_once() {
    let done = Tried::of(DONE, DONE, for_ever(), First::Conflict, 1).await;
    assert_eq!((done.counts(), done.tries), ([1, 0, 0, 1], 2));
    let failed = Tried::of(REJECT, DONE, for_ever(), First::HoldsNoMore, 1).await;
    assert_eq!((failed.counts(), failed.tries), ([1, 1, 0, 1], 3));
}
