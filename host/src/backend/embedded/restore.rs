//! A copy of a store, outside of a host: is it one, and a data directory made from it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::backup::open_copy;
use super::{FILE, OpenError, create_private, lock, schema};
use crate::fault::{self, Point};

/// How every SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// A store that is not complete.
const HALF: &str = "fanfare.sqlite.restoring";
/// What SQLite finds wrong is told up to this many lines.
const FAULTS_MAX: usize = 5;

/// Why a copy cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: is not a store of fanfare: {why}", path.display())]
    NotAStore { path: PathBuf, why: String },
    #[error(
        "{}: is not all of a store: a write-ahead log with the rest of it stands beside it. `fanfare backup FILE --data-dir DIR` \
         makes a whole copy of the store of a host that is down",
        path.display()
    )]
    LogBeside { path: PathBuf },
    #[error("{}: is damaged, so it is not used: {why}. Take another copy", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{}: holds {found} already. Name a directory that is empty or not there", path.display())]
    NotEmpty { path: PathBuf, found: String },
    #[error("{}: cannot be written: {error}", path.display())]
    Unwritable { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{}: {error}", path.display())]
    Database { path: PathBuf, error: rusqlite::Error },
}

/// Makes sure that the file is a whole store of a format that is known here.
///
/// # Errors
/// [`RestoreError`] with what it is instead.
pub fn verify(file: &Path) -> Result<(), RestoreError> {
    let path = || file.to_owned();
    let unreadable = |error| RestoreError::Unreadable { path: path(), error };
    let not_a_store = |why: String| RestoreError::NotAStore { path: path(), why };
    let damaged = |why: String| RestoreError::Damaged { path: path(), why };
    let mut start = [0; MAGIC.len()];
    let begins = File::open(file).map_err(unreadable)?.read_exact(&mut start);
    if begins.is_err() || start != *MAGIC {
        return Err(not_a_store("it is no SQLite file".to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = Connection::open_with_flags(file, flags).map_err(|error| damaged(error.to_string()))?;
    let faults = faults(&copy).map_err(|error| damaged(error.to_string()))?;
    if !faults.is_empty() {
        return Err(damaged(faults.join("; ")));
    }
    schema::recognise(&copy).map_err(not_a_store)
}

/// Whether the file lacks what a host committed last.
fn has_log(file: &Path) -> bool {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

fn faults(copy: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = copy.prepare(&format!("PRAGMA quick_check({FAULTS_MAX})"))?;
    let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Makes a data directory with the store that `file` is a copy of. The directory holds all of it or nothing.
///
/// # Errors
/// [`RestoreError`] where the copy is not good, or the directory is not empty or in use.
pub fn restore(file: &Path, directory: &Path) -> Result<(), RestoreError> {
    // Before anything opens it: what SQLite reads of the log would not be copied.
    if has_log(file) {
        return Err(RestoreError::LogBeside { path: file.to_owned() });
    }
    verify(file)?;
    let unwritable = |error| RestoreError::Unwritable { path: directory.to_owned(), error };
    create_private(directory).map_err(unwritable)?;
    let _held = lock(directory)?;
    for entry in fs::read_dir(directory).map_err(unwritable)? {
        let name = entry.map_err(unwritable)?.file_name();
        // What a restore left that was killed is written anew.
        if name != "lock" && name != HALF {
            let found = name.to_string_lossy().into_owned();
            return Err(RestoreError::NotEmpty { path: directory.to_owned(), found });
        }
    }
    let half = directory.join(HALF);
    let write = || {
        fs::copy(file, &half)?;
        fault::pass(Point::RestoreCopied);
        File::open(&half)?.sync_all()?;
        fault::pass(Point::RestoreSynced);
        fs::rename(&half, directory.join(FILE))?;
        fault::pass(Point::RestoreNamed);
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| {
        drop(fs::remove_file(&half));
        unwritable(error)
    })
}

/// Copies the store of a directory in which no host runs.
///
/// # Errors
/// [`RestoreError`] where there is none, a host runs, or the copy cannot be written.
pub fn copy(directory: &Path, to: &Path) -> Result<(), RestoreError> {
    const PAGES_PER_STEP: i32 = 4_096;
    let store = directory.join(FILE);
    if let Err(error) = fs::metadata(&store) {
        return Err(RestoreError::Unreadable { path: store, error });
    }
    let _held = lock(directory)?;
    let broken = |error| RestoreError::Database { path: to.to_owned(), error };
    let source = Connection::open(&store).map_err(broken)?;
    let mut copy = open_copy(to).map_err(broken)?;
    let backup = rusqlite::backup::Backup::new(&source, &mut copy).map_err(broken)?;
    backup.run_to_completion(PAGES_PER_STEP, Duration::ZERO, None).map_err(broken)?;
    drop(backup);
    drop(copy);
    let sealed = Connection::open(to).and_then(|copy| copy.execute_batch("PRAGMA journal_mode = DELETE"));
    sealed.map_err(broken)
}
