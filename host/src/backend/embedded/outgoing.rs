//! Messages on their way out.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{Embedded, rows};
use crate::backend::{AGAIN_MAX, Outgoing, Parcel, ParcelId, Result, Sending};
use crate::clock::Timestamp;

/// Between two looks when nothing rang: retries become due without a bell.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between the moment in which a try is put off, and the one in which somebody looks.
const SPARE: Duration = Duration::from_secs(60);

#[async_trait]
impl Outgoing for Embedded {
    async fn due(&self, limit: usize) -> Result<Vec<Parcel>> {
        loop {
            let now = Timestamp::now();
            let parcels = self.store.read(move |disk| due(disk, now, limit)).await?;
            if !parcels.is_empty() {
                return Ok(parcels);
            }
            tokio::select! {
                () = self.store.outgoing.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> Result<()> {
        let durable = self
            .task(move |writer| sent.iter().try_for_each(|(id, sending)| settle(writer.connection, id, sending)))
            .await?;
        let () = durable.into_inner();
        Ok(())
    }
}

fn due(disk: &Connection, now: Timestamp, limit: usize) -> rusqlite::Result<Vec<Parcel>> {
    let due = due_between(disk, Timestamp::default(), now, limit)?;
    if !due.is_empty() {
        return Ok(due);
    }
    // So far ahead no try is put off: those are from before the clock was set back.
    due_between(disk, now.plus(AGAIN_MAX + SPARE), Timestamp::MAX, limit)
}

fn due_between(disk: &Connection, from: Timestamp, to: Timestamp, limit: usize) -> rusqlite::Result<Vec<Parcel>> {
    let mut statement = disk.prepare_cached(
        "SELECT number, message_id, attempts, time, message FROM messages
         WHERE state = 'pending' AND due BETWEEN ?1 AND ?2 ORDER BY due, number LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let parcels = statement.query_map([rows::millis(from), rows::millis(to), limit], |row| {
        Ok(Parcel {
            id: row.get::<_, i64>(0)?.to_string().into(),
            message_id: row.get(1)?,
            attempts: row.get(2)?,
            time: rows::timestamp(row, 3)?,
            message: rows::from_json(row.get_ref(4)?.as_str()?)?,
        })
    })?;
    parcels.collect()
}

fn settle(disk: &Connection, id: &ParcelId, sending: &Sending) -> rusqlite::Result<()> {
    let (state, due, error) = match sending {
        Sending::Sent => ("sent", None, None),
        Sending::Again { at, error } => ("pending", Some(rows::millis(*at)), Some(error)),
        Sending::Failed { error } => ("failed", None, Some(error)),
        Sending::Unknown { error } => ("unknown", None, Some(error)),
    };
    disk.prepare_cached(
        "UPDATE messages SET state = ?2, attempts = attempts + 1, due = coalesce(?3, due), error = ?4 WHERE number = ?1",
    )?
    .execute(params![rows::parse::<i64>(id)?, state, due, error])?;
    Ok(())
}
