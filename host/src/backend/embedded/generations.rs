//! Generations of a consumer's state. One is in use; a rebuild that is under way fills another, and hands it over in one
//! statement; what is past or was given up goes piece by piece.
//!
//! ```text
//!   begin ──► filling ──► in use (consumers.state) ──► past ──► cleared
//!                └─────────── cancelled ────────────────┘
//! ```
//! That of a way back was kept before, and is kept again where it is cancelled: see `layouts`.
//!
//! A rebuild is through with a position, or passed it by because its delivery is an exception: then it is *deferred*, and
//! comes back once that is over.
//!
//! **Invariant**: when a generation is handed over, every position that the consumer is through with was handled on it,
//! needs no handling, or has a row among the exceptions.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::backfills::way_back;
use super::commit::{BackfillNumber, ConsumerNumber, StateNumber};
use super::rows;
use super::writer::Writer;
use crate::backend::BackfillFailure;
use crate::effects::Value;
use crate::fault::{self, Point};

/// A rebuild that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    pub consumer: ConsumerNumber,
    pub backfill: BackfillNumber,
    pub state: StateNumber,
}

/// What a rebuild writes at once.
pub enum Step {
    /// It looked at some positions.
    Looked(Looked),
    /// It handled an event.
    Done(Box<Rebuilt>),
    /// It could not get an event done; for good, if it `stops`.
    Failed { failure: BackfillFailure, stops: bool },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Ranges that need no handling.
    pub passed: Vec<(u64, u64)>,
    /// Positions of exceptions.
    pub deferred: Vec<u64>,
    /// Positions that were deferred and need no handling after all.
    pub dismissed: Vec<u64>,
}

/// An event that was handled on the new generation.
pub struct Rebuilt {
    pub position: u64,
    pub was_deferred: bool,
    /// It had failed before.
    pub recovered: bool,
    pub entries: Vec<(Arc<str>, Value)>,
    pub counters: Vec<(Arc<str>, i64)>,
    pub bytes: Option<u64>,
    /// Effects that were not to be committed.
    pub dropped: u64,
}

/// Never one that a state had before: what that one left may still be there.
const NEXT_STATE: &str = "SELECT max(coalesce((SELECT max(state) FROM consumers), 0),
                                     coalesce((SELECT max(state) FROM forgotten), 0),
                                     coalesce((SELECT max(state) FROM generations), 0)) + 1";

pub fn next_state(disk: &Connection) -> rusqlite::Result<StateNumber> {
    disk.query_row(NEXT_STATE, [], |row| row.get(0))
}

/// The rebuilds that are under way, for the writer.
pub fn under_way(disk: &Connection) -> rusqlite::Result<HashMap<ConsumerNumber, Filling>> {
    let mut statement = disk.prepare(
        "SELECT consumer, number, generation FROM backfills
         WHERE state IN ('running', 'paused') AND generation IS NOT NULL",
    )?;
    let found = statement.query_map([], |row| {
        let filling = Filling { consumer: row.get(0)?, backfill: row.get(1)?, state: row.get(2)? };
        Ok((filling.consumer, filling))
    })?;
    found.collect()
}

