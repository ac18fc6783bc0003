//! The consumer's own state, as one handler sees it: the view, the first answer kept for ever, its own writes on top.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use std::vec;

use super::limits::{self, Budget, check_key, within};
use super::{Handling, Stop};
use crate::backend::View;
use crate::effects::Adjustment;

type Value = Arc<[u8]>;

/// Entries read and written.
#[derive(Debug, Default)]
pub struct Entries {
    pub(super) read: BTreeMap<Arc<str>, Option<Value>>,
    pub(super) written: BTreeMap<Arc<str>, Option<Value>>,
}

/// Counters read and adjusted.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) known: BTreeMap<Arc<str>, Counter>,
    pub(super) adjustments: Vec<Adjustment>,
}

#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// What the view answered first.
    pub base: i64,
    /// That and this handler's own adjustments.
    pub now: i64,
    /// Whether the guest was told `base`: then the commit depends on it.
    pub told: bool,
}

/// The first adjustment that would have crossed its floor, and what the counter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub key: String,
    pub available: i64,
}

impl Handling {
    /// The entry at `key`.
    pub async fn get(&mut self, key: &str) -> Result<Option<Value>, Stop> {
        check_key(key)?;
        if let Some(own) = self.entries.written.get(key) {
            return Ok(own.clone());
        }
        if let Some(told) = self.entries.read.get(key) {
            return Ok(told.clone());
        }
        let value = self.view.get(key).await?;
        self.budget.read(key.len() + value.as_ref().map_or(0, |value| value.len()))?;
        self.entries.read.insert(key.into(), value.clone());
        Ok(value)
    }

    /// Sets the entry at `key`, or deletes it.
    pub fn put(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), Stop> {
        check_key(&key)?;
        let bytes = value.as_ref().map_or(0, Vec::len);
        within("bytes of value", bytes, limits::VALUE_BYTES_MAX)?;
        // A key written again counts again: the budget is of work as much as of memory.
        self.budget.stage(key.len() + bytes)?;
        self.entries.written.insert(key.into(), value.map(Arc::from));
        within("entries written for one event", self.entries.written.len(), limits::ENTRIES_MAX)
    }

    /// Entries whose key starts with `prefix`, in key order, after `after`, own writes included.
    pub async fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(Arc<str>, Value)>, Stop> {
        check_scan(prefix, after)?;
        let mut own = own(&self.entries.written, prefix, after, |value| Some(value.clone()));
        let mut stored = Stored::of(after, limit);
        let mut page: Vec<(Arc<str>, Value)> = Vec::new();
        while page.len() < limit as usize {
            if stored.is_empty() {
                stored.refill(self.view.scan(prefix, stored.cursor(), stored.chunk()).await?);
            }
            let Some((key, value)) = merge(&mut own, &mut stored) else { break };
            if let Some(value) = value {
                self.budget.read(key.len() + value.len())?;
                page.push((key, value));
            }
        }
        Ok(page)
    }

    /// The counter at `key`; a missing one is 0.
    pub async fn count(&mut self, key: &str) -> Result<i64, Stop> {
        check_key(key)?;
        let counter = know(&mut self.counters.known, &mut self.budget, &*self.view, key).await?;
        counter.told = true;
        Ok(counter.now)
    }

