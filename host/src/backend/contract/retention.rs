//! What is old goes, what somebody needs stays, and numbers go on where they were.

mod held;

use super::*;
use crate::backend::{Changed, Forgotten, HeldBy, Keep, OrderQuery, Pause, Retention, Which};
use crate::event::Event;
use crate::order::{Change, OrderId, Status};

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

/// What is kept once so many events are, whatever is told from memory.
async fn kept(home: &Place, backend: Backend, count: usize) -> (Backend, Vec<Arc<Event>>) {
    eventually(&format!("{count} events"), async || (home.events_kept(&backend).await == count).then_some(())).await;
    let backend = home.reopen(backend).await;
    let events = events(&backend, count).await;
    (backend, events)
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

async fn all_gone_but(backend: &Backend, kept: &[OrderId]) {
    eventually(&format!("no orders but {kept:?}"), async || (ids(backend).await == kept).then_some(())).await;
}

async fn what_is_old_and_at_its_end_goes_and_numbers_go_on(home: Place) {
    let backend = home.open().await;
    for _ in 0..100 {
        cancelled(&backend).await;
    }
    let open = place(&backend).await.id;
    let last = cancelled(&backend).await;
    let newest = events(&backend, 203).await.pop().unwrap();

    backend.upkeep.retain(SHORT);
    all_gone_but(&backend, &[last, open]).await;
    let (backend, left) = kept(&home, backend, 1).await;
    assert_eq!(left[0].id, newest.id, "the newest event stays, and with it its order");
    let next = place(&backend).await;
    cancel(&backend, open).await;
    let [old, placed, cancelled] = &events(&backend, 3).await[..] else { panic!("three events") };
    assert!(newest.position == old.position && old.position < placed.position && placed.position < cancelled.position);
    all_gone_but(&backend, &[next.id, last, open]).await;
    let events = backend.journal.events_of(open).await.unwrap();
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [cancelled.id], "an idle one can still change");

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

async fn what_a_consumer_has_to_do_stays_until_it_is_forgotten(home: Place) {
    let backend = home.open().await;
    let inbox = super::inbox(&backend, "slow").await;
    let orders = [cancelled(&backend).await, cancelled(&backend).await, cancelled(&backend).await];
    // The first is handled, the second is a dead letter, the third is not looked at.
    let newest = events(&backend, 6).await.pop().unwrap();
    let [first, second, third] = leases(&inbox).await;
    accept(&inbox, first, done(Effects::default())).await;
    accept(&inbox, second, Settlement::Dead { cause: cause(), ran: ran() }).await;
    let rest = [third, lease(&inbox).await];

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
    leave(inbox);
    assert_eq!(backend.consumers.forget(&name("slow")).await.unwrap().into_inner(), Forgotten::Done);
    assert_eq!(backend.consumers.forget(&name("slow")).await.unwrap().into_inner(), Forgotten::Unknown);
    all_gone_but(&backend, &orders[2..]).await;
    let (_backend, left) = kept(&home, backend, 1).await;
    assert_eq!(left[0].id, newest.id);
}

async fn a_dead_letter_that_is_discarded_holds_nothing_back(home: Place) {
    let backend = home.open().await;
    let inbox = super::inbox(&backend, "strict").await;
    let order = place(&backend).await;
    accept_dead(&inbox).await;
    cancel(&backend, order.id).await;
    let last = place(&backend).await;
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

async fn a_consumer_that_comes_late_begins_at_the_oldest_event_that_is_kept(home: Place) {
    let backend = home.open().await;
    for _ in 0..20 {
        cancelled(&backend).await;
    }
    let last = place(&backend).await;
    backend.upkeep.retain(SHORT);
    all_gone_but(&backend, &[last.id]).await;
    let (backend, left) = kept(&home, backend, 1).await;
    for (consumer, start) in [("all", Start::Beginning), ("long-ago", Start::At(Timestamp::from_millis(1)))] {
        let inbox = backend.consumers.attach(&name(consumer), start).await.unwrap();
        inbox.configure(policy());
        report_when(&backend, consumer, |it| it.pending == 1).await;
        let delivery = lease(&inbox).await;
        assert_eq!(delivery.event.id, left[0].id);
        accept(&inbox, delivery, done(Effects::default())).await;
        report_when(&backend, consumer, |it| it.pending == 0).await;
    }
}

async fn a_repeat_after_its_key_went_is_a_new_order(home: Place) {
    let backend = home.open().await;
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

async fn a_repeat_of_an_event_after_its_id_went_is_a_new_event(home: Place) {
    let backend = home.open().await;
    let publish = async || {
        let event = Custom { origin_id: Some("1".into()), ..custom("tea") };
        backend.intake.publish(vec![event]).await.unwrap().into_inner().remove(0)
    };
    let first = publish().await;
    let again = publish().await;
    assert_eq!((again.id, again.repeated), (first.id, true));
    backend.upkeep.retain(SHORT);
    let second =
        eventually("the id went", async || Some(publish().await).filter(|published| !published.repeated)).await;
    assert_ne!(second.id, first.id);
}

async fn a_consumer_of_a_name_that_was_forgotten_begins_with_nothing(home: Place) {
    let backend = home.open().await;
    let inbox = super::inbox(&backend, "again").await;
    let order = place(&backend).await;
    let effects = Effects { entries: vec![("key".into(), Some(b"old".as_slice().into()))], ..Effects::default() };
    let delivery = lease(&inbox).await;
    accept(&inbox, delivery, done(effects)).await;
    settled(&backend, "again").await;
    leave(inbox);
    assert_eq!(backend.consumers.forget(&name("again")).await.unwrap().into_inner(), Forgotten::Done);
    assert!(backend.consumers.known().await.unwrap().is_empty());
    let inbox = super::inbox(&backend, "again").await;
    assert_eq!(inbox.view().get("key").await.unwrap(), None);
    assert_eq!(report(&backend, "again").await.done, 0);
    let delivery = lease(&inbox).await;
    assert_eq!(delivery.event.order_id(), Some(order.id), "from the beginning, as it asked");
    accept(&inbox, delivery, done(Effects::default())).await;
    settled(&backend, "again").await;
}

/// Nobody takes anything out of it any more.
fn leave(inbox: Arc<dyn Inbox>) {
    inbox.configure(InboxPolicy { concurrency: 0, ..policy() });
}

/// An inbox of everything.
async fn hearing_all(backend: &Backend, consumer: &str) -> Arc<dyn Inbox> {
    let inbox = super::inbox(backend, consumer).await;
    inbox.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    inbox
}

async fn handle(inbox: &Arc<dyn Inbox>) -> Arc<Event> {
    let delivery = lease(inbox).await;
    let event = Arc::clone(&delivery.event);
    accept(inbox, delivery, done(Effects::default())).await;
    event
}

async fn a_lane_whose_events_went_goes_on_where_it_was(home: Place) {
    let backend = home.open().await;
    let inbox = hearing_all(&backend, "alpha").await;
    // One lane goes as a whole, the other keeps its last event.
    for subject in ["salt", "salt", "tea", "tea", "tea"] {
        publish(&backend, subject).await;
        handle(&inbox).await;
    }
    settled(&backend, "alpha").await;
    events(&backend, 5).await;
    backend.upkeep.retain(SHORT);
    drop(inbox);
    let (backend, left) = kept(&home, backend, 1).await;
    let inbox = hearing_all(&backend, "alpha").await;
    for round in 1..=2 {
        for subject in ["salt", "tea"] {
            publish(&backend, subject).await;
            let event = handle(&inbox).await;
            assert_eq!(event.lane().to_string(), subject);
            assert!(event.position > left[0].position);
        }
        report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 5 + 2 * round)).await;
    }
    nothing_comes(&home, &backend, &inbox, "all were handled once").await;
}

async fn an_event_about_an_order_that_went_is_delivered(home: Place) {
    let backend = home.open().await;
    let inbox = hearing_all(&backend, "alpha").await;
    let gone = cancelled(&backend).await;
    let last = place(&backend).await;
    for _ in 0..3 {
        handle(&inbox).await;
    }
    backend.upkeep.retain(SHORT);
    all_gone_but(&backend, &[last.id]).await;
    for count in 1..=2 {
        let about = crate::event::Custom { order_id: Some(gone), ..custom("late") };
        backend.intake.publish(vec![about]).await.unwrap().into_inner();
        assert_eq!(handle(&inbox).await.order_id(), Some(gone));
        report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 3 + count)).await;
        assert!(backend.journal.order(gone).await.unwrap().is_none(), "the order does not come back with it");
    }
}

