//! What a kept state lacks: exceptions of the moment in which it was kept, and events that the version in use does not hear.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::{
    CONSUMER, attach, done, expected, fail, journal, listens, rebuild, serve_until, start, state, steer,
};
use super::{
    ROOM, go, gone, kept_layout, lay_out, record, relaid, run, serve_otherwise, set_out, take_over, turn, version,
};
use crate::backend::contract::{Place, custom, events, eventually, hears, lease, leases, name, publish, report};
use crate::backend::{
    BackPolicy, Backend, Backfill, BackfillStep, Backfilled, Forgotten, Inbox, InboxPolicy, Keep, LaidOut, Retention,
    SetOut, TurnOutcome, Which,
};
use crate::event::EventId;
use crate::policy::Start;

async fn what_was_an_exception_is_in_neither_state_before_it_is_done(home: Place) {
    go_beside_exceptions(&home, |_| ()).await;
}

/// So they left it who marked what is over only when a way back set out.
async fn an_exception_that_was_over_before_versions_marked_it_is_handled(home: Place) {
    go_beside_exceptions(&home, Place::forget_what_is_over).await;
}

async fn go_beside_exceptions(home: &Place, before: impl Fn(&Place)) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    for subject in ["redone", "discarded", "left", "fine"] {
        publish(&backend, subject).await;
        publish(&backend, subject).await;
    }
    let journal = events(&backend, 8).await;
    for delivery in leases::<4>(&inbox).await {
        match &*delivery.event.lane().to_string() {
            "fine" => done(&inbox, delivery).await,
            _ => fail(&inbox, delivery).await,
        }
    }
    serve_until(&backend, &inbox, 6).await;
    take_over(&backend, &inbox, 2, ROOM).await;
    let one = |index: usize| Which::Event(journal[index].id).first(1);
    backend.dead_letters.retry(&name(CONSUMER), one(0)).await.unwrap().into_inner();
    backend.dead_letters.discard(&name(CONSUMER), one(2)).await.unwrap().into_inner();
    serve_otherwise(&backend, &inbox, 2).await;
    before(home);
    let SetOut::Yes(_) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    run(&inbox, 2, Some(1));
    go(&backend, &inbox).await;
    run(&inbox, 1, None);
    let without = |indices: &[usize]| indices.iter().map(|index| journal[*index].position.get()).collect();
    assert_eq!(state(&backend).await, expected(&backend, &without(&[2, 4, 5])).await);
    backend.dead_letters.retry(&name(CONSUMER), Which::All.first(10)).await.unwrap().into_inner();
    serve_until(&backend, &inbox, 0).await;
    assert_eq!(state(&backend).await, expected(&backend, &without(&[2])).await);
}

/// A dead letter of `lane`, and so many events that wait behind it.
async fn parked(home: &Place, backend: &Backend, inbox: &Arc<dyn Inbox>, lane: &str, waiting: usize) -> EventId {
    let before = home.rows("deliveries");
    publish(backend, lane).await;
    let letter = lease(inbox).await;
    let id = letter.event.id;
    fail(inbox, letter).await;
    let events = vec![custom(lane); waiting];
    for some in events.chunks(250) {
        backend.intake.publish(some.to_vec()).await.unwrap().into_inner();
    }
    // The last few are written with what comes next.
    eventually("they have rows", async || {
        assert!(inbox.lease().is_none());
        (home.rows("deliveries") + 16 > before + 1 + waiting as u64).then_some(())
    })
    .await;
    id
}

async fn exceptions_of_many_pieces_are_in_neither_state_before_they_are_done(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    let discarded = parked(&home, &backend, &inbox, "tea", 1_300).await;
    let position = all(&backend).await[0];
    take_over(&backend, &inbox, 2, ROOM).await;
    assert_eq!(home.rows("deferred"), home.rows("deliveries"));
    // Done by the version of layout 2, which has as many of its own by the time of the hand-over.
    backend.dead_letters.discard(&name(CONSUMER), Which::Event(discarded).first(1)).await.unwrap().into_inner();
    serve_otherwise(&backend, &inbox, 0).await;
    let redone = parked(&home, &backend, &inbox, "salt", 1_100).await;
    let SetOut::Yes(_) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    run(&inbox, 2, Some(1));
    assert_eq!(go(&backend, &inbox).await, 1_300);
    // It dies before the version is there.
    drop(inbox);
    let backend = home.reopen(backend).await;
    let inbox = attach(&backend, Start::Now).await;
    assert_eq!(lay_out(&backend, 1, ROOM).await, LaidOut::AsBefore);
    run(&inbox, 1, None);
    let journal = all(&backend).await;
    let without =
        |kept: &dyn Fn(u64) -> bool| -> BTreeSet<u64> { journal.iter().copied().filter(|at| !kept(*at)).collect() };
    let first = position..=position + 1_300;
    assert_eq!(state(&backend).await, expected(&backend, &without(&|at| first.contains(&at) && at != position)).await);
    backend.dead_letters.retry(&name(CONSUMER), Which::Event(redone).first(1)).await.unwrap().into_inner();
    serve_until(&backend, &inbox, 0).await;
    assert_eq!(state(&backend).await, expected(&backend, &without(&|at| at != position)).await);

    let SetOut::Yes(_) = set_out(&backend, 1, 2).await else { panic!("it is kept") };
    run(&inbox, 1, Some(2));
    assert_eq!(go(&backend, &inbox).await, 1_101);
    lay_out(&backend, 2, ROOM).await;
    run(&inbox, 2, None);
    // What the state of layout 1 once lacked, it has by now, and lacks nothing.
    let SetOut::Yes(_) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    run(&inbox, 2, Some(1));
    assert_eq!(go(&backend, &inbox).await, 0);
    assert_eq!(state(&backend).await, expected(&backend, &without(&|at| at != position)).await);
}

