//! Does what stands in the store agree with itself? A rule is a walk over one table, a page at a time; each page is looked
//! at in a read of its own, so a walk through a large store holds nothing up, and what it compares is of one moment.

use std::path::Path;

use rusqlite::{Connection, params};

use super::progress::Progress;
use super::{Embedded, FILE, OpenError, RestoreError, lock, rows, schema, upkeep};
use crate::backend::{CheckPlace, CheckStep, Checked, Finding, Result};

/// Rows looked at in one read.
const PAGE: i64 = 1_000;
/// Faults of one page that SQLite itself tells of.
const FAULTS_MAX: usize = 20;

/// In order; a [`CheckPlace`] names one by its index.
const RULES: [(&str, Look); 17] = [
    ("pages", Look::With(pages)),
    ("events", Look::Walk(EVENTS)),
    ("orders", Look::Walk(ORDERS)),
    ("idle orders", Look::Walk(IDLE_ORDERS)),
    ("consumers", Look::With(consumers)),
    ("backfills", Look::Walk(BACKFILLS)),
    ("generations", Look::Walk(GENERATIONS)),
    ("deferred deliveries", Look::Walk(DEFERRED)),
    ("deliveries", Look::Walk(DELIVERIES)),
    ("attempts", Look::Walk(ATTEMPTS)),
    ("runs", Look::Walk(RUNS)),
    ("messages", Look::Walk(MESSAGES)),
    ("records", Look::Walk(RECORDS)),
    ("state", Look::Walk(STATE)),
    ("idempotency keys", Look::Walk(KEYS)),
    ("version history", Look::Walk(VERSIONS)),
    ("kept versions", Look::Walk(KEPT)),
];

/// How a rule is looked at.
#[derive(Clone, Copy)]
enum Look {
    /// A statement over one page behind the cursor (?1, ?2, ?3), at most ?4 rows: the cursor of each row, what the row is,
    /// and what is wrong with it or NULL.
    Walk(&'static str),
    With(fn(&Connection, &Cursor) -> rusqlite::Result<Page>),
}

/// The last row looked at, by the key of its table.
type Cursor = (i64, i64, String);

#[derive(Default)]
struct Page {
    rows: u64,
    faults: Vec<(String, String)>,
    next: Option<Cursor>,
}

const EVENTS: &str = "
    SELECT e.position, 0, '', 'event ' || e.position, CASE
        WHEN e.revision IS NOT NULL AND o.number IS NULL THEN 'its order is missing'
        WHEN e.position > (SELECT min(position) FROM events)
             AND NOT EXISTS (SELECT 1 FROM events AS b WHERE b.position = e.position - 1) THEN 'the event before it is missing'
        WHEN NOT json_valid(e.data) THEN 'its data is no JSON' END
    FROM events AS e LEFT JOIN orders AS o ON o.number = e.order_number
    WHERE e.position > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY e.position LIMIT ?4";

const ORDERS: &str = "
    SELECT number, 0, '', 'order ' || id, CASE
        WHEN NOT json_valid(content) THEN 'its content is no JSON'
        WHEN events = 0 AND NOT EXISTS (SELECT 1 FROM idle_orders AS i WHERE i.number = o.number)
            THEN 'it has no event, and none that left the journal'
        WHEN newest <> revision THEN 'its revision is ' || revision || ', that of its last change ' || newest
        WHEN events <> newest - oldest + 1 THEN 'a change between its revisions ' || oldest || ' and ' || newest || ' is missing'
        WHEN oldest > 1 AND (SELECT min(position) FROM events) = 1 THEN 'its changes before revision ' || oldest || ' are missing'
        WHEN kind <> 'order.' || status THEN 'it is ' || status || ', and its last change is ' || kind END
    FROM (SELECT number, id, status, revision, content,
              (SELECT count(*) FROM events AS e WHERE e.order_number = number AND e.revision IS NOT NULL) AS events,
              (SELECT min(e.revision) FROM events AS e WHERE e.order_number = number) AS oldest,
              (SELECT max(e.revision) FROM events AS e WHERE e.order_number = number) AS newest,
              (SELECT e.kind FROM events AS e WHERE e.order_number = number AND e.revision IS NOT NULL
               ORDER BY e.revision DESC LIMIT 1) AS kind
          FROM orders WHERE number > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY number LIMIT ?4) AS o";

const IDLE_ORDERS: &str = "
    SELECT i.number, 0, '', 'order number ' || i.number, CASE WHEN o.number IS NULL THEN 'it is to age out, and is missing' END
    FROM idle_orders AS i LEFT JOIN orders AS o ON o.number = i.number
    WHERE i.number > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY i.number LIMIT ?4";

const BACKFILLS: &str = "
    SELECT b.number, 0, '', 'backfill ' || b.number, CASE
        WHEN b.consumer NOT IN (SELECT number FROM consumers) THEN 'its consumer ' || b.consumer || ' is not known'
        WHEN b.state NOT IN ('running', 'paused', 'done', 'cancelled') THEN 'its state ' || b.state || ' is not known'
        WHEN b.state IN ('running', 'paused') AND b.last > (SELECT max(position) FROM events)
            THEN 'it ends after the newest event'
        WHEN b.state IN ('running', 'paused') AND b.generation IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM generations AS g WHERE g.state = b.generation AND g.standing = 'filling')
            THEN 'what it fills is missing' END
    FROM backfills AS b WHERE b.number > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY b.number LIMIT ?4";

