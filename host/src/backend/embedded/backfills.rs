//! Backfills as the store keeps them: one row each, and where an order to steer one goes.
//!
//! The row is the truth; a consumer's desk follows it once it is durable, in a task of its own, so that a caller who
//! goes away leaves nothing half done. What a desk misses (a crash in between), it reads when it is loaded.

pub mod scope;
pub mod way_back;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use self::scope::Scope;
use super::commit::{BackfillCommit, BackfillNumber, ConsumerNumber, StateNumber};
use super::inbox::EmbeddedInbox;
use super::progress::Progress;
use super::writer::Writer;
use super::{Embedded, Store, failed, rows};
use crate::backend::layouts::BROUGHT_MORE;
use crate::backend::{
    Backfill, BackfillEffects, BackfillReport, BackfillState, BackfillStep, Backfilled, Backfills, Durable, Error,
    FromBackfill, Result, Since, Started, Steered, WayBack,
};
use crate::event::Event;
use crate::event::filter::Filter;
use crate::fault::{self, Point};
use crate::policy::{ConsumerName, Rate};

/// How long a new backfill waits for the last deliveries of one that was cancelled.
const ENDING_TIME_MAX: Duration = Duration::from_secs(4);
const ENDING_LOOK_EVERY: Duration = Duration::from_millis(10);

#[async_trait]
impl Backfills for Embedded {
    async fn count(&self, name: &ConsumerName, asked: &Backfill) -> Result<Option<u64>> {
        let found = self.store.scope(name, asked).await?;
        Ok(found.map(|scope| scope.events))
    }

    async fn start(&self, name: &ConsumerName, asked: Backfill) -> Result<Durable<Started>> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        to_its_end(async move { store.start_backfill(&name, asked).await }).await
    }

    async fn latest(&self, name: &ConsumerName) -> Result<Option<BackfillReport>> {
        let name = name.clone();
        self.store.read(move |disk| latest(disk, &name)).await
    }

    async fn steer(&self, name: &ConsumerName, step: BackfillStep) -> Result<Durable<Steered>> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        to_its_end(async move { store.steer_backfill(&name, step).await }).await
    }
}

/// Runs `work` in a task of its own: it ends although its caller goes away.
pub(super) async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|error| Error::Failed(error.to_string().into()))?
}

impl Store {
    pub(super) fn inbox(&self, name: &ConsumerName) -> Option<Arc<EmbeddedInbox>> {
        self.inboxes.lock().get(name).cloned()
    }

    async fn scope(self: &Arc<Self>, name: &ConsumerName, asked: &Backfill) -> Result<Option<Scope>> {
        let subscriptions = self.inbox(name).and_then(|inbox| inbox.subscriptions());
        let (name, asked) = (name.clone(), asked.clone());
        self.look(move |disk| Scope::of(disk, &name, &asked, subscriptions)).await
    }

    async fn start_backfill(self: Arc<Self>, name: &ConsumerName, asked: Backfill) -> Result<Durable<Started>> {
        if !self.has_ended(name).await? {
            return self.task(|_| Ok(Started::Runs)).await;
        }
        let Some(scope) = self.scope(name, &asked).await? else {
            return self.task(|_| Ok(Started::UnknownConsumer)).await;
        };
        let started = self.task(move |writer| insert(writer, &scope, &asked)).await?;
        fault::pass(Point::BackfillStarted);
        if let (Started::Yes(report), Some(inbox)) = (&*started, self.inbox(name)) {
            let rebuild = report.rebuild;
            at_the_desk(move || if rebuild { inbox.begin_rebuild() } else { inbox.begin_fill() }).await?;
        }
        Ok(started)
    }

    /// Waits until nothing of a backfill before is on its way; `false` where one is under way.
    pub(super) async fn has_ended(self: &Arc<Self>, name: &ConsumerName) -> Result<bool> {
        let Some(inbox) = self.inbox(name) else { return Ok(true) };
        if self.report(name).await?.is_some_and(|report| is_under_way(report.state)) {
            return Ok(false);
        }
        ended(&inbox).await?;
        Ok(true)
    }

    async fn report(self: &Arc<Self>, name: &ConsumerName) -> Result<Option<BackfillReport>> {
        let name = name.clone();
        self.read(move |disk| latest(disk, &name)).await
    }

    async fn steer_backfill(self: Arc<Self>, name: &ConsumerName, step: BackfillStep) -> Result<Durable<Steered>> {
        let inbox = self.inbox(name);
        let name = name.clone();
        let steered = self.task(move |writer| steer(writer, &name, step)).await?;
        fault::pass(Point::BackfillSteered);
        if let (Some((number, _)), Some(inbox)) = (&*steered, inbox) {
            let number = *number;
            at_the_desk(move || inbox.steer_fill(number, step)).await?;
        }
        Ok(steered.map(|steered| steered.map_or(Steered::None, |(_, report)| Steered::Yes(report))))
    }
}

