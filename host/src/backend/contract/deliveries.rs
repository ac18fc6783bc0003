//! Promises 2, 5 and 6: effects and acknowledgement together, nothing dropped, lanes in order.

use std::time::Duration;

use super::{Place, accept, done, hears, inbox, lease, name, place, policy, ran, report, settled};
use crate::backend::{
    Cause, CauseKey, CauseKind, DeliveryState, Finished, InboxPolicy, LetterQuery, MessageState, Redriven, Settlement,
    StateQuery, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Message, Reads, Record};
use crate::order::{Change, Status};
use crate::policy::OnDead;

fn adjust(key: &str, by: i64, floor: Option<i64>) -> Effects {
    Effects { adjustments: vec![Adjustment { key: key.into(), by, floor }], ..Effects::default() }
}

fn rejected() -> Settlement {
    Settlement::Dead { cause: Cause::new(CauseKind::Reject, "no"), ran: ran() }
}

fn retried(at: Timestamp) -> Settlement {
    let cause = Cause::new(CauseKind::Retry, "later");
    Settlement::Retry { at, cause, ran: ran() }
}

async fn retry(backend: &crate::backend::Backend, which: Which) -> u64 {
    backend.dead_letters.retry(&name("alpha"), which.first(10)).await.unwrap().into_inner().count
}

async fn counter(backend: &crate::backend::Backend, consumer: &str, key: &str) -> i64 {
    let query = StateQuery { prefix: key.into(), after: None, limit: 10 };
    let page = backend.consumers.state(&name(consumer), query).await.unwrap();
    page.counters.first().map_or(0, |(_, value)| *value)
}

