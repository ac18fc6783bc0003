//! Connections that see what is committed.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;

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
        Disk { readers: self, connection: OnceCell::new() }
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().pop();
        idle.map_or_else(|| schema::open_reader(&self.file), Ok)
    }
}

/// A connection that is taken when it is first needed, and given back when this is dropped: most of what handlers ask
/// for is in memory.
pub struct Disk<'a> {
    readers: &'a Readers,
    connection: OnceCell<Connection>,
}

impl Disk<'_> {
    pub fn connection(&self) -> rusqlite::Result<&Connection> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection);
        }
        let connection = self.readers.take()?;
        Ok(self.connection.get_or_init(|| connection))
    }

    pub fn contents(&self) -> &Contents {
        &self.readers.contents
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let mut idle = self.readers.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(connection);
            }
        }
    }
}