/// Waits until nothing of a backfill before is on its way: what that one delivers must not be delivered by the next.
async fn ended(inbox: &Arc<EmbeddedInbox>) -> Result<()> {
    let mut waited = Duration::ZERO;
    while inbox.fills() || inbox.is_rebuilt() {
        if waited >= ENDING_TIME_MAX {
            let why = "the last deliveries of the backfill before are still running; try again";
            return Err(Error::Unavailable(why.into()));
        }
        tokio::time::sleep(ENDING_LOOK_EVERY).await;
        waited += ENDING_LOOK_EVERY;
    }
    Ok(())
}

pub(super) async fn at_the_desk(follow: impl FnOnce() -> rusqlite::Result<()> + Send + 'static) -> Result<()> {
    let followed = tokio::task::spawn_blocking(follow).await;
    followed.map_err(|error| Error::Failed(error.to_string().into()))?.map_err(|error| failed(&error))
}

fn is_under_way(state: BackfillState) -> bool {
    matches!(state, BackfillState::Running | BackfillState::Paused)
}

/// A backfill that has ended, and how far it came.
pub struct Earlier {
    first: u64,
    progress: Progress,
    filter: Option<Filter>,
}

impl Earlier {
    /// Whether the consumer was offered the event.
    pub fn offered(&self, event: &Event) -> bool {
        let position = event.position.get();
        position >= self.first
            && self.progress.contains(position)
            && self.filter.as_ref().is_none_or(|filter| event.passes(filter))
    }
}

/// The consumer's backfills that have ended.
pub fn earlier(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<Vec<Earlier>> {
    let mut statement = disk.prepare_cached(
        "SELECT first, position, ahead, filter FROM backfills
         WHERE consumer = ?1 AND (position >= first OR ahead <> '')
         AND (state = 'done' OR state = 'cancelled' AND generation IS NULL)",
    )?;
    let rows = statement.query_map([consumer], |row| {
        Ok(Earlier { first: rows::unsigned(row.get(0)?), progress: rows::progress(row, 1)?, filter: filter(row, 3)? })
    })?;
    rows.collect()
}

/// The backfill that a desk has to do.
pub struct UnderWay {
    pub from: FromBackfill,
    pub last: u64,
    pub rate: Rate,
    pub paused: bool,
    pub progress: Progress,
    pub filter: Option<Filter>,
    /// What a rebuild fills.
    pub generation: Option<StateNumber>,
    /// Position of what failed last.
    pub failing: Option<u64>,
    pub way_back: Option<WayBack>,
}

/// The consumer's backfill that runs or is paused.
pub fn under_way(disk: &Connection, consumer: ConsumerNumber, of: Backfilled) -> rusqlite::Result<Option<UnderWay>> {
    disk.prepare_cached(
        "SELECT number, effects, last, rate, state, position, ahead, filter, generation,
                json_extract(failure, '$.position'), way_back FROM backfills
         WHERE consumer = ?1 AND state IN ('running', 'paused') AND (generation IS NOT NULL) = ?2",
    )?
    .query_row(params![consumer, of == Backfilled::Rebuild], |row| {
        Ok(UnderWay {
            from: FromBackfill { number: row.get(0)?, effects: effects(row.get_ref(1)?.as_str()?) },
            last: rows::unsigned(row.get(2)?),
            rate: rate(row, 3)?,
            paused: row.get_ref(4)?.as_str()? == "paused",
            progress: rows::progress(row, 5)?,
            filter: filter(row, 7)?,
            generation: row.get(8)?,
            failing: row.get::<_, Option<i64>>(9)?.map(rows::unsigned),
            way_back: row.get_ref(10)?.as_str_or_null()?.map(rows::from_json).transpose()?,
        })
    })
    .optional()
}

/// Progress of the backfills that are under way, for the writer.
pub fn progress(connection: &Connection) -> rusqlite::Result<HashMap<BackfillNumber, Progress>> {
    let mut statement =
        connection.prepare("SELECT number, position, ahead FROM backfills WHERE state IN ('running', 'paused')")?;
    statement.query_map([], |row| Ok((row.get(0)?, rows::progress(row, 1)?)))?.collect()
}

/// How many deliveries of a backfill one batch ends.
#[derive(Default)]
pub struct Tally {
    pub delivered: u64,
    pub dropped: u64,
}

impl Writer<'_> {
    pub(super) fn backfill(&mut self, commit: BackfillCommit) {
        if let Some(progress) = self.memory.backfills.get_mut(&commit.number) {
            commit.through.into_iter().for_each(|(first, last)| progress.add(first, last));
        }
        let tally = self.backfills.entry(commit.number).or_default();
        tally.delivered += commit.delivered;
        tally.dropped += commit.dropped;
    }

    /// Writes what the batch says of backfills, and ends those that are through.
    pub(super) fn flush_backfills(&mut self) -> rusqlite::Result<()> {
        let (now, backfills) = (rows::millis(self.now), std::mem::take(&mut self.backfills));
        for (number, Tally { delivered, dropped }) in backfills {
            let counts = params![number, rows::signed(delivered), rows::signed(dropped)];
            self.connection
                .prepare_cached(
                    "UPDATE backfills SET delivered = delivered + ?2, dropped = dropped + ?3 WHERE number = ?1",
                )?
                .execute(counts)?;
            // A delivery that was an exception may end long after its backfill.
            let Some(progress) = self.memory.backfills.get(&number) else { continue };
            let position = rows::signed(progress.base());
            self.connection
                .prepare_cached("UPDATE backfills SET position = ?2, ahead = ?3 WHERE number = ?1")?
                .execute(params![number, position, progress.ahead().to_string()])?;
            self.connection
                .prepare_cached(
                    "UPDATE backfills SET state = 'done', ended_at = ?2
                     WHERE number = ?1 AND position >= last AND state IN ('running', 'paused') AND generation IS NULL",
                )?
                .execute(params![number, now])?;
            fault::pass(Point::BackfillProgressed);
        }
        Ok(())
    }
}

