//! The consumers that the store knows, and their state.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::commit::{ConsumerNumber, StateNumber};
use super::inbox::EmbeddedInbox;
use super::progress::Progress;
use super::queue::{Job, Reply};
use super::writer::Writer;
use super::{Embedded, Store, backfills, failed, forget, generations, pause, rows, upkeep};
use crate::backend::{
    ConsumerReport, Consumers, Durable, Error, Forgotten, Inbox, Pause, Result, StatePage, StateQuery,
};
use crate::clock::Timestamp;
use crate::policy::{ConsumerName, Start};

/// Looks at all consumers before "nothing is pending" is said although something was committed meanwhile: an event
/// that one consumer published while another was looked at may be missing from that one's count.
const LOOKS_MAX: u32 = 4;

#[async_trait]
impl Consumers for Embedded {
    async fn attach(&self, name: &ConsumerName, start: Start) -> Result<Arc<dyn Inbox>> {
        let _attaching = match forget::attach(&self.store, name) {
            Ok(inbox) => return Ok(inbox as _),
            Err(attaching) => attaching,
        };
        let number = self.number(name, start).await?;
        let (store, owned) = (Arc::clone(&self.store), name.clone());
        let inbox = self.store.read(move |disk| EmbeddedInbox::open(store, owned, number, disk)).await?;
        // Of two that attach at once, the first stays: a consumer has one desk.
        let inbox = Arc::clone(self.store.inboxes.lock().entry(name.clone()).or_insert_with(|| Arc::new(inbox)));
        // It may have been paused, or a backfill begun, between the look at its rows and the moment when it could be found
        // here.
        inbox.look_at_pause()?;
        inbox.begin_fill().and_then(|()| inbox.begin_rebuild()).map_err(|error| failed(&error))?;
        Ok(inbox as _)
    }

    async fn introduce(&self, name: &ConsumerName, start: Start) -> Result<()> {
        self.number(name, start).await.map(drop)
    }

    async fn known(&self) -> Result<Vec<ConsumerReport>> {
        for _ in 1..LOOKS_MAX {
            let before = self.store.queue.durable();
            let reports = self.look().await?;
            let quiet = reports.iter().all(|report| report.pending == 0);
            if !quiet || self.store.queue.durable() == before {
                return Ok(reports);
            }
        }
        self.look().await
    }

    async fn state(&self, name: &ConsumerName, query: StateQuery) -> Result<StatePage> {
        let name = name.clone();
        self.store.read(move |disk| state(disk, &name, &query)).await
    }

    async fn forget(&self, name: &ConsumerName) -> Result<Durable<Forgotten>> {
        forget::forget(self, name).await
    }

    async fn set_pause(&self, name: &ConsumerName, pause: Option<Pause>) -> Result<Durable<bool>> {
        pause::set(self, name, pause).await
    }

    async fn pause(&self, name: &ConsumerName) -> Result<Option<Pause>> {
        let name = name.clone();
        self.store.read(move |disk| pause::of(disk, &name)).await
    }
}

impl Embedded {
    /// Of a consumer that is known from here on.
    async fn number(&self, name: &ConsumerName, start: Start) -> Result<ConsumerNumber> {
        let name = name.clone();
        Ok(self.task(move |writer| find_or_add(writer, &name, start)).await?.into_inner())
    }

    /// Looks at one consumer after another.
    async fn look(&self) -> Result<Vec<ConsumerReport>> {
        let (stored, mut backfills) = self.store.read(|disk| Ok((known(disk)?, backfills::reports(disk)?))).await?;
        let held = self.store.held.lock().clone();
        let mut reports = Vec::with_capacity(stored.len());
        for Known { name, base, done, dead, state_bytes, paused } in stored {
            let inbox = self.store.inboxes.lock().get(&name).cloned();
            let pending = match inbox {
                None => self.store.tail.head().saturating_sub(base),
                Some(inbox) => inbox.count_pending().await?,
            };
            let held = held.clone().filter(|held| held.by == name);
            let backfill = backfills.remove(&name);
            reports.push(ConsumerReport {
                name,
                pending,
                dead,
                done,
                state_bytes,
                paused,
                held,
                backfill,
                cut_off: None,
            });
        }
        Ok(reports)
    }

