//! The slot of a host, without which it may write no event.
//!
//! A host that runs all the time takes one when it opens and keeps it. One that AWS Lambda invokes stands still between two
//! events, for as long as nobody knows, and would be taken for dead: it takes a slot when it is about to write the first event
//! of an invocation, and gives it back when all is published. What is not published then is left to others together with the
//! slot, whose beat stands still from then on; so is what a function leaves that is killed.
//!
//! **Invariant**: no event is written without a slot, and a slot is given back only when all that was written is published.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};

use super::hosts::{self, BEAT_EVERY, Slot, Stay};
use super::store::Store;
use crate::backend::{Result, Settlement};
use crate::clock::Timestamp;

pub enum Seat {
    /// For as long as the host runs: `hosts::run` says that it lives.
    Kept(Slot),
    /// As long as it is needed.
    Lent(tokio::sync::Mutex<Option<Lent>>),
}

pub struct Lent {
    slot: Slot,
    beat: u64,
}

impl Seat {
    /// For a host that has none yet, and takes one whenever it needs one.
    pub fn lent() -> Self {
        Self::Lent(tokio::sync::Mutex::new(None))
    }

    /// The slot of a host that runs all the time.
    pub fn kept(&self) -> Option<&Slot> {
        match self {
            Self::Kept(slot) => Some(slot),
            Self::Lent(_) => None,
        }
    }
}

/// Returns when the host has a slot: before events are written.
pub async fn take(store: &Arc<Store>) -> Result<()> {
    let Seat::Lent(lent) = &store.seat else { return Ok(()) };
    let mut lent = lent.lock().await;
    if lent.is_some() {
        return Ok(());
    }
    let slot = hosts::claim(&store.table, Stay::Lent).await?;
    store.positions.move_to(slot.number, slot.drawn);
    store.tasks.spawn(beat(Arc::clone(store), slot.owner.clone()));
    *lent = Some(Lent { slot, beat: 0 });
    Ok(())
}

/// [`take`], where the end of a delivery writes events.
pub async fn take_for(store: &Arc<Store>, settlement: &Settlement) -> Result<()> {
    match settlement {
        Settlement::Done { effects, .. } if !effects.order_changes.is_empty() || !effects.events.is_empty() => {
            take(store).await
        }
        _ => Ok(()),
    }
}

/// Says that the host lives, for as long as it has this slot.
async fn beat(store: Arc<Store>, owner: String) {
    loop {
        tokio::select! {
            () = sleep(BEAT_EVERY) => {}
            () = store.stopping.cancelled() => return,
        }
        let Seat::Lent(lent) = &store.seat else { return };
        let mut lent = lent.lock().await;
        let Some(held) = lent.as_mut().filter(|held| held.slot.owner == owner) else { return };
        match held.say(&store).await {
            Ok(true) => {}
            Ok(false) => {
                lose(&mut lent);
                return;
            }
            Err(error) => tracing::warn!(%error, "this host cannot say that it lives; others may take it for dead"),
        }
    }
}

/// After the process stood still: a slot that it still had is another host's by now, or its own again.
pub async fn wake(store: &Store) {
    let Seat::Lent(lent) = &store.seat else { return };
    let mut lent = lent.lock().await;
    let Some(held) = lent.as_mut() else { return };
    // Where that cannot be known, others come to the same as where it is another's.
    if !held.say(store).await.unwrap_or(false) {
        lose(&mut lent);
    }
}

fn lose(lent: &mut Option<Lent>) {
    if let Some(Lent { slot, .. }) = lent.take() {
        tracing::info!(slot = slot.number, "another host has taken this one's slot, and publishes what it left");
    }
}

/// Publishes what is there, until `by`, and gives the slot back if that was all.
pub async fn leave(store: &Store, by: Instant) {
    let drained = timeout_at(by, store.publisher.drained()).await.is_ok();
    let Seat::Lent(lent) = &store.seat else { return };
    let mut lent = lent.lock().await;
    if !drained || !store.publisher.is_clear() {
        tracing::warn!("not all events are published; another host, or the worker, publishes them soon");
        return;
    }
    let Some(Lent { slot, .. }) = lent.take() else { return };
    let drawn = store.positions.newest(Timestamp::now());
    if let Err(error) = hosts::give_back(&store.table, &slot, drawn).await {
        tracing::warn!(slot = slot.number, %error, "the slot of this host stays taken until another host frees it");
    }
}

impl Lent {
    /// `false` where the slot is somebody else's.
    async fn say(&mut self, store: &Store) -> Result<bool> {
        self.beat += 1;
        hosts::say(store, &self.slot, self.beat).await
    }
}
