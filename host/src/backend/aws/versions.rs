//! The history of versions, and which of them are kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::Aws;
use super::fleet::{self, files};
use super::item::{Item, Key, json, number};
use super::store::Store;
use super::table::{Change, Span, Table, Transaction};
use crate::backend::{Durable, Error, HISTORY_MAX, HistoryEntry, Result, Standing, Turn, TurnOutcome, Versions};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;
use crate::version::Hash;

/// Partition of what is kept: `<consumer>#<hash>`.
const KEPT: &str = "k";

/// A row of the history, with its number.
struct Row {
    key: Key,
    number: u64,
    time: Timestamp,
    turn: Turn,
}

/// A version that is kept, with the number of the last row that speaks of it.
struct Kept {
    key: Key,
    by: String,
    hash: Hash,
    number: u64,
}

#[async_trait]
impl Versions for Aws {
    async fn record(&self, name: &ConsumerName, turn: Turn, keep: usize) -> Result<Durable<Vec<Hash>>> {
        loop {
            let mut transaction = Transaction::default();
            let left = match turn.outcome {
                TurnOutcome::Refused => None,
                _ => self.store.leave_way_back(name, &mut transaction).await?,
            };
            let Some(gone) = write(&self.store.table, name, &turn, keep, &mut transaction).await? else {
                return Ok(Durable::assert(Vec::new()));
            };
            if self.store.table.transact(transaction).await?.is_ok() {
                let_files_go(&self.store.table, &gone).await;
                if left.is_some() {
                    self.tell(name).await?;
                }
                return Ok(Durable::assert(gone));
            }
        }
    }

    async fn standing(&self, name: &ConsumerName) -> Result<Option<Standing>> {
        if let Some(item) = self.store.table.get(&Key::standing(name)).await? {
            return fleet::standing(&item).map(Some);
        }
        let rows = rows(&self.store.table, name).await?;
        let newest = rows.into_iter().map(|row| row.turn).find(|turn| turn.outcome != TurnOutcome::Refused);
        Ok(newest.map(|Turn { outcome, reason, file, live }| Standing { outcome, file: file.hash, live, reason }))
    }

    async fn history(&self, name: &ConsumerName, limit: usize) -> Result<Vec<HistoryEntry>> {
        let kept: BTreeSet<Hash> =
            self.all_kept().await?.into_iter().filter(|kept| kept.by == name.as_str()).map(|kept| kept.hash).collect();
        let rows = rows(&self.store.table, name).await?.into_iter().take(limit);
        let entry = |Row { time, turn, .. }: Row| {
            let kept = turn.file.hash.is_some_and(|hash| kept.contains(&hash));
            HistoryEntry { time, turn, kept }
        };
        Ok(rows.map(entry).collect())
    }

    async fn kept(&self) -> Result<BTreeSet<Hash>> {
        Ok(self.all_kept().await?.into_iter().map(|kept| kept.hash).collect())
    }
}

/// Lets go of plugin files that a crash left in the table.
pub async fn sweep_files(store: Arc<Store>) {
    let swept = async {
        let kept = all_kept(&store.table).await?.into_iter().map(|kept| kept.hash).collect();
        remove(&store.table, &files::left(&store.table, &kept).await?).await
    };
    if let Err(error) = swept.await {
        tracing::warn!(%error, "files of versions that a crash may have left stay in the table");
    }
}

/// Lets go of files that nobody keeps.
async fn remove(table: &Table, files: &[Hash]) -> Result<()> {
    for hash in files {
        let Some(going) = files::let_go(table, hash).await? else { continue };
        // Whoever keeps it since then finds that it goes.
        let is_kept = all_kept(table).await?.iter().any(|kept| kept.hash == *hash);
        if is_kept { going.spare(table).await? } else { going.end(table).await? }
    }
    Ok(())
}

fn row_key(name: &ConsumerName, row: u64) -> Key {
    Key { pk: format!("v#{name}"), sk: format!("{row:010}") }
}

async fn all_kept(table: &Table) -> Result<Vec<Kept>> {
    let (partition, from, to) = (KEPT.to_owned(), "a".to_owned(), "~".to_owned());
    let items = table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await?;
    let kept = |item: &Item| {
        let sort = item.text("sk")?.to_owned();
        let (by, hash) = sort.split_once('#').ok_or_else(|| Error::Failed(format!("{sort} is no version").into()))?;
        let hash = hash.parse().map_err(|error| Error::Failed(format!("{error}").into()))?;
        let by = by.to_owned();
        Ok(Kept { key: Key { pk: KEPT.to_owned(), sk: sort }, by, hash, number: item.number("n")? })
    };
    items.iter().map(kept).collect()
}

