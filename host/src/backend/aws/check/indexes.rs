//! Entries of the indexes lead back to items: those of the journal, which say in which order events came, and those of what
//! is due.
//!
//! An index follows the table by itself, and may be behind. An entry counts as wrong where it is still there a while later,
//! and the item still is not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{REPORT, RESTORE, Suspect, by_rule};
use crate::backend::aws::due;
use crate::backend::aws::item::{CONSUMERS, Item, Key};
use crate::backend::aws::journal::POSITION_MAX;
use crate::backend::aws::lane::{LOG_SHARDS, OLD_ORDERS, log_partition};
use crate::backend::aws::outgoing;
use crate::backend::aws::resources::names::{LOG_PARTITION, LOG_SORT};
use crate::backend::aws::settle::intent;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Indexed;
use crate::backend::{CheckPlace, CheckStep, Result};

const JOURNAL: &str = "journal";
const DUE: &str = "due entries";
/// Entries read of one partition in one step.
const PAGE: usize = 64;

/// Partition, key of the item, and what it is sorted by.
type Entry = (String, Key, u64);

/// Where the walk begins. A cursor is what entries are sorted by, and the partition where that is not the journal.
pub fn first() -> (i64, i64, String) {
    (0, 0, String::new())
}

/// A page of the journal, or of another partition.
pub async fn step(
    store: &Store,
    (from, _, partition): &(i64, i64, String),
    again_after: Duration,
) -> Result<CheckStep> {
    let from = u64::try_from(*from).unwrap_or_default();
    let (entries, next) = match partition.as_str() {
        "" => journal(store, from).await?,
        partition => one(store, partition, from).await?,
    };
    let rule = if partition.is_empty() { JOURNAL } else { DUE };
    let mut read = 2 * u64::try_from(entries.len()).unwrap_or_default();
    let rows = BTreeMap::from([(rule, read / 2)]);
    let mut wrong = wrong(store, rule, &entries).await?;
    if !wrong.is_empty() {
        tokio::time::sleep(again_after).await;
        let still = self::wrong(store, rule, &again(store, &wrong).await?).await?;
        read += 2 * u64::try_from(wrong.len()).unwrap_or_default();
        wrong.retain(|(_, suspect)| still.iter().any(|(_, other)| other == suspect));
    }
    let told = wrong.into_iter().map(|(_, suspect)| suspect).collect();
    let next = match next {
        Some(from) => Some((from, partition.clone())),
        None => partitions(store).await?.into_iter().find(|other| other > partition).map(|other| (0, other)),
    };
    let next = next.map(|(from, partition)| CheckPlace {
        rule: 1,
        cursor: (i64::try_from(from).unwrap_or(i64::MAX), 0, partition),
    });
    Ok(CheckStep { checked: by_rule(rows, told), read, next })
}

/// The partitions that are gone through behind the journal, in order.
async fn partitions(store: &Store) -> Result<BTreeSet<String>> {
    let consumers = super::partition(store, CONSUMERS).await?;
    let consumers = consumers.iter().filter_map(|item| item.text_or_none("sk"));
    let consumers = consumers.flat_map(|name| [due::partition(name), due::held_partition(name)]);
    Ok(consumers.chain([OLD_ORDERS, outgoing::DUE, intent::OPEN].map(str::to_owned)).collect())
}

/// Entries of all shards from `from` on, in the order of the journal, as far as all shards were read; and where to go on.
async fn journal(store: &Store, from: u64) -> Result<(Vec<Entry>, Option<u64>)> {
    let shards = (0..LOG_SHARDS).map(|shard| one_of(store, log_partition(shard), from));
    let shards = futures::future::try_join_all(shards).await?;
    // Where a shard has more, what comes behind its last entry is looked at in the next step.
    let ends = shards.iter().filter(|shard| shard.len() == PAGE).filter_map(|shard| shard.last());
    let through = ends.map(|(.., position)| *position).min();
    let mut entries: Vec<Entry> = shards.into_iter().flatten().collect();
    entries.retain(|(.., position)| through.is_none_or(|through| *position <= through));
    entries.sort_by_key(|(.., position)| *position);
    Ok((entries, through.map(|through| through + 1)))
}

async fn one(store: &Store, partition: &str, from: u64) -> Result<(Vec<Entry>, Option<u64>)> {
    let entries = one_of(store, partition.to_owned(), from).await?;
    let next = entries.last().filter(|_| entries.len() == PAGE).map(|(.., sort)| sort + 1);
    Ok((entries, next))
}

async fn one_of(store: &Store, partition: String, from: u64) -> Result<Vec<Entry>> {
    let span = Indexed { partition: partition.clone(), from, to: POSITION_MAX, newest_first: false, limit: PAGE };
    let found = store.table.indexed(span).await?;
    Ok(found.into_iter().map(|(key, sort)| (partition.clone(), key, sort)).collect())
}

/// Those of the suspects' entries that are still there.
async fn again(store: &Store, suspects: &[(Entry, Suspect)]) -> Result<Vec<Entry>> {
    let spots: BTreeSet<(&String, u64)> = suspects.iter().map(|((partition, _, sort), _)| (partition, *sort)).collect();
    let mut entries = Vec::new();
    for (partition, sort) in spots {
        let span = Indexed { partition: partition.clone(), from: sort, to: sort, newest_first: false, limit: PAGE };
        let found = store.table.indexed(span).await?;
        entries.extend(found.into_iter().map(|(key, sort)| (partition.clone(), key, sort)));
    }
    Ok(entries)
}

/// Entries that lead to nothing or elsewhere, and events at one position.
async fn wrong(store: &Store, rule: &'static str, entries: &[Entry]) -> Result<Vec<(Entry, Suspect)>> {
    let items = store.table.get_all(entries.iter().map(|(_, key, _)| key.clone())).await?;
    let mut at: BTreeMap<u64, usize> = BTreeMap::new();
    entries.iter().for_each(|(.., sort)| *at.entry(*sort).or_default() += 1);
    let mut wrong = Vec::new();
    for entry in entries {
        let (partition, key, sort) = entry;
        let place = format!("entry {sort} of {partition}, to the item {}, {}", key.pk, key.sk);
        let there = |item: &Item| {
            let same = item.text_or_none(LOG_PARTITION) == Some(partition.as_str());
            same && item.number_or_none(LOG_SORT).is_ok_and(|at| at == Some(*sort))
        };
        let fault = match items.get(key) {
            None => Some(format!("the item is missing: {RESTORE}")),
            Some(item) if !there(item) => Some(format!("the item is elsewhere in the index: {REPORT}")),
            Some(_) if rule == JOURNAL && at.get(sort).is_some_and(|count| *count > 1) => {
                Some(format!("another event has the same position: {REPORT}"))
            }
            Some(_) => None,
        };
        wrong.extend(fault.map(|fault| (entry.clone(), Suspect::new(rule, key, place, fault))));
    }
    Ok(wrong)
}
