//! Plugin files in the table, in pieces under their hash, so that a version runs on hosts that never had its file.
//!
//! A file is there while its own item says that it is whole. That item is written first and says so last, and goes last: what a
//! crash leaves is found by it, and never read.
//!
//! ```text
//! nothing ──► begun ──► whole ──► going ──► nothing
//!               ▲                   │
//!               └── kept again ─────┘
//! ```
//!
//! **Invariants**
//! - A piece is written only while its file is begun, and deleted only while it goes.
//! - A file is whole only if nobody let go of it since its pieces were begun.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use uuid::Uuid;

use crate::backend::aws::item::{Item, Key, bytes, number, text};
use crate::backend::aws::table::{Change, Span, Table, Transaction};
use crate::backend::{Error, Result};
use crate::clock::Timestamp;
use crate::version::{Binary, Hash};

/// Partition of the items of whole files.
const FILES: &str = "b";
/// Of one piece; an item takes 400 KB with its keys.
const PIECE_BYTES_MAX: usize = 350 << 10;
/// What nobody keeps by then was left by a host that died before the history spoke of it.
const LEFT_AFTER: Duration = Duration::from_secs(3_600);
/// Times that a file is begun, while others let go of it.
const KEEPS_MAX: u32 = 4;

pub fn file_key(hash: &Hash) -> Key {
    Key { pk: FILES.to_owned(), sk: hash.to_string() }
}

fn pieces_partition(hash: &Hash) -> String {
    format!("{FILES}#{hash}")
}

/// Whether the file that an item is of can be read.
pub fn is_whole(item: &Item) -> bool {
    item.flag("whole") && item.text_or_none("gone").is_none()
}

pub async fn has(table: &Table, hash: &Hash) -> Result<bool> {
    Ok(table.get(&file_key(hash)).await?.is_some_and(|item| is_whole(&item)))
}

/// Keeps the file; nothing where it is there. Two hosts that do it at once write the same.
pub async fn keep(table: &Table, file: &Binary) -> Result<()> {
    let (hash, key) = (file.hash(), file_key(file.hash()));
    for _ in 0..KEEPS_MAX {
        if has(table, hash).await? {
            return Ok(());
        }
        if let Some(begun) = begin(table, &key).await?
            && write(table, file, &begun).await?
        {
            let whole = Change::of("SET whole = :yes, n = :bytes").only_if_also(&begun);
            let whole = whole.value(":yes", AttributeValue::Bool(true)).value(":bytes", number(file.len()));
            if table.update_once(&key, whole).await?.is_some() {
                return Ok(());
            }
        }
        // Somebody let go of it meanwhile.
    }
    Err(Error::Unavailable("others let go of the file of a version, again and again".into()))
}

/// That nobody let go of the file since it was begun here, or by somebody who writes the same just now. `None` where somebody
/// was quicker.
async fn begin(table: &Table, key: &Key) -> Result<Option<Change>> {
    let own = Uuid::now_v7().to_string();
    let begin =
        |set: &str| Change::of(set).value(":own", text(&own)).value(":now", number(Timestamp::now().as_millis()));
    let anew = begin("SET up = if_not_exists(up, :own), t = :now").only_if("attribute_not_exists(gone)");
    let begun = match table.update(key, anew).await? {
        Some(item) => Some(item),
        // Whoever lets go of it ends with that; some of its pieces may have gone.
        None => {
            let again = begin("SET up = :own, t = :now REMOVE gone, whole").only_if("attribute_exists(gone)");
            table.update(key, again).await?
        }
    };
    let is_begun = |item: Item| {
        let begun = Change::default().only_if("up = :up AND attribute_not_exists(gone)");
        Ok(begun.value(":up", text(item.text("up")?)))
    };
    begun.map(is_begun).transpose()
}

/// Writes the pieces of a file, for as long as it is `begun`.
async fn write(table: &Table, file: &Binary, begun: &Change) -> Result<bool> {
    let hash = file.hash();
    for (at, piece) in file.chunks(PIECE_BYTES_MAX).enumerate() {
        let mut transaction = Transaction::default();
        transaction.check((), file_key(hash), begun.clone());
        let key = Key { pk: pieces_partition(hash), sk: format!("{at:05}") };
        transaction.put((), Item::at(&key).with("v", bytes(piece)));
        if table.transact(transaction).await?.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The file, if it is there and is what its hash says.
pub async fn read(table: &Table, hash: &Hash) -> Result<Option<Binary>> {
    if !has(table, hash).await? {
        return Ok(None);
    }
    let mut content = Vec::new();
    for piece in pieces(table, hash).await? {
        content.extend_from_slice(piece.blob("v").unwrap_or_default());
    }
    let file = Binary::from(content);
    if file.hash() != hash {
        tracing::warn!(version = %hash.short(), "the file of a version in the table is not what its name says");
        return Ok(None);
    }
    Ok(Some(file))
}

async fn pieces(table: &Table, hash: &Hash) -> Result<Vec<Item>> {
    let (from, to) = ("0".to_owned(), "9".repeat(5));
    table.query(Span { partition: pieces_partition(hash), from, to, newest_first: false, limit: usize::MAX }).await
}

/// A file that nobody reads any more, until somebody keeps it again.
#[must_use]
pub struct Going {
    hash: Hash,
    own: String,
}

/// Begins to let go of a file. `None` where it is not there.
pub async fn let_go(table: &Table, hash: &Hash) -> Result<Option<Going>> {
    let own = Uuid::now_v7().to_string();
    let goes = Change::of("SET gone = :own").only_if("attribute_exists(pk)").value(":own", text(&own));
    let goes = table.update_once(&file_key(hash), goes).await?;
    Ok(goes.map(|_| Going { hash: *hash, own }))
}

impl Going {
    fn is_own(&self, update: &str) -> Change {
        Change::of(update).only_if("gone = :own").value(":own", text(&self.own))
    }

    /// It stays as it was.
    pub async fn spare(self, table: &Table) -> Result<()> {
        table.update(&file_key(&self.hash), self.is_own("REMOVE gone")).await.map(drop)
    }

    /// Deletes it, unless somebody keeps it again.
    pub async fn end(self, table: &Table) -> Result<()> {
        for piece in pieces(table, &self.hash).await? {
            let mut transaction = Transaction::default();
            transaction.check((), file_key(&self.hash), self.is_own(""));
            transaction.delete((), piece.key()?, Change::default());
            if table.transact(transaction).await?.is_err() {
                return Ok(());
            }
        }
        let mut transaction = Transaction::default();
        transaction.delete((), file_key(&self.hash), self.is_own(""));
        table.transact(transaction).await.map(drop)
    }
}

/// Files that crashes left.
pub async fn left(table: &Table, kept: &BTreeSet<Hash>) -> Result<Vec<Hash>> {
    let before = Timestamp::now().minus(LEFT_AFTER);
    let (from, to) = ("0".to_owned(), "g".to_owned());
    let span = Span { partition: FILES.to_owned(), from, to, newest_first: false, limit: usize::MAX };
    let mut left = Vec::new();
    for item in table.query(span).await? {
        let hash = item.text("sk")?.parse::<Hash>().map_err(|error| Error::Failed(error.to_string().into()))?;
        if !kept.contains(&hash) && item.time("t")? < before {
            left.push(hash);
        }
    }
    Ok(left)
}
