//! One consumer's deliveries: the desk where they are leased and handed back.

mod ahead;
mod desk;
mod fill;
mod history;
mod rebuild;
mod room;
mod settle;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Notify;

use self::ahead::Counts;
pub use self::desk::Desk;
use super::cache::Cache;
use super::commit::{Commit, ConsumerCommit, ConsumerNumber, StateNumber};
use super::dead_letters::{as_edited, edited_copy};
use super::lanes::Item;
use super::queue::{DEPTH_OF_DELIVERIES_MAX, Job};
use super::readers::Disk;
use super::{Store, backup, failed, pause, rows};
use crate::backend::{
    AttemptBy, Delivery, Error, Finished, Generation, Inbox, InboxPolicy, Lease, Origin, Result, Settlement, View,
};
use crate::effects::Reads;
use crate::event::{Event, Lane, Position, Subscriptions};
use crate::order::{Order, OrderId};
use crate::policy::ConsumerName;

/// Events read at once.
const CHUNK: usize = 256;
/// Chunks looked at in one lease, so that a consumer far behind does not hold its desk for long.
const CHUNKS_MAX: usize = 8;
/// Deliveries in memory that hold the consumer's position back.
const WINDOW: usize = 4_096;
/// Positions passed by without a delivery before that is written down on its own.
const PASSED_MAX: u64 = 1_024;

pub struct EmbeddedInbox {
    pub name: ConsumerName,
    pub number: ConsumerNumber,
    store: Arc<Store>,
    desk: Mutex<Desk>,
    /// Held by whoever reads on in the journal, without the desk: others lease meanwhile what is there.
    reading: Mutex<()>,
    /// The desk has a rebuild; a hint, so that nobody else pays for one.
    rebuilds: AtomicBool,
    cache: Arc<Mutex<Cache>>,
    /// As the desk has it; for views.
    epoch: Arc<AtomicU64>,
    view: Arc<dyn View>,
    bell: Notify,
}

impl EmbeddedInbox {
    pub fn open(
        store: Arc<Store>,
        name: ConsumerName,
        number: ConsumerNumber,
        disk: &Connection,
    ) -> rusqlite::Result<Self> {
        let cache = Arc::new(Mutex::new(Cache::new(state_of(disk, number)?)));
        let epoch = Arc::default();
        let view =
            Arc::new(StateView { store: Arc::clone(&store), cache: Arc::clone(&cache), epoch: Arc::clone(&epoch) });
        let (desk, reading, rebuilds) = (Mutex::default(), Mutex::new(()), AtomicBool::new(false));
        let inbox = Self { name, number, store, desk, reading, rebuilds, cache, epoch, view, bell: Notify::new() };
        inbox.reload(disk)?;
        Ok(inbox)
    }

    /// Goes back to what is durable. Deliveries leased before count for nothing.
    pub fn reload(&self, disk: &Connection) -> rusqlite::Result<()> {
        let mut cache = self.cache.lock();
        *cache = Cache::new(state_of(disk, self.number)?);
        cache.reload(disk)?;
        let mut desk = self.desk.lock();
        let reloaded = desk.reload(disk, self.number);
        self.epoch.store(desk.epoch, Ordering::Release);
        reloaded?;
        desk.generation = cache.state();
        self.rebuilds.store(desk.rebuild.is_some(), Ordering::Release);
        Ok(())
    }

    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Follows what is durable of a pause. Of two that change it at once, the one that looks last sees what both left.
    pub fn look_at_pause(&self) -> Result<()> {
        let mut desk = self.desk.lock();
        let disk = self.store.readers.disk();
        let paused = disk.connection().and_then(|disk| pause::is_paused(disk, self.number));
        desk.paused = paused.map_err(|error| failed(&error))?;
        drop(desk);
        self.ring();
        Ok(())
    }

    /// Writes down what was passed by.
    pub fn flush(&self) {
        let mut desk = self.desk.lock();
        self.write_passed(&mut desk);
    }

    /// What is delivered; `None` where nothing was configured yet.
    pub fn subscriptions(&self) -> Option<Subscriptions> {
        self.desk.lock().subscriptions().cloned()
    }

