//! The timeline of an order, put together from the journal, the attempts, the runs and the messages.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::commit::ConsumerNumber;
use super::dead_letters::attempts;
use super::progress::Progress;
use super::readers::Disk;
use super::runs::Run;
use super::{Embedded, rows};
use crate::backend::{AttemptReport, DeliveryState, Moment, Origin, Page, Result, RunReport, Timelines, What};
use crate::clock::Timestamp;
use crate::effects::Message;
use crate::event::{Body, Event};
use crate::order::OrderId;
use crate::policy::ConsumerName;

/// Events beyond a page that are looked at for what those of the page caused: it comes soon after its cause.
const BEYOND: usize = 16;

#[async_trait]
impl Timelines for Embedded {
    async fn timeline(&self, order: OrderId, after: Option<String>, events: usize) -> Result<Page<Moment>> {
        let after = rows::cursor(after.as_deref())?.unwrap_or(0);
        let inboxes = self.store.inboxes();
        let heard: Vec<_> = inboxes.iter().map(|inbox| (inbox.name.clone(), inbox.subscriptions())).collect();
        self.store
            .look(move |disk| {
                let wants = |name: &ConsumerName, event: &Event| {
                    let (_, heard) = heard.iter().find(|(consumer, _)| consumer == name)?;
                    heard.as_ref().map(|heard| heard.want(event))
                };
                let family = events_of(disk, order, after, events.saturating_add(BEYOND))?;
                let page = rows::page(family.clone(), events, |(event, _)| event.position.to_string());
                let consumers = consumers(disk.connection()?)?;
                let mut sight = Sight { disk, consumers, moments: Vec::new() };
                for (event, by) in &page.items {
                    sight.look(event, *by, &family, wants)?;
                }
                let mut moments = sight.moments;
                moments.sort_by_key(|moment| moment.what.time());
                Ok(Page { items: moments, next: page.next })
            })
            .await
    }
}

/// An event, and the consumer that caused it.
type Caused = (Arc<Event>, Option<ConsumerNumber>);

struct Consumer {
    number: ConsumerNumber,
    name: ConsumerName,
    progress: Progress,
}

/// What is seen of an order.
struct Sight<'a> {
    disk: &'a Disk<'a>,
    consumers: Vec<Consumer>,
    moments: Vec<Moment>,
}

