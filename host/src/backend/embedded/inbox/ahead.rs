//! How many events that nobody looked at yet are wanted: behind the cursor, up to the last that is durable.
//!
//! Kinds are counted by the store; a filter has to look at the events themselves. What was counted is kept, so that each
//! event is counted once while its consumer stands still or comes nearer:
//!
//! ```text
//!    taken so far ──► cursor ─────► upto ─────────► head
//!                      │  wanted − taken  │  to be counted
//! ```

use std::sync::Arc;

use super::{CHUNK, EmbeddedInbox};
use crate::backend::Result;
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::readers::Disk;
use crate::backend::embedded::{kinds, tail};
use crate::event::Subscriptions;

/// Positions whose kinds are counted in one go: a look at a million is kept in pieces.
const SPAN: u64 = 65_536;

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
        loop {
            let (pending, behind) = self.pending();
            let Some((cursor, then)) = behind else { return Ok(pending) };
            let inbox = Arc::clone(self);
            if let Some(ahead) = self.store.look(move |disk| inbox.ahead(disk, cursor, then)).await? {
                return Ok(pending + ahead);
            }
        }
    }

    /// As of `then`, when the cursor was at `cursor`: what was taken since is among the deliveries that were not known
    /// then. `None` where what was counted counts for nothing any more.
    fn ahead(&self, disk: &Disk<'_>, cursor: u64, then: Counts) -> rusqlite::Result<Option<u64>> {
        let (subscriptions, done, mut counts) = {
            let mut desk = self.desk.lock();
            (desk.subscriptions().cloned(), desk.loaded().clone(), desk.count(|_| {}))
        };
        let Some(subscriptions) = subscriptions else {
            let done: u64 = done.ranges_after(cursor).map(|(first, last)| last - first + 1).sum();
            return Ok(Some(self.store.tail.head().saturating_sub(cursor + done)));
        };
        while counts.round == then.round && counts.upto < self.store.tail.head() {
            let from = counts.upto;
            let (last, wanted) = self.survey(disk, &subscriptions, &done, from)?;
            counts = self.desk.lock().count(|counts| counts.add(then.round, from, last, wanted));
        }
        Ok((counts.round == then.round).then(|| counts.wanted.saturating_sub(then.taken)))
    }

    /// Looks at some events behind `from`: up to which, and how many of them are wanted.
    fn survey(
        &self,
        disk: &Disk<'_>,
        subscriptions: &Subscriptions,
        done: &Progress,
        from: u64,
    ) -> rusqlite::Result<(u64, u64)> {
        let count = |events: usize| u64::try_from(events).unwrap_or(u64::MAX);
        if subscriptions.filter() {
            // Not through the chunks that consumers share: nobody else reads these now.
            let events = match self.store.tail.after(from, CHUNK) {
                Some(events) => events,
                None => tail::stored_after(disk.connection()?, disk.contents(), from, CHUNK)?,
            };
            let last = events.last().map_or(self.store.tail.head(), |event| event.position.get());
            let wanted = events.iter().filter(|it| !done.contains(it.position.get()) && subscriptions.want(it));
            return Ok((last, count(wanted.count())));
        }
        let last = self.store.tail.head().min(from + SPAN);
        let wanted = |first, last| -> rusqlite::Result<u64> {
            let kinds = kinds::between(disk.connection()?, first, last)?;
            Ok(kinds.iter().filter(|(kind, _)| subscriptions.hear(kind)).map(|(_, events)| events).sum())
        };
        // What is done ahead of the cursor, or has a row of its own, is not to be counted here.
        let mut ahead = wanted(from + 1, last)?;
        for (first, end) in done.ranges_after(from).take_while(|(first, _)| *first <= last) {
            ahead = ahead.saturating_sub(wanted(first, end.min(last))?);
        }
        Ok((last, ahead))
    }
}
