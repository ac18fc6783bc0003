//! What the state of a consumer weighs: known from above everywhere, and exactly where there may be no room.
//!
//! A total that is written with every commit would be one more item in each transaction, and the one that all of them meet
//! at. So the consumer's item has a total that hosts add to once a second, with what they count anyway: what they wrote,
//! as if nothing had been there before, unless the handler saw what was. That is never too little but for what hosts have
//! not told yet. Where it leaves no room, what a commit adds is asked of the table; and before anything is refused, the state
//! is weighed.
//!
//! **Invariant**: one host takes nothing that there is no room for, and refuses what there is room for only beside commits that
//! are on their way. Several may pass the limit by what the others write within a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::consumers::Known;
use super::inbox::AwsInbox;
use super::item::{Item, Key, counters_partition, entries_partition, number};
use super::store::Store;
use super::table::{Change, Span};
use crate::backend::{Delivery, Excess, Finished, Result, Settlement};
use crate::effects::{Effects, Reads, Value};
use crate::policy::ConsumerName;

const COUNTER_BYTES: usize = 8;
/// Items read at once to weigh a state.
const PAGE: usize = 500;
/// A state that takes no longer than this is weighed as often as somebody asks.
const QUICK: Duration = Duration::from_secs(1);
/// Others are weighed again only after so many times as long as it took.
const REST: u32 = 10;
/// How often hosts told what they wrote.
const TOLD: &str = "sn";

/// The attribute of a consumer's item that has the total of a generation.
pub fn attribute(generation: i64) -> String {
    format!("sb{generation}")
}

/// The generations that have a total in a consumer's item.
pub fn generations(item: &Item) -> Vec<i64> {
    item.0.keys().filter_map(|name| name.strip_prefix("sb")?.parse().ok()).collect()
}

/// A total as the table has it, and how often it was added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub bytes: i64,
    pub told: u64,
}

impl Total {
    /// `None` where the generation was never weighed.
    pub fn read(item: &Item, generation: i64) -> Result<Option<Self>> {
        let told = item.number_or_none(TOLD)?.unwrap_or_default();
        Ok(item.number_or_none(&attribute(generation))?.map(|bytes| Self { bytes, told }))
    }
}

/// What one host knows of the state of a consumer.
#[derive(Debug, Default)]
pub struct Weight {
    known: Mutex<Weighed>,
    /// Held while the state is weighed.
    weighing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Weighed {
    generation: i64,
    /// As the table had it last; `None` where it is to be weighed first.
    total: Option<Total>,
    /// On its way there, and not yet.
    telling: i64,
    untold: i64,
    /// Commits that are on their way, and what they add.
    flying: usize,
    aloft: i64,
    /// Whether all of that is as a scale would have it.
    exact: bool,
    /// When it was last weighed, and how long that took.
    weighed: Option<(Instant, Duration)>,
}

/// Room for one commit.
#[derive(Debug)]
#[must_use]
pub struct Room {
    generation: i64,
    adds: i64,
}

/// Whether there is room.
#[derive(Debug)]
pub enum Verdict {
    Room(Room),
    /// The state would weigh so much.
    Full(u64),
}

impl Weighed {
    fn bytes(&self) -> i64 {
        self.total.map_or(0, |total| total.bytes) + self.telling + self.untold
    }

    fn reserve(&mut self, adds: i64, exact: bool) -> Room {
        // Beside another commit, what an item weighed before may be another.
        self.exact &= exact && self.flying == 0;
        let adds = if self.flying == 0 { adds } else { adds.max(0) };
        self.flying += 1;
        self.aloft += adds.max(0);
        self.untold += adds;
        Room { generation: self.generation, adds }
    }

    /// Whether it is worth its price to weigh the state before something is refused.
    fn is_to_be_weighed(&self) -> bool {
        let rested = |(at, took): (Instant, Duration)| took < QUICK || at.elapsed() > took * REST;
        !self.exact && self.weighed.is_none_or(rested)
    }
}

impl Weight {
    pub fn of(known: &Known) -> Self {
        let weight = Self::default();
        weight.learn(known);
        weight
    }

    /// What a generation weighs by the word of somebody else; `None` where nobody has weighed it.
    pub fn told_of(generation: i64, bytes: Option<i64>) -> Self {
        let total = bytes.map(|bytes| Total { bytes, told: 0 });
        Self { known: Mutex::new(Weighed { generation, total, ..Weighed::default() }), ..Self::default() }
    }

