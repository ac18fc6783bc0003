//! From a leased delivery to its settlement: one worker per consumer, and as many runners as its concurrency and
//! its backlog ask for.
//!
//! ```text
//! Inbox::lease ──► Version::handle ──► settle (pure) ──► Inbox::finish ──► Accepted: the instance may stay warm
//!      ▲                                                        │
//!      └────────────── Conflict: handle again ◄─────────────────┘
//! ```
//!
//! **Invariants**
//! - A delivery that was leased is finished, released, or its worker's runtime is gone.
//! - A version that was swapped out finishes the deliveries that it began, and begins no other.
//! - What is leased because one version hears it is handled by that one: subscriptions and version change together.
//! - An instance is used again only after its commit was accepted.
//! - A lane is one delivery at a time, whichever version handles it: the events of an order never run on two at once.

mod canary;
pub mod retry;
pub mod rollout;
pub mod shadow;
#[cfg(test)]
mod tests;
pub mod trial;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::backend::{AttemptBy, BackPolicy, Delivery, Excess, Finished, Inbox, InboxPolicy, Ran, Settlement, View};
use crate::event::Subscriptions;
use crate::fault::{self, Point};
use crate::policy::{ConsumerName, Policy};
use crate::sandbox::{Handled, Outcome, Version};
use crate::telemetry::meters::ConsumerMeters;
use crate::version::Hash;
use shadow::{Outcomes, Shadow};
use trial::Trial;

/// Deliveries that a runner ends before it lets other tasks of its thread run.
const DELIVERIES_BEFORE_YIELD: u32 = 8;
/// Before a delivery is handed back that could not read its state.
const STORE_PAUSE: Duration = Duration::from_millis(100);
/// Conflicts in a row after which a delivery is handed back and others get their turn.
const CONFLICTS_MAX: u32 = 64;
/// What an attempt that failed costs its consumer of its share of the CPU, besides the guest's time: it has rows of its own,
/// which the one thread writes that writes for all.
const FAILED_ATTEMPT: Duration = Duration::from_micros(250);

/// What a consumer runs: replaced as a whole.
#[derive(Clone)]
pub struct Live {
    pub version: Arc<Version>,
    pub policy: Arc<Policy>,
    pub subscriptions: Subscriptions,
    /// How the version lays its state out.
    pub layout: u32,
    pub candidate: Option<Candidate>,
    pub shadow: Option<Shadow>,
    pub back: Option<Back>,
}

/// A version that is tried on a share of the orders, under the same policy.
#[derive(Clone)]
pub struct Candidate {
    pub version: Arc<Version>,
    pub subscriptions: Subscriptions,
    pub trial: Arc<Trial>,
}

/// The version that a way back leads to: it handles what that one delivers, under the same policy.
#[derive(Clone)]
pub struct Back {
    pub version: Arc<Version>,
    pub hash: Hash,
    pub subscriptions: Subscriptions,
}

impl Live {
    /// As many instances as can be at work at once.
    fn keep_warm(&self) {
        for version in self.versions() {
            version.keep_at_most(self.policy.concurrency.get() as usize);
        }
    }

    fn versions(&self) -> impl Iterator<Item = &Arc<Version>> {
        let candidate = self.candidate.iter().map(|candidate| &candidate.version);
        std::iter::once(&self.version).chain(candidate).chain(self.back.iter().map(|back| &back.version))
    }

    /// What the consumer hears, by whichever version.
    fn heard(&self) -> Subscriptions {
        match &self.candidate {
            Some(Candidate { subscriptions, trial, .. }) => self.subscriptions.with(trial.share(), subscriptions),
            None => self.subscriptions.clone(),
        }
    }

    /// Which version, but for a candidate, handles it.
    fn version_for(&self, delivery: &Delivery) -> Option<&Arc<Version>> {
        match delivery.by {
            AttemptBy::Returning => self.back.as_ref().map(|back| &back.version),
            AttemptBy::Live | AttemptBy::Candidate | AttemptBy::LiveAfter(_) => Some(&self.version),
        }
    }

    /// The candidate, where what becomes of the delivery tells something of it: what a rebuild does again is nobody's trial.
    fn on_trial(&self, delivery: &Delivery) -> Option<&Candidate> {
        self.candidate.as_ref().filter(|_| !delivery.is_of_rebuild())
    }

    /// The candidate, where the delivery is its to handle: it lies in its share and the candidate hears it. Once it has failed
    /// too much, it gets only what nobody else hears.
    fn candidate_for(&self, delivery: &Delivery) -> Option<&Candidate> {
        let event = &delivery.event;
        self.on_trial(delivery).filter(|candidate| {
            candidate.trial.share().has(&event.lane())
                && candidate.subscriptions.want(event)
                && (candidate.trial.is_open() || !self.subscriptions.want(event))
        })
    }
}

/// Starts workers, all on one runtime, apart from the one that answers HTTP.
#[derive(Clone)]
pub struct Engine {
    runtime: Handle,
}

