//! The hosts that share a table: who lives, and who publishes what a dead one left.
//!
//! Each host has a slot, which its positions carry, and raises the beat of its item while it lives. A host whose beat stands
//! still for [`DEAD_AFTER`], by the clock of whoever watches, is dead: somebody takes its slot over, publishes what the slot
//! wrote from its watermark on, and frees it. What is published a second time is delivered once.
//!
//! **Invariant**: a host whose slot was taken from it (it slept, or lost the network) closes its store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::clock::{SLOTS, slot_of, time_of};
use super::item::{HOSTS, Item, Key, number, text};
use super::lane::{LOG_SHARDS, log_partition};
use super::store::Store;
use super::table::{Change, Indexed, Span, Table, Transaction};
use crate::backend::{Error, Result};
use crate::clock::Timestamp;

const BEAT_EVERY: Duration = Duration::from_secs(2);
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Before its watermark: what a host wrote under a clock that was set back since.
const MARGIN: Duration = Duration::from_secs(5);
/// Keys of the log read at once.
const SWEEP_BATCH: usize = 500;
/// How long a store that closes waits for what is not published yet. The rest is left to other hosts, or the next start.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// A host's own slot.
#[derive(Clone, Debug)]
pub struct Slot {
    pub number: u64,
    owner: String,
}

impl Slot {
    /// That nobody took it meanwhile.
    pub fn is_own(&self) -> Change {
        Change::default().only_if("own = :owner").value(":owner", text(&self.owner))
    }
}

/// Takes a slot that nobody has.
pub async fn claim(table: &Table) -> Result<Slot> {
    let owner = uuid::Uuid::now_v7().to_string();
    let first = fastrand::u64(..SLOTS);
    for number in (0..SLOTS).map(|step| (first + step) % SLOTS) {
        let mut transaction = Transaction::default();
        transaction.create((), item(number, &owner, 0, super::clock::first_at(Timestamp::now())));
        if table.transact(transaction).await?.is_ok() {
            return Ok(Slot { number, owner });
        }
    }
    let why = format!("{SLOTS} hosts share this table already, or died without being followed; wait, or stop one");
    Err(Error::Unavailable(why.into()))
}

fn item(slot: u64, owner: &str, beat: u64, published: u64) -> Item {
    Item::at(&Key::host(slot)).with("own", text(owner)).with("beat", number(beat)).with("pub", number(published))
}

/// Says that this host lives, and follows those that do not, until the store is closed.
pub async fn run(store: Arc<Store>, slot: Slot) {
    let mut ticks = interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    let mut beat = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = store.stopping.cancelled() => break,
        }
        beat += 1;
        match say(&store, &slot, beat).await {
            Ok(true) => {}
            Ok(false) => return store.fail("another host took this one for dead and follows it"),
            Err(error) => tracing::warn!(%error, "this host cannot say that it lives; others may take it for dead"),
        }
        if let Err(error) = follow(&store, &slot, &mut watch).await {
            tracing::warn!(%error, "the other hosts cannot be watched");
        }
    }
}

/// Publishes what it can and gives the slot back.
pub async fn leave(store: &Store, slot: &Slot) {
    if timeout(DRAIN_MAX, store.publisher.drained()).await.is_err() {
        tracing::warn!("some events are not published yet; another host does it, or this one at its next start");
        return;
    }
    if let Err(error) = free(&store.table, slot).await {
        tracing::warn!(%error, "the slot of this host stays taken until another host frees it");
    }
}

/// Frees a slot, unless another host has it by now: a request that arrives late must not take it from that one.
async fn free(table: &Table, slot: &Slot) -> Result<()> {
    let mut transaction = Transaction::default();
    transaction.delete((), Key::host(slot.number), slot.is_own());
    transaction.delete((), Key::running(slot.number), Change::default());
    table.transact(transaction).await.map(drop)
}

