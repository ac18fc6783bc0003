//! A consumer's past events: read beside the live ones, and looked up lane by lane.

use rusqlite::{Connection, params};

use super::desk::Desk;
use super::fill::Fill;
use super::{CHUNK, EmbeddedInbox};
use crate::backend::embedded::commit::BackfillNumber;
use crate::backend::embedded::{backfills, rows};
use crate::backend::{BackfillStep, Backfilled};
use crate::clock::Timestamp;
use crate::event::{Body, Event, Lane};
use crate::order::Change;

impl EmbeddedInbox {
    /// Takes up the backfill that is under way in the store.
    pub fn begin_fill(&self) -> rusqlite::Result<()> {
        let mut desk = self.desk.lock();
        let disk = self.store.readers.disk();
        let Some(fill) = Fill::load(disk.connection()?, self.number)? else { return Ok(()) };
        desk.begin(fill, |desk, lane| self.behind_in(desk, lane))?;
        drop(desk);
        self.ring();
        Ok(())
    }

    /// Follows what is durable. Of two that pause and resume it at once, the one that looks last sees what both left.
    pub fn steer_fill(&self, number: BackfillNumber, step: BackfillStep) -> rusqlite::Result<()> {
        if self.steer_rebuild(number, step) {
            return Ok(());
        }
        let mut desk = self.desk.lock();
        let disk = self.store.readers.disk();
        let step = match (step, backfills::under_way(disk.connection()?, self.number, Backfilled::Missed)?) {
            (BackfillStep::Pause | BackfillStep::Resume, Some(it)) if it.paused => BackfillStep::Pause,
            (BackfillStep::Pause | BackfillStep::Resume, Some(_)) => BackfillStep::Resume,
            (step, _) => step,
        };
        desk.steer(number, step);
        self.write_passed(&mut desk);
        drop(desk);
        self.ring();
        Ok(())
    }

    /// Whether deliveries of a backfill may still be on their way.
    pub fn fills(&self) -> bool {
        let mut desk = self.desk.lock();
        self.write_passed(&mut desk);
        desk.fills()
    }

    /// Looks at past events until there is enough to do.
    pub(super) fn refill_history(&self, desk: &mut Desk, now: Timestamp) -> rusqlite::Result<()> {
        let (is_open, open_max) = (desk.is_open(), desk.open_max());
        let Some(fill) = desk.fill() else { return Ok(()) };
        if fill.is_over() {
            // The store has to know before the desk may forget.
            self.write_passed(desk);
            return Ok(());
        }
        if !is_open {
            return Ok(());
        }
        if let Some(after) = fill.reads(now, open_max) {
            fill.take_read(self.store.tail.read(&self.store.readers, after, CHUNK)?);
        }
        desk.offer_history(now);
        if desk.fill().is_some_and(|fill| fill.reads(now, open_max).is_some()) {
            // There is more: look again, after others had their turn.
            self.ring();
        }
        Ok(())
    }

    /// What a live event waits for: the last event in the history of its lane that may have to be delivered.
    pub(super) fn behind(&self, desk: &mut Desk, event: &Event) -> rusqlite::Result<Option<u64>> {
        // Nothing can have named an order before it was placed.
        let begins = matches!(&event.body, Body::OrderChanged { change: Change::Placed {}, .. });
        if begins || desk.fill().is_none() || desk.wants(event) != Some(true) {
            return Ok(None);
        }
        self.behind_in(desk, &event.lane())
    }

    fn behind_in(&self, desk: &mut Desk, lane: &Lane) -> rusqlite::Result<Option<u64>> {
        let Some(fill) = desk.fill() else { return Ok(None) };
        if let Some(behind) = fill.behind(lane) {
            return Ok(Some(behind));
        }
        let (after, last) = fill.ahead();
        if after >= last {
            return Ok(None);
        }
        let disk = self.store.readers.disk();
        let candidates = in_lane(disk.connection()?, lane, after, last)?;
        let wanted = |kind: &str| desk.subscriptions().is_some_and(|them| them.hear(kind));
        Ok(candidates.into_iter().filter(|(_, kind)| wanted(kind)).map(|(at, _)| at).max())
    }
}

/// Positions and kinds of the lane's events after `after`, up to `last`.
fn in_lane(disk: &Connection, lane: &Lane, after: u64, last: u64) -> rusqlite::Result<Vec<(u64, String)>> {
    let (after, last) = (rows::signed(after), rows::signed(last));
    let text = match lane {
        Lane::Order(id) => rows::id(id),
        Lane::Subject(subject) => subject.to_string(),
    };
    // An event that named an order before there was one is in no order's history, and yet in its lane.
    let mut statement = disk.prepare_cached(
        "SELECT position, kind FROM events
         WHERE order_number IS NULL AND coalesce(order_id, subject) = ?1 AND (order_id IS NULL) = ?2
         AND position > ?3 AND position <= ?4",
    )?;
    let pair = |row: &rusqlite::Row<'_>| Ok((rows::unsigned(row.get(0)?), row.get(1)?));
    let is_subject = matches!(lane, Lane::Subject(_));
    let found = statement.query_map(params![text, is_subject, after, last], pair)?;
    let mut found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    if !is_subject {
        let mut statement = disk.prepare_cached(
            "SELECT e.position, e.kind FROM orders AS o JOIN events AS e ON e.order_number = o.number
             WHERE o.id = ?1 AND e.position > ?2 AND e.position <= ?3",
        )?;
        let of_order = statement.query_map(params![text, after, last], pair)?;
        for event in of_order {
            found.push(event?);
        }
    }
    Ok(found)
}
