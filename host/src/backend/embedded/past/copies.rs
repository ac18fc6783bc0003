//! Copies of one consumer's state, in a file of their own that has no name and goes with them.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::{Past, PastError};
use crate::backend::embedded::commit::StateNumber;
use crate::backend::embedded::state::{self, Scan};
use crate::backend::embedded::{failed, size};
use crate::backend::{Kept, Lease, Result, StateCopy, View};
use crate::effects::Effects;
use crate::event::Position;
use crate::order::{Order, OrderId};
use crate::policy::ConsumerName;

const TABLES: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -64000;
    CREATE TABLE entries (state INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (state, key)) WITHOUT ROWID;
    CREATE TABLE counters (state INTEGER NOT NULL, key TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (state, key)) WITHOUT ROWID;";

/// Makes copies, and keeps them all in one place.
pub struct Copies {
    past: Arc<Past>,
    scratch: Arc<Mutex<Connection>>,
    made: StateNumber,
}

/// One copy.
pub struct Copy {
    past: Arc<Past>,
    scratch: Arc<Mutex<Connection>>,
    state: StateNumber,
    /// Of all keys and values.
    bytes: Mutex<u64>,
}

impl Copies {
    /// # Errors
    /// Where there is no room for a file.
    pub fn new(past: Arc<Past>) -> Result<Self> {
        // SQLite's word for a database of its own, on disk where it grows.
        let scratch = Connection::open("").map_err(|error| failed(&error))?;
        scratch.execute_batch(TABLES).map_err(|error| failed(&error))?;
        Ok(Self { past, scratch: Arc::new(Mutex::new(scratch)), made: 0 })
    }

    /// A state with nothing in it.
    pub fn empty(&mut self) -> Arc<Copy> {
        self.made += 1;
        let (past, scratch) = (Arc::clone(&self.past), Arc::clone(&self.scratch));
        Arc::new(Copy { past, scratch, state: self.made, bytes: Mutex::new(0) })
    }

    /// What the consumer keeps now. `None` where the store does not know it.
    ///
    /// # Errors
    /// Where the store cannot be read, or there is no room.
    pub fn current(&mut self, name: &ConsumerName) -> Result<Option<Arc<Copy>>, PastError> {
        let copy = self.empty();
        let bytes = {
            let scratch = self.scratch.lock();
            let copied = || {
                let writing = scratch.unchecked_transaction()?;
                let mut entries = scratch.prepare(state::SET_ENTRY)?;
                let mut counters = scratch.prepare(state::SET_COUNTER)?;
                let bytes = self.past.each_of_state(
                    name,
                    |key, value| entries.execute(params![copy.state, key, value]).map(drop),
                    |key, value| counters.execute(params![copy.state, key, value]).map(drop),
                )?;
                writing.commit()?;
                Ok(bytes)
            };
            copied().map_err(|error| PastError::Database { path: self.past.path.clone(), error })?
        };
        let Some(bytes) = bytes else { return Ok(None) };
        *copy.bytes.lock() = bytes;
        Ok(Some(copy))
    }

    /// Another copy with the same in it.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn copy(&mut self, of: &Copy) -> Result<Arc<Copy>> {
        let copy = self.empty();
        let scratch = self.scratch.lock();
        for table in ["entries", "counters"] {
            let sql = format!("INSERT INTO {table} SELECT ?1, key, value FROM {table} WHERE state = ?2");
            scratch.execute(&sql, params![copy.state, of.state]).map_err(|error| failed(&error))?;
        }
        *copy.bytes.lock() = *of.bytes.lock();
        Ok(copy)
    }
}

impl StateCopy for Copy {
    fn view_at(self: Arc<Self>, position: Position) -> Arc<dyn View> {
        Arc::new(ViewAt { copy: self, position })
    }

    fn keep(&self, effects: &Effects, bytes_max: u64) -> Result<Kept> {
        self.write(effects, bytes_max).map_err(|error| failed(&error))
    }
}

impl Copy {
    fn write(&self, effects: &Effects, bytes_max: u64) -> rusqlite::Result<Kept> {
        let scratch = self.scratch.lock();
        let mut bytes = self.bytes.lock();
        let (mut more, mut less) = (0, 0);
        for (key, value) in &effects.entries {
            less += state::entry(&scratch, self.state, key)?.map_or(0, |value| size::of_entry(key, &value));
            more += value.as_ref().map_or(0, |value| size::of_entry(key, value));
        }
        let mut counters: Vec<(&str, i64)> = Vec::new();
        for adjustment in &effects.adjustments {
            let (key, by) = (&*adjustment.key, adjustment.by);
            match counters.iter_mut().find(|(known, _)| *known == key) {
                // The handling has seen to it that nothing overflows.
                Some((_, value)) => *value = value.saturating_add(by),
                None => {
                    let before = state::counter(&scratch, self.state, key)?;
                    more += before.map_or_else(|| size::of_counter(key), |_| 0);
                    counters.push((key, before.unwrap_or(0).saturating_add(by)));
                }
            }
        }
        let after = (*bytes + more).saturating_sub(less);
        if after > bytes_max && after > *bytes {
            return Ok(Kept::Full { bytes: after });
        }
        for (key, value) in &effects.entries {
            match value {
                Some(value) => {
                    scratch.prepare_cached(state::SET_ENTRY)?.execute(params![self.state, &**key, &**value])?
                }
                None => scratch.prepare_cached(state::DELETE_ENTRY)?.execute(params![self.state, &**key])?,
            };
        }
        for (key, value) in counters {
            scratch.prepare_cached(state::SET_COUNTER)?.execute(params![self.state, key, value])?;
        }
        *bytes = after;
        Ok(Kept::Yes)
    }
}

/// A copy, and orders as they stood after one event.
struct ViewAt {
    copy: Arc<Copy>,
    position: Position,
}

impl ViewAt {
    fn read<T>(&self, read: impl FnOnce(&Connection, StateNumber) -> rusqlite::Result<T>) -> Result<T> {
        read(&self.copy.scratch.lock(), self.copy.state).map_err(|error| failed(&error))
    }
}

#[async_trait]
impl View for ViewAt {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>> {
        self.read(|scratch, state| state::entry(scratch, state, key))
    }

    async fn count(&self, key: &str) -> Result<i64> {
        Ok(self.read(|scratch, state| state::counter(scratch, state, key))?.unwrap_or(0))
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        self.read(|scratch, state| state::scan(scratch, Scan { state, prefix, after, limit }, state::Dirty::new()))
    }

    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>> {
        self.read(|scratch, state| {
            state::scan_counts(scratch, Scan { state, prefix, after, limit }, state::Dirty::new())
        })
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        self.copy.past.order_at(id, self.position.get()).map_err(|error| failed(&error))
    }

    async fn durable(&self, _: Lease) -> Result<()> {
        Ok(())
    }
}