impl Engine {
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { runtime }
    }

    /// Delivers to `live` until the worker is stopped.
    pub fn start(&self, name: ConsumerName, inbox: Arc<dyn Inbox>, live: Live) -> Worker {
        inbox.configure(inbox_policy(&live));
        live.keep_warm();
        let shared =
            Arc::new(Shared { meters: ConsumerMeters::of(&name), name, inbox, live: RwLock::new(Arc::new(live)) });
        let (stop, stopped) = watch::channel(false);
        let task = self.runtime.spawn(deliver(Arc::clone(&shared), stopped));
        Worker { shared, stop, task }
    }
}

/// One running consumer.
#[must_use]
pub struct Worker {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Worker {
    /// Deliveries leased from now on go to `live`; those that run finish where they are.
    pub fn swap(&self, live: Live) {
        live.keep_warm();
        let live = Arc::new(live);
        let old = {
            let mut leased_for = self.shared.live.write();
            self.shared.inbox.configure(inbox_policy(&live));
            fault::pass(Point::VersionSwapping);
            std::mem::replace(&mut *leased_for, Arc::clone(&live))
        };
        fault::pass(Point::VersionSwapped);
        let stays = |version: &Arc<Version>| live.versions().any(|new| Arc::ptr_eq(new, version));
        old.versions().filter(|version| !stays(version)).for_each(|version| version.clear());
    }

    /// Leases no more and returns when what runs has finished.
    pub async fn stop(self) {
        let Self { shared, stop, task } = self;
        stop.send_replace(true);
        if let Err(error) = task.await {
            tracing::error!(consumer = %shared.name, %error, "the consumer's worker ended out of order");
        }
        let live = Arc::clone(&shared.live.read());
        shared.inbox.configure(InboxPolicy { concurrency: 0, ..inbox_policy(&live) });
    }
}

struct Shared {
    name: ConsumerName,
    inbox: Arc<dyn Inbox>,
    /// Held while a delivery is leased: what its inbox hears is what this handles.
    live: RwLock<Arc<Live>>,
    meters: ConsumerMeters,
}

/// A delivery, and what handles it.
struct Leased {
    live: Arc<Live>,
    delivery: Delivery,
}

impl Shared {
    fn lease(&self) -> Option<Leased> {
        let live = self.live.read();
        self.inbox.lease().map(|delivery| Leased { live: Arc::clone(&live), delivery })
    }
}

fn inbox_policy(live: &Live) -> InboxPolicy {
    InboxPolicy {
        subscriptions: live.heard(),
        concurrency: live.policy.concurrency.get(),
        rate: live.policy.rate,
        on_dead: live.policy.on_dead,
        state_bytes_max: live.policy.limits.state_bytes,
        layout: Some(live.layout),
        back: live
            .back
            .as_ref()
            .map(|back| BackPolicy { version: back.hash, subscriptions: back.subscriptions.clone() }),
    }
}

/// Leases what may run and gives each lease a runner; a runner goes on with the next lease by itself.
async fn deliver(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut runners = JoinSet::new();
    while !*stopped.borrow() {
        while let Some(leased) = shared.lease() {
            // Boxed here, it is moved into its task as a pointer.
            runners.spawn(Box::pin(run(Arc::clone(&shared), leased, stopped.clone())));
        }
        tokio::select! {
            () = shared.inbox.changed() => {}
            Some(ended) = runners.join_next() => report(&shared, ended),
            _ = stopped.changed() => break,
        }
        while let Some(ended) = runners.try_join_next() {
            report(&shared, ended);
        }
    }
    while let Some(ended) = runners.join_next().await {
        report(&shared, ended);
    }
}

fn report(shared: &Shared, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(consumer = %shared.name, %error, "a delivery ended in a bug of the host; it waits for a restart");
    }
}

async fn run(shared: Arc<Shared>, leased: Leased, stopped: watch::Receiver<bool>) {
    let (mut next, mut since_yield) = (Some(leased), 0);
    while let Some(leased) = next {
        handle(&shared, leased).await;
        since_yield += 1;
        if since_yield == DELIVERIES_BEFORE_YIELD {
            since_yield = 0;
            tokio::task::yield_now().await;
        }
        next = if *stopped.borrow() { None } else { shared.lease() };
    }
}