impl Sight<'_> {
    fn look(
        &mut self,
        event: &Event,
        by: Option<ConsumerNumber>,
        family: &[Caused],
        wants: impl Fn(&ConsumerName, &Event) -> Option<bool>,
    ) -> rusqlite::Result<()> {
        self.event(event, by);
        let astray = astray(self.disk, event)?;
        for (caused, by) in &astray {
            self.event(caused, *by);
        }
        let messages = messages(self.disk.connection()?, event)?;
        let records = records(self.disk.connection()?, event)?;
        let consumers = std::mem::take(&mut self.consumers);
        for consumer in &consumers {
            let marks = |(caused, by): &&Caused| caused.cause == Some(event.id) && *by == Some(consumer.number);
            let caused = family.iter().chain(&astray).find(marks).map(|(caused, _)| caused.time);
            let mut left = messages.iter().chain(&records);
            let left = left.find(|(by, _)| *by == consumer.number).map(|(_, what)| what.time());
            self.deliveries(event, consumer, caused.or(left), wants(&consumer.name, event))?;
        }
        for (by, what) in messages.into_iter().chain(records) {
            let consumer = consumers.iter().find(|consumer| consumer.number == by);
            self.add(event, consumer.map(|consumer| &consumer.name), what);
        }
        self.consumers = consumers;
        Ok(())
    }

    fn event(&mut self, event: &Event, by: Option<ConsumerNumber>) {
        let by = self.consumers.iter().find(|consumer| Some(consumer.number) == by);
        let by = by.map(|consumer| consumer.name.clone());
        let change = match &event.body {
            Body::OrderChanged { change, .. } => Some(change.clone()),
            Body::Custom(_) => None,
        };
        let what = What::Event { time: event.time, position: event.position, cause: event.cause, change };
        self.add(event, by.as_ref(), what);
    }

    /// What one consumer did with the event. `marked` is when something that it caused was recorded.
    fn deliveries(
        &mut self,
        event: &Event,
        consumer: &Consumer,
        marked: Option<Timestamp>,
        wants: Option<bool>,
    ) -> rusqlite::Result<()> {
        let (position, name) = (event.position.get(), Some(&consumer.name));
        let disk = self.disk.connection()?;
        let tried = attempts(disk, consumer.number, position)?;
        let open = open(disk, consumer.number, position)?;
        let first = tried.is_empty();
        let done = interventions(disk, consumer.number, position)?;
        // Of the same millisecond, an edit comes before the attempts at the copy, and giving up behind all.
        let (before, behind): (Vec<_>, Vec<_>) = done.into_iter().partition(|it| matches!(it, What::Edited { .. }));
        let tried = tried.into_iter().map(|attempt| What::Attempt { attempt: Box::new(attempt), run: None });
        for what in before.into_iter().chain(tried).chain(behind) {
            self.add(event, name, what);
        }
        match open {
            Some(open) => self.add(event, name, open),
            // Without a trace of its own it never concerned the consumer, or it was done at once.
            None if !first || (marked.is_none() && wants != Some(true)) => {}
            None if !consumer.progress.contains(position) => {
                self.add(event, name, What::Open { state: DeliveryState::Pending, due: None });
            }
            None => {
                if let Some(run) = run(disk, consumer.number, position)? {
                    self.add(event, name, of_run(&run, marked.unwrap_or(event.time.max(run.began))));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, event: &Event, consumer: Option<&ConsumerName>, what: What) {
        let moment = Moment { what, event_id: event.id, kind: event.kind().to_owned(), consumer: consumer.cloned() };
        self.moments.push(moment);
    }
}

fn of_run(run: &Run, time: Timestamp) -> What {
    let mean = run.duration_sum_us / run.count.max(1);
    let attempt = AttemptReport {
        attempt: 1,
        outcome: None,
        cause: None,
        backtrace: None,
        version: run.version.to_string(),
        duration_us: mean,
        time,
        origin: Origin::Live,
        edited: false,
        candidate: false,
        effects: None,
        log: Vec::new(),
        calls: Vec::new(),
    };
    let run = RunReport {
        count: run.count,
        duration_mean_us: mean,
        duration_max_us: run.duration_max_us,
        from: run.began,
        to: run.ended,
    };
    What::Attempt { attempt: Box::new(attempt), run: Some(run) }
}

/// One event more than `limit`, where there is one.
fn events_of(disk: &Disk<'_>, order: OrderId, after: i64, limit: usize) -> rusqlite::Result<Vec<Caused>> {
    let sql = format!(
        "SELECT {}, e.consumer FROM orders AS o JOIN events AS e ON e.order_number = o.number
         WHERE o.id = ?1 AND e.position > ?2 ORDER BY e.position LIMIT ?3",
        rows::EVENT
    );
    let fetch = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    caused(disk, &sql, params![rows::id(&order), after, fetch])
}

/// What the handling of an event caused that is not about its order.
fn astray(disk: &Disk<'_>, event: &Event) -> rusqlite::Result<Vec<Caused>> {
    let sql = format!(
        "SELECT {}, e.consumer FROM events AS e WHERE e.cause = ?1 AND e.astray = 1 ORDER BY e.position",
        rows::EVENT
    );
    caused(disk, &sql, params![rows::id(&event.id)])
}

fn caused(disk: &Disk<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Caused>> {
    let connection = disk.connection()?;
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement
        .query_map(params, |row| Ok((rows::event(row, connection, disk.contents())?, row.get(rows::EVENT_COLUMNS)?)))?;
    found.collect()
}

fn consumers(disk: &Connection) -> rusqlite::Result<Vec<Consumer>> {
    let mut statement = disk.prepare_cached("SELECT number, name, position, ahead FROM consumers ORDER BY name")?;
    let consumers = statement.query_map([], |row| {
        Ok(Consumer {
            number: row.get(0)?,
            name: rows::parse(row.get_ref(1)?.as_str()?)?,
            progress: rows::progress(row, 2)?,
        })
    })?;
    consumers.collect()
}

fn open(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Option<What>> {
    disk.prepare_cached("SELECT state, due FROM deliveries WHERE consumer = ?1 AND position = ?2")?
        .query_row(params![consumer, rows::signed(position)], |row| {
            let state = match row.get_ref(0)?.as_str()? {
                "retrying" => DeliveryState::Retrying,
                "waiting" => DeliveryState::Waiting,
                _ => DeliveryState::Dead,
            };
            Ok(What::Open { state, due: rows::optional_timestamp(row, 1)? })
        })
        .optional()
}

fn interventions(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Vec<What>> {
    disk.prepare_cached("SELECT what, data, time FROM interventions WHERE consumer = ?1 AND position = ?2")?
        .query_map(params![consumer, rows::signed(position)], |row| {
            let time = rows::timestamp(row, 2)?;
            Ok(match row.get_ref(0)?.as_str()? {
                "edited" => What::Edited { time, data: rows::from_json(row.get_ref(1)?.as_str()?)? },
                _ => What::Discarded { time },
            })
        })?
        .collect()
}

/// The run that a position lies in. Where a backfill went over it later, that one's.
fn run(disk: &Connection, consumer: ConsumerNumber, position: u64) -> rusqlite::Result<Option<Run>> {
    let mut found = None;
    for origin in [Origin::Live, Origin::Backfill] {
        let run = disk
            .prepare_cached(
                "SELECT first, last, version, count, duration_sum, duration_max, began, ended FROM runs
                 WHERE consumer = ?1 AND origin = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1",
            )?
            .query_row(params![consumer, origin.as_str(), rows::signed(position)], |row| Run::read(row, 0))
            .optional()?;
        found = run.filter(|run| run.last >= position).or(found);
    }
    Ok(found)
}

fn messages(disk: &Connection, event: &Event) -> rusqlite::Result<Vec<(ConsumerNumber, What)>> {
    disk.prepare_cached(
        "SELECT consumer, message_id, time, state, message FROM messages WHERE position = ?1 ORDER BY number",
    )?
    .query_map([rows::signed(event.position.get())], |row| {
        let message: Message = rows::from_json(row.get_ref(4)?.as_str()?)?;
        let what = What::Message {
            time: rows::timestamp(row, 2)?,
            id: row.get(1)?,
            kind: message.kind(),
            to: message.to().to_owned(),
            state: rows::message_state(row, 3)?,
        };
        Ok((row.get(0)?, what))
    })?
    .collect()
}

/// What was appended to data sets when the event was handled.
fn records(disk: &Connection, event: &Event) -> rusqlite::Result<Vec<(ConsumerNumber, What)>> {
    disk.prepare_cached(
        "SELECT consumer, dataset, max(time), count(*) FROM records WHERE position = ?1
         GROUP BY consumer, dataset ORDER BY min(number)",
    )?
    .query_map([rows::signed(event.position.get())], |row| {
        let what =
            What::Records { time: rows::timestamp(row, 2)?, dataset: row.get(1)?, count: rows::unsigned(row.get(3)?) };
        Ok((row.get(0)?, what))
    })?
    .collect()
}
