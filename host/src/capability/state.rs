//! The consumer's own state, as one handler sees it: the view, the first answer kept for ever, its own writes on top.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use std::vec;

use super::limits::{self, Budget, check_key, settable, within};
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
        settable("writes", "entries written for one event", self.entries.written.len(), self.budget.limits.writes)
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
                // One that finds nothing is work for the store all the same.
                self.budget.read(0)?;
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
                self.budget.read(0)?;
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
        settable("writes", "adjustments for one event", staged, self.budget.limits.writes)?;
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

#[cfg(test)]
mod tests {
    use super::super::fixture::{Memory, handling, overstep};
    use super::*;
    use crate::policy::Limits;

    fn memory(entries: &[(&str, &[u8])], counters: &[(&str, i64)]) -> Memory {
        Memory {
            entries: entries.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect(),
            counters: counters.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
            ..Memory::default()
        }
    }

    fn adjustment(key: &str, by: i64, floor: Option<i64>) -> Adjustment {
        Adjustment { key: key.into(), by, floor }
    }

    #[tokio::test]
    async fn a_handler_reads_its_own_writes_and_the_commit_only_what_it_was_told() {
        let mut handling = handling(memory(&[("a", b"1"), ("b", b"2")], &[]));
        handling.put("a".to_owned(), Some(b"9".to_vec())).unwrap();
        assert_eq!(handling.get("a").await.unwrap().as_deref(), Some(b"9".as_slice()));
        assert_eq!(handling.get("b").await.unwrap().as_deref(), Some(b"2".as_slice()));
        assert_eq!(handling.get("c").await.unwrap(), None);
        handling.put("b".to_owned(), None).unwrap();
        assert_eq!(handling.get("b").await.unwrap(), None);
        let (reads, effects) = handling.finish();
        let told: Vec<_> = reads.entries.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
        assert_eq!(told, [("b", Some(b"2".as_slice())), ("c", None)]);
        let written: Vec<_> = effects.entries.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
        assert_eq!(written, [("a", Some(b"9".as_slice())), ("b", None)]);
    }

    #[tokio::test]
    async fn the_last_write_of_a_key_is_the_one_that_stays() {
        let mut handling = handling(Memory::default());
        for value in [b"1", b"2", b"3"] {
            handling.put("a".to_owned(), Some(value.to_vec())).unwrap();
        }
        let (_, effects) = handling.finish();
        assert_eq!(effects.entries, [("a".into(), Some(b"3".as_slice().into()))]);
    }

    #[tokio::test]
    async fn a_scan_shows_own_writes_in_key_order_and_skips_what_was_deleted() {
        let stored: Vec<(String, Vec<u8>)> = (0..200).map(|n| (format!("k/{n:03}"), vec![0])).collect();
        let mut handling = handling(Memory { entries: stored.into_iter().collect(), ..Memory::default() });
        // More deleted in a row than are fetched at once.
        for n in 2..150 {
            handling.put(format!("k/{n:03}"), None).unwrap();
        }
        handling.put("k/0005".to_owned(), Some(vec![1])).unwrap();
        handling.put("k/150".to_owned(), Some(vec![2])).unwrap();
        handling.put("other".to_owned(), Some(vec![3])).unwrap();
        let page = handling.scan("k/", Some("k/000"), 4).await.unwrap();
        let seen: Vec<_> = page.iter().map(|(key, value)| (&**key, value[0])).collect();
        assert_eq!(seen, [("k/0005", 1), ("k/001", 0), ("k/150", 2), ("k/151", 0)]);
        let rest = handling.scan("k/", Some("k/151"), 1000).await.unwrap();
        assert_eq!(rest.len(), 48);
        let (reads, _) = handling.finish();
        assert!(reads.entries.is_empty(), "a scan requires nothing");
    }

    #[tokio::test]
    async fn a_scan_of_counters_shows_own_adjustments() {
        let mut handling = handling(memory(&[], &[("s/a", 1), ("s/c", 3)]));
        let adjusted = handling.adjust(vec![adjustment("s/b", 2, None), adjustment("s/c", 1, None)]).await.unwrap();
        assert_eq!(adjusted, Ok(()));
        assert_eq!(handling.count("s/d").await.unwrap(), 0);
        let page = handling.scan_counts("s/", None, 10).await.unwrap();
        let seen: Vec<_> = page.iter().map(|(key, value)| (&**key, *value)).collect();
        assert_eq!(seen, [("s/a", 1), ("s/b", 2), ("s/c", 4)]);
    }

