//! Exceptions of a state that is kept: noted while nothing of their consumer is handled, and piece by piece, because one that stood
//! still for long may have hundreds of thousands.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, params};

use crate::backend::Result;
use crate::backend::embedded::commit::{ConsumerNumber, StateNumber};
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::writer::Writer;
use crate::backend::embedded::{Store, rows};
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// Rows that one task of the committer writes at most: a millisecond or two.
const PIECE: usize = 512;

/// Positions of the consumer's (?1) exceptions behind one (?2).
const EXCEPTIONS: &str =
    "SELECT position FROM deliveries WHERE consumer = ?1 AND position > ?2 ORDER BY position LIMIT ?3";
/// Of what was put off of a state (?1) behind a position (?2).
const PUT_OFF: &str = "SELECT position FROM deferred WHERE state = ?1 AND position > ?2 ORDER BY position LIMIT ?3";
/// Of that, what is over and not known to be.
const OVER: &str = "SELECT d.position FROM deferred AS d JOIN generations AS g ON g.state = d.state
     WHERE d.state = ?1 AND d.position > ?2 AND d.over = 0
     AND NOT EXISTS (SELECT 1 FROM deliveries AS l WHERE l.consumer = g.consumer AND l.position = d.position)
     ORDER BY d.position LIMIT ?3";

impl Store {
    /// Ends what a hand-over began: the state that was in use until then is kept, with its exceptions.
    pub(super) async fn keep_on(self: &Arc<Self>, consumer: ConsumerNumber) -> Result<()> {
        let Some(state) = self.read(move |disk| keeping(disk, consumer)).await? else { return Ok(()) };
        // When it was filled itself, some may be left; and a try before this one may have broken off.
        let delete = "DELETE FROM deferred WHERE state = ?1 AND position = ?2";
        self.in_pieces(PUT_OFF, state, move |writer, position| {
            writer.connection.prepare_cached(delete)?.execute(params![state, rows::signed(position)]).map(drop)
        })
        .await?;
        self.put_off_exceptions(consumer, state).await?;
        fault::pass(Point::ReturnNoted);
        let kept = "UPDATE generations SET standing = 'kept' WHERE state = ?1 AND standing = 'keeping'";
        self.task(move |writer| writer.connection.execute(kept, [state]).map(drop)).await?.into_inner();
        Ok(())
    }

    /// Notes what the consumer is through with, as the generation `state` says, and has not done: once it is over, a way back
    /// handles it.
    pub(super) async fn put_off_exceptions(
        self: &Arc<Self>,
        consumer: ConsumerNumber,
        state: StateNumber,
    ) -> Result<()> {
        let through = Arc::new(self.read(move |disk| through(disk, state)).await?);
        // What is discarded meanwhile needs no handling.
        let note = "INSERT INTO deferred (state, position, over)
                    SELECT ?1, position, 0 FROM deliveries WHERE consumer = ?2 AND position = ?3";
        self.in_pieces(EXCEPTIONS, consumer, move |writer, position| {
            if !through.contains(position) {
                return Ok(());
            }
            let row = params![state, consumer, rows::signed(position)];
            writer.connection.prepare_cached(note)?.execute(row).map(drop)
        })
        .await
    }

    /// What was an exception and is over is known to be: of what ends from now on, whoever ends it says so.
    pub(super) async fn look_at_exceptions(self: &Arc<Self>, name: &ConsumerName) -> Result<()> {
        let state = {
            let name = name.clone();
            self.read(move |disk| kept_of(disk, &name)).await?
        };
        let Some(state) = state else { return Ok(()) };
        let over = "UPDATE deferred SET over = 1 WHERE state = ?1 AND position = ?2";
        self.in_pieces(OVER, state, move |writer, position| {
            writer.connection.prepare_cached(over)?.execute(params![state, rows::signed(position)]).map(drop)
        })
        .await
    }

    /// Does `write` for every position that `select` finds of `whose`, a piece for each task.
    async fn in_pieces(
        self: &Arc<Self>,
        select: &'static str,
        whose: i64,
        write: impl Fn(&mut Writer<'_>, u64) -> rusqlite::Result<()> + Clone + Send + 'static,
    ) -> Result<()> {
        let mut after = 0;
        loop {
            // On another connection, which also brings the pages into the system's cache.
            let piece = self.read(move |disk| positions(disk, select, whose, after)).await?;
            let Some(last) = piece.last().copied() else { return Ok(()) };
            after = last;
            let write = write.clone();
            let took = self
                .task(move |writer| {
                    let began = Instant::now();
                    piece.into_iter().try_for_each(|position| write(writer, position))?;
                    Ok(began.elapsed())
                })
                .await?
                .into_inner();
            // As long again belongs to others.
            tokio::time::sleep(took).await;
        }
    }
}

fn positions(disk: &Connection, select: &str, whose: i64, after: u64) -> rusqlite::Result<Vec<u64>> {
    let limit = i64::try_from(PIECE).unwrap_or(i64::MAX);
    let mut statement = disk.prepare_cached(select)?;
    statement.query_map(params![whose, rows::signed(after), limit], |row| row.get(0).map(rows::unsigned))?.collect()
}

fn keeping(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<Option<StateNumber>> {
    disk.prepare_cached("SELECT state FROM generations WHERE consumer = ?1 AND standing = 'keeping'")?
        .query_row([consumer], |row| row.get(0))
        .optional()
}

fn kept_of(disk: &Connection, name: &ConsumerName) -> rusqlite::Result<Option<StateNumber>> {
    disk.prepare_cached(
        "SELECT g.state FROM generations AS g JOIN consumers AS c ON c.number = g.consumer
         WHERE c.name = ?1 AND g.standing = 'kept'",
    )?
    .query_row([name.as_str()], |row| row.get(0))
    .optional()
}

fn through(disk: &Connection, state: StateNumber) -> rusqlite::Result<Progress> {
    let found = disk
        .prepare_cached("SELECT position, ahead FROM generations WHERE state = ?1")?
        .query_row([state], |row| rows::progress(row, 0))
        .optional()?;
    Ok(found.unwrap_or_default())
}
