//! What a consumer hears, and that a change of it, or of anything else in its policy, counts from the next lease on.

use std::num::NonZeroU32;

use super::{Place, accept, content, done, hears, inbox, lease, name, place, policy, ran, report, settled};
use crate::backend::{Backend, Cause, CauseKind, Evidence, InboxPolicy, Placed, Placement, Settlement, Which};
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

#[tokio::test]
async fn a_filter_lets_through_what_matches_and_the_rest_is_passed_by() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: only("order.*", EURO), ..policy() });
    let dollars = place_in(&backend, "USD").await;
    let euros = place_in(&backend, "EUR").await;
    assert_eq!(report(&backend, "alpha").await.pending, 1);
    let delivery = lease(&deliveries).await;
    assert_eq!(delivery.event.order_id(), Some(euros));
    accept(&deliveries, delivery, done(Effects::default())).await;
    assert!(deliveries.lease().is_none());
    assert!(backend.journal.deliveries_of(dollars).await.unwrap().is_empty(), "it does not concern the consumer");
    assert_eq!(backend.journal.deliveries_of(euros).await.unwrap().len(), 1);
    let report = settled(&backend, "alpha").await;
    assert_eq!((report.pending, report.done), (0, 1));
}

#[tokio::test]
async fn what_waits_behind_a_pause_is_counted_by_the_filter() {
    const ORDERS: u64 = 700;
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let stopped = InboxPolicy { concurrency: 0, subscriptions: only("order.*", EURO), ..policy() };
    deliveries.configure(stopped.clone());
    for order in 0..ORDERS {
        place_in(&backend, if order % 7 == 0 { "EUR" } else { "USD" }).await;
        // Counted again and again, each event once.
        if order % 100 == 0 {
            assert_eq!(report(&backend, "alpha").await.pending, order / 7 + 1);
        }
    }
    assert_eq!(report(&backend, "alpha").await.pending, ORDERS / 7);
    // Another filter counts anew; it does not hear less for what was counted before.
    deliveries.configure(InboxPolicy {
        subscriptions: only("order.*", r#"{"order":{"currency":["USD"]}}"#),
        ..stopped.clone()
    });
    assert_eq!(report(&backend, "alpha").await.pending, ORDERS - ORDERS / 7);
    deliveries.configure(InboxPolicy { concurrency: 8, ..stopped });
    for left in (0..ORDERS / 7).rev() {
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        let pending = report(&backend, "alpha").await.pending;
        assert!((left..=ORDERS / 7).contains(&pending), "{pending} pending, {left} left");
    }
    assert_eq!(settled(&backend, "alpha").await.pending, 0);
}

#[tokio::test]
async fn subscriptions_that_narrow_count_for_what_waits_and_those_that_widen_for_what_comes() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let (one, two) = (place(&backend).await, place(&backend).await);
    backend.intake.change(one.id, Change::Confirmed {}).await.unwrap().into_inner();
    let running = lease(&deliveries).await;
    assert_eq!(running.event.order_id(), Some(one.id));
    deliveries.configure(InboxPolicy { subscriptions: hears(&["order.confirmed"]), ..policy() });
    // What runs ends; behind it, the second order's first event is not wanted any more.
    accept(&deliveries, running, done(Effects::default())).await;
    let confirmed = lease(&deliveries).await;
    assert_eq!((confirmed.event.kind(), confirmed.event.order_id()), ("order.confirmed", Some(one.id)));
    accept(&deliveries, confirmed, done(Effects::default())).await;
    assert!(deliveries.lease().is_none());
    assert_eq!(settled(&backend, "alpha").await.pending, 0);
    deliveries.configure(policy());
    assert!(deliveries.lease().is_none(), "what was passed by stays so");
    backend.intake.change(two.id, Change::Confirmed {}).await.unwrap().into_inner();
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    settled(&backend, "alpha").await;
    drop(deliveries);
    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    assert!(deliveries.lease().is_none(), "and it stays so after a restart");
}

#[tokio::test]
async fn what_was_tried_already_is_delivered_still() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let cause =
        Cause { kind: CauseKind::Retry, detail: "later".into(), backtrace: None, evidence: Evidence::default() };
    accept(&deliveries, lease(&deliveries).await, Settlement::Retry { at: Timestamp::now(), cause, ran: ran() }).await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["order.shipped"]), ..policy() });
    let again = lease(&deliveries).await;
    assert_eq!((again.attempt, again.event.order_id()), (2, Some(order.id)));
    accept(&deliveries, again, done(Effects::default())).await;
    assert_eq!(settled(&backend, "alpha").await.pending, 0);
}

#[tokio::test]
async fn lanes_that_stood_behind_dead_letters_go_on_once_the_policy_skips() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    accept(&deliveries, lease(&deliveries).await, rejected()).await;
    backend.intake.change(order.id, Change::Confirmed {}).await.unwrap().into_inner();
    assert!(deliveries.lease().is_none());
    deliveries.configure(InboxPolicy { on_dead: OnDead::Skip, ..policy() });
    let behind = lease(&deliveries).await;
    assert_eq!(behind.event.kind(), "order.confirmed");
    accept(&deliveries, behind, done(Effects::default())).await;
    while report(&backend, "alpha").await.done != 1 {
        tokio::task::yield_now().await;
    }
    // The letter is there still, and can be retried.
    assert_eq!(report(&backend, "alpha").await.dead, 1);
    assert_eq!(backend.dead_letters.retry(&name("alpha"), Which::All.first(10)).await.unwrap().into_inner().count, 1);
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    let report = settled(&backend, "alpha").await;
    assert_eq!((report.pending, report.dead), (0, 0));
}

#[tokio::test]
async fn concurrency_and_rate_count_from_the_next_lease_on() {
    let home = Place::new();
    let backend = home.open();
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..40 {
        place(&backend).await;
    }
    deliveries.configure(InboxPolicy { concurrency: 1, ..policy() });
    let one = lease(&deliveries).await;
    assert!(deliveries.lease().is_none());
    deliveries.configure(InboxPolicy { concurrency: 3, ..policy() });
    let (two, three) = (lease(&deliveries).await, lease(&deliveries).await);
    assert!(deliveries.lease().is_none());
    for delivery in [one, two, three] {
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    let per_second = NonZeroU32::new(10).unwrap();
    let rate = Some(Rate { per_second });
    deliveries.configure(InboxPolicy { rate, concurrency: 100, ..policy() });
    let began = Timestamp::now();
    let leased = std::iter::from_fn(|| deliveries.lease()).count() as u64;
    let allowed = 2 + Timestamp::now().since(began).as_secs() * 10;
    assert!((1..=allowed).contains(&leased), "{leased} at once at 10/s");
    deliveries.configure(InboxPolicy { concurrency: 100, ..policy() });
    assert_eq!(std::iter::from_fn(|| deliveries.lease()).count() as u64, 37 - leased);
}

#[tokio::test]
async fn what_is_heard_of_a_share_of_the_lanes_is_delivered_of_those_alone() {
    let home = Place::new();
    let backend = home.open();
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
    assert_eq!(report(&backend, "alpha").await.pending, u64::try_from(expected.len()).unwrap());
    let mut delivered = Vec::new();
    while delivered.len() < expected.len() {
        let delivery = lease(&deliveries).await;
        delivered.push((delivery.event.order_id().unwrap(), delivery.event.kind().to_owned()));
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    assert!(deliveries.lease().is_none());
    delivered.sort();
    expected.sort();
    assert_eq!(delivered, expected.iter().map(|(order, kind)| (*order, (*kind).to_owned())).collect::<Vec<_>>());
    backend.lifecycle.close().await;
}
