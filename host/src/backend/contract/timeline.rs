//! What happened to an order is told in full, and kept in little room.

use std::time::Duration;

use serde_json::Value;

use super::{Place, accept, confirm, custom, done, inbox, lease, leases, name, place, policy, report_when, settled};
use crate::backend::{
    AttemptBy, Backend, Cause, CauseKind, DeliveryState, FailedTry, InboxPolicy, Moment, Ran, Settlement, What, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Effects, Message, Record};
use crate::event::Custom;
use crate::order::{Change, OrderId};
use crate::policy::Start;

fn ran(version: &str) -> Ran {
    Ran { version: version.into(), duration: Duration::from_micros(10), calls: Vec::new() }
}

fn by(version: &str, effects: Effects) -> Settlement {
    Settlement::Done { effects, ran: ran(version) }
}

fn retried(version: &str) -> Settlement {
    Settlement::Retry { at: Timestamp::now(), cause: Cause::new(CauseKind::Retry, "later"), ran: ran(version) }
}

fn record(dataset: &str) -> Record {
    Record { dataset: dataset.into(), row: "{}".to_owned() }
}

async fn timeline(backend: &Backend, order: OrderId) -> Vec<Moment> {
    let page = backend.timelines.timeline(order, None, 50).await.unwrap();
    assert_eq!(page.next, None);
    assert!(page.items.is_sorted_by_key(|moment| moment.what.time()), "{:#?}", page.items);
    page.items
}

/// Of how many deliveries time and duration are told together, where they are.
fn runs(moments: &[Moment]) -> Vec<u64> {
    let run = |moment: &Moment| match &moment.what {
        What::Attempt { run: Some(run), .. } => Some(run.count),
        _ => None,
    };
    moments.iter().filter_map(run).collect()
}

/// The moments in a word or two each.
fn told(moments: &[Moment]) -> Vec<String> {
    let word = |moment: &Moment| {
        let who = moment.consumer.as_ref().map_or("somebody", |name| name.as_str());
        match &moment.what {
            What::Event { .. } => format!("{} by {who}", moment.kind),
            What::Attempt { attempt, .. } => {
                let outcome = attempt.outcome.map_or("done", CauseKind::as_str);
                format!("{who}: {outcome} at {} by {}", attempt.attempt, attempt.version)
            }
            What::Message { to, .. } => format!("{who}: message to {to}"),
            What::Records { dataset, count, .. } => format!("{who}: {count} of {dataset}"),
            What::Edited { .. } => format!("{who}: edited"),
            What::Discarded { .. } => format!("{who}: discarded"),
            // Whether it is known to wait already is a matter of time.
            What::Open { state: DeliveryState::Waiting, .. } => format!("{who}: Pending"),
            What::Open { state, .. } => format!("{who}: {state:?}"),
        }
    };
    moments.iter().map(word).collect()
}

async fn an_order_tells_every_attempt_and_what_was_caused(home: Place) {
    let backend = home.open().await;
    let (alpha, beta) = (inbox(&backend, "alpha").await, inbox(&backend, "beta").await);
    let order = place(&backend).await;
    accept(&alpha, lease(&alpha).await, retried("1")).await;
    drop((alpha, beta));

    let backend = home.reopen(backend).await;
    let (alpha, beta) = (inbox(&backend, "alpha").await, inbox(&backend, "beta").await);
    let low = Custom { kind: "com.example.low".into(), source: "/fanfare/consumers/alpha".into(), ..custom("TEA") };
    let message = Message::Sms { to: "+49".into(), text: "confirmed".into() };
    let effects = Effects {
        order_changes: vec![(order.id, Change::Confirmed {})],
        events: vec![low],
        messages: vec![message],
        records: ["lines", "orders", "lines"].map(record).into(),
        ..Effects::default()
    };
    accept(&alpha, lease(&alpha).await, by("2", effects)).await;
    let rows = Effects { records: vec![record("lines")], ..Effects::default() };
    accept(&beta, lease(&beta).await, by("1", rows)).await;
    let confirmed = lease(&alpha).await;
    accept(&alpha, confirmed, by("2", Effects::default())).await;
    settled(&backend, "alpha").await;

    let moments = timeline(&backend, order.id).await;
    let mut words = told(&moments);
    // Beta's delivery of the second event was not leased yet.
    assert_eq!(words.pop().as_deref(), Some("beta: Pending"), "{words:#?}");
    assert_eq!(words[..2], ["order.placed by somebody", "alpha: retry at 1 by 1"]);
    words.sort();
    let mut expected = [
        "order.placed by somebody",
        "alpha: retry at 1 by 1",
        "alpha: done at 2 by 2",
        "order.confirmed by alpha",
        "com.example.low by alpha",
        "alpha: message to +49",
        "alpha: 2 of lines",
        "alpha: 1 of orders",
        "beta: 1 of lines",
        "alpha: done at 1 by 2",
        "beta: done at 1 by 1",
    ];
    expected.sort_unstable();
    assert_eq!(words, expected);
    let placed = moments.iter().find(|moment| matches!(moment.what, What::Event { cause: None, .. })).unwrap();
    let caused =
        moments.iter().filter(|it| matches!(it.what, What::Event { cause, .. } if cause == Some(placed.event_id)));
    assert_eq!(caused.count(), 2);
    assert_eq!(timeline(&backend, OrderId::generate()).await.len(), 0);
}

