//! Ways back as backfills: rows that fill a generation which was kept, from where it is.

use rusqlite::{Connection, OptionalExtension, params};

use super::{REPORT, report};
use crate::backend::embedded::commit::{BackfillNumber, ConsumerNumber, StateNumber};
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::rows;
use crate::backend::embedded::writer::Writer;
use crate::backend::{BackfillReport, WAY_BACK_RATE, WayBack};
use crate::policy::ConsumerName;

/// A way back that begins.
pub struct Begins<'a> {
    pub consumer: ConsumerNumber,
    /// What it fills, and the positions that are in it.
    pub state: StateNumber,
    pub looked: &'a Progress,
    pub way: &'a WayBack,
    /// How many events are not in it.
    pub events: u64,
}

/// The consumer's way back that is under way.
pub fn under_way(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<(BackfillNumber, WayBack)>> {
    disk.prepare_cached(
        "SELECT b.number, b.way_back FROM backfills AS b JOIN consumers AS c ON c.number = b.consumer
         WHERE c.name = ?1 AND b.state IN ('running', 'paused') AND b.way_back IS NOT NULL",
    )?
    .query_row([name.as_str()], |row| Ok((row.get(0)?, rows::from_json(row.get_ref(1)?.as_str()?)?)))
    .optional()
}

/// Of the backfill with this number, if it is one.
pub fn of(disk: &Connection, number: BackfillNumber) -> rusqlite::Result<Option<WayBack>> {
    let way: Option<String> =
        disk.query_row("SELECT way_back FROM backfills WHERE number = ?1", [number], |row| row.get(0))?;
    way.map(|way| rows::from_json(&way)).transpose()
}

pub fn insert(writer: &Writer<'_>, begins: &Begins<'_>) -> rusqlite::Result<(BackfillNumber, BackfillReport)> {
    let Begins { consumer, state, looked, way, events } = begins;
    let disk = writer.connection;
    let done = writer.memory.progress.get(consumer).map_or(0, Progress::newest);
    let number: BackfillNumber =
        disk.query_row("SELECT coalesce(max(number), 0) + 1 FROM backfills", [], |row| row.get(0))?;
    disk.execute(
        "INSERT INTO backfills (number, consumer, state, since, rate, effects, first, last, position, ahead, events, started_at,
                                generation, done_before, way_back)
         SELECT ?1, ?2, 'running', g.since, ?3, 'state-only', ?4, ?5, ?6, ?7, ?8, ?9, g.state, c.done, ?10
         FROM generations AS g JOIN consumers AS c ON c.number = g.consumer WHERE g.state = ?11",
        params![
            number,
            consumer,
            WAY_BACK_RATE.per_second.get(),
            rows::signed(looked.base() + 1),
            rows::signed(done.max(looked.newest())),
            rows::signed(looked.base()),
            looked.ahead().to_string(),
            rows::signed(*events),
            rows::millis(writer.now),
            rows::json(way)?,
            state,
        ],
    )?;
    let report = disk.query_row(&format!("{REPORT} WHERE b.number = ?1"), [number], report)?;
    Ok((number, report))
}

/// Ends the rebuild or the way back that is under way, and tells its number.
pub fn end(writer: &mut Writer<'_>, consumer: ConsumerNumber) -> rusqlite::Result<Option<BackfillNumber>> {
    let sql = "SELECT number FROM backfills
               WHERE consumer = ?1 AND state IN ('running', 'paused') AND generation IS NOT NULL";
    let number: Option<BackfillNumber> = writer.connection.query_row(sql, [consumer], |row| row.get(0)).optional()?;
    if let Some(number) = number {
        writer.give_up_generation(consumer)?;
        let sql = "UPDATE backfills SET state = 'cancelled', ended_at = ?2 WHERE number = ?1";
        writer.connection.execute(sql, params![number, rows::millis(writer.now)])?;
    }
    Ok(number)
}

/// Ends the way back of a consumer that goes somewhere else.
pub fn leave(writer: &mut Writer<'_>, name: &ConsumerName) -> rusqlite::Result<Option<BackfillNumber>> {
    let sql = "SELECT c.number FROM backfills AS b JOIN consumers AS c ON c.number = b.consumer
               WHERE c.name = ?1 AND b.state IN ('running', 'paused') AND b.way_back IS NOT NULL";
    let consumer: Option<ConsumerNumber> =
        writer.connection.query_row(sql, [name.as_str()], |row| row.get(0)).optional()?;
    consumer.map_or(Ok(None), |consumer| end(writer, consumer))
}
