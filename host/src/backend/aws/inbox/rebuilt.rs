//! The delivery of a rebuild: one at a time, beside the live ones, and on the generation that is filled.
//!
//! Whoever goes through a rebuild (`backfills::rebuild`) offers an event, a worker leases it, and its end goes with others into one
//! transaction ([`Batches`]) with what the rebuild says of itself: how far it is, or that it has come back to what it had put off.

mod batch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

pub use self::batch::{BatchView, Batches};
use super::{AGAIN, AwsInbox, AwsView};
use crate::backend::aws::backfills::news;
use crate::backend::aws::item::{Key, json, number, text};
use crate::backend::aws::lane::Logged;
use crate::backend::aws::place::Place;
use crate::backend::aws::settle::Settled;
use crate::backend::aws::table::{Change, Transaction};
use crate::backend::aws::weight::Weight;
use crate::backend::{
    AttemptBy, BackfillFailure, BackfillState, Cause, Delivery, Error, Excess, Finished, Generation, Lease, Origin,
    Result, Settlement,
};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::{Event, Subscriptions};
use crate::version::Hash;

/// One lease in so many is the rebuild's, if it has one to make: it runs behind live events, and comes to its end.
const TURN_EVERY: u8 = 4;
/// What tells its leases from those of live deliveries.
const TICKET: u64 = 1 << 63;

/// An event that a rebuild handles.
#[derive(Clone, Debug)]
pub struct Again {
    pub rebuild: i64,
    /// What it fills.
    pub generation: i64,
    /// Beside which number stands what it put off.
    pub put_off: i64,
    pub logged: Logged,
    /// As the consumer had it, where a person edited it.
    pub edited: Option<Arc<Event>>,
    pub progress: Progress,
    /// Who goes through the rebuild, as its item says.
    pub owner: String,
    /// It was not counted when the rebuild began.
    pub is_more: bool,
    /// Something had failed before.
    pub has_failed: bool,
    /// It is this one, and is tried again.
    pub tried: Option<Tried>,
}

/// How often an event failed, as the rebuild's item keeps it for whoever tries it again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tried {
    pub position: u64,
    attempts: u32,
    first_ms: u64,
    due_ms: u64,
}

/// What its end says of the rebuild.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// The cursor moves on to it, from there.
    From(u64),
    /// It was put off, and is no longer.
    PutOff,
}

/// What became of an event that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open {
        leased: bool,
        /// Attempts that have ended.
        attempts: u32,
        /// When the next one may begin.
        due: Timestamp,
    },
    /// It is to be written, or is.
    Done,
    /// It fails, or somebody else goes on, or nobody knows: the table does.
    Lost,
}

pub struct Offered {
    again: Again,
    attempts: u32,
    first_attempt_at: Option<Timestamp>,
    due: Timestamp,
    ticket: Option<u64>,
    fate: Option<Fate>,
}

impl Again {
    /// What a write of whoever goes through the rebuild is made under.
    fn change(&self, set: &str, from: Option<u64>) -> Change {
        let mut condition = "own = :owner AND sta IN (:running, :paused)".to_owned();
        let mut change = Change::of(set)
            .value(":owner", text(&self.owner))
            .value(":running", text(BackfillState::Running.as_str()))
            .value(":paused", text(BackfillState::Paused.as_str()));
        if let Some(from) = from {
            condition += " AND cur = :from";
            change = change.value(":from", number(from));
        }
        change.only_if(condition)
    }
}

impl AwsInbox {
    /// Whether the version is here that a way back leads to.
    pub fn goes_back_to(&self, version: &Hash) -> bool {
        self.desk.lock().back().is_some_and(|back| back.version == *version)
    }

    /// What the version listens to that handles what is offered; `None` where that is not here.
    pub fn heard_again(&self) -> Option<Subscriptions> {
        match self.fills().running().and_then(|fill| fill.back.as_ref()) {
            None => Some(self.subscriptions()),
            Some(to) => {
                let desk = self.desk.lock();
                let back = desk.back().filter(|back| back.version == to.way.to)?;
                Some(back.subscriptions.clone())
            }
        }
    }

    /// Offers an event to be handled. Nothing else is offered.
    pub fn offer(&self, again: Again) {
        let (attempts, due) = again.tried.map(|tried| (tried.attempts, tried.due_ms)).unwrap_or_default();
        let first_attempt_at = again.tried.map(|tried| Timestamp::from_millis(tried.first_ms));
        let due = Timestamp::from_millis(due);
        let offered = Offered { again, attempts, first_attempt_at, due, ticket: None, fate: None };
        *self.offered.lock() = Some(offered);
        self.ring();
    }

