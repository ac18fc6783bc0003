//! A rebuild ends with the state that a consumer would have which was always there, and does nothing else; the consumer
//! goes on meanwhile.

mod layouts;
mod model;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::wait::Deadline;
use super::{Place, events, eventually, lease, leases, name, nothing_comes, place, policy, publish, ran, report};
use crate::backend::{
    Backend, Backfill, BackfillEffects, BackfillReport, BackfillState, BackfillStep, Backfilled, Cause, CauseKind,
    Delivery, DeliveryState, Excess, Finished, HeldBy, Inbox, InboxPolicy, Keep, Origin, Retention, Settlement, Since,
    Started, StateQuery, Steered, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Message, Reads, Record};
use crate::event::{Body, Custom, Event, KindPattern, Lane};
use crate::order::{Change, Status};
use crate::policy::Start;

const CONSUMER: &str = "alpha";

fn rebuild() -> Backfill {
    Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1000000/s".parse().unwrap(),
        effects: BackfillEffects::StateOnly,
        of: Backfilled::Rebuild,
    }
}

fn listens() -> InboxPolicy {
    InboxPolicy { subscriptions: ["*".parse::<KindPattern>().unwrap()].into_iter().collect(), ..policy() }
}

async fn attach(backend: &Backend, start: Start) -> Arc<dyn Inbox> {
    let inbox = backend.consumers.attach(&name(CONSUMER), start).await.unwrap();
    inbox.configure(listens());
    inbox
}

async fn start(backend: &Backend, backfill: Backfill) -> BackfillReport {
    match backend.backfills.start(&name(CONSUMER), backfill).await.unwrap().into_inner() {
        Started::Yes(report) => report,
        other => panic!("{other:?}"),
    }
}

async fn steer(backend: &Backend, step: BackfillStep) -> Steered {
    backend.backfills.steer(&name(CONSUMER), step).await.unwrap().into_inner()
}

async fn latest(backend: &Backend) -> BackfillReport {
    backend.backfills.latest(&name(CONSUMER)).await.unwrap().unwrap()
}

fn lane_key(lane: &Lane) -> Arc<str> {
    match lane {
        Lane::Order(id) => format!("lane/{id}").into(),
        Lane::Subject(subject) => format!("lane/{subject}").into(),
    }
}

