//! The history of versions, and which of them are kept.

use std::collections::BTreeSet;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::backfills::way_back;
use super::{Embedded, rows};
use crate::backend::{
    BackfillStep, Durable, HISTORY_MAX, HistoryEntry, PluginFile, Result, Standing, Turn, TurnOutcome, Versions,
};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;
use crate::version::Hash;

/// Columns of [`entry`], from `version_history AS h`.
const ENTRY: &str = "h.time, h.outcome, h.reason, h.hash, h.version, h.state_version, h.path, h.owner, h.live";

#[async_trait]
impl Versions for Embedded {
    async fn record(&self, name: &ConsumerName, turn: Turn, keep: usize) -> Result<Durable<Vec<Hash>>> {
        let name = name.clone();
        let (inbox, refused) = (self.store.inbox(&name), turn.outcome == TurnOutcome::Refused);
        let recorded = self.task(move |writer| {
            // Whatever comes, the consumer is not on its way to another version any more.
            let left = if refused { None } else { way_back::leave(writer, &name)? };
            Ok((record(writer.connection, writer.now, &name, &turn, keep)?, left))
        });
        let recorded = recorded.await?;
        if let (Some(inbox), Some(number)) = (inbox, recorded.1) {
            inbox.steer_rebuild(number, BackfillStep::Cancel);
        }
        Ok(recorded.map(|(gone, _)| gone))
    }

    async fn standing(&self, name: &ConsumerName) -> Result<Option<Standing>> {
        let name = name.clone();
        self.store.read(move |disk| standing(disk, &name)).await
    }

    async fn history(&self, name: &ConsumerName, limit: usize) -> Result<Vec<HistoryEntry>> {
        let name = name.clone();
        self.store.read(move |disk| history(disk, &name, limit)).await
    }

    async fn kept(&self) -> Result<BTreeSet<Hash>> {
        self.store
            .read(|disk| {
                let mut kept = disk.prepare_cached("SELECT DISTINCT hash FROM kept_versions")?;
                let hashes = kept.query_map([], |row| rows::parse(row.get_ref(0)?.as_str()?))?;
                hashes.collect()
            })
            .await
    }
}

/// Everything that the history has of a consumer that is forgotten.
pub fn forget(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<()> {
    disk.execute("DELETE FROM version_history WHERE consumer = ?1", [name.as_str()])?;
    disk.execute("DELETE FROM kept_versions WHERE consumer = ?1", [name.as_str()])?;
    Ok(())
}

pub fn record(
    disk: &Connection,
    now: Timestamp,
    name: &ConsumerName,
    turn: &Turn,
    keep: usize,
) -> rusqlite::Result<Vec<Hash>> {
    let Turn { outcome, reason, file, live } = turn;
    if *outcome == TurnOutcome::Refused {
        let before = history(disk, name, 1)?.pop();
        if before.is_some_and(|before| before.turn == *turn) {
            return Ok(Vec::new());
        }
    }
    disk.prepare_cached(
        "INSERT INTO version_history (consumer, time, outcome, reason, hash, version, state_version, path, owner, live)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        name.as_str(),
        rows::millis(now),
        outcome.as_str(),
        reason,
        file.hash.map(|hash| hash.to_string()),
        file.version,
        file.state_version,
        file.path,
        file.owner,
        live.map(|hash| hash.to_string()),
    ])?;
    let number = disk.last_insert_rowid();
    disk.prepare_cached(
        "DELETE FROM version_history WHERE consumer = ?1 AND number <=
             (SELECT number FROM version_history WHERE consumer = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)
         AND number <> (SELECT max(number) FROM version_history WHERE consumer = ?1 AND outcome <> 'refused')",
    )?
    .execute(params![name.as_str(), count(HISTORY_MAX)])?;
    if *outcome == TurnOutcome::Refused {
        return Ok(Vec::new());
    }
    // A file that is kept out is none to go back to.
    let file = file.hash.filter(|_| *outcome != TurnOutcome::RolledBack);
    let spoken_of: BTreeSet<Hash> = [file, *live].into_iter().flatten().collect();
    let mut note =
        disk.prepare_cached("INSERT OR REPLACE INTO kept_versions (consumer, hash, number) VALUES (?1, ?2, ?3)")?;
    for hash in &spoken_of {
        note.execute(params![name.as_str(), hash.to_string(), number])?;
    }
    let_go(disk, name, number, keep)
}