fn insert(writer: &mut Writer<'_>, scope: &Scope, asked: &Backfill) -> rusqlite::Result<Started> {
    let Scope { consumer, first, last, events, done, more } = *scope;
    let runs = "SELECT 1 FROM backfills WHERE consumer = ?1 AND state IN ('running', 'paused')";
    if writer.connection.prepare_cached(runs)?.exists([consumer])? {
        return Ok(Started::Runs);
    }
    let since = match asked.from {
        Since::Beginning => None,
        Since::At(time) => Some(rows::millis(time)),
    };
    let is_rebuild = asked.of == Backfilled::Rebuild;
    // A rebuild of nothing is an empty generation to hand over.
    let nothing = events == 0 && !is_rebuild;
    let state = if nothing { BackfillState::Done } else { BackfillState::Running };
    if more {
        writer.former_goes(consumer, BROUGHT_MORE)?;
    }
    let number: BackfillNumber =
        writer.connection.query_row("SELECT coalesce(max(number), 0) + 1 FROM backfills", [], |row| row.get(0))?;
    let generation = if is_rebuild { Some(writer.begin_generation(consumer, number)?.state) } else { None };
    writer.connection.execute(
        "INSERT INTO backfills (number, consumer, state, since, rate, effects, first, last, position, events, started_at,
                                ended_at, filter, generation, done_before)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            number,
            consumer,
            state.as_str(),
            since,
            asked.rate.per_second.get(),
            asked.effects.as_str(),
            rows::signed(first),
            rows::signed(last),
            rows::signed(first.saturating_sub(1)),
            rows::signed(events),
            rows::millis(writer.now),
            nothing.then_some(rows::millis(writer.now)),
            asked.filter.as_ref().map(ToString::to_string),
            generation,
            generation.map(|_| rows::signed(done)),
        ],
    )?;
    writer.memory.backfills.insert(number, Progress::up_to(first.saturating_sub(1)));
    let report = writer.connection.query_row(&format!("{REPORT} WHERE b.number = ?1"), [number], report)?;
    Ok(Started::Yes(report))
}

fn steer(
    writer: &mut Writer<'_>,
    name: &ConsumerName,
    step: BackfillStep,
) -> rusqlite::Result<Option<(BackfillNumber, BackfillReport)>> {
    let found: Option<(BackfillNumber, ConsumerNumber)> = writer
        .connection
        .prepare_cached(
            "SELECT b.number, c.number FROM consumers AS c JOIN backfills AS b ON b.consumer = c.number
             WHERE c.name = ?1 AND b.state IN ('running', 'paused')",
        )?
        .query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((number, consumer)) = found else { return Ok(None) };
    if step == BackfillStep::Cancel {
        writer.give_up_generation(consumer)?;
    }
    let (state, ended_at) = match step {
        BackfillStep::Pause => (BackfillState::Paused, None),
        BackfillStep::Resume => (BackfillState::Running, None),
        BackfillStep::Cancel => (BackfillState::Cancelled, Some(rows::millis(writer.now))),
    };
    writer.connection.execute(
        "UPDATE backfills SET state = ?2, ended_at = ?3 WHERE number = ?1",
        params![number, state.as_str(), ended_at],
    )?;
    let report = writer.connection.query_row(&format!("{REPORT} WHERE b.number = ?1"), [number], report)?;
    Ok(Some((number, report)))
}