#[tokio::test]
async fn every_effect_is_there_once_after_a_restart() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    assert_eq!(delivery.event.order_id(), Some(order.id));
    let message = Message::Email { to: "a@b.example".into(), subject: "s".into(), text: "t".into(), html: None };
    let effects = Effects {
        entries: vec![("entry".into(), Some(b"value".as_slice().into())), ("gone".into(), None)],
        order_changes: vec![(order.id, Change::Confirmed {})],
        messages: vec![message.clone()],
        records: vec![Record { dataset: "rows".into(), row: r#"{"a":1}"#.into() }],
        ..adjust("count", 3, None)
    };
    accept(&deliveries, delivery, done(effects)).await;
    // The consumer listens to its own change too.
    let confirmed = lease(&deliveries).await;
    assert_eq!(confirmed.event.kind(), "order.confirmed");
    accept(&deliveries, confirmed, done(Effects::default())).await;
    settled(&backend, "alpha").await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let report = report(&backend, "alpha").await;
    assert_eq!((report.pending, report.dead, report.done), (0, 0, 2));
    assert!(deliveries.lease().is_none(), "what was acknowledged comes again");
    let page =
        backend.consumers.state(&name("alpha"), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap();
    assert_eq!(page.entries, [("entry".to_owned(), b"value".to_vec())]);
    assert_eq!(page.counters, [("count".to_owned(), 3)]);
    assert_eq!(backend.journal.order(order.id).await.unwrap().unwrap().status, Status::Confirmed);
    let messages = backend.journal.messages(None, 10).await.unwrap().items;
    assert!(matches!(&messages[..], [it] if it.message == message && it.state == MessageState::Pending));
    assert_eq!(backend.journal.records("rows", None, 10).await.unwrap().items, [r#"{"a":1}"#]);
    let states: Vec<_> = backend.journal.deliveries_of(order.id).await.unwrap().iter().map(|it| it.state).collect();
    assert_eq!(states, [DeliveryState::Done, DeliveryState::Done]);
}

#[tokio::test]
async fn a_handler_sees_what_its_consumer_committed_before_it_is_durable() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..50 {
        place(&backend).await;
    }
    for expected in 0..50 {
        let delivery = lease(&deliveries).await;
        assert_eq!(deliveries.view().count("n").await.unwrap(), expected);
        let reads = Reads { counters: vec![("n".into(), expected)], ..Reads::default() };
        let finished = deliveries.finish(delivery, &reads, done(adjust("n", 1, None))).await;
        assert!(matches!(finished, Finished::Accepted));
    }
    settled(&backend, "alpha").await;
    assert_eq!(counter(&backend, "alpha", "n").await, 50);
}

#[tokio::test]
async fn what_a_view_answered_is_durable_once_it_says_so() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    for expected in 1..=20 {
        place(&backend).await;
        place(&backend).await;
        let (first, second) = (lease(&deliveries).await, lease(&deliveries).await);
        accept(&deliveries, first, done(adjust("n", 1, None))).await;
        let view = deliveries.view();
        assert_eq!(view.count("n").await.unwrap(), expected);
        view.durable(second.lease()).await.unwrap();
        assert_eq!(counter(&backend, "alpha", "n").await, expected, "as everybody sees it");
        accept(&deliveries, second, done(Effects::default())).await;
    }
}

#[tokio::test]
async fn what_was_read_must_still_hold_whatever_the_outcome() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    place(&backend).await;
    let (slow, quick) = (lease(&deliveries).await, lease(&deliveries).await);
    let set = |value: &'static [u8]| Effects { entries: vec![("k".into(), Some(value.into()))], ..Effects::default() };
    accept(&deliveries, quick, done(set(b"new"))).await;
    let seen_absent = Reads { entries: vec![("k".into(), None)], ..Reads::default() };
    let Finished::Conflict(slow) = deliveries.finish(slow, &seen_absent, rejected()).await else { panic!("accepted") };
    let Finished::Conflict(slow) = deliveries.finish(slow, &seen_absent, done(set(b"old"))).await else {
        panic!("accepted")
    };
    assert_eq!(slow.attempt, 1, "a conflict is not an attempt");
    let seen = Reads { entries: vec![("k".into(), Some(b"new".as_slice().into()))], ..Reads::default() };
    assert!(matches!(deliveries.finish(slow, &seen, done(set(b"newer"))).await, Finished::Accepted));
    settled(&backend, "alpha").await;
    let page =
        backend.consumers.state(&name("alpha"), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap();
    assert_eq!(page.entries, [("k".to_owned(), b"newer".to_vec())]);
}

#[tokio::test]
async fn an_order_that_moved_meanwhile_is_a_conflict() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    backend.intake.change(order.id, Change::Cancelled { reason: "late".into() }).await.unwrap().into_inner();
    let reads = Reads { orders: vec![(order.id, Some(1))], ..Reads::default() };
    let effects = Effects { order_changes: vec![(order.id, Change::Confirmed {})], ..Effects::default() };
    let Finished::Conflict(delivery) = deliveries.finish(delivery, &reads, done(effects)).await else {
        panic!("accepted")
    };
    assert_eq!(deliveries.view().order(order.id).await.unwrap().unwrap().status, Status::Cancelled);
    accept(&deliveries, delivery, done(Effects::default())).await;
}

#[tokio::test]
async fn no_floor_is_crossed() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..8 {
        place(&backend).await;
    }
    let mut leased = Vec::new();
    for _ in 0..8 {
        leased.push(lease(&deliveries).await);
    }
    let first = leased.remove(0);
    accept(&deliveries, first, done(adjust("stock", 3, None))).await;
    let mut refused = Vec::new();
    for delivery in leased {
        if let Finished::Conflict(delivery) =
            deliveries.finish(delivery, &Reads::default(), done(adjust("stock", -1, Some(0)))).await
        {
            refused.push(delivery);
        }
    }
    assert_eq!(refused.len(), 4);
    for delivery in refused {
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    settled(&backend, "alpha").await;
    assert_eq!(counter(&backend, "alpha", "stock").await, 0);
}

#[tokio::test]
async fn a_retry_keeps_its_lane_waiting_through_a_restart() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    accept(&deliveries, delivery, retried(Timestamp::now().plus(Duration::from_millis(300)))).await;
    backend.intake.change(order.id, Change::Confirmed {}).await.unwrap().into_inner();
    let other = place(&backend).await;
    let delivery = lease(&deliveries).await;
    assert_eq!(delivery.event.order_id(), Some(other.id), "another order does not wait");
    accept(&deliveries, delivery, done(Effects::default())).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let again = lease(&deliveries).await;
    assert_eq!((again.event.kind(), again.attempt), ("order.placed", 2));
    assert!(deliveries.lease().is_none(), "the lane runs one delivery at a time");
    accept(&deliveries, again, done(Effects::default())).await;
    let next = lease(&deliveries).await;
    assert_eq!((next.event.kind(), next.attempt), ("order.confirmed", 1));
    accept(&deliveries, next, done(Effects::default())).await;
    settled(&backend, "alpha").await;
    let reports = backend.journal.deliveries_of(order.id).await.unwrap();
    assert_eq!(reports[0].attempts, 2);
    assert_eq!(report(&backend, "alpha").await.pending, 0);
}

