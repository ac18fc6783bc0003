//! How many events that nobody looked at yet are wanted: behind the cursor, up to the last that is durable.
//!
//! Kinds are counted by the store. A filter has to look at the events themselves; what it found is kept, so that each
//! is counted once while its consumer stands still or comes nearer:
//!
//! ```text
//!    taken so far ──► cursor ─────► upto ─────────► head
//!                      │  wanted − taken  │  to be counted
//! ```

use std::sync::Arc;

use rusqlite::Connection;

use super::{CHUNK, EmbeddedInbox};
use crate::backend::Result;
use crate::backend::embedded::readers::Disk;
use crate::backend::embedded::{rows, tail};
use crate::event::{Subscriptions, Wanted};

/// Since the desk was loaded, or its subscriptions changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Raised whenever what was counted before counts for nothing.
    pub round: u64,
    /// Events that were wanted when the cursor passed them.
    pub taken: u64,
    upto: u64,
    /// What `taken` will be when the cursor is at `upto`.
    wanted: u64,
}

impl Counts {
    /// Another round: everything is to be counted anew.
    pub fn again(self) -> Self {
        Self { round: self.round + 1, ..Self::default() }
    }

    /// Adds the events behind `from`, up to `last`, of which `wanted` are; unless somebody counted them meanwhile.
    fn add(&mut self, round: u64, from: u64, last: u64, wanted: u64) {
        if (self.round, self.upto) == (round, from) {
            (self.upto, self.wanted) = (last, self.wanted + wanted);
        }
    }

    /// As of `cursor`, which may have passed what was counted.
    pub fn at(self, cursor: u64) -> Self {
        if self.upto < cursor { Self { upto: cursor, wanted: self.taken, ..self } } else { self }
    }
}

impl EmbeddedInbox {
    /// Deliveries that are not durably done, and events not looked at yet that will be some.
    pub async fn count_pending(self: &Arc<Self>) -> Result<u64> {
        match self.pending() {
            (pending, None) => Ok(pending),
            (pending, Some(cursor)) => {
                let inbox = Arc::clone(self);
                Ok(pending + self.store.look(move |disk| inbox.ahead(disk, cursor)).await?)
            }
        }
    }

    fn ahead(&self, disk: &Disk<'_>, cursor: u64) -> rusqlite::Result<u64> {
        let (subscriptions, done): (_, Vec<_>) = {
            let desk = self.desk.lock();
            (desk.subscriptions().cloned(), desk.loaded().ranges_after(cursor).collect())
        };
        let Some(subscriptions) = subscriptions else {
            let done: u64 = done.iter().map(|(first, last)| last - first + 1).sum();
            return Ok(self.store.tail.head().saturating_sub(cursor + done));
        };
        let kinds = kinds_in(disk.connection()?, cursor + 1, u64::MAX)?;
        if kinds.iter().any(|(kind, _)| subscriptions.of_kind(kind) == Wanted::Some) {
            return self.count_one_by_one(disk, &subscriptions);
        }
        let wanted = |kinds: Vec<(String, u64)>| -> u64 {
            let wanted = kinds.into_iter().filter(|(kind, _)| subscriptions.of_kind(kind) == Wanted::All);
            wanted.map(|(_, events)| events).sum()
        };
        // What is done ahead of the cursor, or has a row of its own, is not to be counted here.
        let mut ahead = wanted(kinds);
        for (first, last) in done {
            ahead = ahead.saturating_sub(wanted(kinds_in(disk.connection()?, first, last)?));
        }
        Ok(ahead)
    }

    fn count_one_by_one(&self, disk: &Disk<'_>, subscriptions: &Subscriptions) -> rusqlite::Result<u64> {
        let (mut counts, done) = {
            let mut desk = self.desk.lock();
            (desk.count(|_| {}), desk.loaded().clone())
        };
        let round = counts.round;
        while counts.round == round && counts.upto < self.store.tail.head() {
            // Not through the chunks that consumers share: nobody else reads these now.
            let events = match self.store.tail.after(counts.upto, CHUNK) {
                Some(events) => events,
                None => tail::stored_after(disk.connection()?, disk.contents(), counts.upto, CHUNK)?,
            };
            let Some(last) = events.last().map(|event| event.position.get()) else { break };
            let wanted = events.iter().filter(|it| !done.contains(it.position.get()) && subscriptions.want(it)).count();
            let (from, wanted) = (counts.upto, u64::try_from(wanted).unwrap_or(u64::MAX));
            counts = self.desk.lock().count(|counts| counts.add(round, from, last, wanted));
        }
        Ok(counts.wanted.saturating_sub(counts.taken))
    }
}

fn kinds_in(disk: &Connection, first: u64, last: u64) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut statement =
        disk.prepare_cached("SELECT kind, count(*) FROM events WHERE position BETWEEN ?1 AND ?2 GROUP BY kind")?;
    let range = [rows::signed(first), rows::signed(last)];
    let rows = statement.query_map(range, |row| Ok((row.get(0)?, rows::unsigned(row.get(1)?))))?;
    rows.collect()
}
