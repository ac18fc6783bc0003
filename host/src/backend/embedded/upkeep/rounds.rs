//! Rounds beside a committer that is held, and beside what must stay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PAGE;
use crate::backend::contract::{custom, hears, name, placement, policy, ran};
use crate::backend::embedded::inbox::EmbeddedInbox;
use crate::backend::embedded::inbox::tests::{hold, push};
use crate::backend::embedded::{Embedded, FILE, Settings, backup, rows_of, start};
use crate::backend::{
    Cause, CauseKind, Consumers as _, DeadLetters as _, Finished, Inbox as _, InboxPolicy, Intake as _, Journal as _,
    Keep, Lifecycle as _, Placed, Retention, Settlement, Upkeep as _, Which,
};
use crate::effects::{Effects, Reads, Record};
use crate::event::Custom;
use crate::order::{Change, Order};
use crate::policy::Start;

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Keep = Keep::For(Duration::from_millis(1));
const NOTHING: Retention = Retention {
    events: Keep::Forever,
    orders: Keep::Forever,
    open_orders: Keep::Forever,
    attempts: Keep::Forever,
    messages: Keep::Forever,
    records: Keep::Forever,
    idempotency: Keep::Forever,
};

struct World {
    directory: TempDir,
    embedded: Arc<Embedded>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let embedded = start(&Settings { data_dir: directory.path().to_owned() }).unwrap();
        Self { directory, embedded }
    }

    async fn wait_for_rows(&self, table: &str, rows: u64) {
        let file = self.directory.path().join(FILE);
        let deadline = Instant::now() + PATIENCE;
        while rows_of(&file, table) != rows {
            assert!(Instant::now() < deadline, "{} rows of {table}", rows_of(&file, table));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn wait_for_jobs(&self, jobs: u64) {
        let (queue, deadline) = (&self.embedded.store.queue, Instant::now() + PATIENCE);
        while queue.depth() < jobs {
            assert!(Instant::now() < deadline, "{} jobs", queue.depth());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn place(&self, key: Option<&str>) -> Placed {
        self.embedded.place(placement(None, key, 1)).await.unwrap().into_inner()
    }

    /// An order that was cancelled, whose events have left the journal.
    async fn idle(&self, key: Option<&str>) -> Order {
        let Placed::New(order) = self.place(key).await else { panic!("placed before") };
        let change = Change::Cancelled { reason: "test".into() };
        drop(self.embedded.change(order.id, change).await.unwrap());
        drop(self.embedded.publish(vec![custom("newest")]).await.unwrap());
        self.embedded.retain(Retention { events: SOON, ..NOTHING });
        self.wait_for_rows("events", 1).await;
        self.rest();
        // The newest order always stays.
        drop(self.place(None).await);
        order
    }

    /// Nothing is let go until somebody says again what is kept.
    fn rest(&self) {
        drop(self.embedded.upkeep.lock().take());
    }

    async fn inbox(&self) -> Arc<EmbeddedInbox> {
        self.embedded.attach(&name("alpha"), Start::Now).await.unwrap();
        let inbox = self.embedded.store.inbox(&name("alpha")).unwrap();
        inbox.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
        inbox
    }

    /// An event comes, and its delivery ends like this.
    async fn handle(&self, inbox: &EmbeddedInbox, subject: &str, settlement: Settlement) {
        drop(self.embedded.publish(vec![custom(subject)]).await.unwrap());
        let deadline = Instant::now() + PATIENCE;
        let delivery = loop {
            match inbox.lease() {
                Some(delivery) => break delivery,
                None => inbox.changed().await,
            }
            assert!(Instant::now() < deadline, "nothing to lease");
        };
        let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
        assert!(matches!(finished, Finished::Accepted));
        backup::tick(&self.embedded.store).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_clock_that_was_ahead_go_with_what_came_behind_them_and_no_earlier() {
    let world = World::new();
    drop(world.embedded.publish((0..9).map(|number| custom(&number.to_string())).collect()).await.unwrap());
    let ahead = crate::clock::Timestamp::now().plus(Duration::from_secs(365 * 86_400)).as_millis();
    push(&world.embedded.store, move |writer| {
        let sql = "UPDATE events SET time = ?1 WHERE position IN (2, 3, 4, 7, 8)";
        writer.connection.execute(sql, [i64::try_from(ahead).unwrap()])?;
        Ok(Box::new(drop))
    });
    world.embedded.retain(Retention { events: SOON, ..NOTHING });
    // The newest one always stays, and behind the two before it nothing may go.
    world.wait_for_rows("events", 3).await;
    drop(world.embedded.publish(vec![custom("a"), custom("b")]).await.unwrap());
    world.wait_for_rows("events", 1).await;
    world.embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_clock_that_was_ahead_stay_until_their_time_and_hold_back_none_behind_them() {
    let world = World::new();
    let inbox = world.inbox().await;
    let records = (0..PAGE + 9).map(|_| Record { dataset: "rows".into(), row: "{}".into() }).collect();
    let effects = Effects { records, ..Effects::default() };
    world.handle(&inbox, "a", Settlement::Done { effects, ran: ran() }).await;
    let ahead = crate::clock::Timestamp::now().plus(Duration::from_secs(365 * 86_400)).as_millis();
    push(&world.embedded.store, move |writer| {
        // All of a page, and some behind one that is old.
        let sql = "UPDATE records SET time = ?1 WHERE number <= ?2 OR number IN (?2 + 2, ?2 + 3)";
        writer.connection.execute(sql, [i64::try_from(ahead).unwrap(), i64::try_from(PAGE).unwrap()])?;
        Ok(Box::new(drop))
    });
    backup::tick(&world.embedded.store).await.unwrap();
    world.embedded.retain(Retention { records: SOON, ..NOTHING });
    // And the newest one always stays.
    world.wait_for_rows("records", PAGE as u64 + 3).await;
    world.embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_stays_that_an_event_comes_about_while_it_goes() {
    let world = World::new();
    let order = world.idle(None).await;
    let store = &world.embedded.store;
    let held = hold(store);
    let about = Custom { order_id: Some(order.id), ..custom("late") };
    let published = {
        let embedded = Arc::clone(&world.embedded);
        tokio::spawn(async move { embedded.publish(vec![about]).await.map(drop) })
    };
    world.wait_for_jobs(2).await;
    world.embedded.retain(Retention { orders: SOON, idempotency: SOON, ..NOTHING });
    // It is told to go, and goes behind the event.
    world.wait_for_jobs(3).await;
    drop(held);
    published.await.unwrap().unwrap();
    world.wait_for_rows("idle_orders", 0).await;
    assert!(world.embedded.order(order.id).await.unwrap().is_some());
    assert_eq!(world.embedded.events_of(order.id).await.unwrap().len(), 1);
    world.embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_says_anew_what_is_kept_does_not_wait_for_the_committer() {
    let world = World::new();
    drop(world.embedded.publish(vec![custom("a"), custom("b")]).await.unwrap());
    let held = hold(&world.embedded.store);
    world.embedded.retain(Retention { events: SOON, ..NOTHING });
    // It waits for its turn, which does not come.
    world.wait_for_jobs(2).await;
    let again = {
        let embedded = Arc::clone(&world.embedded);
        tokio::task::spawn_blocking(move || embedded.retain(Retention { events: SOON, ..NOTHING }))
    };
    tokio::time::timeout(PATIENCE / 4, again).await.expect("it returns").unwrap();
    drop(held);
    world.wait_for_rows("events", 1).await;
    world.embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_stays_as_long_as_the_key_that_stands_for_it() {
    for idempotency in [Keep::Forever, Keep::For(Duration::from_secs(3_600))] {
        let world = World::new();
        let order = world.idle(Some("key")).await;
        let inbox = world.inbox().await;
        let records = (0..2).map(|_| Record { dataset: "rows".into(), row: "{}".into() }).collect();
        let effects = Effects { records, ..Effects::default() };
        world.handle(&inbox, "a", Settlement::Done { effects, ran: ran() }).await;
        world.embedded.retain(Retention { orders: SOON, records: SOON, idempotency, ..NOTHING });
        // They go after orders, in the same round.
        world.wait_for_rows("records", 1).await;
        let Placed::Repeated(again) = world.place(Some("key")).await else { panic!("another order") };
        assert_eq!(again.id, order.id);
        world.embedded.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_letter_died_of_stays_with_it_however_old_it_is() {
    let world = World::new();
    let inbox = world.inbox().await;
    let cause = |detail: &str| Cause::new(CauseKind::Reject, detail);
    for subject in ["stays", "goes", "newest"] {
        world.handle(&inbox, subject, Settlement::Dead { cause: cause(subject), ran: ran() }).await;
    }
    let letters = async || {
        let query = crate::backend::LetterQuery { limit: 10, ..crate::backend::LetterQuery::default() };
        world.embedded.list(&name("alpha"), query).await.unwrap().items
    };
    let goes = letters().await.remove(1);
    drop(world.embedded.discard(&name("alpha"), Which::Event(goes.event_id).first(1)).await.unwrap());
    world.embedded.retain(Retention { attempts: SOON, ..NOTHING });
    world.wait_for_rows("attempts", 2).await;
    let left: Vec<_> = letters().await.into_iter().map(|letter| letter.cause).collect();
    assert_eq!(left, ["stays", "newest"]);
    world.embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_goes_once_writes_succeed_again() {
    let world = World::new();
    for subject in ["a", "b", "c"] {
        drop(world.embedded.publish(vec![custom(subject)]).await.unwrap());
    }
    let held = hold(&world.embedded.store);
    push(&world.embedded.store, |_| Err(rusqlite::Error::InvalidQuery));
    world.embedded.retain(Retention { events: SOON, ..NOTHING });
    world.wait_for_jobs(3).await;
    drop(held);
    world.wait_for_rows("events", 1).await;
    world.embedded.close().await;
}