impl Writer<'_> {
    /// A new, empty generation for the rebuild with this number.
    pub fn begin_generation(
        &mut self,
        consumer: ConsumerNumber,
        backfill: BackfillNumber,
    ) -> rusqlite::Result<Filling> {
        let filling = Filling { consumer, backfill, state: next_state(self.connection)? };
        let row = params![filling.state, consumer];
        self.connection
            .execute("INSERT INTO generations (state, consumer, standing) VALUES (?1, ?2, 'filling')", row)?;
        self.memory.rebuilds.insert(consumer, filling);
        Ok(filling)
    }

    /// What the consumer's rebuild filled is thrown away, if one is under way; what a way back did is kept as far as it came.
    pub fn give_up_generation(&mut self, consumer: ConsumerNumber) -> rusqlite::Result<()> {
        if let Some(filling) = self.memory.rebuilds.remove(&consumer) {
            let looked = self.memory.backfills.remove(&filling.backfill).unwrap_or_default();
            let sql = "UPDATE generations SET standing = iif(layout IS NULL, 'past', 'kept'), position = ?2, ahead = ?3
                       WHERE state = ?1";
            let came = params![filling.state, rows::signed(looked.base()), looked.ahead().to_string()];
            self.connection.execute(sql, came)?;
        }
        Ok(())
    }

    /// The delivery of an exception is over: a rebuild that passed it by looks at it again, and so does a way back to a state that
    /// is kept without it.
    pub fn no_exception(&self, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE deferred SET over = 1 WHERE position = ?2 AND state IN
                     (SELECT state FROM generations WHERE consumer = ?1 AND standing NOT IN ('past', 'cleared'))",
            )?
            .execute(params![consumer, rows::signed(position)])
            .map(drop)
    }

    /// Writes what a rebuild says, unless it has ended.
    pub fn rebuild(&mut self, filling: Filling, step: Step) -> rusqlite::Result<()> {
        if self.memory.rebuilds.get(&filling.consumer) != Some(&filling) {
            return Ok(());
        }
        match step {
            Step::Looked(looked) => self.looked(filling, looked),
            Step::Done(rebuilt) => self.rebuilt(filling, *rebuilt),
            Step::Failed { failure, stops } => {
                let stopped = "UPDATE backfills SET failure = ?2, state = iif(?3, 'paused', state) WHERE number = ?1";
                let failure = params![filling.backfill, rows::json(&failure)?, stops];
                self.connection.prepare_cached(stopped)?.execute(failure).map(drop)
            }
        }
    }

    fn looked(&mut self, filling: Filling, looked: Looked) -> rusqlite::Result<()> {
        let Looked { passed, deferred, dismissed } = looked;
        // It may have ended since it was looked at.
        let mut defer = self.connection.prepare_cached(
            "INSERT INTO deferred (state, position, over)
             SELECT ?1, ?2, NOT EXISTS (SELECT 1 FROM deliveries WHERE consumer = ?3 AND position = ?2)",
        )?;
        for position in &deferred {
            defer.execute(params![filling.state, rows::signed(*position), filling.consumer])?;
        }
        for position in dismissed {
            self.dismiss(filling, position)?;
        }
        let through = passed.into_iter().chain(deferred.into_iter().map(|position| (position, position)));
        self.through_rebuild(filling, through);
        fault::pass(Point::RebuildLooked);
        Ok(())
    }

    fn rebuilt(&mut self, filling: Filling, rebuilt: Rebuilt) -> rusqlite::Result<()> {
        let Rebuilt { position, was_deferred, recovered, entries, counters, bytes, dropped } = rebuilt;
        if was_deferred {
            self.dismiss(filling, position)?;
        }
        self.through_rebuild(filling, (!was_deferred).then_some((position, position)).into_iter());
        if recovered {
            let sql = "UPDATE backfills SET failure = NULL
                       WHERE number = ?1 AND json_extract(failure, '$.position') = ?2";
            self.connection.prepare_cached(sql)?.execute(params![filling.backfill, rows::signed(position)])?;
        }
        self.state_written(filling.state, entries, counters, bytes);
        let tally = self.backfills.entry(filling.backfill).or_default();
        tally.delivered += 1;
        tally.dropped += dropped;
        fault::pass(Point::RebuildHandled);
        Ok(())
    }

    fn dismiss(&self, filling: Filling, position: u64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM deferred WHERE state = ?1 AND position = ?2")?
            .execute(params![filling.state, rows::signed(position)])?;
        Ok(())
    }

    fn through_rebuild(&mut self, filling: Filling, ranges: impl Iterator<Item = (u64, u64)>) {
        if let Some(progress) = self.memory.backfills.get_mut(&filling.backfill) {
            ranges.for_each(|(first, last)| progress.add(first, last));
        }
        self.backfills.entry(filling.backfill).or_default();
    }

    /// Makes what the rebuild filled the consumer's state, if nothing is left that the consumer has done and the rebuild
    /// has not. `false` if something is, or it does not run.
    pub fn hand_over(&mut self, filling: Filling) -> rusqlite::Result<bool> {
        let Filling { consumer, backfill, state } = filling;
        if self.memory.rebuilds.get(&consumer) != Some(&filling) || !self.has_caught_up(filling)? {
            return Ok(false);
        }
        let Some(looked) = self.memory.backfills.get(&backfill) else { return Ok(false) };
        let (base, ahead) = (rows::signed(looked.base()), looked.ahead().to_string());
        let ended = params![backfill, base, ahead, rows::signed(looked.newest()), rows::millis(self.now)];
        let running = self.connection.execute(
            "UPDATE backfills SET state = 'done', position = ?2, ahead = ?3, last = ?4, ended_at = ?5, failure = NULL
             WHERE number = ?1 AND state = 'running'",
            ended,
        )?;
        if running == 0 {
            return Ok(false);
        }
        fault::pass(Point::RebuildEnded);
        match way_back::of(self.connection, backfill)? {
            Some(way) => self.keep_in_use(filling, &way)?,
            None => {
                let past = "INSERT INTO generations (state, consumer, standing)
                            SELECT state, number, 'past' FROM consumers WHERE number = ?1";
                self.connection.execute(past, [consumer])?;
            }
        }
        self.connection.execute("UPDATE consumers SET state = ?2 WHERE number = ?1", params![consumer, state])?;
        self.connection.execute("DELETE FROM generations WHERE state = ?1", [state])?;
        self.memory.rebuilds.remove(&consumer);
        self.memory.backfills.remove(&backfill);
        fault::pass(Point::RebuildSwapped);
        Ok(true)
    }

    fn has_caught_up(&self, filling: Filling) -> rusqlite::Result<bool> {
        let done = self.memory.progress.get(&filling.consumer);
        let looked = self.memory.backfills.get(&filling.backfill);
        let (Some(done), Some(looked)) = (done, looked) else { return Ok(false) };
        if looked.first_missing_of(done).is_some() {
            return Ok(false);
        }
        let over = self
            .connection
            .prepare_cached("SELECT 1 FROM deferred WHERE state = ?1 AND over = 1 LIMIT 1")?
            .query_row([filling.state], |_| Ok(()))
            .optional()?;
        Ok(over.is_none())
    }
}
