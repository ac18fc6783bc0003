//! The store: the host's own tables in a file of its own, and the one thread that writes it. Whatever waits is one
//! transaction and one fsync, as in the host.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use fanfare::order::Order;
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, params};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::checkpoint::Checkpointer;
use super::counters::Counters;
use super::rows::{Rows, number_of};
use super::staged::Staged;
use crate::mode::{Mode, STOCK};
use crate::workload::{self, SKUS};

const SCHEMA: [&str; 2] = [
    include_str!("../../../host/src/backend/embedded/schema/1.sql"),
    include_str!("../../../host/src/backend/embedded/schema/2.sql"),
];

/// Orders in one transaction at most.
const BATCH_MAX: usize = 4_096;

/// One order, and who waits for it.
pub struct Job {
    pub order: Order,
    /// The order's, as it stands in the row.
    pub id: String,
    pub key: Option<String>,
    pub fingerprint: [u8; 32],
    /// JSON.
    pub content: String,
    pub staged: Staged,
    pub reply: oneshot::Sender<Placed>,
}

/// What became of it, once that is on disk.
pub enum Placed {
    New,
    Repeated(Order),
    KeyReused,
}

/// The way to the thread that writes.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    work: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    closed: bool,
}

impl Queue {
    /// A job that comes after the end is dropped, and its reply with it.
    pub fn push(&self, job: Job) {
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
            waiting.jobs.push(job);
        }
        drop(waiting);
        self.work.notify_one();
    }

    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.work.notify_one();
    }

    /// `None` once it is closed and empty.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            self.work.wait(&mut waiting);
        }
        let rest = waiting.jobs.len().min(BATCH_MAX);
        let rest = waiting.jobs.split_off(rest);
        Some(std::mem::replace(&mut waiting.jobs, rest))
    }
}

/// The orders of a batch that is on disk, with what became of each.
pub type Settled = Vec<(Job, Placed)>;

/// Answers whoever waits: on the threads that took the orders, where waking up is cheaper than from the one that writes, and
/// where what is thrown away with each order was allocated.
pub async fn answer(mut settled: UnboundedReceiver<Settled>) {
    while let Some(batch) = settled.recv().await {
        for (Job { reply, .. }, placed) in batch {
            // Whoever asked may be gone.
            drop(reply.send(placed));
        }
    }
}

/// Makes the store in `folder` and starts the thread that writes it; it ends when the queue is closed and empty.
pub fn start(
    mode: &'static Mode,
    folder: &Path,
    queue: Arc<Queue>,
    settled: UnboundedSender<Settled>,
) -> Result<JoinHandle<Result<()>>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join(fanfare::backend::embedded::FILE);
    let connection = open(&file).with_context(|| format!("cannot make {}", file.display()))?;
    let counters = stock_up(mode, &connection)?;
    let checkpointer = Checkpointer::start(&file)?;
    let write = move || {
        let written = write(mode, &connection, counters, &checkpointer, &queue, &settled)
            .inspect_err(|error| eprintln!("nothing is written any more: {error:#}"));
        // Whoever waits learns it.
        queue.close();
        queue.waiting.lock().jobs.clear();
        written
    };
    Ok(std::thread::Builder::new().name("writer".into()).spawn(write)?)
}

/// The settings are those of the host's one connection that writes.
pub fn open(file: &Path) -> Result<Connection> {
    let connection = Connection::open(file)?;
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -64000;",
    )?;
    for migration in SCHEMA {
        connection.execute_batch(migration)?;
    }
    Ok(connection)
}

/// The consumers of the mode, and stock of every SKU.
fn stock_up(mode: &Mode, connection: &Connection) -> Result<Counters> {
    let mut counters = Counters::default();
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for (consumer, (name, _)) in mode.consumers.into_iter().enumerate() {
        let number = number_of(consumer)?;
        connection
            .execute(
                "INSERT INTO consumers (number, name, position, state) VALUES (?1, ?2, 0, ?1)",
                params![number, name],
            )
            .context("consumers")?;
        if name != mode.stock {
            continue;
        }
        let mut insert = connection.prepare("INSERT INTO counters (state, key, value) VALUES (?1, ?2, ?3)")?;
        for key in (0..SKUS).map(|index| format!("stock/{}", workload::sku(index))) {
            insert.execute(params![number, key, STOCK])?;
            counters.set(consumer, &key, STOCK)?;
        }
    }
    connection.execute_batch("COMMIT")?;
    Ok(counters)
}

fn write(
    mode: &Mode,
    connection: &Connection,
    mut counters: Counters,
    checkpointer: &Checkpointer,
    queue: &Queue,
    settled: &UnboundedSender<Settled>,
) -> Result<()> {
    let mut rows = Rows::prepare(connection)?;
    let (mut begin, mut commit) = (connection.prepare("BEGIN IMMEDIATE")?, connection.prepare("COMMIT")?);
    while let Some(jobs) = queue.take() {
        begin.execute([])?;
        let mut orders = 0;
        let mut batch = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            let placed = rows.place(&mut job, &mut counters)?;
            orders += u64::from(matches!(placed, Placed::New));
            batch.push((job, placed));
        }
        rows.end_batch(mode, orders, &mut counters)?;
        commit.execute([])?;
        // Nobody waits any more where nobody answers.
        drop(settled.send(batch));
        checkpointer.finish(connection)?;
    }
    Ok(())
}
