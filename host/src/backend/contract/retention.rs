//! What is old goes, what somebody needs stays, and numbers go on where they were.

use super::*;
use crate::backend::{
    Backfill, BackfillEffects, BackfillStep, Backfilled, Changed, Forgotten, HeldBy, Keep, OrderQuery, Retention,
    Since, Started, Which,
};
use crate::order::{Change, OrderId};

const SOON: Keep = Keep::For(Duration::from_millis(1));

/// Lets go of all that it may, at once.
const SHORT: Retention = Retention {
    events: SOON,
    orders: SOON,
    open_orders: Keep::Forever,
    attempts: SOON,
    messages: SOON,
    records: SOON,
    idempotency: SOON,
};

async fn positions(backend: &Backend) -> Vec<u64> {
    let events = backend.journal.events_after(None, 1_000).await.unwrap();
    events.iter().map(|event| event.position.get()).collect()
}

/// The positions that are on disk, whatever the newest events in memory say.
async fn kept(place: &Place, backend: Backend) -> (Backend, Vec<u64>) {
    let backend = place.reopen(backend).await;
    let positions = positions(&backend).await;
    (backend, positions)
}

async fn ids(backend: &Backend) -> Vec<OrderId> {
    let query = OrderQuery { limit: 1_000, ..OrderQuery::default() };
    backend.journal.orders(query).await.unwrap().items.iter().map(|order| order.id).collect()
}

async fn cancelled(backend: &Backend) -> OrderId {
    let order = place(backend).await;
    cancel(backend, order.id).await;
    order.id
}

async fn cancel(backend: &Backend, id: OrderId) {
    let change = Change::Cancelled { reason: "test".into() };
    assert!(matches!(backend.intake.change(id, change).await.unwrap().into_inner(), Changed::Done(_)));
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "not within 10 s: {what}");
        tokio::task::yield_now().await;
    }
}

async fn all_gone_but(backend: &Backend, kept: &[OrderId]) {
    eventually(&format!("no orders but {kept:?}"), async || (ids(backend).await == kept).then_some(())).await;
}

#[tokio::test]
async fn what_is_old_and_at_its_end_goes_and_numbers_go_on() {
    let place = Place::new();
    let mut backend = place.open();
    for _ in 0..100 {
        cancelled(&backend).await;
    }
    let open = super::place(&backend).await.id;
    let last = cancelled(&backend).await;
    assert_eq!(positions(&backend).await.last(), Some(&203));

    backend.upkeep.retain(SHORT);
    all_gone_but(&backend, &[last, open]).await;
    // Events as young as these may wait for another round, which is none of their orders' concern.
    eventually("no event but the newest", async || (place.rows("events") == 1).then_some(())).await;
    let (reopened, positions) = kept(&place, backend).await;
    assert_eq!(positions, [203], "the newest event stays, and with it its order");
    backend = reopened;
    let next = super::place(&backend).await;
    assert_eq!(self::positions(&backend).await.last(), Some(&204));
    cancel(&backend, open).await;
    assert_eq!(ids(&backend).await, [next.id, last, open], "an order that was idle can still change");
    let events = backend.journal.events_of(open).await.unwrap();
    assert_eq!(events.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [205]);

    backend.upkeep.retain(SHORT);
    eventually("the orders that ended went too", async || {
        let ids = ids(&backend).await;
        (!ids.contains(&last)).then_some(())
    })
    .await;
    assert!(backend.journal.order(last).await.unwrap().is_none());
    let refused = backend.intake.change(last, Change::Delivered {}).await.unwrap().into_inner();
    assert!(!matches!(refused, Changed::Done(_)), "{refused:?}");
}