/// Keeps the newest `keep` versions and those of the row `number`; what nobody keeps any more.
fn let_go(disk: &Connection, name: &ConsumerName, number: i64, keep: usize) -> rusqlite::Result<Vec<Hash>> {
    let mut surplus = disk.prepare_cached(
        "SELECT hash FROM kept_versions WHERE consumer = ?1 AND number <> ?2
         AND hash NOT IN (SELECT hash FROM kept_versions WHERE consumer = ?1 ORDER BY number DESC, hash LIMIT ?3)",
    )?;
    let surplus = surplus.query_map(params![name.as_str(), number, count(keep)], |row| row.get(0))?;
    let surplus: Vec<String> = surplus.collect::<rusqlite::Result<_>>()?;
    let mut gone = Vec::new();
    for hash in surplus {
        disk.prepare_cached("DELETE FROM kept_versions WHERE consumer = ?1 AND hash = ?2")?
            .execute(params![name.as_str(), hash])?;
        let others = disk.prepare_cached("SELECT 1 FROM kept_versions WHERE hash = ?1")?.exists([&hash])?;
        if !others {
            gone.push(rows::parse(&hash)?);
        }
    }
    Ok(gone)
}

pub fn standing(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<Standing>> {
    disk.prepare_cached(&format!(
        "SELECT {ENTRY} FROM version_history AS h WHERE consumer = ?1 AND outcome <> 'refused' ORDER BY number DESC LIMIT 1"
    ))?
    .query_row([name.as_str()], |row| {
        let (_, Turn { outcome, reason, file, live }) = entry(row)?;
        Ok(Standing { outcome, file: file.hash, live, reason })
    })
    .optional()
}

/// The versions that the consumer keeps.
pub fn kept(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Vec<Hash>> {
    let mut kept = disk.prepare_cached("SELECT hash FROM kept_versions WHERE consumer = ?1 ORDER BY number")?;
    kept.query_map([name.as_str()], |row| rows::parse(row.get_ref(0)?.as_str()?))?.collect()
}

fn history(disk: &Connection, name: &ConsumerName, limit: usize) -> rusqlite::Result<Vec<HistoryEntry>> {
    let mut found = disk.prepare_cached(&format!(
        "SELECT {ENTRY}, EXISTS (SELECT 1 FROM kept_versions AS k WHERE k.consumer = h.consumer AND k.hash = h.hash)
         FROM version_history AS h WHERE consumer = ?1 ORDER BY number DESC LIMIT ?2"
    ))?;
    let found = found.query_map(params![name.as_str(), count(limit)], |row| {
        let (time, turn) = entry(row)?;
        Ok(HistoryEntry { time, turn, kept: row.get(9)? })
    })?;
    found.collect()
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(Timestamp, Turn)> {
    let hash = |index: usize| row.get_ref(index)?.as_str_or_null()?.map(rows::parse).transpose();
    let outcome = row.get_ref(1)?.as_str()?;
    let outcome = TurnOutcome::ALL.into_iter().find(|known| known.as_str() == outcome);
    let file = PluginFile {
        hash: hash(3)?,
        version: row.get(4)?,
        state_version: row.get(5)?,
        path: row.get(6)?,
        owner: row.get(7)?,
    };
    // Only a newer fanfare writes others, and its store is not opened.
    let outcome = outcome.unwrap_or(TurnOutcome::Refused);
    Ok((rows::timestamp(row, 0)?, Turn { outcome, reason: row.get(2)?, file, live: hash(8)? }))
}
