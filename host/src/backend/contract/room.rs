//! A consumer keeps no more than its policy allows.

use super::{Place, accept, done, inbox, lease, name, place, policy, report_when, settled};
use crate::backend::{Backend, Excess, Finished, InboxPolicy, StateQuery};
use crate::effects::{Adjustment, Effects, Reads, Value};

fn set(key: &str, bytes: usize) -> Effects {
    let value: Value = Some(vec![b'x'; bytes].into());
    Effects { entries: vec![(key.into(), value)], ..Effects::default() }
}

fn delete(key: &str) -> Effects {
    Effects { entries: vec![(key.into(), None)], ..Effects::default() }
}

fn count(key: &str, by: i64) -> Effects {
    Effects { adjustments: vec![Adjustment { key: key.into(), by, floor: None }], ..Effects::default() }
}

/// What the state would weigh, where there is no room for it.
async fn handle(backend: &Backend, inbox: &std::sync::Arc<dyn crate::backend::Inbox>, effects: Effects) -> Option<u64> {
    place(backend).await;
    match inbox.finish(lease(inbox).await, &Reads::default(), done(effects)).await {
        Finished::Accepted => None,
        Finished::Full { delivery, effects, excess: Excess::State { bytes } } => {
            assert!(!effects.is_empty(), "what was staged comes back");
            accept(inbox, delivery, done(Effects::default())).await;
            Some(bytes)
        }
        other => panic!("{other:?}"),
    }
}

async fn a_state_grows_to_its_limit_and_not_beyond(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { state_bytes_max: 100, ..policy() });
    assert_eq!(handle(&backend, &deliveries, set("key", 90)).await, None, "93 bytes");
    assert_eq!(handle(&backend, &deliveries, set("a", 10)).await, Some(104));
    // Over itself, it counts once; what is not durable yet counts too.
    assert_eq!(handle(&backend, &deliveries, set("key", 97)).await, None, "100 bytes");
    assert_eq!(handle(&backend, &deliveries, set("key", 98)).await, Some(101));
    assert_eq!(handle(&backend, &deliveries, count("n", 5)).await, Some(109), "a counter is its key and 8 bytes");
    assert_eq!(handle(&backend, &deliveries, delete("key")).await, None);
    assert_eq!(handle(&backend, &deliveries, count("n", 5)).await, None, "9 bytes");
    assert_eq!(handle(&backend, &deliveries, count("n", -5)).await, None, "at nothing it is a counter still");
    assert_eq!(handle(&backend, &deliveries, set("key", 89)).await, Some(101));
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (0, 0)).await;
}

async fn what_a_state_weighs_is_known_after_a_restart_and_a_lower_limit_lets_it_shrink(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for key in ["a", "b", "c"] {
        assert_eq!(handle(&backend, &deliveries, set(key, 99)).await, None);
    }
    settled(&backend, "alpha").await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { state_bytes_max: 50, ..policy() });
    assert_eq!(handle(&backend, &deliveries, count("n", 1)).await, Some(309));
    assert_eq!(handle(&backend, &deliveries, set("a", 98)).await, None, "less than before");
    assert_eq!(handle(&backend, &deliveries, delete("a")).await, None);
    assert_eq!(handle(&backend, &deliveries, Effects::default()).await, None, "nothing is written");
    assert_eq!(handle(&backend, &deliveries, set("a", 1)).await, Some(202));
    report_when(&backend, "alpha", |it| (it.pending, it.dead) == (0, 0)).await;
}

async fn handlers_at_once_keep_within_the_limit_and_leave_no_room(home: Place) {
    const HANDLERS: usize = 16;
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { state_bytes_max: 100, concurrency: 16, ..policy() });
    let mut handled = tokio::task::JoinSet::new();
    for n in 0..HANDLERS {
        place(&backend).await;
        let (deliveries, delivery) = (std::sync::Arc::clone(&deliveries), lease(&deliveries).await);
        // Each is 12 bytes.
        let effects = set(&format!("k{n:02}"), 9);
        handled.spawn(async move { deliveries.finish(delivery, &Reads::default(), done(effects)).await });
    }
    let (mut kept, mut refused) = (0, Vec::new());
    for finished in handled.join_all().await {
        match finished {
            Finished::Accepted => kept += 1,
            Finished::Full { delivery, effects, excess: Excess::State { .. } } => refused.push((delivery, *effects)),
            other => panic!("{other:?}"),
        }
    }
    assert!(kept <= 8, "{kept} of 12 bytes each");
    // One after the other, they find what room there is.
    for (delivery, effects) in refused {
        match deliveries.finish(delivery, &Reads::default(), done(effects)).await {
            Finished::Accepted => kept += 1,
            Finished::Full { delivery, excess: Excess::State { bytes }, .. } => {
                assert_eq!((kept, bytes), (8, 108));
                accept(&deliveries, delivery, done(Effects::default())).await;
            }
            other => panic!("{other:?}"),
        }
    }
    settled(&backend, "alpha").await;
    let query = StateQuery { limit: HANDLERS, ..StateQuery::default() };
    assert_eq!(backend.consumers.state(&name("alpha"), query).await.unwrap().entries.len(), 8);
}

claims! {
    handlers_at_once_keep_within_the_limit_and_leave_no_room on [embedded, aws],
    a_state_grows_to_its_limit_and_not_beyond on [embedded, aws],
    what_a_state_weighs_is_known_after_a_restart_and_a_lower_limit_lets_it_shrink on [embedded, aws],
}
