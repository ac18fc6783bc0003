//! Promise 5: what cannot be handled is kept with everything that led to it, and a person decides.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::{
    Place, accept, confirm, custom, done, eventually, hears, inbox, lease, name, nothing_comes, place, policy, ran,
    report, report_when, settled,
};
use crate::backend::{
    AttemptReport, Backend, Cause, CauseCount, CauseKey, CauseKind, Delivery, DeliveryState, Evidence, Inbox,
    InboxPolicy, LetterQuery, LetterShown, Level, LogLine, Origin, Redriven, Selection, Settlement, Which,
};
use crate::clock::Timestamp;
use crate::effects::Effects;
use crate::event::{Body, Custom, EventId, edit};
use crate::order::{Change, Order};
use crate::policy::OnDead;

fn dead(kind: CauseKind, detail: impl Into<String>) -> Settlement {
    Settlement::Dead { cause: Cause::new(kind, detail), ran: ran() }
}

fn later(after: Duration, detail: &str) -> Settlement {
    let cause = Cause::new(CauseKind::Retry, detail);
    Settlement::Retry { at: Timestamp::now().plus(after), cause, ran: ran() }
}

/// Places an order whose delivery dies.
async fn die(backend: &Backend, deliveries: &Arc<dyn Inbox>, settlement: Settlement) -> Order {
    let order = place(backend).await;
    accept(deliveries, lease(deliveries).await, settlement).await;
    order
}

/// Waits until this many letters are dead and durable.
async fn wait_for_dead(backend: &Backend, dead: u64) {
    report_when(backend, "alpha", |it| it.dead == dead).await;
}

async fn causes(backend: &Backend) -> Vec<(CauseKind, String, u64)> {
    let causes = backend.dead_letters.causes(&name("alpha"), 10).await.unwrap();
    causes.into_iter().map(|CauseCount { outcome, cause, count, .. }| (outcome, cause, count)).collect()
}

async fn listed(backend: &Backend, cause: Option<&str>) -> Vec<EventId> {
    let cause = cause.map(|text| CauseKey { outcome: None, text: text.to_owned() });
    let query = LetterQuery { cause, after: None, limit: 100 };
    let page = backend.dead_letters.list(&name("alpha"), query).await.unwrap();
    page.items.into_iter().map(|letter| letter.event_id).collect()
}

async fn show(backend: &Backend, event: EventId) -> Option<LetterShown> {
    backend.dead_letters.show(&name("alpha"), event).await.unwrap()
}

async fn retry(backend: &Backend, selection: Selection) -> Redriven {
    backend.dead_letters.retry(&name("alpha"), selection).await.unwrap().into_inner()
}

async fn dead_letters_are_grouped_by_cause_over_all_of_them(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let before = Timestamp::now();
    for n in 0..5 {
        die(&backend, &deliveries, dead(CauseKind::Reject, format!("no {n} of {}", EventId::generate()))).await;
    }
    for n in 0..2 {
        die(&backend, &deliveries, dead(CauseKind::Trap, format!("panicked at line {n}"))).await;
    }
    die(&backend, &deliveries, dead(CauseKind::Timeout, "no 7 of x")).await;
    wait_for_dead(&backend, 8).await;

    let groups = [
        (CauseKind::Reject, "no # of #".to_owned(), 5),
        (CauseKind::Trap, "panicked at line #".to_owned(), 2),
        (CauseKind::Timeout, "no # of x".to_owned(), 1),
    ];
    assert_eq!(causes(&backend).await, groups);
    let first = &backend.dead_letters.causes(&name("alpha"), 1).await.unwrap()[0];
    assert!(before <= first.first_at && first.first_at <= first.last_at && first.last_at <= Timestamp::now());
    assert_eq!(listed(&backend, Some("panicked at line #")).await.len(), 2);
    assert_eq!(listed(&backend, Some("panicked at line 12345")).await.len(), 2, "one of them stands for all");
    assert_eq!(listed(&backend, Some("another")).await, []);

    // Of one cause, the others stay, through a restart too.
    let cause = CauseKey { outcome: Some(CauseKind::Reject), text: "no # of #".into() };
    assert_eq!(retry(&backend, Which::Cause(cause).first(100)).await.count, 5);
    drop(deliveries);
    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..5 {
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    }
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (3, 3)).await;
    assert_eq!(causes(&backend).await, groups[1..]);
}

