//! The deliveries of one consumer: what SQS tells of, what is due, and what has to be made good, sorted into lanes.
//!
//! ```text
//!  SQS ──► receive ──┐                      ┌──► lease ──► handled ──► finish ──► table
//!  due items ────────┼──► lanes, in memory ─┤                             │
//!  past events ──────┘     (`desk`)         └◄── next of the lane ◄───────┘
//! ```
//!
//! A lane comes into memory with the consumer's place in it, read consistently. What the place is through with already is a
//! repeat and deleted; what is missing before an event is read from the table and put in front; and while the lane stands
//! at an exception, messages of it are deleted, because the table has their events.
//!
//! **Invariants**
//! - A message is deleted only when the place, or an item that is due, says all that it says.
//! - One delivery of a lane runs at a time on this host, and only one commits on all hosts: its write is refused where the
//!   place has moved.

mod desk;
mod dues;
#[cfg(test)]
mod fixture;
mod footing;
mod handed;
mod heard;
mod history;
mod rebuilt;
mod receive;
mod silence;
#[cfg(test)]
mod tests;
mod view;
mod way;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::desk::{Desk, Ended, Receipt};
pub use self::desk::{Running, Work};
#[cfg(test)]
pub use self::fixture::{Handed as Inboxed, shop};
pub use self::footing::Asked;
use self::footing::Footing;
use self::handed::Handed;
pub use self::handed::{Message, Until};
pub use self::rebuilt::{Again, Fate, Progress, Tried};
use self::rebuilt::{Batches, Offered};
use self::view::AwsView;
pub use self::view::page;
use self::way::Way;
use super::backfills::Fills;
use super::consumers::{CatchUp, Known};
use super::due;
use super::item::LaneKey;
use super::place::Place;
use super::resources::Queue;
use super::seat;
use super::settle::{Committer, Settled, Settling};
use super::store::Store;
use super::weight::{self, Weight};
use crate::backend::{Delivery, Error, Excess, Finished, Inbox, InboxPolicy, Result, Settlement, View};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::Subscriptions;
use crate::policy::{ConsumerName, OnDead};

/// Before a delivery that could not be settled is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a delivery that met others waits for its turn; then it is handled beside them.
const TURN_MAX: Duration = Duration::from_millis(300);

pub struct AwsInbox {
    pub name: ConsumerName,
    pub queue: Queue,
    pub(super) store: Arc<Store>,
    committer: Arc<Committer>,
    desk: Mutex<Desk>,
    /// What the table says of the consumer, as it was last read.
    known: Mutex<Known>,
    footing: Mutex<Footing>,
    /// Names this host's gate beside a rebuild.
    host: String,
    /// Rung when that is to be looked at.
    gated: Notify,
    pub(super) weight: Weight,
    /// Its backfills, as they were last read.
    fills: Mutex<Arc<Fills>>,
    /// Rung when there may be something to do for a backfill.
    filled: Notify,
    /// What a rebuild offers to be handled.
    offered: Mutex<Option<Offered>>,
    /// Rung when something became of it.
    handled: Notify,
    again_turn: AtomicU8,
    tickets_again: AtomicU64,
    /// What it has handled and not written yet.
    pub batches: Arc<Batches>,
    changed: Notify,
    /// Rung when something may be due.
    pub(super) rung: Notify,
    /// Done since that was last written down.
    pub(super) done: AtomicU64,
    ending: CancellationToken,
    tasks: TaskTracker,
    /// Held while it is said to others and to SNS what is heard.
    pub(super) hearing: tokio::sync::Mutex<()>,
    /// Held while lanes are brought into memory.
    sorting: tokio::sync::Mutex<()>,
    /// Deliveries that met others in what they read are handled one after another from then on: each of these leases has its turn.
    turn: Arc<tokio::sync::Mutex<()>>,
    turns: Mutex<HashMap<u64, OwnedMutexGuard<()>>>,
    /// Questions to the queue at once, besides the first.
    polls: AtomicUsize,
    /// Rung when another message may be taken.
    room: Notify,
    way: Mutex<Way>,
    /// Messages to be deleted.
    acknowledged: Mutex<Vec<Receipt>>,
    to_delete: Notify,
    /// What became of messages that AWS Lambda received, on a host that it invokes.
    handed: Option<Handed>,
    /// No delivery begins: between two invocations of such a host.
    resting: AtomicBool,
}

