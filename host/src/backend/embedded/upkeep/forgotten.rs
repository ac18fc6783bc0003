//! What consumers left that were forgotten, and states that are past: they are gone already, and their rows follow piece by
//! piece.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Step, Worker, count};
use crate::backend::embedded::commit::{ConsumerNumber, StateNumber};
use crate::backend::embedded::writer::Writer;
use crate::fault::{self, Point};

/// For one piece each: a number of rows (?2) of a consumer (?1).
const PIECES: [&str; 4] = [
    "DELETE FROM deliveries WHERE consumer = ?1
     AND position IN (SELECT position FROM deliveries WHERE consumer = ?1 LIMIT ?2)",
    "DELETE FROM attempts WHERE number IN (SELECT number FROM attempts WHERE consumer = ?1 LIMIT ?2)",
    "DELETE FROM interventions WHERE consumer = ?1
     AND position IN (SELECT position FROM interventions WHERE consumer = ?1 LIMIT ?2)",
    "DELETE FROM runs WHERE consumer = ?1
     AND (origin, first) IN (SELECT origin, first FROM runs WHERE consumer = ?1 LIMIT ?2)",
];

const DEFERRED: &str =
    "DELETE FROM deferred WHERE state = ?1 AND position IN (SELECT position FROM deferred WHERE state = ?1 LIMIT ?2)
     AND state NOT IN (SELECT state FROM generations WHERE standing NOT IN ('past', 'cleared'))";

/// As well, of a state alone (?1).
const STATE_PIECES: [&str; 4] = [
    "DELETE FROM entries WHERE state = ?1 AND key IN (SELECT key FROM entries WHERE state = ?1 LIMIT ?2)",
    "DELETE FROM counters WHERE state = ?1 AND key IN (SELECT key FROM counters WHERE state = ?1 LIMIT ?2)",
    DEFERRED,
    "DELETE FROM state_sizes WHERE state = ?1 AND ?2 = ?2",
];

pub fn clear(worker: &mut Worker) -> Step<()> {
    while let Some((consumer, state)) = worker.read(first)? {
        clear_all(worker, &PIECES, consumer)?;
        clear_all(worker, &STATE_PIECES, state)?;
        worker.commit(move |writer| {
            let sql = "UPDATE forgotten SET cleared = 1 WHERE number = ?1";
            writer.connection.prepare_cached(sql)?.execute([consumer]).map(drop)
        })?;
    }
    while let Some(state) = worker.read(past)? {
        clear_all(worker, &STATE_PIECES, state)?;
        worker.commit(move |writer| {
            let sql = "UPDATE generations SET standing = 'cleared' WHERE state = ?1";
            writer.connection.prepare_cached(sql)?.execute([state]).map(drop)
        })?;
    }
    // What a rebuild deferred means nothing once it is over.
    while let Some(state) = worker.read(deferred)? {
        clear_all(worker, &[DEFERRED], state)?;
    }
    Ok(())
}

fn clear_all(worker: &mut Worker, pieces: &[&'static str], of: i64) -> Step<()> {
    for piece in pieces.iter().copied() {
        let delete = |limit: usize| {
            move |writer: &mut Writer<'_>| writer.connection.prepare_cached(piece)?.execute(params![of, count(limit)])
        };
        while worker.commit(delete(worker.rows))? > 0 {
            fault::pass(Point::ForgetCleared);
        }
    }
    Ok(())
}

fn first(disk: &Connection) -> rusqlite::Result<Option<(ConsumerNumber, StateNumber)>> {
    disk.prepare_cached("SELECT number, state FROM forgotten WHERE cleared = 0 ORDER BY number LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// A generation that is of no use any more.
fn past(disk: &Connection) -> rusqlite::Result<Option<StateNumber>> {
    disk.prepare_cached("SELECT state FROM generations WHERE standing = 'past' ORDER BY state LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
}

/// A state with deferred deliveries that no rebuild fills, now or later.
fn deferred(disk: &Connection) -> rusqlite::Result<Option<StateNumber>> {
    disk.prepare_cached(
        "SELECT state FROM deferred
         WHERE state NOT IN (SELECT state FROM generations WHERE standing NOT IN ('past', 'cleared')) ORDER BY state LIMIT 1",
    )?
    .query_row([], |row| row.get(0))
    .optional()
}
