//! Hosts that let go of what another one just kept.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::backend::{Fleet, HostRuns, Result, Running, Standings};
use crate::version::{Binary, Hash};

/// A fleet whose hosts let go of each file that is kept, the first time.
#[derive(Default)]
pub struct Forgetful(Mutex<BTreeMap<Hash, u32>>);

#[async_trait]
impl Fleet for Forgetful {
    async fn has_file(&self, hash: &Hash) -> Result<bool> {
        Ok(self.0.lock().get(hash).is_some_and(|times| *times > 1))
    }

    async fn keep_file(&self, file: &Binary) -> Result<()> {
        *self.0.lock().entry(*file.hash()).or_default() += 1;
        Ok(())
    }

    async fn file(&self, _hash: &Hash) -> Result<Option<Binary>> {
        Ok(None)
    }

    fn standings(&self) -> Option<watch::Receiver<Standings>> {
        None
    }

    fn tell_running(&self, _running: Running) {}

    fn hosts(&self) -> Vec<HostRuns> {
        Vec::new()
    }
}
