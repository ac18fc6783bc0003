//! A store read from beside: the events that it has, and what its consumers keep, whether a host runs on it or not.
//!
//! **Invariants**
//! - The store is opened to be read. Where no host runs, none starts while it is; where its file holds everything, nothing is
//!   made beside it.
//! - A read is short, but for the copy of a state: while one lasts, a host cannot fold its write-ahead log in.

mod copies;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::commit::StateNumber;
use super::contents::{Contents, Fixed};
use super::{FILE, RestoreError, rows, schema, size, tail, upkeep, versions};
use crate::backend::Standing;
use crate::event::{Bound, Event, EventRange};
use crate::order::{Order, OrderId, Status};
use crate::policy::ConsumerName;
use crate::version::Hash;

pub use self::copies::Copies;

/// Events read at once.
const CHUNK: usize = 1_024;

pub struct Past {
    path: PathBuf,
    disk: Mutex<Connection>,
    contents: Contents,
    /// The host's own lock, shared, where none runs.
    _held: Option<File>,
}

/// Why the past of a store cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    #[error(transparent)]
    Open(#[from] RestoreError),
    #[error("{}: has the format of an older fanfare. Start this one on it once, or on a copy of it (fanfare backup, fanfare restore)", .0.display())]
    Older(PathBuf),
    #[error("{}: {error}", path.display())]
    Database { path: PathBuf, error: rusqlite::Error },
    #[error("{}: no event has been recorded", .0.display())]
    Empty(PathBuf),
    #[error("there is no {0} yet: the journal ends with position {1}")]
    NotYet(Bound, u64),
    #[error(
        "there is no {0} any more: the journal begins with position {1}, and what is older was removed by retention. Begin there: {1}.."
    )]
    NoMore(Bound, u64),
    #[error("there is no {bound}: the journal has positions {oldest} to {newest}{}", removed(*oldest))]
    NotThere { bound: Bound, oldest: u64, newest: u64 },
    #[error(
        "what was recorded from {0} on is not all there: the journal begins with position {1}, and what is older was removed by retention. Begin there: {1}.."
    )]
    Aged(Bound, u64),
    #[error("no event lies in this range: it begins with position {first} and ends with {last}")]
    Nothing { first: u64, last: u64 },
    #[error("retention removed event {0} while it was being read; begin later, or let the host keep events for longer")]
    Removed(u64),
}

/// A consumer that the store knows.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Position of the first event that it was ever offered.
    pub first: u64,
    /// Position of the oldest event that is there.
    pub oldest: u64,
}

