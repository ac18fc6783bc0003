//! Entries and counters of a state as they stand in rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::commit::StateNumber;
use crate::effects::Value;

pub const SET_ENTRY: &str = "INSERT INTO entries (state, key, value) VALUES (?1, ?2, ?3)
     ON CONFLICT (state, key) DO UPDATE SET value = excluded.value";
pub const DELETE_ENTRY: &str = "DELETE FROM entries WHERE state = ?1 AND key = ?2";
pub const SET_COUNTER: &str = "INSERT INTO counters (state, key, value) VALUES (?1, ?2, ?3)
     ON CONFLICT (state, key) DO UPDATE SET value = excluded.value";

/// Keys and what they hold, in key order.
pub type Entries = Vec<(Arc<str>, Arc<[u8]>)>;
/// Keys whose rows are not what they hold any more, and what that is.
pub type Dirty<T> = BTreeMap<Arc<str>, Option<T>>;

/// Which keys of a state: those that begin with `prefix` and come after `after`, `limit` at most.
#[derive(Clone, Copy)]
pub struct Scan<'a> {
    pub state: StateNumber,
    pub prefix: &'a str,
    pub after: Option<&'a str>,
    pub limit: usize,
}

pub fn entry(disk: &Connection, state: StateNumber, key: &str) -> rusqlite::Result<Value> {
    disk.prepare_cached("SELECT value FROM entries WHERE state = ?1 AND key = ?2")?
        .query_row(params![state, key], |row| Ok(Arc::from(row.get_ref(0)?.as_blob()?)))
        .optional()
}

/// `None` where there is none.
pub fn counter(disk: &Connection, state: StateNumber, key: &str) -> rusqlite::Result<Option<i64>> {
    disk.prepare_cached("SELECT value FROM counters WHERE state = ?1 AND key = ?2")?
        .query_row(params![state, key], |row| row.get(0))
        .optional()
}

pub fn scan(disk: &Connection, scan: Scan<'_>, dirty: Dirty<Arc<[u8]>>) -> rusqlite::Result<Entries> {
    let mut statement =
        disk.prepare_cached("SELECT key, value FROM entries WHERE state = ?1 AND key >= ?2 ORDER BY key")?;
    let stored = statement.query_map(params![scan.state, scan.begin()], |row| {
        Ok((Arc::from(row.get_ref(0)?.as_str()?), Arc::from(row.get_ref(1)?.as_blob()?)))
    })?;
    scan.merge(stored, dirty)
}

pub fn scan_counts(disk: &Connection, scan: Scan<'_>, dirty: Dirty<i64>) -> rusqlite::Result<Vec<(Arc<str>, i64)>> {
    let mut statement =
        disk.prepare_cached("SELECT key, value FROM counters WHERE state = ?1 AND key >= ?2 ORDER BY key")?;
    let stored = statement
        .query_map(params![scan.state, scan.begin()], |row| Ok((Arc::from(row.get_ref(0)?.as_str()?), row.get(1)?)))?;
    scan.merge(stored, dirty)
}

impl<'a> Scan<'a> {
    fn begin(&self) -> &'a str {
        self.after.unwrap_or(self.prefix).max(self.prefix)
    }

    /// Both in key order, the dirty value where a key stands in both, those that are present.
    fn merge<T>(
        &self,
        stored: impl Iterator<Item = rusqlite::Result<(Arc<str>, T)>>,
        mut dirty: Dirty<T>,
    ) -> rusqlite::Result<Vec<(Arc<str>, T)>> {
        let mut found = Vec::new();
        for row in stored {
            let (key, value) = row?;
            if self.after.is_some_and(|after| &*key <= after) {
                continue;
            }
            if !key.starts_with(self.prefix) || found.len() >= self.limit {
                break;
            }
            while let Some(first) = dirty.first_entry().filter(|first| first.key() < &key) {
                let (key, value) = first.remove_entry();
                found.extend(value.map(|value| (key, value)));
            }
            match dirty.remove(&key) {
                Some(newer) => found.extend(newer.map(|newer| (key, newer))),
                None => found.push((key, value)),
            }
        }
        found.extend(dirty.into_iter().filter_map(|(key, value)| Some((key, value?))));
        found.truncate(self.limit);
        Ok(found)
    }
}