/// A rebuild goes up to where the consumer is, and delivers what that one does meanwhile.
const REPORT: &str = "
    SELECT b.state, b.since, b.rate, b.effects, b.first,
           CASE WHEN b.generation IS NOT NULL AND b.state IN ('running', 'paused')
                THEN max(b.last, b.position, c.position) ELSE b.last END,
           b.position,
           CASE WHEN b.generation IS NULL THEN b.events
                WHEN b.state IN ('running', 'paused') THEN b.events + c.done - b.done_before
                WHEN b.state = 'done' THEN b.delivered
                ELSE b.events END,
           b.delivered, b.dropped, b.started_at, b.ended_at,
           CASE WHEN b.state IN ('running', 'paused')
                THEN (SELECT count(*) FROM deliveries AS d WHERE d.consumer = b.consumer AND d.behind > b.position)
                ELSE 0 END,
           c.name, b.filter, b.generation IS NOT NULL, b.failure, b.way_back ->> '$.to'
    FROM backfills AS b JOIN consumers AS c ON c.number = b.consumer";

fn report(row: &Row<'_>) -> rusqlite::Result<BackfillReport> {
    Ok(BackfillReport {
        state: match row.get_ref(0)?.as_str()? {
            "running" => BackfillState::Running,
            "paused" => BackfillState::Paused,
            "cancelled" => BackfillState::Cancelled,
            _ => BackfillState::Done,
        },
        rebuild: row.get(15)?,
        back_to: row.get_ref(17)?.as_str_or_null()?.map(rows::parse).transpose()?,
        from: rows::optional_timestamp(row, 1)?.map_or(Since::Beginning, Since::At),
        filter: filter(row, 14)?,
        rate: rate(row, 2)?,
        effects: effects(row.get_ref(3)?.as_str()?),
        first: rows::unsigned(row.get(4)?),
        last: rows::unsigned(row.get(5)?),
        position: rows::unsigned(row.get(6)?),
        events: rows::unsigned(row.get(7)?),
        delivered: rows::unsigned(row.get(8)?),
        dropped: rows::unsigned(row.get(9)?),
        started_at: rows::timestamp(row, 10)?,
        ended_at: rows::optional_timestamp(row, 11)?,
        held: rows::unsigned(row.get(12)?),
        failure: row.get_ref(16)?.as_str_or_null()?.map(rows::from_json).transpose()?,
        // Live ones are held back as soon as nothing else is left.
        lags: false,
    })
}

/// The consumer's newest backfill.
fn latest(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<BackfillReport>> {
    let sql = format!("{REPORT} WHERE c.name = ?1 ORDER BY b.number DESC LIMIT 1");
    disk.prepare_cached(&sql)?.query_row([name.as_str()], report).optional()
}

/// Reports of the backfills that are under way, by consumer.
pub fn reports(disk: &Connection) -> rusqlite::Result<HashMap<ConsumerName, BackfillReport>> {
    let mut statement = disk.prepare_cached(&format!("{REPORT} WHERE b.state IN ('running', 'paused')"))?;
    let found = statement.query_map([], |row| Ok((rows::parse(row.get_ref(13)?.as_str()?)?, report(row)?)))?;
    found.collect()
}

/// Which backfill a delivery comes from, by the columns `deliveries.backfill` and `backfills.effects` from `index` on.
pub fn from(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<FromBackfill>> {
    let Some(number) = row.get(index)? else { return Ok(None) };
    Ok(Some(FromBackfill { number, effects: effects(row.get_ref(index + 1)?.as_str_or_null()?.unwrap_or_default()) }))
}

fn effects(text: &str) -> BackfillEffects {
    match text {
        "state-only" => BackfillEffects::StateOnly,
        _ => BackfillEffects::All,
    }
}

fn rate(row: &Row<'_>, index: usize) -> rusqlite::Result<Rate> {
    Ok(Rate { per_second: row.get::<_, u32>(index)?.try_into().unwrap_or(NonZeroU32::MIN) })
}

fn filter(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Filter>> {
    let text = row.get_ref(index)?.as_str_or_null()?;
    let parsed = text.map(Filter::parse).transpose();
    parsed.map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, error.into()))
}
