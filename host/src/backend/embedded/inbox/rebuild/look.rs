//! What a rebuild finds in the store, at one moment.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::Past;
use crate::backend::embedded::commit::ConsumerNumber;
use crate::backend::embedded::generations::Looked;
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::{Store, rows};
use crate::event::Event;

/// Events looked at in one go.
const CHUNK: usize = 256;

/// Past events, and what became of their deliveries.
#[derive(Debug, Default)]
pub struct Look {
    /// Deferred before, and over now: those that nothing that was not looked at stands before. Where there are some, nothing
    /// else was looked for: they come first.
    pub over: Vec<(Arc<Event>, Found)>,
    pub fresh: Vec<(Arc<Event>, Found)>,
    /// The positions that `fresh` is about.
    pub through: Option<(u64, u64)>,
    /// Positions that may be left behind those; `None` where that is not known.
    pub rest: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Or passed by: which of them, the subscriptions say.
    Done,
    /// Retrying, waiting or dead.
    Exception,
    Discarded,
}

/// What is made of a look.
#[derive(Debug, Default)]
pub struct Fed {
    pub looked: Looked,
    /// Events for the queue, in order.
    pub offered: Vec<Arc<Event>>,
    /// Of these, the ones that were deferred.
    pub reopened: Vec<u64>,
}

impl Look {
    pub fn is_empty(&self) -> bool {
        self.over.is_empty() && self.through.is_none()
    }

    /// Looks for what `past` does not know.
    pub fn at(store: &Store, past: &Past) -> rusqlite::Result<Self> {
        let disk = store.readers.disk();
        let connection = disk.connection()?;
        // What is over was done before anything behind it in its lane: both are seen, or neither is.
        let _moment = connection.unchecked_transaction()?;
        let mut look = Self::default();
        let done = done(connection, past)?;
        let fresh = past.looked.first_missing_of(&done);
        let mut over = over(connection, past)?;
        // After a restart, what was in the queue has to be looked at again, and may be of the same lane.
        over.retain(|position| fresh.is_none_or(|(first, _)| *position < first));
        for position in over {
            let Some(event) = event_at(store, position)? else { continue };
            let found = if is_discarded(connection, past, position)? { Found::Discarded } else { Found::Done };
            look.over.push((event, found));
        }
        if look.over.is_empty() {
            look.find_fresh(store, connection, past, (&done, fresh))?;
        }
        Ok(look)
    }

    /// Events between `fresh`, the first positions that are done and were not looked at.
    fn find_fresh(
        &mut self,
        store: &Store,
        disk: &Connection,
        past: &Past,
        (done, fresh): (&Progress, Option<(u64, u64)>),
    ) -> rusqlite::Result<()> {
        let Some((first, last)) = fresh else {
            self.rest = Some(0);
            return Ok(());
        };
        let mut events = store.tail.read(&store.readers, first - 1, CHUNK)?;
        // Nothing behind it is nothing up to the end.
        let last = events.last().map_or(last, |event| last.min(event.position.get()));
        events.retain(|event| event.position.get() <= last);
        let exceptions = positions(disk, EXCEPTIONS, past.filling.consumer, (first, last))?;
        let discarded = positions(disk, DISCARDED, past.filling.consumer, (first, last))?;
        let found = |event: &Event| {
            let is_in = |positions: &[u64]| positions.binary_search(&event.position.get()).is_ok();
            match (is_in(&exceptions), is_in(&discarded)) {
                (true, _) => Found::Exception,
                (false, true) => Found::Discarded,
                (false, false) => Found::Done,
            }
        };
        self.fresh = events.into_iter().map(|event| (Arc::clone(&event), found(&event))).collect();
        self.through = Some((first, last));
        self.rest = Some(done.newest().saturating_sub(last));
        Ok(())
    }
}

/// What the consumer is through with.
fn done(disk: &Connection, past: &Past) -> rusqlite::Result<Progress> {
    let found = disk
        .prepare_cached("SELECT position, ahead FROM consumers WHERE number = ?1")?
        .query_row([past.filling.consumer], |row| rows::progress(row, 0))
        .optional()?;
    Ok(found.unwrap_or_default())
}

const EXCEPTIONS: &str =
    "SELECT position FROM deliveries WHERE consumer = ?1 AND position BETWEEN ?2 AND ?3 ORDER BY position";
const DISCARDED: &str = "SELECT position FROM interventions
                         WHERE consumer = ?1 AND position BETWEEN ?2 AND ?3 AND what = 'discarded' ORDER BY position";

fn positions(
    disk: &Connection,
    sql: &str,
    consumer: ConsumerNumber,
    (first, last): (u64, u64),
) -> rusqlite::Result<Vec<u64>> {
    let range = params![consumer, rows::signed(first), rows::signed(last)];
    disk.prepare_cached(sql)?.query_map(range, |row| row.get(0).map(rows::unsigned))?.collect()
}

/// Deferred positions that are over and not in the queue, lowest first.
fn over(disk: &Connection, past: &Past) -> rusqlite::Result<Vec<u64>> {
    let limit = i64::try_from(CHUNK + past.reopened.len()).unwrap_or(i64::MAX);
    let mut statement = disk.prepare_cached(
        "SELECT position FROM deferred INDEXED BY deferred_over
         WHERE state = ?1 AND over = 1 ORDER BY position LIMIT ?2",
    )?;
    let found = statement.query_map(params![past.filling.state, limit], |row| row.get(0).map(rows::unsigned))?;
    let mut found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    found.retain(|position| !past.reopened.contains(position));
    Ok(found)
}

fn is_discarded(disk: &Connection, past: &Past, position: u64) -> rusqlite::Result<bool> {
    disk.prepare_cached("SELECT 1 FROM interventions WHERE consumer = ?1 AND position = ?2 AND what = 'discarded'")?
        .exists(params![past.filling.consumer, rows::signed(position)])
}

fn event_at(store: &Store, position: u64) -> rusqlite::Result<Option<Arc<Event>>> {
    let found = store.tail.read(&store.readers, position.saturating_sub(1), 1)?;
    Ok(found.into_iter().next().filter(|event| event.position.get() == position))
}
