//! The one thread that writes. Whatever waits is one transaction and one fsync.
//!
//! A batch is all or nothing. When one fails (a full disk), everything that could have seen its results is undone
//! too: waiting jobs are refused, every inbox goes back to what is durable, and the deliveries are leased again.
//! Nothing is taken until a small write succeeds. A failed fsync is different: nobody can say any more what is on
//! disk, so the store closes for good, and the host must start again and read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};

use super::Store;
use super::checkpoint::Checkpointer;
use super::queue::{Answer, Job, settle, unavailable};
use super::writer::{Memory, Writer};
use crate::clock::Timestamp;
use crate::fault::{self, Point};
use crate::telemetry::meters;

/// Between two tries to write to a disk that was full.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// Under load, commits begin no closer together than this. Besides its jobs a commit costs pages that are written whole
/// for a row or two, a sync, and waking everybody up: on a quick disk, which alone would make batches small, that is then
/// shared by many. An order waits for half of it on average, and one that comes alone not at all.
const PACE: Duration = Duration::from_millis(2);
/// Jobs in a batch that make it load.
const PACED_FROM: usize = 32;

pub struct Committer {
    store: Arc<Store>,
    connection: Connection,
    memory: Mutex<Memory>,
    checkpointer: Checkpointer,
}

impl Committer {
    pub fn new(store: Arc<Store>, connection: Connection, checkpointer: Checkpointer) -> rusqlite::Result<Self> {
        let memory = Mutex::new(Memory::load(&connection)?);
        Ok(Self { store, connection, memory, checkpointer })
    }