async fn a_cause_of_several_outcomes_is_redriven_a_few_at_a_time_too(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for kind in [CauseKind::Reject, CauseKind::Trap, CauseKind::Reject] {
        die(&backend, &deliveries, dead(kind, "no")).await;
    }
    wait_for_dead(&backend, 3).await;
    let all = listed(&backend, None).await;
    let cause = CauseKey { outcome: None, text: "no".into() };
    let Redriven { count, next } = retry(&backend, Which::Cause(cause).first(2)).await;
    assert!(count == 2 && next.is_some());
    report_when(&backend, "alpha", |it| it.dead == 1).await;
    assert_eq!(listed(&backend, None).await, all[2..], "in the order of the journal");
}

async fn a_redrive_goes_through_the_letters_a_few_at_a_time(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..5 {
        die(&backend, &deliveries, dead(CauseKind::Reject, "no")).await;
    }
    wait_for_dead(&backend, 5).await;
    let all = listed(&backend, None).await;
    let mut selection = Which::All.first(2);
    let mut counts = Vec::new();
    loop {
        let Redriven { count, next } = retry(&backend, selection.clone()).await;
        counts.push(count);
        // What dies again is behind the cursor, and is not redriven again.
        for _ in 0..count {
            accept(&deliveries, lease(&deliveries).await, dead(CauseKind::Reject, "no, again")).await;
        }
        match next {
            Some(next) => selection.after = Some(next),
            None => break,
        }
    }
    assert_eq!(counts, [2, 2, 1]);
    wait_for_dead(&backend, 5).await;
    assert_eq!(listed(&backend, None).await, all);
    assert_eq!(causes(&backend).await, [(CauseKind::Reject, "no, again".to_owned(), 5)]);
}