    /// Runs `task` in the writer's next batch.
    pub(super) async fn task<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Durable<T>> {
        self.store.task(task).await
    }
}

impl Store {
    /// Runs `task` in the writer's next batch.
    pub(super) async fn task<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Durable<T>> {
        let (reply, answer): (Reply<T>, _) = oneshot::channel();
        self.queue.push(Job::task(task, reply))?;
        answer.await.map_err(|_| Error::Unavailable("the host is shutting down".into()))?
    }
}

fn find_or_add(writer: &mut Writer<'_>, name: &ConsumerName, start: Start) -> rusqlite::Result<ConsumerNumber> {
    let known = writer
        .connection
        .prepare_cached("SELECT number FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let base = match start {
        Start::Now => writer.memory.head,
        Start::Beginning => upkeep::last_before(writer.connection, Timestamp::default())?,
        Start::At(time) => upkeep::last_before(writer.connection, time)?,
    };
    let number: ConsumerNumber = writer.connection.query_row(NEXT_NUMBER, [], |row| row.get(0))?;
    let state = generations::next_state(writer.connection)?;
    writer.connection.execute(
        "INSERT INTO consumers (number, name, position, began, state) VALUES (?1, ?2, ?3, ?3, ?4)",
        params![number, name.as_str(), rows::signed(base), state],
    )?;
    writer.memory.progress.insert(number, Progress::up_to(base));
    Ok(number)
}

/// Never one that a consumer had before: what that one left may still be there.
const NEXT_NUMBER: &str = "SELECT max(coalesce((SELECT max(number) FROM consumers), 0),
                                      coalesce((SELECT max(number) FROM forgotten), 0)) + 1";

struct Known {
    name: ConsumerName,
    base: u64,
    done: u64,
    dead: u64,
    state_bytes: u64,
    paused: Option<Pause>,
}

fn known(disk: &Connection) -> rusqlite::Result<Vec<Known>> {
    let mut statement = disk.prepare_cached(
        "SELECT name, position, done,
                (SELECT count(*) FROM deliveries INDEXED BY dead_letters
                 WHERE consumer = number AND state IN ('dead', 'skipped')),
                coalesce((SELECT bytes FROM state_sizes WHERE state_sizes.state = consumers.state), 0),
                paused_at, pause_reason
         FROM consumers ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Known {
            name: rows::parse(row.get_ref(0)?.as_str()?)?,
            base: rows::unsigned(row.get(1)?),
            done: rows::unsigned(row.get(2)?),
            dead: rows::unsigned(row.get(3)?),
            state_bytes: rows::unsigned(row.get(4)?),
            paused: pause::read(row, 5)?,
        })
    })?;
    rows.collect()
}

fn state(disk: &Connection, name: &ConsumerName, query: &StateQuery) -> rusqlite::Result<StatePage> {
    let number: Option<StateNumber> = disk
        .prepare_cached("SELECT state FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    let Some(number) = number else { return Ok(StatePage::default()) };
    let (entries, limit) = keys(disk, "entries", number, query, query.limit, Vec::<u8>::len)?;
    let (counters, limit) = keys(disk, "counters", number, query, limit, size_of_val::<i64>)?;
    Ok(StatePage::cut(entries, counters, limit))
}

/// Keys that the query asks for and what they hold, in their order: as many as a page holds, at most `limit`, and one more.
fn keys<T: FromSql>(
    disk: &Connection,
    table: &str,
    state: StateNumber,
    query: &StateQuery,
    limit: usize,
    bytes: impl Fn(&T) -> usize,
) -> rusqlite::Result<(Vec<(String, T)>, usize)> {
    let from = query.after.as_deref().unwrap_or("").max(&query.prefix);
    let mut found = disk.prepare_cached(&format!(
        "SELECT key, value FROM {table} WHERE state = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key"
    ))?;
    let select = params![state, from, query.after];
    let found = found.query_map(select, |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let found = found.take_while(|row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&query.prefix)));
    rows::within(found, limit, |(key, value)| key.len() + bytes(value))
}