const GENERATIONS: &str = "
    SELECT g.state, 0, '', 'generation ' || g.state, CASE
        WHEN g.standing NOT IN ('filling', 'copying', 'keeping', 'kept', 'past', 'cleared') THEN 'its standing ' || g.standing || ' is not known'
        WHEN g.state IN (SELECT state FROM consumers) THEN 'it is ' || g.standing || ', and a consumer has it'
        WHEN g.standing = 'filling' AND NOT EXISTS (SELECT 1 FROM backfills AS b WHERE b.generation = g.state
                                                    AND b.consumer = g.consumer AND b.state IN ('running', 'paused'))
            THEN 'no rebuild fills it'
        WHEN g.standing IN ('copying', 'keeping', 'kept') AND g.consumer NOT IN (SELECT number FROM consumers)
            THEN 'its consumer ' || g.consumer || ' is not known'
        WHEN g.standing IN ('keeping', 'kept') AND (g.layout IS NULL OR g.position IS NULL OR g.ahead IS NULL)
            THEN 'it does not say of which layout it is, or of which moment'
        WHEN g.standing IN ('keeping', 'kept') AND g.position > (SELECT max(position) FROM events) THEN 'it is ahead of the newest event'
        WHEN g.standing IN ('keeping', 'kept') AND g.state < (SELECT max(k.state) FROM generations AS k
                                                WHERE k.consumer = g.consumer AND k.standing IN ('keeping', 'kept'))
            THEN 'another one of its consumer is kept, too' END
    FROM generations AS g WHERE g.state > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY g.state LIMIT ?4";

/// What a rebuild under way deferred has a row among the deliveries until it is over.
const DEFERRED: &str = "
    SELECT d.state, d.position, '', 'deferred event ' || d.position || ' of generation ' || d.state, CASE
        WHEN e.position IS NULL THEN 'its event is missing'
        WHEN d.over = 0 AND NOT EXISTS (SELECT 1 FROM deliveries AS l WHERE l.consumer = g.consumer AND l.position = d.position)
            THEN 'its delivery is over, and its rebuild does not know' END
    FROM deferred AS d JOIN generations AS g ON g.state = d.state AND g.standing = 'filling'
    LEFT JOIN events AS e ON e.position = d.position
    WHERE (d.state, d.position) > (?1, ?2) AND ?3 = ?3 ORDER BY d.state, d.position LIMIT ?4";

