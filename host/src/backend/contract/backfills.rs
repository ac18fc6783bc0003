//! Promise 6 under a backfill: history before live events, lane by lane, each event once, whatever comes in between.

mod model;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use self::model::{Story, step};
use super::wait::{Deadline, tell};
use super::{
    Place, accept, confirm, done, events, lease, leases, name, nothing_comes, place, policy, publish, ran, report,
    report_when,
};
use crate::backend::{
    Backend, Backfill, BackfillEffects, BackfillReport, BackfillState, BackfillStep, Backfilled, Cause, CauseKind,
    Delivery, DeliveryState, Inbox, InboxPolicy, Origin, Settlement, Since, Started, StateQuery, Steered, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Message};
use crate::event::filter::Filter;
use crate::event::{Event, EventId, KindPattern, Lane};
use crate::order::{Change, Order, Status};
use crate::policy::{OnDead, Start};

const CONSUMER: &str = "late";

fn everything() -> Backfill {
    Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1000000/s".parse().unwrap(),
        effects: BackfillEffects::All,
        of: Backfilled::Missed,
    }
}

fn listens() -> InboxPolicy {
    InboxPolicy { subscriptions: ["*".parse::<KindPattern>().unwrap()].into_iter().collect(), ..policy() }
}

async fn attach(backend: &Backend) -> Arc<dyn Inbox> {
    let inbox = backend.consumers.attach(&name(CONSUMER), Start::Now).await.unwrap();
    inbox.configure(listens());
    inbox
}

async fn start(backend: &Backend, backfill: Backfill) -> BackfillReport {
    match backend.backfills.start(&name(CONSUMER), backfill).await.unwrap().into_inner() {
        Started::Yes(report) => report,
        other => panic!("{other:?}"),
    }
}

async fn latest(backend: &Backend) -> BackfillReport {
    backend.backfills.latest(&name(CONSUMER)).await.unwrap().unwrap()
}

async fn steer(backend: &Backend, step: BackfillStep) -> Steered {
    backend.backfills.steer(&name(CONSUMER), step).await.unwrap().into_inner()
}

/// Waits until the backfill stands like this.
async fn stands(backend: &Backend, wanted: impl Fn(&BackfillReport) -> bool) -> BackfillReport {
    let deadline = Deadline::new();
    loop {
        let report = latest(backend).await;
        if wanted(&report) {
            return report;
        }
        deadline.pause(report).await;
    }
}

fn what(delivery: &Delivery) -> (EventId, Origin) {
    (delivery.event.id, delivery.origin)
}

