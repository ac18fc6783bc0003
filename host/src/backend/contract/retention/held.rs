//! What is old and stays: history that a backfill is to bring, and what nobody has judged yet.

use super::*;
use crate::backend::{Backfill, BackfillEffects, BackfillState, BackfillStep, Backfilled, Since, Started};

fn everything() -> Backfill {
    Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1000000/s".parse().unwrap(),
        effects: BackfillEffects::All,
        of: Backfilled::Missed,
    }
}

async fn what_came_while_nobody_was_there_stays_until_it_is_known_who_hears_it(home: Place) {
    let backend = home.open().await;
    let inbox = super::inbox(&backend, "gone").await;
    let narrow = || InboxPolicy { subscriptions: hears(&["order.cancelled"]), ..policy() };
    inbox.configure(narrow());
    cancelled(&backend).await;
    assert_eq!(handle(&inbox).await.kind(), "order.cancelled");
    settled(&backend, "gone").await;
    inbox.configure(InboxPolicy { concurrency: 0, ..narrow() });
    drop(inbox);
    cancelled(&backend).await;
    events(&backend, 4).await;
    backend.upkeep.retain(SHORT);
    let (backend, left) = kept(&home, backend, 2).await;
    let inbox = super::inbox(&backend, "gone").await;
    for event in left {
        assert_eq!(handle(&inbox).await.id, event.id);
    }
    settled(&backend, "gone").await;
}

async fn a_backfill_that_is_under_way_holds_its_history_back(home: Place) {
    let backend = home.open().await;
    for _ in 0..5 {
        cancelled(&backend).await;
    }
    cancelled(&backend).await;
    let late = backend.consumers.attach(&name("late"), Start::Now).await.unwrap();
    // Nobody listens yet, so it does not come on.
    late.configure(InboxPolicy { concurrency: 0, ..policy() });
    let started = backend.backfills.start(&name("late"), everything()).await.unwrap().into_inner();
    assert!(matches!(started, Started::Yes(_)), "{started:?}");
    backend.upkeep.retain(SHORT);
    let held = eventually("the backfill holds events back", async || report(&backend, "late").await.held).await;
    assert_eq!((held.reason, held.events), (HeldBy::Backfill, 11));
    assert_eq!(ids(&backend).await.len(), 6);
    let _ = backend.backfills.steer(&name("late"), BackfillStep::Pause).await.unwrap();
    let last = cancelled(&backend).await;
    eventually("the paused one holds them back", async || {
        let held = report(&backend, "late").await.held;
        held.filter(|held| (held.reason, held.events) == (HeldBy::Backfill, 13))
    })
    .await;
    let _ = backend.backfills.steer(&name("late"), BackfillStep::Cancel).await.unwrap();
    all_gone_but(&backend, &[last]).await;
}

async fn what_a_backfill_left_to_a_lane_stays_as_long_as_the_lane_stands(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let late = backend.consumers.attach(&name("late"), Start::Now).await.unwrap();
    late.configure(policy());
    cancel(&backend, order.id).await;
    let [placed, cancelled] = &events(&backend, 2).await[..] else { panic!("two events") };
    let delivery = lease(&late).await;
    assert_eq!(delivery.event.id, cancelled.id);
    accept(&late, delivery, Settlement::Dead { cause: cause(), ran: ran() }).await;
    let started = backend.backfills.start(&name("late"), everything()).await.unwrap().into_inner();
    assert!(matches!(started, Started::Yes(_)), "{started:?}");
    eventually("the backfill went by", async || {
        let latest = backend.backfills.latest(&name("late")).await.unwrap();
        latest.filter(|report| report.state == BackfillState::Done)
    })
    .await;
    backend.upkeep.retain(SHORT);
    let held = eventually("its lane holds it back", async || report(&backend, "late").await.held).await;
    assert_eq!((held.reason, held.events), (HeldBy::Delivery, 1));
    backend.dead_letters.retry(&name("late"), Which::All.first(10)).await.unwrap().into_inner();
    for event in [cancelled, placed] {
        let delivery = lease(&late).await;
        assert_eq!(delivery.event.id, event.id);
        accept(&late, delivery, done(Effects::default())).await;
    }
}

claims! {
    what_came_while_nobody_was_there_stays_until_it_is_known_who_hears_it on [embedded, aws],
    a_backfill_that_is_under_way_holds_its_history_back on [embedded, aws],
    what_a_backfill_left_to_a_lane_stays_as_long_as_the_lane_stands on [aws] because "in a file, it waits for the lane",
}
