//! Dead letters: found by what they died of, and redriven a few at a time.
//!
//! A redrive changes rows in the writer's transaction, and the lanes once that is durable, in a task of its own: a caller who
//! goes away leaves nothing half done. A lane that went back to what is durable in between has the change already.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use super::backfills::to_its_end;
use super::commit::ConsumerNumber;
use super::inbox::Desk;
use super::lanes::Item;
use super::readers::Disk;
use super::tail::stored_after;
use super::writer::Writer;
use super::{Embedded, Store, backfills, rows};
use crate::backend::{
    AttemptReport, CauseCount, CauseKey, DeadLetter, DeadLetters, Durable, EditedCopy, FromBackfill, LetterQuery,
    LetterShown, Page, Redriven, Result, Selection, Which, cause,
};
use crate::event::{Body, Custom, Event, EventId, Lane, Position};
use crate::fault::{self, Point};
use crate::order::{Content, Order};
use crate::policy::ConsumerName;

#[async_trait]
impl DeadLetters for Embedded {
    async fn list(&self, consumer: &ConsumerName, query: LetterQuery) -> Result<Page<DeadLetter>> {
        let after = rows::unsigned(rows::cursor(query.after.as_deref())?.unwrap_or(0));
        let name = consumer.clone();
        self.store
            .read(move |disk| {
                let Some(consumer) = rows::consumer(disk, &name)? else { return Ok(Vec::new()) };
                let which = query.cause.map_or(Which::All, Which::Cause);
                let found = select(disk, consumer, &which, after, query.limit.saturating_add(1))?;
                found.iter().filter_map(|dead| letter(disk, consumer, dead.position).transpose()).collect()
            })
            .await
            .map(|items| rows::page(items, query.limit, |letter: &DeadLetter| letter.position.to_string()))
    }

    async fn causes(&self, consumer: &ConsumerName, limit: usize) -> Result<Vec<CauseCount>> {
        let name = consumer.clone();
        self.store.read(move |disk| causes(disk, &name, limit)).await
    }

    async fn show(&self, consumer: &ConsumerName, event: EventId) -> Result<Option<LetterShown>> {
        let name = consumer.clone();
        self.store.look(move |disk| show(disk, &name, event)).await
    }

    async fn retry(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>> {
        self.redrive(consumer, selection, Redrive::Retry).await
    }

    async fn retry_edited(&self, consumer: &ConsumerName, event: EventId, copy: Body) -> Result<Durable<bool>> {
        let selection = Which::Event(event).first(1);
        let redriven = self.redrive(consumer, selection, Redrive::Edited(Box::new(copy))).await?;
        Ok(redriven.map(|redriven| redriven.count > 0))
    }

    async fn discard(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>> {
        self.redrive(consumer, selection, Redrive::Discard).await
    }
}

enum Redrive {
    Retry,
    Edited(Box<Body>),
    Discard,
}

/// What the lane of a redriven letter does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Again,
    Edited,
    GoOn,
}

impl Embedded {
    async fn redrive(&self, name: &ConsumerName, selection: Selection, how: Redrive) -> Result<Durable<Redriven>> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        to_its_end(async move { store.redrive(&name, selection, how).await }).await
    }
}

impl Store {
    async fn redrive(&self, name: &ConsumerName, selection: Selection, how: Redrive) -> Result<Durable<Redriven>> {
        let then = match how {
            Redrive::Retry => Then::Again,
            Redrive::Edited(_) => Then::Edited,
            Redrive::Discard => Then::GoOn,
        };
        let (limit, owned) = (selection.limit, name.clone());
        let durable = self
            .task(move |writer| {
                let Some(consumer) = rows::consumer(writer.connection, &owned)? else { return Ok(Vec::new()) };
                let after = selection.after.map_or(0, Position::get);
                let letters = select(writer.connection, consumer, &selection.which, after, selection.limit)?;
                letters.iter().try_for_each(|letter| letter.write(writer, consumer, &how))?;
                Ok(letters)
            })
            .await?;
        fault::pass(Point::LettersRedriven);
        // The lanes follow only what is durable; until then they stay parked, which hurts nothing.
        if let Some(inbox) = self.inbox(name) {
            inbox.with_desk(|desk| durable.iter().for_each(|letter| letter.apply(desk, then)));
        }
        Ok(durable.map(|letters| Redriven {
            count: u64::try_from(letters.len()).unwrap_or(u64::MAX),
            next: letters.last().filter(|_| letters.len() == limit).and_then(|last| Position::new(last.position)),
        }))
    }
}