/// Every handling appends its position to its lane's entry, counts itself, and does something of everything else.
async fn handled(inbox: &Arc<dyn Inbox>, delivery: &Delivery) -> (Reads, Effects) {
    let key = lane_key(&delivery.event.lane());
    let before = inbox.view_for(delivery).get(&key).await.unwrap();
    let text = before.as_deref().map_or(String::new(), |bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let text = format!("{text}{},", delivery.event.position);
    let mut effects = Effects {
        entries: vec![(Arc::clone(&key), Some(text.into_bytes().into()))],
        adjustments: vec![Adjustment { key: "n".into(), by: 1, floor: None }],
        messages: vec![Message::Sms { to: "+1".into(), text: delivery.event.position.to_string() }],
        records: vec![Record { dataset: "rows".into(), row: delivery.event.position.to_string() }],
        ..Effects::default()
    };
    if let Some(id) = delivery.event.order_id()
        && inbox.view_for(delivery).order(id).await.unwrap().is_some_and(|order| order.status == Status::Placed)
    {
        effects.order_changes.push((id, Change::Confirmed {}));
    }
    (Reads { entries: vec![(key, before)], ..Reads::default() }, effects)
}

async fn done(inbox: &Arc<dyn Inbox>, mut delivery: Delivery) {
    loop {
        let (reads, effects) = handled(inbox, &delivery).await;
        match inbox.finish(delivery, &reads, Settlement::Done { effects, ran: ran() }).await {
            Finished::Conflict(again) => delivery = again,
            Finished::Accepted | Finished::Superseded => return,
            Finished::Full { excess, .. } => panic!("{excess:?} is within the limit"),
        }
    }
}

async fn fail(inbox: &Arc<dyn Inbox>, delivery: Delivery) {
    let cause = Cause::new(CauseKind::Reject, "no");
    let finished = inbox.finish(delivery, &Reads::default(), Settlement::Dead { cause, ran: ran() }).await;
    assert!(matches!(finished, Finished::Accepted | Finished::Superseded), "{finished:?}");
}

/// What a state says of each lane, and how many handlings it counts.
async fn state(backend: &Backend) -> (BTreeMap<String, String>, i64) {
    let query = StateQuery { limit: 10_000, ..StateQuery::default() };
    let page = backend.consumers.state(&name(CONSUMER), query).await.unwrap();
    let text = |(key, value)| (key, String::from_utf8(value).unwrap());
    (page.entries.into_iter().map(text).collect(), page.counters.first().map_or(0, |(_, count)| *count))
}

/// The journal, with what was written a moment ago.
async fn journal(backend: &Backend) -> Vec<Arc<Event>> {
    let newest = backend.journal.newest().await.unwrap();
    eventually("all of the journal", async || {
        let events = backend.journal.events_after(None, 10_000).await.unwrap();
        (events.last().map(|event| event.position) >= newest).then_some(events)
    })
    .await
}

/// What the journal says it should say, without some positions.
async fn expected(backend: &Backend, without: &BTreeSet<u64>) -> (BTreeMap<String, String>, i64) {
    let (mut lanes, mut count): (BTreeMap<String, String>, _) = (BTreeMap::new(), 0);
    for event in journal(backend).await {
        if !without.contains(&event.position.get()) {
            let lane = lanes.entry(lane_key(&event.lane()).to_string()).or_default();
            lane.push_str(&format!("{},", event.position));
            count += 1;
        }
    }
    (lanes, count)
}

/// Does whatever there is to do, until the rebuild has ended.
async fn work(backend: &Backend, inbox: &Arc<dyn Inbox>) -> BackfillReport {
    let deadline = Deadline::new();
    loop {
        while let Some(delivery) = inbox.lease() {
            done(inbox, delivery).await;
        }
        let report = latest(backend).await;
        if report.state == BackfillState::Done {
            return report;
        }
        deadline.pause(report).await;
    }
}

/// Does live deliveries until there are none.
async fn serve(backend: &Backend, inbox: &Arc<dyn Inbox>) {
    let deadline = Deadline::new();
    loop {
        while let Some(delivery) = inbox.lease() {
            done(inbox, delivery).await;
        }
        let report = report(backend, CONSUMER).await;
        if report.pending == report.dead {
            return;
        }
        deadline.pause(report).await;
    }
}

async fn a_rebuild_ends_with_the_state_of_one_that_was_always_there_and_repeats_no_effect(home: Place) {
    let backend = home.open().await;
    // Never offered: the consumer comes later.
    let old = place(&backend).await;
    let inbox = attach(&backend, Start::Now).await;
    publish(&backend, "tea").await;
    place(&backend).await;
    serve(&backend, &inbox).await;
    let journal = events(&backend, 4).await;
    let kept = async || {
        let messages = backend.journal.messages(None, 100).await.unwrap().items.len();
        (messages, backend.journal.records("rows", None, 100).await.unwrap().items.len())
    };
    assert_eq!(kept().await, (3, 3), "one of each, of what was offered");
    let before = state(&backend).await;
    assert_eq!(backend.backfills.count(&name(CONSUMER), &rebuild()).await.unwrap(), Some(4));
    assert_eq!(backend.journal.deliveries_of(old.id).await.unwrap().len(), 0);

    let report = start(&backend, rebuild()).await;
    assert_eq!((report.rebuild, report.state, report.events), (true, BackfillState::Running, 4));
    let past = lease(&inbox).await;
    assert_eq!((past.origin, past.event.id), (Origin::Backfill, journal[0].id));
    assert_eq!(inbox.view_for(&past).count("n").await.unwrap(), 0, "it begins with nothing");
    done(&inbox, past).await;
    assert_eq!(inbox.view().count("n").await.unwrap(), before.1, "what is in use is another state");
    assert_eq!(state(&backend).await, before);
    assert_eq!(backend.journal.deliveries_of(old.id).await.unwrap()[0].state, DeliveryState::Pending);

    publish(&backend, "tea").await;
    let report = work(&backend, &inbox).await;
    assert_eq!((report.events, report.delivered), (5, 5));
    assert_eq!(report.dropped, 2 * report.delivered + 1, "messages, records, and an order that is still placed");
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
    assert_eq!(kept().await, (4, 4), "of the live event alone");
    assert_eq!(backend.journal.deliveries_of(old.id).await.unwrap()[0].state, DeliveryState::Done);
    let missed = Backfill { of: Backfilled::Missed, effects: BackfillEffects::All, ..rebuild() };
    assert_eq!(backend.backfills.count(&name(CONSUMER), &missed).await.unwrap(), Some(0), "all was offered by now");

    publish(&backend, "tea").await;
    serve(&backend, &inbox).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await, "and it goes on from there");
    drop(inbox);
    let backend = home.reopen(backend).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn what_is_an_exception_is_delivered_on_the_new_state_once(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    for subject in ["dead", "discarded", "redone", "fine"] {
        publish(&backend, subject).await;
        publish(&backend, subject).await;
    }
    let journal = events(&backend, 8).await;
    let without = |indices: &[usize]| indices.iter().map(|index| journal[*index].position.get()).collect();
    let mut letters = BTreeMap::new();
    for delivery in leases::<4>(&inbox).await {
        let Lane::Subject(subject) = delivery.event.lane() else { panic!("{delivery:?}") };
        if &*subject == "fine" {
            done(&inbox, delivery).await;
        } else {
            letters.insert(subject.to_string(), delivery.event.id);
            fail(&inbox, delivery).await;
        }
    }
    serve_until(&backend, &inbox, 6).await;
    start(&backend, rebuild()).await;
    let past = lease(&inbox).await;
    assert_eq!(&*past.event.lane().to_string(), "fine", "what is dead or waits comes later");
    // In the middle, one is done after all, and one is given up.
    let redone = Which::Event(letters["redone"]).first(1);
    backend.dead_letters.retry(&name(CONSUMER), redone).await.unwrap().into_inner();
    let discarded = Which::Event(letters["discarded"]).first(1);
    backend.dead_letters.discard(&name(CONSUMER), discarded).await.unwrap().into_inner();
    done(&inbox, past).await;
    work(&backend, &inbox).await;
    serve_until(&backend, &inbox, 2).await;
    assert_eq!(state(&backend).await, expected(&backend, &without(&[0, 1, 2])).await);

    backend.dead_letters.retry(&name(CONSUMER), Which::All.first(10)).await.unwrap().into_inner();
    serve(&backend, &inbox).await;
    assert_eq!(state(&backend).await, expected(&backend, &without(&[2])).await);
}

async fn a_copy_that_a_person_edited_is_handled_again_in_place_of_its_event(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    publish(&backend, "tea").await;
    let delivery = lease(&inbox).await;
    let (id, event) = (delivery.event.id, Arc::clone(&delivery.event));
    fail(&inbox, delivery).await;
    serve_until(&backend, &inbox, 1).await;
    let Body::Custom(custom) = &event.body else { panic!("{event:?}") };
    let data: Arc<RawValue> = RawValue::from_string(r#"{"edited":true}"#.to_owned()).unwrap().into();
    let copy = Body::Custom(Custom { data, ..custom.clone() });
    let edited = backend.dead_letters.retry_edited(&name(CONSUMER), id, copy).await.unwrap();
    assert!(edited.into_inner());
    serve(&backend, &inbox).await;
    start(&backend, rebuild()).await;
    let past = lease(&inbox).await;
    assert!(matches!(&past.event.body, Body::Custom(custom) if custom.data.get() == r#"{"edited":true}"#), "{past:?}");
    done(&inbox, past).await;
    work(&backend, &inbox).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

/// Does live deliveries until so many are pending.
async fn serve_until(backend: &Backend, inbox: &Arc<dyn Inbox>, pending: u64) {
    let deadline = Deadline::new();
    loop {
        while let Some(delivery) = inbox.lease() {
            done(inbox, delivery).await;
        }
        let report = report(backend, CONSUMER).await;
        if report.pending == pending {
            return;
        }
        deadline.pause(report).await;
    }
}

async fn an_event_that_fails_pauses_the_rebuild_and_is_the_first_when_it_is_resumed(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    publish(&backend, "tea").await;
    publish(&backend, "tea").await;
    serve(&backend, &inbox).await;
    let before = state(&backend).await;
    start(&backend, rebuild()).await;
    let cause = Cause::new(CauseKind::Retry, "not now");
    let past = lease(&inbox).await;
    let (event, position) = (past.event.id, past.event.position.get());
    let again = Settlement::Retry { at: Timestamp::now(), cause, ran: ran() };
    assert!(matches!(inbox.finish(past, &Reads::default(), again).await, Finished::Accepted));
    let past = lease(&inbox).await;
    assert_eq!((past.event.id, past.attempt), (event, 2));
    fail(&inbox, past).await;
    let failure = eventually("a pause", async || {
        let report = latest(&backend).await;
        report.failure.filter(|_| report.state == BackfillState::Paused)
    })
    .await;
    assert_eq!((failure.event_id, failure.position, failure.attempt), (event, position, 2));
    assert_eq!((failure.outcome, failure.cause.as_str()), (CauseKind::Reject, "no"));
    let mut besides = nothing_comes(&home, &backend, &inbox, "nothing goes on").await;
    assert_eq!((state(&backend).await, report(&backend, CONSUMER).await.dead), (before, 0));
    // Live events do.
    publish(&backend, "salt").await;
    let live = lease(&inbox).await;
    assert_eq!(live.origin, Origin::Live);
    done(&inbox, live).await;

    drop(inbox);
    let backend = home.reopen(backend).await;
    let inbox = attach(&backend, Start::Now).await;
    besides += nothing_comes(&home, &backend, &inbox, "it is paused still").await;
    steer(&backend, BackfillStep::Resume).await;
    let past = lease(&inbox).await;
    assert_eq!((past.event.id, past.attempt), (event, 1));
    done(&inbox, past).await;
    let report = work(&backend, &inbox).await;
    assert_eq!((report.failure, report.delivered), (None, besides + 3));
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn a_rebuild_that_is_cancelled_leaves_nothing_behind(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    for _ in 0..4 {
        publish(&backend, "tea").await;
        publish(&backend, "salt").await;
    }
    serve(&backend, &inbox).await;
    let before = state(&backend).await;
    start(&backend, rebuild()).await;
    done(&inbox, lease(&inbox).await).await;
    let past = lease(&inbox).await;
    let mut besides = nothing_comes(&home, &backend, &inbox, "one after another").await;
    steer(&backend, BackfillStep::Cancel).await;
    done(&inbox, past).await;
    besides += nothing_comes(&home, &backend, &inbox, "it is cancelled").await;
    assert_eq!(latest(&backend).await.state, BackfillState::Cancelled);
    assert_eq!(state(&backend).await, before);
    assert!(matches!(steer(&backend, BackfillStep::Resume).await, Steered::None));

    // The next one begins with nothing.
    start(&backend, rebuild()).await;
    let report = work(&backend, &inbox).await;
    assert_eq!(report.delivered, besides + 8);
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn states_that_are_past_go(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    publish(&backend, "tea").await;
    publish(&backend, "salt").await;
    serve(&backend, &inbox).await;
    let before = state(&backend).await;
    start(&backend, rebuild()).await;
    done(&inbox, lease(&inbox).await).await;
    steer(&backend, BackfillStep::Cancel).await;
    start(&backend, rebuild()).await;
    work(&backend, &inbox).await;
    backend.upkeep.retain(Retention { attempts: Keep::For(Duration::from_millis(1)), ..Retention::default() });
    eventually("one state alone", async || {
        ((home.rows("entries"), home.rows("counters"), home.rows("deferred")) == (2, 1, 0)).then_some(())
    })
    .await;
    assert_eq!(state(&backend).await, before);
}

async fn a_new_state_is_held_to_the_limit_and_weighs_what_is_in_it(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    publish(&backend, "tea").await;
    serve(&backend, &inbox).await;
    // `n` with a counter's 8 bytes, and `lane/tea` with the position and a comma.
    let position = events(&backend, 1).await[0].position.to_string();
    let weight = ("n".len() + 8 + "lane/tea".len() + position.len() + 1) as u64;
    inbox.configure(InboxPolicy { state_bytes_max: weight - 1, ..listens() });
    start(&backend, rebuild()).await;
    let past = lease(&inbox).await;
    let (reads, effects) = handled(&inbox, &past).await;
    let Finished::Full { delivery, excess, .. } =
        inbox.finish(past, &reads, Settlement::Done { effects, ran: ran() }).await
    else {
        panic!("there is no room for it")
    };
    assert_eq!(excess, Excess::State { bytes: weight });
    inbox.configure(InboxPolicy { state_bytes_max: weight, ..listens() });
    done(&inbox, delivery).await;
    work(&backend, &inbox).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn what_a_rebuild_needs_is_held_back_from_retention(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    for subject in ["dead", "tea", "salt", "tea"] {
        publish(&backend, subject).await;
    }
    let journal = events(&backend, 4).await;
    let [dead, tea, salt] = leases(&inbox).await;
    fail(&inbox, dead).await;
    done(&inbox, tea).await;
    done(&inbox, salt).await;
    serve(&backend, &inbox).await;
    start(&backend, rebuild()).await;
    // It is past the dead letter, which is done behind its back.
    let past = lease(&inbox).await;
    assert_eq!(past.event.id, journal[1].id);
    steer(&backend, BackfillStep::Pause).await;
    done(&inbox, past).await;
    backend.dead_letters.retry(&name(CONSUMER), Which::All.first(10)).await.unwrap().into_inner();
    done(&inbox, lease(&inbox).await).await;
    serve(&backend, &inbox).await;
    let keep = Keep::For(Duration::from_millis(1));
    backend.upkeep.retain(Retention { events: keep, orders: keep, open_orders: keep, ..Retention::default() });
    let held = eventually("what is held back", async || report(&backend, CONSUMER).await.held).await;
    assert_eq!((held.reason, held.events), (HeldBy::Backfill, 3));
    events(&backend, 4).await;
    let all = expected(&backend, &BTreeSet::new()).await;
    steer(&backend, BackfillStep::Resume).await;
    work(&backend, &inbox).await;
    assert_eq!(state(&backend).await, all);
}

async fn live_deliveries_wait_for_a_hand_over_and_not_for_one_that_does_not_come(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Now).await;
    publish(&backend, "tea").await;
    publish(&backend, "salt").await;
    let [tea, salt] = leases(&inbox).await;
    let first = tea.event.id;
    done(&inbox, tea).await;
    let began = Instant::now();
    start(&backend, rebuild()).await;
    // Once all that is done was handled again, no live delivery starts while one runs.
    let past = lease(&inbox).await;
    assert_eq!((past.origin, past.event.id), (Origin::Backfill, first));
    done(&inbox, past).await;
    assert!(inbox.lease().is_none());
    publish(&backend, "pepper").await;
    let pepper = lease(&inbox).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "it waited");
    let told = (pepper.origin, pepper.event.lane());
    assert_eq!(told, (Origin::Live, Lane::Subject("pepper".into())), "the one that runs takes its time");
    done(&inbox, pepper).await;
    done(&inbox, salt).await;
    work(&backend, &inbox).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

claims! {
    a_rebuild_ends_with_the_state_of_one_that_was_always_there_and_repeats_no_effect on [embedded, aws],
    what_is_an_exception_is_delivered_on_the_new_state_once on [embedded, aws],
    a_copy_that_a_person_edited_is_handled_again_in_place_of_its_event on [embedded, aws],
    an_event_that_fails_pauses_the_rebuild_and_is_the_first_when_it_is_resumed on [embedded, aws],
    a_rebuild_that_is_cancelled_leaves_nothing_behind on [embedded, aws],
    states_that_are_past_go on [embedded] because "it counts rows of the file",
    a_new_state_is_held_to_the_limit_and_weighs_what_is_in_it on [embedded, aws],
    what_a_rebuild_needs_is_held_back_from_retention on [embedded, aws],
    live_deliveries_wait_for_a_hand_over_and_not_for_one_that_does_not_come on [embedded, aws],
}
