//! The end of a delivery: does what was read still hold, and if so, what is written.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::MutexGuard;

use super::desk::Desk;
use super::{EmbeddedInbox, lane_of, position_of};
use crate::backend::embedded::Store;
use crate::backend::embedded::cache::Cache;
use crate::backend::embedded::commit::{
    Attempt, Causer, Commit, ConsumerCommit, ConsumerNumber, Death, Exception, NewBody, NewEvent, NewMessage,
    OrderNumber, Standing,
};
use crate::backend::embedded::orders::Orders;
use crate::backend::embedded::queue::Job;
use crate::backend::embedded::readers::Disk;
use crate::backend::embedded::runs::Handled;
use crate::backend::embedded::size;
use crate::backend::{AttemptBy, Cause, Delivery, Excess, FailedTry, Finished, Origin, Ran, Settlement, cause};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::EventId;
use crate::fault::{self, Point};
use crate::order::{Order, OrderId};
use crate::policy::OnDead;
use crate::telemetry::meters;

pub fn finish(inbox: &EmbeddedInbox, delivery: Delivery, reads: &Reads, mut settlement: Settlement) -> Finished {
    if delivery.lease.rebuild.is_some() {
        return inbox.finish_past(delivery, reads, settlement);
    }
    let mut cache = inbox.cache.lock();
    let (epoch, bytes_max) = {
        let desk = inbox.desk.lock();
        (desk.epoch, desk.state_bytes_max())
    };
    if epoch != delivery.lease.epoch {
        return Finished::Superseded;
    }
    if matches!(settlement, Settlement::Released) {
        inbox.desk.lock().lanes.release(position_of(&delivery));
        inbox.ring();
        return Finished::Accepted;
    }
    let dropped = confine(&delivery, &mut settlement);
    let disk = inbox.store.readers.disk();
    let mut ground = Ground { store: &inbox.store, disk: &disk, cache: &mut cache, orders: None };
    let outcome = ground.settle(inbox.number, &delivery, reads, &settlement);
    let Ground { orders, .. } = ground;
    drop(disk);
    match outcome {
        // What grows no further is taken, however large it is: a limit that was lowered must let a consumer shrink.
        Ok(Some(Decided { bytes: Some(bytes), .. })) if bytes > bytes_max && bytes > cache.bytes() => {
            let effects = match settlement {
                Settlement::Done { effects, .. } => Box::new(effects),
                _ => Box::default(),
            };
            Finished::Full { delivery, effects, excess: Excess::State { bytes } }
        }
        Ok(Some(decided)) => commit(inbox, &mut cache, orders, delivery, settlement, Decided { dropped, ..decided }),
        Ok(None) => Finished::Conflict(delivery),
        Err(error) => {
            tracing::error!(%error, "the state of the consumer cannot be read; the event is handled again");
            Finished::Conflict(delivery)
        }
    }
}

pub fn holds(inbox: &EmbeddedInbox, reads: &Reads) -> rusqlite::Result<bool> {
    let mut cache = inbox.cache.lock();
    let disk = inbox.store.readers.disk();
    Ground { store: &inbox.store, disk: &disk, cache: &mut cache, orders: None }.holds(reads)
}

/// What a commit is decided on: the latest of everything, durable or not.
pub(super) struct Ground<'s, 'a> {
    pub(super) store: &'s Store,
    pub(super) disk: &'a Disk<'a>,
    pub(super) cache: &'a mut Cache,
    /// All consumers share them: locked by whoever needs one, and then until the commit is on its way.
    pub(super) orders: Option<MutexGuard<'s, Orders>>,
}

/// Effects as values that only need to be written.
#[derive(Default)]
pub(super) struct Decided {
    pub(super) counters: Vec<(Arc<str>, i64)>,
    /// What the consumer's state weighs then, if anything of it is written.
    pub(super) bytes: Option<u64>,
    pub(super) orders: Vec<(OrderNumber, Order)>,
    pub(super) events: Vec<NewEvent>,
    /// Effects that were not to be committed.
    pub(super) dropped: u64,
}

impl Ground<'_, '_> {
    fn order(&mut self, id: OrderId) -> rusqlite::Result<Option<(OrderNumber, Order)>> {
        self.orders.get_or_insert_with(|| self.store.orders.lock()).get(self.disk, id)
    }

    /// `None` where something does not hold any more.
    pub(super) fn settle(
        &mut self,
        consumer: ConsumerNumber,
        delivery: &Delivery,
        reads: &Reads,
        settlement: &Settlement,
    ) -> rusqlite::Result<Option<Decided>> {
        if !self.holds(reads)? {
            return Ok(None);
        }
        match settlement {
            Settlement::Done { effects, .. } => self.decide(consumer, delivery, effects),
            _ => Ok(Some(Decided::default())),
        }
    }

