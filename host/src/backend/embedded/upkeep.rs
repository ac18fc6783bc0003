//! Lets go of what is old, beside the committer and in steps so small that nobody waits for them.
//!
//! A step is looked up on a reading connection, which also brings its pages into the system's cache, and is then one task
//! of the committer, in a batch with whatever else waits. How much one task takes is fitted to the time that the last one
//! took, and between two there is a pause several times as long.
//!
//! **Invariants**
//! - What a task deletes it checks in its own transaction: what was read before may be out of date.
//! - The newest event, order, message, record and attempt stay, so that their numbers go on where they were.
//! - An order goes after its events, and after the idempotency keys that stand for it.

mod aged;
mod belief;
mod forgotten;
mod journal;
mod keys;
mod orders;
mod space;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use self::belief::Belief;
use super::queue::Job;
use super::writer::Writer;
use super::{Embedded, Store, backup, check, failed};
use crate::backend::{CheckPlace, CheckStep, Copied, Durable, Error, Keep, Result, Retention, Snapshot, Upkeep};
use crate::clock::Timestamp;
use crate::policy::Rate;

pub use self::journal::{first_kept, last_before};

/// Between two rounds, unless what is kept for the shortest time asks for more.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);
/// How long a task may hold the committer up; the next one is smaller if it took longer.
const TASK_TIME_MAX: Duration = Duration::from_millis(2);
/// Rows that one task deletes.
const ROWS_MIN: usize = 16;
const ROWS_MAX: usize = 1_024;
/// Rows looked at in one read.
const PAGE: usize = 2_048;
/// After a task, this many times as long belongs to others.
const SHARE: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// With more than this waiting for the disk, a step is put off, but not for ever: what comes in must go out some time.
const DEPTH_BUSY: u64 = 2_048;
const PUT_OFF_MAX: Duration = Duration::from_millis(500);

/// The thread that does it. Dropped, it ends before its next step, which may wait for the committer.
pub struct Upkeeper {
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeeper {
    /// Begins when the one `before` has ended, for which nobody else waits.
    fn start(store: Arc<Store>, retention: Retention, before: Option<Self>) -> std::io::Result<Self> {
        let (bell, rung) = sync_channel(1);
        let belief = Belief::new(Timestamp::now());
        let worker =
            Worker { store, retention, rung, rows: ROWS_MIN, now: Timestamp::now(), belief, keys_before: None };
        let run = move || {
            drop(before);
            worker.run();
        };
        let thread = std::thread::Builder::new().name("upkeep".into()).spawn(run)?;
        Ok(Self { bell: Some(bell), thread: Some(thread) })
    }

    /// There is something to do now.
    pub fn ring(&self) {
        if let Some(bell) = &self.bell {
            // Where a ring waits already, one is enough.
            let _ = bell.try_send(());
        }
    }
}

impl Drop for Upkeeper {
    fn drop(&mut self) {
        drop(self.bell.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the upkeep of the store stopped by a bug; standard error has its message");
        }
    }
}

#[async_trait]
impl Upkeep for Embedded {
    fn retain(&self, retention: Retention) {
        let mut upkeep = self.upkeep.lock();
        let before = upkeep.take();
        match Upkeeper::start(Arc::clone(&self.store), retention, before) {
            Ok(upkeeper) => *upkeep = Some(upkeeper),
            Err(error) => tracing::error!(%error, "nothing is let go: the thread for it cannot be started"),
        }
    }

    async fn backup(&self, told: watch::Sender<Copied>) -> Result<Snapshot> {
        backup::backup(self, told).await
    }

    async fn check(&self, place: CheckPlace) -> Result<CheckStep> {
        check::check(self, place).await
    }