    /// What the table says of the consumer.
    pub fn learn(&self, known: &Known) {
        let mut own = self.known.lock();
        if own.generation != known.generation {
            *own = Weighed { generation: known.generation, flying: own.flying, aloft: own.aloft, ..Weighed::default() };
        }
        let Some(total) = known.total else { return };
        match own.total {
            // It may be from before this host told something, or have what it tells just now.
            Some(before) if total.told <= before.told || own.telling != 0 => {}
            _ => {
                own.exact &= own.total.is_some_and(|before| before.bytes == total.bytes);
                own.total = Some(total);
            }
        }
    }

    /// What the state weighs, as far as this host knows; `None` where it was never weighed.
    pub fn bytes(&self) -> Option<i64> {
        let own = self.known.lock();
        own.total.map(|_| own.bytes())
    }

    /// Room for what a commit writes, at most `max` bytes of state, where that is surely there.
    pub fn room_from_above(&self, (max, generation): (i64, i64), reads: &Reads, effects: &Effects) -> Option<Room> {
        let mut own = self.known.lock();
        if own.generation != generation {
            *own = Weighed { generation, flying: own.flying, aloft: own.aloft, ..Weighed::default() };
        }
        let (adds, exact) = from_above(reads, effects);
        let fits = own.total.is_some() && own.bytes().saturating_add(adds.max(0)) <= max;
        fits.then(|| own.reserve(adds, exact))
    }

    /// Whether there is room for what a commit writes, by what is in the table.
    pub async fn room(
        &self,
        store: &Store,
        name: &ConsumerName,
        (max, generation): (i64, i64),
        effects: &Effects,
    ) -> Result<Option<Verdict>> {
        let adds = exactly(store, name, generation, effects).await?;
        if let Some(room) = self.is_room(adds, max) {
            return Ok(Some(Verdict::Room(room)));
        }
        let _weighing = self.weighing.lock().await;
        if self.known.lock().is_to_be_weighed() {
            self.weigh(store, name, generation).await?;
        }
        if let Some(room) = self.is_room(adds, max) {
            return Ok(Some(Verdict::Room(room)));
        }
        let would = self.known.lock().bytes().saturating_add(adds);
        Ok(Some(Verdict::Full(u64::try_from(would).unwrap_or_default())))
    }

    /// Room for what makes a state no heavier, however heavy that is, or for what fits.
    fn is_room(&self, adds: i64, max: i64) -> Option<Room> {
        let mut own = self.known.lock();
        let fits = own.total.is_some() && own.bytes().saturating_add(adds) <= max;
        (adds <= 0 || fits).then(|| own.reserve(adds, true))
    }

    /// How the commit ended.
    fn end(&self, room: &Room, finished: &Finished) {
        let mut own = self.known.lock();
        own.flying = own.flying.saturating_sub(1);
        own.aloft -= room.adds.max(0);
        match finished {
            Finished::Accepted => {}
            // It may have been made.
            Finished::Superseded => own.exact = false,
            Finished::Conflict(_) | Finished::Full { .. } if own.generation == room.generation => {
                own.untold -= room.adds
            }
            Finished::Conflict(_) | Finished::Full { .. } => {}
        }
    }

    async fn weigh(&self, store: &Store, name: &ConsumerName, generation: i64) -> Result<()> {
        // What is on its way counts on top, whether the scale has it or not; so does what is written meanwhile.
        let (begun, before, aloft, alone) = {
            let own = self.known.lock();
            (Instant::now(), own.bytes(), own.aloft, own.flying == 0)
        };
        let entries = weigh(store, entries_partition(name, generation)).await?;
        let counters = weigh(store, counters_partition(name, generation)).await?;
        let mut own = self.known.lock();
        if own.generation != generation {
            return Ok(());
        }
        own.total.get_or_insert_default();
        own.exact = alone && own.flying == 0 && own.bytes() == before;
        own.untold += entries + counters + aloft - before;
        own.weighed = Some((begun, begun.elapsed()));
        Ok(())
    }

    /// What the table is to be told now.
    pub fn tell(&self) -> Option<Telling<'_>> {
        let mut own = self.known.lock();
        if own.untold == 0 || own.telling != 0 {
            return None;
        }
        own.telling = std::mem::take(&mut own.untold);
        Some(Telling { weight: self, generation: own.generation, bytes: own.telling, is_over: false })
    }

