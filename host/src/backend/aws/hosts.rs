//! The hosts that share a table: who lives, and who publishes what a dead one left.
//!
//! Each host has a slot, which its positions carry, and raises the beat of its item while it lives. A host whose beat stands
//! still for [`DEAD_AFTER`], by the clock of whoever watches, is dead: somebody takes its slot over, publishes what the slot
//! wrote from its watermark on, and frees it. What is published a second time is delivered once. One that runs only now and
//! then has a slot only while it needs one: see `seat`.
//!
//! **Invariants**
//! - A host whose slot was taken from it (it slept, or lost the network) closes its store, or takes another slot.
//! - A slot is free only when all that it wrote is published.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::clock::{SLOTS, slot_of, time_of};
use super::item::{HOSTS, Item, Key, number, text};
use super::lane::{LOG_SHARDS, log_partition};
use super::store::Store;
use super::table::{Change, Indexed, Span, Table, Transaction};
use crate::backend::{Error, Result};
use crate::clock::Timestamp;

pub const BEAT_EVERY: Duration = Duration::from_secs(2);
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Who could not look for so long, or not speak, has no word on the others: it may be AWS that nobody reaches.
const BLIND_AFTER: Duration = Duration::from_secs(6);
/// Before its watermark: what a host wrote under a clock that was set back since.
const MARGIN: Duration = Duration::from_secs(5);
/// The owner of a slot that nobody has. Its item stays, with the last position that was drawn there.
pub const NOBODY: &str = "-";
/// Looks for a slot, while others are quicker.
const CLAIMS_MAX: u32 = 16;
/// Between two looks whether events are out.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Keys of the log read at once.
const SWEEP_BATCH: usize = 500;
/// How long a store that closes waits for what is not published yet. The rest is left to other hosts, or the next start.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// A host's own slot.
#[derive(Clone, Debug)]
pub struct Slot {
    pub number: u64,
    pub owner: String,
    /// The highest position that was drawn there before, as far as it is known.
    pub drawn: u64,
}

impl Slot {
    /// That nobody took it meanwhile.
    pub fn is_own(&self) -> Change {
        Change::default().only_if("own = :owner").value(":owner", text(&self.owner))
    }

    /// It is nobody's, with the highest position that was drawn there: where it is still this owner's, since a request that
    /// arrives late must not take it from another.
    fn is_free(&self, drawn: u64) -> Change {
        let change = Change::of("SET own = :nobody, drawn = :drawn").only_if_also(&self.is_own());
        change.value(":nobody", text(NOBODY)).value(":drawn", number(drawn))
    }
}

/// How long a slot is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As long as the host runs.
    Kept,
    /// For a moment, by one that AWS Lambda invokes.
    Lent,
}

/// Takes a slot that nobody has.
pub async fn claim(table: &Table, stay: Stay) -> Result<Slot> {
    let owner = uuid::Uuid::now_v7().to_string();
    let mut number = fastrand::u64(..SLOTS);
    for _ in 0..CLAIMS_MAX {
        let change = match stay {
            Stay::Kept => Change::of("SET own = :owner, beat = :zero, pub = :pub REMOVE lent"),
            Stay::Lent => {
                Change::of("SET own = :owner, beat = :zero, pub = :pub, lent = :one").value(":one", self::number(1))
            }
        };
        let change = change
            .only_if("attribute_not_exists(pk) OR own = :nobody OR own = :owner")
            .value(":owner", text(&owner))
            .value(":nobody", text(NOBODY))
            .value(":zero", self::number(0))
            .value(":pub", self::number(super::clock::first_at(Timestamp::now())));
        if let Some(item) = table.update(&Key::host(number), change).await? {
            return Ok(Slot { number, owner, drawn: item.number_or_none("drawn")?.unwrap_or_default() });
        }
        let hosts = all(table).await?;
        let taken = hosts.iter().filter(|host| host.text_or_none("own") != Some(NOBODY)).map(host_slot);
        let taken: HashSet<u64> = taken.collect::<Result<_>>()?;
        let free: Vec<u64> = (0..SLOTS).filter(|slot| !taken.contains(slot)).collect();
        let Some(other) = fastrand::choice(&free) else { break };
        number = *other;
    }
    let why = format!("{SLOTS} hosts share this table already, or died without being followed; wait, or stop one");
    Err(Error::Unavailable(why.into()))
}

