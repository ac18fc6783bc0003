//! What hosts that share a store tell each other of versions: the plugin files, what was decided, and what each of them runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::watch;

use super::{Result, Standing};
use crate::policy::ConsumerName;
use crate::version::{Binary, Hash};

/// Where each consumer stands, by the newest row of its history that is no refusal.
pub type Standings = Arc<BTreeMap<ConsumerName, Standing>>;

/// What one host runs of each consumer.
pub type Running = BTreeMap<ConsumerName, RunningVersion>;

/// The hosts of one store. Where a store has one host, there is nothing to tell: [`Alone`].
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Whether [`Fleet::file`] has this file. `true` also where no other host could ask for it.
    async fn has_file(&self, hash: &Hash) -> Result<bool>;

    /// Keeps a plugin file for every host, until no consumer keeps its version. One that is there already stays as it is. Before
    /// the history says that its version is kept, others may let go of it: whoever needs it to stay asks once more then.
    async fn keep_file(&self, file: &Binary) -> Result<()>;

    /// The file that some host kept, whole and with this hash, or nothing.
    async fn file(&self, hash: &Hash) -> Result<Option<Binary>>;

    /// What any host decided: changed within a second of it. `None` where there are no other hosts.
    fn standings(&self) -> Option<watch::Receiver<Standings>>;

    fn is_shared(&self) -> bool {
        self.standings().is_some()
    }

    /// Says what this host runs from now on. Others know it after a second; that it cannot be told is no error.
    fn tell_running(&self, running: Running);

    /// What every host that lives runs, this one among them, as of a second ago. Empty where there are no other hosts.
    fn hosts(&self) -> Vec<HostRuns>;
}

/// A version that handles events of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RunningVersion {
    /// As the plugin calls itself.
    pub version: String,
    pub hash: Hash,
}

/// One host, and what it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRuns {
    /// The name of its machine, and the number of its slot.
    pub host: String,
    pub running: Running,
}

/// The fleet of a store that has one host.
pub struct Alone;

#[async_trait]
impl Fleet for Alone {
    async fn has_file(&self, _hash: &Hash) -> Result<bool> {
        Ok(true)
    }

    async fn keep_file(&self, _file: &Binary) -> Result<()> {
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