    /// Deliveries that are not durably done, as far as they are known here; and where there are events behind the last
    /// one looked at, its position and what was counted until then.
    fn pending(&self) -> (u64, Option<(u64, Counts)>) {
        if let Err(error) = self.refill() {
            tracing::debug!(%error, "the journal cannot be read now");
        }
        let mut desk = self.desk.lock();
        let pending = desk.pending(self.store.queue.durable());
        let counts = desk.count(|_| {});
        (pending, (desk.cursor < self.store.tail.head()).then_some((desk.cursor, counts)))
    }

    /// Changes the lanes of dead letters; see [`settle`].
    pub fn with_desk<T>(&self, change: impl FnOnce(&mut Desk) -> T) -> T {
        let changed = change(&mut self.desk.lock());
        self.ring();
        changed
    }

    /// Looks at events behind the cursor until there is enough to do, unless somebody does so already.
    fn refill(&self) -> rusqlite::Result<()> {
        let Some(_reading) = self.reading.try_lock() else { return Ok(()) };
        let mut offered = false;
        for _ in 0..CHUNKS_MAX {
            let Some((epoch, cursor)) = self.wanting() else { break };
            let events = self.store.tail.read(&self.store.readers, cursor, CHUNK)?;
            if events.is_empty() {
                break;
            }
            let mut desk = self.desk.lock();
            // What it was read for may have changed meanwhile.
            if desk.epoch != epoch || !desk.is_open() {
                break;
            }
            offered = true;
            for event in events {
                let behind = self.behind(&mut desk, &event)?;
                desk.offer(event, behind);
            }
        }
        // Others found nothing meanwhile and went away, and there may be more.
        if offered {
            self.ring();
        }
        Ok(())
    }

    /// For which epoch of the desk, and behind which position, to read on; `None` where there is enough to do.
    fn wanting(&self) -> Option<(u64, u64)> {
        let desk = self.desk.lock();
        let wants = desk.is_open() && desk.lanes.unstored() < WINDOW && desk.cursor < self.store.tail.head();
        wants.then_some((desk.epoch, desk.cursor))
    }

    /// Commits, on its own, that positions were passed by and that deliveries wait.
    fn write_passed(&self, desk: &mut Desk) {
        let mut consumer = ConsumerCommit::new(self.number, desk.generation, 0);
        desk.take_passed(&mut consumer);
        if consumer.through.is_empty() && consumer.exceptions.is_empty() && consumer.backfills.is_empty() {
            return;
        }
        let commit = Box::new(Commit { consumer: Some(consumer), events: Vec::new() });
        // A store that refuses goes back to what is durable, and looks at these events again.
        if self.store.queue.push(Job::Commit(commit)).is_err() {
            tracing::debug!("the store refuses; the events are looked at again");
        }
    }

    fn event_at(&self, position: u64) -> rusqlite::Result<Option<Arc<Event>>> {
        let found = self.store.tail.read(&self.store.readers, position.saturating_sub(1), 1)?;
        Ok(found.into_iter().next().filter(|event| event.position.get() == position))
    }

    fn edited(&self, event: &Event) -> rusqlite::Result<Option<Arc<Event>>> {
        let copy = edited_copy(self.store.readers.disk().connection()?, self.number, event.position.get())?;
        copy.map(|copy| as_edited(event, copy)).transpose()
    }

    fn try_lease(&self) -> rusqlite::Result<Option<Delivery>> {
        if self.store.queue.depth() >= DEPTH_OF_DELIVERIES_MAX || self.store.queue.refusing().is_some() {
            return Ok(None);
        }
        let mut desk = self.desk.lock();
        let now = desk.now();
        if !desk.may_start(now) || !desk.has_room(self.store.queue.durable()) {
            return Ok(None);
        }
        if desk.lanes.unstored() < WINDOW / 2 && desk.cursor < self.store.tail.head() {
            drop(desk);
            self.refill()?;
            desk = self.desk.lock();
            if !desk.may_start(now) {
                return Ok(None);
            }
        }
        if desk.fills() {
            self.refill_history(&mut desk, now)?;
        }
        let Some(item) = desk.lanes.lease(now) else {
            if desk.passed() >= PASSED_MAX {
                self.write_passed(&mut desk);
            }
            return Ok(None);
        };
        let event = match item.event.clone() {
            Some(event) => event,
            None => match self.event_at(item.position) {
                Ok(Some(event)) => event,
                outcome => {
                    desk.lanes.release(item.position);
                    outcome?;
                    tracing::error!(position = item.position, "an event of the journal is missing; its lane waits");
                    return Ok(None);
                }
            },
        };
        // Only what a person retried can have been edited.
        let copy = if item.replayed && desk.edited.contains(&item.position) { self.edited(&event) } else { Ok(None) };
        let copy = copy.inspect_err(|_| desk.lanes.release(item.position))?;
        let edited = copy.is_some();
        desk.started(now);
        Ok(Some(Delivery {
            event: copy.unwrap_or(event),
            attempt: item.attempts + 1,
            origin: origin(&item),
            first_attempt_at: item.first_attempt_at.unwrap_or(now),
            generation: Generation { state: desk.generation, epoch: desk.epoch },
            by: AttemptBy::Live,
            lease: Lease { epoch: desk.epoch, stored: item.stored, edited, backfill: item.backfill, rebuild: None },
        }))
    }
}

