//! Hosts that share a state handle events by one layout of it, and whoever handles nothing holds nothing up.

use std::sync::Arc;

use tokio::pin;

use super::{Place, accept, done, eventually, hears, lease, name, place, policy, publish, report, settled};
use crate::backend::{Backend, Finished, Forgotten, Inbox, InboxPolicy, LaidOut, StateQuery};
use crate::effects::{Adjustment, Effects, Reads};
use crate::policy::Start;

const CONSUMER: &str = "alpha";
const ROOM: u64 = 1 << 20;

async fn lay_out(backend: &Backend, layout: u32, last_word: bool) -> LaidOut {
    backend.layouts.lay_out(&name(CONSUMER), layout, ROOM, last_word).await.unwrap().into_inner()
}

/// As a worker that runs a version with this layout.
fn runs(inbox: &Arc<dyn Inbox>, layout: u32) {
    inbox.configure(InboxPolicy { layout: Some(layout), ..policy() });
}

fn stops(inbox: &Arc<dyn Inbox>, layout: u32) {
    inbox.configure(InboxPolicy { layout: Some(layout), concurrency: 0, ..policy() });
}

async fn attached(backend: &Backend, layout: u32, last_word: bool) -> (Arc<dyn Inbox>, LaidOut) {
    let inbox = backend.consumers.attach(&name(CONSUMER), Start::Beginning).await.unwrap();
    let laid_out = lay_out(backend, layout, last_word).await;
    runs(&inbox, layout);
    (inbox, laid_out)
}

fn counted(by: &str) -> Effects {
    Effects { adjustments: vec![Adjustment { key: by.into(), by: 1, floor: None }], ..Effects::default() }
}

