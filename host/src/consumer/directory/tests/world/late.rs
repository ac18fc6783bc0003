//! A history whose answer to who writes down a refusal takes its time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::{Fake, World};
use crate::backend::{Durable, HistoryEntry, Result, Standing, Turn, TurnOutcome, Versions};
use crate::policy::ConsumerName;
use crate::version::Hash;

/// On which such answers are held up.
pub struct Way {
    open: Semaphore,
    waits: AtomicBool,
}

impl World {
    /// Where whoever writes down a refusal learns what may go only once [`World::let_through`] says so.
    pub async fn open_late(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in files {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        let late = Way { open: Semaphore::new(0), waits: AtomicBool::new(false) };
        Self::over(dir, tempfile::tempdir().unwrap(), Fake { late: Some(Arc::new(late)), ..Fake::default() }).await
    }

    pub fn somebody_waits(&self) -> bool {
        self.fake.late.as_ref().unwrap().waits.load(Ordering::SeqCst)
    }

    pub fn let_through(&self) {
        self.fake.late.as_ref().unwrap().open.close();
    }

    /// Lets go of versions, as if their consumer were forgotten.
    pub fn let_go(&self, contents: &[&str]) {
        self.catalogue.let_go(contents.iter().map(|content| Hash::of(content.as_bytes())).collect());
    }
}

pub fn over(versions: &Arc<dyn Versions>, way: &Option<Arc<Way>>) -> Arc<dyn Versions> {
    match way {
        Some(way) => Arc::new(Late { versions: Arc::clone(versions), way: Arc::clone(way) }),
        None => Arc::clone(versions),
    }
}

struct Late {
    versions: Arc<dyn Versions>,
    way: Arc<Way>,
}

#[async_trait]
impl Versions for Late {
    async fn record(&self, name: &ConsumerName, turn: Turn, keep: usize) -> Result<Durable<Vec<Hash>>> {
        let is_refusal = turn.outcome == TurnOutcome::Refused;
        let gone = self.versions.record(name, turn, keep).await;
        if is_refusal {
            self.way.waits.store(true, Ordering::SeqCst);
            let _closed = self.way.open.acquire().await;
        }
        gone
    }

    async fn standing(&self, name: &ConsumerName) -> Result<Option<Standing>> {
        self.versions.standing(name).await
    }

    async fn history(&self, name: &ConsumerName, limit: usize) -> Result<Vec<HistoryEntry>> {
        self.versions.history(name, limit).await
    }

    async fn kept(&self) -> Result<BTreeSet<Hash>> {
        self.versions.kept().await
    }
}