/// A dead letter, as far as a redrive must know it.
struct Letter {
    position: u64,
    lane: Lane,
    backfill: Option<FromBackfill>,
}

impl Letter {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let lane = rows::lane(row.get_ref(1)?.as_str()?)?;
        Ok(Self { position: rows::unsigned(row.get(0)?), lane, backfill: backfills::from(row, 2)? })
    }

    fn write(&self, writer: &Writer<'_>, consumer: ConsumerNumber, how: &Redrive) -> rusqlite::Result<()> {
        let data = match how {
            Redrive::Edited(copy) => Some(copy_text(copy)?),
            Redrive::Retry | Redrive::Discard => None,
        };
        if !matches!(how, Redrive::Retry) {
            let what = if data.is_some() { "edited" } else { "discarded" };
            writer
                .connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO interventions (consumer, position, what, data, time)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![consumer, rows::signed(self.position), what, data, rows::millis(writer.now)])?;
        }
        let sql = match how {
            Redrive::Retry | Redrive::Edited(_) => {
                "UPDATE deliveries SET state = 'waiting', attempts = 0, first_at = NULL, due = NULL, replayed = 1,
                                       cause = NULL, event_id = NULL, died_at = NULL
                 WHERE consumer = ?1 AND position = ?2"
            }
            Redrive::Discard => "DELETE FROM deliveries WHERE consumer = ?1 AND position = ?2",
        };
        writer.connection.prepare_cached(sql)?.execute(params![consumer, rows::signed(self.position)])?;
        if matches!(how, Redrive::Discard) {
            writer.no_exception(consumer, self.position)?;
        }
        Ok(())
    }

    fn apply(&self, desk: &mut Desk, then: Then) {
        if then == Then::Edited {
            desk.edited.insert(self.position);
        }
        if then == Then::GoOn {
            desk.lanes.discard(&self.lane, self.position);
        } else if !desk.lanes.revive(&self.lane, self.position) && !desk.lanes.holds(&self.lane, self.position) {
            // A letter whose lane went on without it is in no lane: it comes behind what is there now.
            let item = Item {
                position: self.position,
                event: None,
                attempts: 0,
                first_attempt_at: None,
                stored: true,
                replayed: true,
                backfill: self.backfill,
            };
            desk.lanes.offer(self.lane.clone(), item);
        }
    }
}