impl Aws {
    /// A consumer that is forgotten has no history and keeps no version.
    pub(super) async fn forget_versions(&self, name: &ConsumerName) -> Result<()> {
        self.store.table.delete(&Key::standing(name)).await?;
        self.store.table.clear_partition(&row_key(name, 0).pk).await?;
        let (own, others): (Vec<Kept>, Vec<Kept>) =
            self.all_kept().await?.into_iter().partition(|kept| kept.by == name.as_str());
        for kept in &own {
            self.store.table.delete(&kept.key).await?;
        }
        let gone = own.iter().map(|kept| kept.hash).filter(|hash| others.iter().all(|other| other.hash != *hash));
        let_files_go(&self.store.table, &gone.collect::<Vec<_>>()).await;
        Ok(())
    }

    async fn all_kept(&self) -> Result<Vec<Kept>> {
        all_kept(&self.store.table).await
    }
}

/// Adds a row to the history, and what it says is kept: the versions that nobody keeps any more then. `None` where it would say
/// what the last one says.
pub async fn write(
    table: &Table,
    name: &ConsumerName,
    turn: &Turn,
    keep: usize,
    transaction: &mut Transaction<()>,
) -> Result<Option<Vec<Hash>>> {
    let rows = rows(table, name).await?;
    if turn.outcome == TurnOutcome::Refused && rows.first().is_some_and(|last| last.turn == *turn) {
        return Ok(None);
    }
    let row = rows.first().map_or(0, |last| last.number) + 1;
    if turn.outcome != TurnOutcome::Refused {
        transaction.put((), fleet::standing_item(name, turn)?);
    }
    let item = Item::at(&row_key(name, row)).with("t", number(Timestamp::now().as_millis()));
    // Two hosts that record at the same time take different numbers.
    transaction.create((), item.with("turn", json(turn)?));
    let last_live = rows.iter().find(|row| row.turn.outcome != TurnOutcome::Refused).map(|row| row.number);
    let stays = turn.outcome == TurnOutcome::Refused;
    for old in rows.iter().skip(HISTORY_MAX - 1).filter(|old| !stays || last_live != Some(old.number)).take(8) {
        transaction.delete((), old.key.clone(), Change::default());
    }
    match turn.outcome {
        TurnOutcome::Refused => Ok(Some(Vec::new())),
        _ => keep_newest(table, name, turn, row, keep, transaction).await.map(Some),
    }
}

/// The version with this layout that was live last, where the history knows it.
pub async fn last_of_layout(table: &Table, name: &ConsumerName, layout: u32) -> Result<Option<Hash>> {
    let rows = rows(table, name).await?;
    let is_of = |hash: &Hash| {
        let file = |row: &Row| row.turn.file.hash == Some(*hash) && row.turn.file.state_version == Some(layout);
        rows.iter().any(file)
    };
    let mut live = rows.iter().filter(|row| row.turn.outcome != TurnOutcome::Refused).filter_map(|row| row.turn.live);
    Ok(live.find(is_of))
}

/// What stays is found by the next start.
pub async fn let_files_go(table: &Table, gone: &[Hash]) {
    if let Err(error) = remove(table, gone).await {
        tracing::warn!(%error, "files of versions that nobody keeps stay in the table for now");
    }
}

/// Newest first.
async fn rows(table: &Table, name: &ConsumerName) -> Result<Vec<Row>> {
    let (partition, from, to) = (row_key(name, 0).pk, "0".to_owned(), "9".repeat(10));
    let items = table.query(Span { partition, from, to, newest_first: true, limit: usize::MAX }).await?;
    let row = |item: &Item| {
        let key = Key { pk: item.text("pk")?.to_owned(), sk: item.text("sk")?.to_owned() };
        Ok(Row { key, number: item.parse("sk")?, time: item.time("t")?, turn: item.json("turn")? })
    };
    items.iter().map(row).collect()
}

/// Keeps the newest `keep` versions and those of this row; what nobody keeps any more.
async fn keep_newest(
    table: &Table,
    name: &ConsumerName,
    turn: &Turn,
    row: u64,
    keep: usize,
    transaction: &mut Transaction<()>,
) -> Result<Vec<Hash>> {
    // A file that is kept out is none to go back to.
    let file = turn.file.hash.filter(|_| turn.outcome != TurnOutcome::RolledBack);
    let spoken_of: BTreeSet<Hash> = [file, turn.live].into_iter().flatten().collect();
    for hash in &spoken_of {
        let key = Key { pk: KEPT.to_owned(), sk: format!("{name}#{hash}") };
        transaction.put((), Item::at(&key).with("n", number(row)));
    }
    let all = all_kept(table).await?;
    let mut own: Vec<&Kept> =
        all.iter().filter(|kept| kept.by == name.as_str() && !spoken_of.contains(&kept.hash)).collect();
    own.sort_by_key(|kept| (std::cmp::Reverse(kept.number), kept.hash));
    let mut gone = Vec::new();
    for surplus in own.into_iter().skip(keep.saturating_sub(spoken_of.len())) {
        transaction.delete((), surplus.key.clone(), Change::default());
        if !all.iter().any(|other| other.hash == surplus.hash && other.by != name.as_str()) {
            gone.push(surplus.hash);
        }
    }
    Ok(gone)
}
