//! The newest events in memory, so that a consumer at the live edge reads no disk; and the readers for the rest.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{rows, schema};
use crate::event::Event;

/// Events kept: a burst of a second, at about 2 KiB each.
const EVENTS_MAX: usize = 8_192;

pub struct Tail {
    events: Mutex<VecDeque<Arc<Event>>>,
    head: AtomicU64,
}

impl Tail {
    pub fn new(head: u64) -> Self {
        Self { events: Mutex::new(VecDeque::new()), head: AtomicU64::new(head) }
    }

    /// Position of the last event that is durable; 0 before the first.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    pub fn append(&self, new: Vec<Arc<Event>>) {
        let Some(last) = new.last().map(|event| event.position.get()) else { return };
        let mut events = self.events.lock();
        events.extend(new);
        let surplus = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..surplus);
        drop(events);
        self.head.store(last, Ordering::Release);
    }

    /// At most `limit` events after `after`; `None` where the tail does not reach back that far.
    pub fn after(&self, after: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let events = self.events.lock();
        let first = events.front()?.position.get();
        let skip = usize::try_from((after + 1).checked_sub(first)?).ok()?;
        Some(events.iter().skip(skip).take(limit).cloned().collect())
    }
}

/// Connections that see what is committed.
pub struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// Connections kept open; more are opened and closed when more than this read at once.
const IDLE_MAX: usize = 8;

impl Readers {
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.file)?,
        };
        let value = read(&connection);
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        value
    }
}

/// Events after `after` from the disk, oldest first.
pub fn stored_after(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Vec<Arc<Event>>> {
    let sql = format!(
        "SELECT {} FROM events AS e LEFT JOIN orders AS o ON o.number = e.order_number
         WHERE e.position > ?1 ORDER BY e.position LIMIT ?2",
        rows::EVENT
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement.query_map(rusqlite::params![rows::signed(after), limit], rows::event)?.collect()
}
