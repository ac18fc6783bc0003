//! Layouts of states: what a consumer's state was before a version with another layout took it over, and the way back to it.
//!
//! ```text
//!   state in use ── copy ──► copying ──► kept ◄── keeping ◄──┐
//!                               │         │  ▲              swap, with the version
//!                             past        ▼  └ cancelled     │
//!                                      filling (a way back) ─┴─► in use
//! ```
//! One that is `keeping` was in use until a hand-over, and its exceptions are not all noted: nothing of the consumer is handled
//! before they are.
//!
//! **Invariants**
//! - A kept generation and its positions are of one moment; what is missing between them and the consumer is in the journal.
//! - Of an exception at that moment, a kept generation knows whether it is over.
//! - No task of the committer is longer for a consumer with many exceptions.
//! - `consumers.layout`, `consumers.state` and the version that the history says is live change in one transaction.

mod copy;
mod exceptions;

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Notify;

use super::backfills::way_back::Begins;
use super::backfills::{self, way_back};
use super::commit::{BackfillNumber, ConsumerNumber, StateNumber};
use super::generations::Filling;
use super::progress::Progress;
use super::writer::Writer;
use super::{Embedded, Store, generations, rows, size, versions};
use crate::backend::layouts::{AGED, IS_FILLED, weighs};
use crate::backend::{Durable, Former, KeptState, LaidOut, Layouts, Result, SetOut, WayBack};
use crate::event::Subscriptions;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

#[async_trait]
impl Layouts for Embedded {
    async fn lay_out(
        &self,
        name: &ConsumerName,
        layout: u32,
        bytes_max: u64,
        _last_word: bool,
    ) -> Result<Durable<LaidOut>> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        backfills::to_its_end(async move { store.lay_out(&name, layout, bytes_max).await }).await
    }

    async fn former(&self, name: &ConsumerName) -> Result<Option<Former>> {
        let name = name.clone();
        self.store.read(move |disk| former(disk, &name)).await
    }

    async fn set_out(&self, name: &ConsumerName, way: WayBack, hears: Subscriptions) -> Result<Durable<SetOut>> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        backfills::to_its_end(async move { store.set_out(&name, way, hears).await }).await
    }

    async fn way_back(&self, name: &ConsumerName) -> Result<Option<WayBack>> {
        let name = name.clone();
        self.store.read(move |disk| Ok(way_back::under_way(disk, &name)?.map(|(_, way)| way))).await
    }

    fn handed_over(&self) -> Arc<Notify> {
        Arc::clone(&self.store.handed_over)
    }
}

/// How a consumer's state is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InUse {
    consumer: ConsumerNumber,
    state: StateNumber,
    layout: Option<u32>,
}

impl Store {
    async fn lay_out(self: Arc<Self>, name: &ConsumerName, layout: u32, bytes_max: u64) -> Result<Durable<LaidOut>> {
        let found = {
            let name = name.clone();
            self.read(move |disk| Ok((in_use(disk, &name)?, is_unfinished(disk, &name)?))).await?
        };
        let Some(found) = (match found {
            // Nothing to write, as at nearly every start.
            (Some(InUse { layout: Some(now), .. }), false) if now == layout => None,
            (found, _) => found,
        }) else {
            return Ok(Durable::assert(LaidOut::AsBefore));
        };
        // Whatever the consumer did is ahead in the queue, and on disk when this is.
        self.task(|_| Ok(())).await?.into_inner();
        self.keep_on(found.consumer).await?;
        // What a copy that was broken off left is not gone on with: nobody knows what the state was then.
        let copy = self.task(move |writer| begin(writer, found, layout, bytes_max)).await?.into_inner();
        if let Ok(Some(copy)) = copy {
            self.copy_state(found.state, copy).await?;
            self.put_off_exceptions(found.consumer, copy).await?;
            fault::pass(Point::LayoutNoted);
        }
        let laid_out = {
            let name = name.clone();
            self.task(move |writer| end(writer, &name, found, layout, copy)).await?
        };
        fault::pass(Point::LayoutDurable);
        if let Some(inbox) = self.inbox(name) {
            inbox.laid_out(layout, laid_out.1);
        }
        Ok(laid_out.map(|(laid_out, _)| laid_out))
    }