async fn an_order_outlives_its_events(home: Place) {
    let backend = home.open().await;
    let Placed::New(order) = backend.intake.place(placement(None, Some("k"), 1)).await.unwrap().into_inner() else {
        panic!("a new order");
    };
    confirm(&backend, order.id).await;
    publish(&backend, "tea").await;
    events(&backend, 3).await;
    let events_only = Retention { events: SOON, attempts: Keep::Forever, ..Retention::default() };
    backend.upkeep.retain(events_only);
    let (backend, _) = kept(&home, backend, 1).await;

    assert_eq!(ids(&backend).await, [order.id]);
    let now = backend.journal.order(order.id).await.unwrap().unwrap();
    assert_eq!((now.revision, &now.content.customer.id), (2, &order.content.customer.id));
    assert!(backend.journal.events_of(order.id).await.unwrap().is_empty());
    let of_customer = OrderQuery { customer: Some("c-1".into()), limit: 10, ..OrderQuery::default() };
    assert_eq!(backend.journal.orders(of_customer).await.unwrap().items.len(), 1);
    let again = backend.intake.place(placement(None, Some("k"), 1)).await.unwrap().into_inner();
    let Placed::Repeated(again) = again else { panic!("{again:?}") };
    assert_eq!((again.id, again.status, again.revision), (order.id, Status::Placed, 1), "as it was placed");
    cancel(&backend, order.id).await;
    let events = backend.journal.events_of(order.id).await.unwrap();
    assert_eq!(events.iter().map(|event| event.kind()).collect::<Vec<_>>(), ["order.cancelled"]);
}

