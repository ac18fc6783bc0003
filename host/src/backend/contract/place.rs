//! Where the backend of one test lives, so that it can be closed and opened again.

use tempfile::TempDir;

use super::broken::{Fault, break_promise};
use crate::backend::{Backend, embedded};

/// Where one backend lives. Nothing else lives there.
pub struct Place {
    kind: Kind,
    /// What whatever is opened here does wrong.
    fault: Option<Fault>,
}

enum Kind {
    Directory(TempDir),
}

impl Place {
    pub fn embedded() -> Self {
        Self { kind: Kind::Directory(tempfile::tempdir().unwrap()), fault: None }
    }

    /// A fresh one of the same kind.
    pub fn another(&self) -> Self {
        match &self.kind {
            Kind::Directory(_) => Self::embedded(),
        }
    }

    /// A fresh one of the same kind, where one promise is broken.
    pub fn with_fault(&self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self.another() }
    }

    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub async fn open(&self) -> Backend {
        let backend = match &self.kind {
            Kind::Directory(directory) => {
                embedded::open(&embedded::Settings { data_dir: directory.path().to_owned() }).unwrap()
            }
        };
        match self.fault {
            Some(fault) => break_promise(backend, fault),
            None => backend,
        }
    }

    pub async fn reopen(&self, backend: Backend) -> Backend {
        backend.lifecycle.close().await;
        drop(backend);
        self.open().await
    }

    /// Whether what was committed can be leased at once, so that what cannot be leased then does not come.
    pub fn delivers_at_once(&self) -> bool {
        match self.kind {
            Kind::Directory(_) => true,
        }
    }

    /// How many stories of a model to tell, where one file could tell `many` in a few seconds.
    pub fn cases(&self, many: u32) -> u32 {
        match self.kind {
            Kind::Directory(_) => many,
        }
    }

    /// How many events are kept. Of what went from a file, the newest is told of from memory for a while.
    pub async fn events_kept(&self, _backend: &Backend) -> usize {
        match self.kind {
            Kind::Directory(_) => usize::try_from(self.rows("events")).unwrap(),
        }
    }

    /// How many rows a table of the file has.
    pub fn rows(&self, table: &str) -> u64 {
        match &self.kind {
            Kind::Directory(directory) => embedded::rows_of(&directory.path().join(embedded::FILE), table),
        }
    }
}
