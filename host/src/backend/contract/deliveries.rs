//! Promises 2, 5 and 6: effects and acknowledgement together, nothing dropped, lanes in order.

use std::collections::HashSet;
use std::time::Duration;

use super::{
    Place, accept, confirm, done, events, hears, inbox, lease, leases, name, nothing_comes, place, policy, ran,
    report_when, settled,
};
use crate::backend::{
    Cause, CauseKey, CauseKind, DeliveryState, Finished, InboxPolicy, LetterQuery, MessageState, Origin, Redriven,
    Settlement, StateQuery, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Message, Reads, Record};
use crate::order::{Change, Status};
use crate::policy::{OnDead, Start};

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

pub async fn every_effect_is_there_once_after_a_restart(home: Place) {
    let backend = home.open().await;
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
    report_when(&backend, "alpha", |it| (it.pending, it.dead, it.done) == (0, 0, 2)).await;
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
    nothing_comes(&home, &backend, &deliveries, "what was acknowledged comes again").await;
}

pub async fn a_handler_sees_what_its_consumer_committed_before_it_is_durable(home: Place) {
    let backend = home.open().await;
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

async fn what_a_view_answered_is_durable_once_it_says_so(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for expected in 1..=20 {
        place(&backend).await;
        place(&backend).await;
        let [first, second] = leases(&deliveries).await;
        accept(&deliveries, first, done(adjust("n", 1, None))).await;
        let view = deliveries.view();
        assert_eq!(view.count("n").await.unwrap(), expected);
        view.durable(second.lease()).await.unwrap();
        assert_eq!(counter(&backend, "alpha", "n").await, expected, "as everybody sees it");
        accept(&deliveries, second, done(Effects::default())).await;
    }
}

pub async fn what_was_read_must_still_hold_whatever_the_outcome(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    place(&backend).await;
    let [slow, quick] = leases(&deliveries).await;
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

    place(&backend).await;
    place(&backend).await;
    let [mut slow, quick] = leases(&deliveries).await;
    accept(&deliveries, quick, done(adjust("n", 1, None))).await;
    let counted = |n| Reads { counters: vec![("n".into(), n)], ..Reads::default() };
    for settlement in [done(Effects::default()), retried(Timestamp::now()), done(set(b"newest"))] {
        let Finished::Conflict(again) = deliveries.finish(slow, &counted(0), settlement).await else {
            panic!("accepted")
        };
        slow = again;
    }
    assert!(matches!(deliveries.finish(slow, &counted(1), done(Effects::default())).await, Finished::Accepted));
    settled(&backend, "alpha").await;
    let page =
        backend.consumers.state(&name("alpha"), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap();
    assert_eq!(page.entries, [("k".to_owned(), b"newer".to_vec())]);
}

async fn an_order_that_moved_meanwhile_is_a_conflict(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    backend.intake.change(order.id, Change::Cancelled { reason: "late".into() }).await.unwrap().into_inner();
    let reads = Reads { orders: vec![(order.id, Some(1))], ..Reads::default() };
    let effects = Effects { order_changes: vec![(order.id, Change::Confirmed {})], ..Effects::default() };
    let mut again = delivery;
    for settlement in [done(effects), done(Effects::default()), rejected()] {
        let Finished::Conflict(delivery) = deliveries.finish(again, &reads, settlement).await else {
            panic!("accepted")
        };
        again = delivery;
    }
    let delivery = again;
    assert_eq!(deliveries.view().order(order.id).await.unwrap().unwrap().status, Status::Cancelled);
    accept(&deliveries, delivery, done(Effects::default())).await;
}

async fn an_order_that_moved_before_it_was_read_is_none(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    backend.intake.change(order.id, Change::Cancelled { reason: "late".into() }).await.unwrap().into_inner();
    let seen = deliveries.view().order(order.id).await.unwrap().unwrap();
    assert_eq!((delivery.event.kind(), seen.revision), ("order.placed", 2));
    let reads = Reads { orders: vec![(order.id, Some(2))], ..Reads::default() };
    let finished = deliveries.finish(delivery, &reads, done(Effects::default())).await;
    assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
}

pub async fn no_floor_is_crossed(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..8 {
        place(&backend).await;
    }
    let [first, leased @ ..] = leases::<8>(&deliveries).await;
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

pub async fn a_retry_keeps_its_lane_waiting_and_no_other_through_a_restart(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    accept(&deliveries, delivery, retried(Timestamp::now().plus(Duration::from_secs(3_600)))).await;
    confirm(&backend, order.id).await;
    let other = place(&backend).await;
    let delivery = lease(&deliveries).await;
    assert_eq!(delivery.event.order_id(), Some(other.id), "another order does not wait");
    accept(&deliveries, delivery, done(Effects::default())).await;
    nothing_comes(&home, &backend, &deliveries, "the lane waits for the retry").await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    report_when(&backend, "alpha", |it| it.pending == 2).await;
    nothing_comes(&home, &backend, &deliveries, "it waits still").await;
    let states: Vec<_> = backend.journal.deliveries_of(order.id).await.unwrap().iter().map(|it| it.state).collect();
    assert_eq!(states, [DeliveryState::Retrying, DeliveryState::Waiting]);
}

pub async fn a_retry_comes_when_it_is_due_and_before_its_lane_goes_on(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let due = Timestamp::now().plus(Duration::from_millis(300));
    accept(&deliveries, lease(&deliveries).await, retried(due)).await;
    confirm(&backend, order.id).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let again = lease(&deliveries).await;
    assert_eq!((again.event.kind(), again.attempt), ("order.placed", 2));
    assert!(Timestamp::now() >= due, "it comes no sooner");
    nothing_comes(&home, &backend, &deliveries, "the lane runs one delivery at a time").await;
    accept(&deliveries, again, done(Effects::default())).await;
    let next = lease(&deliveries).await;
    assert_eq!((next.event.kind(), next.attempt), ("order.confirmed", 1));
    accept(&deliveries, next, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| it.pending == 0).await;
    let reports = backend.journal.deliveries_of(order.id).await.unwrap();
    assert_eq!(reports[0].attempts, 2);
}

pub async fn a_dead_letter_parks_its_lane_until_it_is_retried(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    let event = delivery.event.id;
    accept(&deliveries, delivery, rejected()).await;
    confirm(&backend, order.id).await;
    nothing_comes(&home, &backend, &deliveries, "the lane is parked").await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    nothing_comes(&home, &backend, &deliveries, "it is parked still").await;
    let query = LetterQuery { limit: 10, ..LetterQuery::default() };
    let letters = backend.dead_letters.list(&name("alpha"), query).await.unwrap().items;
    assert_eq!((letters.len(), letters[0].event_id, letters[0].cause.as_str()), (1, event, "no"));
    let of = |text: &str| Which::Cause(CauseKey { outcome: None, text: text.into() });
    assert_eq!(retry(&backend, of("another")).await, 0);
    assert_eq!(retry(&backend, of("no")).await, 1);
    let again = lease(&deliveries).await;
    assert_eq!((again.event.id, again.attempt), (event, 1));
    accept(&deliveries, again, rejected()).await;
    report_when(&backend, "alpha", |it| it.dead == 1).await;
    let selection = Which::Event(event).first(10);
    let discarded = backend.dead_letters.discard(&name("alpha"), selection).await.unwrap().into_inner();
    assert_eq!(discarded, Redriven { count: 1, next: None });
    let next = lease(&deliveries).await;
    assert_eq!(next.event.kind(), "order.confirmed");
    accept(&deliveries, next, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (0, 0)).await;
}

async fn a_delivery_is_as_old_as_its_first_attempt_until_a_person_retries_it(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    let first = lease(&deliveries).await;
    let began = first.first_attempt_at;
    accept(&deliveries, first, retried(Timestamp::now())).await;
    let second = lease(&deliveries).await;
    assert_eq!((second.attempt, second.first_attempt_at), (2, began));
    accept(&deliveries, second, retried(Timestamp::now())).await;
    report_when(&backend, "alpha", |it| it.pending == 1).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let third = lease(&deliveries).await;
    assert_eq!((third.attempt, third.first_attempt_at), (3, began), "a restart makes it no younger");
    accept(&deliveries, third, rejected()).await;
    report_when(&backend, "alpha", |it| it.dead == 1).await;
    let retried_at = Timestamp::now();
    assert_eq!(retry(&backend, Which::All).await, 1);
    let again = lease(&deliveries).await;
    assert!(again.first_attempt_at >= retried_at && again.first_attempt_at > began);
    drop((again, deliveries));

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let again = lease(&deliveries).await;
    assert_eq!((again.attempt, again.origin), (1, Origin::Replay));
    assert!(again.first_attempt_at >= retried_at);
    accept(&deliveries, again, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (0, 0)).await;
}

async fn a_consumer_that_skips_goes_on_and_keeps_its_dead_letters(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { on_dead: OnDead::Skip, ..policy() });
    let order = place(&backend).await;
    let delivery = lease(&deliveries).await;
    accept(&deliveries, delivery, rejected()).await;
    confirm(&backend, order.id).await;
    let next = lease(&deliveries).await;
    assert_eq!(next.event.kind(), "order.confirmed");
    accept(&deliveries, next, done(Effects::default())).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    report_when(&backend, "alpha", |it| it.dead == 1).await;
    assert_eq!(retry(&backend, Which::All).await, 1);
    let again = lease(&deliveries).await;
    assert_eq!(again.event.kind(), "order.placed");
    accept(&deliveries, again, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (0, 0)).await;
}

pub async fn acknowledgements_out_of_order_survive_a_restart(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..6 {
        place(&backend).await;
    }
    let mut open = Vec::new();
    for (index, delivery) in leases::<6>(&deliveries).await.into_iter().enumerate() {
        if index % 2 == 0 {
            open.push(delivery.event.id);
            continue;
        }
        accept(&deliveries, delivery, done(adjust("n", 1, None))).await;
    }
    drop(deliveries);
    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let again = leases::<3>(&deliveries).await;
    assert_eq!(again.each_ref().map(|delivery| delivery.event.id), open[..]);
    for delivery in again {
        accept(&deliveries, delivery, done(adjust("n", 1, None))).await;
    }
    settled(&backend, "alpha").await;
    nothing_comes(&home, &backend, &deliveries, "each was done").await;
    assert_eq!(counter(&backend, "alpha", "n").await, 6);
}

async fn a_new_consumer_starts_where_it_was_told(home: Place) {
    let backend = home.open().await;
    let old = place(&backend).await;
    let now = backend.consumers.attach(&name("now"), Start::Now).await.unwrap();
    now.configure(policy());
    let all = inbox(&backend, "all").await;
    let new = place(&backend).await;
    assert_eq!(lease(&now).await.event.order_id(), Some(new.id));
    let heard = leases(&all).await.map(|delivery| delivery.event.order_id());
    assert_eq!(heard, [Some(old.id), Some(new.id)]);
    nothing_comes(&home, &backend, &now, "it began after the first").await;
}

async fn a_new_consumer_starts_at_the_very_moment_that_it_was_told(home: Place) {
    let backend = home.open().await;
    place(&backend).await;
    place(&backend).await;
    let events = events(&backend, 2).await;
    let then = backend.consumers.attach(&name("then"), Start::At(events[1].time)).await.unwrap();
    then.configure(policy());
    // Both may be of one.
    let first = events.iter().find(|event| event.time >= events[1].time).unwrap();
    assert_eq!(lease(&then).await.event.id, first.id);
}

async fn events_wait_for_a_consumer_that_was_introduced(home: Place) {
    let backend = home.open().await;
    place(&backend).await;
    let late = name("late");
    backend.consumers.introduce(&late, Start::Now).await.unwrap();
    let known = backend.consumers.known().await.unwrap();
    assert_eq!(known.iter().map(|report| report.name.as_str()).collect::<Vec<_>>(), ["late"]);
    let first = place(&backend).await.id;
    let backend = home.reopen(backend).await;
    backend.consumers.introduce(&late, Start::Now).await.unwrap();
    let second = place(&backend).await.id;
    let inbox = backend.consumers.attach(&late, Start::Now).await.unwrap();
    inbox.configure(policy());
    let waited = leases::<2>(&inbox).await;
    let orders: HashSet<_> = waited.iter().filter_map(|delivery| delivery.event.order_id()).collect();
    assert_eq!(orders, HashSet::from([first, second]));
    for delivery in waited {
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    nothing_comes(&home, &backend, &inbox, "the first order was before it").await;
}

async fn concurrency_and_subscriptions_are_kept(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let only = InboxPolicy { concurrency: 2, subscriptions: hears(&["order.confirmed"]), ..policy() };
    deliveries.configure(only);
    let mut orders = Vec::new();
    for _ in 0..4 {
        orders.push(place(&backend).await);
    }
    for order in &orders {
        confirm(&backend, order.id).await;
    }
    let [one, two] = leases(&deliveries).await;
    assert_eq!((one.event.kind(), two.event.kind()), ("order.confirmed", "order.confirmed"));
    assert!(deliveries.lease().is_none(), "two run at most");
    report_when(&backend, "alpha", |it| it.pending == 4).await;
    let released = one.event.id;
    accept(&deliveries, one, Settlement::Released).await;
    accept(&deliveries, two, done(Effects::default())).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        let delivery = lease(&deliveries).await;
        assert_eq!((delivery.attempt, delivery.event.kind()), (1, "order.confirmed"), "no attempt was made");
        left.push(delivery.event.id);
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    assert!(left.contains(&released));
    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 4)).await;
}

claims! {
    every_effect_is_there_once_after_a_restart on [embedded, aws, standard],
    a_handler_sees_what_its_consumer_committed_before_it_is_durable on [embedded, aws, standard],
    what_a_view_answered_is_durable_once_it_says_so on [embedded, aws, standard],
    what_was_read_must_still_hold_whatever_the_outcome on [embedded, aws, standard],
    an_order_that_moved_meanwhile_is_a_conflict on [embedded, aws, standard],
    an_order_that_moved_before_it_was_read_is_none on [embedded, aws, standard],
    no_floor_is_crossed on [embedded, aws, standard],
    a_retry_keeps_its_lane_waiting_and_no_other_through_a_restart on [embedded, aws, standard],
    a_retry_comes_when_it_is_due_and_before_its_lane_goes_on on [embedded, aws, standard],
    a_dead_letter_parks_its_lane_until_it_is_retried on [embedded, aws, standard],
    a_delivery_is_as_old_as_its_first_attempt_until_a_person_retries_it on [embedded, aws],
    a_consumer_that_skips_goes_on_and_keeps_its_dead_letters on [embedded, aws, standard],
    acknowledgements_out_of_order_survive_a_restart on [embedded, aws, standard],
    events_wait_for_a_consumer_that_was_introduced on [embedded, aws, standard],
    a_new_consumer_starts_where_it_was_told on [embedded, aws, standard],
    a_new_consumer_starts_at_the_very_moment_that_it_was_told on [embedded] because "there, moments are told by positions",
    concurrency_and_subscriptions_are_kept on [embedded, aws, standard],
}