async fn who_is_paused_or_gone_gets_what_it_missed_however_old_it_is(home: Place) {
    let backend = home.open().await;
    let inboxes = [super::inbox(&backend, "gone").await, super::inbox(&backend, "paused").await];
    cancelled(&backend).await;
    for (inbox, consumer) in inboxes.into_iter().zip(["gone", "paused"]) {
        handle(&inbox).await;
        handle(&inbox).await;
        settled(&backend, consumer).await;
        leave(inbox);
    }
    let pause = Pause { since: Timestamp::now(), reason: None };
    assert!(backend.consumers.set_pause(&name("paused"), Some(pause)).await.unwrap().into_inner());
    let missed = [cancelled(&backend).await, cancelled(&backend).await, cancelled(&backend).await];
    events(&backend, 8).await;
    backend.upkeep.retain(SHORT);
    // What both are through with goes.
    let (backend, left) = kept(&home, backend, 6).await;

    backend.upkeep.retain(SHORT);
    for consumer in ["gone", "paused"] {
        let held = eventually("it holds events back", async || report(&backend, consumer).await.held).await;
        assert_eq!((held.reason, held.events), (HeldBy::Position, 5));
        if consumer == "paused" {
            assert!(backend.consumers.set_pause(&name(consumer), None).await.unwrap().into_inner());
        }
        let inbox = super::inbox(&backend, consumer).await;
        let mut handled = Vec::new();
        for _ in 0..6 {
            handled.push(handle(&inbox).await);
        }
        for order in missed {
            let of = |events: &[Arc<Event>]| -> Vec<_> {
                events.iter().filter(|event| event.order_id() == Some(order)).map(|event| event.id).collect()
            };
            assert_eq!(of(&handled), of(&left), "all, and in their order");
        }
        settled(&backend, consumer).await;
    }
    all_gone_but(&backend, &missed[2..]).await;
}

async fn what_a_large_commit_adds_to_a_lane_that_goes_comes_once_and_in_order(home: Place) {
    let backend = home.open().await;
    backend.upkeep.retain(SHORT);
    let writer = super::inbox(&backend, "writer").await;
    let reader = super::inbox(&backend, "reader").await;
    reader.configure(InboxPolicy { subscriptions: hears(&["com.example.counted"]), ..policy() });
    let write = async |round: u8, delivery: Delivery| {
        let entries = (0..120).map(|key| (key.to_string().into(), Some([round].as_slice().into()))).collect();
        let effects =
            Effects { entries, events: vec![custom("tea"), custom(&round.to_string())], ..Effects::default() };
        accept(&writer, delivery, done(effects)).await;
    };
    let mut last = None;
    for round in 0..6 {
        place(&backend).await;
        write(round, lease(&writer).await).await;
        for _ in 0..2 {
            let event = handle(&reader).await;
            if event.lane().to_string() == "tea" {
                assert!(last.replace(event.position) < Some(event.position));
            }
        }
    }
    settled(&backend, "reader").await;
    // Who is about to write sees the lane go whole.
    place(&backend).await;
    let delivery = lease(&writer).await;
    let next = place(&backend).await;
    eventually("the newest event is told of", async || {
        let told = backend.journal.events_after(None, 1_000).await.unwrap();
        told.iter().any(|event| event.order_id() == Some(next.id)).then_some(())
    })
    .await;
    let is_left = async || (home.events_kept(&backend).await == 2).then_some(());
    eventually("what is before the one that is handled goes", is_left).await;
    write(6, delivery).await;
    let delivery = lease(&writer).await;
    assert_eq!(delivery.event.order_id(), Some(next.id));
    accept(&writer, delivery, done(Effects::default())).await;
    handle(&reader).await;
    handle(&reader).await;
    report_when(&backend, "reader", |it| (it.pending, it.done) == (0, 14)).await;
    assert_eq!(writer.view().get("119").await.unwrap().as_deref(), Some([6].as_slice()));
}

fn cause() -> crate::backend::Cause {
    crate::backend::Cause::new(crate::backend::CauseKind::Reject, "test")
}

claims! {
    what_is_old_and_at_its_end_goes_and_numbers_go_on on [embedded, aws],
    what_a_consumer_has_to_do_stays_until_it_is_forgotten on [embedded, aws],
    a_dead_letter_that_is_discarded_holds_nothing_back on [embedded, aws],
    a_consumer_that_comes_late_begins_at_the_oldest_event_that_is_kept on [embedded, aws],
    a_lane_whose_events_went_goes_on_where_it_was on [embedded, aws],
    an_event_about_an_order_that_went_is_delivered on [embedded, aws],
    an_order_outlives_its_events on [embedded, aws],
    who_is_paused_or_gone_gets_what_it_missed_however_old_it_is on [embedded, aws],
    what_a_large_commit_adds_to_a_lane_that_goes_comes_once_and_in_order on [embedded, aws],
    a_repeat_after_its_key_went_is_a_new_order on [embedded, aws],
    a_repeat_of_an_event_after_its_id_went_is_a_new_event on [embedded, aws],
    a_consumer_of_a_name_that_was_forgotten_begins_with_nothing on [embedded, aws],
}