    /// Counters whose key starts with `prefix`, in key order, after `after`, own adjustments included.
    pub async fn scan_counts(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(Arc<str>, i64)>, Stop> {
        check_scan(prefix, after)?;
        // A counter that was only looked at is as the view has it, or not there at all.
        let adjusted = |counter: &Counter| (counter.now != counter.base).then_some(Some(counter.now));
        let mut own = own(&self.counters.known, prefix, after, adjusted);
        let mut stored = Stored::of(after, limit);
        let mut page = Vec::new();
        while page.len() < limit as usize {
            if stored.is_empty() {
                stored.refill(self.view.scan_counts(prefix, stored.cursor(), stored.chunk()).await?);
            }
            let Some((key, value)) = merge(&mut own, &mut stored) else { break };
            if let Some(value) = value {
                self.budget.read(key.len())?;
                page.push((key, value));
            }
        }
        Ok(page)
    }

    /// Stages all adjustments or none.
    pub async fn adjust(&mut self, adjustments: Vec<Adjustment>) -> Result<Result<(), Shortage>, Stop> {
        let staged = self.counters.adjustments.len().saturating_add(adjustments.len());
        within("adjustments for one event", staged, limits::ADJUSTMENTS_MAX)?;
        for adjustment in &adjustments {
            check_key(&adjustment.key)?;
            know(&mut self.counters.known, &mut self.budget, &*self.view, &adjustment.key).await?;
        }
        match apply(&mut self.counters.known, &adjustments)? {
            Some(shortage) => Ok(Err(shortage)),
            None => {
                self.budget.stage(adjustments.iter().map(|adjustment| adjustment.key.len()).sum())?;
                self.counters.adjustments.extend(adjustments);
                Ok(Ok(()))
            }
        }
    }
}

/// Applies `adjustments` to the counters, which are all known; on a shortage they are as they were.
fn apply(known: &mut BTreeMap<Arc<str>, Counter>, adjustments: &[Adjustment]) -> Result<Option<Shortage>, Stop> {
    for (index, Adjustment { key, by, floor }) in adjustments.iter().enumerate() {
        let Some(counter) = known.get_mut(key) else { continue };
        let Some(now) = counter.now.checked_add(*by) else {
            return Err(Stop::bad_argument(format!("counter {key} holds {}: {by} more overflows", counter.now)));
        };
        if floor.is_some_and(|floor| now < floor) {
            let shortage = Shortage { key: key.to_string(), available: counter.now };
            for Adjustment { key, by, .. } in adjustments.iter().take(index) {
                if let Some(counter) = known.get_mut(key) {
                    counter.now = counter.now.wrapping_sub(*by);
                }
            }
            return Ok(Some(shortage));
        }
        counter.now = now;
    }
    Ok(None)
}

async fn know<'a>(
    known: &'a mut BTreeMap<Arc<str>, Counter>,
    budget: &mut Budget,
    view: &dyn View,
    key: &str,
) -> Result<&'a mut Counter, Stop> {
    if !known.contains_key(key) {
        let base = view.count(key).await?;
        budget.read(key.len())?;
        known.insert(key.into(), Counter { base, now: base, told: false });
    }
    known.get_mut(key).ok_or_else(|| Stop::host("a counter just read is gone"))
}

fn check_scan(prefix: &str, after: Option<&str>) -> Result<(), Stop> {
    within("bytes of prefix", prefix.len(), limits::KEY_BYTES_MAX)?;
    within("bytes of key", after.map_or(0, str::len), limits::KEY_BYTES_MAX)
}

/// What the handler itself has to say about the keys of a scan, in key order.
type Own<V> = Peekable<vec::IntoIter<(Arc<str>, Option<V>)>>;

fn own<T, V>(
    all: &BTreeMap<Arc<str>, T>,
    prefix: &str,
    after: Option<&str>,
    say: impl Fn(&T) -> Option<Option<V>>,
) -> Own<V> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut said = Vec::new();
    for (key, known) in all.range::<str, _>((from, Bound::Unbounded)) {
        if !key.starts_with(prefix) {
            break;
        }
        said.extend(say(known).map(|value| (Arc::clone(key), value)));
    }
    said.into_iter().peekable()
}

/// What the view answers to a scan, fetched in chunks: how many of its keys the handler's own writes hide is not known
/// before.
struct Stored<V> {
    chunk: VecDeque<(Arc<str>, V)>,
    cursor: Option<Arc<str>>,
    limit: usize,
    ended: bool,
}

impl<V> Stored<V> {
    /// Bounds what is fetched ahead of the budget: values have up to [`limits::VALUE_BYTES_MAX`].
    const CHUNK_MAX: usize = 64;

    fn of(after: Option<&str>, limit: u32) -> Self {
        Self { chunk: [].into(), cursor: after.map(Arc::from), limit: limit as usize, ended: false }
    }

    fn is_empty(&self) -> bool {
        self.chunk.is_empty() && !self.ended
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn chunk(&self) -> usize {
        self.limit.min(Self::CHUNK_MAX)
    }

    fn refill(&mut self, chunk: Vec<(Arc<str>, V)>) {
        self.ended = chunk.len() < self.chunk();
        if let Some((last, _)) = chunk.last() {
            self.cursor = Some(Arc::clone(last));
        }
        self.chunk = chunk.into();
    }
}

/// The next key of both in order; where both have it, the handler's own word counts. `None` as value: deleted.
fn merge<V>(own: &mut Own<V>, stored: &mut Stored<V>) -> Option<(Arc<str>, Option<V>)> {
    let order = match (own.peek(), stored.chunk.front()) {
        (Some((own, _)), Some((stored, _))) => own.cmp(stored),
        (Some(_), None) => Ordering::Less,
        (None, _) => Ordering::Greater,
    };
    if order.is_le() {
        if order.is_eq() {
            stored.chunk.pop_front();
        }
        own.next()
    } else {
        stored.chunk.pop_front().map(|(key, value)| (key, Some(value)))
    }
}
