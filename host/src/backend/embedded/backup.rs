//! A copy of the store while it is written.
//!
//! The committer itself copies, a few pages between two batches, through SQLite's backup of the very connection that
//! writes: what changes in a page that was copied already is put into the copy too. So the copy is the store as it is when
//! the last page was copied, nothing begins anew, and no reader holds the write-ahead log up, however long it takes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{oneshot, watch};

use super::queue::Job;
use super::{Embedded, FILE, Store, create_private, failed};
use crate::backend::{Copied, Error, Result, Snapshot};
use crate::fault::{self, Point};

/// Copies in the data directory are called so, and what is left of them is deleted at the start.
const PREFIX: &str = "backup-";
/// Pages between two batches: 256 KiB, well under a millisecond.
const PAGES_PER_STEP: i32 = 64;
/// Where nobody else brings batches, these bring the copy on.
const TICK: Duration = Duration::from_millis(1);
/// Between two looks at the write-ahead log.
const LOOK_EVERY: u32 = 50;

/// A copy that was asked for.
pub struct Order {
    path: PathBuf,
    progress: Arc<Progress>,
    /// Closed when nobody waits any more.
    done: oneshot::Sender<rusqlite::Result<()>>,
}

#[derive(Default)]
struct Progress {
    pages: AtomicU64,
    of: AtomicU64,
}

pub async fn backup(embedded: &Embedded, told: watch::Sender<Copied>) -> Result<Snapshot> {
    let store = &embedded.store;
    let _only =
        embedded.backing_up.try_lock().map_err(|_| Error::Unavailable("another backup is being made".into()))?;
    let directory = &embedded.directory;
    // Where somebody deleted all of it, this process has the only copy.
    create_private(directory).map_err(|error| Error::Failed(error.to_string().into()))?;
    let snapshot = Snapshot::at(directory.join(format!("{PREFIX}{}.tmp", uuid::Uuid::now_v7())));
    let progress = Arc::new(Progress::default());
    let (done, mut finished) = oneshot::channel();
    *store.backup.lock() = Some(Order { path: snapshot.path().to_owned(), progress: Arc::clone(&progress), done });
    let log = directory.join(format!("{FILE}-wal"));
    let size = || fs::metadata(&log).map_or(0, |log| log.len());
    let mut copied = Copied { wal_bytes_before: size(), ..Copied::default() };
    let mut looks = 0;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let outcome = loop {
        if looks % LOOK_EVERY == 0 {
            (copied.pages, copied.of) = (load(&progress.pages), load(&progress.of));
            copied.wal_bytes_max = copied.wal_bytes_max.max(size());
            told.send_replace(copied);
        }
        looks += 1;
        tick(store).await?;
        tokio::select! {
            outcome = &mut finished => break outcome,
            () = tokio::time::sleep(TICK) => {}
        }
    };
    let made = outcome.map_err(|_| Error::Unavailable("the host is shutting down".into()))?;
    made.map_err(|error| not_made(directory, &error))?;
    fault::pass(Point::BackupCopied);
    let path = snapshot.path().to_owned();
    let sealed = tokio::task::spawn_blocking(move || seal(&path)).await;
    sealed.map_err(|error| Error::Failed(error.to_string().into()))??;
    fault::pass(Point::BackupSealed);
    // A quick copy ends between two looks.
    (copied.pages, copied.of) = (load(&progress.pages), load(&progress.of));
    copied.wal_bytes_max = copied.wal_bytes_max.max(size());
    told.send_replace(copied);
    Ok(snapshot)
}

/// A batch with nothing in it: returns when everything that was queued before is durable.
pub(super) async fn tick(store: &Store) -> Result<()> {
    let (reply, answer) = oneshot::channel();
    store.queue.push(Job::task(|_| Ok(()), reply))?;
    let _ = answer.await.map_err(|_| Error::Unavailable("the host is shutting down".into()))??;
    Ok(())
}

/// A folder that takes no copy says nothing against the store.
fn not_made(directory: &Path, error: &rusqlite::Error) -> Error {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "make room for another one of the store",
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            "look whether the host may write there, and whether the disk is in order"
        }
        _ => return failed(error),
    };
    let told = format!(
        "the host makes the copy in {} first, where it cannot be written ({error}): {advice}",
        directory.display()
    );
    Error::Unavailable(told.into())
}

/// Makes the copy one file that is on disk.
fn seal(path: &Path) -> Result<()> {
    let sealed = Connection::open(path).and_then(|copy| copy.execute_batch("PRAGMA journal_mode = DELETE"));
    sealed.map_err(|error| not_made(path.parent().unwrap_or(path), &error))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Error::Failed(error.to_string().into()))
}

/// Deletes copies that nobody fetched before the host ended.
pub fn delete_leftovers(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.contains(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A connection to write a copy through: it is synced as a whole when it is complete.
pub fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    let copy = Connection::open(path)?;
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4000;")?;
    Ok(copy)
}

/// A copy under way, in the committer.
pub struct Copying<'c, 'd> {
    backup: Backup<'c, 'd>,
    progress: Arc<Progress>,
}

impl Order {
    /// Makes the copy, a step at a time; `between` runs what comes before each, and says whether there is a next one.
    pub fn make(self, connection: &Connection, mut between: impl FnMut() -> bool) {
        let Self { path, progress, done } = self;
        if done.is_closed() {
            return;
        }
        let copy = || {
            let mut file = open_copy(&path)?;
            let copying = Copying { backup: Backup::new(connection, &mut file)?, progress };
            while !done.is_closed() && between() {
                if copying.step()? {
                    return Ok(true);
                }
                fault::pass(Point::BackupStepped);
            }
            Ok(false)
        };
        // Where it broke off, nobody waits, or the store is closed, which whoever waits learns by `done` being dropped.
        match copy() {
            Ok(false) => {}
            outcome => drop(done.send(outcome.map(drop))),
        }
    }
}

impl Copying<'_, '_> {
    /// Returns whether the copy is complete.
    fn step(&self) -> rusqlite::Result<bool> {
        let outcome = self.backup.step(PAGES_PER_STEP)?;
        let progress = self.backup.progress();
        let count = |pages: i32| u64::try_from(pages).unwrap_or(0);
        self.progress.of.store(count(progress.pagecount), Ordering::Relaxed);
        self.progress.pages.store(count(progress.pagecount - progress.remaining), Ordering::Relaxed);
        Ok(outcome == StepResult::Done)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn only_a_full_disk_is_told_as_one() {
        let told = |code| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            not_made(Path::new("data"), &error).to_string()
        };
        assert!(told(ffi::SQLITE_FULL).contains("make room"), "{}", told(ffi::SQLITE_FULL));
        for code in [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_CANTOPEN, ffi::SQLITE_READONLY] {
            assert!(told(code).contains("may write there") && !told(code).contains("room"), "{}", told(code));
        }
    }
}