    fn told(&self, generation: i64, bytes: i64, item: Option<&Item>) {
        let mut own = self.known.lock();
        if own.generation != generation {
            return;
        }
        own.telling = 0;
        let Some(total) = item.and_then(|item| Total::read(item, generation).ok().flatten()) else {
            own.untold += bytes;
            return;
        };
        own.exact &= own.total.is_some_and(|before| before.bytes + bytes == total.bytes);
        own.total = Some(total);
    }
}

/// Settles a delivery where there is room for what it leaves.
pub async fn settle(inbox: &AwsInbox, delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
    let of_rebuild = inbox.weight_of_rebuild(&delivery);
    let weight = of_rebuild.as_deref().unwrap_or(&inbox.weight);
    let room = match &settlement {
        Settlement::Done { effects, .. } => room(inbox, weight, &delivery, reads, effects).await,
        _ => Ok(None),
    };
    match (room, settlement) {
        (Ok(Some(Verdict::Full(bytes))), Settlement::Done { effects, .. }) => {
            Finished::Full { delivery, effects: Box::new(effects), excess: Excess::State { bytes } }
        }
        (Ok(Some(Verdict::Room(room))), settlement) => {
            let finished = inbox.settle(delivery, reads, settlement).await;
            weight.end(&room, &finished);
            finished
        }
        (room, settlement) => {
            if let Err(error) = room {
                tracing::debug!(consumer = %inbox.name, %error, "what the state weighs is not known; it is written all the same");
            }
            inbox.settle(delivery, reads, settlement).await
        }
    }
}

/// Whether there is room for what a delivery leaves in the state.
async fn room(
    inbox: &AwsInbox,
    weight: &Weight,
    delivery: &Delivery,
    reads: &Reads,
    effects: &Effects,
) -> Result<Option<Verdict>> {
    if effects.entries.is_empty() && effects.adjustments.is_empty() {
        return Ok(None);
    }
    let scope = (inbox.state_bytes_max(), delivery.generation.state);
    if let Some(room) = weight.room_from_above(scope, reads, effects) {
        return Ok(Some(Verdict::Room(room)));
    }
    if delivery.is_of_rebuild() {
        // The table is asked, and is to have what was staged.
        inbox.batches.write().await?;
    }
    weight.room(&inbox.store, &inbox.name, scope, effects).await
}

/// What a host is about to add to the total in a consumer's item.
pub struct Telling<'a> {
    weight: &'a Weight,
    generation: i64,
    bytes: i64,
    is_over: bool,
}

impl Telling<'_> {
    /// As part of another change of the item.
    pub fn add_to(&self, set: &mut String, change: Change) -> Change {
        *set += ", #sb = if_not_exists(#sb, :zero) + :bytes, sn = if_not_exists(sn, :zero) + :one";
        change.name("#sb", &attribute(self.generation)).value(":bytes", number(self.bytes)).value(":one", number(1))
    }

    /// The item as it is then; `None` where it was not changed, or nobody knows.
    pub fn told(mut self, item: Option<&Item>) {
        self.is_over = true;
        self.weight.told(self.generation, self.bytes, item);
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.weight.told(self.generation, self.bytes, None);
        }
    }
}

/// What the writes add at most, and whether that is what they add.
fn from_above(reads: &Reads, effects: &Effects) -> (i64, bool) {
    let (mut adds, mut exact) = (0, true);
    for (key, value) in &effects.entries {
        let seen = reads.entries.iter().find(|(seen, _)| seen == key).map(|(_, seen)| seen);
        exact &= seen.is_some();
        adds += of_entry(key, value) - seen.map_or(0, |seen| of_entry(key, seen));
    }
    for key in counters(effects) {
        // One that stands at nothing may be there.
        let seen = reads.counters.iter().any(|(seen, value)| &**seen == key && *value != 0);
        exact &= seen;
        adds += if seen { 0 } else { of_counter(key) };
    }
    (adds, exact)
}

/// What the writes add to what is there now.
async fn exactly(store: &Store, name: &ConsumerName, generation: i64, effects: &Effects) -> Result<i64> {
    let entries = effects.entries.iter().map(|(key, _)| Key::entry(name, generation, key));
    let keys = counters(effects);
    let found = store.table.get_all(entries.chain(keys.iter().map(|key| Key::counter(name, generation, key)))).await?;
    let mut adds = 0;
    for (key, value) in &effects.entries {
        let before = found.get(&Key::entry(name, generation, key)).map_or(0, weight_of);
        adds += of_entry(key, value) - before;
    }
    for key in keys {
        let before = found.get(&Key::counter(name, generation, key)).map_or(0, weight_of);
        adds += of_counter(key) - before;
    }
    Ok(adds)
}