impl AwsInbox {
    /// The inbox of a consumer that is here. On a host that AWS Lambda invokes, it does nothing by itself.
    pub fn start(store: &Arc<Store>, known: Known, asked: Asked, fills: Fills, queue: Queue) -> Arc<Self> {
        let invoked = store.seat.kept().is_none();
        let owner = uuid::Uuid::now_v7().to_string();
        let committer = Committer::new(store);
        let inbox = Arc::new(Self {
            name: known.name.clone(),
            queue,
            store: Arc::clone(store),
            desk: Mutex::new(Desk::new(known.paused.is_some())),
            weight: Weight::of(&known),
            footing: Mutex::new(Footing::of(&known, asked)),
            host: store.seat.kept().map_or_else(|| owner.clone(), |slot| slot.owner.clone()),
            gated: Notify::new(),
            known: Mutex::new(known.clone()),
            fills: Mutex::default(),
            filled: Notify::new(),
            offered: Mutex::default(),
            handled: Notify::new(),
            again_turn: AtomicU8::new(0),
            tickets_again: AtomicU64::new(0),
            batches: Batches::new(store, &committer, &known.name),
            committer,
            changed: Notify::new(),
            rung: Notify::new(),
            done: AtomicU64::new(0),
            ending: store.stopping.child_token(),
            tasks: TaskTracker::new(),
            hearing: tokio::sync::Mutex::default(),
            sorting: tokio::sync::Mutex::default(),
            turn: Arc::default(),
            turns: Mutex::default(),
            polls: AtomicUsize::new(0),
            room: Notify::new(),
            way: Mutex::default(),
            acknowledged: Mutex::default(),
            to_delete: Notify::new(),
            handed: invoked.then(Handed::default),
            resting: AtomicBool::new(invoked),
        });
        inbox.take_ground(&known, asked);
        inbox.take_up_fills(fills);
        if invoked {
            return inbox;
        }
        inbox.tasks.spawn(Arc::clone(&inbox).delete());
        inbox.tasks.spawn(Arc::clone(&inbox).keep_gate());
        inbox.tasks.spawn(super::catch_up::run(Arc::clone(&inbox), Arc::clone(store), owner.clone()));
        inbox.tasks.spawn(super::backfills::run(Arc::clone(&inbox), Arc::clone(store), owner));
        receive::start(&inbox);
        inbox.tasks.spawn(Arc::clone(&inbox).look());
        inbox
    }

    pub fn learn_catch_up(&self, catch_up: CatchUp) {
        self.known.lock().catch_up = catch_up;
    }

    /// Whether events may be taken.
    pub fn is_open(&self) -> bool {
        self.desk.lock().is_open()
    }

    /// Whether this host says what the consumer hears.
    pub fn says_what_is_heard(&self) -> bool {
        self.desk.lock().says_what_is_heard()
    }

    pub async fn ended(&self) {
        self.ending.cancelled().await;
    }

    /// Whether memory has an event of the lane up to `seq`.
    pub fn has_in_memory(&self, lane: &LaneKey, seq: u64) -> bool {
        self.desk.lock().lane(lane).is_some_and(|lane| lane.place.seq < seq)
    }

    pub fn subscriptions(&self) -> Subscriptions {
        self.desk.lock().subscriptions()
    }

    pub fn layout(&self) -> Option<u32> {
        self.desk.lock().layout()
    }

    /// Messages whose events are done.
    pub fn to_be_deleted(&self) -> u64 {
        self.acknowledged.lock().len() as u64
    }

    /// Takes nothing more, deletes the messages of what is done, and gives back what is not.
    pub async fn close(&self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.leave_gate().await;
        self.give_back().await;
        let dues = self.desk.lock().dues();
        for due in dues {
            if let Err(error) = due::claim_until(&self.store, &due, Timestamp::now()).await {
                tracing::debug!(consumer = %self.name, lane = %due.lane, %error, "it is due again when its claim runs out");
            }
        }
    }

    /// Bytes that its state may have.
    pub fn state_bytes_max(&self) -> i64 {
        i64::try_from(self.desk.lock().state_bytes_max()).unwrap_or(i64::MAX)
    }

