//! What consumers left that were forgotten: they are gone already, and their rows follow piece by piece.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Step, Worker, count};
use crate::backend::embedded::commit::{ConsumerNumber, StateNumber};
use crate::backend::embedded::writer::Writer;

/// For one piece each: a number of rows of a consumer (?1) or of its state (?2).
const PIECES: [&str; 7] = [
    "DELETE FROM deliveries WHERE consumer = ?1
     AND position IN (SELECT position FROM deliveries WHERE consumer = ?1 AND ?2 = ?2 LIMIT ?3)",
    "DELETE FROM attempts WHERE number IN (SELECT number FROM attempts WHERE consumer = ?1 AND ?2 = ?2 LIMIT ?3)",
    "DELETE FROM interventions WHERE consumer = ?1
     AND position IN (SELECT position FROM interventions WHERE consumer = ?1 AND ?2 = ?2 LIMIT ?3)",
    "DELETE FROM runs WHERE consumer = ?1
     AND (origin, first) IN (SELECT origin, first FROM runs WHERE consumer = ?1 AND ?2 = ?2 LIMIT ?3)",
    "DELETE FROM entries WHERE state = ?2 AND ?1 = ?1
     AND key IN (SELECT key FROM entries WHERE state = ?2 LIMIT ?3)",
    "DELETE FROM counters WHERE state = ?2 AND ?1 = ?1
     AND key IN (SELECT key FROM counters WHERE state = ?2 LIMIT ?3)",
    "DELETE FROM state_sizes WHERE state = ?2 AND ?1 = ?1 AND ?3 = ?3",
];

pub fn clear(worker: &mut Worker) -> Step<()> {
    while let Some((consumer, state)) = worker.read(first)? {
        for piece in PIECES {
            let delete = |limit: usize| {
                move |writer: &mut Writer<'_>| {
                    writer.connection.prepare_cached(piece)?.execute(params![consumer, state, count(limit)])
                }
            };
            while worker.commit(delete(worker.rows))? > 0 {}
        }
        worker.commit(move |writer| {
            let sql = "UPDATE forgotten SET cleared = 1 WHERE number = ?1";
            writer.connection.prepare_cached(sql)?.execute([consumer]).map(drop)
        })?;
    }
    Ok(())
}

fn first(disk: &Connection) -> rusqlite::Result<Option<(ConsumerNumber, StateNumber)>> {
    disk.prepare_cached("SELECT number, state FROM forgotten WHERE cleared = 0 ORDER BY number LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}
