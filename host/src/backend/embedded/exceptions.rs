//! Attempts and exceptions on disk: what is written of a delivery that was not simply done.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::commit::{Attempt, ConsumerNumber, Death, Exception};
use super::rows;
use super::runs::{Handled, Run, Taken};
use super::writer::{Memory, Writer};
use crate::backend::Origin;

/// Attempts kept of one delivery: how it began, and how it went lately.
const ATTEMPTS_KEPT_FIRST: i64 = 5;
const ATTEMPTS_KEPT_LAST: i64 = 15;

/// The run that a consumer's deliveries extend.
pub struct OpenRun {
    run: Run,
    /// There is more in it than on disk.
    changed: bool,
}

impl Writer<'_> {
    /// Notes a delivery that was done at its first attempt.
    pub fn handled(&mut self, consumer: ConsumerNumber, handled: &Handled) -> rusqlite::Result<()> {
        let Memory { runs, progress, .. } = &mut *self.memory;
        let Some(open) = runs.get_mut(&(consumer, handled.origin)) else {
            let base = progress.get(&consumer).map_or(0, super::progress::Progress::base);
            let run = Run::begin(base, handled, self.now);
            runs.insert((consumer, handled.origin), OpenRun { run, changed: true });
            return Ok(());
        };
        match open.run.take(handled, self.now) {
            Taken::In => open.changed = true,
            Taken::Begins(next) => {
                let closed = std::mem::replace(open, OpenRun { run: next, changed: true });
                if closed.changed {
                    closed.run.write(self.connection, consumer, handled.origin)?;
                }
            }
            Taken::Apart => {
                let attempt = Attempt::done_at_once(handled, self.now);
                self.attempt(consumer, &attempt)?;
            }
        }
        Ok(())
    }

    pub fn flush_runs(&mut self) -> rusqlite::Result<()> {
        for ((consumer, origin), open) in self.memory.runs.iter_mut().filter(|(_, open)| open.changed) {
            open.run.write(self.connection, *consumer, *origin)?;
            open.changed = false;
        }
        Ok(())
    }

    pub fn exception(&self, consumer: ConsumerNumber, exception: &Exception) -> rusqlite::Result<()> {
        match exception {
            Exception::Store { position, lane, standing, attempts, first_at, replayed, death, backfill, behind } => {
                let cause = death.as_deref().map(|death| self.cause(death)).transpose()?;
                self.connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO deliveries (consumer, position, lane, state, attempts, first_at, due, replayed,
                                                            cause, event_id, died_at, backfill, behind)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                    )?
                    .execute(params![
                        consumer,
                        rows::signed(*position),
                        lane,
                        standing.as_str(),
                        attempts,
                        first_at.map(rows::millis),
                        standing.due().map(rows::millis),
                        replayed,
                        cause,
                        death.as_ref().map(|death| rows::id(&death.event)),
                        death.as_ref().map(|_| rows::millis(self.now)),
                        backfill,
                        behind.map(rows::signed),
                    ])?
            }
            Exception::LeaveBehind { position } => self
                .connection
                .prepare_cached(
                    "UPDATE deliveries SET state = 'skipped' WHERE consumer = ?1 AND position = ?2 AND state = 'dead'",
                )?
                .execute(params![consumer, rows::signed(*position)])?,
            Exception::Remove { position } => {
                self.no_exception(consumer, *position)?;
                self.connection
                    .prepare_cached("DELETE FROM deliveries WHERE consumer = ?1 AND position = ?2")?
                    .execute(params![consumer, rows::signed(*position)])?
            }
        };
        Ok(())
    }

    /// The number of the cause that a dead letter is grouped by.
    fn cause(&self, death: &Death) -> rusqlite::Result<i64> {
        let key = params![death.outcome.as_str(), death.cause];
        self.connection
            .prepare_cached("INSERT INTO causes (outcome, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(key)?;
        self.connection
            .prepare_cached("SELECT number FROM causes WHERE outcome = ?1 AND text = ?2")?
            .query_row(key, |row| row.get(0))
    }

    pub fn attempt(&self, consumer: ConsumerNumber, attempt: &Attempt) -> rusqlite::Result<()> {
        let position = rows::signed(attempt.position);
        let evidence = attempt.cause.as_ref().map(|cause| &cause.evidence);
        let log = evidence.map(|evidence| &evidence.log).filter(|log| !log.is_empty());
        self.connection
            .prepare_cached(
                "INSERT INTO attempts (consumer, position, attempt, outcome, cause, backtrace, version, duration, time,
                                       effects, log, origin, edited, calls, candidate)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params![
                consumer,
                position,
                attempt.attempt,
                attempt.cause.as_ref().map_or("done", |cause| cause.kind.as_str()),
                attempt.cause.as_ref().map(|cause| &cause.detail),
                attempt.cause.as_ref().and_then(|cause| cause.backtrace.as_ref()),
                &*attempt.version,
                rows::signed(attempt.duration_us),
                rows::millis(attempt.time),
                evidence.and_then(|evidence| evidence.effects.as_ref()),
                log.map(rows::json).transpose()?,
                attempt.origin.as_str(),
                attempt.edited,
                Some(&attempt.calls).filter(|calls| !calls.is_empty()).map(rows::json).transpose()?,
                attempt.candidate,
            ])?;
        if attempt.attempt == 1 && attempt.origin != Origin::Replay {
            return Ok(());
        }
        // Of those between the first and the last ones, one goes for each that comes.
        self.connection
            .prepare_cached(
                "DELETE FROM attempts WHERE number =
                     (SELECT number FROM attempts WHERE consumer = ?1 AND position = ?2 ORDER BY number LIMIT 1 OFFSET ?3)
                 AND (SELECT count(*) FROM attempts WHERE consumer = ?1 AND position = ?2) > ?3 + ?4",
            )?
            .execute(params![consumer, position, ATTEMPTS_KEPT_FIRST, ATTEMPTS_KEPT_LAST])?;
        Ok(())
    }
}

/// The last run of each consumer and origin.
pub fn open_runs(disk: &Connection) -> rusqlite::Result<HashMap<(ConsumerNumber, Origin), OpenRun>> {
    let mut consumers = disk.prepare("SELECT number FROM consumers")?;
    let consumers = consumers.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<ConsumerNumber>>>()?;
    let mut last = disk.prepare(
        "SELECT first, last, version, count, duration_sum, duration_max, began, ended FROM runs
         WHERE consumer = ?1 AND origin = ?2 ORDER BY first DESC LIMIT 1",
    )?;
    let mut runs = HashMap::new();
    for consumer in consumers {
        for origin in [Origin::Live, Origin::Backfill] {
            let run = last.query_row(params![consumer, origin.as_str()], |row| Run::read(row, 0)).optional()?;
            runs.extend(run.map(|run| ((consumer, origin), OpenRun { run, changed: false })));
        }
    }
    Ok(runs)
}
