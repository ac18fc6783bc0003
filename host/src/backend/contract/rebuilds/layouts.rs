//! A version with another layout takes the state over, and the consumer goes back: to the state that the version before would
//! have if it had handled everything.

mod exceptions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{CONSUMER, attach, done, expected, latest, listens, rebuild, serve_until, start, state, steer};
use crate::backend::contract::wait::Deadline;
use crate::backend::contract::{
    Place, events, eventually, lease, name, nothing_comes, publish, ran, report, stays_quiet,
};
use crate::backend::{
    AttemptBy, BackPolicy, Backend, BackfillState, BackfillStep, Backfilled, Delivery, Finished, Former, Inbox,
    InboxPolicy, Keep, LaidOut, PluginFile, Retention, SetOut, Settlement, StateQuery, Turn, TurnOutcome, WayBack,
};
use crate::effects::{Effects, Reads};
use crate::policy::Start;
use crate::version::Hash;

pub(super) const ROOM: u64 = 1 << 20;

/// The version whose layout this is.
pub(super) fn version(layout: u32) -> Hash {
    Hash::of(&layout.to_le_bytes())
}

pub(super) fn turn(outcome: TurnOutcome, file: u32, live: u32) -> Turn {
    let file = PluginFile { hash: Some(version(file)), state_version: Some(file), ..PluginFile::default() };
    Turn { outcome, reason: None, file, live: Some(version(live)) }
}

pub(super) async fn record(backend: &Backend, turn: Turn) {
    drop(backend.versions.record(&name(CONSUMER), turn, 5).await.unwrap());
}

/// From `from` to `to`, whose file was replaced by that of `from`.
fn way(from: u32, to: u32) -> WayBack {
    WayBack { turn: turn(TurnOutcome::RolledBack, from, to), keep: 5, layout: to, to: version(to) }
}

/// As a worker that runs the version with this layout, and has that of `back` beside it.
pub(super) fn run(inbox: &Arc<dyn Inbox>, layout: u32, back: Option<u32>) {
    let back = back.map(|back| BackPolicy { version: version(back), subscriptions: listens().subscriptions });
    inbox.configure(InboxPolicy { layout: Some(layout), back, ..listens() });
}

pub(super) async fn lay_out(backend: &Backend, layout: u32, room: u64) -> LaidOut {
    backend.layouts.lay_out(&name(CONSUMER), layout, room, true).await.unwrap().into_inner()
}

/// The version with this layout takes over, once what ran has ended.
async fn take_over(backend: &Backend, inbox: &Arc<dyn Inbox>, layout: u32, room: u64) -> LaidOut {
    inbox.configure(InboxPolicy { concurrency: 0, ..listens() });
    record(backend, turn(TurnOutcome::Live, layout, layout)).await;
    let laid_out = lay_out(backend, layout, room).await;
    run(inbox, layout, None);
    laid_out
}

pub(super) async fn set_out(backend: &Backend, from: u32, to: u32) -> SetOut {
    let hears = listens().subscriptions;
    backend.layouts.set_out(&name(CONSUMER), way(from, to), hears).await.unwrap().into_inner()
}

async fn former(backend: &Backend) -> Option<Former> {
    backend.layouts.former(&name(CONSUMER)).await.unwrap()
}

pub(super) async fn kept_layout(backend: &Backend) -> Option<u32> {
    match former(backend).await {
        Some(Former::Kept(kept)) => Some(kept.layout),
        _ => None,
    }
}