/// Lets others have the slot, of which `drawn` is the highest position. What was said to run there, runs no more.
async fn free(table: &Table, slot: &Slot, drawn: u64) -> Result<()> {
    let mut transaction = Transaction::default();
    transaction.update((), Key::host(slot.number), slot.is_free(drawn));
    transaction.delete((), Key::running(slot.number), Change::default());
    table.transact(transaction).await.map(drop)
}

/// [`free`], for a host that never said what it runs: for a quarter of the price.
pub async fn give_back(table: &Table, slot: &Slot, drawn: u64) -> Result<()> {
    table.update(&Key::host(slot.number), slot.is_free(drawn)).await.map(drop)
}

/// Who has slots and keeps them, and whoever takes over what dead ones left there.
pub async fn keepers(table: &Table) -> Result<Vec<String>> {
    let hosts = all(table).await?;
    let kept = hosts.iter().filter(|host| !matches!(host.number_or_none::<u8>("lent"), Ok(Some(_))));
    let owners = kept.map(|host| host.text("own").map(str::to_owned)).collect::<Result<Vec<_>>>()?;
    Ok(owners.into_iter().filter(|owner| owner != NOBODY).collect())
}

async fn all(table: &Table) -> Result<Vec<Item>> {
    let span =
        Span { partition: HOSTS.into(), from: "0".into(), to: "9".into(), newest_first: false, limit: usize::MAX };
    table.query(span).await
}

/// Says that this host lives, and follows those that do not, until the store is closed.
pub async fn run(store: Arc<Store>) {
    let Some(slot) = store.seat.kept() else { return };
    let mut ticks = interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut watch, mut looked_at) = (Watch::default(), Instant::now());
    let mut beat = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = store.stopping.cancelled() => break,
        }
        beat += 1;
        let said = say(&store, slot, beat).await;
        if said.is_err() || looked_at.elapsed() > BLIND_AFTER {
            watch.forget();
        }
        match said {
            Ok(true) => {}
            Ok(false) => return store.fail("another host took this one for dead and follows it"),
            Err(error) if !store.repeats.is_news("say that it lives", "", &error) => {}
            Err(error) => tracing::warn!(%error, "this host cannot say that it lives; others may take it for dead"),
        }
        match follow(&store, &slot.owner, &mut watch).await {
            Ok(Followed { dead, .. }) => {
                looked_at = Instant::now();
                for one in dead {
                    // Where SNS is slow this takes long, and this host must go on to say that it lives.
                    let of = Arc::clone(&store);
                    store.tasks.spawn(async move { one.bury(&of).await });
                }
            }
            Err(error) if !store.repeats.is_news("watch others", "", &error) => {}
            Err(error) => tracing::warn!(%error, "the other hosts cannot be watched"),
        }
    }
}

/// Publishes what it can, and gives the slot back if that was all.
pub async fn leave(store: &Store, slot: &Slot) {
    let drained = timeout(DRAIN_MAX, store.publisher.drained()).await.is_ok();
    if !drained || !store.publisher.is_clear() {
        tracing::warn!("some events may not be published yet; another host does it, or this one at its next start");
        return;
    }
    let drawn = store.positions.newest(Timestamp::now());
    if let Err(error) = free(&store.table, slot, drawn).await {
        tracing::warn!(%error, "the slot of this host stays taken until another host frees it");
    }
}

/// `false` where the slot is somebody else's.
pub async fn say(store: &Store, slot: &Slot, beat: u64) -> Result<bool> {
    // What is written from now on has higher positions than this, and lower ones are published or open.
    let newest = store.positions.newest(Timestamp::now());
    let published = store.publisher.published_below(newest);
    let change = Change::of("SET beat = :beat, pub = :pub").only_if("own = :owner");
    let change = change.value(":beat", number(beat)).value(":pub", number(published));
    let change = change.value(":owner", text(&slot.owner));
    Ok(store.table.update(&Key::host(slot.number), change).await?.is_some())
}

