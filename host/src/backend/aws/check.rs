//! Does what stands in the table agree with itself?
//!
//! ```text
//! page of the table, or of an index ──► what it points to ──► what seems wrong
//!                                                                  │ a while later
//!                  told: what is as wrong, and has not moved ◄── read again, with what it points to
//! ```
//!
//! The table is written while it is read, and no read is of all of it at one moment. So what seems wrong is looked at once
//! more: the item, then what it points to, then the item. Where the item stayed as it was, all of that was there at one
//! moment, and what is wrong then is told. Whatever hangs together is written in one transaction, so nothing is wrong for
//! a moment only, but for what hosts let go of step by step; that is over by then.
//!
//! First the whole table is gone through, an item at a time, then the indexes, whose entries must lead back to items. A step
//! keeps one page in memory, and what that points to.

mod consumers;
mod events;
mod indexes;
mod kind;
mod others;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use self::kind::Kind;
use self::versions::History;
use super::consumers::Known;
use super::item::{CONSUMERS, FORGOTTEN, HOSTS, Item, Key, LaneKey, event_sort};
use super::store::{SEQ_MAX, Store};
use super::table::Span;
use crate::backend::{CheckPlace, CheckStep, Checked, Error, Finding, Result};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// Rows that are read in a second, unless somebody says otherwise: a sixth of what one partition of DynamoDB gives at least.
pub const ROWS_PER_SECOND: u32 = 2_000;
/// Items looked at in one step.
const PAGE: usize = 250;
/// Before what seems wrong is looked at again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Items that are looked at at once; few of them need another request.
const AT_ONCE: usize = 8;

/// What to do about what is missing, and about what nothing needs.
pub const RESTORE: &str = "take it from a copy of the table (its point-in-time recovery)";
pub const DELETE: &str = "nothing needs it: delete the item";
pub const REPORT: &str = "something else than a host wrote it: take it from a copy of the table, or delete the item";

/// Something that may be wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suspect {
    pub rule: &'static str,
    /// The item that was looked at.
    pub pk: String,
    pub sk: String,
    pub place: String,
    pub fault: String,
}

impl Suspect {
    pub fn new(rule: &'static str, key: &Key, place: String, fault: String) -> Self {
        Self { rule, pk: key.pk.clone(), sk: key.sk.clone(), place, fault }
    }

    fn key(&self) -> Key {
        Key { pk: self.pk.clone(), sk: self.sk.clone() }
    }

    fn finding(self) -> Finding {
        let Self { rule, place, fault, .. } = self;
        Finding { rule, place, fault }
    }
}

/// What one step saw, by rule.
#[derive(Debug, Default)]
struct Seen {
    rows: BTreeMap<&'static str, u64>,
    suspects: Vec<Suspect>,
}

pub async fn step(store: &Store, place: CheckPlace) -> Result<CheckStep> {
    step_with(store, place, AGAIN_AFTER).await
}

async fn step_with(store: &Store, place: CheckPlace, again_after: Duration) -> Result<CheckStep> {
    match place.rule {
        0 => table(store, &place.cursor, again_after).await,
        _ => indexes::step(store, &place.cursor, again_after).await,
    }
}

/// A page of the table. The cursor is the key of the last item, and how many bytes of it are the partition's.
async fn table(store: &Store, (bytes, _, keys): &(i64, i64, String), again_after: Duration) -> Result<CheckStep> {
    let split = usize::try_from(*bytes).ok().and_then(|bytes| keys.split_at_checked(bytes));
    let after = split.filter(|_| !keys.is_empty()).map(|(pk, sk)| Key { pk: pk.to_owned(), sk: sk.to_owned() });
    let (items, last) = store.table.scan(after.as_ref(), PAGE).await?;
    let look = Look::at(store, items, true).await?;
    let mut seen = look.all().await?;
    let mut read = look.read();
    let mut told = Vec::new();
    if !seen.suspects.is_empty() {
        tokio::time::sleep(again_after).await;
        let (suspects, reads) = again(store, std::mem::take(&mut seen.suspects)).await?;
        (told, read) = (suspects, read + reads);
    }
    let next = match last {
        Some(Key { pk, sk }) => {
            let bytes = i64::try_from(pk.len()).unwrap_or_default();
            CheckPlace { rule: 0, cursor: (bytes, 0, pk + &sk) }
        }
        None => CheckPlace { rule: 1, cursor: indexes::first() },
    };
    Ok(CheckStep { checked: by_rule(seen.rows, told), read, next: Some(next) })
}

