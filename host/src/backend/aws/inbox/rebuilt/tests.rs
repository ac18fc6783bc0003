//! Against emulators: a commit that was decided on before a rebuild, and comes when that is over.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::aws::fixture::{alpha, begin, policy, settings};
use crate::backend::aws::inbox::{AwsInbox, Running};
use crate::backend::aws::settle::{Settled, Settling};
use crate::backend::aws::{backend, host};
use crate::backend::contract::{publish, ran};
use crate::backend::{
    AttemptBy, Backend, BackfillState, Backfilled, Cause, CauseKind, Delivery, Inbox, InboxPolicy, Settlement,
    StateQuery, Which,
};
use crate::effects::{Adjustment, Effects, Reads};
use crate::event::Body;
use crate::policy::{OnDead, Start};

const PATIENCE: Duration = Duration::from_secs(180);
const AGAIN: Duration = Duration::from_millis(20);

fn counted() -> Settlement {
    let adjustments = vec![Adjustment { key: "count".into(), by: 1, floor: None }];
    Settlement::Done { effects: Effects { adjustments, ..Effects::default() }, ran: ran() }
}

/// Leases what there is.
fn leased(inbox: &AwsInbox) -> Vec<Delivery> {
    // What is given back could be leased again at once.
    std::iter::from_fn(|| inbox.lease()).collect()
}

async fn settle(inbox: &AwsInbox, delivery: Delivery, settlement: Settlement) {
    drop(inbox.finish(delivery, &Reads::default(), settlement).await);
}

/// The delivery of an event of this subject, once it is there.
async fn of(inbox: &AwsInbox, subject: &str) -> Delivery {
    let is_of = |delivery: &Delivery| match &delivery.event.body {
        Body::Custom(custom) => &*custom.subject == subject,
        Body::OrderChanged { .. } => false,
    };
    let found = async {
        loop {
            let (mut of, others): (Vec<_>, Vec<_>) = leased(inbox).into_iter().partition(is_of);
            for other in others {
                settle(inbox, other, Settlement::Released).await;
            }
            if let Some(found) = of.pop() {
                return found;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{subject} does not come"))
}

/// What somebody goes by who has begun with this delivery, and stands still before he commits it.
async fn begun(inbox: &AwsInbox, subject: &str) -> Running {
    let delivery = of(inbox, subject).await;
    let running = inbox.desk.lock().running_of(delivery.lease.epoch).unwrap();
    settle(inbox, delivery, Settlement::Released).await;
    running
}

/// How his commit ends, which goes by nothing that he has heard since.
async fn committed_late(inbox: &AwsInbox, running: &Running) -> Settled {
    let AwsInbox { store, committer, name, .. } = inbox;
    let (generation, on_dead, gate, dropped) = (0, OnDead::Skip, None, 0);
    let settling = Settling { store, committer, name, generation, on_dead, running, gate, dropped };
    settling.settle(&Reads::default(), &counted(), &AttemptBy::default()).await.unwrap()
}

async fn count(backend: &Backend) -> i64 {
    let state = backend.consumers.state(&alpha(), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap();
    state.counters.first().map_or(0, |(_, count)| *count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_begun_before_a_rebuild_and_comes_when_that_is_over_is_refused() {
    let settings = settings();
    let store = host(&settings).await.unwrap();
    let backend = backend(Arc::clone(&store));
    backend
        .consumers
        .attach(&alpha(), Start::Now)
        .await
        .unwrap()
        .configure(InboxPolicy { on_dead: OnDead::Skip, ..policy() });
    let inbox = store.inbox(&alpha()).unwrap();
    for subject in ["done", "begun", "dead"] {
        publish(&backend, subject).await;
    }
    settle(&inbox, of(&inbox, "done").await, counted()).await;
    let cause = Cause::new(CauseKind::Reject, "no");
    settle(&inbox, of(&inbox, "dead").await, Settlement::Dead { cause, ran: ran() }).await;
    // Its lane has gone on, so what stands for it is not its place.
    let _ = backend.dead_letters.retry(&alpha(), Which::All.first(1)).await.unwrap().into_inner();
    let late = [begun(&inbox, "begun").await, begun(&inbox, "dead").await];

    assert_eq!(begin(&backend, Backfilled::Rebuild).await.events, 2, "one is done, and one begun");
    let handed_over = async {
        while backend.backfills.latest(&alpha()).await.unwrap().unwrap().state != BackfillState::Done {
            for delivery in leased(&inbox) {
                let settlement = if delivery.is_of_rebuild() { counted() } else { Settlement::Released };
                settle(&inbox, delivery, settlement).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, handed_over).await.is_ok(), "it is not handed over");
    for running in &late {
        let ended = committed_late(&inbox, running).await;
        assert!(matches!(ended, Settled::Elsewhere), "{}: {ended:?}", running.lane);
    }
    assert_eq!(count(&backend).await, 1);

    // Nothing else hinders them.
    for subject in ["begun", "dead"] {
        let delivery = of(&inbox, subject).await;
        settle(&inbox, delivery, counted()).await;
    }
    let all_done = async {
        while count(&backend).await < 3 {
            for delivery in leased(&inbox) {
                settle(&inbox, delivery, counted()).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all_done).await.is_ok(), "{}", count(&backend).await);
    drop(inbox);
    backend.lifecycle.close().await;
}