    fn check_rate(&self) -> Option<Rate> {
        None
    }
}

/// Why a round ends early.
enum Ended {
    Stopping,
    Failed(Error),
}

type Step<T> = Result<T, Ended>;

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Worker {
    store: Arc<Store>,
    retention: Retention,
    rung: Receiver<()>,
    /// Rows that the next task may delete.
    rows: usize,
    /// When this round began: what is old is old by this.
    now: Timestamp,
    belief: Belief,
    /// Idempotency keys from before this time are gone.
    keys_before: Option<Timestamp>,
}

impl Worker {
    fn run(mut self) {
        let wait = look_every(&self.retention);
        loop {
            match self.round() {
                Ok(()) => {}
                Err(Ended::Stopping) => return,
                Err(Ended::Failed(error)) => tracing::debug!(%error, "what is old stays for now"),
            }
            if self.rung.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn round(&mut self) -> Step<()> {
        forgotten::clear(self)?;
        self.now = Timestamp::now();
        if !self.belief.is_in(self.now) {
            return space::give_back(self);
        }
        keys::sweep(self)?;
        journal::trim(self)?;
        orders::sweep(self)?;
        aged::sweep(self)?;
        space::give_back(self)
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Step<T> {
        let disk = self.store.readers.disk();
        Ok(disk.connection().and_then(read).map_err(|error| failed(&error))?)
    }

    /// One task of the committer, and the pause behind it.
    fn commit<T: Send + 'static>(
        &mut self,
        task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Step<T> {
        self.wait_for_room()?;
        let (job, answer) = timed(task);
        self.store.queue.push(job)?;
        self.settled(answer)
    }

    /// Waits for a task that was pushed, and then for a while.
    fn settled<T>(&mut self, answer: Timed<T>) -> Step<T> {
        let (value, took) = answer.blocking_recv().map_err(|_| Ended::Stopping)??.into_inner();
        self.rows = fitted(self.rows, took);
        self.pause((took * SHARE).clamp(PAUSE_MIN, PAUSE_MAX))?;
        Ok(value)
    }

    fn wait_for_room(&self) -> Step<()> {
        let began = Instant::now();
        while self.store.queue.depth() > DEPTH_BUSY && began.elapsed() < PUT_OFF_MAX {
            self.pause(PAUSE_MAX / 10)?;
        }
        Ok(())
    }

    fn pause(&self, time: Duration) -> Step<()> {
        match self.rung.recv_timeout(time) {
            // What was rung for is looked at in this round or the next one, which is soon.
            Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Ended::Stopping),
        }
    }
}

/// What a task returned, and how long it took.
type Timed<T> = oneshot::Receiver<Result<Durable<(T, Duration)>>>;

fn timed<T: Send + 'static>(
    task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> (Job, Timed<T>) {
    let (reply, answer) = oneshot::channel();
    let task = move |writer: &mut Writer<'_>| {
        let began = Instant::now();
        Ok((task(writer)?, began.elapsed()))
    };
    (Job::task(task, reply), answer)
}

/// Rows for the next task, after one of `rows` took this long.
fn fitted(rows: usize, took: Duration) -> usize {
    if took > TASK_TIME_MAX {
        (rows / 2).max(ROWS_MIN)
    } else if took < TASK_TIME_MAX / 4 {
        (rows * 2).min(ROWS_MAX)
    } else {
        rows
    }
}

/// Often enough that nothing stays for much longer than it should.
fn look_every(retention: &Retention) -> Duration {
    let Retention { events, orders, open_orders, attempts, messages, records, idempotency } = *retention;
    let times = [events, orders, open_orders, attempts, messages, records, idempotency];
    let shortest = times.into_iter().filter_map(|keep| match keep {
        Keep::For(time) => Some(time),
        Keep::Forever => None,
    });
    shortest.min().map_or(LOOK_EVERY_MAX, |time| (time / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX))
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod rounds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_took_long_is_followed_by_a_smaller_one() {
        assert_eq!(fitted(256, Duration::from_millis(5)), 128);
        assert_eq!(fitted(256, Duration::from_millis(1)), 256);
        assert_eq!(fitted(256, Duration::from_micros(100)), 512);
        assert_eq!(fitted(ROWS_MIN, Duration::from_secs(1)), ROWS_MIN);
        assert_eq!(fitted(ROWS_MAX, Duration::ZERO), ROWS_MAX);
    }

    #[test]
    fn what_is_kept_for_a_short_time_is_looked_at_often() {
        let keep = |events| look_every(&Retention { events, ..Retention::default() });
        assert_eq!(keep(Keep::Forever), LOOK_EVERY_MAX);
        assert_eq!(keep(Keep::For(Duration::from_secs(4))), Duration::from_secs(1));
        assert_eq!(keep(Keep::For(Duration::from_millis(1))), LOOK_EVERY_MIN);
    }
}
