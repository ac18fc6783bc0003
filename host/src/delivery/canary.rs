//! A delivery in a candidate's share: the candidate tries, and what it failed goes to the live version in the same turn.
//!
//! So a delivery is leased, and its lane held, until either has settled it; a candidate's failure is none of its attempts.

use std::sync::Arc;
use std::time::Duration;

use super::trial::Trial;
use super::{CONFLICTS_MAX, Candidate, Live, Shared, attempt, full, release, retry};
use crate::backend::{AttemptBy, Delivery, FailedTry, Finished, Ran, Settlement};
use crate::effects::Effects;
use crate::sandbox::{Handled, Outcome};
use crate::telemetry::meters::{self, CanaryEvent};

/// What became of one try.
enum Tried {
    Settled,
    /// What was read holds no more.
    Again(Delivery),
    Failed(Delivery),
}

/// Returns the delivery where it is the live version's to handle.
pub(super) async fn handle(
    shared: &Shared,
    live: &Live,
    candidate: &Candidate,
    mut delivery: Delivery,
) -> Option<Delivery> {
    delivery.by = AttemptBy::Candidate;
    for _ in 0..CONFLICTS_MAX {
        let view = shared.inbox.view_for(&delivery);
        let Some(handled) = attempt(shared, &candidate.version, &delivery, view).await else { break };
        let tried = match handled.outcome {
            Outcome::Done => commit(shared, live, candidate, delivery, handled).await,
            _ => fail(shared, live, candidate, delivery, handled).await,
        };
        match tried {
            Tried::Settled => return None,
            Tried::Failed(delivery) => return Some(delivery),
            Tried::Again(again) => {
                shared.meters.conflict();
                delivery = again;
                tokio::task::yield_now().await;
            }
        }
    }
    release(shared, delivery).await;
    None
}

/// Notes what the live version did with an event beside a candidate, or after it.
pub(super) fn note_live(shared: &Shared, candidate: &Candidate, after: bool, done: bool, took: Duration) {
    match (after, done) {
        (false, true) => candidate.trial.live_done(took),
        (false, false) => {}
        (true, true) => failed(shared, &candidate.trial),
        (true, false) => {
            meters::canary(&shared.name, CanaryEvent::BothFailed);
            candidate.trial.both_failed();
        }
    }
}

async fn commit(shared: &Shared, live: &Live, candidate: &Candidate, delivery: Delivery, handled: Handled) -> Tried {
    let Handled { reads, effects, calls, duration, instance, .. } = handled;
    let ran = Ran { version: candidate.version.label(), duration, calls: calls.clone() };
    let event = Arc::clone(&delivery.event);
    match shared.inbox.finish(delivery, &reads, Settlement::Done { effects, ran }).await {
        Finished::Accepted => {
            shared.meters.handled(None, duration);
            meters::canary(&shared.name, CanaryEvent::Done);
            candidate.trial.done(duration);
            // There is nothing of the live version that it could be compared with.
            if let Some(shadow) = live.shadow.as_ref().filter(|_| live.subscriptions.want(&event)) {
                shadow.ledger.passed_over();
            }
            if let Some(instance) = instance {
                candidate.version.keep(instance);
            }
            Tried::Settled
        }
        Finished::Conflict(again) => Tried::Again(again),
        Finished::Full { delivery, effects, excess } => {
            let outcome = full(&shared.name, live.policy.limits.state_bytes, &excess);
            let (effects, log) = (*effects, Vec::new());
            let handled = Handled { outcome, reads, effects, calls, log, duration, instance: None };
            fail(shared, live, candidate, delivery, handled).await
        }
        Finished::Superseded => superseded(live, candidate),
    }
}

/// An outcome other than done: the live version's to handle, unless what the candidate read holds no more. What only the
/// candidate hears is an attempt like any other.
async fn fail(shared: &Shared, live: &Live, candidate: &Candidate, mut delivery: Delivery, handled: Handled) -> Tried {
    let Handled { outcome, reads, effects, calls, log, duration, .. } = handled;
    // A store that cannot tell will not take the delivery either.
    if !shared.inbox.holds(&reads).await.unwrap_or(false) {
        return Tried::Again(delivery);
    }
    let ran = Ran { version: candidate.version.label(), duration, calls };
    if !live.subscriptions.want(&delivery.event) {
        let settlement = retry::settle(&live.policy.retry, &delivery, outcome, effects, log, ran);
        shared.meters.handled(settlement.cause().map(|cause| cause.kind), duration);
        return match shared.inbox.finish(delivery, &reads, settlement).await {
            Finished::Accepted => {
                failed(shared, &candidate.trial);
                Tried::Settled
            }
            Finished::Conflict(again) | Finished::Full { delivery: again, .. } => Tried::Again(again),
            Finished::Superseded => superseded(live, candidate),
        };
    }
    let effects: Effects = effects;
    let Some((cause, _)) = retry::failure(outcome, &effects, log) else { return Tried::Again(delivery) };
    tracing::info!(
        consumer = %shared.name, event = %delivery.event.id, version = %ran.version, outcome = cause.kind.as_str(),
        cause = cause.detail, "the candidate failed an event; the version before it handles it"
    );
    delivery.by = AttemptBy::LiveAfter(Box::new(FailedTry { cause, ran }));
    Tried::Failed(delivery)
}

fn failed(shared: &Shared, trial: &Trial) {
    meters::canary(&shared.name, CanaryEvent::Failed);
    trial.failed();
}

fn superseded(live: &Live, candidate: &Candidate) -> Tried {
    live.version.clear();
    candidate.version.clear();
    Tried::Settled
}