#[tokio::test]
async fn a_dead_letter_parks_its_lane_until_it_is_retried() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    let event = delivery.event.id;
    accept(&deliveries, delivery, rejected()).await;
    backend.intake.change(order.id, Change::Confirmed {}).await.unwrap().into_inner();
    assert!(deliveries.lease().is_none());
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    assert!(deliveries.lease().is_none());
    let query = LetterQuery { limit: 10, ..LetterQuery::default() };
    let letters = backend.dead_letters.list(&name("alpha"), query).await.unwrap().items;
    assert_eq!((letters.len(), letters[0].event_id, letters[0].cause.as_str()), (1, event, "no"));
    let of = |text: &str| Which::Cause(CauseKey { outcome: None, text: text.into() });
    assert_eq!(retry(&backend, of("another")).await, 0);
    assert_eq!(retry(&backend, of("no")).await, 1);
    let again = lease(&deliveries).await;
    assert_eq!((again.event.id, again.attempt), (event, 1));
    accept(&deliveries, again, rejected()).await;
    while report(&backend, "alpha").await.dead != 1 {
        tokio::task::yield_now().await;
    }
    let selection = Which::Event(event).first(10);
    let discarded = backend.dead_letters.discard(&name("alpha"), selection).await.unwrap().into_inner();
    assert_eq!(discarded, Redriven { count: 1, next: None });
    let next = lease(&deliveries).await;
    assert_eq!(next.event.kind(), "order.confirmed");
    accept(&deliveries, next, done(Effects::default())).await;
    let report = settled(&backend, "alpha").await;
    assert_eq!((report.pending, report.dead), (0, 0));
}

#[tokio::test]
async fn a_consumer_that_skips_goes_on_and_keeps_its_dead_letters() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { on_dead: OnDead::Skip, ..policy() });
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    accept(&deliveries, delivery, rejected()).await;
    backend.intake.change(order.id, Change::Confirmed {}).await.unwrap().into_inner();
    let next = lease(&deliveries).await;
    assert_eq!(next.event.kind(), "order.confirmed");
    accept(&deliveries, next, done(Effects::default())).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    assert_eq!(report(&backend, "alpha").await.dead, 1);
    assert_eq!(retry(&backend, Which::All).await, 1);
    let again = lease(&deliveries).await;
    assert_eq!(again.event.kind(), "order.placed");
    accept(&deliveries, again, done(Effects::default())).await;
    let report = settled(&backend, "alpha").await;
    assert_eq!((report.pending, report.dead), (0, 0));
}

#[tokio::test]
async fn acknowledgements_out_of_order_survive_a_restart() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..6 {
        place(&backend).await;
    }
    let mut leased = Vec::new();
    for _ in 0..6 {
        leased.push(lease(&deliveries).await);
    }
    let mut open = Vec::new();
    for (index, delivery) in leased.into_iter().enumerate() {
        if index % 2 == 0 {
            open.push(delivery.event.position);
            continue;
        }
        accept(&deliveries, delivery, done(adjust("n", 1, None))).await;
    }
    drop(deliveries);
    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let mut again = Vec::new();
    for _ in 0..3 {
        let delivery = lease(&deliveries).await;
        again.push(delivery.event.position);
        accept(&deliveries, delivery, done(adjust("n", 1, None))).await;
    }
    assert_eq!(again, open);
    settled(&backend, "alpha").await;
    assert!(deliveries.lease().is_none());
    assert_eq!(counter(&backend, "alpha", "n").await, 6);
}

#[tokio::test]
async fn a_new_consumer_starts_where_it_was_told() {
    let home = Place::new();
    let backend = home.open();
    place(&backend).await;
    let now = backend.consumers.attach(&name("now"), crate::policy::Start::Now).await.unwrap();
    now.configure(policy());
    let all = inbox(&backend, "all").await;
    place(&backend).await;
    assert_eq!(lease(&now).await.event.position.get(), 2);
    assert!(now.lease().is_none());
    assert_eq!(lease(&all).await.event.position.get(), 1);
}

#[tokio::test]
async fn concurrency_and_subscriptions_are_kept() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let only = InboxPolicy { concurrency: 2, subscriptions: hears(&["order.confirmed"]), ..policy() };
    deliveries.configure(only);
    let mut orders = Vec::new();
    for _ in 0..4 {
        orders.push(place(&backend).await);
    }
    for order in &orders {
        backend.intake.change(order.id, Change::Confirmed {}).await.unwrap().into_inner();
    }
    let (one, two) = (lease(&deliveries).await, lease(&deliveries).await);
    assert_eq!((one.event.kind(), two.event.kind()), ("order.confirmed", "order.confirmed"));
    assert!(deliveries.lease().is_none(), "two run at most");
    assert_eq!(report(&backend, "alpha").await.pending, 4);
    accept(&deliveries, one, Settlement::Released).await;
    let again = lease(&deliveries).await;
    assert_eq!((again.attempt, again.event.order_id()), (1, Some(orders[0].id)));
    accept(&deliveries, again, done(Effects::default())).await;
    accept(&deliveries, two, done(Effects::default())).await;
}
