//! What is numbered in the order in which it came: the old ones are at the beginning. What was recorded while the clock was ahead may
//! stand among them, and goes when its own time has come.

use rusqlite::{Connection, params};

use super::{PAGE, PAUSE_MIN, Step, Worker, count};
use crate::backend::embedded::rows;
use crate::clock::Timestamp;
use crate::fault::{self, Point};

/// One such table. The newest row always stays.
#[derive(Clone, Copy)]
struct Table {
    /// Number, time and whether the row may go at all, of the rows after a number.
    page: &'static str,
    delete: &'static str,
}

const MESSAGES: Table = Table {
    page: "SELECT number, time, state <> 'pending' FROM messages
           WHERE number > ?1 AND number < (SELECT max(number) FROM messages) ORDER BY number LIMIT ?2",
    delete: "DELETE FROM messages WHERE number = ?1 AND state <> 'pending'",
};

const RECORDS: Table = Table {
    page: "SELECT number, time, 1 FROM records
           WHERE number > ?1 AND number < (SELECT max(number) FROM records) ORDER BY number LIMIT ?2",
    delete: "DELETE FROM records WHERE number = ?1",
};

const ATTEMPTS: Table = Table {
    page: "SELECT number, time, NOT EXISTS (SELECT 1 FROM deliveries AS d
                                            WHERE d.consumer = a.consumer AND d.position = a.position) FROM attempts AS a
           WHERE number > ?1 AND number < (SELECT max(number) FROM attempts) ORDER BY number LIMIT ?2",
    delete: "DELETE FROM attempts AS a WHERE number = ?1
             AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.consumer = a.consumer AND d.position = a.position)",
};

pub fn sweep(worker: &mut Worker) -> Step<()> {
    let now = worker.now;
    let retention = worker.retention;
    let tables = [(MESSAGES, retention.messages), (RECORDS, retention.records), (ATTEMPTS, retention.attempts)];
    for (table, keep) in tables {
        if let Some(cutoff) = keep.cutoff(now) {
            table.sweep(worker, cutoff)?;
        }
    }
    Ok(())
}

impl Table {
    fn sweep(self, worker: &mut Worker, cutoff: Timestamp) -> Step<()> {
        let (mut after, now) = (0, worker.now);
        loop {
            let page = worker.read(|disk| self.after(disk, after))?;
            let passed: Vec<_> = page.iter().take_while(|(_, time, _)| *time < cutoff || *time > now).collect();
            let may_go = passed.iter().filter(|(_, time, may_go)| *may_go && *time < cutoff);
            let may_go: Vec<_> = may_go.map(|(number, _, _)| *number).collect();
            for numbers in may_go.chunks(worker.rows) {
                let numbers = numbers.to_vec();
                worker.commit(move |writer| {
                    let mut delete = writer.connection.prepare_cached(self.delete)?;
                    numbers.iter().try_for_each(|number| delete.execute([number]).map(drop))
                })?;
                fault::pass(Point::RetentionAged);
            }
            match passed.get(PAGE - 1) {
                Some((last, ..)) => after = *last,
                None => return Ok(()),
            }
            worker.pause(PAUSE_MIN)?;
        }
    }

    fn after(self, disk: &Connection, after: i64) -> rusqlite::Result<Vec<(i64, Timestamp, bool)>> {
        let mut statement = disk.prepare_cached(self.page)?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, rows::timestamp(row, 1)?, row.get(2)?));
        statement.query_map(params![after, count(PAGE)], row)?.collect()
    }
}