    /// What became of what was offered; `None` where nothing is.
    pub fn fate(&self) -> Option<Fate> {
        let offered = self.offered.lock();
        let of = |offered: &Offered| {
            let leased = offered.ticket.is_some();
            offered.fate.unwrap_or(Fate::Open { leased, attempts: offered.attempts, due: offered.due })
        };
        offered.as_ref().map(of)
    }

    /// Takes back what was offered, unless it runs, and says whether nothing is offered.
    pub fn withdraw(&self) -> bool {
        let mut offered = self.offered.lock();
        offered.take_if(|offered| offered.ticket.is_none() || offered.fate.is_some());
        offered.is_none()
    }

    /// Returns when something became of what was offered.
    pub async fn handled_again(&self) {
        self.handled.notified().await;
    }

    pub fn weight_of_rebuild(&self, delivery: &Delivery) -> Option<Arc<Weight>> {
        delivery.lease.rebuild.map(|rebuild| self.batches.weight_of(rebuild))
    }

    /// Whether the next lease is the rebuild's, if it has one to make.
    pub(super) fn takes_turn(&self) -> bool {
        let waits = self.offered.lock().as_ref().is_some_and(|offered| offered.ticket.is_none());
        waits && self.again_turn.fetch_add(1, Ordering::Relaxed) % TURN_EVERY == TURN_EVERY - 1
    }

    /// The event that is offered, if it may be handled now.
    pub(super) fn lease_again(&self, now: Timestamp) -> Option<Delivery> {
        let mut offered = self.offered.lock();
        let offered = offered.as_mut().filter(|it| it.ticket.is_none() && it.fate.is_none() && it.due <= now)?;
        let rebuild = offered.again.rebuild;
        let fills = self.fills();
        let fill = fills.running().filter(|fill| fill.number == rebuild)?;
        let by = match &fill.back {
            Some(back) if !self.goes_back_to(&back.way.to) => return None,
            Some(_) => AttemptBy::Returning,
            None => AttemptBy::Live,
        };
        if !self.desk.lock().begin_again(now) {
            return None;
        }
        let ticket = TICKET | self.tickets_again.fetch_add(1, Ordering::Relaxed);
        offered.ticket = Some(ticket);
        let (edited, event) = (offered.again.edited.clone(), &offered.again.logged.event);
        let (stored, backfill) = (false, None);
        let lease = Lease { epoch: ticket, stored, edited: edited.is_some(), backfill, rebuild: Some(rebuild) };
        Some(Delivery {
            event: edited.unwrap_or_else(|| Arc::clone(event)),
            attempt: offered.attempts + 1,
            origin: Origin::Backfill,
            first_attempt_at: *offered.first_attempt_at.get_or_insert(now),
            generation: Generation { state: offered.again.generation, epoch: 0 },
            by,
            lease,
        })
    }

    /// What the delivery of a rebuild sees.
    pub(super) fn view_again(&self, delivery: &Delivery) -> BatchView {
        let owner = self.leased_again(delivery.lease.epoch).map(|again| again.owner);
        let table = AwsView::new(&self.store, &self.name, delivery.generation.state);
        BatchView { batches: Arc::clone(&self.batches), table, owner }
    }

    fn leased_again(&self, ticket: u64) -> Option<Again> {
        let offered = self.offered.lock();
        offered.as_ref().filter(|offered| offered.ticket == Some(ticket)).map(|offered| offered.again.clone())
    }

    /// What was leased runs no more.
    fn end_again(&self, ticket: u64, end: impl FnOnce(&mut Offered)) {
        let mut offered = self.offered.lock();
        if let Some(offered) = offered.as_mut().filter(|offered| offered.ticket == Some(ticket)) {
            offered.ticket = None;
            end(offered);
            self.desk.lock().end_again();
        }
        drop(offered);
        self.handled.notify_one();
        self.ring();
    }

    /// Forgets what a rebuild offered that has ended. What runs ends for nothing.
    pub(super) fn forget_offered(&self, rebuild: Option<i64>) {
        let mut offered = self.offered.lock();
        if offered.take_if(|offered| Some(offered.again.rebuild) != rebuild).is_some_and(|it| it.ticket.is_some()) {
            self.desk.lock().end_again();
        }
    }