/// Those that are as wrong as they were, of items that stay as they are while they are looked at.
async fn again(store: &Store, suspects: Vec<Suspect>) -> Result<(Vec<Suspect>, u64)> {
    let keys: BTreeSet<(String, String)> = suspects.iter().map(|it| (it.pk.clone(), it.sk.clone())).collect();
    let keys = || keys.iter().map(|(pk, sk)| Key { pk: pk.clone(), sk: sk.clone() });
    let before = store.table.get_all(keys()).await?;
    let look = Look::at(store, before.values().cloned().collect(), false).await?;
    let wrong: BTreeSet<Suspect> = look.all().await?.suspects.into_iter().collect();
    let behind = store.table.get_all(keys()).await?;
    let read = look.read() + u64::try_from(before.len() + behind.len()).unwrap_or_default();
    let stays = |it: &Suspect| {
        let key = it.key();
        wrong.contains(it) && before.get(&key) == behind.get(&key)
    };
    Ok((suspects.into_iter().filter(stays).collect(), read))
}

fn by_rule(rows: BTreeMap<&'static str, u64>, suspects: Vec<Suspect>) -> Vec<Checked> {
    let mut checked: BTreeMap<&'static str, Checked> =
        rows.into_iter().map(|(rule, rows)| (rule, Checked { rule, rows, findings: Vec::new() })).collect();
    for suspect in suspects {
        let of = checked.entry(suspect.rule).or_insert_with(|| Checked { rule: suspect.rule, ..Checked::default() });
        of.findings.push(suspect.finding());
    }
    checked.into_values().collect()
}

/// Some items, what they point to, and what else is known.
struct Look<'a> {
    store: &'a Store,
    now: Timestamp,
    consumers: BTreeMap<ConsumerName, Known>,
    /// What they left may be there still.
    forgotten: BTreeSet<String>,
    /// Their items, by slot.
    hosts: BTreeMap<String, Item>,
    /// Up to this position, events may have gone by age.
    gone_through: u64,
    /// Of the consumers that a version among the items is of.
    histories: BTreeMap<String, History>,
    items: Vec<(Kind, Item)>,
    /// What they point to, and is there.
    found: HashMap<Key, Item>,
    read: AtomicU64,
}

impl<'a> Look<'a> {
    /// What is known before the items are read may be older than they are, and not the other way round; so is what
    /// `among` them already would be, where they are looked at for the second time.
    async fn at(store: &'a Store, items: Vec<Item>, among: bool) -> Result<Self> {
        let mut parsed = Vec::with_capacity(items.len());
        for item in items {
            let key = item.key()?;
            parsed.push((Kind::of(&key), item));
        }
        let (hosts, forgotten, gone_through, consumers) = tokio::try_join!(
            Box::pin(partition(store, HOSTS)),
            Box::pin(partition(store, FORGOTTEN)),
            Box::pin(super::upkeep::gone_through(store)),
            Box::pin(partition(store, CONSUMERS)),
        )?;
        let by_sort =
            |items: Vec<Item>| items.into_iter().filter_map(|it| Some((it.text_or_none("sk")?.to_owned(), it)));
        // One that cannot be read is told of by its own item.
        let consumers = consumers.iter().filter_map(|item| Known::read(item).ok());
        let mut look = Self {
            store,
            now: Timestamp::now(),
            consumers: consumers.map(|known| (known.name.clone(), known)).collect(),
            forgotten: by_sort(forgotten).map(|(name, _)| name).collect(),
            hosts: by_sort(hosts).collect(),
            gone_through,
            histories: BTreeMap::new(),
            read: AtomicU64::new(u64::try_from(parsed.len()).unwrap_or_default()),
            items: parsed,
            found: HashMap::new(),
        };
        look.histories = versions::histories(&look).await?;
        look.find(among).await?;
        Ok(look)
    }

