//! Folds the write-ahead log into the store as the host does: the bulk beside the writer, the rest between two batches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use rusqlite::Connection;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pages of log worth folding in: 16 MiB.
const PAGES_MIN: i64 = 4_096;

pub struct Checkpointer {
    little_is_left: Arc<AtomicBool>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<rusqlite::Result<()>>>,
}

impl Checkpointer {
    pub fn start(file: &Path) -> Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        let little_is_left = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = channel();
        let flag = Arc::clone(&little_is_left);
        let run = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                flag.store(fold(&connection)? >= PAGES_MIN, Ordering::Release);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(run)?;
        Ok(Self { little_is_left, stop: Some(stop), thread: Some(thread) })
    }

    /// Folds in the rest where that is little; called by the writer between batches.
    pub fn finish(&self, writer: &Connection) -> Result<()> {
        if self.little_is_left.swap(false, Ordering::AcqRel) {
            fold(writer)?;
        }
        Ok(())
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the write-ahead log was not folded in: {error}");
        }
    }
}

/// Returns how many pages the log has.
fn fold(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}