async fn pages_tell_together_what_all_of_it_tells(home: Place) {
    let backend = home.open().await;
    let alpha = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    let effects = Effects { order_changes: vec![(order.id, Change::Confirmed {})], ..Effects::default() };
    accept(&alpha, lease(&alpha).await, by("1", effects)).await;
    accept(&alpha, lease(&alpha).await, by("1", Effects::default())).await;
    settled(&backend, "alpha").await;
    drop(alpha);

    // Nobody is there to say what the consumer hears.
    let backend = home.reopen(backend).await;
    let whole = timeline(&backend, order.id).await;
    assert!(told(&whole).contains(&"alpha: done at 1 by 1".to_owned()), "{:#?}", told(&whole));
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = backend.timelines.timeline(order.id, after, 1).await.unwrap();
        pages.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    // What was done to an event stands on its page, also where it was done a moment after the next event.
    let said = |moments: &[Moment]| {
        let times = moments.iter().map(|moment| moment.what.time());
        let mut said: Vec<_> = times.zip(told(moments)).collect();
        said.sort_unstable();
        said
    };
    assert_eq!(said(&pages), said(&whole));
}

async fn a_thousand_successes_in_a_row_are_a_handful_of_rows(home: Place) {
    const ORDERS: usize = 1_000;
    let mut backend = home.open().await;
    let mut orders = Vec::new();
    for half in ["1", "2"] {
        for _ in 0..ORDERS / 2 {
            orders.push(place(&backend).await.id);
        }
        let deliveries = inbox(&backend, "alpha").await;
        // Out of order, eight at a time.
        for _ in 0..ORDERS / 2 / 8 {
            let mut leased = Vec::new();
            for _ in 0..8 {
                leased.push(lease(&deliveries).await);
            }
            for delivery in leased.into_iter().rev() {
                accept(&deliveries, delivery, by(half, Effects::default())).await;
            }
        }
        while let Some(delivery) = deliveries.lease() {
            accept(&deliveries, delivery, by(half, Effects::default())).await;
        }
        settled(&backend, "alpha").await;
        drop(deliveries);
        backend = home.reopen(backend).await;
    }
    assert_eq!(home.rows("runs") + home.rows("attempts"), 2);
    let _deliveries = inbox(&backend, "alpha").await;
    for (index, order) in orders.iter().enumerate().step_by(97) {
        let version = if index < ORDERS / 2 { "1" } else { "2" };
        let moments = timeline(&backend, *order).await;
        assert_eq!(told(&moments), ["order.placed by somebody".to_owned(), format!("alpha: done at 1 by {version}")]);
        assert_eq!(runs(&moments), [500]);
    }
}

