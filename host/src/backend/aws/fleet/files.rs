//! Plugin files in the table, in pieces under their hash, so that a version runs on hosts that never had its file.
//!
//! A file is there once its own item says that it is whole. That item is written first and says so last, and goes first: what
//! a crash leaves is found by it, and never read.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::backend::aws::item::{Item, Key, bytes, number};
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

pub fn file_key(hash: &Hash) -> Key {
    Key { pk: FILES.to_owned(), sk: hash.to_string() }
}

fn pieces_partition(hash: &Hash) -> String {
    format!("{FILES}#{hash}")
}

pub async fn has(table: &Table, hash: &Hash) -> Result<bool> {
    Ok(table.get(&file_key(hash)).await?.is_some_and(|item| item.flag("whole")))
}

/// Keeps the file; nothing where it is there. Two hosts that do it at once write the same.
pub async fn keep(table: &Table, file: &Binary) -> Result<()> {
    let hash = file.hash();
    if has(table, hash).await? {
        return Ok(());
    }
    let key = file_key(hash);
    let begun = Change::of("SET t = :now").value(":now", number(Timestamp::now().as_millis()));
    table.update(&key, begun).await?;
    for (at, piece) in file.chunks(PIECE_BYTES_MAX).enumerate() {
        let mut transaction = Transaction::default();
        let key = Key { pk: pieces_partition(hash), sk: format!("{at:05}") };
        transaction.put((), Item::at(&key).with("v", bytes(piece)));
        drop(table.transact(transaction).await?);
    }
    // Nobody let go of it meanwhile.
    let whole = Change::of("SET whole = :yes, n = :bytes")
        .only_if("attribute_exists(t)")
        .value(":yes", aws_sdk_dynamodb::types::AttributeValue::Bool(true))
        .value(":bytes", number(file.len()));
    table.update(&key, whole).await.map(drop)
}

/// The file, if it is there and is what its hash says.
pub async fn read(table: &Table, hash: &Hash) -> Result<Option<Binary>> {
    if !has(table, hash).await? {
        return Ok(None);
    }
    let (from, to) = ("0".to_owned(), "9".repeat(5));
    let span = Span { partition: pieces_partition(hash), from, to, newest_first: false, limit: usize::MAX };
    let mut content = Vec::new();
    for piece in table.query(span).await? {
        content.extend_from_slice(piece.blob("v").unwrap_or_default());
    }
    let file = Binary::from(content);
    if file.hash() != hash {
        tracing::warn!(version = %hash.short(), "the file of a version in the table is not what its name says");
        return Ok(None);
    }
    Ok(Some(file))
}

/// Lets go of files that no consumer keeps.
pub async fn remove(table: &Table, hashes: impl IntoIterator<Item = &Hash>) -> Result<()> {
    for hash in hashes {
        table.delete(&file_key(hash)).await?;
        table.clear_partition(&pieces_partition(hash)).await?;
    }
    Ok(())
}

/// Lets go of what crashes left.
pub async fn sweep(table: &Table, kept: &BTreeSet<Hash>) -> Result<()> {
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
    remove(table, &left).await
}