    fn holds(&mut self, reads: &Reads) -> rusqlite::Result<bool> {
        for (key, seen) in &reads.entries {
            if self.cache.entry(self.disk, key)? != *seen {
                return Ok(false);
            }
        }
        for (key, seen) in &reads.counters {
            if self.cache.counter(self.disk, key)? != *seen {
                return Ok(false);
            }
        }
        for (id, seen) in &reads.orders {
            if self.order(*id)?.map(|(_, order)| order.revision) != *seen {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `None` where a floor or an order's status stands against it now.
    fn decide(
        &mut self,
        consumer: ConsumerNumber,
        delivery: &Delivery,
        effects: &Effects,
    ) -> rusqlite::Result<Option<Decided>> {
        let mut decided = Decided::default();
        let mut counters: HashMap<&Arc<str>, usize, RandomState> = HashMap::default();
        let mut more = 0;
        for adjustment in &effects.adjustments {
            let index = match counters.get(&adjustment.key) {
                Some(index) => *index,
                None => {
                    let value = self.cache.counter_if_any(self.disk, &adjustment.key)?;
                    if value.is_none() {
                        more += size::of_counter(&adjustment.key);
                    }
                    decided.counters.push((Arc::clone(&adjustment.key), value.unwrap_or(0)));
                    counters.insert(&adjustment.key, decided.counters.len() - 1);
                    decided.counters.len() - 1
                }
            };
            let Some((_, value)) = decided.counters.get_mut(index) else { return Ok(None) };
            match value.checked_add(adjustment.by) {
                Some(sum) if adjustment.floor.is_none_or(|floor| sum >= floor) => *value = sum,
                _ => {
                    meters::floor_conflict();
                    return Ok(None);
                }
            }
        }
        let now = Timestamp::now();
        let about = delivery.event.order_id();
        let event = |order: Option<OrderId>, body| NewEvent {
            id: EventId::generate(),
            time: now,
            cause: Some(delivery.event.id),
            by: Some(Causer { consumer, astray: about.is_some() && order != about }),
            depth: delivery.event.depth.saturating_add(1),
            body,
        };
        for (id, change) in &effects.order_changes {
            let changed = decided.orders.iter().rev().find(|(_, order)| order.id == *id).cloned();
            let Some((number, order)) = changed.map_or_else(|| self.order(*id), |it| Ok(Some(it)))? else {
                return Ok(None);
            };
            let Ok(order) = order.after(change) else { return Ok(None) };
            let body = NewBody::OrderChanged { number, order: order.clone(), change: change.clone() };
            decided.events.push(event(Some(*id), body));
            decided.orders.push((number, order));
        }
        decided
            .events
            .extend(effects.events.iter().map(|custom| event(custom.order_id, NewBody::Custom(custom.clone()))));
        if !effects.entries.is_empty() || !decided.counters.is_empty() {
            decided.bytes = Some(self.cache.bytes_with(self.disk, &effects.entries, more)?);
        }
        Ok(Some(decided))
    }
}

/// Takes away what the backfill that the delivery comes from does not commit, and says how much that was.
fn confine(delivery: &Delivery, settlement: &mut Settlement) -> u64 {
    let Settlement::Done { effects: Effects { order_changes, events, messages, .. }, .. } = settlement else {
        return 0;
    };
    if !delivery.is_state_only() {
        return 0;
    }
    let dropped = order_changes.len() + events.len() + messages.len();
    order_changes.clear();
    events.clear();
    messages.clear();
    u64::try_from(dropped).unwrap_or(u64::MAX)
}

/// Sends the commit off under the locks of everything it was decided on, and lets later handlings see it.
fn commit(
    inbox: &EmbeddedInbox,
    cache: &mut Cache,
    orders: Option<MutexGuard<'_, Orders>>,
    mut delivery: Delivery,
    settlement: Settlement,
    decided: Decided,
) -> Finished {
    let by = std::mem::take(&mut delivery.by);
    let candidate = matches!(by, AttemptBy::Candidate);
    let live = matches!(by, AttemptBy::Live);
    let position = position_of(&delivery);
    let mut consumer = ConsumerCommit::new(inbox.number, cache.state(), position);
    // First, since it ended first: the timeline is sorted by time.
    if let AttemptBy::LiveAfter(tried) = by {
        let FailedTry { cause, ran } = *tried;
        consumer.tried = Some(attempt(&delivery, Some(cause), ran, true));
    }
    let attempt = |cause, ran| attempt(&delivery, cause, ran, candidate);
    let mut desk = inbox.desk.lock();
    desk.take_passed(&mut consumer);
    let held = desk.lanes.total();
    desk.through(&mut consumer, position, &delivery.lease);
    match settlement {
        Settlement::Done { mut effects, ran } => {
            desk.lanes.done(position);
            consumer.done = 1;
            if let Some(from) = delivery.lease.backfill {
                let backfill = consumer.backfill(from.number);
                (backfill.delivered, backfill.dropped) = (1, decided.dropped);
            }
            if delivery.lease.stored {
                consumer.exceptions.push(Exception::Remove { position });
            }
            // A run is of one version, and tells nothing of calls; beside it, a candidate's deliveries have rows of their own.
            let apart = delivery.attempt > 1 || delivery.origin == Origin::Replay || !ran.calls.is_empty();
            if apart || !live {
                consumer.attempt = Some(attempt(None, ran));
            } else {
                let duration_us = duration_us(&ran);
                consumer.handled =
                    Some(Handled { position, origin: delivery.origin, version: ran.version, duration_us });
            }
            consumer.messages = messages(inbox, &delivery, &mut effects);
            consumer.entries = effects.entries;
            consumer.records = effects.records;
            consumer.counters.clone_from(&decided.counters);
        }
        Settlement::Retry { at, cause, ran } => {
            let behind = desk.lanes.retry(position, at);
            park(&mut desk, &mut consumer, &delivery, Standing::Retrying(at), None, &behind);
            consumer.attempt = Some(attempt(Some(cause), ran));
        }
        Settlement::Dead { cause, ran } => {
            die(&mut desk, &mut consumer, &delivery, &cause);
            consumer.attempt = Some(attempt(Some(cause), ran));
        }
        Settlement::Released => {}
    }
    fault::pass(Point::FinishDecided);
    let (entries, counters) = (consumer.entries.clone(), consumer.counters.clone());
    let bytes = decided.bytes.unwrap_or(cache.bytes());
    consumer.bytes = (bytes != cache.bytes()).then_some(bytes);
    let commit = Box::new(Commit { consumer: Some(consumer), events: decided.events });
    let Ok(job) = inbox.store.queue.push(Job::Commit(commit)) else {
        // The store goes back to what is durable, and this desk with it.
        return Finished::Superseded;
    };
    fault::pass(Point::FinishPushed);
    let durable = inbox.store.queue.durable();
    // One that is tried again, or is dead, is still in its lane.
    if desk.lanes.total() < held {
        desk.finished(job, durable);
    }
    drop(desk);
    if let Some(mut orders) = orders {
        decided.orders.into_iter().for_each(|(number, order)| orders.set(number, order, job, durable));
    }
    cache.apply(&entries, &counters, bytes, job, durable);
    Finished::Accepted
}

fn park(
    desk: &mut Desk,
    consumer: &mut ConsumerCommit,
    delivery: &Delivery,
    standing: Standing,
    death: Option<Box<Death>>,
    to_store: &[u64],
) {
    let (lane, text) = lane_of(&delivery.event);
    let position = position_of(delivery);
    consumer.exceptions.push(Exception::Store {
        position,
        lane: text,
        standing,
        attempts: delivery.attempt,
        first_at: Some(delivery.first_attempt_at),
        replayed: delivery.origin == Origin::Replay,
        death,
        backfill: delivery.lease.backfill.map(|from| from.number),
        behind: None,
    });
    for behind in to_store.iter().copied().filter(|behind| *behind != position) {
        desk.park_behind(consumer, behind, &lane);
    }
}

fn die(desk: &mut Desk, consumer: &mut ConsumerCommit, delivery: &Delivery, cause: &Cause) {
    let position = position_of(delivery);
    let general = cause::in_general(&cause.detail);
    let death = Some(Box::new(Death { event: delivery.event.id, outcome: cause.kind, cause: general }));
    match desk.on_dead() {
        OnDead::Park => {
            let behind = desk.lanes.die(position);
            park(desk, consumer, delivery, Standing::Dead, death, &behind);
        }
        OnDead::Skip => {
            desk.lanes.done(position);
            park(desk, consumer, delivery, Standing::Skipped, death, &[]);
        }
    }
}

fn attempt(delivery: &Delivery, cause: Option<Cause>, ran: Ran, candidate: bool) -> Attempt {
    Attempt {
        position: position_of(delivery),
        attempt: delivery.attempt,
        cause,
        duration_us: duration_us(&ran),
        version: ran.version,
        time: Timestamp::now(),
        origin: delivery.origin,
        edited: delivery.lease.edited,
        calls: ran.calls,
        candidate,
    }
}

fn duration_us(ran: &Ran) -> u64 {
    u64::try_from(ran.duration.as_micros()).unwrap_or(u64::MAX)
}

fn messages(inbox: &EmbeddedInbox, delivery: &Delivery, effects: &mut Effects) -> Vec<NewMessage> {
    let time = Timestamp::now();
    let numbered = std::mem::take(&mut effects.messages).into_iter().enumerate();
    let id = delivery.event.id;
    let name = |index| format!("{id}.{}.{}", index + 1, inbox.name);
    numbered.map(|(index, message)| NewMessage { message_id: name(index), time, message }).collect()
}
