//! Hosts that share a store, while one of them makes the state of their consumer anew.

use std::collections::BTreeSet;

use super::{CONSUMER, attach, done, expected, latest, rebuild, start, state};
use crate::backend::contract::wait::Deadline;
use crate::backend::contract::{Place, publish, report};
use crate::backend::{Backend, BackfillState};
use crate::policy::Start;

/// Published in each round.
const EVENTS: usize = 24;

/// Each event has done what it does besides the state once, whoever handled it.
async fn had_each_effect_once(backend: &Backend) {
    let (newest, messages) =
        (expected(backend, &BTreeSet::new()).await.1, backend.journal.messages(None, 10_000).await.unwrap().items);
    let ids: BTreeSet<_> = messages.iter().map(|message| &message.id).collect();
    assert_eq!((ids.len(), messages.len() as i64), (messages.len(), newest));
}

async fn hosts_that_are_at_work_lose_and_repeat_nothing_when_a_state_is_handed_over(home: Place) {
    let hosts = [home.open().await, home.open().await];
    let inboxes = [attach(&hosts[0], Start::Now).await, attach(&hosts[1], Start::Now).await];
    for round in 0..2 {
        let mut left = EVENTS;
        if round > 0 {
            start(&hosts[0], rebuild()).await;
        }
        let deadline = Deadline::new();
        loop {
            if left > 0 {
                left -= 1;
                publish(&hosts[left % 2], ["tea", "salt", "pepper"][left % 3]).await;
            }
            let leased: Vec<_> = inboxes.iter().map(|inbox| (inbox, inbox.lease())).collect();
            for (inbox, delivery) in leased {
                if let Some(delivery) = delivery {
                    done(inbox, delivery).await;
                }
            }
            let pending = report(&hosts[1], CONSUMER).await.pending;
            if left == 0 && pending == 0 && (round == 0 || latest(&hosts[1]).await.state == BackfillState::Done) {
                break;
            }
            deadline.pause((left, pending)).await;
        }
    }
    for backend in &hosts {
        assert_eq!(state(backend).await, expected(backend, &BTreeSet::new()).await);
        had_each_effect_once(backend).await;
    }
    for backend in hosts {
        backend.lifecycle.close().await;
    }
}

claims! {
    hosts_that_are_at_work_lose_and_repeat_nothing_when_a_state_is_handed_over on [aws] because "one host alone has a file",
}
