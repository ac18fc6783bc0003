//! What a consumer hears, and that a change of it, or of anything else in its policy, counts from the next lease on.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::wait::nothing_comes_but;
use super::{
    Place, accept, confirm, content, done, hears, inbox, lease, leases, name, nothing_comes, place, policy, ran,
    report, report_when, settled,
};
use crate::backend::{
    Backend, Cause, CauseKind, Evidence, InboxPolicy, LetterQuery, Placed, Placement, Settlement, Which,
};
use crate::clock::Timestamp;
use crate::effects::Effects;
use crate::event::filter::Filter;
use crate::event::{Lane, Share, Subscription, Subscriptions};
use crate::order::{Change, Content, Order, OrderId};
use crate::policy::{OnDead, Rate};
use crate::version::Hash;

fn only(kind: &str, filter: &str) -> Subscriptions {
    let filter = Filter::parse(filter).unwrap();
    [Subscription { kind: kind.parse().unwrap(), filter: Some(filter) }].into_iter().collect()
}

const EURO: &str = r#"{"order":{"currency":["EUR"]}}"#;

async fn place_in(backend: &Backend, currency: &str) -> OrderId {
    let content = Content { currency: currency.to_owned(), ..content(None, 1) };
    let order = Order::place(content.into(), Timestamp::now());
    match backend
        .intake
        .place(Placement { order, fingerprint: [0; 32], idempotency_key: None })
        .await
        .unwrap()
        .into_inner()
    {
        Placed::New(order) => order.id,
        other => panic!("{other:?}"),
    }
}

fn rejected() -> Settlement {
    Settlement::Dead {
        cause: Cause { kind: CauseKind::Reject, detail: "no".into(), backtrace: None, evidence: Evidence::default() },
        ran: ran(),
    }
}

async fn a_filter_lets_through_what_matches_and_the_rest_is_passed_by(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: only("order.*", EURO), ..policy() });
    let dollars = place_in(&backend, "USD").await;
    let euros = place_in(&backend, "EUR").await;
    report_when(&backend, "alpha", |it| it.pending == 1).await;
    let delivery = lease(&deliveries).await;
    assert_eq!(delivery.event.order_id(), Some(euros));
    accept(&deliveries, delivery, done(Effects::default())).await;
    assert!(backend.journal.deliveries_of(dollars).await.unwrap().is_empty(), "it does not concern the consumer");
    assert_eq!(backend.journal.deliveries_of(euros).await.unwrap().len(), 1);
    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 1)).await;
    nothing_comes(&home, &backend, &deliveries, "the rest is passed by").await;
}

async fn what_waits_behind_a_pause_is_counted_by_the_filter(home: Place) {
    const ORDERS: u64 = 700;
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let stopped = InboxPolicy { concurrency: 0, subscriptions: only("order.*", EURO), ..policy() };
    deliveries.configure(stopped.clone());
    for order in 0..ORDERS {
        place_in(&backend, if order % 7 == 0 { "EUR" } else { "USD" }).await;
        // Counted again and again, each event once.
        if order % 100 == 0 {
            report_when(&backend, "alpha", |it| it.pending == order / 7 + 1).await;
        }
    }
    report_when(&backend, "alpha", |it| it.pending == ORDERS / 7).await;
    // Another filter counts anew; it does not hear less for what was counted before.
    deliveries.configure(InboxPolicy {
        subscriptions: only("order.*", r#"{"order":{"currency":["USD"]}}"#),
        ..stopped.clone()
    });
    report_when(&backend, "alpha", |it| it.pending == ORDERS - ORDERS / 7).await;
    deliveries.configure(InboxPolicy { concurrency: 8, ..stopped });
    for left in (0..ORDERS / 7).rev() {
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        let pending = report(&backend, "alpha").await.pending;
        assert!((left..=ORDERS / 7).contains(&pending), "{pending} pending, {left} left");
    }
    report_when(&backend, "alpha", |it| it.pending == 0).await;
}

async fn subscriptions_that_narrow_count_for_what_waits_and_those_that_widen_for_what_comes(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let (one, two) = (place(&backend).await, place(&backend).await);
    let running = lease(&deliveries).await;
    let (one, two) = if running.event.order_id() == Some(one.id) { (one, two) } else { (two, one) };
    confirm(&backend, one.id).await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["order.confirmed"]), ..policy() });
    // What runs ends; beside it, the other order's first event is not wanted any more.
    accept(&deliveries, running, done(Effects::default())).await;
    let confirmed = lease(&deliveries).await;
    assert_eq!((confirmed.event.kind(), confirmed.event.order_id()), ("order.confirmed", Some(one.id)));
    accept(&deliveries, confirmed, done(Effects::default())).await;
    let heard = async || {
        let order = place(&backend).await;
        confirm(&backend, order.id).await;
        order.id
    };
    nothing_comes_but(&home, &deliveries, "it is not heard any more", heard).await;
    report_when(&backend, "alpha", |it| it.pending == 0).await;
    deliveries.configure(policy());
    nothing_comes(&home, &backend, &deliveries, "what was passed by stays so").await;
    confirm(&backend, two.id).await;
    let confirmed = lease(&deliveries).await;
    assert_eq!((confirmed.event.kind(), confirmed.event.order_id()), ("order.confirmed", Some(two.id)));
    accept(&deliveries, confirmed, done(Effects::default())).await;
    settled(&backend, "alpha").await;
    drop(deliveries);
    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    nothing_comes(&home, &backend, &deliveries, "and it stays so after a restart").await;
}