    /// Whether somebody handles its events, or has attached and is about to.
    pub fn is_in_use(&self) -> bool {
        let desk = self.desk.lock();
        !desk.is_configured() || desk.concurrency() > 0 || desk.running() > 0
    }

    pub fn ring(&self) {
        self.changed.notify_one();
    }

    pub fn known(&self) -> Known {
        self.known.lock().clone()
    }

    pub fn is_of(&self, known: &Known) -> bool {
        self.known.lock().id == known.id
    }

    /// The table says this of the consumer, which was asked for then.
    pub fn learn(&self, known: Known, asked: Asked) {
        let mut own = self.known.lock();
        if own.id != known.id {
            // Of another one of its name, since this one was forgotten.
            return;
        }
        let (says, before) = {
            let mut desk = self.desk.lock();
            let before = (desk.paused, desk.is_aside());
            desk.paused = known.paused.is_some();
            (desk.says_what_is_heard(), before)
        };
        let has_gone_back = own.has_gone_back(&known);
        // What it hears is this host's own until it is written down, unless others say it, or went back to another version. An
        // answer may be older than one that came before.
        let epochs = match known.laid < own.laid || (says && !has_gone_back) {
            true => std::mem::take(&mut own.epochs),
            false => known.epochs,
        };
        let known = Known { epochs, laid: own.laid.max(known.laid), ..known };
        *own = if known.fills < own.fills { own.but_for_backfills(known) } else { known };
        self.weight.learn(&own);
        self.take_ground(&own, asked);
        drop(own);
        let now = {
            let desk = self.desk.lock();
            (desk.paused, desk.is_aside())
        };
        if has_gone_back {
            self.narrow();
        }
        if now != before {
            self.note_heard();
        }
        self.step_aside();
        self.ring();
    }

    /// Settles one delivery, in its turn where it met others before.
    async fn settle_in_turn(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        let ticket = delivery.lease.epoch;
        let had = self.turns.lock().remove(&ticket);
        let finished = weight::settle(self, delivery, reads, settlement).await;
        if matches!(finished, Finished::Conflict(_)) {
            let turn = match had {
                Some(turn) => Some(turn),
                None => timeout(TURN_MAX, Arc::clone(&self.turn).lock_owned()).await.ok(),
            };
            self.turns.lock().extend(turn.map(|turn| (ticket, turn)));
        }
        finished
    }

    /// Settles one delivery; what it says is what the caller is told.
    pub(super) async fn settle(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        let _in_flight = self.store.in_flight.token();
        if delivery.is_of_rebuild() {
            return self.settle_again(delivery, reads, settlement).await;
        }
        let (event, ticket) = (delivery.event.id, delivery.lease.epoch);
        let Some(running) = self.desk.lock().running_of(ticket) else { return Finished::Superseded };
        let (settlement, dropped) = confine(settlement, delivery.is_state_only());
        if matches!(settlement, Settlement::Released) {
            self.desk.lock().release(&running.lane);
            self.ring();
            return Finished::Accepted;
        }
        let (on_dead, layout) = {
            let desk = self.desk.lock();
            (desk.on_dead(), desk.layout())
        };
        let generation = delivery.generation.state;
        let (store, name, committer) = (&self.store, &self.name, &self.committer);
        self.desk.lock().settling(ticket, true);
        self.ring();
        let (ground, settled) = match self.ground().await {
            Ok(ground) if !ground.holds(generation, layout) => (Some(ground), Ok(Settled::Shut)),
            Ok(ground) => {
                let gate = ground.gate();
                let settling =
                    Settling { store, committer, name, generation, on_dead, running: &running, gate, dropped };
                let settled = match seat::take_for(store, &settlement).await {
                    Ok(()) => settling.settle(reads, &settlement, &delivery.by).await,
                    Err(error) => Err(error),
                };
                (Some(ground), settled)
            }
            Err(error) => (None, Err(error)),
        };
        self.desk.lock().settling(ticket, false);
        match settled {
            Ok(Settled::Written(place)) => {
                self.written(&running, &settlement, place).await;
                Finished::Accepted
            }
            Ok(Settled::Conflict) => Finished::Conflict(delivery),
            Ok(Settled::Shut) => self.meets_shut_gate(&running, ground).await,
            Ok(Settled::Elsewhere) => {
                tracing::debug!(consumer = %self.name, %event, "another host was through with it before");
                let left = self.desk.lock().leave(&running.lane);
                self.acknowledge_none(left);
                self.ring();
                Finished::Superseded
            }
            // It would be refused over and over.
            Err(Error::Failed(why)) if matches!(settlement, Settlement::Done { .. }) => {
                let effects = match settlement {
                    Settlement::Done { effects, .. } => Box::new(effects),
                    _ => Box::default(),
                };
                Finished::Full { delivery, effects, excess: Excess::Commit { why } }
            }
            Err(error) => {
                tracing::warn!(consumer = %self.name, %event, %error, "the end of a delivery was not written, or it is not known; it is delivered again unless it was");
                if let Some(ground) = ground {
                    self.doubt(ground);
                }
                tokio::time::sleep(AGAIN).await;
                // Whoever gets it next reads the place first.
                let left = self.desk.lock().leave(&running.lane);
                self.acknowledge_none(left);
                self.ring();
                Finished::Superseded
            }
        }
    }