    /// Runs until the queue is closed and empty.
    pub fn run(self) {
        while self.serve() {
            let order = self.store.backup.lock().take();
            if let Some(order) = order {
                order.make(&self.connection, || self.serve());
            }
        }
        if self.store.failed.borrow().is_some() {
            return;
        }
        fault::pass(Point::CloseDrained);
        // Leave one file behind where possible; the next start copes if not.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the write-ahead log could not be folded into the store; the next start does it");
        }
        fault::pass(Point::CloseTruncated);
    }

    /// Commits what waits, once there is anything. Returns whether there will be more.
    fn serve(&self) -> bool {
        let Some((jobs, number)) = self.store.queue.take() else { return false };
        let began = Instant::now();
        let size = jobs.len();
        fault::pass(Point::BatchTaken);
        match self.batch(jobs) {
            Ok(answers) => {
                self.store.queue.settled(number);
                fault::pass(Point::BatchSettled);
                for answer in answers {
                    answer(Ok(()));
                }
                fault::pass(Point::BatchAnswered);
                meters::commit(began.elapsed(), size);
            }
            Err(error) => {
                self.store.queue.settled(number);
                if !self.recover(&error) {
                    return false;
                }
            }
        }
        self.store.ring();
        self.checkpointer.finish(&self.connection, &self.store);
        if size >= PACED_FROM {
            std::thread::sleep(PACE.saturating_sub(began.elapsed()));
        }
        true
    }

    /// One transaction. Returns what is to be told once it is settled that it is durable.
    fn batch(&self, jobs: Vec<Job>) -> rusqlite::Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = Vec::new();
        let outcome = self.write(jobs, &mut answers);
        if let Err(error) = &outcome {
            let error = unavailable(error);
            for answer in answers.drain(..) {
                answer(Err(error.clone()));
            }
            if !self.connection.is_autocommit()
                && let Err(error) = self.connection.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "a failed batch could not be rolled back");
            }
        }
        outcome.map(|()| answers)
    }

    fn write(&self, jobs: Vec<Job>, answers: &mut Vec<Answer>) -> rusqlite::Result<()> {
        if let Err(error) = self.connection.execute_batch("BEGIN IMMEDIATE") {
            let refusal = unavailable(&error);
            jobs.into_iter().for_each(|job| job.refuse(&refusal));
            return Err(error);
        }
        fault::pass(Point::BatchBegun);
        let mut memory = self.memory.lock();
        let mut writer = Writer::new(&self.connection, &mut memory, Timestamp::now());
        let mut jobs = jobs.into_iter();
        let outcome = jobs.by_ref().try_for_each(|job| perform(&mut writer, job, answers));
        if let Err(error) = outcome {
            let refusal = unavailable(&error);
            jobs.for_each(|job| job.refuse(&refusal));
            return Err(error);
        }
        writer.flush()?;
        fault::pass(Point::BatchFlushed);
        let (events, placed) = (std::mem::take(&mut writer.events), std::mem::take(&mut writer.placed));
        self.connection.execute_batch("COMMIT")?;
        fault::pass(Point::BatchCommitted);
        self.store.contents.placed(&placed);
        self.store.orders.lock().placed(placed, self.store.queue.durable());
        self.store.tail.append(events);
        Ok(())
    }

    /// Returns whether the store goes on.
    fn recover(&self, error: &rusqlite::Error) -> bool {
        if is_fatal(error) {
            self.store.fail(&format!("a write failed in a way that leaves open what is on disk: {error}"));
            return false;
        }
        tracing::error!(%error, "a commit failed; nothing of it was kept, and nothing is accepted until writes succeed again");
        fault::pass(Point::BatchRefused);
        self.store.queue.refuse(&format!("writing to the data directory failed: {error}"));
        loop {
            let refused = self.store.queue.refused();
            match self.reload() {
                Ok(()) => {
                    fault::pass(Point::BatchReloaded);
                    if self.store.queue.open(refused) {
                        break;
                    }
                }
                Err(error) if is_fatal(&error) => {
                    self.store.fail(&format!("a write failed in a way that leaves open what is on disk: {error}"));
                    return false;
                }
                Err(error) => {
                    tracing::debug!(%error, "still cannot write");
                    std::thread::sleep(PROBE_EVERY);
                }
            }
            if self.store.queue.is_closed() {
                return false;
            }
        }
        tracing::info!("writes succeed again; accepting");
        true
    }

    /// Goes back to what is durable, if a write succeeds.
    fn reload(&self) -> rusqlite::Result<()> {
        self.connection
            .execute_batch(
                "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS probe (filler BLOB);
             DELETE FROM probe;
             INSERT INTO probe VALUES (zeroblob(65536));
             COMMIT;",
            )
            .inspect_err(|_| drop(self.connection.execute_batch("ROLLBACK")))?;
        *self.memory.lock() = Memory::load(&self.connection)?;
        self.store.orders.lock().clear();
        self.store.inboxes().into_iter().try_for_each(|inbox| inbox.reload(&self.connection))
    }
}

fn perform(writer: &mut Writer<'_>, job: Job, answers: &mut Vec<Answer>) -> rusqlite::Result<()> {
    let written = match job {
        Job::Place { placement, content, reply } => {
            answers.push(settle(writer.place(&placement, &content), reply)?);
            Point::BatchPlaced
        }
        Job::Publish { events, reply } => {
            answers.push(settle(writer.publish(events), reply)?);
            Point::BatchPublished
        }
        Job::Commit(commit) => {
            writer.commit(*commit)?;
            Point::BatchHandled
        }
        Job::Task(task) => {
            answers.push(task(Ok(writer))?);
            Point::BatchTasked
        }
    };
    fault::pass(written);
    Ok(())
}

/// After a failed fsync the kernel may have dropped what was written; a broken file needs a person.
pub fn is_fatal(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return false };
    failure.extended_code == rusqlite::ffi::SQLITE_IOERR_FSYNC
        || failure.extended_code == rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC
        || matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Error, ffi};

    use super::is_fatal;

    #[test]
    fn what_leaves_open_what_is_on_disk_is_fatal_and_a_full_disk_is_not() {
        let failure = |code| Error::SqliteFailure(ffi::Error::new(code), None);
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC, ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(is_fatal(&failure(code)), "{code}");
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_BUSY] {
            assert!(!is_fatal(&failure(code)), "{code}");
        }
    }
}