    /// Reads what the items point to.
    async fn find(&mut self, among: bool) -> Result<()> {
        let mut wanted = Vec::new();
        for (kind, item) in &self.items {
            match kind {
                Kind::Event { .. } => events::points(self, kind, item, &mut wanted),
                Kind::Place { .. }
                | Kind::Delivery { .. }
                | Kind::Letter { .. }
                | Kind::Due { .. }
                | Kind::PutOff { .. }
                | Kind::State { .. } => {
                    consumers::points(kind, item, &mut wanted);
                }
                _ => others::points(kind, item, &mut wanted),
            }
        }
        let mut found = HashMap::new();
        if among {
            found.extend(self.items.iter().filter_map(|(_, item)| Some((item.key().ok()?, item.clone()))));
            wanted.retain(|key| !found.contains_key(key));
        }
        let more = self.store.table.get_all(wanted).await?;
        self.count(more.len());
        found.extend(more);
        self.found = found;
        Ok(())
    }

    async fn all(&self) -> Result<Seen> {
        let looks: Vec<_> = self.items.iter().map(|(kind, item)| self.one(kind, item)).collect();
        let seen: Vec<Seen> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        let mut all = Seen::default();
        for one in seen {
            one.rows.into_iter().for_each(|(rule, rows)| *all.rows.entry(rule).or_default() += rows);
            all.suspects.extend(one.suspects);
        }
        Ok(all)
    }

    async fn one(&self, kind: &Kind, item: &Item) -> Result<Seen> {
        let mut seen = Seen::default();
        let key = item.key()?;
        *seen.rows.entry(kind.rule()).or_default() += 1;
        if item.is_expired(self.now).unwrap_or_default() && !matches!(kind, Kind::Event { .. }) {
            return Ok(seen);
        }
        let fault = match kind {
            Kind::Event { lane, seq } => {
                Box::pin(events::look(self, item, lane, *seq, &mut seen)).await?;
                return Ok(seen);
            }
            Kind::Place { .. }
            | Kind::Delivery { .. }
            | Kind::Letter { .. }
            | Kind::Due { .. }
            | Kind::Backfill { .. }
            | Kind::PutOff { .. }
            | Kind::Gate { .. }
            | Kind::Left { .. }
            | Kind::State { .. } => Box::pin(consumers::fault(self, kind, item)).await,
            Kind::HistoryRow { .. } | Kind::Kept { .. } | Kind::Standing { .. } => versions::fault(self, kind),
            _ => Box::pin(others::fault(self, kind, item)).await,
        };
        let fault = match fault {
            Ok(fault) => fault,
            // An attribute is not there, or not what it should be.
            Err(Error::Failed(why)) => Some(format!("it cannot be read: {why}: {REPORT}")),
            Err(error) => return Err(error),
        };
        seen.suspects.extend(fault.map(|fault| Suspect::new(kind.rule(), &key, kind.to_string(), fault)));
        Ok(seen)
    }

    fn found(&self, key: &Key) -> Option<&Item> {
        self.found.get(key)
    }

    /// The last item of a lane.
    async fn last_item(&self, lane: &LaneKey) -> Result<Option<Item>> {
        self.count(1);
        let (partition, from, to) = (lane.partition(), event_sort(0), event_sort(SEQ_MAX));
        Ok(self.store.table.query(Span { partition, from, to, newest_first: true, limit: 1 }).await?.pop())
    }

    /// What is there now, of what few items point to.
    async fn get(&self, key: &Key) -> Result<Option<Item>> {
        self.count(1);
        self.store.table.get(key).await
    }

    fn known(&self, name: &str) -> Option<&Known> {
        self.consumers.get(&name.parse::<ConsumerName>().ok()?)
    }

    /// Known, or forgotten.
    fn was_known(&self, name: &str) -> bool {
        self.known(name).is_some() || self.forgotten.contains(name)
    }

    /// No event has a position behind this one yet, whatever the clocks of hosts say.
    fn beyond(&self) -> u64 {
        const CLOCKS_DIFFER: Duration = Duration::from_secs(15 * 60);
        super::clock::first_at(self.now.plus(CLOCKS_DIFFER))
    }

    fn count(&self, reads: usize) {
        self.read.fetch_add(u64::try_from(reads).unwrap_or_default(), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

async fn partition(store: &Store, name: &str) -> Result<Vec<Item>> {
    let (from, to) = ("!".to_owned(), "~".to_owned());
    store.table.query(Span { partition: name.to_owned(), from, to, newest_first: false, limit: usize::MAX }).await
}
