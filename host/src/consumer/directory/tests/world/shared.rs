//! One of several hosts; what the others do, the tests write into the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Fake, World};
use crate::backend::{Error, Fleet, HostRuns, PluginFile, Result, Running, Standings, Turn, TurnOutcome};
use crate::version::{Binary, Hash};

impl World {
    /// As one of several hosts.
    pub async fn open_sharing(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in files {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        let fleet: Arc<dyn Fleet> = Arc::new(Silent::default());
        Self::over(dir, tempfile::tempdir().unwrap(), Fake { fleet: Some(fleet), ..Fake::default() }).await
    }

    /// Another host runs the file with this content, which is there since before.
    pub async fn runs_elsewhere(&self, name: &str, content: &str) {
        let hash = Some(Hash::of(content.as_bytes()));
        let file = PluginFile { hash, ..PluginFile::default() };
        let turn = Turn { outcome: TurnOutcome::Live, reason: None, file, live: hash };
        drop(self.store.versions.record(&name.parse().unwrap(), turn, 5).await.unwrap());
    }
}

/// A plugin that a fleet does not take the first two times.
pub const TOO_LARGE: &str = "plugin 7.0.0";

/// A fleet in which nobody says a word.
#[derive(Default)]
struct Silent {
    standings: watch::Sender<Standings>,
    refused: AtomicU32,
}

#[async_trait]
impl Fleet for Silent {
    async fn has_file(&self, hash: &Hash) -> Result<bool> {
        if *hash == Hash::of(TOO_LARGE.as_bytes()) && self.refused.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(Error::Unavailable("the table takes no more now".into()));
        }
        Ok(true)
    }

    async fn keep_file(&self, _file: &Binary) -> Result<()> {
        Ok(())
    }

    async fn file(&self, _hash: &Hash) -> Result<Option<Binary>> {
        Ok(None)
    }

    fn standings(&self) -> Option<watch::Receiver<Standings>> {
        Some(self.standings.subscribe())
    }

    fn tell_running(&self, _running: Running) {}

    fn hosts(&self) -> Vec<HostRuns> {
        Vec::new()
    }
}