/// What is known of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It was first seen, or stands still for a short while.
    Unknown,
    Alive,
    /// It has stood still for too long.
    Dead,
}

/// When the beat of each host was first seen as it is.
#[derive(Default)]
pub struct Watch {
    seen: HashMap<u64, (String, u64, Instant)>,
}

impl Watch {
    /// What it has seen says nothing any more: every host has all its time again.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    fn judge(&mut self, slot: u64, owner: &str, beat: u64, now: Instant) -> Life {
        let known = self.seen.get(&slot).filter(|(known, ..)| known == owner);
        match known {
            Some((_, at, since)) if *at == beat => {
                return if now.duration_since(*since) >= DEAD_AFTER { Life::Dead } else { Life::Unknown };
            }
            _ => {}
        }
        let life = if known.is_some() { Life::Alive } else { Life::Unknown };
        self.seen.insert(slot, (owner.to_owned(), beat, now));
        life
    }
}

/// What a look at the other hosts found.
#[derive(Default)]
pub struct Followed {
    /// Of these, what they wrote is on its way.
    pub dead: Vec<Dead>,
    /// Owners of slots of whom it is not known whether they live.
    pub unknown: HashSet<String>,
}

/// A dead host's slot, taken over.
pub struct Dead {
    slot: Slot,
    /// The highest position of what it may not have published.
    through: u64,
}

impl Dead {
    /// Lets others have the slot when all that was written there is published. Where that takes too long, whoever looks next
    /// takes it over, and begins anew.
    pub async fn bury(self, store: &Store) {
        let Self { slot, through } = self;
        let out = async {
            while store.publisher.published_below(through) <= through {
                sleep(LOOK_EVERY).await;
            }
        };
        let out = tokio::select! {
            out = timeout(DRAIN_MAX, out) => out,
            () = store.stopping.cancelled() => return,
        };
        if out.is_err() {
            tracing::warn!(slot = slot.number, "what a dead host had not published is not published yet");
            return;
        }
        let drawn = through.max(super::clock::first_at(Timestamp::now()));
        if let Err(error) = free(&store.table, &slot, drawn).await {
            tracing::warn!(slot = slot.number, %error, "the slot of a dead host stays taken until another look");
        }
    }
}

/// Looks which of the other hosts have died, and lets what these wrote be published: it is on its way.
pub async fn follow(store: &Store, own: &str, watch: &mut Watch) -> Result<Followed> {
    let mut followed = Followed::default();
    for host in all(&store.table).await? {
        let (slot, owner): (u64, _) = (host_slot(&host)?, host.text("own")?.to_owned());
        if owner == own || owner == NOBODY {
            continue;
        }
        let beat: u64 = host.number("beat")?;
        match watch.judge(slot, &owner, beat, Instant::now()) {
            Life::Alive => continue,
            Life::Unknown => {
                followed.unknown.insert(owner);
                continue;
            }
            Life::Dead => {}
        }
        // Whoever takes it is its owner: if it dies over it, the next one begins anew. One that spoke just now keeps it.
        let taken = format!("{own}~{slot}~{}", fastrand::u64(..));
        let change = Change::of("SET own = :new, beat = :zero").only_if("own = :old AND beat = :beat");
        let change = change.value(":new", text(&taken)).value(":old", text(&owner));
        let change = change.value(":zero", number(0)).value(":beat", number(beat));
        let Some(host) = store.table.update(&Key::host(slot), change).await? else { continue };
        let published: u64 = host.number("pub")?;
        let (events, last) = sweep(store, slot, published).await?;
        tracing::info!(slot, events, since = %time_of(published), "a host has died; what it had not published is published");
        followed.dead.push(Dead { slot: Slot { number: slot, owner: taken, drawn: last }, through: last });
    }
    Ok(followed)
}

fn host_slot(host: &Item) -> Result<u64> {
    host.text("sk")?.parse().map_err(|_| Error::Failed("a host's item has no slot".into()))
}

