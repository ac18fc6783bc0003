//! The copy of a state: piece by piece, so that nobody waits for it but the consumer that it belongs to.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, params};

use crate::backend::Result;
use crate::backend::embedded::commit::StateNumber;
use crate::backend::embedded::{Store, rows};
use crate::fault::{self, Point};

/// What one task of the committer copies at most: a millisecond or two.
const PIECE_ROWS: usize = 1_024;
const PIECE_BYTES: u64 = 256 << 10;

/// Keys of a state (?1) from one on (?2), with what each weighs; and what copies them up to another one (?3) to another
/// state (?4).
struct Table {
    keys: &'static str,
    copy: &'static str,
}

const TABLES: [Table; 2] = [
    Table {
        keys: "SELECT key, octet_length(key) + octet_length(value) FROM entries WHERE state = ?1 AND key >= ?2 ORDER BY key",
        copy: "INSERT INTO entries (state, key, value)
               SELECT ?4, key, value FROM entries WHERE state = ?1 AND key >= ?2 AND key <= ?3",
    },
    Table {
        keys: "SELECT key, octet_length(key) + 8 FROM counters WHERE state = ?1 AND key >= ?2 ORDER BY key",
        copy: "INSERT INTO counters (state, key, value)
               SELECT ?4, key, value FROM counters WHERE state = ?1 AND key >= ?2 AND key <= ?3",
    },
];

impl Store {
    /// Copies all rows of `state`, which nobody writes meanwhile, to the new one `copy`.
    pub(super) async fn copy_state(self: &Arc<Self>, state: StateNumber, copy: StateNumber) -> Result<()> {
        for table in &TABLES {
            let mut from = String::new();
            loop {
                let (keys, begin) = (table.keys, from.clone());
                // On another connection, which also brings the pages into the system's cache.
                let last = self.read(move |disk| last_of_piece(disk, keys, state, &begin)).await?;
                let Some(last) = last else { break };
                let (sql, begin) = (table.copy, std::mem::take(&mut from));
                // The key right behind it.
                from = format!("{last}\0");
                let took = self
                    .task(move |writer| {
                        let began = Instant::now();
                        writer.connection.prepare_cached(sql)?.execute(params![state, begin, last, copy])?;
                        Ok(began.elapsed())
                    })
                    .await?
                    .into_inner();
                fault::pass(Point::LayoutCopied);
                // As long again belongs to others.
                tokio::time::sleep(took).await;
            }
        }
        self.task(move |writer| {
            let sizes = "INSERT INTO state_sizes (state, bytes) SELECT ?2, bytes FROM state_sizes WHERE state = ?1";
            writer.connection.execute(sizes, params![state, copy]).map(drop)
        })
        .await?
        .into_inner();
        Ok(())
    }
}

/// The last key of the piece that begins at `from`; `None` where there is nothing any more.
fn last_of_piece(disk: &Connection, keys: &str, state: StateNumber, from: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = disk.prepare_cached(keys)?;
    let mut found = statement.query(params![state, from])?;
    let (mut last, mut copied, mut bytes) = (None, 0, 0);
    while let Some(row) = found.next()? {
        let weighs = rows::unsigned(row.get(1)?);
        if last.is_some() && (copied >= PIECE_ROWS || bytes + weighs > PIECE_BYTES) {
            break;
        }
        (copied, bytes) = (copied + 1, bytes + weighs);
        last = Some(row.get(0)?);
    }
    Ok(last)
}
