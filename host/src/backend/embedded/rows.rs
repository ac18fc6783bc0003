//! How orders, events and numbers stand in rows, both ways.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::types::{FromSql, Type};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::commit::{ConsumerNumber, OrderNumber};
use super::contents::{Contents, Fixed};
use super::progress::Progress;
use crate::backend::{CauseKind, Error, MessageState, Origin, PAGE_BYTES_MAX};
use crate::clock::Timestamp;
use crate::event::{Body, Custom, Event, Lane, Position};
use crate::order::{Change, Content, Order, OrderId, Status};
use crate::policy::ConsumerName;

/// Columns of [`event`], from `events AS e`.
pub const EVENT: &str = "e.position, e.id, e.time, e.cause, e.depth, e.revision, e.data, e.order_number, e.kind, e.source, \
                         e.origin_id, e.subject, e.order_id";
/// Where columns behind [`EVENT`] begin.
pub const EVENT_COLUMNS: usize = 13;
/// Columns of [`order`].
pub const ORDER: &str = "number, id, status, revision, placed_at, content";

pub fn id(id: &impl Display) -> String {
    id.to_string()
}

pub fn millis(at: Timestamp) -> i64 {
    signed(at.as_millis())
}

/// SQLite's integers are signed; what is counted here never comes near their end.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub fn from_json<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(Box::new(error)))
}

pub fn parse<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> rusqlite::Result<T> {
    text.parse().map_err(|error: T::Err| unreadable(Box::new(error)))
}

/// The number that a cursor stands for: the last row of the page before.
pub fn cursor(after: Option<&str>) -> Result<Option<i64>, Error> {
    let number = |text: &str| text.parse().map_err(|_| Error::NotACursor(text.into()));
    after.map(number).transpose()
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error)
}

fn column<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    index: usize,
) -> rusqlite::Result<T> {
    parse(row.get_ref(index)?.as_str()?)
}

fn optional<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    index: usize,
) -> rusqlite::Result<Option<T>> {
    row.get_ref(index)?.as_str_or_null()?.map(parse).transpose()
}

fn shared(row: &Row<'_>, index: usize) -> rusqlite::Result<Arc<str>> {
    Ok(row.get_ref(index)?.as_str()?.into())
}

pub fn timestamp(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_millis(unsigned(row.get(index)?)))
}

pub fn optional_timestamp(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(Option::<i64>::column_result(row.get_ref(index)?)?.map(|millis| Timestamp::from_millis(unsigned(millis))))
}

/// Position and ranges ahead, in two columns from `index` on.
pub fn progress(row: &Row<'_>, index: usize) -> rusqlite::Result<Progress> {
    let ahead = row.get_ref(index + 1)?.as_str()?;
    Progress::restore(unsigned(row.get(index)?), ahead).map_err(|error| unreadable(Box::new(error)))
}

/// An order as it stands, from the columns [`ORDER`].
pub fn order(row: &Row<'_>) -> rusqlite::Result<(OrderNumber, Order)> {
    let content = Arc::new(from_json::<Content>(row.get_ref(5)?.as_str()?)?);
    order_with(row, content)
}

fn order_with(row: &Row<'_>, content: Arc<Content>) -> rusqlite::Result<(OrderNumber, Order)> {
    let order = Order {
        id: column(row, 1)?,
        status: column(row, 2)?,
        revision: unsigned(row.get(3)?),
        placed_at: timestamp(row, 4)?,
        content,
    };
    Ok((row.get(0)?, order))
}

pub fn order_by_id(
    connection: &Connection,
    contents: &Contents,
    id: OrderId,
) -> rusqlite::Result<Option<(OrderNumber, Order)>> {
    let known = |row: &Row<'_>| match contents.get(row.get(0)?) {
        Some(fixed) => order_with(row, fixed.content),
        None => order(row),
    };
    connection
        .prepare_cached(&format!("SELECT {ORDER} FROM orders WHERE id = ?1"))?
        .query_row([id.to_string()], known)
        .optional()
}

/// The order as it was on the day it was placed.
pub fn order_as_placed(connection: &Connection, number: OrderNumber) -> rusqlite::Result<Option<Order>> {
    let found = connection
        .prepare_cached(&format!("SELECT {ORDER} FROM orders WHERE number = ?1"))?
        .query_row([number], order)
        .optional()?;
    Ok(found.map(|(_, order)| Order { status: Status::Placed, revision: 1, ..order }))
}

