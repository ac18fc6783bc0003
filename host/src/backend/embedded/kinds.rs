//! How many events of each kind there are, by blocks of the journal: what a consumer far behind has to do is counted
//! without reading every event of it.
//!
//! ```text
//! positions   1 … 4096 | 4097 … 8192 | 8193 …
//! counted     row      | row         | none yet: these are read
//! ```
//! A block is counted when the first event of the next one is recorded, in the same transaction.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::rows;

/// Events in one block: counting that many takes about a millisecond. The migration to format 2 has it too.
pub const BLOCK: u64 = 4_096;

/// Counts the block before `position`, if that is the first of a block.
pub fn close(disk: &Connection, position: u64) -> rusqlite::Result<()> {
    let before = position.saturating_sub(1);
    if before == 0 || !before.is_multiple_of(BLOCK) {
        return Ok(());
    }
    disk.prepare_cached(
        "INSERT OR REPLACE INTO journal_kinds (block, kind, events)
         SELECT ?1, kind, count(*) FROM events WHERE position BETWEEN ?2 AND ?3 GROUP BY kind",
    )?
    .execute(params![rows::signed(before / BLOCK - 1), rows::signed(before - BLOCK + 1), rows::signed(before)])?;
    Ok(())
}

/// Forgets blocks whose events, up to `position`, have left the journal.
pub fn let_go(disk: &Connection, position: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM journal_kinds WHERE block < ?1";
    disk.prepare_cached(sql)?.execute([rows::signed(position / BLOCK)]).map(drop)
}

/// Events of each kind from `first` to `last`.
pub fn between(disk: &Connection, first: u64, last: u64) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut kinds = BTreeMap::new();
    let newest: Option<i64> =
        disk.prepare_cached("SELECT max(block) FROM journal_kinds")?.query_row([], |row| row.get(0))?;
    let counted = newest.map_or(0, |block| rows::unsigned(block) + 1);
    // Blocks that lie within, and were counted.
    let (from, to) = (first.saturating_sub(1).div_ceil(BLOCK), counted.min(last / BLOCK));
    if from < to {
        read(disk, first, from * BLOCK, &mut kinds)?;
        let sql = "SELECT kind, sum(events) FROM journal_kinds WHERE block >= ?1 AND block < ?2 GROUP BY kind";
        add(disk, sql, from, to, &mut kinds)?;
        read(disk, to * BLOCK + 1, last, &mut kinds)?;
    } else {
        read(disk, first, last, &mut kinds)?;
    }
    Ok(kinds.into_iter().collect())
}

fn read(disk: &Connection, first: u64, last: u64, kinds: &mut BTreeMap<String, u64>) -> rusqlite::Result<()> {
    let sql = "SELECT kind, count(*) FROM events WHERE position BETWEEN ?1 AND ?2 GROUP BY kind";
    if first <= last { add(disk, sql, first, last, kinds) } else { Ok(()) }
}

fn add(disk: &Connection, sql: &str, a: u64, b: u64, kinds: &mut BTreeMap<String, u64>) -> rusqlite::Result<()> {
    let mut statement = disk.prepare_cached(sql)?;
    let mut found = statement.query([rows::signed(a), rows::signed(b)])?;
    while let Some(row) = found.next()? {
        *kinds.entry(row.get(0)?).or_insert(0) += rows::unsigned(row.get(1)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};

    use super::{BLOCK, between, close, let_go, read};

    fn journal(events: u64) -> Connection {
        let disk = Connection::open_in_memory().unwrap();
        disk.execute_batch(
            "CREATE TABLE events (position INTEGER PRIMARY KEY, kind TEXT NOT NULL);
             CREATE TABLE journal_kinds (block INTEGER, kind TEXT, events INTEGER, PRIMARY KEY (block, kind)) WITHOUT ROWID;",
        )
        .unwrap();
        for position in 1..=events {
            let kind = if position % 3 == 0 { "com.a" } else { "order.placed" };
            disk.prepare_cached("INSERT INTO events VALUES (?1, ?2)")
                .unwrap()
                .execute(params![position, kind])
                .unwrap();
            close(&disk, position).unwrap();
        }
        disk
    }

    #[test]
    fn what_is_counted_by_blocks_is_what_is_there() {
        let events = 3 * BLOCK + 100;
        let disk = journal(events);
        let edges = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 1, events];
        for first in edges {
            for last in edges.into_iter().chain([u64::MAX]) {
                let mut expected = std::collections::BTreeMap::new();
                read(&disk, first, last, &mut expected).unwrap();
                assert_eq!(
                    between(&disk, first, last).unwrap(),
                    expected.into_iter().collect::<Vec<_>>(),
                    "{first}-{last}"
                );
            }
        }
    }

    #[test]
    fn blocks_are_counted_as_they_fill_and_go_with_their_events() {
        let disk = journal(2 * BLOCK + 1);
        let blocks = || -> Vec<u64> {
            let mut statement = disk.prepare("SELECT DISTINCT block FROM journal_kinds ORDER BY block").unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        assert_eq!(blocks(), [0, 1]);
        let_go(&disk, BLOCK - 1).unwrap();
        assert_eq!(blocks(), [0, 1]);
        let_go(&disk, BLOCK).unwrap();
        assert_eq!(blocks(), [1]);
    }
}