async fn live_events_of_an_order_wait_for_its_history_and_others_do_not(home: Place) {
    let backend = home.open().await;
    let (old, quiet) = (place(&backend).await, place(&backend).await);
    publish(&backend, "tea").await;
    let inbox = attach(&backend).await;
    assert_eq!(backend.backfills.count(&name(CONSUMER), &everything()).await.unwrap(), Some(3));
    start(&backend, everything()).await;
    steer(&backend, BackfillStep::Pause).await;

    confirm(&backend, old.id).await;
    publish(&backend, "tea").await;
    let new = place(&backend).await;
    let journal = events(&backend, 6).await;
    let live = lease(&inbox).await;
    assert_eq!((live.event.order_id(), live.origin), (Some(new.id), Origin::Live));
    accept(&inbox, live, done(Effects::default())).await;
    nothing_comes(&home, &backend, &inbox, "what has undelivered history waits").await;
    assert_eq!(stands(&backend, |report| report.held == 2).await.state, BackfillState::Paused);

    steer(&backend, BackfillStep::Resume).await;
    let first = leases::<3>(&inbox).await;
    let told = first.each_ref().map(what);
    assert_eq!(told, [0, 1, 2].map(|index: usize| (journal[index].id, Origin::Backfill)));
    assert_eq!(first[1].event.order_id(), Some(quiet.id));
    nothing_comes(&home, &backend, &inbox, "a lane runs one delivery at a time").await;
    for delivery in first {
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    let rest = leases::<2>(&inbox).await;
    assert_eq!(rest.each_ref().map(what), [3, 4].map(|index: usize| (journal[index].id, Origin::Live)));
    for delivery in rest {
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    let report = stands(&backend, |report| report.state == BackfillState::Done).await;
    assert_eq!((report.events, report.delivered, report.held), (3, 3, 0));
    let [last_of_history, first_of_live] = [2, 3].map(|index: usize| journal[index].position.get());
    assert!((last_of_history..first_of_live).contains(&report.last) && report.position == report.last, "{report:?}");
    assert_eq!(backend.backfills.count(&name(CONSUMER), &everything()).await.unwrap(), Some(0));
}

async fn live_events_that_stand_in_their_lane_when_a_backfill_starts_wait_for_its_history_too(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let inbox = attach(&backend).await;
    confirm(&backend, order.id).await;
    let cancelled = Change::Cancelled { reason: "late".into() };
    drop(backend.intake.change(order.id, cancelled).await.unwrap());
    let journal = events(&backend, 3).await;
    let running = lease(&inbox).await;
    assert_eq!(what(&running), (journal[1].id, Origin::Live));
    start(&backend, everything()).await;
    steer(&backend, BackfillStep::Pause).await;
    accept(&inbox, running, done(Effects::default())).await;
    nothing_comes(&home, &backend, &inbox, "what has undelivered history waits").await;
    steer(&backend, BackfillStep::Resume).await;
    for (event, origin) in [(0, Origin::Backfill), (2, Origin::Live)] {
        let delivery = lease(&inbox).await;
        assert_eq!(what(&delivery), (journal[event].id, origin));
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    stands(&backend, |report| report.state == BackfillState::Done).await;
}

async fn what_a_consumer_missed_concerns_it_only_once_a_backfill_brings_it(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let inbox = attach(&backend).await;
    let states = async || -> Vec<_> {
        let reports = backend.journal.deliveries_of(order.id).await.unwrap();
        reports.iter().map(|report| (report.consumer.to_string(), report.state)).collect()
    };
    assert_eq!(states().await, []);
    start(&backend, everything()).await;
    assert_eq!(states().await, [(CONSUMER.to_owned(), DeliveryState::Pending)]);
    let delivery = lease(&inbox).await;
    accept(&inbox, delivery, done(Effects::default())).await;
    stands(&backend, |report| report.state == BackfillState::Done).await;
    assert_eq!(states().await, [(CONSUMER.to_owned(), DeliveryState::Done)]);
}

async fn what_was_delivered_before_a_cancel_is_not_delivered_again(home: Place) {
    let backend = home.open().await;
    for _ in 0..4 {
        place(&backend).await;
    }
    let inbox = attach(&backend).await;
    start(&backend, everything()).await;
    let [one, two] = leases(&inbox).await;
    let begun = [one.event.id, two.event.id];
    assert!(
        matches!(steer(&backend, BackfillStep::Cancel).await, Steered::Yes(it) if it.state == BackfillState::Cancelled)
    );
    accept(&inbox, two, done(Effects::default())).await;
    accept(&inbox, one, done(Effects::default())).await;
    nothing_comes(&home, &backend, &inbox, "a cancelled backfill starts no delivery").await;
    assert!(matches!(steer(&backend, BackfillStep::Resume).await, Steered::None));
    start(&backend, everything()).await;
    assert!(matches!(
        backend.backfills.start(&name(CONSUMER), everything()).await.unwrap().into_inner(),
        Started::Runs
    ));
    for delivery in leases::<2>(&inbox).await {
        assert!(delivery.origin == Origin::Backfill && !begun.contains(&delivery.event.id), "{delivery:?}");
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    let report = stands(&backend, |report| report.state == BackfillState::Done).await;
    assert_eq!((report.events, report.delivered), (2, 2));
}

async fn a_backfill_is_over_once_all_of_it_is_done_and_not_when_the_last_of_it_is(home: Place) {
    let backend = home.open().await;
    for _ in 0..3 {
        place(&backend).await;
    }
    let inbox = attach(&backend).await;
    start(&backend, everything()).await;
    let [first, second, last] = leases(&inbox).await;
    let open = first.event.id;
    accept(&inbox, last, done(Effects::default())).await;
    accept(&inbox, second, done(Effects::default())).await;
    let report = stands(&backend, |report| report.delivered == 2).await;
    assert_eq!(report.state, BackfillState::Running);
    drop((first, inbox));

    let backend = home.reopen(backend).await;
    let inbox = attach(&backend).await;
    let delivery = lease(&inbox).await;
    assert_eq!(what(&delivery), (open, Origin::Backfill));
    accept(&inbox, delivery, done(Effects::default())).await;
    assert_eq!(stands(&backend, |report| report.state == BackfillState::Done).await.delivered, 3);
    nothing_comes(&home, &backend, &inbox, "each came once").await;
}

async fn a_backfill_ends_though_nothing_of_it_is_heard_any_more(home: Place) {
    let backend = home.open().await;
    for _ in 0..3 {
        place(&backend).await;
    }
    let inbox = attach(&backend).await;
    inbox.configure(InboxPolicy { concurrency: 1, ..listens() });
    start(&backend, everything()).await;
    let first = lease(&inbox).await;
    inbox.configure(InboxPolicy { subscriptions: super::hears(&["com.example.other"]), ..policy() });
    accept(&inbox, first, done(Effects::default())).await;
    assert!(inbox.lease().is_none());
    assert_eq!(stands(&backend, |report| report.state == BackfillState::Done).await.delivered, 1);
    inbox.configure(listens());
    let never = Backfill { from: Since::At(Timestamp::MAX), ..everything() };
    assert_eq!(start(&backend, never).await.state, BackfillState::Done, "none is under way");
}

async fn state_only_commits_state_and_records_and_counts_what_it_drops(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let inbox = attach(&backend).await;
    start(&backend, Backfill { effects: BackfillEffects::StateOnly, ..everything() }).await;
    let message = Message::Sms { to: "+1".into(), text: "t".into() };
    let effects = || Effects {
        adjustments: vec![Adjustment { key: "n".into(), by: 1, floor: None }],
        order_changes: vec![(order.id, Change::Confirmed {})],
        messages: vec![message.clone()],
        records: vec![crate::effects::Record { dataset: "rows".into(), row: "{}".into() }],
        ..Effects::default()
    };
    let cause = Cause::new(CauseKind::Reject, "no");
    let delivery = lease(&inbox).await;
    accept(&inbox, delivery, Settlement::Dead { cause, ran: ran() }).await;
    stands(&backend, |report| report.state == BackfillState::Done).await;
    drop(inbox);

    // A dead letter stays state-only, long after its backfill and through a restart.
    let backend = home.reopen(backend).await;
    let inbox = attach(&backend).await;
    backend.dead_letters.retry(&name(CONSUMER), Which::All.first(100)).await.unwrap().into_inner();
    let again = lease(&inbox).await;
    assert_eq!(again.origin, Origin::Replay);
    accept(&inbox, again, done(effects())).await;
    let report = stands(&backend, |report| report.delivered == 1).await;
    assert_eq!((report.dropped, report.state), (2, BackfillState::Done));
    assert_eq!(backend.journal.order(order.id).await.unwrap().unwrap().status, Status::Placed);
    assert!(backend.journal.messages(None, 10).await.unwrap().items.is_empty());
    assert_eq!(backend.journal.records("rows", None, 10).await.unwrap().items.len(), 1);
    let state =
        backend.consumers.state(&name(CONSUMER), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap();
    assert_eq!(state.counters, [("n".to_owned(), 1)]);
}

async fn a_backfill_is_held_to_its_rate_and_a_time_to_begin_at(home: Place) {
    let backend = home.open().await;
    for _ in 0..3 {
        place(&backend).await;
    }
    let events = events(&backend, 3).await;
    let time = events[2].time;
    let wanted = u64::try_from(events.iter().filter(|event| event.time >= time).count()).unwrap();
    let inbox = attach(&backend).await;
    let since = Backfill { from: Since::At(time), ..everything() };
    assert_eq!(backend.backfills.count(&name(CONSUMER), &since).await.unwrap(), Some(wanted));
    let never = Backfill { from: Since::At(Timestamp::MAX), ..everything() };
    assert_eq!(start(&backend, never).await.state, BackfillState::Done, "there is nothing to do");
    let began = Instant::now();
    start(&backend, Backfill { rate: "4/s".parse().unwrap(), ..everything() }).await;
    let running = leases::<3>(&inbox).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "three at 4/s came within {took:?}");
    assert_eq!(report(&backend, CONSUMER).await.backfill.unwrap().state, BackfillState::Running);
    for delivery in running {
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    stands(&backend, |report| report.state == BackfillState::Done).await;
}

async fn a_filter_takes_its_part_and_leaves_the_rest_to_the_next(home: Place) {
    let backend = home.open().await;
    for subject in ["tea", "salt", "tea"] {
        publish(&backend, subject).await;
    }
    let order = place(&backend).await;
    let inbox = attach(&backend).await;
    let filter = Filter::parse(r#"{"subject": ["tea"]}"#).unwrap();
    let tea = Backfill { filter: Some(filter), ..everything() };
    assert_eq!(backend.backfills.count(&name(CONSUMER), &tea).await.unwrap(), Some(2));
    start(&backend, tea.clone()).await;
    confirm(&backend, order.id).await;
    let journal = events(&backend, 5).await;
    let mut delivered = BTreeSet::new();
    for _ in 0..3 {
        let delivery = lease(&inbox).await;
        delivered.insert(delivery.event.id);
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    let of = |indices: &[usize]| -> BTreeSet<_> { indices.iter().map(|index| journal[*index].id).collect() };
    assert_eq!(delivered, of(&[0, 2, 4]), "what does not match holds nothing up");
    let report = stands(&backend, |report| report.state == BackfillState::Done).await;
    assert_eq!((report.events, report.delivered), (2, 2));
    assert_eq!(report.filter, tea.filter);
    assert_eq!(start(&backend, everything()).await.events, 2);
    let rest = leases::<2>(&inbox).await;
    assert_eq!(rest.each_ref().map(what), [1, 3].map(|index: usize| (journal[index].id, Origin::Backfill)));
    for delivery in rest {
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    stands(&backend, |report| report.state == BackfillState::Done).await;
}

async fn what_a_backfill_went_by_behind_a_dead_letter_comes_with_its_lane(home: Place) {
    let backend = home.open().await;
    for _ in 0..3 {
        publish(&backend, "tea").await;
    }
    let salt = place(&backend).await;
    let inbox = attach(&backend).await;
    start(&backend, everything()).await;
    let cause = Cause::new(CauseKind::Reject, "no");
    let [first, other] = leases(&inbox).await;
    assert_eq!((first.event.order_id(), other.event.order_id()), (None, Some(salt.id)));
    accept(&inbox, first, Settlement::Dead { cause, ran: ran() }).await;
    accept(&inbox, other, done(Effects::default())).await;
    let report = stands(&backend, |report| report.state == BackfillState::Done).await;
    assert_eq!((report.events, report.delivered), (4, 1));
    publish(&backend, "tea").await;
    let journal = events(&backend, 5).await;
    nothing_comes(&home, &backend, &inbox, "a dead letter parks its lane").await;
    assert_eq!(backend.backfills.count(&name(CONSUMER), &everything()).await.unwrap(), Some(0));
    drop(inbox);

    let backend = home.reopen(backend).await;
    let inbox = attach(&backend).await;
    backend.dead_letters.retry(&name(CONSUMER), Which::All.first(100)).await.unwrap().into_inner();
    let origins = [Origin::Replay, Origin::Backfill, Origin::Backfill, Origin::Live];
    for (event, origin) in [0, 1, 2, 4].map(|index: usize| &journal[index]).into_iter().zip(origins) {
        let delivery = lease(&inbox).await;
        assert_eq!(what(&delivery), (event.id, origin));
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    assert_eq!(stands(&backend, |report| report.delivered == 4).await.state, BackfillState::Done);
}

async fn history_and_live_events_of_a_lane_come_in_order_and_once_whatever_happens(home: Place) {
    let steps = |max| prop::collection::vec(step(), 0..max);
    tell(&home, 48, (steps(14), steps(10), steps(40)), async |home, (history, before, during)| {
        Story::run(home, history, before, during).await;
    });
}

async fn a_lane_that_skips_its_dead_letters_goes_on_under_a_backfill(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let inbox = attach(&backend).await;
    inbox.configure(InboxPolicy { on_dead: OnDead::Skip, ..listens() });
    start(&backend, everything()).await;
    confirm(&backend, order.id).await;
    let journal = events(&backend, 2).await;
    let cause = Cause::new(CauseKind::Reject, "no");
    let history = lease(&inbox).await;
    assert_eq!(what(&history), (journal[0].id, Origin::Backfill));
    accept(&inbox, history, Settlement::Dead { cause, ran: ran() }).await;
    let live = lease(&inbox).await;
    assert_eq!(what(&live), (journal[1].id, Origin::Live));
    accept(&inbox, live, done(Effects::default())).await;
    let ended = stands(&backend, |report| report.state == BackfillState::Done).await;
    assert_eq!(ended.delivered, 0);
    report_when(&backend, CONSUMER, |it| it.dead == 1).await;
}

async fn history_that_is_discarded_does_not_come_again_and_what_is_behind_it_does(home: Place) {
    let backend = home.open().await;
    for _ in 0..2 {
        publish(&backend, "tea").await;
    }
    let inbox = attach(&backend).await;
    start(&backend, everything()).await;
    let cause = Cause::new(CauseKind::Reject, "no");
    accept(&inbox, lease(&inbox).await, Settlement::Dead { cause, ran: ran() }).await;
    publish(&backend, "tea").await;
    report_when(&backend, CONSUMER, |it| it.dead == 1).await;
    backend.dead_letters.discard(&name(CONSUMER), Which::All.first(10)).await.unwrap().into_inner();
    let journal = events(&backend, 3).await;
    for (event, origin) in journal[1..].iter().zip([Origin::Backfill, Origin::Live]) {
        let delivery = lease(&inbox).await;
        assert_eq!(what(&delivery), (event.id, origin));
        accept(&inbox, delivery, done(Effects::default())).await;
    }
    nothing_comes(&home, &backend, &inbox, "all was done or discarded").await;
}

async fn a_letter_of_history_that_its_lane_went_on_without_stays_state_only(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let inbox = attach(&backend).await;
    start(&backend, Backfill { effects: BackfillEffects::StateOnly, ..everything() }).await;
    let cause = || Cause::new(CauseKind::Reject, "no");
    accept(&inbox, lease(&inbox).await, Settlement::Dead { cause: cause(), ran: ran() }).await;
    confirm(&backend, order.id).await;
    report_when(&backend, CONSUMER, |it| it.dead == 1).await;
    // What parked its lane does so no more.
    inbox.configure(InboxPolicy { on_dead: OnDead::Skip, ..listens() });
    let behind = lease(&inbox).await;
    assert_eq!((behind.event.kind(), behind.origin), ("order.confirmed", Origin::Live));
    accept(&inbox, behind, done(Effects::default())).await;
    for end in [Some(cause()), None] {
        report_when(&backend, CONSUMER, |it| it.dead == 1).await;
        backend.dead_letters.retry(&name(CONSUMER), Which::All.first(10)).await.unwrap().into_inner();
        let again = lease(&inbox).await;
        assert_eq!((again.event.kind(), again.origin), ("order.placed", Origin::Replay));
        let messages = vec![Message::Sms { to: "+1".into(), text: "t".into() }];
        let settlement = match end {
            Some(cause) => Settlement::Dead { cause, ran: ran() },
            None => done(Effects { messages, ..Effects::default() }),
        };
        accept(&inbox, again, settlement).await;
    }
    let report = stands(&backend, |report| report.delivered == 1).await;
    assert_eq!(report.dropped, 1);
    assert!(backend.journal.messages(None, 10).await.unwrap().items.is_empty());
    nothing_comes(&home, &backend, &inbox, "all was done").await;
}

claims! {
    live_events_of_an_order_wait_for_its_history_and_others_do_not on [embedded, aws],
    live_events_that_stand_in_their_lane_when_a_backfill_starts_wait_for_its_history_too on [embedded, aws],
    what_a_consumer_missed_concerns_it_only_once_a_backfill_brings_it on [embedded, aws],
    what_was_delivered_before_a_cancel_is_not_delivered_again on [embedded, aws],
    a_backfill_is_over_once_all_of_it_is_done_and_not_when_the_last_of_it_is on [embedded, aws],
    a_backfill_ends_though_nothing_of_it_is_heard_any_more on [embedded] because "there it is not shown yet",
    state_only_commits_state_and_records_and_counts_what_it_drops on [embedded, aws],
    a_backfill_is_held_to_its_rate_and_a_time_to_begin_at on [embedded, aws],
    a_filter_takes_its_part_and_leaves_the_rest_to_the_next on [embedded, aws],
    what_a_backfill_went_by_behind_a_dead_letter_comes_with_its_lane on [embedded, aws],
    history_and_live_events_of_a_lane_come_in_order_and_once_whatever_happens on [embedded, aws],
    a_lane_that_skips_its_dead_letters_goes_on_under_a_backfill on [embedded, aws],
    history_that_is_discarded_does_not_come_again_and_what_is_behind_it_does on [embedded, aws],
    a_letter_of_history_that_its_lane_went_on_without_stays_state_only on [embedded, aws],
}