/// Handles one delivery until it is settled.
async fn handle(shared: &Shared, Leased { live, delivery }: Leased) {
    fault::pass(Point::DeliveryLeased);
    let on_trial = live.on_trial(&delivery);
    let failed = match live.candidate_for(&delivery) {
        Some(candidate) => canary::handle(shared, &live, candidate, delivery).await,
        None => Some(delivery),
    };
    let Some(mut delivery) = failed else { return };
    // A way back that ended meanwhile has no version any more, and nothing comes of its deliveries.
    let Some(version) = live.version_for(&delivery) else { return release(shared, delivery).await };
    for _ in 0..CONFLICTS_MAX {
        let after_candidate = matches!(delivery.by, AttemptBy::LiveAfter(_));
        let view = shared.inbox.view_for(&delivery);
        let shadow = live.shadow.as_ref().filter(|_| !delivery.is_of_rebuild());
        let watch = shadow.and_then(|shadow| Some((shadow, shadow.watch(Arc::clone(&view))?)));
        let view = watch.as_ref().map_or(view, |(_, watch)| watch.view());
        let Some(handled) = attempt(shared, version, &delivery, view).await else { break };
        let compared = match watch {
            Some((shadow, watch)) => {
                let live = Outcomes::of(&handled.outcome, &handled.effects);
                shadow.compare(&delivery, live, watch).await.map(|compared| (shadow, compared))
            }
            None => None,
        };
        let took = handled.duration;
        match finish(shared, &live, version, delivery, handled).await {
            Ended::Settled { done } => {
                if let Some((shadow, compared)) = compared {
                    shadow.ledger.note(compared);
                }
                if let Some(candidate) = on_trial {
                    canary::note_live(shared, candidate, after_candidate, done, took);
                }
                return;
            }
            Ended::Again(again) => {
                delivery = again;
                tokio::task::yield_now().await;
            }
            Ended::Superseded => return version.clear(),
        }
    }
    release(shared, delivery).await;
}

/// One version handles one event. `None` where the store did not answer.
async fn attempt(shared: &Shared, version: &Version, delivery: &Delivery, view: Arc<dyn View>) -> Option<Handled> {
    let underway = shared.meters.begin();
    let handled = version.handle(delivery, view).await;
    drop(underway);
    fault::pass(Point::DeliveryHandled);
    if let Outcome::Store(error) = &handled.outcome {
        tracing::warn!(consumer = %shared.name, event = %delivery.event.id, %error, "the store did not answer; the event is handled again");
        tokio::time::sleep(STORE_PAUSE).await;
        return None;
    }
    Some(handled)
}

/// How it ended that a delivery was handed back.
enum Ended {
    Settled {
        done: bool,
    },
    /// What was read holds no more.
    Again(Delivery),
    Superseded,
}

/// Hands back what was handled, and keeps the instance if it was done. Where the consumer's state has no room for it, it
/// is the fault of its guest, as any other limit that is used up.
async fn finish(shared: &Shared, live: &Live, version: &Version, delivery: Delivery, handled: Handled) -> Ended {
    let Handled { outcome, reads, effects, calls, log, duration, instance } = handled;
    let settle = |delivery: &Delivery, outcome, effects, log| {
        let ran = Ran { version: version.label(), duration, calls: calls.clone() };
        let settlement = retry::settle(&live.policy.retry, delivery, outcome, effects, log, ran);
        let failed = settlement.cause().map(|cause| cause.kind);
        shared.meters.handled(failed, duration);
        if failed.is_some() {
            version.charge(FAILED_ATTEMPT);
        }
        settlement
    };
    let done = matches!(outcome, Outcome::Done);
    let settlement = settle(&delivery, outcome, effects, log);
    match shared.inbox.finish(delivery, &reads, settlement).await {
        Finished::Accepted => {
            if let Some(instance) = instance {
                version.keep(instance);
            }
            Ended::Settled { done }
        }
        Finished::Full { delivery, effects, excess } => {
            let outcome = full(&shared.name, live.policy.limits.state_bytes, &excess);
            let settlement = settle(&delivery, outcome, *effects, Vec::new());
            match shared.inbox.finish(delivery, &reads, settlement).await {
                Finished::Accepted => Ended::Settled { done: false },
                Finished::Conflict(again) | Finished::Full { delivery: again, .. } => again_after(shared, again),
                Finished::Superseded => Ended::Superseded,
            }
        }
        Finished::Conflict(again) => again_after(shared, again),
        Finished::Superseded => Ended::Superseded,
    }
}

fn again_after(shared: &Shared, delivery: Delivery) -> Ended {
    shared.meters.conflict();
    Ended::Again(delivery)
}

/// There is no room for what it staged.
fn full(name: &ConsumerName, max: u64, excess: &Excess) -> Outcome {
    let message = match excess {
        Excess::State { bytes } => format!(
            "its state would hold {bytes} bytes, and limits.state allows {max}; raise it in {name}.toml, or let the plugin \
             delete what it no longer needs"
        ),
        Excess::Commit { why } => format!("the store cannot commit its effects at once: {why}"),
    };
    Outcome::Trap { kind: "limit".to_owned(), message, backtrace: None }
}

async fn release(shared: &Shared, delivery: Delivery) {
    match shared.inbox.finish(delivery, &crate::effects::Reads::default(), Settlement::Released).await {
        Finished::Accepted | Finished::Superseded => {}
        Finished::Conflict(delivery) | Finished::Full { delivery, .. } => {
            tracing::error!(consumer = %shared.name, event = %delivery.event.id, "a release cannot conflict; the event waits for a restart");
        }
    }
}