pub fn order_number(connection: &Connection, id: &str) -> rusqlite::Result<Option<OrderNumber>> {
    connection.prepare_cached("SELECT number FROM orders WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

pub fn order_by_reference(connection: &Connection, reference: &str) -> rusqlite::Result<Option<(OrderId, [u8; 32])>> {
    connection
        .prepare_cached("SELECT id, fingerprint FROM orders WHERE reference = ?1")?
        .query_row([reference], |row| Ok((column(row, 0)?, row.get(1)?)))
        .optional()
}

/// An event, from the columns [`EVENT`]. In place of one that cannot be read any more stands another: see [`damaged`].
///
/// [`damaged`]: crate::backend::damaged
pub fn event(row: &Row<'_>, connection: &Connection, contents: &Contents) -> rusqlite::Result<Arc<Event>> {
    let position = unsigned(row.get(0)?);
    let body = match body(row, connection, contents) {
        Err(error) if is_damage(&error) => {
            let why = match error {
                rusqlite::Error::QueryReturnedNoRows => "its order is missing".to_owned(),
                rusqlite::Error::FromSqlConversionFailure(.., cause) => cause.to_string(),
                other => other.to_string(),
            };
            Body::Custom(contents.damaged.stand_in(position, &row.get::<_, String>(8)?, None, &why))
        }
        body => body?,
    };
    Ok(Arc::new(Event {
        id: column(row, 1)?,
        position: Position::new(position).unwrap_or(Position::FIRST),
        time: timestamp(row, 2)?,
        cause: optional(row, 3)?,
        depth: row.get(4)?,
        body,
    }))
}

fn body(row: &Row<'_>, connection: &Connection, contents: &Contents) -> rusqlite::Result<Body> {
    let revision: Option<i64> = row.get(5)?;
    let data = row.get_ref(6)?.as_str()?;
    Ok(match revision {
        Some(revision) => {
            let change: Change = from_json(data)?;
            let Fixed { id, placed_at, content } = contents.get_or_read(connection, row.get(7)?)?;
            let order = Order { id, status: change.status(), revision: unsigned(revision), placed_at, content };
            Body::OrderChanged { order, change }
        }
        None => Body::Custom(Custom {
            kind: shared(row, 8)?,
            source: shared(row, 9)?,
            origin_id: row.get_ref(10)?.as_str_or_null()?.map(Into::into),
            subject: shared(row, 11)?,
            order_id: optional(row, 12)?,
            data: from_json::<Box<serde_json::value::RawValue>>(data)?.into(),
        }),
    })
}

/// Whether rows say what no host wrote, however often they are read.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows};
    matches!(
        error,
        QueryReturnedNoRows | FromSqlConversionFailure(..) | InvalidColumnType(..) | IntegralValueOutOfRange(..)
    )
}

/// What of `found` stands on a page of at most `limit` and [`PAGE_BYTES_MAX`], and one item more where there is more; how many of
/// them the page holds at most, which is always one.
pub fn within<T>(
    found: impl Iterator<Item = rusqlite::Result<T>>,
    limit: usize,
    bytes: impl Fn(&T) -> usize,
) -> rusqlite::Result<(Vec<T>, usize)> {
    let (mut items, mut taken) = (Vec::new(), 0);
    for item in found {
        let item = item?;
        taken += bytes(&item);
        let holds = items.len();
        items.push(item);
        if holds >= limit || holds > 0 && taken > PAGE_BYTES_MAX {
            return Ok((items, holds));
        }
    }
    Ok((items, limit))
}

/// A page of at most `limit`, from one item more than that where there is more.
pub fn page<T>(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> crate::backend::Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    crate::backend::Page { items, next }
}

/// As [`Origin::as_str`] writes it.
pub fn origin(text: &str) -> Origin {
    match text {
        "replay" => Origin::Replay,
        "backfill" => Origin::Backfill,
        _ => Origin::Live,
    }
}

/// As [`CauseKind::as_str`] writes it; `done` is `None`.
pub fn outcome(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<CauseKind>> {
    Ok(row.get_ref(index)?.as_str()?.parse().ok())
}

pub fn message_state(row: &Row<'_>, index: usize) -> rusqlite::Result<MessageState> {
    Ok(match row.get_ref(index)?.as_str()? {
        "sent" => MessageState::Sent,
        "failed" => MessageState::Failed,
        "unknown" => MessageState::Unknown,
        _ => MessageState::Pending,
    })
}

pub fn position(row: &Row<'_>, index: usize) -> rusqlite::Result<Position> {
    Ok(Position::new(unsigned(row.get(index)?)).unwrap_or(Position::FIRST))
}

pub fn consumer(connection: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<ConsumerNumber>> {
    connection
        .prepare_cached("SELECT number FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()
}

/// `order:…` or `subject:…`, so that a subject that looks like an order's id is still another lane.
pub fn lane_text(lane: &Lane) -> String {
    match lane {
        Lane::Order(id) => format!("order:{id}"),
        Lane::Subject(subject) => format!("subject:{subject}"),
    }
}

pub fn lane(text: &str) -> rusqlite::Result<Lane> {
    match text.strip_prefix("order:") {
        Some(id) => Ok(Lane::Order(parse(id)?)),
        None => Ok(Lane::Subject(text.strip_prefix("subject:").unwrap_or(text).into())),
    }
}