async fn all(backend: &Backend) -> Vec<u64> {
    journal(backend).await.iter().map(|event| event.position.get()).collect()
}

async fn an_event_that_the_version_in_use_does_not_hear_is_handled_by_the_one_that_is_gone_back_to(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 2).await;
    let back = BackPolicy { version: version(1), subscriptions: listens().subscriptions };
    let deaf = InboxPolicy { subscriptions: hears(&["order.*"]), layout: Some(2), ..listens() };
    inbox.configure(deaf.clone());
    publish(&backend, "unheard").await;
    serve_otherwise(&backend, &inbox, 0).await;
    let SetOut::Yes(_) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    // Too few to be written down by themselves.
    publish(&backend, "unheard").await;
    publish(&backend, "unheard").await;
    assert!(inbox.lease().is_none());
    inbox.configure(InboxPolicy { back: Some(back), ..deaf });
    assert_eq!(go(&backend, &inbox).await, 5);
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    publish(&backend, "later").await;
    serve_until(&backend, &inbox, 0).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn a_way_back_ends_beside_events_without_a_pause_that_its_version_alone_hears(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 2).await;
    let back = BackPolicy { version: version(1), subscriptions: listens().subscriptions };
    let deaf = InboxPolicy { subscriptions: hears(&["order.*"]), layout: Some(2), back: Some(back), ..listens() };
    inbox.configure(deaf);
    let SetOut::Yes(_) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    let ends = Arc::new(AtomicBool::new(false));
    let shop = tokio::spawn({
        let (backend, ends) = (backend.clone(), Arc::clone(&ends));
        async move {
            for subject in ["tea", "salt", "pepper"].iter().cycle() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                publish(&backend, subject).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    go(&backend, &inbox).await;
    // Until the version is live, nobody hears them.
    tokio::time::sleep(Duration::from_millis(200)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    let handed_over = report(&backend, CONSUMER).await.done;
    eventually("it goes on", async || {
        while let Some(delivery) = inbox.lease() {
            done(&inbox, delivery).await;
        }
        (report(&backend, CONSUMER).await.done > handed_over + 10).then_some(())
    })
    .await;
    ends.store(true, Ordering::Relaxed);
    shop.await.unwrap();
    serve_until(&backend, &inbox, 0).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn what_was_done_ahead_of_others_is_in_the_state_that_is_kept_and_nothing_else(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    for lane in ["slow", "quick", "slow", "quick"] {
        publish(&backend, lane).await;
    }
    let [slow, quick] = leases(&inbox).await;
    done(&inbox, quick).await;
    let quick = lease(&inbox).await;
    assert_eq!(&*quick.event.lane().to_string(), "quick");
    done(&inbox, quick).await;
    // Its version stops before the second of this lane begins.
    inbox.configure(InboxPolicy { concurrency: 0, ..listens() });
    done(&inbox, slow).await;
    assert!(matches!(take_over(&backend, &inbox, 2, ROOM).await, LaidOut::Kept(_)));
    serve_otherwise(&backend, &inbox, 0).await;
    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!(report.events, 1);
    // Left on its way, it knows all that.
    run(&inbox, 2, Some(1));
    let past = lease(&inbox).await;
    steer(&backend, BackfillStep::Cancel).await;
    done(&inbox, past).await;
    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!(report.events, 1);
    assert_eq!(go(&backend, &inbox).await, 1);
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn no_state_is_kept_while_past_events_are_on_their_way_to_it(home: Place) {
    let backend = home.open().await;
    publish(&backend, "before").await;
    events(&backend, 1).await;
    let inbox = attach(&backend, Start::Now).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    start(&backend, Backfill { of: Backfilled::Missed, ..rebuild() }).await;
    steer(&backend, BackfillStep::Pause).await;
    let LaidOut::NotKept(why) = take_over(&backend, &inbox, 2, ROOM).await else {
        panic!("nobody knows what is in it")
    };
    assert!(why.contains("past events are being delivered to it"), "{why}");
    steer(&backend, BackfillStep::Resume).await;
    serve_otherwise(&backend, &inbox, 0).await;
}

async fn a_state_that_lacks_an_exception_goes_when_its_event_does(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    publish(&backend, "dead").await;
    publish(&backend, "fine").await;
    let [dead, fine] = leases(&inbox).await;
    fail(&inbox, dead).await;
    done(&inbox, fine).await;
    serve_until(&backend, &inbox, 1).await;
    take_over(&backend, &inbox, 2, ROOM).await;
    let keep = Keep::For(Duration::from_millis(1));
    backend.upkeep.retain(Retention { events: keep, orders: keep, open_orders: keep, ..Retention::default() });
    eventually("what is held back", async || report(&backend, CONSUMER).await.held).await;
    assert_eq!(kept_layout(&backend).await, Some(1));
    backend.dead_letters.retry(&name(CONSUMER), Which::All.first(1)).await.unwrap().into_inner();
    serve_otherwise(&backend, &inbox, 0).await;
    eventually("what it lacks is gone", async || (kept_layout(&backend).await.is_none()).then_some(())).await;
    assert!(gone(&backend).await.contains("have left the journal"));
}

async fn what_was_discarded_is_nothing_that_a_state_lacks(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    publish(&backend, "dead").await;
    publish(&backend, "fine").await;
    let [dead, fine] = leases(&inbox).await;
    fail(&inbox, dead).await;
    done(&inbox, fine).await;
    serve_until(&backend, &inbox, 1).await;
    take_over(&backend, &inbox, 2, ROOM).await;
    backend.dead_letters.discard(&name(CONSUMER), Which::All.first(1)).await.unwrap().into_inner();
    let keep = Keep::For(Duration::from_millis(1));
    backend.upkeep.retain(Retention { events: keep, orders: keep, open_orders: keep, ..Retention::default() });
    eventually("its event goes", async || (home.events_kept(&backend).await == 1).then_some(())).await;
    backend.upkeep.retain(Retention::default());
    publish(&backend, "later").await;
    serve_otherwise(&backend, &inbox, 0).await;
    assert_eq!(kept_layout(&backend).await, Some(1));
    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!(report.events, 1);
    run(&inbox, 2, Some(1));
    assert_eq!(go(&backend, &inbox).await, 1);
}

async fn a_consumer_that_is_forgotten_leaves_no_state_that_was_kept(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 4).await;
    publish(&backend, "dead").await;
    fail(&inbox, lease(&inbox).await).await;
    serve_until(&backend, &inbox, 1).await;
    take_over(&backend, &inbox, 3, ROOM).await;
    inbox.configure(InboxPolicy { concurrency: 0, ..listens() });
    drop(inbox);
    eventually("it is forgotten", async || {
        let forgotten = backend.consumers.forget(&name(CONSUMER)).await.unwrap().into_inner();
        (forgotten == Forgotten::Done).then_some(())
    })
    .await;
    backend.upkeep.retain(Retention { attempts: Keep::For(Duration::from_millis(1)), ..Retention::default() });
    eventually("nothing of it", async || {
        let is_file = home.delivers_at_once();
        let rows = ["deferred", "deliveries", "state_sizes"].map(|table| if is_file { home.rows(table) } else { 0 });
        (home.state_items().await == (0, 0) && rows == [0; 3]).then_some(())
    })
    .await;
}

claims! {
    what_was_an_exception_is_in_neither_state_before_it_is_done on [embedded, aws],
    an_exception_that_was_over_before_versions_marked_it_is_handled on [embedded] because "only files are from before",
    exceptions_of_many_pieces_are_in_neither_state_before_they_are_done on [embedded] because "its rows are counted",
    an_event_that_the_version_in_use_does_not_hear_is_handled_by_the_one_that_is_gone_back_to on [embedded, aws],
    a_way_back_ends_beside_events_without_a_pause_that_its_version_alone_hears on [embedded, aws],
    what_was_done_ahead_of_others_is_in_the_state_that_is_kept_and_nothing_else on [embedded, aws],
    no_state_is_kept_while_past_events_are_on_their_way_to_it on [embedded, aws],
    a_state_that_lacks_an_exception_goes_when_its_event_does on [embedded, aws],
    what_was_discarded_is_nothing_that_a_state_lacks on [embedded, aws],
    a_consumer_that_is_forgotten_leaves_no_state_that_was_kept on [embedded, aws],
}
