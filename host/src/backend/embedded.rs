//! The store on one machine: one SQLite file, one thread that writes it.
//!
//! ```text
//!  api ───► Intake ──┐                        ┌──► Tail (newest events) ──► Inbox ──► lease
//!                    ├──► Queue ──► Committer ┤
//!  finish ─► Inbox ──┘             (1 fsync)  └──► answers (201)
//! ```
//!
//! The journal is the queue: an event is written once, and a consumer is a position in the journal plus rows for
//! its exceptions (see `progress` and `lanes`). Fan-out to one more consumer writes nothing when an event is
//! recorded.
//!
//! **Invariants**
//! - Locks are taken in the order inbox cache → orders → desk → queue; a job is pushed under the locks of what it
//!   was decided on, so the order of commits is the order of dependence.
//! - What is not durable lives only in caches marked with its job's number, and in the queue. When a batch fails,
//!   both are thrown away together.

mod backfills;
mod backup;
mod cache;
mod check;
mod checkpoint;
mod commit;
mod committer;
mod contents;
mod dead_letters;
mod exceptions;
mod forget;
mod generations;
mod inbox;
mod intake;
mod journal;
mod kinds;
mod lanes;
mod layouts;
#[cfg(test)]
mod model;
mod orders;
mod outgoing;
mod past;
mod pause;
mod progress;
mod queue;
mod readers;
mod registry;
mod restore;
mod rows;
mod runs;
mod schema;
mod size;
mod state;
mod statements;
mod tail;
mod timeline;
mod upkeep;
mod versions;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::watch;

use self::checkpoint::Checkpointer;
use self::committer::Committer;
use self::contents::Contents;
use self::inbox::EmbeddedInbox;
use self::orders::Orders;
use self::queue::Queue;
use self::readers::{Disk, Readers, Waits};
use self::tail::Tail;
use self::upkeep::Upkeeper;
use super::{Alone, Backend, Error, Held, Lifecycle, Result};
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

pub use self::check::check_directory;
pub use self::past::{Copies, Past, PastError};
pub use self::restore::{RestoreError, copy, restore, verify};

/// The file in the data directory that holds everything.
pub const FILE: &str = "fanfare.sqlite";

#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: cannot be made or written: {error}. Name a directory that this user may write with --data-dir", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error("{}: another fanfare runs on this data directory. Stop it, or name another directory with --data-dir", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{}: is not there, but its write-ahead log is, with what was committed last: put the file back beside it, or move the \
         log away to begin anew",
        path.display()
    )]
    LogAlone { path: PathBuf },
    #[error("{}: {error}{}", path.display(), what_to_do(.error))]
    Database { path: PathBuf, error: rusqlite::Error },
}

fn what_to_do(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            ". It is no store of fanfare: name another directory with --data-dir, or put the store back"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            ". Keep a copy of it, and make a new data directory of a backup with `fanfare restore`"
        }
        Some(ErrorCode::DiskFull) => ". Make room on its disk, or name another directory with --data-dir",
        _ => "",
    }
}

/// Opens the store in `settings.data_dir`, making it where there is none, and starts its writer.
///
/// # Errors
/// [`OpenError`] when the directory cannot be written, is in use, or holds a file that is no store.
pub fn open(settings: &Settings) -> Result<Backend, OpenError> {
    let embedded = start(settings)?;
    Ok(Backend {
        intake: Arc::clone(&embedded) as _,
        journal: Arc::clone(&embedded) as _,
        timelines: Arc::clone(&embedded) as _,
        consumers: Arc::clone(&embedded) as _,
        dead_letters: Arc::clone(&embedded) as _,
        backfills: Arc::clone(&embedded) as _,
        outgoing: Arc::clone(&embedded) as _,
        fleet: Arc::new(Alone),
        upkeep: Arc::clone(&embedded) as _,
        versions: Arc::clone(&embedded) as _,
        layouts: Arc::clone(&embedded) as _,
        lifecycle: embedded,
    })
}

