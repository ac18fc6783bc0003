//! The tables, and how a file of an older format becomes one of today's.
//!
//! `PRAGMA user_version` holds the number of migrations that a file has seen.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::fault::{self, Point};

/// In order; never edited once released, only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
];

/// Pages kept in memory by the writer, in KiB (negative by SQLite's convention). After a commit that balanced a tree SQLite
/// looks through all of them, and what it misses is in the system's cache: more costs more than it saves.
const WRITER_CACHE_KIB: i64 = -16_000;
const READER_CACHE_KIB: i64 = -8_000;

/// Statements kept prepared per connection; the store has fewer than this.
const STATEMENTS_MAX: usize = 64;

/// The one connection that writes. A commit is on disk when it returns: WAL with an fsync per commit.
pub fn open_writer(file: &Path) -> rusqlite::Result<Connection> {
    let mut writer = Connection::open(file)?;
    writer.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA temp_store = MEMORY;",
    )?;
    writer.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    writer.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    migrate(&mut writer, MIGRATIONS)?;
    Ok(writer)
}

/// A connection to look through the file in today's format: what brings an older one there is never committed.
pub fn open_to_check(file: &Path) -> rusqlite::Result<Connection> {
    let store = Connection::open(file)?;
    store.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    store.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    let seen = format(&store, MIGRATIONS)?;
    if seen < MIGRATIONS.len() {
        store.execute_batch("BEGIN")?;
        MIGRATIONS.iter().skip(seen).try_for_each(|migration| store.execute_batch(migration))?;
    }
    Ok(store)
}

/// Whether this is a store of a format that can be opened; else what it is.
pub fn recognise(file: &Connection) -> Result<(), String> {
    let ask = || {
        let format: usize = file.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let sql =
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('orders', 'events', 'consumers')";
        let tables: usize = file.query_row(sql, [], |row| row.get(0))?;
        Ok((format, tables))
    };
    match ask().map_err(|error: rusqlite::Error| error.to_string())? {
        (_, tables) if tables < 3 => Err("it has no table of orders, events or consumers".to_owned()),
        (format, _) if format > MIGRATIONS.len() => {
            Err(format!("it has format {format}, and this version of fanfare knows {} at most", MIGRATIONS.len()))
        }
        _ => Ok(()),
    }
}

/// Whether the file has today's format: an older one lacks tables or columns.
pub fn is_current(file: &Connection) -> rusqlite::Result<bool> {
    let format: usize = file.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(format == MIGRATIONS.len())
}

/// A connection beside the writer that only folds the write-ahead log in.
pub fn open_second(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(connection)
}

/// A connection that sees what is committed, and can change nothing.
pub fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    open_to_read(file, OpenFlags::empty())
}

/// A connection to a file that nobody writes, all of which is in it: nothing is made beside it.
pub fn open_resting(file: &Path) -> rusqlite::Result<Connection> {
    let mut uri = String::from("file:");
    for byte in std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            letter if letter.is_ascii_alphanumeric() => uri.push(char::from(*letter)),
            other => uri.push_str(&format!("%{other:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    open_to_read(uri.as_ref(), OpenFlags::SQLITE_OPEN_URI)
}

fn open_to_read(file: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(file, flags | more)?;
    reader.pragma_update(None, "cache_size", READER_CACHE_KIB)?;
    reader.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(reader)
}

fn refused(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN), Some(why))
}

/// The number of migrations that the file has seen.
fn format(file: &Connection, migrations: &[&str]) -> rusqlite::Result<usize> {
    let seen: usize = file.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if seen > migrations.len() {
        return Err(refused(format!(
            "the store has format {seen}, and this version of fanfare knows {} at most: use a newer fanfare",
            migrations.len()
        )));
    }
    let tables: usize = file.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if seen == 0 && tables > 0 {
        return Err(refused(
            "it is a SQLite file of another program; name another directory with --data-dir".to_owned(),
        ));
    }
    Ok(seen)
}

/// Each migration is a transaction of its own: one that breaks off leaves the file in the format before it.
fn migrate(writer: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let seen = format(writer, migrations)?;
    for (index, migration) in migrations.iter().enumerate().skip(seen) {
        let transaction = writer.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        fault::pass(Point::MigrationWritten);
        transaction.commit()?;
        fault::pass(Point::MigrationCommitted);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
