//! Against emulators: a rebuild that goes on from one invocation to the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backend::aws::fixture::{alpha, begin, policy, settings};
use crate::backend::aws::inbox::{AwsInbox, Until};
use crate::backend::aws::item::{Item, Key, number};
use crate::backend::aws::seat::Seat;
use crate::backend::aws::settings::Settings;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Change;
use crate::backend::aws::{backend, store};
use crate::backend::contract::{self, ran};
use crate::backend::{
    Backend, BackfillReport, BackfillState, Backfilled, Cause, CauseKind, Delivery, Finished, Inbox, Settlement,
    StateQuery,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Reads};
use crate::policy::Start;

const PATIENCE: Duration = Duration::from_secs(120);
/// Of an invocation, after the last moment at which something begins.
const LAST: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(10);

/// One process of a worker, with the only consumer that there is.
struct Worker {
    backend: Backend,
    store: Arc<Store>,
    inbox: Arc<AwsInbox>,
}

fn begins_in(time: Duration) -> Until {
    let begin = Instant::now() + time;
    Until { begin, end: begin + LAST }
}

impl Worker {
    async fn start(settings: &Settings) -> Self {
        let store = Box::pin(store(settings, async |_| Ok(Seat::lent()))).await.unwrap();
        let backend = backend(Arc::clone(&store));
        backend.consumers.attach(&alpha(), Start::Beginning).await.unwrap().configure(policy());
        let inbox = store.inbox(&alpha()).unwrap();
        Self { backend, store, inbox }
    }

    /// Publishes events, each of a subject of its own.
    async fn publish(&self, subjects: &[&str]) {
        for subject in subjects {
            contract::publish(&self.backend, subject).await;
        }
    }

    /// One invocation, beside which somebody has to handle what comes.
    async fn make_up(&self, until: Until) {
        Box::pin(self.inbox.make_up("worker", until)).await;
    }

