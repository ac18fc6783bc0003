//! Reads orders, events, messages and records from what is on disk.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::commit::ConsumerNumber;
use super::readers::Disk;
use super::tail::stored_after;
use super::{Embedded, rows};
use crate::backend::{
    DeliveryReport, DeliveryState, Error, Journal, MessageReport, OrderQuery, PAGE_BYTES_MAX, Page, Result,
};
use crate::event::{Event, Position};
use crate::order::{Order, OrderId};

/// Rows looked at for one page: a rare status must not read the whole store in one request.
const ROWS_LOOKED_AT_MAX: usize = 20_000;

#[async_trait]
impl Journal for Embedded {
    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        let found = self.store.look(move |disk| rows::order_by_id(disk.connection()?, disk.contents(), id)).await?;
        Ok(found.map(|(_, order)| order))
    }

    async fn orders(&self, query: OrderQuery) -> Result<Page<Order>> {
        let after = rows::cursor(query.after.as_deref())?;
        self.store.read(move |disk| orders(disk, &query, after)).await
    }

    async fn events_of(&self, id: OrderId) -> Result<Vec<Arc<Event>>> {
        self.store.look(move |disk| events_of(disk, id)).await
    }

    async fn deliveries_of(&self, id: OrderId) -> Result<Vec<DeliveryReport>> {
        let inboxes = self.store.inboxes();
        let heard: Vec<_> = inboxes.iter().map(|inbox| (inbox.name.clone(), inbox.subscriptions())).collect();
        self.store
            .look(move |disk| {
                let events = events_of(disk, id)?;
                let mut reports = Vec::new();
                for event in &events {
                    let wants = |name: &str| {
                        let (_, heard) = heard.iter().find(|(consumer, _)| consumer.as_str() == name)?;
                        heard.as_ref().map(|heard| heard.want(event))
                    };
                    deliveries_of(disk.connection()?, event, wants, &mut reports)?;
                }
                Ok(reports)
            })
            .await
    }

    async fn events_after(&self, after: Option<Position>, limit: usize) -> Result<Vec<Arc<Event>>> {
        let after = after.map_or(0, Position::get);
        match self.store.tail.after(after, limit) {
            Some(events) => Ok(events),
            None => self.store.look(move |disk| stored_after(disk.connection()?, disk.contents(), after, limit)).await,
        }
    }

    async fn newest(&self) -> Result<Option<Position>> {
        Ok(Position::new(self.store.tail.head()))
    }

    async fn positions(&self, after: Option<Position>, to: Position, limit: usize) -> Result<Vec<Position>> {
        let span = [after.map_or(0, Position::get), to.get(), limit as u64].map(rows::signed);
        let positions = move |disk: &Connection| {
            let sql = "SELECT position FROM events WHERE position > ?1 AND position <= ?2 LIMIT ?3";
            let mut found = disk.prepare_cached(sql)?;
            let found = found.query_map(span, |row| Ok(Position::new(rows::unsigned(row.get(0)?))))?;
            Ok(found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        self.store.read(positions).await
    }

    fn settled(&self) -> Option<Position> {
        None
    }

    async fn messages(&self, after: Option<String>, limit: usize) -> Result<Page<MessageReport>> {
        let after = rows::cursor(after.as_deref())?;
        self.store.read(move |disk| messages(disk, after, limit)).await
    }

    async fn records(&self, dataset: &str, after: Option<String>, limit: usize) -> Result<Page<String>> {
        let after = rows::cursor(after.as_deref())?;
        let dataset = dataset.to_owned();
        self.store.read(move |disk| records(disk, &dataset, after, limit)).await
    }

    async fn ready(&self) -> Result<()> {
        match self.store.queue.refusing() {
            Some(why) => Err(Error::Unavailable(why)),
            None => self.store.read(|disk| disk.query_row("SELECT 1", [], |_| Ok(()))).await,
        }
    }
}

fn orders(disk: &Connection, query: &OrderQuery, after: Option<i64>) -> rusqlite::Result<Page<Order>> {
    let mut before = after.unwrap_or(i64::MAX);
    let sql = match query.customer {
        Some(_) => {
            format!("SELECT {} FROM orders WHERE number < ?1 AND customer_id = ?2 ORDER BY number DESC", rows::ORDER)
        }
        None => format!("SELECT {} FROM orders WHERE number < ?1 AND ?2 IS NULL ORDER BY number DESC", rows::ORDER),
    };
    let mut statement = disk.prepare_cached(&sql)?;
    let mut found = statement.query(params![before, query.customer])?;
    let (mut items, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
    while let Some(row) = found.next()? {
        if items.len() >= query.limit || looked_at >= ROWS_LOOKED_AT_MAX || bytes >= PAGE_BYTES_MAX {
            return Ok(Page { items, next: Some(before.to_string()) });
        }
        before = row.get(0)?;
        looked_at += 1;
        let status = row.get_ref(2)?.as_str()?;
        if query.status.is_none_or(|wanted| wanted.as_str() == status) {
            bytes += row.get_ref(5)?.as_str()?.len();
            items.push(rows::order(row)?.1);
        }
    }
    Ok(Page { items, next: None })
}

fn events_of(disk: &Disk<'_>, id: OrderId) -> rusqlite::Result<Vec<Arc<Event>>> {
    let sql = format!(
        "SELECT {} FROM orders AS o JOIN events AS e ON e.order_number = o.number WHERE o.id = ?1 ORDER BY e.position",
        rows::EVENT
    );
    let connection = disk.connection()?;
    let mut statement = connection.prepare_cached(&sql)?;
    let events = statement.query_map([rows::id(&id)], |row| rows::event(row, connection, disk.contents()))?;
    events.collect()
}

/// One report per consumer that the event concerns.
fn deliveries_of(
    disk: &Connection,
    event: &Event,
    wants: impl Fn(&str) -> Option<bool>,
    reports: &mut Vec<DeliveryReport>,
) -> rusqlite::Result<()> {
    let mut statement = disk.prepare_cached(
        "SELECT c.name, c.position, c.ahead, d.state, d.attempts,
                (SELECT max(attempt) FROM attempts WHERE consumer = c.number AND position = ?1),
                (SELECT cause FROM attempts WHERE consumer = c.number AND position = ?1 ORDER BY number DESC LIMIT 1),
                ?1 <= c.began, c.number
         FROM consumers AS c LEFT JOIN deliveries AS d ON d.consumer = c.number AND d.position = ?1 ORDER BY c.name",
    )?;
    let position = event.position.get();
    let mut found = statement.query([rows::signed(position)])?;
    while let Some(row) = found.next()? {
        let name = row.get_ref(0)?.as_str()?;
        let state = match row.get_ref(3)?.as_str_or_null()? {
            Some("retrying") => DeliveryState::Retrying,
            Some("waiting") => DeliveryState::Waiting,
            Some(_) => DeliveryState::Dead,
            // Without a row it was done, or never concerned the consumer, which its subscriptions say.
            None if wants(name) != Some(true) => continue,
            // What was given up ended with an attempt that had failed.
            None if row.get::<_, Option<String>>(6)?.is_some() => DeliveryState::Discarded,
            None if row.get(7)? => match missed(disk, row.get(8)?, position)? {
                Some(state) => state,
                None => continue,
            },
            None if rows::progress(row, 1)?.contains(position) => DeliveryState::Done,
            None => DeliveryState::Pending,
        };
        let tried: Option<u32> = row.get(5)?;
        reports.push(DeliveryReport {
            consumer: rows::parse(name)?,
            event_id: event.id,
            kind: event.kind().to_owned(),
            state,
            attempts: tried.unwrap_or(u32::from(state == DeliveryState::Done)),
            last_error: row.get(6)?,
        });
    }
    Ok(())
}

/// What became of an event from before the consumer began, which only a backfill can have delivered.
fn missed(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Option<DeliveryState>> {
    let mut statement = disk.prepare_cached(
        "SELECT position, ahead, state IN ('running', 'paused'), generation IS NULL OR state = 'done' FROM backfills
         WHERE consumer = ?1 AND first <= ?2 AND last >= ?2",
    )?;
    let mut backfills = statement.query(params![consumer, rows::signed(position)])?;
    let mut state = None;
    while let Some(row) = backfills.next()? {
        // What a rebuild handled counts once it is handed over.
        if row.get(3)? && rows::progress(row, 0)?.contains(position) {
            return Ok(Some(DeliveryState::Done));
        }
        if row.get(2)? {
            state = Some(DeliveryState::Pending);
        }
    }
    Ok(state)
}

fn messages(disk: &Connection, after: Option<i64>, limit: usize) -> rusqlite::Result<Page<MessageReport>> {
    let before = after.unwrap_or(i64::MAX);
    let mut statement = disk.prepare_cached(
        "SELECT m.number, m.message_id, coalesce(c.name, f.name), coalesce(e.order_id, o.id), m.state, m.attempts, m.error, m.time, m.message
         FROM messages AS m
         LEFT JOIN consumers AS c ON c.number = m.consumer
         LEFT JOIN forgotten AS f ON f.number = m.consumer
         LEFT JOIN events AS e ON e.position = m.position
         LEFT JOIN orders AS o ON o.number = e.order_number
         WHERE m.number < ?1 ORDER BY m.number DESC LIMIT ?2",
    )?;
    let fetch = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let found = statement.query_map([before, fetch], |row| {
        let report = MessageReport {
            id: row.get(1)?,
            consumer: rows::parse(row.get_ref(2)?.as_str()?)?,
            order_id: row.get_ref(3)?.as_str_or_null()?.map(rows::parse).transpose()?,
            state: rows::message_state(row, 4)?,
            attempts: row.get(5)?,
            last_error: row.get(6)?,
            time: rows::timestamp(row, 7)?,
            message: rows::from_json(row.get_ref(8)?.as_str()?)?,
        };
        Ok((row.get::<_, i64>(0)?, row.get_ref(8)?.as_str()?.len(), report))
    })?;
    let (found, limit) = rows::within(found, limit, |(_, bytes, _)| *bytes)?;
    let page = rows::page(found, limit, |(number, ..)| number.to_string());
    Ok(Page { items: page.items.into_iter().map(|(.., report)| report).collect(), next: page.next })
}

fn records(disk: &Connection, dataset: &str, after: Option<i64>, limit: usize) -> rusqlite::Result<Page<String>> {
    let after = after.unwrap_or(0);
    let mut statement = disk.prepare_cached(
        "SELECT number, row FROM records WHERE dataset = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
    )?;
    let fetch = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let found = statement
        .query_map(params![dataset, after, fetch], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let (found, limit) = rows::within(found, limit, |(_, row)| row.len())?;
    let page = rows::page(found, limit, |(number, _)| number.to_string());
    Ok(Page { items: page.items.into_iter().map(|(_, row)| row).collect(), next: page.next })
}