/// Publishes what a slot wrote from `published` on, and says how much that was, and the highest position of it.
async fn sweep(store: &Store, slot: u64, published: u64) -> Result<(usize, u64)> {
    let from = super::clock::first_at(time_of(published).minus(MARGIN));
    let (mut events, mut through) = (0, 0);
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
            through = logged.iter().map(super::lane::Logged::position).fold(through, u64::max);
            store.publisher.publish(logged);
            match last {
                Some(last) if more => from = last + 1,
                _ => break,
            }
        }
    }
    Ok((events, through))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::aws::clock::Positions;
    use crate::backend::aws::inbox::shop;
    use crate::backend::aws::lane::Tail;
    use crate::backend::contract::custom;
    use crate::event::{Body, Position};

    #[test]
    fn a_host_is_dead_once_its_beat_has_stood_still_for_long() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.judge(3, "a", 7, at(0)), Life::Unknown);
        assert_eq!(watch.judge(3, "a", 7, at(14)), Life::Unknown);
        assert_eq!(watch.judge(3, "a", 7, at(15)), Life::Dead);
        assert_eq!(watch.judge(3, "a", 8, at(16)), Life::Alive);
        assert_eq!(watch.judge(3, "b", 8, at(40)), Life::Unknown, "another one took the slot");
        watch.forget();
        assert_eq!(watch.judge(3, "b", 8, at(60)), Life::Unknown, "nobody could look meanwhile");
        assert_eq!(watch.judge(3, "b", 8, at(75)), Life::Dead);
    }

    /// Who has a slot, and the highest position that was drawn there.
    async fn stands(store: &Store, slot: u64) -> (String, u64) {
        let host = store.table.get(&Key::host(slot)).await.unwrap().unwrap();
        (host.text("own").unwrap().to_owned(), host.number_or_none("drawn").unwrap().unwrap_or_default())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_dead_host_wrote_is_published_before_its_slot_is_free_and_it_says_nothing_more_there() {
        let (backend, store) = shop().await;
        let slot = claim(&store.table, Stay::Kept).await.unwrap();
        assert!(say(&store, &slot, 7).await.unwrap());
        // Written under a clock that was set back a little since it was last said what is published.
        let now = Timestamp::now().minus(MARGIN / 2);
        let position = Positions::new(slot.number).next(now, 0);
        let logged = store.next(&Tail::default(), Body::Custom(custom("tea")), None);
        store.publisher.abandon([&logged]);
        let event = crate::event::Event { position, ..(*logged.event).clone() };
        let logged = super::super::lane::Logged { event: Arc::new(event), ..logged };
        let mut transaction = Transaction::default();
        transaction.create((), logged.item().unwrap());
        assert!(store.table.transact(transaction).await.unwrap().is_ok());

        let mut watch = Watch::default();
        assert!(follow(&store, "other", &mut watch).await.unwrap().unknown.contains(&slot.owner));
        watch.seen.values_mut().for_each(|(.., since)| *since -= DEAD_AFTER);
        let held = store.publisher.open(|| Position::FIRST);
        let mut dead = follow(&store, "other", &mut watch).await.unwrap().dead;
        let [one] = &dead[..] else { panic!("{}", dead.len()) };
        assert_eq!((one.slot.number, one.through), (slot.number, position.get()));
        let owner = one.slot.owner.clone();
        assert_eq!(stands(&store, slot.number).await.0, owner);
        assert!(!say(&store, &slot, 8).await.unwrap(), "it is another's");
        give_back(&store.table, &slot, 1).await.unwrap();
        let buried = dead.remove(0).bury(&store);
        tokio::pin!(buried);
        assert!(timeout(Duration::from_millis(300), &mut buried).await.is_err(), "something older is not out");
        assert_eq!(stands(&store, slot.number).await, (owner, 0));
        let held = super::super::lane::Logged {
            event: Arc::new(crate::event::Event { position: held, ..(*logged.event).clone() }),
            ..logged
        };
        store.publisher.abandon([&held]);
        buried.await;
        let (owner, drawn) = stands(&store, slot.number).await;
        assert!(owner == NOBODY && drawn >= position.get(), "{owner} {drawn}");
        backend.lifecycle.close().await;
    }
}