impl Past {
    /// # Errors
    /// [`PastError`] where there is no store of today's format.
    pub fn open(directory: &Path) -> Result<Self, PastError> {
        let path = directory.join(FILE);
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            |error| RestoreError::Unreadable { path, error }
        };
        fs::metadata(&path).map_err(unreadable(&path))?;
        let not_a_store = |why| RestoreError::NotAStore { path: path.clone(), why };
        let lock = directory.join("lock");
        let (held, runs) = hold(&lock).map_err(unreadable(&lock))?;
        let log = fs::metadata(directory.join(format!("{FILE}-wal"))).map_or(0, |log| log.len());
        let disk = if runs || log > 0 { schema::open_reader(&path) } else { schema::open_resting(&path) };
        let disk = disk.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => not_a_store(error.to_string()).into(),
            _ => PastError::Database { path: path.clone(), error },
        })?;
        schema::recognise(&disk).map_err(not_a_store)?;
        let past = Self { path: path.clone(), disk: Mutex::new(disk), contents: Contents::new(), _held: held };
        if past.read(schema::is_current)? { Ok(past) } else { Err(PastError::Older(past.path)) }
    }

    /// The positions of its first and its last event. There is at least one event in between.
    ///
    /// # Errors
    /// [`PastError`] where there is none, or not all of it.
    pub fn resolve(&self, range: &EventRange) -> Result<(u64, u64), PastError> {
        let newest = self.read(|disk| disk.query_row("SELECT max(position) FROM events", [], |row| row.get(0)))?;
        let newest: u64 =
            Option::<i64>::map(newest, rows::unsigned).ok_or_else(|| PastError::Empty(self.path.clone()))?;
        let oldest = self.read(upkeep::first_kept)?;
        let there = |bound: Bound, position: Option<u64>| match position {
            Some(position) if position > newest => Err(PastError::NotYet(bound, newest)),
            Some(position) if position < oldest => Err(PastError::NoMore(bound, oldest)),
            Some(position) => Ok(position),
            None => Err(PastError::NotThere { bound, oldest, newest }),
        };
        let first = match range.from {
            None => oldest,
            Some(bound @ Bound::Position(position)) => there(bound, Some(position.get()))?,
            Some(bound @ Bound::Id(_)) => there(bound, self.position(bound)?)?,
            Some(bound @ Bound::At(time)) => {
                let before = self.read(|disk| upkeep::last_before(disk, time))?;
                if oldest > 1 && before < oldest {
                    return Err(PastError::Aged(bound, oldest));
                }
                before + 1
            }
        };
        let last = match range.to {
            None => newest,
            Some(Bound::Position(position)) => position.get().min(newest),
            Some(bound @ Bound::Id(_)) => there(bound, self.position(bound)?)?,
            Some(Bound::At(time)) => {
                self.read(|disk| upkeep::last_before(disk, time.plus(std::time::Duration::from_millis(1))))?
            }
        };
        if first <= last { Ok((first, last)) } else { Err(PastError::Nothing { first, last }) }
    }

    /// The events at `first` to `last`, some of them: go on behind the last one.
    ///
    /// # Errors
    /// [`PastError::Removed`] where the first is not there any more.
    pub fn events(&self, first: u64, last: u64) -> Result<Vec<Arc<Event>>, PastError> {
        let mut events = self.read(|disk| tail::stored_after(disk, &self.contents, first - 1, CHUNK))?;
        events.retain(|event| event.position.get() <= last);
        match events.first() {
            Some(event) if event.position.get() == first => Ok(events),
            _ => Err(PastError::Removed(first)),
        }
    }

    /// # Errors
    /// Where the store cannot be read.
    pub fn consumer(&self, name: &ConsumerName) -> Result<Option<Known>, PastError> {
        self.read(|disk| {
            let oldest = upkeep::first_kept(disk)?;
            // What a backfill was about, it was offered too.
            let sql = "SELECT min(c.began + 1, coalesce((SELECT min(b.first) FROM backfills AS b
                              WHERE b.consumer = c.number AND b.state <> 'cancelled'), c.began + 1))
                       FROM consumers AS c WHERE c.name = ?1";
            let first: Option<i64> = disk.query_row(sql, [name.as_str()], |row| row.get(0)).optional()?;
            Ok(first.map(|first| Known { first: rows::unsigned(first), oldest }))
        })
    }

    /// # Errors
    /// Where the store cannot be read.
    pub fn standing(&self, name: &ConsumerName) -> Result<Option<Standing>, PastError> {
        self.read(|disk| versions::standing(disk, name))
    }

    /// The versions that the consumer keeps.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn kept(&self, name: &ConsumerName) -> Result<Vec<Hash>, PastError> {
        self.read(|disk| versions::kept(disk, name))
    }

    fn position(&self, bound: Bound) -> Result<Option<u64>, PastError> {
        let Bound::Id(id) = bound else { return Ok(None) };
        let sql = "SELECT position FROM events WHERE id = ?1";
        let position = self.read(|disk| disk.query_row(sql, [rows::id(&id)], |row| row.get(0)).optional())?;
        Ok(position.map(rows::unsigned))
    }

    /// The order as it stood right after the event at `position`.
    fn order_at(&self, id: OrderId, position: u64) -> rusqlite::Result<Option<Order>> {
        let disk = self.disk.lock();
        let Some((number, now)) = rows::order_by_id(&disk, &self.contents, id)? else { return Ok(None) };
        let Fixed { placed_at, content, .. } = self.contents.get_or_read(&disk, number)?;
        let stood = |(revision, status)| Order { id, status, revision, placed_at, content };
        let last = "SELECT revision, substr(kind, length('order.') + 1) FROM events
                    WHERE order_number = ?1 AND revision IS NOT NULL AND position <= ?2 ORDER BY position DESC LIMIT 1";
        let last = disk.prepare_cached(last)?.query_row(params![number, rows::signed(position)], |row| {
            Ok((rows::unsigned(row.get(0)?), rows::parse(row.get_ref(1)?.as_str()?)?))
        });
        if let Some(last) = last.optional()? {
            return Ok(Some(stood(last)));
        }
        let next = "SELECT min(revision) FROM events WHERE order_number = ?1 AND revision IS NOT NULL";
        let next: Option<i64> = disk.prepare_cached(next)?.query_row([number], |row| row.get(0))?;
        Ok(match next.map(rows::unsigned) {
            // All of its events have left the journal.
            None => Some(now),
            // What was before has left it, and what an order was that then went on, its revision says.
            Some(next) => match next - 1 {
                0 => None,
                1 => Some(stood((1, Status::Placed))),
                2 => Some(stood((2, Status::Confirmed))),
                revision => Some(stood((revision, Status::Shipped))),
            },
        })
    }

    /// Hands over every entry and counter of the consumer's state, as they are at one moment. Returns their bytes.
    fn each_of_state(
        &self,
        name: &ConsumerName,
        mut entry: impl FnMut(&str, &[u8]) -> rusqlite::Result<()>,
        mut counter: impl FnMut(&str, i64) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Option<u64>> {
        let disk = self.disk.lock();
        let _moment = disk.unchecked_transaction()?;
        let sql = "SELECT state FROM consumers WHERE name = ?1";
        let state: Option<StateNumber> = disk.query_row(sql, [name.as_str()], |row| row.get(0)).optional()?;
        let Some(state) = state else { return Ok(None) };
        let mut entries = disk.prepare("SELECT key, value FROM entries WHERE state = ?1")?;
        let mut rows = entries.query([state])?;
        while let Some(row) = rows.next()? {
            entry(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_blob()?)?;
        }
        let mut counters = disk.prepare("SELECT key, value FROM counters WHERE state = ?1")?;
        let mut rows = counters.query([state])?;
        while let Some(row) = rows.next()? {
            counter(row.get_ref(0)?.as_str()?, row.get(1)?)?;
        }
        size::read(&disk, state).map(Some)
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, PastError> {
        let disk = self.disk.lock();
        read(&disk).map_err(|error| PastError::Database { path: self.path.clone(), error })
    }
}

/// Where nothing was, nothing could have been removed.
fn removed(oldest: u64) -> &'static str {
    if oldest > 1 { "; what is older was removed by retention" } else { "" }
}

/// The lock on a directory in which no host runs, and whether one does. A directory without a lock never saw one.
fn hold(lock: &Path) -> io::Result<(Option<File>, bool)> {
    let lock = match File::open(lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, false)),
        lock => lock?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok((Some(lock), false)),
        Err(TryLockError::WouldBlock) => Ok((None, true)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests;
