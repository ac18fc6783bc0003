//! A host that AWS Lambda invokes: what it does within one invocation.
//!
//! ```text
//! wake ──► an answer of the API │ messages that are handed in │ what others left ──► rest
//! ```
//!
//! The process may stand still as soon as an invocation is answered, for hours or for good. So before the answer, all that was
//! written is published, or its slot is left to whoever follows dead hosts (`hosts`), and nothing is in memory that counts.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::hosts::{self, BEAT_EVERY, Followed, Watch};
pub use super::inbox::{Message, Until};
use super::store::Store;
use super::{outgoing, seat, settle, upkeep, versions};
use crate::backend::Result;
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// Between two counts of what was done: of what is done in between, a host that never wakes again does not tell.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// A message that is due later is left to the next invocation.
const SOON: Duration = Duration::from_secs(10);
/// Between two looks for messages to be sent.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub struct Invoked {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    /// Names this process where it takes something up.
    owner: String,
    watch: tokio::sync::Mutex<Watch>,
    counted_at: Mutex<Timestamp>,
    /// Up to where orders without events were looked at.
    orders_after: tokio::sync::Mutex<u64>,
}

impl Invoked {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let owner = uuid::Uuid::now_v7().to_string();
        let (watch, counted_at, orders_after) = Default::default();
        Self { shared: Arc::new(Shared { store, owner, watch, counted_at, orders_after }) }
    }

    /// Waits for what is written about consumers that were taken up: the process may stand still as soon as it asks for an event.
    pub async fn ready(&self) {
        self.shared.store.in_flight.wait().await;
    }

    /// The process runs again: what others decided meanwhile counts from here on.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn wake(&self) -> Result<()> {
        let store = &self.shared.store;
        store.table.hurry(false);
        seat::wake(store).await;
        if !store.inboxes().is_empty() {
            tokio::try_join!(store.learn(), store.hear_others())?;
        }
        for inbox in store.inboxes() {
            inbox.look_at_gate().await?;
        }
        Ok(())
    }

    /// Waits for what is being written, and publishes what was, until `by`. The process may stand still afterwards, and no
    /// request is on its way then: none must arrive hours later, and Lambda ends who waits for too long.
    pub async fn rest(&self, by: Instant) {
        let store = &self.shared.store;
        store.table.hurry(true);
        store.in_flight.wait().await;
        store.publisher.abandon_rest();
        outgoing::give_back(store).await;
        let count = {
            let (mut at, now) = (self.shared.counted_at.lock(), Timestamp::now());
            let due = now.since(*at) >= COUNT_EVERY;
            if due {
                *at = now;
            }
            due
        };
        tokio::join!(seat::leave(store, by), async {
            if count {
                store.count_done().await;
            }
        });
    }

    /// The queue whose messages are for this consumer; `None` for one that is not here.
    #[must_use]
    pub fn queue_arn(&self, name: &ConsumerName) -> Option<String> {
        self.shared.store.inbox(name).map(|inbox| inbox.queue.arn.clone())
    }

    /// Whether a person has stopped the consumer.
    #[must_use]
    pub fn is_paused(&self, name: &ConsumerName) -> bool {
        self.shared.store.inbox(name).is_some_and(|inbox| inbox.known().paused.is_some())
    }

    /// Handles these messages of the consumer's queue, and says of each, in their order, whether it may be deleted. Where one
    /// of a group may not, none behind it in that group may.
    pub async fn hand_in(&self, name: &ConsumerName, messages: &[Message], until: Until) -> Vec<bool> {
        match self.shared.store.inbox(name) {
            Some(inbox) => inbox.hand_in(messages, until).await,
            None => vec![false; messages.len()],
        }
    }

    /// Does what nobody does while functions stand still: publishes what dead ones left, ends their large commits, delivers what
    /// is due and what queues have not told of, goes on with backfills and rebuilds, and lets go of what is old. Returns when
    /// nothing of it is left, or the time is over. Whoever sends messages has to send meanwhile, and say so.
    pub async fn make_up(&self, until: Until, sends: bool) {
        let Shared { store, owner, orders_after, .. } = &*self.shared;
        let inboxes = store.inboxes();
        let mut orders_after = orders_after.lock().await;
        let large = async {
            if let Err(error) = settle::intent::sweep_once(store).await {
                tracing::warn!(%error, "large commits that were left behind cannot be seen to");
            }
        };
        let left = async { tokio::join!(self.follow_hosts(until), large, versions::sweep_files(Arc::clone(store))) };
        let (left, ..) = tokio::join!(
            timeout_at(until.end, left),
            join_all(inboxes.iter().map(|inbox| inbox.make_up(owner, until))),
            upkeep::round(store, owner, &mut orders_after, sleep_until(until.begin)),
        );
        if left.is_err() {
            tracing::info!("not everything that others left is made good yet; the next invocation goes on");
        }
        if sends {
            self.messages_sent(until).await;
        }
    }

    /// Looks at other hosts until it is known of each whether it lives, and publishes what dead ones left. Who comes meanwhile,
    /// such as another function for a moment, is left to the next invocation.
    async fn follow_hosts(&self, until: Until) {
        let Shared { store, owner, watch, .. } = &*self.shared;
        let mut watch = watch.lock().await;
        let mut unknown: Option<HashSet<String>> = None;
        while Instant::now() < until.begin {
            match hosts::follow(store, owner, &mut watch).await {
                Ok(Followed { dead, unknown: now }) => {
                    join_all(dead.into_iter().map(|one| one.bury(store))).await;
                    let of_first = unknown.get_or_insert_with(|| now.clone());
                    of_first.retain(|owner| now.contains(owner));
                    if of_first.is_empty() {
                        return;
                    }
                }
                Err(error) => {
                    watch.forget();
                    tracing::warn!(%error, "the other hosts cannot be watched");
                }
            }
            sleep(BEAT_EVERY).await;
        }
    }

    /// Waits until the sender has nothing to do, and no message is to be sent soon.
    async fn messages_sent(&self, until: Until) {
        let store = &self.shared.store;
        while Instant::now() < until.begin {
            if !store.outgoing.is_idle() {
                sleep(LOOK_EVERY).await;
                continue;
            }
            match outgoing::next(store).await {
                Ok(Some(at)) if at.since(Timestamp::now()) < SOON => sleep(LOOK_EVERY).await,
                // It may have taken some up meanwhile.
                Ok(_) if store.outgoing.is_idle() => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "it is not known whether messages wait");
                    return;
                }
            }
        }
    }
}