    #[tokio::test]
    async fn a_count_includes_own_adjustments_and_holds_the_view_to_its_own_answer() {
        let mut handling = handling(memory(&[], &[("a", 5)]));
        handling.adjust(vec![adjustment("a", -2, Some(0))]).await.unwrap().unwrap();
        assert_eq!(handling.count("a").await.unwrap(), 3);
        let (reads, effects) = handling.finish();
        assert_eq!(reads.counters, [("a".into(), 5)]);
        assert_eq!(effects.adjustments, [adjustment("a", -2, Some(0))]);
    }

    #[tokio::test]
    async fn adjustments_happen_all_or_none() {
        let mut handling = handling(memory(&[], &[("a", 5), ("b", 1)]));
        let wanted = vec![
            adjustment("a", -2, Some(0)),
            adjustment("b", -1, Some(0)),
            adjustment("a", -4, Some(0)),
            adjustment("b", -1, Some(0)),
        ];
        let adjusted = handling.adjust(wanted).await.unwrap();
        assert_eq!(adjusted, Err(Shortage { key: "a".to_owned(), available: 3 }));
        assert_eq!(handling.count("a").await.unwrap(), 5);
        assert_eq!(handling.count("b").await.unwrap(), 1);
        assert!(handling.finish().1.is_empty());
    }

    #[tokio::test]
    async fn adjusting_alone_is_no_condition_of_the_commit() {
        let mut handling = handling(memory(&[], &[("a", 5)]));
        handling.adjust(vec![adjustment("a", -9, Some(0))]).await.unwrap().unwrap_err();
        handling.adjust(vec![adjustment("a", 1, None)]).await.unwrap().unwrap();
        assert!(handling.finish().0.counters.is_empty());
    }

    #[tokio::test]
    async fn a_counter_that_would_overflow_stops_the_guest() {
        let mut handling = handling(memory(&[], &[("a", i64::MAX - 1)]));
        handling.adjust(vec![adjustment("a", 1, None)]).await.unwrap().unwrap();
        let (kind, message) = overstep(handling.adjust(vec![adjustment("a", 1, None)]).await);
        assert_eq!(kind, "bad-argument");
        assert!(message.contains("counter a holds 9223372036854775807"), "{message}");
    }

    #[tokio::test]
    async fn too_much_stops_the_guest_and_names_the_limit() {
        let mut handling = handling(Memory::default());
        let (kind, message) = overstep(handling.put("a".to_owned(), Some(vec![0; limits::VALUE_BYTES_MAX + 1])));
        assert_eq!((kind, &*message), ("limit", "1048577 bytes of value: the limit is 1048576"));
        let (kind, _) = overstep(handling.get(&"k".repeat(limits::KEY_BYTES_MAX + 1)).await);
        assert_eq!(kind, "limit");
        let (kind, _) = overstep(handling.put(String::new(), None));
        assert_eq!(kind, "bad-argument");
        let full =
            (0..=Limits::default().writes).map(|n| handling.put(n.to_string(), None)).find(Result::is_err).unwrap();
        let (_, message) = overstep(full);
        assert!(
            message.starts_with("10001 entries written for one event: the limit is 10000; raise limits.writes"),
            "{message}"
        );
        let mut handling = self::handling(Memory::default());
        let mebibytes = (0..=16).map(|n| handling.put(n.to_string(), Some(vec![0; 1 << 20]))).find(Result::is_err);
        assert!(overstep(mebibytes.unwrap()).1.contains("bytes staged for one event: the limit is 16777216"));
    }

    #[tokio::test]
    async fn what_the_store_cannot_answer_is_not_the_guests_doing() {
        let broken = Some(crate::backend::Error::Unavailable("disk full".into()));
        let mut handling = handling(Memory { broken, ..Memory::default() });
        assert!(matches!(handling.get("a").await, Err(Stop::Store(_))));
        assert!(matches!(handling.adjust(vec![adjustment("a", 1, None)]).await, Err(Stop::Store(_))));
    }
}
