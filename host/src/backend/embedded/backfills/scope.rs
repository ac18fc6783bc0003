//! What a backfill would be about: which positions, and how many events.

use rusqlite::{Connection, OptionalExtension, params};

use super::earlier;
use crate::backend::embedded::commit::ConsumerNumber;
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::readers::Disk;
use crate::backend::embedded::{layouts, rows, tail};
use crate::backend::{Backfill, Backfilled, Since};
use crate::event::{Event, Subscriptions};
use crate::policy::ConsumerName;

/// Events read at once where they have to be counted one by one.
const CHUNK: usize = 1_024;

/// What a backfill would be about.
#[derive(Clone, Copy)]
pub struct Scope {
    pub consumer: ConsumerNumber,
    pub first: u64,
    pub last: u64,
    pub events: u64,
    /// Events that the consumer had done.
    pub done: u64,
    /// Whether it brings events that the consumer was never offered.
    pub more: bool,
}

impl Scope {
    /// Without subscriptions, as of a consumer whose plugin is not there, every event counts.
    pub fn of(
        disk: &Disk<'_>,
        name: &ConsumerName,
        asked: &Backfill,
        subscriptions: Option<Subscriptions>,
    ) -> rusqlite::Result<Option<Self>> {
        let connection = disk.connection()?;
        let _moment = connection.unchecked_transaction()?;
        let row = connection
            .prepare_cached("SELECT number, began, done, position, ahead FROM consumers WHERE name = ?1")?
            .query_row([name.as_str()], |row| {
                Ok((row.get(0)?, rows::unsigned(row.get(1)?), rows::unsigned(row.get(2)?), rows::progress(row, 3)?))
            })
            .optional()?;
        let Some((consumer, began, done, progress)) = row else { return Ok(None) };
        let time = match asked.from {
            Since::Beginning => 0,
            Since::At(time) => rows::millis(time),
        };
        let first: Option<i64> = connection
            .prepare_cached("SELECT position FROM events WHERE time >= ?1 ORDER BY position LIMIT 1")?
            .query_row([time], |row| row.get(0))
            .optional()?;
        let last = match asked.of {
            Backfilled::Missed => began,
            Backfilled::Rebuild => progress.newest(),
        };
        let first = first.map_or(last + 1, rows::unsigned);
        let scope = Self { consumer, first, last, events: 0, done, more: false };
        let missed = || Self { last: began, ..scope }.missed(disk, asked, subscriptions.as_ref());
        let is_kept = layouts::kept(connection, consumer)?.is_some();
        let more = if is_kept { missed()? > 0 } else { first <= began };
        let events = match asked.of {
            Backfilled::Missed => missed()?,
            Backfilled::Rebuild => scope.through(disk, &progress, subscriptions.as_ref())?,
        };
        Ok(Some(Self { events, more, ..scope }))
    }

    /// How many events the consumer was never offered.
    fn missed(
        &self,
        disk: &Disk<'_>,
        asked: &Backfill,
        subscriptions: Option<&Subscriptions>,
    ) -> rusqlite::Result<u64> {
        let connection = disk.connection()?;
        let earlier = earlier(connection, self.consumer)?;
        let by_kind = !subscriptions.is_some_and(Subscriptions::filter);
        if by_kind && asked.filter.is_none() && earlier.is_empty() {
            return self.of_kinds(connection, (self.first, self.last), subscriptions);
        }
        self.count(disk, |event| {
            subscriptions.is_none_or(|subscriptions| subscriptions.want(event))
                && asked.filter.as_ref().is_none_or(|filter| event.passes(filter))
                && !earlier.iter().any(|earlier| earlier.offered(event))
        })
    }

