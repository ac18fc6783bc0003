//! What makes a repeat known: idempotency keys, and the ids of custom events that were accepted.
//!
//! Neither is indexed by time, which would cost every order a row: the tables are walked by key instead, a page at a time.

use rusqlite::{Connection, params};

use super::{PAGE, PAUSE_MIN, Step, Worker, count};
use crate::backend::embedded::rows;
use crate::clock::Timestamp;

pub fn sweep(worker: &mut Worker) -> Step<()> {
    let Some(cutoff) = worker.retention.idempotency.cutoff(worker.now) else { return Ok(()) };
    idempotency(worker, cutoff)?;
    worker.keys_before = Some(cutoff);
    origins(worker, cutoff)
}

fn idempotency(worker: &mut Worker, cutoff: Timestamp) -> Step<()> {
    let mut after = String::new();
    loop {
        let page = worker.read(|disk| keys_after(disk, &after))?;
        let old: Vec<_> = page.iter().filter(|(_, time)| *time < cutoff).map(|(key, _)| key.clone()).collect();
        for keys in pieces(&old, worker.rows) {
            worker.commit(move |writer| {
                let mut delete =
                    writer.connection.prepare_cached("DELETE FROM idempotency WHERE key = ?1 AND time < ?2")?;
                keys.iter().try_for_each(|key| delete.execute(params![key, rows::millis(cutoff)]).map(drop))
            })?;
        }
        match page.into_iter().nth(PAGE - 1) {
            Some((last, _)) => after = last,
            None => return Ok(()),
        }
        worker.pause(PAUSE_MIN)?;
    }
}

fn keys_after(disk: &Connection, after: &str) -> rusqlite::Result<Vec<(String, Timestamp)>> {
    let mut statement =
        disk.prepare_cached("SELECT key, time FROM idempotency WHERE key > ?1 ORDER BY key LIMIT ?2")?;
    statement.query_map(params![after, count(PAGE)], |row| Ok((row.get(0)?, rows::timestamp(row, 1)?)))?.collect()
}

/// Source, the id that it gave, and the event that was recorded for it.
type OriginRow = (String, String, String);

fn origins(worker: &mut Worker, cutoff: Timestamp) -> Step<()> {
    let oldest_kept = uuid_of(cutoff);
    let (mut source, mut id) = (String::new(), String::new());
    loop {
        let page = worker.read(|disk| origins_after(disk, &source, &id))?;
        let old: Vec<_> = page.iter().filter(|(_, _, event)| *event < oldest_kept).cloned().collect();
        for origins in pieces(&old, worker.rows) {
            worker.commit(move |writer| {
                let sql = "DELETE FROM origins WHERE source = ?1 AND origin_id = ?2 AND event_id = ?3";
                let mut delete = writer.connection.prepare_cached(sql)?;
                origins.iter().try_for_each(|(source, id, event)| delete.execute([source, id, event]).map(drop))
            })?;
        }
        match page.into_iter().nth(PAGE - 1) {
            Some(last) => (source, id, _) = last,
            None => return Ok(()),
        }
        worker.pause(PAUSE_MIN)?;
    }
}

fn origins_after(disk: &Connection, source: &str, id: &str) -> rusqlite::Result<Vec<OriginRow>> {
    let mut statement = disk.prepare_cached(
        "SELECT source, origin_id, event_id FROM origins WHERE (source, origin_id) > (?1, ?2)
         ORDER BY source, origin_id LIMIT ?3",
    )?;
    statement.query_map(params![source, id, count(PAGE)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// How ids of events from `time` on begin: a UUID of version 7 starts with its milliseconds, so ids sort by time.
fn uuid_of(time: Timestamp) -> String {
    let hex = format!("{:012x}", time.as_millis());
    let (high, low) = hex.split_at(8);
    format!("{high}-{low}")
}

fn pieces<T: Clone>(all: &[T], size: usize) -> Vec<Vec<T>> {
    all.chunks(size).map(<[T]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::uuid_of;
    use crate::clock::Timestamp;
    use crate::event::EventId;

    #[test]
    fn an_id_made_now_is_not_older_than_now_and_older_than_what_comes() {
        let before = Timestamp::now();
        let id = EventId::generate().to_string();
        let after = Timestamp::from_millis(Timestamp::now().as_millis() + 1);
        assert!(id >= uuid_of(before) && id < uuid_of(after), "{id}");
    }
}
