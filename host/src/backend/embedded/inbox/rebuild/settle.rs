//! The end of a delivery that a rebuild made: what of it is committed to the generation that is filled.

use std::sync::Arc;

use crate::backend::embedded::cache::Cache;
use crate::backend::embedded::generations::{Rebuilt, Step};
use crate::backend::embedded::inbox::settle::{Decided, Ground};
use crate::backend::embedded::inbox::{EmbeddedInbox, position_of};
use crate::backend::{BackfillFailure, Cause, Delivery, Excess, Finished, Settlement};
use crate::effects::{Effects, Reads};

impl EmbeddedInbox {
    pub fn finish_past(&self, delivery: Delivery, reads: &Reads, mut settlement: Settlement) -> Finished {
        let cache = {
            let mut desk = self.desk.lock();
            let same = desk.epoch == delivery.lease.epoch;
            let rebuild = desk.rebuild.as_mut().filter(|it| same && Some(it.number()) == delivery.lease.rebuild);
            let Some(rebuild) = rebuild else { return Finished::Superseded };
            if rebuild.is_cancelled() {
                rebuild.release(position_of(&delivery));
                return Finished::Superseded;
            }
            if matches!(settlement, Settlement::Released) {
                rebuild.release(position_of(&delivery));
                drop(desk);
                self.ring();
                return Finished::Accepted;
            }
            Arc::clone(&rebuild.cache)
        };
        let dropped = confine(&mut settlement);
        let mut cache = cache.lock();
        let disk = self.store.readers.disk();
        let mut ground = Ground { store: &self.store, disk: &disk, cache: &mut cache, orders: None };
        let outcome = ground.settle(self.number, &delivery, reads, &settlement);
        let Ground { orders: _orders, .. } = ground;
        drop(disk);
        let bytes_max = self.desk.lock().state_bytes_max();
        match outcome {
            Ok(Some(Decided { bytes: Some(bytes), .. })) if bytes > bytes_max && bytes > cache.bytes() => {
                let effects = match settlement {
                    Settlement::Done { effects, .. } => Box::new(effects),
                    _ => Box::default(),
                };
                Finished::Full { delivery, effects, excess: Excess::State { bytes } }
            }
            Ok(Some(decided)) => self.commit_past(&mut cache, delivery, settlement, Decided { dropped, ..decided }),
            Ok(None) => Finished::Conflict(delivery),
            Err(error) => {
                tracing::error!(%error, "the state of the consumer cannot be read; the event is handled again");
                Finished::Conflict(delivery)
            }
        }
    }

    /// Sends the commit off, under the locks of what it was decided on.
    fn commit_past(&self, cache: &mut Cache, delivery: Delivery, settlement: Settlement, decided: Decided) -> Finished {
        let position = position_of(&delivery);
        let mut desk = self.desk.lock();
        let same = desk.epoch == delivery.lease.epoch;
        let rebuild = desk.rebuild.as_mut().filter(|it| same && Some(it.number()) == delivery.lease.rebuild);
        let Some(rebuild) = rebuild else { return Finished::Superseded };
        let (filling, durable) = (rebuild.filling, self.store.queue.durable());
        let pushed = match settlement {
            Settlement::Done { effects, .. } => {
                let (entries, counters) = (effects.entries, decided.counters);
                let bytes = decided.bytes.unwrap_or(cache.bytes());
                let step = Step::Done(Box::new(Rebuilt {
                    position,
                    was_deferred: rebuild.was_deferred(position),
                    recovered: rebuild.is_failing(position),
                    entries: entries.clone(),
                    counters: counters.clone(),
                    bytes: (bytes != cache.bytes()).then_some(bytes),
                    dropped: decided.dropped,
                }));
                self.push_step(filling, step).map(|job| {
                    rebuild.done(position, job);
                    cache.apply(&entries, &counters, bytes, job, durable);
                })
            }
            Settlement::Retry { at, cause, .. } => {
                let step = Step::Failed { failure: failure(&delivery, &cause), stops: false };
                self.push_step(filling, step).map(|_| rebuild.retry(position, at))
            }
            Settlement::Dead { cause, .. } => {
                tracing::warn!(
                    consumer = %self.name, event = %delivery.event.id, cause = cause.detail,
                    "the rebuild is paused, because this event fails; resume it, or cancel it"
                );
                let step = Step::Failed { failure: failure(&delivery, &cause), stops: true };
                self.push_step(filling, step).map(|_| rebuild.fail(position))
            }
            Settlement::Released => Ok(()),
        };
        if pushed.is_err() {
            // It is handled again: where the store goes back to what is durable, the desk does, too.
            rebuild.release(position);
            return Finished::Superseded;
        }
        drop(desk);
        self.ring();
        Finished::Accepted
    }
}

/// Takes away everything but state, and says how much that was.
fn confine(settlement: &mut Settlement) -> u64 {
    let Settlement::Done { effects, .. } = settlement else { return 0 };
    let Effects { entries, adjustments, order_changes, events, messages, records } = std::mem::take(effects);
    let dropped = order_changes.len() + events.len() + messages.len() + records.len();
    *effects = Effects { entries, adjustments, ..Effects::default() };
    u64::try_from(dropped).unwrap_or(u64::MAX)
}

fn failure(delivery: &Delivery, cause: &Cause) -> BackfillFailure {
    BackfillFailure {
        event_id: delivery.event.id,
        position: position_of(delivery),
        attempt: delivery.attempt,
        outcome: cause.kind,
        cause: cause.detail.clone(),
    }
}