const DELIVERIES: &str = "
    SELECT d.consumer, d.position, '', 'delivery of event ' || d.position || ' to ' || coalesce(c.name, d.consumer), CASE
        WHEN c.number IS NULL THEN 'its consumer is not known'
        WHEN e.position IS NULL THEN 'its event is missing'
        WHEN d.state NOT IN ('retrying', 'waiting', 'dead', 'skipped') THEN 'its state ' || d.state || ' is not known'
        WHEN d.state = 'retrying' AND d.due IS NULL THEN 'it is to be retried, and never due'
        WHEN d.position > c.position AND c.ahead = '' THEN 'its consumer has not come to it'
        WHEN d.lane <> CASE WHEN e.revision IS NOT NULL THEN 'order:' || o.id
                            WHEN e.order_id IS NOT NULL THEN 'order:' || e.order_id
                            ELSE 'subject:' || e.subject END THEN 'it is in the lane ' || d.lane || ', which is not its event''s' END
    FROM deliveries AS d LEFT JOIN consumers AS c ON c.number = d.consumer
    LEFT JOIN events AS e ON e.position = d.position LEFT JOIN orders AS o ON o.number = e.order_number
    WHERE (d.consumer, d.position) > (?1, ?2) AND ?3 = ?3
    AND d.consumer NOT IN (SELECT number FROM forgotten WHERE cleared = 0) ORDER BY d.consumer, d.position LIMIT ?4";

const ATTEMPTS: &str = "
    SELECT a.number, 0, '', 'attempt ' || a.attempt || ' at event ' || a.position, CASE
        WHEN a.consumer NOT IN (SELECT number FROM consumers) THEN 'its consumer ' || a.consumer || ' is not known'
        WHEN NOT EXISTS (SELECT 1 FROM events AS e WHERE e.position = a.position) THEN 'its event is missing' END
    FROM attempts AS a
    WHERE a.number > ?1 AND ?2 = ?2 AND ?3 = ?3
    AND a.consumer NOT IN (SELECT number FROM forgotten WHERE cleared = 0) ORDER BY a.number LIMIT ?4";

const RUNS: &str = "
    SELECT r.consumer, r.first, r.origin, 'run ' || r.first || '-' || r.last || ' (' || r.origin || ')', CASE
        WHEN r.consumer NOT IN (SELECT number FROM consumers) THEN 'its consumer ' || r.consumer || ' is not known'
        WHEN r.last > (SELECT max(position) FROM events) THEN 'it ends after the newest event'
        WHEN r.last < r.first OR r.count < 1 THEN 'there is nothing in it' END
    FROM runs AS r
    WHERE (r.consumer, r.origin, r.first) > (?1, ?3, ?2)
    AND r.consumer NOT IN (SELECT number FROM forgotten WHERE cleared = 0) ORDER BY r.consumer, r.origin, r.first LIMIT ?4";

const MESSAGES: &str = "
    SELECT m.number, 0, '', 'message ' || m.message_id, CASE
        WHEN m.consumer NOT IN (SELECT number FROM consumers UNION ALL SELECT number FROM forgotten)
            THEN 'its consumer ' || m.consumer || ' is not known'
        WHEN m.state NOT IN ('pending', 'sent', 'failed', 'unknown') THEN 'its state ' || m.state || ' is not known'
        WHEN m.position > (SELECT max(position) FROM events) THEN 'its event is missing' END
    FROM messages AS m WHERE m.number > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY m.number LIMIT ?4";

const RECORDS: &str = "
    SELECT r.number, 0, '', 'row ' || r.number || ' of ' || r.dataset, CASE
        WHEN r.consumer NOT IN (SELECT number FROM consumers UNION ALL SELECT number FROM forgotten)
            THEN 'its consumer ' || r.consumer || ' is not known'
        WHEN r.position > (SELECT max(position) FROM events) THEN 'its event is missing' END
    FROM records AS r WHERE r.number > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY r.number LIMIT ?4";

/// One row for each state, whatever is in it.
const STATE: &str = "
    WITH RECURSIVE states (state) AS (
        SELECT min(state) FROM (SELECT min(state) AS state FROM entries UNION ALL SELECT min(state) FROM counters)
        UNION ALL
        SELECT (SELECT min(state) FROM (SELECT min(state) AS state FROM entries WHERE state > states.state
                                        UNION ALL SELECT min(state) FROM counters WHERE state > states.state))
        FROM states WHERE states.state IS NOT NULL)
    SELECT state, 0, '', 'state ' || state, CASE
        WHEN state NOT IN (SELECT state FROM consumers UNION ALL SELECT state FROM forgotten WHERE cleared = 0
                           UNION ALL SELECT state FROM generations WHERE standing <> 'cleared')
            THEN 'no consumer has it' END
    FROM states WHERE state > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY state LIMIT ?4";

