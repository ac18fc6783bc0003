//! Where the backend of one test lives, so that it can be closed and opened again.

use tempfile::TempDir;

use super::broken::{Fault, break_promise};
use crate::backend::{Backend, aws, embedded};

/// Where one backend lives. Nothing else lives there.
pub struct Place {
    kind: Kind,
    /// What whatever is opened here does wrong.
    fault: Option<Fault>,
}

enum Kind {
    Directory(TempDir),
    /// A table, a topic and queues of its own, at the emulators that the environment names.
    Prefix(aws::Settings),
}

impl Place {
    pub fn embedded() -> Self {
        Self { kind: Kind::Directory(tempfile::tempdir().unwrap()), fault: None }
    }

    pub fn aws() -> Self {
        Self::aws_with(aws::TopicKind::Fifo)
    }

    pub fn standard() -> Self {
        Self::aws_with(aws::TopicKind::Standard)
    }

    fn aws_with(topic: aws::TopicKind) -> Self {
        for service in ["DYNAMODB", "SNS", "SQS"] {
            let variable = format!("AWS_ENDPOINT_URL_{service}");
            #[allow(clippy::disallowed_methods, reason = "tests are told by it where the emulators are")]
            let endpoint = std::env::var(&variable);
            assert!(
                endpoint.is_ok(),
                "{variable} is not set: `cargo xtask test` starts emulators of AWS for the tests, and `cargo xtask emulators` for more than one run"
            );
        }
        let prefix = format!("t-{}", uuid::Uuid::now_v7().simple());
        let prefix = prefix.parse().unwrap();
        let settings = aws::Settings { prefix, provision: true, topic, ..aws::Settings::default() };
        Self { kind: Kind::Prefix(settings), fault: None }
    }

    /// A fresh one of the same kind.
    pub fn another(&self) -> Self {
        match &self.kind {
            Kind::Directory(_) => Self::embedded(),
            Kind::Prefix(settings) => Self::aws_with(settings.topic),
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
            Kind::Prefix(settings) => aws::open(settings).await.unwrap(),
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
            Kind::Prefix(_) => false,
        }
    }

    /// How many stories of a model to tell, where one file could tell `many` in a few seconds.
    pub fn cases(&self, many: u32) -> u32 {
        match self.kind {
            Kind::Directory(_) => many,
            Kind::Prefix(_) => 2,
        }
    }

    /// How many events are kept. Of what went from a file, the newest is told of from memory for a while.
    pub async fn events_kept(&self, backend: &Backend) -> usize {
        match self.kind {
            Kind::Directory(_) => usize::try_from(self.rows("events")).unwrap(),
            Kind::Prefix(_) => backend.journal.events_after(None, usize::MAX).await.unwrap().len(),
        }
    }

    /// How many entries and counters there are of states, those that are kept or past too.
    pub async fn state_items(&self) -> (u64, u64) {
        match &self.kind {
            Kind::Directory(_) => (self.rows("entries"), self.rows("counters")),
            Kind::Prefix(settings) => aws::state_items(settings).await,
        }
    }

    /// How many rows a table of the file has.
    pub fn rows(&self, table: &str) -> u64 {
        match &self.kind {
            Kind::Directory(directory) => embedded::rows_of(&directory.path().join(embedded::FILE), table),
            Kind::Prefix(_) => panic!("{table} is a table of the embedded store"),
        }
    }

    /// What was over while a state was kept is not known to be.
    pub fn forget_what_is_over(&self) {
        match &self.kind {
            Kind::Directory(directory) => embedded::forget_what_is_over(&directory.path().join(embedded::FILE)),
            Kind::Prefix(_) => panic!("no state is kept there"),
        }
    }
}