    /// One invocation, in which whatever comes is done at once.
    async fn invoke(&self, time: Duration) {
        let done = async {
            loop {
                while let Some(delivery) = self.inbox.lease() {
                    drop(self.finish(delivery).await);
                }
                sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = self.make_up(begins_in(time)) => {}
            () = done => {}
        }
    }

    async fn finish(&self, delivery: Delivery) -> Finished {
        let adjustments = vec![Adjustment { key: "count".into(), by: 1, floor: None }];
        let done = Settlement::Done { effects: Effects { adjustments, ..Effects::default() }, ran: ran() };
        self.inbox.finish(delivery, &Reads::default(), done).await
    }

    async fn done_all(&self, count: i64) {
        let done = async {
            while self.count().await < count {
                self.invoke(Duration::from_secs(2)).await;
            }
        };
        assert!(timeout(PATIENCE, done).await.is_ok(), "{} of {count}", self.count().await);
    }

    async fn rebuild(&self, events: u64) {
        assert_eq!(begin(&self.backend, Backfilled::Rebuild).await.events, events);
    }

    async fn report(&self) -> BackfillReport {
        self.backend.backfills.latest(&alpha()).await.unwrap().unwrap()
    }

    async fn item(&self) -> Item {
        self.store.table.get(&Key::backfill(&alpha(), 1)).await.unwrap().unwrap()
    }

    async fn count(&self) -> i64 {
        let query = StateQuery { limit: 10, ..StateQuery::default() };
        let state = self.backend.consumers.state(&alpha(), query).await.unwrap();
        state.counters.first().map_or(0, |(_, count)| *count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_handed_over_once_all_functions_must_have_heard_of_it_by_what_its_workers_saw_together() {
    let settings = settings();
    let (one, other) = (Worker::start(&settings).await, Worker::start(&settings).await);
    one.publish(&["tea", "salt"]).await;
    one.done_all(2).await;
    one.rebuild(2).await;
    let mut watched = 0;
    for worker in [&one, &other, &one] {
        worker.store.learn().await.unwrap();
        worker.invoke(Duration::from_secs(4)).await;
        let (report, item) = (worker.report().await, worker.item().await);
        assert_eq!(report.state, BackfillState::Running, "{report:?}");
        assert_eq!(item.number::<u64>("til").unwrap(), 0, "it is let go of");
        let now: u64 = item.number("wd").unwrap();
        assert!(now > watched, "{now} after {watched}");
        watched = now;
    }
    assert_eq!(one.report().await.delivered, 2);
    // What both saw of it, and not what one of them did.
    let long = Change::of("SET wd = :long").value(":long", number(30_000));
    one.store.table.update(&Key::backfill(&alpha(), 1), long).await.unwrap().unwrap();
    let handed_over = async {
        while other.report().await.state != BackfillState::Done {
            other.invoke(Duration::from_secs(8)).await;
        }
    };
    assert!(timeout(PATIENCE, handed_over).await.is_ok(), "{:?}", other.report().await);
    let consumer = other.store.table.get(&Key::consumer(&alpha())).await.unwrap().unwrap();
    assert_eq!((other.count().await, consumer.number::<i64>("gen").unwrap()), (2, 1));
    assert!(consumer.number::<i64>("sb1").unwrap() > 0, "who filled it has told who handed it over what it weighs");
    for worker in [one, other] {
        drop(worker.inbox);
        worker.backend.lifecycle.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rebuild_has_begun_in_an_invocation_ends_in_it_or_counts_for_nothing_once_another_worker_goes_on() {
    let settings = settings();
    let (one, other) = (Worker::start(&settings).await, Worker::start(&settings).await);
    one.publish(&["tea", "salt", "milk"]).await;
    one.done_all(3).await;
    one.rebuild(3).await;
    let leased = async |until: Option<Instant>| loop {
        match one.inbox.lease() {
            Some(delivery) => break Some(delivery),
            None if until.is_some_and(|until| Instant::now() > until) => break None,
            None => sleep(AGAIN).await,
        }
    };
    // Nothing begins any more when it ends.
    let until = begins_in(Duration::from_secs(3));
    let handled = async {
        let delivery = leased(None).await.unwrap();
        sleep_until(until.begin + Duration::from_millis(200)).await;
        assert!(matches!(one.finish(delivery).await, Finished::Accepted));
        assert!(leased(Some(until.begin + Duration::from_secs(2))).await.is_none());
    };
    let invoked = async { tokio::join!(one.make_up(until), handled) };
    timeout(PATIENCE, invoked).await.unwrap();
    assert_eq!(one.report().await.delivered, 1);
    // It does not end, and the process stands still.
    let until = Until { end: Instant::now() + Duration::from_secs(3), ..begins_in(Duration::from_secs(2)) };
    let (begun, ()) = tokio::join!(leased(None), one.make_up(until));
    let begun = begun.unwrap();
    assert_eq!(one.item().await.number::<u64>("til").unwrap(), 0, "it is let go of");
    other.store.learn().await.unwrap();
    let went_on = async {
        while other.report().await.delivered < 3 {
            other.invoke(Duration::from_secs(2)).await;
        }
    };
    assert!(timeout(PATIENCE, went_on).await.is_ok(), "{:?}", other.report().await);
    assert!(matches!(one.finish(begun).await, Finished::Superseded), "somebody else was through with it");
    assert_eq!(one.report().await.delivered, 3);
    for worker in [one, other] {
        drop(worker.inbox);
        worker.backend.lifecycle.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_a_rebuild_is_tried_by_the_next_worker_as_often_as_is_left() {
    let settings = settings();
    let (one, other) = (Worker::start(&settings).await, Worker::start(&settings).await);
    one.publish(&["tea"]).await;
    one.done_all(1).await;
    one.rebuild(1).await;
    let leased = async |worker: &Worker| loop {
        match worker.inbox.lease() {
            Some(delivery) => break delivery,
            None => sleep(AGAIN).await,
        }
    };
    let failed = async {
        let delivery = leased(&one).await;
        let (first, at) = (delivery.first_attempt_at, Timestamp::now().plus(Duration::from_secs(5)));
        let again = Settlement::Retry { at, cause: Cause::new(CauseKind::Retry, "not yet"), ran: ran() };
        assert!(matches!(one.inbox.finish(delivery, &Reads::default(), again).await, Finished::Accepted));
        (first, at)
    };
    let invoked = async { tokio::join!(failed, one.make_up(begins_in(Duration::from_secs(3)))) };
    let ((first, at), ()) = timeout(PATIENCE, invoked).await.unwrap();
    let report = one.report().await;
    assert_eq!(report.failure.map(|failure| failure.attempt), Some(1));
    other.store.learn().await.unwrap();
    let tried = async {
        let invoked = async {
            loop {
                other.make_up(begins_in(Duration::from_secs(3))).await;
            }
        };
        tokio::select! {
            () = invoked => unreachable!(),
            delivery = leased(&other) => {
                assert!(Timestamp::now() >= at, "it is not due yet");
                assert_eq!((delivery.attempt, delivery.first_attempt_at), (2, first));
                assert!(matches!(other.finish(delivery).await, Finished::Accepted));
            }
        }
    };
    timeout(PATIENCE, tried).await.unwrap();
    // Nobody wrote it before that invocation was cut off, so it is handled again.
    let written = async {
        while one.report().await.delivered == 0 {
            other.invoke(Duration::from_secs(2)).await;
        }
    };
    timeout(PATIENCE, written).await.unwrap();
    let report = one.report().await;
    assert_eq!((report.delivered, report.failure.is_none()), (1, true), "{report:?}");
    assert!(one.item().await.text_or_none("fla").is_none());
    for worker in [one, other] {
        drop(worker.inbox);
        worker.backend.lifecycle.close().await;
    }
}