    /// The settlement is durable: the lane goes on, or leaves memory.
    async fn written(&self, running: &Running, settlement: &Settlement, place: Place) {
        if matches!(settlement, Settlement::Done { .. }) {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        let due = match settlement {
            Settlement::Retry { at, .. } => Some(*at),
            _ => None,
        };
        let ended = self.desk.lock().ended(running, place);
        match ended {
            Ended::Next(messages) | Ended::Left(messages) => self.acknowledge(messages),
            Ended::Look(messages) => {
                self.acknowledge(messages);
                let _sorting = self.sorting.lock().await;
                if let Err(error) = self.go_on(&running.lane).await {
                    tracing::warn!(consumer = %self.name, lane = %running.lane, %error, "a lane cannot be looked at; another look is due");
                    let left = self.desk.lock().leave(&running.lane);
                    self.acknowledge(left);
                }
            }
        }
        if let Some(at) = due {
            self.ring_at(at);
        }
        self.step_aside();
        self.ring();
    }
}

/// Without what the backfill that the delivery comes from does not commit, and how much that is.
fn confine(settlement: Settlement, state_only: bool) -> (Settlement, u64) {
    match settlement {
        Settlement::Done { effects, ran } if state_only => {
            let Effects { entries, adjustments, records, order_changes, events, messages } = effects;
            let dropped = order_changes.len() + events.len() + messages.len();
            let effects = Effects { entries, adjustments, records, ..Effects::default() };
            (Settlement::Done { effects, ran }, u64::try_from(dropped).unwrap_or(u64::MAX))
        }
        other => (other, 0),
    }
}

#[async_trait]
impl Inbox for AwsInbox {
    fn configure(&self, intake: InboxPolicy) {
        let (skips, passed) = {
            let mut desk = self.desk.lock();
            let skips = intake.on_dead == OnDead::Skip && desk.on_dead() == OnDead::Park;
            (skips, desk.configure(intake))
        };
        self.note_heard();
        self.acknowledge(passed);
        self.step_aside();
        if let Some(inbox) = self.store.inbox(&self.name).filter(|_| skips) {
            self.store.tasks.spawn(self.store.in_flight.track_future(inbox.leave_dead_behind()));
        }
        self.ring();
    }

    fn lease(&self) -> Option<Delivery> {
        if self.resting.load(Ordering::Relaxed) {
            return None;
        }
        let now = Timestamp::now();
        let first = self.takes_turn().then(|| self.lease_again(now)).flatten();
        first.or_else(|| self.lease_live(now)).or_else(|| self.lease_again(now))
    }

    async fn changed(&self) {
        let wait = self.desk.lock().paced_until(Timestamp::now());
        match wait {
            Some(wait) => drop(timeout(wait, self.changed.notified()).await),
            None => self.changed.notified().await,
        }
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(AwsView::new(&self.store, &self.name, self.generation()))
    }

    fn view_for(&self, delivery: &Delivery) -> Arc<dyn View> {
        match delivery.is_of_rebuild() {
            true => Arc::new(self.view_again(delivery)),
            false => Arc::new(AwsView::of(&self.store, &self.name, delivery)),
        }
    }

    async fn finish(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        self.settle_in_turn(delivery, reads, settlement).await
    }

    async fn holds(&self, reads: &Reads) -> Result<bool> {
        AwsView::new(&self.store, &self.name, self.generation()).holds(reads).await
    }
}
