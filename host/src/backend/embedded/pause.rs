//! Consumers that a person paused. The row is the truth; the desk follows it, though whoever asked goes away.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::backfills::to_its_end;
use super::commit::ConsumerNumber;
use super::{Embedded, rows};
use crate::backend::{Durable, Pause, Result};
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

pub async fn set(embedded: &Embedded, name: &ConsumerName, pause: Option<Pause>) -> Result<Durable<bool>> {
    let (store, name) = (Arc::clone(&embedded.store), name.clone());
    to_its_end(async move {
        let owned = name.clone();
        let found = store.task(move |writer| write(writer.connection, &owned, pause.as_ref())).await?;
        fault::pass(Point::PauseDurable);
        if let Some(inbox) = store.inbox(&name) {
            inbox.look_at_pause()?;
        }
        Ok(found)
    })
    .await
}

fn write(disk: &Connection, name: &ConsumerName, pause: Option<&Pause>) -> rusqlite::Result<bool> {
    let rows = match pause {
        Some(Pause { since, reason }) => disk
            .prepare_cached(
                "UPDATE consumers SET paused_at = coalesce(paused_at, ?2), pause_reason = coalesce(?3, pause_reason)
                 WHERE name = ?1",
            )?
            .execute(params![name.as_str(), rows::millis(*since), reason])?,
        None => disk
            .prepare_cached("UPDATE consumers SET paused_at = NULL, pause_reason = NULL WHERE name = ?1")?
            .execute([name.as_str()])?,
    };
    Ok(rows > 0)
}

/// Time and reason, in two columns from `index` on.
pub fn read(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Pause>> {
    let Some(since) = rows::optional_timestamp(row, index)? else { return Ok(None) };
    Ok(Some(Pause { since, reason: row.get(index + 1)? }))
}

pub fn of(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<Pause>> {
    let paused = disk
        .prepare_cached("SELECT paused_at, pause_reason FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| read(row, 0))
        .optional()?;
    Ok(paused.flatten())
}

pub fn is_paused(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<bool> {
    let paused = disk
        .prepare_cached("SELECT paused_at IS NOT NULL FROM consumers WHERE number = ?1")?
        .query_row([consumer], |row| row.get(0))
        .optional()?;
    Ok(paused.unwrap_or(false))
}