async fn gone(backend: &Backend) -> String {
    match former(backend).await {
        Some(Former::Gone { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// What the version of layout 2 makes of an event: nothing that the other one could read.
async fn done_otherwise(inbox: &Arc<dyn Inbox>, delivery: Delivery) {
    let entries = vec![("two".into(), Some(Vec::from("two").into()))];
    let settlement = Settlement::Done { effects: Effects { entries, ..Effects::default() }, ran: ran() };
    let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
    assert!(matches!(finished, Finished::Accepted | Finished::Superseded), "{finished:?}");
}

/// Each version does what is its to do, until the way back has ended. How many events that one handled.
async fn go(backend: &Backend, inbox: &Arc<dyn Inbox>) -> usize {
    let (deadline, mut returning) = (Deadline::new(), 0);
    loop {
        while let Some(delivery) = inbox.lease() {
            match delivery.by {
                AttemptBy::Returning => {
                    returning += 1;
                    done(inbox, delivery).await;
                }
                _ => done_otherwise(inbox, delivery).await,
            }
        }
        let report = latest(backend).await;
        if report.state == BackfillState::Done {
            return returning;
        }
        deadline.pause(report).await;
    }
}

/// Does live deliveries by the version of layout 2 until so many are pending.
async fn serve_otherwise(backend: &Backend, inbox: &Arc<dyn Inbox>, pending: u64) {
    let deadline = Deadline::new();
    loop {
        while let Some(delivery) = inbox.lease() {
            done_otherwise(inbox, delivery).await;
        }
        let report = report(backend, CONSUMER).await;
        if report.pending == pending {
            return;
        }
        deadline.pause(report).await;
    }
}

/// A consumer of layout 2 whose state of layout 1 is kept, with `events` handled on either.
async fn relaid(backend: &Backend, events: usize) -> Arc<dyn Inbox> {
    let inbox = attach(backend, Start::Beginning).await;
    record(backend, turn(TurnOutcome::Live, 1, 1)).await;
    assert_eq!(lay_out(backend, 1, ROOM).await, LaidOut::AsBefore);
    run(&inbox, 1, None);
    for subject in ["tea", "salt"].iter().cycle().take(events) {
        publish(backend, subject).await;
    }
    serve_until(backend, &inbox, 0).await;
    let LaidOut::Kept(kept) = take_over(backend, &inbox, 2, ROOM).await else { panic!("it is kept") };
    assert_eq!((kept.layout, kept.hash), (1, Some(version(1))));
    for subject in ["salt", "pepper"].iter().cycle().take(events) {
        publish(backend, subject).await;
    }
    serve_otherwise(backend, &inbox, 0).await;
    inbox
}

async fn the_state_from_before_is_kept_and_brought_up_to_date_beside_live_events(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 4).await;
    let in_use = state(&backend).await;
    assert!(in_use.0.contains_key("two"), "it was taken over as it was, and went on: {in_use:?}");

    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!((report.events, report.rebuild, report.back_to), (4, true, Some(version(1))));
    assert_eq!(backend.layouts.way_back(&name(CONSUMER)).await.unwrap(), Some(way(2, 1)));
    assert!(matches!(set_out(&backend, 2, 1).await, SetOut::Runs));
    assert!(inbox.lease().is_none(), "its version is not here");
    run(&inbox, 2, Some(3));
    assert!(inbox.lease().is_none(), "nor is it another one");
    run(&inbox, 2, Some(1));
    let past = lease(&inbox).await;
    assert!(matches!(past.by, AttemptBy::Returning) && past.is_of_rebuild(), "{past:?}");
    assert_eq!(inbox.view_for(&past).count("n").await.unwrap(), 4, "it begins with what was kept");
    publish(&backend, "live").await;
    let live = eventually("a live one beside it", async || inbox.lease()).await;
    assert!(matches!(live.by, AttemptBy::Live) && !live.is_of_rebuild(), "{live:?}");
    done_otherwise(&inbox, live).await;
    done(&inbox, past).await;
    assert_eq!(state(&backend).await, in_use, "what is in use goes on");

    go(&backend, &inbox).await;
    let standing = backend.versions.standing(&name(CONSUMER)).await.unwrap().unwrap();
    assert_eq!((standing.outcome, standing.live), (TurnOutcome::RolledBack, Some(version(1))));
    publish(&backend, "later").await;
    assert!(inbox.lease().is_none(), "the version that runs is not one for this state");
    assert_eq!(backend.layouts.way_back(&name(CONSUMER)).await.unwrap(), None);
    assert_eq!(lay_out(&backend, 1, ROOM).await, LaidOut::AsBefore);
    run(&inbox, 1, None);
    serve_until(&backend, &inbox, 0).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
    assert_eq!(kept_layout(&backend).await, Some(2), "and what was in use until then is kept");

    drop(inbox);
    let backend = home.reopen(backend).await;
    let inbox = attach(&backend, Start::Now).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
    // On again, in the same way.
    run(&inbox, 1, Some(2));
    assert!(matches!(set_out(&backend, 1, 2).await, SetOut::Yes(report) if report.events == 1));
    let past = lease(&inbox).await;
    assert_eq!(inbox.view_for(&past).get("two").await.unwrap().as_deref(), Some(&b"two"[..]));
    done_otherwise(&inbox, past).await;
    eventually("it is handed over", async || {
        let none = inbox.lease();
        assert!(none.is_none(), "{none:?}");
        (latest(&backend).await.state == BackfillState::Done).then_some(())
    })
    .await;
    assert_eq!((state(&backend).await, kept_layout(&backend).await), (in_use, Some(1)));
}

/// It may wait for others, to be written with them.
async fn first_is_delivered(backend: &Backend) {
    eventually("it counts", async || (latest(backend).await.delivered == 1).then_some(())).await;
}

async fn a_way_back_that_is_left_goes_on_later_from_where_it_came(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 6).await;
    let in_use = state(&backend).await;
    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!(report.events, 6);
    run(&inbox, 2, Some(1));
    done(&inbox, lease(&inbox).await).await;
    let past = lease(&inbox).await;
    first_is_delivered(&backend).await;
    steer(&backend, BackfillStep::Cancel).await;
    done(&inbox, past).await;
    let more = nothing_comes(&home, &backend, &inbox, "it is cancelled").await;
    assert_eq!((state(&backend).await, kept_layout(&backend).await), (in_use.clone(), Some(1)));

    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!(report.events, 5 + more);
    done(&inbox, lease(&inbox).await).await;
    first_is_delivered(&backend).await;
    // Another file is another decision.
    record(&backend, turn(TurnOutcome::Live, 4, 4)).await;
    assert_eq!(latest(&backend).await.state, BackfillState::Cancelled);
    assert_eq!(backend.layouts.way_back(&name(CONSUMER)).await.unwrap(), None);
    assert_eq!((state(&backend).await, kept_layout(&backend).await), (in_use, Some(1)));
    drop(inbox);
    let backend = home.reopen(backend).await;
    let inbox = attach(&backend, Start::Now).await;
    let SetOut::Yes(report) = set_out(&backend, 2, 1).await else { panic!("it is kept") };
    assert_eq!(report.events, 4 + more);
    run(&inbox, 2, Some(1));
    go(&backend, &inbox).await;
    assert_eq!(state(&backend).await, expected(&backend, &BTreeSet::new()).await);
}

async fn a_state_that_is_not_kept_is_taken_over_with_the_reason(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 2).await;
    let LaidOut::NotKept(why) = take_over(&backend, &inbox, 4, 1).await else { panic!("it is too large") };
    let weighs: u64 = why.split(' ').nth(2).and_then(|bytes| bytes.parse().ok()).expect("what it weighs");
    assert!((10..=report(&backend, CONSUMER).await.state_bytes).contains(&weighs), "{why}");
    let LaidOut::NotKept(why) = take_over(&backend, &inbox, 3, weighs - 1).await else { panic!("it is too large") };
    let room = format!("it weighs {weighs} bytes, and `keep_state` allows {}", weighs - 1);
    assert!(why.starts_with(&room), "{why}");
    assert_eq!(gone(&backend).await, why, "and the one from before that is gone");
    assert!(matches!(set_out(&backend, 3, 1).await, SetOut::NotKept));
    let LaidOut::NotKept(why) = take_over(&backend, &inbox, 1, 0).await else { panic!("nothing is kept") };
    assert!(why.contains("`keep_state` is \"0\""), "{why}");
    let LaidOut::Kept(kept) = take_over(&backend, &inbox, 2, weighs).await else { panic!("there is room") };
    assert_eq!((kept.layout, kept.bytes), (1, weighs));
    assert!(matches!(set_out(&backend, 2, 3).await, SetOut::NotKept), "that is of another layout");
    backend.upkeep.retain(Retention { attempts: Keep::For(Duration::from_millis(1)), ..Retention::default() });
    eventually("the state in use, and one that is kept", async || {
        // Two lanes, and what the other version wrote.
        (home.state_items().await == (2 * 3, 2)).then_some(())
    })
    .await;
    assert_eq!(kept_layout(&backend).await, Some(1));
}

async fn a_rebuild_of_the_layout_before_ends_when_another_one_takes_over(home: Place) {
    let backend = home.open().await;
    let inbox = relaid(&backend, 2).await;
    start(&backend, rebuild()).await;
    done_otherwise(&inbox, lease(&inbox).await).await;
    take_over(&backend, &inbox, 1, ROOM).await;
    assert_eq!(latest(&backend).await.state, BackfillState::Cancelled);
    assert_eq!(kept_layout(&backend).await, Some(2));
}

async fn what_is_handled_by_the_layout_before_ends_with_it(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    lay_out(&backend, 1, ROOM).await;
    run(&inbox, 1, None);
    for subject in ["tea", "salt"] {
        publish(&backend, subject).await;
    }
    serve_until(&backend, &inbox, 0).await;
    start(&backend, rebuild()).await;
    let again = lease(&inbox).await;
    assert!(again.is_of_rebuild(), "{again:?}");
    take_over(&backend, &inbox, 2, ROOM).await;
    assert_eq!(latest(&backend).await.state, BackfillState::Cancelled);
    done(&inbox, again).await;
    publish(&backend, "pepper").await;
    serve_otherwise(&backend, &inbox, 0).await;
    let state = state(&backend).await;
    assert!(state.0.contains_key("two"), "{state:?}");
    // It goes on by the new one alone.
    run(&inbox, 1, None);
    publish(&backend, "later").await;
    stays_quiet(&home, &backend, &inbox).await;
}

async fn a_state_that_lacks_what_nobody_can_bring_is_given_up(home: Place) {
    let backend = home.open().await;
    publish(&backend, "before").await;
    events(&backend, 1).await;
    let inbox = attach(&backend, Start::Now).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, ROOM).await;
    publish(&backend, "tea").await;
    run(&inbox, 1, None);
    serve_until(&backend, &inbox, 0).await;
    take_over(&backend, &inbox, 2, ROOM).await;
    // What the consumer did itself is in the journal, also for a state that is made anew.
    let missed = crate::backend::Backfill { of: Backfilled::Missed, ..rebuild() };
    start(&backend, missed).await;
    let why = gone(&backend).await;
    assert!(why.contains("from before the consumer began"), "{why}");
    eventually("the backfill is over", async || {
        serve_otherwise(&backend, &inbox, 0).await;
        (latest(&backend).await.state == BackfillState::Done).then_some(())
    })
    .await;
    let LaidOut::Kept(_) = take_over(&backend, &inbox, 1, ROOM).await else { panic!("there is room") };
    // Nothing is missing that it has not heard: a rebuild brings no more than it did.
    start(&backend, rebuild()).await;
    steer(&backend, BackfillStep::Cancel).await;
    assert_eq!(kept_layout(&backend).await, Some(2));

    for _ in 0..3 {
        publish(&backend, "salt").await;
    }
    serve_until(&backend, &inbox, 0).await;
    assert_eq!(kept_layout(&backend).await, Some(2));
    let keep = Keep::For(Duration::from_millis(1));
    backend.upkeep.retain(Retention { events: keep, orders: keep, open_orders: keep, ..Retention::default() });
    eventually("what it lacks is gone", async || (kept_layout(&backend).await.is_none()).then_some(())).await;
    let why = gone(&backend).await;
    assert!(why.contains("have left the journal"), "{why}");
    assert!(matches!(set_out(&backend, 1, 2).await, SetOut::NotKept));
}