async fn what_a_person_did_and_what_is_open_is_told(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let paused = backend.consumers.attach(&name("paused"), Start::Beginning).await.unwrap();
    paused.configure(InboxPolicy { concurrency: 0, ..policy() });
    let order = place(&backend).await;
    let dead = || Settlement::Dead { cause: Cause::new(CauseKind::Reject, "no"), ran: ran("1") };
    accept(&deliveries, lease(&deliveries).await, dead()).await;
    confirm(&backend, order.id).await;
    report_when(&backend, "alpha", |it| it.dead == 1).await;
    let words = told(&timeline(&backend, order.id).await);
    let open = ["alpha: Dead", "paused: Pending", "alpha: Pending", "paused: Pending"];
    assert_eq!(words[..3], ["order.placed by somebody", "alpha: reject at 1 by 1", "order.confirmed by somebody"]);
    assert_eq!(words[3..], open);

    backend.dead_letters.retry(&name("alpha"), Which::All.first(1)).await.unwrap().into_inner();
    accept(&deliveries, lease(&deliveries).await, dead()).await;
    report_when(&backend, "alpha", |it| it.dead == 1).await;
    backend.dead_letters.discard(&name("alpha"), Which::All.first(1)).await.unwrap().into_inner();
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    settled(&backend, "alpha").await;
    let moments = timeline(&backend, order.id).await;
    let words = told(&moments);
    assert_eq!(words[3..5], ["alpha: reject at 1 by 1", "alpha: discarded"], "{words:#?}");
    let replayed = serde_json::to_value(&moments[3]).unwrap();
    assert_eq!((&replayed["what"], &replayed["origin"]), (&Value::from("attempt"), &Value::from("replay")));

    let first = backend.timelines.timeline(order.id, None, 1).await.unwrap();
    assert!(first.items.iter().all(|moment| moment.kind == "order.placed"));
    let rest = backend.timelines.timeline(order.id, first.next, 1).await.unwrap();
    assert!(rest.items.iter().all(|moment| moment.kind == "order.confirmed") && rest.next.is_none());
}

async fn what_a_candidate_did_is_told_and_what_it_failed_is_no_attempt(home: Place) {
    let backend = home.open().await;
    let alpha = inbox(&backend, "alpha").await;
    let mut orders = Vec::new();
    for _ in 0..3 {
        orders.push(place(&backend).await.id);
    }
    let [first, mut tried, mut failed] = leases(&alpha).await;
    accept(&alpha, first, by("1", Effects::default())).await;
    tried.by = AttemptBy::Candidate;
    accept(&alpha, tried, by("2", Effects::default())).await;
    let cause = Cause::new(CauseKind::Trap, "out of order");
    failed.by = AttemptBy::LiveAfter(Box::new(FailedTry { cause, ran: ran("2") }));
    accept(&alpha, failed, by("1", Effects::default())).await;
    orders.push(place(&backend).await.id);
    accept(&alpha, lease(&alpha).await, by("1", Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.done, it.dead) == (4, 0)).await;

    let expected = [
        vec!["alpha: done at 1 by 1"],
        vec!["alpha: done at 1 by 2"],
        vec!["alpha: trap at 1 by 2", "alpha: done at 1 by 1"],
        vec!["alpha: done at 1 by 1"],
    ];
    for (order, expected) in orders.iter().zip(expected) {
        let moments = timeline(&backend, *order).await;
        assert_eq!(told(&moments)[1..], expected);
        let by_candidate = moments.iter().filter_map(|moment| match &moment.what {
            What::Attempt { attempt, .. } => Some((attempt.candidate, attempt.version.as_str())),
            _ => None,
        });
        assert!(by_candidate.clone().all(|(candidate, version)| candidate == (version == "2")), "{moments:#?}");
        let delivery = backend.journal.deliveries_of(*order).await.unwrap().pop().unwrap();
        assert_eq!((delivery.attempts, delivery.state), (1, DeliveryState::Done), "{delivery:?}");
    }
    backend.lifecycle.close().await;
}

async fn what_a_candidate_did_stands_apart_and_breaks_no_run(home: Place) {
    let backend = home.open().await;
    let alpha = inbox(&backend, "alpha").await;
    let mut orders = Vec::new();
    for candidate in [false, true, false] {
        orders.push(place(&backend).await.id);
        let mut delivery = lease(&alpha).await;
        if candidate {
            delivery.by = AttemptBy::Candidate;
        }
        accept(&alpha, delivery, by(if candidate { "2" } else { "1" }, Effects::default())).await;
    }
    settled(&backend, "alpha").await;
    for (order, expected) in orders.iter().zip([vec![2], vec![], vec![2]]) {
        assert_eq!(runs(&timeline(&backend, *order).await), expected);
    }
}

claims! {
    pages_tell_together_what_all_of_it_tells on [embedded, aws],
    an_order_tells_every_attempt_and_what_was_caused on [embedded, aws],
    a_thousand_successes_in_a_row_are_a_handful_of_rows on [embedded] because "it counts rows of the file",
    what_a_candidate_did_stands_apart_and_breaks_no_run on [embedded] because "only the file tells runs",
    what_a_person_did_and_what_is_open_is_told on [embedded, aws],
    what_a_candidate_did_is_told_and_what_it_failed_is_no_attempt on [embedded, aws],
}