    async fn set_out(
        self: Arc<Self>,
        name: &ConsumerName,
        way: WayBack,
        hears: Subscriptions,
    ) -> Result<Durable<SetOut>> {
        if !self.has_ended(name).await? {
            return self.task(|_| Ok(SetOut::Runs)).await;
        }
        self.look_at_exceptions(name).await?;
        let events = {
            let name = name.clone();
            self.look(move |disk| backfills::scope::since_kept(disk, &name, &hears)).await?
        };
        let set_out = {
            let name = name.clone();
            self.task(move |writer| set_out(writer, &name, &way, events)).await?
        };
        fault::pass(Point::ReturnBegun);
        if let (SetOut::Yes(_), Some(inbox)) = (&*set_out, self.inbox(name)) {
            backfills::at_the_desk(move || inbox.begin_rebuild()).await?;
        }
        Ok(set_out)
    }
}

fn in_use(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<InUse>> {
    disk.prepare_cached("SELECT number, state, layout FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| Ok(InUse { consumer: row.get(0)?, state: row.get(1)?, layout: row.get(2)? }))
        .optional()
}

/// Whether something is to be done before events are handled, although the layout is the same.
fn is_unfinished(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<bool> {
    disk.prepare_cached(
        "SELECT 1 FROM generations AS g JOIN consumers AS c ON c.number = g.consumer
         WHERE c.name = ?1 AND g.standing IN ('copying', 'keeping')",
    )?
    .exists([name.as_str()])
}

/// What is kept of the layout before; a way back fills it, perhaps.
fn former(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<Former>> {
    let kept = disk
        .prepare_cached(
            "SELECT g.layout, g.version, g.since, coalesce(s.bytes, 0)
             FROM generations AS g JOIN consumers AS c ON c.number = g.consumer
             LEFT JOIN state_sizes AS s ON s.state = g.state
             WHERE c.name = ?1 AND g.standing IN ('kept', 'keeping', 'filling') AND g.layout IS NOT NULL",
        )?
        .query_row([name.as_str()], |row| {
            Ok(KeptState {
                layout: row.get(0)?,
                hash: row.get_ref(1)?.as_str_or_null()?.map(rows::parse).transpose()?,
                since: rows::timestamp(row, 2)?,
                bytes: rows::unsigned(row.get(3)?),
            })
        })
        .optional()?;
    if let Some(kept) = kept {
        return Ok(Some(Former::Kept(kept)));
    }
    let gone: Option<Option<String>> = disk
        .prepare_cached("SELECT former_gone FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    Ok(gone.flatten().map(|reason| Former::Gone { reason }))
}

/// The generation that the state is copied to, or why it is not; nothing of either where there is nothing to keep.
fn begin(
    writer: &mut Writer<'_>,
    found: InUse,
    layout: u32,
    bytes_max: u64,
) -> rusqlite::Result<Result<Option<StateNumber>, NotKept>> {
    let InUse { consumer, state, layout: before } = found;
    writer.leave_copies(consumer)?;
    let Some(before) = before.filter(|before| *before != layout) else { return Ok(Ok(None)) };
    if is_filled(writer.connection, consumer)? {
        return Ok(Err(NotKept::IsFilled));
    }
    let bytes = size::read(writer.connection, state)?;
    if bytes_max == 0 || bytes > bytes_max {
        return Ok(Err(NotKept::Weighs { bytes, bytes_max }));
    }
    let copy = generations::next_state(writer.connection)?;
    writer.connection.execute(
        "INSERT INTO generations (state, consumer, standing, layout) VALUES (?1, ?2, 'copying', ?3)",
        params![copy, consumer, before],
    )?;
    writer.note_moment(consumer, copy)?;
    Ok(Ok(Some(copy)))
}

/// Whether past events are on their way to the state in use.
fn is_filled(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM backfills WHERE consumer = ?1 AND state IN ('running', 'paused') AND generation IS NULL";
    disk.prepare_cached(sql)?.exists([consumer])
}

/// Why a state is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotKept {
    IsFilled,
    Weighs { bytes: u64, bytes_max: u64 },
}

impl NotKept {
    fn told(self) -> String {
        match self {
            Self::IsFilled => IS_FILLED.to_owned(),
            Self::Weighs { bytes, bytes_max } => weighs(bytes, bytes_max),
        }
    }
}

type Ended = (LaidOut, Option<BackfillNumber>);

/// From here on, the state is of this layout; and of a rebuild that this ended, its number.
fn end(
    writer: &mut Writer<'_>,
    name: &ConsumerName,
    found: InUse,
    layout: u32,
    copy: Result<Option<StateNumber>, NotKept>,
) -> rusqlite::Result<Ended> {
    let InUse { consumer, layout: before, .. } = found;
    if in_use(writer.connection, name)? != Some(found) {
        // Forgotten meanwhile: whoever attaches begins anew.
        return Ok((LaidOut::AsBefore, None));
    }
    let changes = before.is_some_and(|before| before != layout);
    let ended = if changes { way_back::end(writer, consumer)? } else { None };
    let copy = match copy {
        Ok(Some(_)) if is_filled(writer.connection, consumer)? => {
            writer.leave_copies(consumer)?;
            Err(NotKept::IsFilled)
        }
        copy => copy,
    };
    if changes {
        let sql = "UPDATE generations SET standing = 'past' WHERE consumer = ?1 AND standing = 'kept'";
        writer.connection.execute(sql, [consumer])?;
    }
    let gone = match copy {
        Ok(Some(copy)) => {
            writer.connection.execute("UPDATE generations SET standing = 'kept' WHERE state = ?1", [copy])?;
            let live =
                "SELECT live FROM version_history WHERE consumer = ?1 AND outcome <> 'refused' AND live IS NOT NULL
                        AND live IS NOT (SELECT live FROM version_history WHERE consumer = ?1 AND outcome <> 'refused'
                                         ORDER BY number DESC LIMIT 1)
                        ORDER BY number DESC LIMIT 1";
            let live: Option<String> =
                writer.connection.query_row(live, [name.as_str()], |row| row.get(0)).optional()?;
            writer.connection.execute("UPDATE generations SET version = ?2 WHERE state = ?1", params![copy, live])?;
            None
        }
        Ok(None) => None,
        Err(why) => Some(why.told()),
    };
    if changes || before.is_none() {
        writer.connection.execute(
            "UPDATE consumers SET layout = ?2, former_gone = iif(?3, ?4, former_gone) WHERE number = ?1",
            params![consumer, layout, changes, gone],
        )?;
    }
    fault::pass(Point::LayoutWritten);
    let laid_out = match former(writer.connection, name)? {
        _ if !changes => LaidOut::AsBefore,
        Some(Former::Kept(kept)) => LaidOut::Kept(kept),
        Some(Former::Gone { reason }) => LaidOut::NotKept(reason),
        None => LaidOut::AsBefore,
    };
    Ok((laid_out, ended))
}

impl Writer<'_> {
    /// Copies that were broken off are of no use.
    fn leave_copies(&self, consumer: ConsumerNumber) -> rusqlite::Result<()> {
        let sql = "UPDATE generations SET standing = 'past' WHERE consumer = ?1 AND standing = 'copying'";
        self.connection.execute(sql, [consumer]).map(drop)
    }

    /// The generation is what the consumer's state is now, with what the consumer is through with now.
    fn note_moment(&self, consumer: ConsumerNumber, state: StateNumber) -> rusqlite::Result<()> {
        let done = self.memory.progress.get(&consumer).cloned().unwrap_or_default();
        self.connection.execute(
            "UPDATE generations SET position = ?2, ahead = ?3, since = ?4 WHERE state = ?1",
            params![state, rows::signed(done.base()), done.ahead().to_string(), rows::millis(self.now)],
        )?;
        Ok(())
    }

    /// Keeps the state in use, which another one is about to replace together with the version that runs.
    pub fn keep_in_use(&self, filling: Filling, way: &WayBack) -> rusqlite::Result<()> {
        let Filling { consumer, state, .. } = filling;
        let (name, in_use): (String, StateNumber) =
            self.connection.query_row("SELECT name, state FROM consumers WHERE number = ?1", [consumer], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let name: ConsumerName = rows::parse(&name)?;
        let live = versions::standing(self.connection, &name)?.and_then(|standing| standing.live);
        self.connection.execute(
            "INSERT INTO generations (state, consumer, standing, layout, version)
             SELECT state, number, 'keeping', layout, ?2 FROM consumers WHERE number = ?1",
            params![consumer, live.map(|hash| hash.to_string())],
        )?;
        self.note_moment(consumer, in_use)?;
        self.connection.execute(
            "UPDATE consumers SET former_gone = NULL, layout = (SELECT layout FROM generations WHERE state = ?2) WHERE number = ?1",
            params![consumer, state],
        )?;
        versions::record(self.connection, self.now, &name, &way.turn, way.keep)?;
        fault::pass(Point::ReturnWritten);
        Ok(())
    }

    /// What is kept cannot be brought up to date any more.
    pub(super) fn former_goes(&self, consumer: ConsumerNumber, why: &str) -> rusqlite::Result<()> {
        former_goes(self.connection, consumer, why)
    }
}

fn former_goes(disk: &Connection, consumer: ConsumerNumber, why: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE generations SET standing = 'past' WHERE consumer = ?1 AND standing IN ('kept', 'keeping')";
    if disk.prepare_cached(sql)?.execute([consumer])? > 0 {
        disk.execute("UPDATE consumers SET former_gone = ?2 WHERE number = ?1", params![consumer, why])?;
    }
    Ok(())
}

/// The journal up to `last` is gone: states that lack something of it cannot be brought up to date. What a person discarded, they do
/// not lack.
pub fn let_go(disk: &Connection, last: u64) -> rusqlite::Result<()> {
    disk.prepare_cached(
        "DELETE FROM deferred AS d WHERE position <= ?1 AND state IN (SELECT state FROM generations WHERE standing IN ('kept', 'keeping'))
         AND EXISTS (SELECT 1 FROM interventions AS i JOIN generations AS g ON g.consumer = i.consumer
                     WHERE g.state = d.state AND i.position = d.position AND i.what = 'discarded')",
    )?
    .execute([rows::signed(last)])?;
    let mut kept = disk.prepare_cached(
        "SELECT consumer FROM generations AS g WHERE standing IN ('kept', 'keeping')
         AND (position < ?1 OR EXISTS (SELECT 1 FROM deferred AS d WHERE d.state = g.state AND d.position <= ?1))",
    )?;
    let found = kept.query_map([rows::signed(last)], |row| row.get(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    found.into_iter().try_for_each(|consumer| former_goes(disk, consumer, AGED))
}

/// What is kept of the consumer, and the positions that are in it.
pub fn kept(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<Option<(StateNumber, Progress)>> {
    disk.prepare_cached(
        "SELECT state, position, ahead FROM generations WHERE consumer = ?1 AND standing IN ('kept', 'keeping')",
    )?
    .query_row([consumer], |row| Ok((row.get(0)?, rows::progress(row, 1)?)))
    .optional()
}

fn set_out(writer: &mut Writer<'_>, name: &ConsumerName, way: &WayBack, events: u64) -> rusqlite::Result<SetOut> {
    let disk = writer.connection;
    let Some(InUse { consumer, .. }) = in_use(disk, name)? else { return Ok(SetOut::NotKept) };
    let runs = "SELECT 1 FROM backfills WHERE consumer = ?1 AND state IN ('running', 'paused')";
    if disk.prepare_cached(runs)?.exists([consumer])? {
        return Ok(SetOut::Runs);
    }
    let Some((state, looked)) = kept(disk, consumer)? else { return Ok(SetOut::NotKept) };
    let layout = "UPDATE generations SET standing = 'filling' WHERE state = ?1 AND layout = ?2 AND standing = 'kept'";
    if disk.execute(layout, params![state, way.layout])? == 0 {
        return Ok(SetOut::NotKept);
    }
    let begins = Begins { consumer, state, looked: &looked, way, events };
    let (number, report) = way_back::insert(writer, &begins)?;
    writer.memory.rebuilds.insert(consumer, Filling { consumer, backfill: number, state });
    writer.memory.backfills.insert(number, looked);
    Ok(SetOut::Yes(report))
}