async fn counts(backend: &Backend) -> Vec<(String, i64)> {
    backend.consumers.state(&name(CONSUMER), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap().counters
}

/// Why the host handles nothing, once it does not.
async fn stands_aside(backend: &Backend) -> String {
    eventually("it stands aside", async || report(backend, CONSUMER).await.cut_off).await
}

async fn serve(inbox: &Arc<dyn Inbox>, orders: usize, by: &str) {
    for _ in 0..orders {
        accept(inbox, lease(inbox).await, done(counted(by))).await;
    }
}

async fn the_last_word_takes_over_once_others_have_ended_what_they_handled_by_another_layout(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    // It does not have the consumer.
    let third = home.open().await;
    let (old, laid_out) = attached(&first, 1, true).await;
    assert_eq!(laid_out, LaidOut::AsBefore);
    for _ in 0..6 {
        place(&first).await;
    }
    let held = lease(&old).await;
    let (new, laid_out) = attached(&second, 1, false).await;
    assert_eq!(laid_out, LaidOut::AsBefore);
    stops(&new, 1);
    {
        let taking_over = lay_out(&second, 2, true);
        pin!(taking_over);
        tokio::select! {
            laid_out = &mut taking_over => panic!("the other one handles an event: {laid_out:?}"),
            why = stands_aside(&first) => assert!(why.contains("of layout 2 by now"), "{why}"),
        }
        assert!(old.lease().is_none());
        let finished = old.finish(held, &Reads::default(), done(counted("old"))).await;
        assert!(matches!(finished, Finished::Superseded), "{finished:?}");
        let LaidOut::Kept(kept) = taking_over.await else { panic!("it took over") };
        assert_eq!(kept.layout, 1);
    }
    runs(&new, 2);
    serve(&new, 6, "new").await;
    third.lifecycle.close().await;
    assert_eq!(settled(&second, CONSUMER).await.pending, 0);
    assert_eq!(counts(&second).await, [("new".to_owned(), 6)]);
    assert!(old.lease().is_none());
    second.lifecycle.close().await;
    first.lifecycle.close().await;
}

async fn of_two_that_take_over_at_the_same_time_the_last_one_handles_events(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let ((one, _), (two, _)) = (attached(&first, 1, true).await, attached(&second, 1, false).await);
    stops(&one, 1);
    stops(&two, 1);
    let laid_out = tokio::join!(lay_out(&first, 2, true), lay_out(&second, 3, true));
    runs(&one, 2);
    runs(&two, 3);
    let (theirs, own, laid_out, aside) = match report(&first, CONSUMER).await.cut_off {
        Some(_) => (&second, two, laid_out.1, one),
        None => (&first, one, laid_out.0, two),
    };
    assert!(matches!(laid_out, LaidOut::Kept(_)), "{laid_out:?}");
    place(&first).await;
    serve(&own, 1, "one").await;
    assert!(aside.lease().is_none());
    assert_eq!(report(theirs, CONSUMER).await.cut_off, None);
    second.lifecycle.close().await;
    first.lifecycle.close().await;
}

async fn a_host_without_the_last_word_stands_aside_until_it_has_it(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let (one, _) = attached(&first, 1, true).await;
    let (two, laid_out) = attached(&second, 2, true).await;
    assert!(matches!(laid_out, LaidOut::Kept(_)), "{laid_out:?}");
    stands_aside(&first).await;
    // As it starts anew.
    assert_eq!(lay_out(&first, 1, false).await, LaidOut::Elsewhere(2));
    place(&first).await;
    serve(&two, 1, "two").await;
    assert!(one.lease().is_none());

    // Its file was put there anew.
    assert!(matches!(lay_out(&first, 1, true).await, LaidOut::Kept(_)));
    let why = stands_aside(&second).await;
    assert!(why.contains("of layout 1 by now") && why.contains("the version here of layout 2"), "{why}");
    place(&second).await;
    serve(&one, 1, "one").await;
    assert!(two.lease().is_none());
    assert_eq!(lay_out(&second, 2, false).await, LaidOut::Elsewhere(1));
    assert_eq!(report(&first, CONSUMER).await.cut_off, None);
    assert_eq!(counts(&first).await, [("one".to_owned(), 1), ("two".to_owned(), 1)]);
    second.lifecycle.close().await;
    first.lifecycle.close().await;
}

async fn a_take_over_whose_host_is_gone_is_ended_by_another_one(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let (old, _) = attached(&first, 1, true).await;
    place(&first).await;
    let held = lease(&old).await;
    second.consumers.attach(&name(CONSUMER), Start::Beginning).await.unwrap();
    tokio::select! {
        laid_out = lay_out(&second, 2, true) => panic!("the other one handles an event: {laid_out:?}"),
        _ = stands_aside(&first) => {}
    }
    second.lifecycle.close().await;
    let third = home.open().await;
    let ending = async {
        let finished = old.finish(held, &Reads::default(), done(counted("old"))).await;
        assert!(matches!(finished, Finished::Superseded), "{finished:?}");
    };
    let ((new, laid_out), ()) = tokio::join!(attached(&third, 2, false), ending);
    assert_eq!(laid_out, LaidOut::AsBefore);
    serve(&new, 1, "new").await;
    assert_eq!(counts(&third).await, [("new".to_owned(), 1)]);
    third.lifecycle.close().await;
    first.lifecycle.close().await;
}

async fn a_host_that_handles_nothing_any_more_gives_back_what_it_was_told(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let told = first.consumers.attach(&name(CONSUMER), Start::Beginning).await.unwrap();
    told.configure(InboxPolicy { concurrency: 1, ..policy() });
    for _ in 0..12 {
        place(&first).await;
    }
    serve(&told, 2, "first").await;
    let last = lease(&told).await;
    // As long as one runs, it may have others in memory.
    told.configure(InboxPolicy { concurrency: 0, ..policy() });
    let others = second.consumers.attach(&name(CONSUMER), Start::Beginning).await.unwrap();
    others.configure(policy());
    serve(&others, 9, "second").await;
    accept(&told, last, done(counted("first"))).await;
    assert_eq!(settled(&second, CONSUMER).await.pending, 0);
    assert_eq!(counts(&second).await, [("first".to_owned(), 3), ("second".to_owned(), 9)]);
    second.lifecycle.close().await;
    first.lifecycle.close().await;
}

async fn a_host_that_stood_aside_passes_nothing_by_that_was_heard_meanwhile(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let (one, _) = attached(&first, 1, true).await;
    let two = second.consumers.attach(&name(CONSUMER), Start::Beginning).await.unwrap();
    assert!(matches!(lay_out(&second, 2, true).await, LaidOut::Kept(_)));
    let hears_more = || InboxPolicy { layout: Some(2), subscriptions: hears(&["com.*", "order.*"]), ..policy() };
    two.configure(hears_more());
    stands_aside(&first).await;
    for subject in ["salt", "tea"] {
        publish(&second, subject).await;
    }
    drop(lease(&two).await);
    second.lifecycle.close().await;
    eventually("it tells what is heard elsewhere", async || {
        (report(&first, CONSUMER).await.pending == 2).then_some(())
    })
    .await;

    // It gets the version of the other one.
    assert_eq!(lay_out(&first, 2, false).await, LaidOut::AsBefore);
    stops(&one, 1);
    one.configure(hears_more());
    serve(&one, 2, "one").await;
    assert_eq!(settled(&first, CONSUMER).await.pending, 0);
    first.lifecycle.close().await;
}

async fn a_consumer_that_another_host_forgot_begins_anew(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let (one, _) = attached(&first, 1, true).await;
    let (two, _) = attached(&second, 2, true).await;
    place(&first).await;
    serve(&two, 1, "before").await;
    stops(&one, 1);
    stops(&two, 2);
    assert_eq!(first.consumers.forget(&name(CONSUMER)).await.unwrap().into_inner(), Forgotten::Done);

    second.consumers.introduce(&name(CONSUMER), Start::Beginning).await.unwrap();
    let (anew, laid_out) = attached(&second, 1, true).await;
    assert_eq!(laid_out, LaidOut::AsBefore);
    serve(&anew, 1, "anew").await;
    assert_eq!(counts(&second).await, [("anew".to_owned(), 1)]);
    assert_eq!(report(&second, CONSUMER).await.cut_off, None);
    second.lifecycle.close().await;
    first.lifecycle.close().await;
}

claims! {
    the_last_word_takes_over_once_others_have_ended_what_they_handled_by_another_layout on [aws]
        because "a store on one machine has one host",
    of_two_that_take_over_at_the_same_time_the_last_one_handles_events on [aws]
        because "a store on one machine has one host",
    a_host_without_the_last_word_stands_aside_until_it_has_it on [aws] because "a store on one machine has one host",
    a_host_that_stood_aside_passes_nothing_by_that_was_heard_meanwhile on [aws]
        because "a store on one machine has one host",
    a_consumer_that_another_host_forgot_begins_anew on [aws] because "a store on one machine has one host",
    a_take_over_whose_host_is_gone_is_ended_by_another_one on [aws] because "a store on one machine has one host",
    a_host_that_handles_nothing_any_more_gives_back_what_it_was_told on [aws, standard]
        because "a store on one machine has one host",
}
