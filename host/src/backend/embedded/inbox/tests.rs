//! Desks beside callers who go away, come too late, or hand in what a failed batch takes back.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::fill::Fill;
use super::{Desk, EmbeddedInbox, settle};
use crate::backend::contract::{custom, hears, name, placement, policy, ran};
use crate::backend::damaged;
use crate::backend::embedded::queue::{Answer, Job};
use crate::backend::embedded::writer::Writer;
use crate::backend::embedded::{Embedded, Settings, Store, backup, start};
use crate::backend::{
    Backfill, BackfillEffects, BackfillStep, Backfilled, Backfills, Cause, CauseKind, Changed, Consumers as _,
    DeadLetters as _, Delivery, Durable, Error, Finished, Inbox as _, InboxPolicy, Intake as _, Journal as _,
    Lifecycle as _, Pause, Placed, Settlement, Since, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::order::{Change, OrderId};
use crate::policy::Start;

const PATIENCE: Duration = Duration::from_secs(60);

/// Holds the committer until what it returns is dropped.
pub fn hold(store: &Store) -> mpsc::Sender<()> {
    let ((go, wait), (holding, held)) = (mpsc::channel::<()>(), mpsc::channel());
    push(store, move |_| {
        holding.send(()).unwrap();
        // Ends when the other side is dropped.
        let _ = wait.recv();
        Ok(Box::new(drop))
    });
    held.recv().unwrap();
    go
}

pub fn push(store: &Store, task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<Answer> + Send + 'static) {
    store.queue.push(Job::untold(task)).unwrap();
}

/// Waits without letting go of the thread.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends when the store takes what is pushed, and keeps it: one that fails refuses nothing for a moment.
async fn accepts(store: &Store) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (reply, answer) = oneshot::channel();
        if store.queue.push(Job::task(|_| Ok(()), reply)).is_ok() && matches!(answer.await, Ok(Ok(_))) {
            return;
        }
        assert!(Instant::now() < deadline, "the store goes on refusing");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn lease(inbox: &EmbeddedInbox) -> Delivery {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(delivery) = inbox.lease() {
            return delivery;
        }
        assert!(Instant::now() < deadline, "nothing to lease");
        inbox.changed().await;
    }
}

fn finish(inbox: &EmbeddedInbox, delivery: Delivery, settlement: Settlement) {
    assert!(matches!(settle::finish(inbox, delivery, &Reads::default(), settlement), Finished::Accepted));
}

/// A consumer that hears everything, and who came before it began.
async fn world(start_at: Start, events: usize) -> (TempDir, Arc<Embedded>, Arc<EmbeddedInbox>) {
    let directory = tempfile::tempdir().unwrap();
    let embedded = start(&Settings { data_dir: directory.path().to_owned() }).unwrap();
    drop(embedded.publish((0..events).map(|number| custom(&number.to_string())).collect()).await.unwrap());
    embedded.attach(&name("alpha"), start_at).await.unwrap();
    let inbox = embedded.store.inbox(&name("alpha")).unwrap();
    inbox.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    (directory, embedded, inbox)
}

/// Up to where the consumer is through with the journal.
async fn position(store: &Arc<Store>) -> u64 {
    let sql = "SELECT position FROM consumers WHERE name = 'alpha'";
    store.read(move |disk| disk.query_row(sql, [], |row| row.get(0))).await.unwrap()
}

async fn placed(embedded: &Embedded) -> OrderId {
    match embedded.place(placement(None, None, 1)).await.unwrap().into_inner() {
        Placed::New(order) => order.id,
        other => panic!("{other:?}"),
    }
}

async fn backfill(embedded: &Embedded) {
    let all = Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1000/s".parse().unwrap(),
        effects: BackfillEffects::All,
        of: Backfilled::Missed,
    };
    drop(Backfills::start(embedded, &name("alpha"), all).await.unwrap());
}