fn start(settings: &Settings) -> Result<Arc<Embedded>, OpenError> {
    let directory = &settings.data_dir;
    let unwritable = |error| OpenError::Directory { path: directory.clone(), error };
    make(directory).map_err(unwritable)?;
    let lock = lock(directory)?;
    backup::delete_leftovers(directory).map_err(unwritable)?;
    let file = directory.join(FILE);
    let broken = |error| OpenError::Database { path: file.clone(), error };
    // SQLite would delete it.
    if !file.exists() && fs::metadata(directory.join(format!("{FILE}-wal"))).is_ok_and(|log| log.len() > 0) {
        return Err(OpenError::LogAlone { path: file });
    }
    let writer = schema::open_writer(&file).map_err(broken)?;
    fault::pass(Point::StoreOpened);
    let store = Arc::new(Store::new(&file, &writer).map_err(broken)?);
    let checkpointer = Checkpointer::start(&file, Arc::clone(&store)).map_err(broken)?;
    let committer = Committer::new(Arc::clone(&store), writer, checkpointer).map_err(broken)?;
    let thread = std::thread::Builder::new().name("committer".into());
    let thread = thread.spawn(supervised(committer, Arc::clone(&store))).map_err(unwritable)?;
    Ok(Arc::new(Embedded {
        store,
        thread: Mutex::new(Some(thread)),
        upkeep: Mutex::new(None),
        directory: directory.clone(),
        backing_up: tokio::sync::Mutex::default(),
        lock,
    }))
}

/// A committer that panics closes the store: nobody can say what it left in memory, and without it every order would wait
/// in vain while the host looks ready.
fn supervised(committer: Committer, store: Arc<Store>) -> impl FnOnce() + Send {
    move || {
        if catch_unwind(AssertUnwindSafe(|| committer.run())).is_err() {
            store.fail("a bug stopped the thread that writes; standard error has its message");
        }
    }
}

/// Makes the directory where it is not there. Its name is synced too, and at every start, because the one that made it may
/// have been killed before it did: a power cut would take it with everything that is synced in it.
fn make(directory: &Path) -> std::io::Result<()> {
    let made = directory.ancestors().skip(1).take_while(|path| !path.exists()).count();
    create_private(directory)?;
    let parents = directory.ancestors().skip(1).take(made + 1);
    for parent in parents.map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent }) {
        // Some file systems cannot, and some directories may not be read.
        if let Err(error) = File::open(parent).and_then(|parent| parent.sync_all()) {
            tracing::warn!(directory = %parent.display(), %error, "not synced: a power cut may take the data directory if it is new");
        }
    }
    Ok(())
}

/// Orders tell who bought what: a directory that is made for them is its owner's alone. One that is there stays as it is.
fn create_private(directory: &Path) -> std::io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// The lock is the operating system's, on a file that stays: a killed host leaves none behind.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let unwritable = |error| OpenError::Directory { path: path.clone(), error };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unwritable(error)),
    }
}

/// The adapter: every port, on one [`Store`].
struct Embedded {
    store: Arc<Store>,
    thread: Mutex<Option<JoinHandle<()>>>,
    upkeep: Mutex<Option<Upkeeper>>,
    directory: PathBuf,
    /// Held while a copy is made.
    backing_up: tokio::sync::Mutex<()>,
    #[allow(dead_code, reason = "held until the store is closed, so that no second host opens the directory")]
    lock: File,
}

/// What the writer, the inboxes and the readers share.
struct Store {
    queue: Queue,
    tail: Tail,
    readers: Readers,
    contents: Arc<Contents>,
    orders: Mutex<Orders>,
    inboxes: Mutex<BTreeMap<ConsumerName, Arc<EmbeddedInbox>>>,
    /// Consumers whose inboxes are about to be there, as often as somebody attaches: one comes here under the lock of the inboxes.
    attaching: Mutex<Vec<ConsumerName>>,
    /// Rung when messages may be due.
    outgoing: tokio::sync::Notify,
    /// Rung when a way back was handed over.
    handed_over: Arc<tokio::sync::Notify>,
    failed: watch::Sender<Option<Arc<str>>>,
    /// Who keeps events that are old enough to go.
    held: Mutex<Option<Held>>,
    /// A copy that was asked for; the committer takes it up.
    backup: Mutex<Option<backup::Order>>,
}