/// `false` where the slot is somebody else's.
async fn say(store: &Store, slot: &Slot, beat: u64) -> Result<bool> {
    // What is written from now on has higher positions than this, and lower ones are published or open.
    let newest = store.positions.newest(Timestamp::now());
    let published = store.publisher.published_below(newest);
    let change = Change::of("SET beat = :beat, pub = :pub").only_if("own = :owner");
    let change = change.value(":beat", number(beat)).value(":pub", number(published));
    let change = change.value(":owner", text(&slot.owner));
    Ok(store.table.update(&Key::host(slot.number), change).await?.is_some())
}

/// When the beat of each host was first seen as it is.
#[derive(Default)]
struct Watch {
    seen: HashMap<u64, (String, u64, Instant)>,
}

impl Watch {
    /// Whether the host has stood still for too long.
    fn is_dead(&mut self, slot: u64, owner: &str, beat: u64, now: Instant) -> bool {
        match self.seen.get(&slot) {
            Some((known, at, since)) if known == owner && *at == beat => now.duration_since(*since) >= DEAD_AFTER,
            _ => {
                self.seen.insert(slot, (owner.to_owned(), beat, now));
                false
            }
        }
    }
}

async fn follow(store: &Store, own: &Slot, watch: &mut Watch) -> Result<()> {
    let all =
        Span { partition: HOSTS.into(), from: "0".into(), to: "9".into(), newest_first: false, limit: usize::MAX };
    for host in store.table.query(all).await? {
        let (slot, owner): (u64, _) = (host_slot(&host)?, host.text("own")?.to_owned());
        if slot == own.number || !watch.is_dead(slot, &owner, host.number("beat")?, Instant::now()) {
            continue;
        }
        // Whoever takes it is its owner: if it dies over it, the next one begins anew.
        let taken = Slot { number: slot, owner: format!("{}~{}", own.owner, slot) };
        let change = Change::of("SET own = :new, beat = :zero").only_if("own = :old");
        let change = change.value(":new", text(&taken.owner)).value(":old", text(&owner)).value(":zero", number(0));
        let Some(host) = store.table.update(&Key::host(slot), change).await? else { continue };
        let published: u64 = host.number("pub")?;
        let events = sweep(store, slot, published).await?;
        tracing::info!(slot, events, since = %time_of(published), "a host has died; what it had not published is published");
        free(&store.table, &taken).await?;
    }
    Ok(())
}

fn host_slot(host: &Item) -> Result<u64> {
    host.text("sk")?.parse().map_err(|_| Error::Failed("a host's item has no slot".into()))
}

/// Publishes what a slot wrote from `published` on, and says how much that was.
async fn sweep(store: &Store, slot: u64, published: u64) -> Result<usize> {
    let from = super::clock::first_at(time_of(published).minus(MARGIN));
    let mut events = 0;
    for shard in 0..LOG_SHARDS {
        let mut from = from;
        loop {
            let (partition, to) = (log_partition(shard), u64::MAX >> 11);
            let found = Indexed { partition, from, to, newest_first: false, limit: SWEEP_BATCH };
            let found = store.table.indexed(found).await?;
            let more = found.len() == SWEEP_BATCH;
            let last = found.last().map(|(_, position)| *position);
            let keys: Vec<Key> =
                found.into_iter().filter(|(_, position)| slot_of(*position) == slot).map(|(key, _)| key).collect();
            let logged = store.logged_at(&keys).await?;
            events += logged.len();
            store.publisher.publish(logged);
            match last {
                Some(last) if more => from = last + 1,
                _ => break,
            }
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_dead_once_its_beat_has_stood_still_for_long() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!watch.is_dead(3, "a", 7, at(0)));
        assert!(!watch.is_dead(3, "a", 7, at(14)));
        assert!(watch.is_dead(3, "a", 7, at(15)));
        assert!(!watch.is_dead(3, "a", 8, at(16)), "it lives");
        assert!(!watch.is_dead(3, "b", 8, at(40)), "another one took the slot");
    }
}