/// Each once.
fn counters(effects: &Effects) -> std::collections::BTreeSet<&str> {
    effects.adjustments.iter().map(|adjustment| &*adjustment.key).collect()
}

/// What a generation of a state weighs in all.
pub async fn whole(store: &Store, name: &ConsumerName, generation: i64) -> Result<u64> {
    let entries = weigh(store, entries_partition(name, generation)).await?;
    let counters = weigh(store, counters_partition(name, generation)).await?;
    Ok(u64::try_from(entries + counters).unwrap_or_default())
}

async fn weigh(store: &Store, partition: String) -> Result<i64> {
    let (mut bytes, mut from) = (0, "\u{0}".to_owned());
    loop {
        let (partition, to) = (partition.clone(), "\u{10ffff}".to_owned());
        let items = store.table.query(Span { partition, from, to, newest_first: false, limit: PAGE }).await?;
        bytes += items.iter().map(weight_of).sum::<i64>();
        let Some(last) = items.last().filter(|_| items.len() == PAGE) else { return Ok(bytes) };
        from = format!("{}\u{0}", last.text("sk")?);
    }
}

/// One that only a large commit holds weighs nothing.
fn weight_of(item: &Item) -> i64 {
    let key = item.text_or_none("sk").map_or(0, str::len);
    let value = match (item.blob("v"), item.number_or_none::<i64>("n")) {
        (Some(value), _) => Some(value.len()),
        (None, Ok(Some(_))) => Some(COUNTER_BYTES),
        _ => None,
    };
    value.map_or(0, |value| signed(key + value))
}

fn of_entry(key: &str, value: &Value) -> i64 {
    value.as_ref().map_or(0, |value| signed(key.len() + value.len()))
}

fn of_counter(key: &str) -> i64 {
    signed(key.len() + COUNTER_BYTES)
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::aws::fixture::alpha;
    use crate::backend::aws::inbox::shop;
    use crate::backend::aws::item::bytes;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_of_a_state_is_on_the_scale_however_many_items_it_is() {
        let (backend, store) = shop().await;
        let entries = (0..PAGE + 1).map(|n| {
            let key = Key::entry(&alpha(), 0, &format!("{n:04}"));
            Item::at(&key).with("v", bytes(b"value"))
        });
        let counters = ["a", "b"].map(|key| Item::at(&Key::counter(&alpha(), 0, key)).with("n", number(7)));
        store.table.put_all(entries.chain(counters).collect()).await.unwrap();
        let weight = Weight::default();
        weight.weigh(&store, &alpha(), 0).await.unwrap();
        let weighs = (PAGE + 1) * (4 + 5) + 2 * (1 + COUNTER_BYTES);
        assert_eq!(weight.bytes(), Some(signed(weighs)));
        backend.lifecycle.close().await;
    }

    fn says(bytes: i64, told: u64) -> Item {
        Item::default().with(&attribute(0), number(bytes)).with(TOLD, number(told))
    }

    fn known(bytes: i64, told: u64) -> Weighed {
        Weighed { total: Some(Total { bytes, told }), exact: true, ..Weighed::default() }
    }

    #[test]
    fn what_was_written_counts_from_the_decision_on_and_once() {
        let weight = Weight { known: Mutex::new(known(100, 1)), ..Weight::default() };
        let room = weight.is_room(20, 130).unwrap();
        assert!(weight.is_room(20, 130).is_none());
        assert!(weight.is_room(-1, 50).is_some_and(|room| room.adds == 0), "what it weighed may change meanwhile");
        weight.end(&room, &Finished::Accepted);
        let telling = weight.tell().unwrap();
        assert!(weight.tell().is_none() && weight.known.lock().bytes() == 120);
        telling.told(Some(&says(120, 2)));
        assert_eq!(weight.known.lock().bytes(), 120);
        // Where the answer does not come, it is told again.
        let room = weight.is_room(5, 130).unwrap();
        weight.end(&room, &Finished::Accepted);
        drop(weight.tell());
        assert_eq!(weight.tell().unwrap().bytes, 5);
    }

    #[test]
    fn what_others_tell_is_nothing_that_this_host_weighed() {
        let weight = Weight { known: Mutex::new(known(100, 1)), ..Weight::default() };
        let room = weight.is_room(20, 130).unwrap();
        weight.end(&room, &Finished::Accepted);
        weight.tell().unwrap().told(Some(&says(127, 3)));
        assert_eq!(weight.known.lock().bytes(), 127);
        assert!(weight.known.lock().is_to_be_weighed(), "others may have written over what was there");
    }
}