pub async fn what_was_tried_already_is_delivered_still(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let cause =
        Cause { kind: CauseKind::Retry, detail: "later".into(), backtrace: None, evidence: Evidence::default() };
    accept(&deliveries, lease(&deliveries).await, Settlement::Retry { at: Timestamp::now(), cause, ran: ran() }).await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["order.shipped"]), ..policy() });
    let again = lease(&deliveries).await;
    assert_eq!((again.attempt, again.event.order_id()), (2, Some(order.id)));
    accept(&deliveries, again, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| it.pending == 0).await;
}

pub async fn lanes_that_stood_behind_dead_letters_go_on_once_the_policy_skips(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    accept(&deliveries, lease(&deliveries).await, rejected()).await;
    confirm(&backend, order.id).await;
    let besides = nothing_comes(&home, &backend, &deliveries, "the lane is parked").await;
    deliveries.configure(InboxPolicy { on_dead: OnDead::Skip, ..policy() });
    let behind = lease(&deliveries).await;
    assert_eq!(behind.event.kind(), "order.confirmed");
    accept(&deliveries, behind, done(Effects::default())).await;
    // The letter is there still, and can be retried.
    report_when(&backend, "alpha", |it| (it.done, it.dead) == (besides + 1, 1)).await;
    assert_eq!(backend.dead_letters.retry(&name("alpha"), Which::All.first(10)).await.unwrap().into_inner().count, 1);
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (0, 0)).await;
}

/// What was left behind stays so when the policy parks again, beside another letter of its lane, over a restart.
async fn a_letter_that_its_lane_left_behind_is_not_in_its_way_again(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let orders = [place(&backend).await.id, place(&backend).await.id];
    for delivery in leases::<2>(&deliveries).await {
        accept(&deliveries, delivery, rejected()).await;
    }
    for order in orders {
        confirm(&backend, order).await;
    }
    deliveries.configure(InboxPolicy { on_dead: OnDead::Skip, ..policy() });
    let behind = leases::<2>(&deliveries).await;
    deliveries.configure(policy());
    for delivery in behind {
        let ends = if delivery.event.order_id() == Some(orders[0]) { rejected() } else { done(Effects::default()) };
        accept(&deliveries, delivery, ends).await;
    }
    report_when(&backend, "alpha", |it| (it.done, it.dead) == (1, 3)).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let cancel = async |order| {
        let cancelled = Change::Cancelled { reason: "test".into() };
        backend.intake.change(order, cancelled).await.unwrap().into_inner()
    };
    cancel(orders[0]).await;
    nothing_comes(&home, &backend, &deliveries, "the second letter parks its lane").await;
    for (order, frees) in [(orders[1], false), (orders[0], true)] {
        if frees {
            let query = LetterQuery { limit: 10, ..LetterQuery::default() };
            let letters = backend.dead_letters.list(&name("alpha"), query).await.unwrap().items;
            let second = letters.iter().find(|letter| letter.kind == "order.confirmed").unwrap();
            let it = Which::Event(second.event_id).first(1);
            assert_eq!(backend.dead_letters.discard(&name("alpha"), it).await.unwrap().into_inner().count, 1);
        } else {
            cancel(order).await;
        }
        let next = lease(&deliveries).await;
        assert_eq!((next.event.kind(), next.event.order_id()), ("order.cancelled", Some(order)));
        accept(&deliveries, next, done(Effects::default())).await;
    }
    report_when(&backend, "alpha", |it| it.dead == 2).await;
    nothing_comes(&home, &backend, &deliveries, "nobody retried the letters").await;
}

