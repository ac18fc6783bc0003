//! Orders whose events have all left the journal.

use rusqlite::{Connection, OptionalExtension, params};

use super::{PAGE, PAUSE_MIN, Step, Worker, count, timed};
use crate::backend::embedded::commit::OrderNumber;
use crate::backend::embedded::rows;
use crate::backend::embedded::writer::Writer;
use crate::clock::Timestamp;
use crate::fault::{self, Point};
use crate::order::{OrderId, Status};

pub fn sweep(worker: &mut Worker) -> Step<()> {
    let now = worker.now;
    // A key must not outlive its order: without a walk through the keys none is known to be gone.
    let Some(keys_before) = worker.keys_before else { return Ok(()) };
    let before = |cutoff: Option<Timestamp>| cutoff.map(|cutoff| cutoff.min(keys_before));
    let (ended, open) = (before(worker.retention.orders.cutoff(now)), before(worker.retention.open_orders.cutoff(now)));
    if ended.is_none() && open.is_none() {
        return Ok(());
    }
    let mut after = 0;
    loop {
        let page = worker.read(|disk| idle_after(disk, after))?;
        let old: Vec<_> = page
            .iter()
            .filter(|idle| {
                let cutoff = if idle.status.is_final() { ended } else { open };
                cutoff.is_some_and(|cutoff| idle.since < cutoff)
            })
            .cloned()
            .collect();
        for idle in old.chunks(worker.rows) {
            let_go(worker, idle.to_vec())?;
        }
        match page.get(PAGE - 1) {
            Some(last) => after = last.number,
            None => return Ok(()),
        }
        worker.pause(PAUSE_MIN)?;
    }
}

#[derive(Clone)]
struct Idle {
    number: OrderNumber,
    id: OrderId,
    status: Status,
    since: Timestamp,
}

fn idle_after(disk: &Connection, after: OrderNumber) -> rusqlite::Result<Vec<Idle>> {
    let mut statement = disk.prepare_cached(
        "SELECT i.number, o.id, o.status, i.since FROM idle_orders AS i JOIN orders AS o ON o.number = i.number
         WHERE i.number > ?1 AND i.number < (SELECT max(number) FROM orders) ORDER BY i.number LIMIT ?2",
    )?;
    let idle = statement.query_map(params![after, count(PAGE)], |row| {
        Ok(Idle {
            number: row.get(0)?,
            id: rows::parse(row.get_ref(1)?.as_str()?)?,
            status: rows::parse(row.get_ref(2)?.as_str()?)?,
            since: rows::timestamp(row, 3)?,
        })
    })?;
    idle.collect()
}

/// Deletes the orders. Changes are decided on the orders in memory, so those are told first, under their lock: whoever
/// asks from then on finds none. What was decided before is known there, and keeps its order.
fn let_go(worker: &mut Worker, mut idle: Vec<Idle>) -> Step<()> {
    worker.wait_for_room()?;
    let answer = {
        let store = &worker.store;
        let mut orders = store.orders.lock();
        idle.retain(|idle| !orders.is_changing(idle.id, store.queue.durable()));
        let ids: Vec<_> = idle.iter().map(|idle| idle.id).collect();
        let (job, answer) =
            timed(move |writer: &mut Writer<'_>| idle.iter().try_for_each(|idle| delete(writer.connection, idle)));
        let job = store.queue.push(job)?;
        orders.let_go(ids.into_iter(), job);
        fault::pass(Point::RetentionForgets);
        answer
    };
    let settled = worker.settled(answer);
    worker.store.orders.lock().gone(worker.store.queue.durable());
    settled
}

fn delete(disk: &Connection, idle: &Idle) -> rusqlite::Result<()> {
    let Idle { number, status, .. } = idle;
    let busy = disk
        .prepare_cached("SELECT 1 FROM events WHERE order_number = ?1 LIMIT 1")?
        .query_row([number], |_| Ok(()))
        .optional()?
        .is_some();
    if !busy {
        disk.prepare_cached("DELETE FROM orders WHERE number = ?1 AND status = ?2")?
            .execute(params![number, status.as_str()])?;
    }
    disk.prepare_cached("DELETE FROM idle_orders WHERE number = ?1")?.execute([number])?;
    Ok(())
}
