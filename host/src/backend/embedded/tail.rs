//! Events as consumers read them: the newest from memory, older ones from disk, in chunks that consumers share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::contents::Contents;
use super::readers::Readers;
use super::rows;
use crate::event::Event;

/// Events kept: a burst of a few seconds. The content of an order is shared by its events and held by `contents`.
const EVENTS_MAX: usize = 65_536;
/// Events read from disk at once.
const CHUNK: u64 = 256;
/// Chunks kept, for consumers that are behind by about as much as each other.
const CHUNKS_MAX: usize = 32;

/// The events of one chunk that is behind for good.
type Chunk = Arc<[Arc<Event>]>;

/// Where a chunk is, once somebody has read it. Locked meanwhile, so that it is read once.
type Place = Arc<Mutex<Option<Chunk>>>;

pub struct Tail {
    events: Mutex<VecDeque<Arc<Event>>>,
    /// By number, the one used last at the end.
    chunks: Mutex<VecDeque<(u64, Place)>>,
    head: AtomicU64,
}

impl Tail {
    pub fn new(head: u64) -> Self {
        Self { events: Mutex::new(VecDeque::new()), chunks: Mutex::new(VecDeque::new()), head: AtomicU64::new(head) }
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
        let forgotten: Vec<_> = events.drain(..surplus).collect();
        drop(events);
        self.head.store(last, Ordering::Release);
        drop(forgotten);
    }

    /// Events up to this position have left the journal.
    pub fn let_go(&self, position: u64) {
        let mut events = self.events.lock();
        let gone = events.iter().take_while(|event| event.position.get() <= position).count();
        events.drain(..gone);
    }

    /// At most `limit` events after `after`; `None` where the tail does not reach back that far.
    pub fn after(&self, after: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let events = self.events.lock();
        let first = events.front()?.position.get();
        let skip = usize::try_from(after.saturating_add(1).checked_sub(first)?).ok()?;
        Some(events.range(skip.min(events.len())..).take(limit).cloned().collect())
    }

    /// At most `limit` events after `after`, from memory or from disk; none only if there are none.
    pub fn read(&self, readers: &Readers, after: u64, limit: usize) -> rusqlite::Result<Vec<Arc<Event>>> {
        if let Some(events) = self.after(after, limit) {
            return Ok(events);
        }
        // Whoever asks may name any position.
        if after >= self.head() {
            return Ok(Vec::new());
        }
        let number = after / CHUNK;
        if (number + 1) * CHUNK <= self.head() {
            let chunk = self.chunk(readers, number)?;
            let behind = chunk.iter().filter(|event| event.position.get() > after);
            let events: Vec<_> = behind.take(limit).cloned().collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
        let disk = readers.disk();
        stored_after(disk.connection()?, disk.contents(), after, limit)
    }

    fn chunk(&self, readers: &Readers, number: u64) -> rusqlite::Result<Chunk> {
        let place = self.place(number);
        let mut chunk = place.lock();
        if let Some(events) = &*chunk {
            return Ok(Arc::clone(events));
        }
        let disk = readers.disk();
        let (after, last) = (number * CHUNK, (number + 1) * CHUNK);
        let mut events = stored_after(disk.connection()?, disk.contents(), after, usize::try_from(CHUNK).unwrap_or(0))?;
        events.retain(|event| event.position.get() <= last);
        Ok(Arc::clone(chunk.insert(events.into())))
    }

    fn place(&self, number: u64) -> Place {
        let mut chunks = self.chunks.lock();
        let known = chunks.iter().rposition(|(other, _)| *other == number).and_then(|index| chunks.remove(index));
        let (_, place) = known.unwrap_or_default();
        if chunks.len() >= CHUNKS_MAX {
            chunks.pop_front();
        }
        chunks.push_back((number, Arc::clone(&place)));
        place
    }
}

/// Events after `after` from the disk, oldest first.
pub fn stored_after(
    connection: &Connection,
    contents: &Contents,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Arc<Event>>> {
    let sql = format!("SELECT {} FROM events AS e WHERE e.position > ?1 ORDER BY e.position LIMIT ?2", rows::EVENT);
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = statement.query(params![rows::signed(after), limit])?;
    let mut events = Vec::new();
    while let Some(row) = found.next()? {
        events.push(rows::event(row, connection, contents)?);
    }
    Ok(events)
}