/// Dead letters in journal order, at most `limit` behind `after`.
fn select(
    disk: &Connection,
    consumer: ConsumerNumber,
    which: &Which,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Letter>> {
    let (after, rows_max) = (rows::signed(after), i64::try_from(limit).unwrap_or(i64::MAX));
    match which {
        // By the table's own order: the index is in order only within one cause.
        Which::All => disk
            .prepare_cached(
                "SELECT position, lane, backfill, (SELECT effects FROM backfills WHERE number = backfill)
                 FROM deliveries NOT INDEXED
                 WHERE consumer = ?1 AND position > ?2 AND state IN ('dead', 'skipped') ORDER BY position LIMIT ?3",
            )?
            .query_map(params![consumer, after, rows_max], Letter::read)?
            .collect(),
        Which::Event(event) => disk
            .prepare_cached(
                "SELECT position, lane, backfill, (SELECT effects FROM backfills WHERE number = backfill)
                 FROM deliveries INDEXED BY dead_letters_by_event
                 WHERE consumer = ?1 AND event_id = ?2 AND position > ?3 AND state IN ('dead', 'skipped')",
            )?
            .query_map(params![consumer, rows::id(event), after], Letter::read)?
            .collect(),
        Which::Cause(key) => {
            let mut found: Vec<Letter> = Vec::new();
            for number in numbers(disk, key)? {
                let mut statement = disk.prepare_cached(
                    "SELECT position, lane, backfill, (SELECT effects FROM backfills WHERE number = backfill)
                 FROM deliveries INDEXED BY dead_letters
                     WHERE consumer = ?1 AND cause = ?2 AND position > ?3 AND state IN ('dead', 'skipped')
                     ORDER BY position LIMIT ?4",
                )?;
                let letters = statement.query_map(params![consumer, number, after, rows_max], Letter::read)?;
                found.extend(letters.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            found.sort_by_key(|letter| letter.position);
            found.truncate(limit);
            Ok(found)
        }
    }
}

/// The causes that a key names: one per outcome, or two where the words of format 1 stand beside those in general.
fn numbers(disk: &Connection, key: &CauseKey) -> rusqlite::Result<Vec<i64>> {
    // All outcomes are spelled out so that the index on outcome and text is used.
    disk.prepare_cached(
        "SELECT number FROM causes WHERE outcome IN ('retry', 'reject', 'trap', 'timeout') AND text IN (?1, ?2)
         AND (?3 IS NULL OR outcome = ?3)",
    )?
    .query_map(params![key.text, cause::in_general(&key.text), key.outcome.map(|it| it.as_str())], |row| row.get(0))?
    .collect()
}

fn causes(disk: &Connection, name: &ConsumerName, limit: usize) -> rusqlite::Result<Vec<CauseCount>> {
    let Some(consumer) = rows::consumer(disk, name)? else { return Ok(Vec::new()) };
    let mut statement = disk.prepare_cached(
        "SELECT c.outcome, c.text, d.letters, d.first_at, d.last_at
         FROM (SELECT cause, count(*) AS letters, min(died_at) AS first_at, max(died_at) AS last_at
               FROM deliveries INDEXED BY dead_letters
               WHERE consumer = ?1 AND state IN ('dead', 'skipped') GROUP BY cause) AS d
         JOIN causes AS c ON c.number = d.cause
         ORDER BY d.letters DESC, c.number LIMIT ?2",
    )?;
    let found = statement.query_map(params![consumer, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok(CauseCount {
            outcome: rows::outcome(row, 0)?.unwrap_or(crate::backend::CauseKind::Reject),
            cause: row.get(1)?,
            count: rows::unsigned(row.get(2)?),
            at_least: false,
            first_at: rows::timestamp(row, 3)?,
            last_at: rows::timestamp(row, 4)?,
        })
    })?;
    found.collect()
}

fn letter(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Option<DeadLetter>> {
    disk.prepare_cached(
        "SELECT d.position, e.id, e.kind, coalesce(e.order_id, o.id), d.attempts, coalesce(a.outcome, 'reject'),
                coalesce(a.cause, ''), coalesce(a.version, ''), a.backtrace, coalesce(d.died_at, a.time, e.time), d.state
         FROM deliveries AS d
         JOIN events AS e ON e.position = d.position
         LEFT JOIN orders AS o ON o.number = e.order_number
         LEFT JOIN attempts AS a ON a.number =
             (SELECT max(number) FROM attempts WHERE consumer = d.consumer AND position = d.position)
         WHERE d.consumer = ?1 AND d.position = ?2",
    )?
    .query_row(params![consumer, rows::signed(position)], |row| {
        Ok(DeadLetter {
            position: rows::position(row, 0)?,
            event_id: rows::parse(row.get_ref(1)?.as_str()?)?,
            kind: row.get(2)?,
            order_id: row.get_ref(3)?.as_str_or_null()?.map(rows::parse).transpose()?,
            attempts: row.get(4)?,
            outcome: rows::outcome(row, 5)?,
            cause: row.get(6)?,
            version: row.get(7)?,
            backtrace: row.get(8)?,
            time: rows::timestamp(row, 9)?,
            parks: row.get_ref(10)?.as_str()? == "dead",
        })
    })
    .optional()
}

fn show(disk: &Disk<'_>, name: &ConsumerName, event: EventId) -> rusqlite::Result<Option<LetterShown>> {
    let (connection, contents) = (disk.connection()?, disk.contents());
    let Some(consumer) = rows::consumer(connection, name)? else { return Ok(None) };
    let Some(found) = select(connection, consumer, &Which::Event(event), 0, 1)?.pop() else { return Ok(None) };
    let Some(letter) = letter(connection, consumer, found.position)? else { return Ok(None) };
    let mut events = stored_after(connection, contents, found.position.saturating_sub(1), 1)?;
    let Some(event) = events.pop().filter(|event| event.position == letter.position) else { return Ok(None) };
    let edited = edited_copy(connection, consumer, found.position)?.map(|copy| as_shown(&event, copy)).transpose()?;
    let attempts = attempts(connection, consumer, found.position)?;
    Ok(Some(LetterShown { letter, event, edited, attempts }))
}

/// What is remembered of a delivery's attempts, oldest first.
pub fn attempts(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Vec<AttemptReport>> {
    disk.prepare_cached(
        "SELECT attempt, outcome, cause, backtrace, version, duration, time, origin, edited, effects, log, calls, candidate
         FROM attempts WHERE consumer = ?1 AND position = ?2 ORDER BY number",
    )?
    .query_map(params![consumer, rows::signed(position)], |row| {
        Ok(AttemptReport {
            attempt: row.get(0)?,
            outcome: rows::outcome(row, 1)?,
            cause: row.get(2)?,
            backtrace: row.get(3)?,
            version: row.get(4)?,
            duration_us: rows::unsigned(row.get(5)?),
            time: rows::timestamp(row, 6)?,
            origin: rows::origin(row.get_ref(7)?.as_str()?),
            edited: row.get(8)?,
            candidate: row.get(12)?,
            effects: row.get_ref(9)?.as_str_or_null()?.map(rows::from_json::<Box<RawValue>>).transpose()?,
            log: row.get_ref(10)?.as_str_or_null()?.map(rows::from_json).transpose()?.unwrap_or_default(),
            calls: row.get_ref(11)?.as_str_or_null()?.map(rows::from_json).transpose()?.unwrap_or_default(),
        })
    })?
    .collect()
}

/// What a consumer gets in place of the event at `position`, if a person edited it.
pub fn edited_copy(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Option<EditedCopy>> {
    disk.prepare_cached(
        "SELECT data, time FROM interventions WHERE consumer = ?1 AND position = ?2 AND what = 'edited'",
    )?
    .query_row(params![consumer, rows::signed(position)], |row| {
        Ok(EditedCopy { data: rows::from_json(row.get_ref(0)?.as_str()?)?, time: rows::timestamp(row, 1)? })
    })
    .optional()
}

/// Every event that a person edited a copy of.
pub fn edited_positions(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<HashSet<u64>> {
    disk.prepare_cached(
        "SELECT position FROM interventions INDEXED BY edited_copies WHERE consumer = ?1 AND what = 'edited'",
    )?
    .query_map([consumer], |row| row.get(0).map(rows::unsigned))?
    .collect()
}

/// The event as the consumer gets it.
pub fn as_edited(event: &Event, copy: EditedCopy) -> rusqlite::Result<Arc<Event>> {
    let body = match &event.body {
        Body::OrderChanged { order, change } => {
            let content = Arc::new(rows::from_json::<Content>(copy.data.get())?);
            Body::OrderChanged { order: Order { content, ..order.clone() }, change: change.clone() }
        }
        Body::Custom(custom) => Body::Custom(Custom { data: copy.data.into(), ..custom.clone() }),
    };
    Ok(Arc::new(Event { body, ..event.clone() }))
}

fn as_shown(event: &Event, copy: EditedCopy) -> rusqlite::Result<EditedCopy> {
    let time = copy.time;
    let data = as_edited(event, copy)?.body.data();
    Ok(EditedCopy { time, data: data.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))? })
}

fn copy_text(copy: &Body) -> rusqlite::Result<String> {
    match copy {
        Body::OrderChanged { order, .. } => rows::json(&*order.content),
        Body::Custom(custom) => Ok(custom.data.get().to_owned()),
    }
}