    /// How many events the consumer is through with, but for those that are exceptions or were discarded.
    fn through(
        &self,
        disk: &Disk<'_>,
        progress: &Progress,
        subscriptions: Option<&Subscriptions>,
    ) -> rusqlite::Result<u64> {
        let connection = disk.connection()?;
        if subscriptions.is_some_and(Subscriptions::filter) {
            let left = |position| is_exception(connection, self.consumer, position);
            let mut events = 0;
            let wants = |event: &Event| subscriptions.is_none_or(|subscriptions| subscriptions.want(event));
            self.each(disk, |event| {
                let position = event.position.get();
                events += u64::from(progress.contains(position) && wants(event) && !left(position)?);
                Ok(())
            })?;
            return Ok(events);
        }
        let mut events = self.of_kinds(connection, (self.first, progress.base()), subscriptions)?;
        for range in progress.ranges_after(self.first.saturating_sub(1).max(progress.base())) {
            events += self.of_kinds(connection, range, subscriptions)?;
        }
        let left: i64 = connection
            .prepare_cached(
                "SELECT (SELECT count(*) FROM deliveries WHERE consumer = ?1 AND position >= ?2) +
                        (SELECT count(*) FROM interventions WHERE consumer = ?1 AND position >= ?2 AND what = 'discarded')",
            )?
            .query_row(params![self.consumer, rows::signed(self.first)], |row| row.get(0))?;
        Ok(events.saturating_sub(rows::unsigned(left)))
    }

    fn of_kinds(
        &self,
        disk: &Connection,
        (first, last): (u64, u64),
        subscriptions: Option<&Subscriptions>,
    ) -> rusqlite::Result<u64> {
        let mut statement =
            disk.prepare_cached("SELECT kind, count(*) FROM events WHERE position BETWEEN ?1 AND ?2 GROUP BY kind")?;
        let mut kinds = statement.query([rows::signed(first), rows::signed(last)])?;
        let mut events = 0;
        while let Some(row) = kinds.next()? {
            let kind = row.get_ref(0)?.as_str()?;
            if subscriptions.is_none_or(|subscriptions| subscriptions.hear(kind)) {
                events += rows::unsigned(row.get(1)?);
            }
        }
        Ok(events)
    }

    fn count(&self, disk: &Disk<'_>, wants: impl Fn(&Event) -> bool) -> rusqlite::Result<u64> {
        let mut wanted = 0;
        self.each(disk, |event| {
            wanted += u64::from(wants(event));
            Ok(())
        })?;
        Ok(wanted)
    }

    /// Looks at the events themselves.
    fn each(&self, disk: &Disk<'_>, mut look: impl FnMut(&Event) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let mut after = self.first.saturating_sub(1);
        while after < self.last {
            // Not through the chunks that consumers share: nobody else reads these now.
            let events = tail::stored_after(disk.connection()?, disk.contents(), after, CHUNK)?;
            let Some(read) = events.last().map(|event| event.position.get()) else { break };
            events.iter().filter(|event| event.position.get() <= self.last).try_for_each(|event| look(event))?;
            after = read;
        }
        Ok(())
    }
}

/// How many events that this `hears` the consumer is through with that its kept state lacks.
pub fn since_kept(disk: &Disk<'_>, name: &ConsumerName, hears: &Subscriptions) -> rusqlite::Result<u64> {
    let connection = disk.connection()?;
    let _moment = connection.unchecked_transaction()?;
    let row = connection
        .prepare_cached("SELECT number, position, ahead FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| Ok((row.get(0)?, rows::progress(row, 1)?)))
        .optional()?;
    let Some((consumer, done)) = row else { return Ok(0) };
    let Some((_, mut looked)) = layouts::kept(connection, consumer)? else { return Ok(0) };
    let mut events = 0;
    while let Some((first, last)) = looked.first_missing_of(&done) {
        looked.add(first, last);
        let scope = Scope { consumer, first, last, events: 0, done: 0, more: false };
        events += match hears.filter() {
            true => scope.count(disk, |event| hears.want(event))?,
            false => scope.of_kinds(connection, (first, last), Some(hears))?,
        };
    }
    Ok(events)
}

/// Whether the delivery is retried, waits, is dead or was discarded.
fn is_exception(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<bool> {
    disk.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM deliveries WHERE consumer = ?1 AND position = ?2)
             OR EXISTS (SELECT 1 FROM interventions WHERE consumer = ?1 AND position = ?2 AND what = 'discarded')",
    )?
    .query_row(params![consumer, rows::signed(position)], |row| row.get(0))
}