/// The whole state, page by page.
async fn pages(backend: &Backend) -> (Vec<(String, Vec<u8>)>, Vec<(String, i64)>) {
    let (mut entries, mut counters, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let query = StateQuery { limit: 10_000, after, ..StateQuery::default() };
        let page = backend.consumers.state(&name(CONSUMER), query).await.unwrap();
        entries.extend(page.entries);
        counters.extend(page.counters);
        match page.next {
            Some(next) => after = Some(next),
            None => return (entries, counters),
        }
    }
}

async fn a_state_of_many_pieces_is_kept_whole(home: Place) {
    let backend = home.open().await;
    let inbox = attach(&backend, Start::Beginning).await;
    record(&backend, turn(TurnOutcome::Live, 1, 1)).await;
    lay_out(&backend, 1, u64::MAX).await;
    run(&inbox, 1, None);
    publish(&backend, "tea").await;
    let delivery = lease(&inbox).await;
    let value: Arc<[u8]> = vec![7; 1_000].into();
    let mut effects = Effects::default();
    effects.entries.extend((0..2_500).map(|number| (format!("key/{number}").into(), Some(Arc::clone(&value)))));
    // A key of DynamoDB is never empty.
    let least = if home.delivers_at_once() { "" } else { "\u{1}" };
    effects.entries.extend([least, "a", "a\0", "a\0b", "\u{10ffff}"].map(|key| (key.into(), Some(Arc::clone(&value)))));
    effects.entries.push(("large".into(), Some(vec![1; 400_000].into())));
    let adjusted = |key: String| crate::effects::Adjustment { key: key.into(), by: 7, floor: None };
    // Pieces begin in the middle of two keys between which there is none, and one that is behind both.
    effects.adjustments.push(adjusted("m".to_owned()));
    effects.adjustments.extend((0..750).flat_map(|number| ["", "\0"].map(|end| adjusted(format!("n/{number}{end}")))));
    let settlement = Settlement::Done { effects, ran: ran() };
    let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
    assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    serve_until(&backend, &inbox, 0).await;
    let weighs = report(&backend, CONSUMER).await.state_bytes;
    let before = pages(&backend).await;
    let LaidOut::Kept(kept) = take_over(&backend, &inbox, 2, weighs).await else { panic!("there is room") };
    assert_eq!(kept.bytes, weighs);
    assert_eq!(home.state_items().await, (2 * 2_506, 2 * 1_501));
    set_out(&backend, 2, 1).await;
    run(&inbox, 2, Some(1));
    go(&backend, &inbox).await;
    assert!(pages(&backend).await == before, "what was kept");
    assert_eq!(report(&backend, CONSUMER).await.state_bytes, weighs);
}

claims! {
    the_state_from_before_is_kept_and_brought_up_to_date_beside_live_events on [embedded, aws],
    a_way_back_that_is_left_goes_on_later_from_where_it_came on [embedded, aws],
    a_state_that_is_not_kept_is_taken_over_with_the_reason on [embedded, aws],
    a_rebuild_of_the_layout_before_ends_when_another_one_takes_over on [embedded, aws],
    what_is_handled_by_the_layout_before_ends_with_it on [embedded, aws],
    a_state_that_lacks_what_nobody_can_bring_is_given_up on [embedded, aws],
    a_state_of_many_pieces_is_kept_whole on [embedded, aws],
}
