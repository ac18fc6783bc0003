//! Folds the write-ahead log back into the store, beside the committer and not in its way.
//!
//! A checkpoint of many pages takes longer than a client should wait for its commit, so a thread of its own does
//! the bulk while commits go on. It can never catch up with a busy writer entirely, and only a log that is folded
//! in whole starts again from its beginning: so when little is left, the committer folds that in between two
//! batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::committer::is_fatal;
use super::{Store, schema};
use crate::fault::{self, Point};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pages of log worth folding in: 16 MiB.
const PAGES_MIN: i64 = 4_096;

pub struct Checkpointer {
    little_is_left: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub fn start(file: &Path, store: Arc<Store>) -> rusqlite::Result<Self> {
        let connection = schema::open_second(file)?;
        let little_is_left = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = channel();
        let flag = Arc::clone(&little_is_left);
        let mut watched = Watched::new(file);
        let run = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                fault::pass(Point::LogFolding);
                match fold(&connection) {
                    Ok(pages) => flag.store(pages >= PAGES_MIN, Ordering::Release),
                    Err(error) => failed(&store, &error),
                }
                fault::pass(Point::LogFolded);
                watched.look(&store);
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(run).ok();
        Ok(Self { little_is_left, stop: Some(stop), thread })
    }

    /// Folds in the rest where that is little; called by the committer between batches.
    pub fn finish(&self, writer: &Connection, store: &Store) {
        if !self.little_is_left.swap(false, Ordering::AcqRel) {
            return;
        }
        fault::pass(Point::LogFinishing);
        if let Err(error) = fold(writer) {
            failed(store, &error);
        }
        fault::pass(Point::LogFinished);
    }
}

/// The store's file, which somebody may delete, move or replace: this process would go on with what has no name any more, and
/// all of it would be gone when it ends.
struct Watched {
    file: PathBuf,
    identity: Option<(u64, u64)>,
    lost: bool,
}

impl Watched {
    fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), identity: identity(file), lost: false }
    }

    /// What is in the store can be read and copied; nothing new begins until its file is back.
    fn look(&mut self, store: &Store) {
        let lost = self.identity.is_some() && identity(&self.file) != self.identity;
        if lost == std::mem::replace(&mut self.lost, lost) {
            return;
        }
        if lost {
            let why = format!(
                "{} was deleted, moved or replaced while the host runs: put it back, or save what the host has with `fanfare \
                 backup FILE`, stop it and restore that",
                self.file.display()
            );
            tracing::error!("{why}; no order is taken meanwhile");
            store.queue.hold(Some(&why));
        } else {
            tracing::info!(file = %self.file.display(), "the file of the store is back; accepting");
            store.queue.hold(None);
            store.ring();
        }
    }
}

/// Tells a file from every other one on this machine; `None` where it is not there.
fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(file).ok().map(|file| (file.dev(), file.ino()))
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only folds pages in, and the next start does that too.
            drop(thread.join());
        }
    }
}

/// A full disk passes; after a failed fsync it is not known what of the store itself is on disk.
fn failed(store: &Store, error: &rusqlite::Error) {
    if is_fatal(error) {
        store
            .fail(&format!("folding in the write-ahead log failed in a way that leaves open what is on disk: {error}"));
    } else {
        tracing::debug!(%error, "the write-ahead log could not be folded in now");
    }
}

/// Folds in what no reader still needs. Returns how many pages the log has.
fn fold(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}