pub async fn a_letter_shows_what_every_attempt_staged_and_logged(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = place(&backend).await;
    accept(&deliveries, lease(&deliveries).await, later(Duration::ZERO, "not yet")).await;
    let delivery = lease(&deliveries).await;
    let event = delivery.event.id;
    let evidence = Evidence {
        effects: Some(r#"{"adjustments":[{"key":"n","by":1}]}"#.to_owned()),
        log: vec![LogLine { level: Level::Info, text: "about to".to_owned() }],
    };
    let backtrace = Some("0: handle".to_owned());
    let cause = Cause { backtrace, evidence, ..Cause::new(CauseKind::Trap, "unreachable: 7") };
    accept(&deliveries, delivery, Settlement::Dead { cause, ran: ran() }).await;
    wait_for_dead(&backend, 1).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let shown = show(&backend, event).await.unwrap();
    assert_eq!((shown.letter.order_id, shown.letter.attempts), (Some(order.id), 2));
    assert_eq!((shown.letter.outcome, shown.letter.cause.as_str()), (Some(CauseKind::Trap), "unreachable: 7"));
    assert!(shown.letter.parks && shown.edited.is_none());
    assert_eq!(shown.event.id, event);
    let [first, last] = &shown.attempts[..] else { panic!("{:?}", shown.attempts) };
    assert_eq!((first.attempt, first.outcome, first.cause.as_deref()), (1, Some(CauseKind::Retry), Some("not yet")));
    assert!(first.effects.is_none() && first.log.is_empty());
    assert_eq!((last.attempt, last.outcome, last.origin), (2, Some(CauseKind::Trap), Origin::Live));
    assert_eq!(last.backtrace.as_deref(), Some("0: handle"));
    assert_eq!(last.effects.as_ref().unwrap().get(), r#"{"adjustments":[{"key":"n","by":1}]}"#);
    assert_eq!(last.log, [LogLine { level: Level::Info, text: "about to".to_owned() }]);
    assert_eq!(last.duration_us, 10);

    assert!(show(&backend, EventId::generate()).await.is_none());
    assert!(backend.dead_letters.show(&name("beta"), event).await.unwrap().is_none());
}

async fn of_many_attempts_the_first_and_the_last_are_kept(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    for attempt in 1..40 {
        accept(&deliveries, lease(&deliveries).await, later(Duration::ZERO, &format!("attempt {attempt}"))).await;
    }
    let delivery = lease(&deliveries).await;
    let event = delivery.event.id;
    assert_eq!(delivery.attempt, 40);
    accept(&deliveries, delivery, dead(CauseKind::Retry, "attempt 40")).await;
    wait_for_dead(&backend, 1).await;
    let shown = show(&backend, event).await.unwrap();
    let kept: Vec<u32> = shown.attempts.iter().map(|AttemptReport { attempt, .. }| *attempt).collect();
    assert_eq!(kept, (1..=5).chain(26..=40).collect::<Vec<_>>());
    assert_eq!(shown.letter.attempts, 40);
}

async fn an_edited_copy_is_delivered_to_its_consumer_alone_and_the_event_stays(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = die(&backend, &deliveries, dead(CauseKind::Reject, "no such street")).await;
    wait_for_dead(&backend, 1).await;
    let event = listed(&backend, None).await[0];
    let mut content = (*order.content).clone();
    content.metadata.insert("street".into(), "mended".into());
    let copy =
        Body::OrderChanged { order: Order { content: Arc::new(content), ..order.clone() }, change: Change::Placed {} };
    let edited = backend.dead_letters.retry_edited(&name("alpha"), event, copy.clone()).await.unwrap();
    assert!(edited.into_inner());
    let mended = |delivery: &Delivery| match &delivery.event.body {
        Body::OrderChanged { order, .. } => order.content.metadata.get("street").cloned(),
        Body::Custom(_) => None,
    };
    let again = lease(&deliveries).await;
    assert_eq!((again.event.id, again.attempt, again.origin), (event, 1, Origin::Replay));
    assert_eq!(mended(&again).as_deref(), Some("mended"));
    accept(&deliveries, again, later(Duration::ZERO, "later")).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    let again = lease(&deliveries).await;
    assert_eq!(mended(&again).as_deref(), Some("mended"), "a restart keeps the copy");
    accept(&deliveries, again, dead(CauseKind::Reject, "still no")).await;
    wait_for_dead(&backend, 1).await;
    let shown = show(&backend, event).await.unwrap();
    let edited = edit::edited(&shown.event, shown.edited.unwrap().data).unwrap();
    let Body::OrderChanged { order: shown_order, change: Change::Placed {} } = &edited else { panic!("{edited:?}") };
    assert_eq!(shown_order.content.metadata["street"], "mended", "what is shown is what may be edited and handed back");
    assert_eq!(shown.attempts.iter().map(|it| it.edited).collect::<Vec<_>>(), [false, true, true]);

    let other = inbox(&backend, "beta").await;
    let theirs = lease(&other).await;
    assert_eq!((theirs.event.id, mended(&theirs)), (event, None));
    accept(&other, theirs, done(Effects::default())).await;
    assert_eq!(backend.journal.order(order.id).await.unwrap().unwrap().content, order.content);
    let unknown = backend.dead_letters.retry_edited(&name("alpha"), EventId::generate(), copy).await.unwrap();
    assert!(!unknown.into_inner());
}

async fn the_data_of_a_custom_event_can_be_edited(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    let data = |json: &str| -> Arc<RawValue> { RawValue::from_string(json.to_owned()).unwrap().into() };
    let custom = Custom { data: data(r#"{"n":"one"}"#), ..custom("tea") };
    backend.intake.publish(vec![custom.clone()]).await.unwrap().into_inner();
    let delivery = lease(&deliveries).await;
    let event = delivery.event.id;
    accept(&deliveries, delivery, dead(CauseKind::Reject, "not a number")).await;
    wait_for_dead(&backend, 1).await;
    let copy = Body::Custom(Custom { data: data(r#"{"n":1}"#), ..custom });
    assert!(backend.dead_letters.retry_edited(&name("alpha"), event, copy).await.unwrap().into_inner());
    let again = lease(&deliveries).await;
    let Body::Custom(custom) = &again.event.body else { panic!("{:?}", again.event) };
    assert_eq!(custom.data.get(), r#"{"n":1}"#);
    accept(&deliveries, again, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.pending, it.dead, it.done) == (0, 0, 1)).await;
}

async fn what_was_given_up_is_not_shown_as_done(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let order = die(&backend, &deliveries, dead(CauseKind::Reject, "no")).await;
    confirm(&backend, order.id).await;
    wait_for_dead(&backend, 1).await;
    let state = async || backend.journal.deliveries_of(order.id).await.unwrap()[0].state;
    assert_eq!(state().await, DeliveryState::Dead);
    let discarded = backend.dead_letters.discard(&name("alpha"), Which::All.first(10)).await.unwrap().into_inner();
    assert_eq!(discarded, Redriven { count: 1, next: None });
    assert_eq!(state().await, DeliveryState::Discarded);
    let next = lease(&deliveries).await;
    assert_eq!(next.event.kind(), "order.confirmed");
    accept(&deliveries, next, done(Effects::default())).await;
    settled(&backend, "alpha").await;
}

async fn letters_are_counted_as_they_are_listed_at_once(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let counted = async |letters: usize| {
        eventually("so many are listed", async || (listed(&backend, None).await.len() == letters).then_some(())).await;
        let report = report(&backend, "alpha").await;
        assert_eq!(report.dead, letters as u64, "as soon as they are there, and each time");
    };
    counted(0).await;
    for letters in 1..=3 {
        die(&backend, &deliveries, dead(CauseKind::Reject, "no")).await;
        counted(letters).await;
    }
    let first = listed(&backend, None).await[0];
    backend.dead_letters.discard(&name("alpha"), Which::Event(first).first(1)).await.unwrap().into_inner();
    counted(2).await;
    retry(&backend, Which::All.first(10)).await;
    counted(0).await;
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    settled(&backend, "alpha").await;
}

async fn a_letter_that_is_retried_has_all_its_time_again(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    let delivery = lease(&deliveries).await;
    let first = delivery.first_attempt_at;
    accept(&deliveries, delivery, later(Duration::ZERO, "not yet")).await;
    accept(&deliveries, lease(&deliveries).await, dead(CauseKind::Reject, "no")).await;
    wait_for_dead(&backend, 1).await;
    eventually("the clock goes on", async || (Timestamp::now() > first).then_some(())).await;
    let decided = Timestamp::now();
    assert_eq!(retry(&backend, Which::All.first(1)).await.count, 1);
    let again = lease(&deliveries).await;
    let begun = again.first_attempt_at;
    assert!(begun >= decided, "what it was tried for before would make it too old at once");
    accept(&deliveries, again, later(Duration::ZERO, "not yet")).await;
    assert_eq!(lease(&deliveries).await.first_attempt_at, begun);
}

async fn a_letter_that_its_lane_went_on_without_is_edited_retried_and_discarded_as_any_other(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { on_dead: OnDead::Skip, subscriptions: hears(&["*"]), ..policy() });
    let data = |json: &str| -> Arc<RawValue> { RawValue::from_string(json.to_owned()).unwrap().into() };
    let edited = Custom { data: data(r#"{"n":1}"#), ..custom("tea") };
    backend.intake.publish(vec![custom("tea")]).await.unwrap().into_inner();
    accept(&deliveries, lease(&deliveries).await, dead(CauseKind::Reject, "not a number")).await;
    let order = die(&backend, &deliveries, dead(CauseKind::Reject, "no")).await;
    confirm(&backend, order.id).await;
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    wait_for_dead(&backend, 2).await;
    let [tea, placed] = listed(&backend, None).await[..] else { panic!("two letters") };

    let copy = Body::Custom(edited);
    assert!(backend.dead_letters.retry_edited(&name("alpha"), tea, copy).await.unwrap().into_inner());
    for (again, end) in [dead(CauseKind::Reject, "still no"), done(Effects::default())].into_iter().enumerate() {
        if again > 0 {
            wait_for_dead(&backend, 2).await;
            assert_eq!(retry(&backend, Which::Event(tea).first(1)).await.count, 1);
        }
        let delivery = lease(&deliveries).await;
        let Body::Custom(Custom { data, .. }) = &delivery.event.body else { panic!("{:?}", delivery.event) };
        assert_eq!((delivery.event.id, delivery.attempt, data.get()), (tea, 1, r#"{"n":1}"#));
        accept(&deliveries, delivery, end).await;
    }
    let states = async || -> Vec<DeliveryState> {
        let of = backend.journal.deliveries_of(order.id).await.unwrap();
        of.iter().map(|delivery| delivery.state).collect()
    };
    assert_eq!(states().await, [DeliveryState::Dead, DeliveryState::Done]);
    let discard = async || {
        let all = Which::All.first(10);
        backend.dead_letters.discard(&name("alpha"), all).await.unwrap().into_inner().count
    };
    wait_for_dead(&backend, 1).await;
    assert_eq!((listed(&backend, None).await, discard().await, discard().await), (vec![placed], 1, 0));
    assert_eq!(states().await, [DeliveryState::Discarded, DeliveryState::Done]);
    settled(&backend, "alpha").await;
}

async fn a_letter_is_decided_about_once_however_many_decide_at_once(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..5 {
        die(&backend, &deliveries, dead(CauseKind::Reject, "no")).await;
        wait_for_dead(&backend, 1).await;
        let name = name("alpha");
        let letters = || Which::All.first(10);
        let (one, other, discarded) = tokio::join!(
            backend.dead_letters.retry(&name, letters()),
            backend.dead_letters.retry(&name, letters()),
            backend.dead_letters.discard(&name, letters()),
        );
        let retried = one.unwrap().into_inner().count + other.unwrap().into_inner().count;
        assert_eq!(retried + discarded.unwrap().into_inner().count, 1);
        if retried == 1 {
            accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        }
        settled(&backend, "alpha").await;
    }
    nothing_comes(&home, &backend, &deliveries, "each was decided about once").await;
}

claims! {
    dead_letters_are_grouped_by_cause_over_all_of_them on [embedded, aws],
    a_cause_of_several_outcomes_is_redriven_a_few_at_a_time_too on [embedded, aws],
    a_redrive_goes_through_the_letters_a_few_at_a_time on [embedded, aws],
    a_letter_shows_what_every_attempt_staged_and_logged on [embedded, aws],
    of_many_attempts_the_first_and_the_last_are_kept on [embedded, aws],
    an_edited_copy_is_delivered_to_its_consumer_alone_and_the_event_stays on [embedded, aws],
    the_data_of_a_custom_event_can_be_edited on [embedded, aws],
    what_was_given_up_is_not_shown_as_done on [embedded, aws],
    a_letter_that_is_retried_has_all_its_time_again on [embedded, aws],
    letters_are_counted_as_they_are_listed_at_once on [embedded, aws],
    a_letter_that_its_lane_went_on_without_is_edited_retried_and_discarded_as_any_other on [embedded, aws],
    a_letter_is_decided_about_once_however_many_decide_at_once on [embedded, aws],
}