async fn concurrency_and_rate_count_from_the_next_lease_on(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..40 {
        place(&backend).await;
    }
    deliveries.configure(InboxPolicy { concurrency: 1, ..policy() });
    let one = lease(&deliveries).await;
    assert!(deliveries.lease().is_none());
    deliveries.configure(InboxPolicy { concurrency: 3, ..policy() });
    let [two, three] = leases(&deliveries).await;
    assert!(deliveries.lease().is_none());
    for delivery in [one, two, three] {
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    let rate = Some(Rate { per_second: NonZeroU32::new(10).unwrap() });
    deliveries.configure(InboxPolicy { rate, concurrency: 100, ..policy() });
    let began = Instant::now();
    let mut leased = leases::<10>(&deliveries).await.into_iter().collect::<Vec<_>>();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(700), "ten at 10/s came within {took:?}");
    deliveries.configure(InboxPolicy { concurrency: 100, ..policy() });
    leased.extend(leases::<27>(&deliveries).await);
    assert_eq!(leased.iter().map(|delivery| delivery.event.id).collect::<BTreeSet<_>>().len(), 37);
}

async fn what_is_heard_of_a_share_of_the_lanes_is_delivered_of_those_alone(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let share = Share::of(&Hash::of(b"new"), 500);
    let subscriptions = hears(&["order.placed"]).with(share, &hears(&["order.*"]));
    deliveries.configure(InboxPolicy { subscriptions, ..policy() });
    let mut expected = Vec::new();
    for _ in 0..20 {
        let order = place(&backend).await.id;
        backend.intake.change(order, Change::Confirmed {}).await.unwrap().into_inner();
        expected.push((order, "order.placed"));
        expected.extend(share.has(&Lane::Order(order)).then_some((order, "order.confirmed")));
    }
    assert!((21..40).contains(&expected.len()), "half of them: {}", expected.len());
    report_when(&backend, "alpha", |it| it.pending == expected.len() as u64).await;
    let mut delivered = Vec::new();
    while delivered.len() < expected.len() {
        let delivery = lease(&deliveries).await;
        delivered.push((delivery.event.order_id().unwrap(), delivery.event.kind().to_owned()));
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    delivered.sort();
    expected.sort();
    assert_eq!(delivered, expected.iter().map(|(order, kind)| (*order, (*kind).to_owned())).collect::<Vec<_>>());
    nothing_comes(&home, &backend, &deliveries, "no other is heard").await;
    backend.lifecycle.close().await;
}

claims! {
    a_filter_lets_through_what_matches_and_the_rest_is_passed_by on [embedded, aws, standard],
    what_waits_behind_a_pause_is_counted_by_the_filter on [embedded, aws, standard],
    subscriptions_that_narrow_count_for_what_waits_and_those_that_widen_for_what_comes on [embedded, aws, standard],
    what_was_tried_already_is_delivered_still on [embedded, aws, standard],
    lanes_that_stood_behind_dead_letters_go_on_once_the_policy_skips on [embedded, aws, standard],
    a_letter_that_its_lane_left_behind_is_not_in_its_way_again on [embedded, aws, standard],
    concurrency_and_rate_count_from_the_next_lease_on on [embedded, aws, standard],
    what_is_heard_of_a_share_of_the_lanes_is_delivered_of_those_alone on [embedded, aws, standard],
}
