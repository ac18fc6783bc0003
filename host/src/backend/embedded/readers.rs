//! Connections that see what is committed.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, InterruptHandle, ffi};

use super::contents::Contents;
use super::schema;

/// Connections kept open; more are opened and closed when more than this read at once.
const IDLE_MAX: usize = 8;

pub struct Readers {
    file: PathBuf,
    contents: Arc<Contents>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub fn new(file: &Path, contents: Arc<Contents>) -> Self {
        Self { file: file.to_owned(), contents, idle: Mutex::new(Vec::new()) }
    }

    /// What is committed, for one look. Takes a connection only if one is asked for.
    pub fn disk(&self) -> Disk<'_> {
        Disk { readers: self, connection: OnceCell::new(), waiting: None }
    }

    /// As [`Readers::disk`], as long as somebody waits for it.
    pub fn disk_for(&self, waiting: Arc<Waiting>) -> Disk<'_> {
        Disk { readers: self, connection: OnceCell::new(), waiting: Some(waiting) }
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().pop();
        idle.map_or_else(|| schema::open_reader(&self.file), Ok)
    }
}

/// Whether somebody waits for what a look at the disk finds. Many events take long to read, and whoever asked may have gone.
#[derive(Default)]
pub struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    is_over: bool,
    /// Of the connection on which the look is.
    running: Option<InterruptHandle>,
}

/// Somebody waits as long as this is there; then what is being read ends with an error, which nobody sees.
pub struct Waits(pub Arc<Waiting>);

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.is_over = true;
        if let Some(running) = &state.running {
            running.interrupt();
        }
    }
}

impl Waiting {
    /// From now on `connection` reads for them.
    fn begin(&self, connection: &Connection) -> rusqlite::Result<()> {
        self.0.lock().running = Some(connection.get_interrupt_handle());
        self.check()
    }

    /// Whoever has the connection next is not interrupted.
    fn end(&self) {
        self.0.lock().running = None;
    }

    fn check(&self) -> rusqlite::Result<()> {
        let over = || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None);
        if self.0.lock().is_over { Err(over()) } else { Ok(()) }
    }
}

/// A connection that is taken when it is first needed, and given back when this is dropped: most of what handlers ask
/// for is in memory.
pub struct Disk<'a> {
    readers: &'a Readers,
    connection: OnceCell<Connection>,
    waiting: Option<Arc<Waiting>>,
}

impl Disk<'_> {
    /// What is long takes it anew now and then: it is an error once nobody waits.
    pub fn connection(&self) -> rusqlite::Result<&Connection> {
        if let Some(waiting) = &self.waiting {
            waiting.check()?;
        }
        if let Some(connection) = self.connection.get() {
            return Ok(connection);
        }
        let connection = self.readers.take()?;
        if let Some(waiting) = &self.waiting {
            waiting.begin(&connection)?;
        }
        Ok(self.connection.get_or_init(|| connection))
    }

    pub fn contents(&self) -> &Contents {
        &self.readers.contents
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            if let Some(waiting) = &self.waiting {
                waiting.end();
            }
            let mut idle = self.readers.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::time::timeout;

    use super::*;
    use crate::backend::Lifecycle as _;
    use crate::backend::embedded::{Settings, start};

    /// It takes a minute, if nobody ends it.
    const LONG: &str =
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 300000000) SELECT max(x) FROM n";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_nobody_waits_for_is_read_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = start(&Settings { data_dir: folder.path().to_owned() }).unwrap();
        let goes_on = Arc::new(());
        let held = Arc::clone(&goes_on);
        let statement = embedded.store.read(move |disk| {
            let _held = held;
            disk.query_row(LONG, [], |row| row.get::<_, i64>(0))
        });
        assert!(timeout(Duration::from_millis(50), statement).await.is_err());
        let held = Arc::clone(&goes_on);
        let steps = embedded.store.look(move |disk| {
            let (_held, began) = (held, Instant::now());
            while began.elapsed() < Duration::from_secs(30) {
                disk.connection()?.query_row("SELECT 1", [], |_| Ok(()))?;
            }
            Ok(())
        });
        assert!(timeout(Duration::from_millis(50), steps).await.is_err());
        let deadline = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&goes_on) > 1 {
            assert!(Instant::now() < deadline, "somebody reads on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Connections are as they were.
        for _ in 0..IDLE_MAX {
            embedded.store.read(|disk| disk.query_row("SELECT count(*) FROM events", [], |_| Ok(()))).await.unwrap();
        }
        embedded.close().await;
    }
}