/// Asks while the committer is held, and goes away before there is an answer.
async fn ask_and_go_away<T>(store: &Store, ask: impl Future<Output = T>) {
    let held = hold(store);
    let mut ask = Box::pin(ask);
    while store.queue.depth() < 2 {
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut ask).await.is_err(), "the committer is held");
    }
    drop(ask);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_delivered_again_though_whoever_asked_for_it_went_away() {
    let (_directory, embedded, inbox) = world(Start::Beginning, 1).await;
    let cause = Cause::new(CauseKind::Reject, "no");
    finish(&inbox, lease(&inbox).await, Settlement::Dead { cause, ran: ran() });
    backup::tick(&embedded.store).await.unwrap();
    ask_and_go_away(&embedded.store, embedded.retry(&name("alpha"), Which::All.first(1))).await;
    finish(&inbox, lease(&inbox).await, Settlement::Done { effects: Effects::default(), ran: ran() });
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_is_paused_though_whoever_asked_for_it_went_away() {
    let (_directory, embedded, inbox) = world(Start::Beginning, 0).await;
    let pause = Pause { since: Timestamp::now(), reason: None };
    ask_and_go_away(&embedded.store, embedded.set_pause(&name("alpha"), Some(pause))).await;
    wait_for("it is paused", || inbox.desk.lock().paused);
    embedded.close().await;
}

/// One that pauses and one that resumes a backfill: what is on disk holds, whoever comes to the desk last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_goes_on_does_so_though_a_pause_of_before_comes_late_to_the_desk() {
    let (_directory, embedded, inbox) = world(Start::Now, 1).await;
    backfill(&embedded).await;
    let number = inbox.desk.lock().fill().unwrap().number();
    for step in [BackfillStep::Pause, BackfillStep::Resume] {
        drop(embedded.steer(&name("alpha"), step).await.unwrap());
    }
    inbox.steer_fill(number, BackfillStep::Pause).unwrap();
    finish(&inbox, lease(&inbox).await, Settlement::Done { effects: Effects::default(), ran: ran() });
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_desk_hands_in_while_others_still_go_back_is_handed_in_again() {
    let (_directory, embedded, alpha) = world(Start::Beginning, 3).await;
    let store = Arc::clone(&embedded.store);
    drop(embedded.attach(&name("beta"), Start::Beginning).await.unwrap());
    let beta = store.inbox(&name("beta")).unwrap();
    alpha.configure(InboxPolicy { subscriptions: hears(&["com.other"]), ..policy() });
    tokio::task::block_in_place(|| {
        let epoch = alpha.desk.lock().epoch;
        // Consumers go back one after another, by name; this keeps the last one from it.
        let held = beta.cache.lock();
        push(&store, |_| Err(rusqlite::Error::InvalidQuery));
        wait_for("alpha is back", || alpha.desk.lock().epoch > epoch);
        assert!(store.queue.refusing().is_some());
        alpha.refill().unwrap();
        assert_eq!(alpha.desk.lock().passed(), 3);
        alpha.flush();
        drop(held);
        wait_for("the store accepts", || store.queue.refusing().is_none());
        alpha.refill().unwrap();
        alpha.flush();
    });
    backup::tick(&store).await.unwrap();
    assert_eq!(position(&store).await, 3);
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_stays_where_it_is_if_a_backfill_cannot_be_taken_up() {
    let (_directory, embedded, inbox) = world(Start::Now, 1).await;
    backfill(&embedded).await;
    let fill = Fill::load(embedded.store.readers.disk().connection().unwrap(), inbox.number).unwrap().unwrap();
    drop(embedded.publish(vec![custom("a"), custom("b")]).await.unwrap());
    let mut desk = Desk::default();
    desk.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    for event in embedded.store.tail.read(&embedded.store.readers, 1, 2).unwrap() {
        desk.offer(event, None);
    }
    assert!(desk.begin(fill, |_, _| Err(rusqlite::Error::InvalidQuery)).is_err());
    assert!(desk.fill().is_none());
    let leased = std::iter::from_fn(|| desk.lanes.lease(Timestamp::now())).map(|item| item.position);
    assert_eq!(leased.collect::<BTreeSet<_>>(), [2, 3].into());
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_hears_any_more_lets_its_consumer_go_on() {
    let (_directory, embedded, inbox) = world(Start::Beginning, 3).await;
    let first = lease(&inbox).await;
    inbox.configure(InboxPolicy { subscriptions: hears(&["com.other"]), ..policy() });
    finish(&inbox, first, Settlement::Done { effects: Effects::default(), ran: ran() });
    inbox.flush();
    backup::tick(&embedded.store).await.unwrap();
    assert_eq!(position(&embedded.store).await, 3);
    embedded.close().await;
}

/// A commit that fails at its very end: what it placed and published is told to nobody as done, and delivered to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_durable_is_neither_told_nor_delivered() {
    let (_directory, embedded, inbox) = world(Start::Beginning, 0).await;
    let store = Arc::clone(&embedded.store);
    let held = hold(&store);
    let asked = {
        let embedded = Arc::clone(&embedded);
        tokio::spawn(async move { embedded.publish(vec![custom("lost")]).await.map(drop) })
    };
    wait_for("it is asked", || store.queue.depth() == 2);
    push(&store, |writer| {
        writer.connection.execute_batch("ROLLBACK")?;
        Ok(Box::new(drop))
    });
    drop(held);
    assert!(asked.await.unwrap().is_err());
    accepts(&store).await;
    assert_eq!(store.tail.head(), 0);
    assert!(inbox.lease().is_none());
    drop(embedded.publish(vec![custom("kept")]).await.unwrap());
    let delivery = lease(&inbox).await;
    assert_eq!((delivery.event.position.get(), delivery.event.lane().to_string()), (1, "kept".to_owned()));
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_decided_on_those_that_are_on_their_way_and_on_none_that_was_undone() {
    let (_directory, embedded, _inbox) = world(Start::Beginning, 0).await;
    let store = Arc::clone(&embedded.store);
    let order = placed(&embedded).await;
    let held = hold(&store);
    let asked = [2, 3].map(|depth| {
        let confirm = Arc::clone(&embedded);
        let asked =
            tokio::spawn(async move { confirm.change(order, Change::Confirmed {}).await.map(Durable::into_inner) });
        wait_for("it is asked", || store.queue.depth() == depth);
        asked
    });
    push(&store, |_| Err(rusqlite::Error::InvalidQuery));
    drop(held);
    // The second is refused for what the first one did, which is undone.
    for asked in asked {
        assert!(matches!(asked.await.unwrap(), Err(Error::Unavailable(_))));
    }
    accepts(&store).await;
    let now = embedded.change(order, Change::Confirmed {}).await.unwrap().into_inner();
    assert!(matches!(now, Changed::Done(_)), "{now:?}");
    let again = embedded.change(order, Change::Confirmed {}).await.unwrap().into_inner();
    assert!(matches!(again, Changed::Illegal(_)), "{again:?}");
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_event_holds_up_nobody() {
    for damage in ["DELETE FROM orders WHERE number = 1", "UPDATE events SET data = '{' WHERE position = 1"] {
        let (directory, embedded, inbox) = world(Start::Beginning, 0).await;
        placed(&embedded).await;
        let whole = placed(&embedded).await;
        embedded.close().await;
        drop((inbox, embedded));
        let file = directory.path().join(crate::backend::embedded::FILE);
        rusqlite::Connection::open(file).unwrap().execute_batch(damage).unwrap();

        let embedded = start(&Settings { data_dir: directory.path().to_owned() }).unwrap();
        embedded.attach(&name("alpha"), Start::Now).await.unwrap();
        let inbox = embedded.store.inbox(&name("alpha")).unwrap();
        inbox.configure(InboxPolicy { subscriptions: hears(&["order.*"]), ..policy() });
        let pending = embedded.known().await.unwrap().remove(0).pending;
        assert_eq!(pending, 1, "{damage}");
        let delivery = lease(&inbox).await;
        assert_eq!(delivery.event.order_id(), Some(whole), "{damage}");
        finish(&inbox, delivery, Settlement::Done { effects: Effects::default(), ran: ran() });
        inbox.flush();
        backup::tick(&embedded.store).await.unwrap();
        assert_eq!(position(&embedded.store).await, 2, "{damage}");
        let told = embedded.events_after(None, 10).await.unwrap();
        assert_eq!(told[0].kind(), damaged::KIND, "{damage}");
        embedded.close().await;
    }
}
