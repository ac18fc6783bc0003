//! The old end of the journal: a prefix goes, so that positions stay without gaps.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Step, Worker, count};
use crate::backend::embedded::commit::{ConsumerNumber, OrderNumber};
use crate::backend::embedded::{kinds, layouts, rows};
use crate::backend::{Held, HeldBy};
use crate::clock::Timestamp;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// Lets events go that are old enough and that nobody needs, and notes who needs the others.
pub fn trim(worker: &mut Worker) -> Step<()> {
    let now = worker.now;
    let Some(cutoff) = worker.retention.events.cutoff(now) else { return Ok(()) };
    let age = Age { cutoff, now };
    // A consumer that only passes by what it does not want need not hold that back.
    worker.store.inboxes().iter().for_each(|inbox| inbox.flush());
    loop {
        let limit = worker.rows;
        // Reads what the task will touch, so that the committer need not wait for the disk.
        let old = worker.read(|disk| Ok(oldest(disk, limits(disk)?.last, age, limit)?.len()))?;
        if old > 0 {
            let last = worker.commit(move |writer| trim_some(writer.connection, age, limit))?;
            fault::pass(Point::RetentionLetGo);
            worker.store.tail.let_go(last.unwrap_or(0));
        }
        if old < limit {
            let held = worker.read(|disk| held(disk, cutoff))?;
            worker.store.note_held(held);
            return Ok(());
        }
    }
}

/// Position of the oldest event that is kept; that of the next event where there is none.
pub fn first_kept(disk: &Connection) -> rusqlite::Result<u64> {
    let first: Option<i64> =
        disk.prepare_cached("SELECT min(position) FROM events")?.query_row([], |row| row.get(0))?;
    Ok(rows::unsigned(first.unwrap_or(1)))
}

/// Position of the last event that was recorded before `time`; that before the oldest kept where there is none.
///
/// By bisection: positions are without gaps, and times rise with them but for the moments in which several threads
/// decide at once.
pub fn last_before(disk: &Connection, time: Timestamp) -> rusqlite::Result<u64> {
    let last: Option<i64> = disk.prepare_cached("SELECT max(position) FROM events")?.query_row([], |row| row.get(0))?;
    let (mut before, mut after) = (first_kept(disk)? - 1, rows::unsigned(last.unwrap_or(0)) + 1);
    while before + 1 < after {
        let middle = before + (after - before) / 2;
        match time_of(disk, middle)? {
            Some(recorded) if recorded < time => before = middle,
            _ => after = middle,
        }
    }
    Ok(before)
}

fn time_of(disk: &Connection, position: u64) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = disk.prepare_cached("SELECT time FROM events WHERE position = ?1")?;
    statement.query_row([rows::signed(position)], |row| rows::timestamp(row, 0)).optional()
}

/// The last event that may go, and who needs the one behind it.
struct Limits {
    last: u64,
    newest: u64,
    by: Option<(ConsumerName, HeldBy)>,
}

impl Limits {
    fn lower(&mut self, last: u64, name: &ConsumerName, by: HeldBy) {
        if last < self.last {
            (self.last, self.by) = (last, Some((name.clone(), by)));
        }
    }
}

/// Where the backfill is that is under way. A rebuild comes back to what was deferred and is over.
const BACKFILL_IS_AT: &str = "SELECT min(b.position, coalesce((SELECT min(d.position) - 1 FROM deferred AS d
                                      WHERE d.state = b.generation AND d.over = 1), b.position))
     FROM backfills AS b WHERE b.consumer = ?1 AND b.state IN ('running', 'paused')";

/// In the committer, a position that this batch moves on counts as where it was before.
fn limits(disk: &Connection) -> rusqlite::Result<Limits> {
    let newest: Option<i64> =
        disk.prepare_cached("SELECT max(position) FROM events")?.query_row([], |row| row.get(0))?;
    let newest = rows::unsigned(newest.unwrap_or(0));
    let mut limits = Limits { last: newest.saturating_sub(1), newest, by: None };
    let mut consumers = disk.prepare_cached("SELECT number, name, position FROM consumers ORDER BY name")?;
    let mut first = disk.prepare_cached("SELECT min(position) FROM deliveries WHERE consumer = ?1")?;
    let mut backfill = disk.prepare_cached(BACKFILL_IS_AT)?;
    let mut found = consumers.query([])?;
    while let Some(row) = found.next()? {
        let (number, name): (ConsumerNumber, ConsumerName) = (row.get(0)?, rows::parse(row.get_ref(1)?.as_str()?)?);
        limits.lower(rows::unsigned(row.get(2)?), &name, HeldBy::Position);
        let history: Option<i64> = backfill.query_row([number], |row| row.get(0)).optional()?;
        if let Some(position) = history {
            limits.lower(rows::unsigned(position), &name, HeldBy::Backfill);
        }
        let exception: Option<i64> = first.query_row([number], |row| row.get(0))?;
        if let Some(position) = exception {
            limits.lower(rows::unsigned(position).saturating_sub(1), &name, HeldBy::Delivery);
        }
    }
    Ok(limits)
}