const KEYS: &str = "
    SELECT 0, 0, k.key, 'idempotency key ' || k.key, CASE WHEN o.number IS NULL THEN 'its order is missing' END
    FROM idempotency AS k LEFT JOIN orders AS o ON o.number = k.order_number
    WHERE k.key > ?3 AND ?1 = ?1 AND ?2 = ?2 ORDER BY k.key LIMIT ?4";

/// Each row goes on from where the one before it left its consumer: a file that came live or was promoted is the live version
/// from then on, a refused one or a canary changes nothing. The first row that there is may go on from one that aged out.
const VERSIONS: &str = "
    SELECT number, 0, '', 'row ' || number || ' of the versions of ' || consumer, CASE
        WHEN outcome NOT IN ('live', 'refused', 'canary', 'promoted', 'rolled-back') THEN 'its outcome ' || outcome || ' is not known'
        WHEN outcome <> 'refused' AND live IS NULL THEN 'it does not say which version is live'
        WHEN hash NOT GLOB replace(hex(zeroblob(32)), '0', '[0-9a-f]') OR live NOT GLOB replace(hex(zeroblob(32)), '0', '[0-9a-f]')
            THEN 'a version in it is no SHA-256'
        WHEN outcome IN ('live', 'promoted') AND hash IS NOT live THEN 'its file came live, and another version is'
        WHEN outcome IN ('canary', 'rolled-back') AND hash IS live THEN 'the file beside or behind the live version is that version'
        WHEN outcome IN ('canary', 'refused') AND before IS NOT NULL AND live IS NOT before
            THEN 'it left live what was live before, and names another version'
        WHEN newest AND live NOT IN (SELECT hash FROM kept_versions AS k WHERE k.consumer = v.consumer)
            THEN 'the version that is live is not kept' END
    FROM (SELECT *, (SELECT b.live FROM version_history AS b WHERE b.consumer = h.consumer AND b.number < h.number
                     AND b.outcome <> 'refused' ORDER BY b.number DESC LIMIT 1) AS before,
              number = (SELECT max(n.number) FROM version_history AS n
                        WHERE n.consumer = h.consumer AND n.outcome <> 'refused') AS newest
          FROM version_history AS h WHERE number > ?1 AND ?2 = ?2 AND ?3 = ?3 ORDER BY number LIMIT ?4) AS v";

/// A name has no slash, so consumer and hash make one key. Rows of the history that are older than all there are aged out.
const KEPT: &str = "
    SELECT 0, 0, k.consumer || '/' || k.hash, 'version ' || k.hash || ' of ' || k.consumer, CASE
        WHEN oldest IS NULL THEN 'its consumer has no history'
        WHEN k.number >= oldest AND NOT EXISTS (SELECT 1 FROM version_history AS h
            WHERE h.number = k.number AND h.consumer = k.consumer AND k.hash IN (h.hash, h.live) AND h.outcome <> 'refused')
            THEN 'row ' || k.number || ' of the history does not speak of it' END
    FROM (SELECT *, (SELECT min(number) FROM version_history AS h WHERE h.consumer = kept.consumer) AS oldest
          FROM kept_versions AS kept) AS k
    WHERE k.consumer || '/' || k.hash > ?3 AND ?1 = ?1 AND ?2 = ?2 ORDER BY k.consumer || '/' || k.hash LIMIT ?4";

pub async fn check(embedded: &Embedded, place: CheckPlace) -> Result<CheckStep> {
    embedded.store.read(move |disk| step(disk, place)).await
}

/// Checks the store of a directory in which no host runs, and tells of each step.
///
/// # Errors
/// [`RestoreError`] where there is none, a host runs, or it cannot be read.
pub fn check_directory(directory: &Path, mut tell: impl FnMut(Checked)) -> Result<(), RestoreError> {
    let path = directory.join(FILE);
    if let Err(error) = std::fs::metadata(&path) {
        return Err(RestoreError::Unreadable { path, error });
    }
    let _held = lock(directory)?;
    let broken = |error| OpenError::Database { path: path.clone(), error };
    // What the write-ahead log holds belongs to the store.
    let store = schema::open_to_check(&path).map_err(broken)?;
    let mut place = Some(CheckPlace::default());
    while let Some(at) = place {
        let CheckStep { checked, next, .. } = step(&store, at).map_err(broken)?;
        place = next;
        checked.into_iter().for_each(&mut tell);
    }
    Ok(())
}