#[tokio::test]
async fn what_a_consumer_has_to_do_stays_until_it_is_forgotten() {
    let place = Place::new();
    let backend = place.open();
    let inbox = super::inbox(&backend, "slow").await;
    let orders = [cancelled(&backend).await, cancelled(&backend).await, cancelled(&backend).await];
    // The first is handled, the second is a dead letter, the third is not looked at.
    let first = lease(&inbox).await;
    accept(&inbox, first, done(Effects::default())).await;
    let second = lease(&inbox).await;
    assert_eq!(second.event.position.get(), 3);
    accept(&inbox, second, Settlement::Dead { cause: cause(), ran: ran() }).await;
    let rest = [lease(&inbox).await, lease(&inbox).await];

    backend.upkeep.retain(SHORT);
    let held = async |by: HeldBy, events: u64| {
        eventually(&format!("{events} held by {by:?}"), async || {
            report(&backend, "slow").await.held.filter(|held| held.reason == by && held.events == events)
        })
        .await
    };
    // All that come behind the first, but for the newest.
    held(HeldBy::Position, 4).await;
    for delivery in rest {
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    let last = lease(&inbox).await;
    accept(&inbox, last, done(Effects::default())).await;
    held(HeldBy::Delivery, 3).await;
    // The first went with its events; the others stay with theirs.
    all_gone_but(&backend, &[orders[2], orders[1]]).await;

    assert_eq!(backend.consumers.forget(&name("slow")).await.unwrap().into_inner(), Forgotten::InUse);
    drop(inbox);
    assert_eq!(backend.consumers.forget(&name("slow")).await.unwrap().into_inner(), Forgotten::Done);
    assert_eq!(backend.consumers.forget(&name("slow")).await.unwrap().into_inner(), Forgotten::Unknown);
    all_gone_but(&backend, &orders[2..]).await;
    let (_backend, positions) = kept(&place, backend).await;
    assert_eq!(positions, [6]);
}

#[tokio::test]
async fn a_dead_letter_that_is_discarded_holds_nothing_back() {
    let place = Place::new();
    let backend = place.open();
    let inbox = super::inbox(&backend, "strict").await;
    let order = super::place(&backend).await;
    accept_dead(&inbox).await;
    cancel(&backend, order.id).await;
    let last = super::place(&backend).await;
    let delivery = lease(&inbox).await;
    accept(&inbox, delivery, done(Effects::default())).await;
    backend.upkeep.retain(SHORT);
    eventually("the letter holds events back", async || report(&backend, "strict").await.held).await;
    assert_eq!(
        backend.dead_letters.discard(&name("strict"), Which::All.first(10)).await.unwrap().into_inner().count,
        1
    );
    let next = lease(&inbox).await;
    accept(&inbox, next, done(Effects::default())).await;
    all_gone_but(&backend, &[last.id]).await;
}

async fn accept_dead(inbox: &Arc<dyn Inbox>) {
    let delivery = lease(inbox).await;
    accept(inbox, delivery, Settlement::Dead { cause: cause(), ran: ran() }).await;
}

#[tokio::test]
async fn a_consumer_that_comes_late_begins_at_the_oldest_event_that_is_kept() {
    let place = Place::new();
    let backend = place.open();
    for _ in 0..20 {
        cancelled(&backend).await;
    }
    let last = super::place(&backend).await;
    backend.upkeep.retain(SHORT);
    all_gone_but(&backend, &[last.id]).await;
    let (backend, positions) = kept(&place, backend).await;
    assert_eq!(positions, [41]);
    for (consumer, start) in [("all", Start::Beginning), ("long-ago", Start::At(Timestamp::from_millis(1)))] {
        let inbox = backend.consumers.attach(&name(consumer), start).await.unwrap();
        inbox.configure(policy());
        assert_eq!(report(&backend, consumer).await.pending, 1);
        let delivery = lease(&inbox).await;
        assert_eq!(delivery.event.position.get(), 41);
        accept(&inbox, delivery, done(Effects::default())).await;
        assert_eq!(settled(&backend, consumer).await.pending, 0);
    }
}

#[tokio::test]
async fn a_repeat_after_its_key_went_is_a_new_order() {
    let place = Place::new();
    let backend = place.open();
    let Placed::New(first) = backend.intake.place(placement(None, Some("k"), 1)).await.unwrap().into_inner() else {
        panic!("a new order");
    };
    let again = backend.intake.place(placement(None, Some("k"), 1)).await.unwrap().into_inner();
    assert!(matches!(again, Placed::Repeated(order) if order.id == first.id));
    backend.upkeep.retain(SHORT);
    let second = eventually("the key went", async || {
        match backend.intake.place(placement(None, Some("k"), 1)).await.unwrap().into_inner() {
            Placed::New(order) => Some(order),
            _ => None,
        }
    })
    .await;
    assert_ne!(first.id, second.id);
}

#[tokio::test]
async fn a_consumer_of_a_name_that_was_forgotten_begins_with_nothing() {
    let place = Place::new();
    let backend = place.open();
    let inbox = super::inbox(&backend, "again").await;
    super::place(&backend).await;
    let effects = Effects { entries: vec![("key".into(), Some(b"old".as_slice().into()))], ..Effects::default() };
    let delivery = lease(&inbox).await;
    accept(&inbox, delivery, done(effects)).await;
    settled(&backend, "again").await;
    drop(inbox);
    assert_eq!(backend.consumers.forget(&name("again")).await.unwrap().into_inner(), Forgotten::Done);
    assert!(backend.consumers.known().await.unwrap().is_empty());
    let inbox = super::inbox(&backend, "again").await;
    assert_eq!(inbox.view().get("key").await.unwrap(), None);
    assert_eq!(report(&backend, "again").await.done, 0);
    let delivery = lease(&inbox).await;
    assert_eq!(delivery.event.position.get(), 1, "from the beginning, as it asked");
    accept(&inbox, delivery, done(Effects::default())).await;
    settled(&backend, "again").await;
}

fn cause() -> crate::backend::Cause {
    crate::backend::Cause::new(crate::backend::CauseKind::Reject, "test")
}

#[tokio::test]
async fn a_backfill_that_is_under_way_holds_its_history_back() {
    let place = Place::new();
    let backend = place.open();
    for _ in 0..5 {
        cancelled(&backend).await;
    }
    let last = cancelled(&backend).await;
    let late = backend.consumers.attach(&name("late"), Start::Now).await.unwrap();
    let asked = Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1000000/s".parse().unwrap(),
        effects: BackfillEffects::All,
        of: Backfilled::Missed,
    };
    // Nobody listens yet, so it does not come on.
    late.configure(InboxPolicy { concurrency: 0, ..policy() });
    let started = backend.backfills.start(&name("late"), asked).await.unwrap().into_inner();
    assert!(matches!(started, Started::Yes(_)), "{started:?}");
    backend.upkeep.retain(SHORT);
    let held = eventually("the backfill holds events back", async || report(&backend, "late").await.held).await;
    assert_eq!((held.reason, held.events), (HeldBy::Backfill, 11));
    assert_eq!(ids(&backend).await.len(), 6);
    let _ = backend.backfills.steer(&name("late"), BackfillStep::Cancel).await.unwrap();
    all_gone_but(&backend, &[last]).await;
}