/// What is old.
#[derive(Clone, Copy)]
struct Age {
    /// Whatever is from before.
    cutoff: Timestamp,
    now: Timestamp,
}

struct Old {
    position: u64,
    time: Timestamp,
    order: Option<OrderNumber>,
}

/// The oldest events up to `last` that are old. One from a time that has not come yet was recorded while the clock was wrong,
/// and is older than what was recorded behind it.
fn oldest(disk: &Connection, last: u64, age: Age, limit: usize) -> rusqlite::Result<Vec<Old>> {
    let mut statement = disk.prepare_cached(
        "SELECT position, time, order_number FROM events WHERE position <= ?1 ORDER BY position LIMIT ?2",
    )?;
    let found = statement.query_map(params![rows::signed(last), count(limit)], |row| {
        Ok(Old { position: rows::unsigned(row.get(0)?), time: rows::timestamp(row, 1)?, order: row.get(2)? })
    })?;
    let (mut old, mut behind) = (Vec::new(), None);
    for event in found {
        let mut event = event?;
        if event.time > age.now {
            if behind.is_none_or(|(position, _)| position <= event.position) {
                behind = old_behind(disk, event.position, last, age.cutoff)?;
            }
            let Some((_, time)) = behind else { break };
            event.time = time;
        }
        if event.time >= age.cutoff {
            break;
        }
        old.push(event);
    }
    Ok(old)
}

/// An event somewhere behind `position` that is from before `cutoff`, as far as a few looks find one.
fn old_behind(
    disk: &Connection,
    position: u64,
    last: u64,
    cutoff: Timestamp,
) -> rusqlite::Result<Option<(u64, Timestamp)>> {
    let further =
        std::iter::successors(Some(1_u64), |step| step.checked_mul(2)).map(|step| position.saturating_add(step));
    for position in further.take_while(|position| *position <= last) {
        if let Some(time) = time_of(disk, position)?.filter(|time| *time < cutoff) {
            return Ok(Some((position, time)));
        }
    }
    Ok(None)
}

/// What a consumer (?1) made of events up to a position (?2). A run goes as a whole, but for the last, which may be open.
const HANDLED: [&str; 3] = [
    "DELETE FROM attempts WHERE consumer = ?1 AND position <= ?2",
    "DELETE FROM interventions WHERE consumer = ?1 AND position <= ?2",
    "DELETE FROM runs AS r WHERE consumer = ?1 AND origin IN ('live', 'backfill') AND first <= ?2 AND last <= ?2
     AND EXISTS (SELECT 1 FROM runs AS later
                 WHERE later.consumer = r.consumer AND later.origin = r.origin AND later.first > r.first)",
];

fn trim_some(disk: &Connection, age: Age, limit: usize) -> rusqlite::Result<Option<u64>> {
    let old = oldest(disk, limits(disk)?.last, age, limit)?;
    let Some(through) = old.last().map(|event| event.position) else { return Ok(None) };
    let last = rows::signed(through);
    disk.prepare_cached("DELETE FROM events WHERE position <= ?1")?.execute([last])?;
    kinds::let_go(disk, through)?;
    layouts::let_go(disk, through)?;
    let orders: BTreeMap<OrderNumber, Timestamp> =
        old.iter().filter_map(|event| Some((event.order?, event.time))).collect();
    fault::pass(Point::RetentionTrimmed);
    let mut idle = disk.prepare_cached(
        "INSERT OR REPLACE INTO idle_orders (number, since)
         SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM events WHERE order_number = ?1)",
    )?;
    for (number, since) in orders {
        idle.execute(params![number, rows::millis(since)])?;
    }
    let mut consumers = disk.prepare_cached("SELECT number FROM consumers")?;
    let mut found = consumers.query([])?;
    while let Some(row) = found.next()? {
        let consumer: ConsumerNumber = row.get(0)?;
        for handled in HANDLED {
            disk.prepare_cached(handled)?.execute(params![consumer, last])?;
        }
    }
    Ok(Some(through))
}

/// Who keeps events that are old enough to go.
fn held(disk: &Connection, cutoff: Timestamp) -> rusqlite::Result<Option<Held>> {
    let Limits { last, newest, by: Some((by, reason)) } = limits(disk)? else { return Ok(None) };
    let Some(since) = time_of(disk, last + 1)? else { return Ok(None) };
    // The newest would stay anyway.
    let events = last_before(disk, cutoff)?.min(newest.saturating_sub(1)).saturating_sub(last);
    Ok((events > 0 && since < cutoff).then_some(Held { by, reason, events, since }))
}