impl Store {
    fn new(file: &Path, connection: &Connection) -> rusqlite::Result<Self> {
        let head: Option<i64> = connection.query_row("SELECT max(position) FROM events", [], |row| row.get(0))?;
        let contents = Arc::new(Contents::new());
        Ok(Self {
            queue: Queue::new(),
            tail: Tail::new(rows::unsigned(head.unwrap_or(0))),
            readers: Readers::new(file, Arc::clone(&contents)),
            contents,
            orders: Mutex::new(Orders::default()),
            inboxes: Mutex::new(BTreeMap::new()),
            attaching: Mutex::default(),
            outgoing: tokio::sync::Notify::new(),
            handed_over: Arc::default(),
            failed: watch::Sender::new(None),
            held: Mutex::new(None),
            backup: Mutex::new(None),
        })
    }

    fn inboxes(&self) -> Vec<Arc<EmbeddedInbox>> {
        self.inboxes.lock().values().cloned().collect()
    }

    /// Wakes everybody who may find something new.
    fn ring(&self) {
        for inbox in self.inboxes.lock().values() {
            inbox.ring();
        }
        self.outgoing.notify_one();
    }

    /// Remembers who keeps old events, and says it when that changes.
    fn note_held(&self, held: Option<Held>) {
        let mut known = self.held.lock();
        let by = |held: &Option<Held>| held.as_ref().map(|held| (held.by.clone(), held.reason));
        if by(&known) != by(&held) {
            match &held {
                Some(Held { by, reason, events, since }) => tracing::warn!(
                    consumer = %by, events, %since, "events that are old enough to go stay for this consumer: {}", reason.advice()
                ),
                None => tracing::info!("nothing keeps old events any more"),
            }
        }
        *known = held;
    }

    /// Closes the store for good: it can no longer be said what is on disk.
    fn fail(&self, why: &str) {
        tracing::error!(why, "the store is closed; start the host again, and it reads what is on disk");
        self.queue.refuse(why);
        self.queue.close(why);
        self.failed.send_replace(Some(why.into()));
    }

    /// Reads on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.look(move |disk| read(disk.connection()?)).await
    }

    /// As [`Store::read`], with what is known of orders besides. Dropped, it ends soon.
    async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Disk<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (store, waits) = (Arc::clone(self), Waits(Arc::default()));
        let waiting = Arc::clone(&waits.0);
        let outcome = tokio::task::spawn_blocking(move || look(&store.readers.disk_for(waiting))).await;
        drop(waits);
        outcome.map_err(|error| Error::Failed(error.to_string().into()))?.map_err(|error| failed(&error))
    }
}

/// For tests of how much room is taken.
#[cfg(test)]
pub(in crate::backend) fn rows_of(file: &Path, table: &str) -> u64 {
    let disk = schema::open_reader(file).unwrap();
    disk.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).map(rows::unsigned).unwrap()
}

/// As versions left it that marked what is over only when a way back set out.
#[cfg(test)]
pub(in crate::backend) fn forget_what_is_over(file: &Path) {
    let disk = schema::open_second(file).unwrap();
    disk.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    disk.execute("UPDATE deferred SET over = 0", []).unwrap();
}

fn failed(error: &rusqlite::Error) -> Error {
    Error::Failed(error.to_string().into())
}

#[async_trait]
impl Lifecycle for Embedded {
    async fn failed(&self) -> Error {
        let mut failed = self.store.failed.subscribe();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        Error::Failed(why.unwrap_or_else(|| "the store is gone".into()))
    }

    async fn close(&self) {
        let upkeep = self.upkeep.lock().take();
        // It may be waiting for a commit, which the queue still takes.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(upkeep)).await {
            tracing::error!(%error, "the upkeep of the store did not end in order");
        }
        self.store.inboxes().iter().for_each(|inbox| inbox.flush());
        self.store.queue.close("the host is shutting down");
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && let Err(error) = tokio::task::spawn_blocking(move || thread.join()).await
        {
            tracing::error!(%error, "the writer did not end in order");
        }
    }
}