    /// Settles the delivery of a rebuild; what it says is what the caller is told.
    pub(super) async fn settle_again(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        let (event, ticket) = (delivery.event.id, delivery.lease.epoch);
        let Some(again) = self.leased_again(ticket) else { return Finished::Superseded };
        let again = Again { has_failed: again.has_failed || delivery.attempt > 1, ..again };
        let (settlement, dropped) = state_alone(settlement);
        let settled = match &settlement {
            Settlement::Released => {
                self.end_again(ticket, |_| {});
                return Finished::Accepted;
            }
            Settlement::Done { effects, .. } => self.batches.stage(&again, reads, effects, dropped).await,
            Settlement::Retry { at, cause, .. } => {
                let tried = Tried {
                    position: delivery.event.position.get(),
                    attempts: delivery.attempt,
                    first_ms: delivery.first_attempt_at.as_millis(),
                    due_ms: at.as_millis(),
                };
                self.fail_again(&again, failure(&delivery, cause), Some(tried)).await
            }
            Settlement::Dead { cause, .. } => {
                tracing::warn!(
                    consumer = %self.name, %event, cause = cause.detail,
                    "the rebuild is paused, because this event fails; resume it, or cancel it"
                );
                self.fail_again(&again, failure(&delivery, cause), None).await
            }
        };
        match (settled, settlement) {
            (Ok(Settled::Written(_)), Settlement::Retry { at, .. }) => {
                self.end_again(ticket, |offered| (offered.attempts, offered.due) = (offered.attempts + 1, at));
                Finished::Accepted
            }
            (Ok(Settled::Written(_)), Settlement::Dead { .. }) => {
                self.end_again(ticket, |offered| offered.fate = Some(Fate::Lost));
                if let Err(error) = self.refresh_fills().await {
                    tracing::debug!(consumer = %self.name, %error, "that the rebuild is paused is learned later");
                }
                Finished::Accepted
            }
            (Ok(Settled::Written(_)), _) => {
                self.end_again(ticket, |offered| offered.fate = Some(Fate::Done));
                Finished::Accepted
            }
            (Ok(Settled::Conflict), _) => Finished::Conflict(delivery),
            (Ok(Settled::Elsewhere | Settled::Shut), _) => {
                tracing::debug!(consumer = %self.name, %event, "the rebuild has ended, or another host goes through it");
                self.end_again(ticket, |offered| offered.fate = Some(Fate::Lost));
                Finished::Superseded
            }
            (Err(Error::Failed(why)), Settlement::Done { effects, .. }) => {
                Finished::Full { delivery, effects: Box::new(effects), excess: Excess::Commit { why } }
            }
            (Err(error), _) => {
                tracing::warn!(consumer = %self.name, %event, %error, "what a rebuild handled was not written, or it is not known; it is handled again unless it was");
                tokio::time::sleep(AGAIN).await;
                self.end_again(ticket, |offered| offered.fate = Some(Fate::Lost));
                Finished::Superseded
            }
        }
    }

    /// Writes down what could not be done, and when it is `tried` again; where it is not, the rebuild stops, and whoever resumes
    /// it begins anew.
    async fn fail_again(&self, again: &Again, failure: BackfillFailure, tried: Option<Tried>) -> Result<Settled> {
        let change = match tried {
            Some(tried) => again.change("SET fl = :failure, fla = :tried", None).value(":tried", json(&tried)?),
            None => again.change("SET fl = :failure, sta = :paused REMOVE fla", None),
        };
        let change = change.value(":failure", json(&failure)?);
        let mut transaction = Transaction::default();
        transaction.update((), Key::backfill(&self.name, again.rebuild), change);
        if tried.is_none() {
            let paused = news("REMOVE nr, nru").only_if("bfa = :rebuild").value(":rebuild", number(again.rebuild));
            transaction.update((), Key::consumer(&self.name), paused);
        }
        let written = self.batches.write().await? && self.store.table.transact(transaction).await?.is_ok();
        Ok(if written { Settled::Written(Place::default()) } else { Settled::Elsewhere })
    }
}

/// Without everything but state, and how much that was.
fn state_alone(settlement: Settlement) -> (Settlement, u64) {
    let Settlement::Done { effects, ran } = settlement else { return (settlement, 0) };
    let Effects { entries, adjustments, order_changes, events, messages, records } = effects;
    let dropped = order_changes.len() + events.len() + messages.len() + records.len();
    let effects = Effects { entries, adjustments, ..Effects::default() };
    (Settlement::Done { effects, ran }, u64::try_from(dropped).unwrap_or(u64::MAX))
}

fn failure(delivery: &Delivery, cause: &Cause) -> BackfillFailure {
    BackfillFailure {
        event_id: delivery.event.id,
        position: delivery.event.position.get(),
        attempt: delivery.attempt,
        outcome: cause.kind,
        cause: cause.detail.clone(),
    }
}
