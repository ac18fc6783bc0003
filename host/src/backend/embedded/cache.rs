//! One consumer's state as its handlers see it: what is on disk, with what is on its way there.
//!
//! A value that was written and is not durable yet must stay here (*dirty*); everything else may be dropped and
//! read again. So a handler never waits for a commit of its own consumer, and hot keys cost no disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Connection;

use super::commit::StateNumber;
use super::readers::Disk;
use super::size;
use super::state::{self, Entries, Scan};
use crate::backend::recent::Recent;
use crate::effects::Value;

/// Values kept per kind, consumer and generation, besides those that are on their way to the disk.
const SLOTS_MAX: usize = 32_768;

struct Slot<T> {
    value: T,
    /// The job that wrote it; 0 if it was read.
    job: u64,
}

struct Slots<T>(Recent<Arc<str>, Slot<T>>);

impl<T: Clone> Slots<T> {
    fn new() -> Self {
        Self(Recent::new(SLOTS_MAX))
    }

    fn get_or_read(&mut self, key: &str, read: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        if let Some(slot) = self.0.get(key) {
            return Ok(slot.value.clone());
        }
        let value = read()?;
        self.0.insert(key.into(), Slot { value: value.clone(), job: 0 }, |slot| slot.job > 0);
        Ok(value)
    }

    fn set(&mut self, key: Arc<str>, value: T, job: u64, durable: u64) {
        self.0.insert(key, Slot { value, job }, |slot| slot.job > durable);
    }

    /// Values with the prefix, after `after`, that are not durable.
    fn dirty(&self, prefix: &str, after: Option<&str>, durable: u64) -> BTreeMap<Arc<str>, T> {
        self.0
            .iter()
            .filter(|(key, slot)| {
                slot.job > durable && key.starts_with(prefix) && after.is_none_or(|after| &***key > after)
            })
            .map(|(key, slot)| (Arc::clone(key), slot.value.clone()))
            .collect()
    }
}

pub struct Cache {
    state: StateNumber,
    entries: Slots<Value>,
    /// `None` where there is no such counter.
    counters: Slots<Option<i64>>,
    /// Of all keys and values, durable or not.
    bytes: u64,
}

impl Cache {
    pub fn new(state: StateNumber) -> Self {
        Self { state, entries: Slots::new(), counters: Slots::new(), bytes: 0 }
    }

    pub fn state(&self) -> StateNumber {
        self.state
    }

    /// Forgets everything: what was not durable is undone.
    pub fn reload(&mut self, disk: &Connection) -> rusqlite::Result<()> {
        *self = Self { bytes: size::read(disk, self.state)?, ..Self::new(self.state) };
        Ok(())
    }

    pub fn entry(&mut self, disk: &Disk<'_>, key: &str) -> rusqlite::Result<Value> {
        let state = self.state;
        self.entries.get_or_read(key, || state::entry(disk.connection()?, state, key))
    }

    /// 0 where there is none.
    pub fn counter(&mut self, disk: &Disk<'_>, key: &str) -> rusqlite::Result<i64> {
        Ok(self.counter_if_any(disk, key)?.unwrap_or(0))
    }

    pub fn counter_if_any(&mut self, disk: &Disk<'_>, key: &str) -> rusqlite::Result<Option<i64>> {
        let state = self.state;
        self.counters.get_or_read(key, || state::counter(disk.connection()?, state, key))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What all keys and values will weigh with these written, and `more` of counters that are new.
    pub fn bytes_with(
        &mut self,
        disk: &Disk<'_>,
        entries: &[(Arc<str>, Value)],
        mut more: u64,
    ) -> rusqlite::Result<u64> {
        let mut less = 0;
        for (key, value) in entries {
            // Whoever read it before has it in memory already.
            less += self.entry(disk, key)?.map_or(0, |value| size::of_entry(key, &value));
            more += value.as_ref().map_or(0, |value| size::of_entry(key, value));
        }
        Ok((self.bytes + more).saturating_sub(less))
    }

    /// Takes over what job number `job` writes.
    pub fn apply(
        &mut self,
        entries: &[(Arc<str>, Value)],
        counters: &[(Arc<str>, i64)],
        bytes: u64,
        job: u64,
        durable: u64,
    ) {
        self.bytes = bytes;
        for (key, value) in entries {
            self.entries.set(Arc::clone(key), value.clone(), job, durable);
        }
        for (key, value) in counters {
            self.counters.set(Arc::clone(key), Some(*value), job, durable);
        }
    }

    pub fn scan(
        &self,
        disk: &Disk<'_>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        durable: u64,
    ) -> rusqlite::Result<Entries> {
        let dirty = self.entries.dirty(prefix, after, durable);
        state::scan(disk.connection()?, Scan { state: self.state, prefix, after, limit }, dirty)
    }

    pub fn scan_counts(
        &self,
        disk: &Disk<'_>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        durable: u64,
    ) -> rusqlite::Result<Vec<(Arc<str>, i64)>> {
        let dirty = self.counters.dirty(prefix, after, durable);
        state::scan_counts(disk.connection()?, Scan { state: self.state, prefix, after, limit }, dirty)
    }
}

#[cfg(test)]
mod tests {
    use super::{SLOTS_MAX, Slots};

    #[test]
    fn what_is_not_durable_is_never_forgotten_and_what_is_can_be() {
        let mut slots = Slots::new();
        let all = 3 * SLOTS_MAX;
        for n in 0..all {
            slots.set(n.to_string().into(), n, 7, 6);
        }
        let lost = || Err(rusqlite::Error::InvalidQuery);
        assert!((0..all).all(|n| slots.get_or_read(&n.to_string(), lost).is_ok_and(|value| value == n)));
        assert_eq!(slots.dirty("", None, 6).len(), all);
        for n in all..2 * all {
            slots.set(n.to_string().into(), n, 8, 7);
        }
        assert!(slots.get_or_read("0", lost).is_err());
    }
}