#[async_trait]
impl Inbox for EmbeddedInbox {
    fn configure(&self, policy: InboxPolicy) {
        self.desk.lock().configure(policy);
        self.ring();
    }

    fn lease(&self) -> Option<Delivery> {
        let leased = if self.rebuilds.load(Ordering::Acquire) { self.lease_beside_rebuild() } else { self.try_lease() };
        leased.unwrap_or_else(|error| {
            tracing::error!(%error, "the journal cannot be read; trying again");
            None
        })
    }

    async fn changed(&self) {
        /// A look without a reason, in case a wake-up was lost.
        const LOOK_EVERY: Duration = Duration::from_millis(500);
        let (now, due) = {
            let mut desk = self.desk.lock();
            let now = desk.now();
            (now, desk.next_due(now))
        };
        let wait = due.map_or(LOOK_EVERY, |due| due.since(now).min(LOOK_EVERY));
        tokio::select! {
            () = self.bell.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::clone(&self.view)
    }

    fn view_for(&self, delivery: &Delivery) -> Arc<dyn View> {
        if delivery.lease.rebuild.is_some() { self.view_of(delivery) } else { self.view() }
    }

    async fn finish(&self, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        settle::finish(self, delivery, reads, settlement)
    }

    async fn holds(&self, reads: &Reads) -> Result<bool> {
        settle::holds(self, reads).map_err(|error| failed(&error))
    }
}

struct StateView {
    store: Arc<Store>,
    cache: Arc<Mutex<Cache>>,
    epoch: Arc<AtomicU64>,
}

impl StateView {
    fn with<T>(&self, read: impl FnOnce(&mut Cache, &Disk<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut cache = self.cache.lock();
        read(&mut cache, &self.store.readers.disk()).map_err(|error| failed(&error))
    }
}

#[async_trait]
impl View for StateView {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>> {
        self.with(|cache, disk| cache.entry(disk, key))
    }

    async fn count(&self, key: &str) -> Result<i64> {
        self.with(|cache, disk| cache.counter(disk, key))
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        let durable = self.store.queue.durable();
        self.with(|cache, disk| cache.scan(disk, prefix, after, limit, durable))
    }

    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>> {
        let durable = self.store.queue.durable();
        self.with(|cache, disk| cache.scan_counts(disk, prefix, after, limit, durable))
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        let mut orders = self.store.orders.lock();
        let found = orders.get(&self.store.readers.disk(), id).map_err(|error| failed(&error))?;
        Ok(found.map(|(_, order)| order))
    }

    async fn durable(&self, lease: Lease) -> Result<()> {
        // What was answered stood in the queue before this, or was on disk; what was undone before this began another epoch.
        backup::tick(&self.store).await?;
        if self.epoch.load(Ordering::Acquire) == lease.epoch {
            return Ok(());
        }
        Err(Error::Unavailable("what the event was handled on has been undone".into()))
    }
}

fn state_of(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<StateNumber> {
    let state = disk
        .prepare_cached("SELECT state FROM consumers WHERE number = ?1")?
        .query_row([consumer], |row| row.get(0))
        .optional()?;
    // Of one that was forgotten meanwhile, nothing is committed any more.
    Ok(state.unwrap_or_default())
}

fn origin(item: &Item) -> Origin {
    match item {
        Item { replayed: true, .. } => Origin::Replay,
        Item { backfill: Some(_), .. } => Origin::Backfill,
        _ => Origin::Live,
    }
}

fn lane_of(event: &Event) -> (Lane, String) {
    let lane = event.lane();
    let text = rows::lane_text(&lane);
    (lane, text)
}

fn position_of(delivery: &Delivery) -> u64 {
    Position::get(delivery.event.position)
}