fn step(disk: &Connection, place: CheckPlace) -> rusqlite::Result<CheckStep> {
    let CheckPlace { rule, cursor } = place;
    let Some((name, look)) = RULES.get(rule).copied() else { return Ok(CheckStep::default()) };
    // All of a store of an older format is looked at within one.
    let moment = disk.is_autocommit().then(|| disk.unchecked_transaction()).transpose()?;
    let looked = match look {
        Look::Walk(sql) => walk(disk, sql, &cursor),
        Look::With(look) => look(disk, &cursor),
    };
    drop(moment);
    let page = looked.or_else(|error| match error.sqlite_error_code() {
        // What cannot be read is what is looked for; the other rules may tell more.
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            Ok(Page { faults: vec![("the file".to_owned(), error.to_string())], ..Page::default() })
        }
        _ => Err(error),
    })?;
    let findings = page.faults.into_iter().map(|(place, fault)| Finding { rule: name, place, fault }).collect();
    let next = match page.next {
        Some(cursor) => Some(CheckPlace { rule, cursor }),
        None if rule + 1 < RULES.len() => Some(CheckPlace { rule: rule + 1, cursor: Cursor::default() }),
        None => None,
    };
    Ok(CheckStep { checked: vec![Checked { rule: name, rows: page.rows, findings }], read: page.rows, next })
}

fn walk(disk: &Connection, sql: &str, after: &Cursor) -> rusqlite::Result<Page> {
    let mut statement = disk.prepare_cached(sql)?;
    let mut found = statement.query(params![after.0, after.1, after.2, PAGE])?;
    let (mut page, mut last) = (Page::default(), None);
    while let Some(row) = found.next()? {
        page.rows += 1;
        if let Some(fault) = row.get::<_, Option<String>>(4)? {
            page.faults.push((row.get(3)?, fault));
        }
        last = Some((row.get(0)?, row.get(1)?, row.get(2)?));
    }
    page.next = last.filter(|_| page.rows >= PAGE.unsigned_abs());
    Ok(page)
}

/// SQLite's own look at one table and its indexes.
fn pages(disk: &Connection, after: &Cursor) -> rusqlite::Result<Page> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name > ?1 ORDER BY name LIMIT 1";
    let table = disk.prepare_cached(sql)?.query_map([&after.2], |row| row.get::<_, String>(0))?.next().transpose()?;
    let Some(table) = table else { return Ok(Page::default()) };
    let mut page = Page { rows: 1, next: Some((0, 0, table.clone())), ..Page::default() };
    disk.pragma(None, "quick_check", &table, |row| {
        let line: String = row.get(0)?;
        if line != "ok" && page.faults.len() < FAULTS_MAX {
            page.faults.push((format!("table {table}"), line));
        }
        Ok(())
    })?;
    Ok(page)
}

fn consumers(disk: &Connection, _after: &Cursor) -> rusqlite::Result<Page> {
    let newest: Option<i64> = disk.query_row("SELECT max(position) FROM events", [], |row| row.get(0))?;
    let (newest, oldest) = (rows::unsigned(newest.unwrap_or(0)), upkeep::first_kept(disk)?);
    let mut page = Page::default();
    let mut statement = disk.prepare_cached("SELECT name, position, ahead FROM consumers")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        page.rows += 1;
        let (position, ahead): (i64, String) = (row.get(1)?, row.get(2)?);
        let position = rows::unsigned(position);
        let fault = match Progress::restore(position, &ahead) {
            Err(error) => Some(format!("what is done ahead of its position cannot be read: {error}")),
            Ok(progress) if progress.newest() > newest => {
                Some(format!("it is at position {}, and the newest event is {newest}", progress.newest()))
            }
            Ok(_) if position + 1 < oldest => {
                Some(format!("it is at position {position}, and the oldest event is {oldest}"))
            }
            Ok(_) => None,
        };
        let name: String = row.get(0)?;
        page.faults.extend(fault.map(|fault| (format!("consumer {name}"), fault)));
    }
    Ok(page)
}

#[cfg(test)]
mod tests;
