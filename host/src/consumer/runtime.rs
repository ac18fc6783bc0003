//! What stands behind the directory: the sandbox that loads plugins and the engine that runs them. Two small traits,
//! so that the directory's stories can be told without compiling WebAssembly.

use std::future::Future;
use std::sync::Arc;

use crate::backend;
use crate::delivery::shadow::Ledger;
use crate::delivery::trial::Trial;
use crate::event::Subscriptions;
use crate::policy::{ConsumerName, Policy, Start};
use crate::sandbox::{Description, Usage};
use crate::version::{Binary, Hash};

/// Everything that a worker needs, swapped as one.
pub struct Live<V> {
    pub version: Arc<V>,
    pub policy: Arc<Policy>,
    pub subscriptions: Subscriptions,
    /// How the version lays its state out: its `state-version`.
    pub layout: u32,
    pub candidate: Option<Candidate<V>>,
    pub shadow: Option<Shadow<V>>,
    pub back: Option<Back<V>>,
}

/// The version that a way back leads to.
pub struct Back<V> {
    pub version: Arc<V>,
    pub hash: Hash,
    pub subscriptions: Subscriptions,
}

impl<V> Clone for Back<V> {
    fn clone(&self) -> Self {
        let Self { version, hash, subscriptions } = self;
        Self { version: Arc::clone(version), hash: *hash, subscriptions: subscriptions.clone() }
    }
}

/// A version that handles the same events without effect.
pub struct Shadow<V> {
    pub version: Arc<V>,
    pub subscriptions: Subscriptions,
    pub ledger: Arc<Ledger>,
}

impl<V> Clone for Shadow<V> {
    fn clone(&self) -> Self {
        let Self { version, subscriptions, ledger } = self;
        Self { version: Arc::clone(version), subscriptions: subscriptions.clone(), ledger: Arc::clone(ledger) }
    }
}

/// A version that is tried on a share of the orders, beside the live one and under its policy.
#[derive(Clone)]
pub struct Candidate<V> {
    pub version: Arc<V>,
    pub subscriptions: Subscriptions,
    pub trial: Arc<Trial>,
}

/// Why a file does not become a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file is to blame: the same bytes will be refused again.
    #[error("{0}")]
    File(String),
    /// The host is to blame: the same bytes may do later.
    #[error("{0}")]
    Host(String),
}

/// Makes versions out of files.
pub trait Loader: Send + Sync + 'static {
    /// Compiled and described; knows nothing of policies.
    type Plugin: Send + Sync + 'static;
    /// Linked for one consumer under one policy.
    type Version: Send + Sync + 'static;

    /// Validates, compiles and describes. The bytes are hostile.
    fn load(&self, binary: Binary) -> impl Future<Output = Result<Arc<Self::Plugin>, LoadError>> + Send;

    fn description<'p>(&self, plugin: &'p Self::Plugin) -> &'p Description;

    fn link(
        &self,
        plugin: &Arc<Self::Plugin>,
        name: &ConsumerName,
        policy: &Policy,
    ) -> Result<Arc<Self::Version>, LoadError>;
}

/// Runs versions. At most one worker per consumer is started at a time; the caller sees to it.
pub trait Runtime: Loader {
    type Worker: Send + Sync + 'static;

    /// Attaches the consumer to the store (where `live.policy` says, if it was never seen), has its state kept where it is of
    /// another layout, and delivers to it. `last_word` says whether no other host's version came after it.
    fn start(
        &self,
        name: &ConsumerName,
        live: Live<Self::Version>,
        last_word: bool,
    ) -> impl Future<Output = backend::Result<Self::Worker>> + Send;

    /// Has the versions of another layout make way that other hosts run, before this one starts or is swapped in.
    fn lay_out(
        &self,
        name: &ConsumerName,
        live: &Live<Self::Version>,
    ) -> impl Future<Output = backend::Result<()>> + Send;

    /// Has the store keep events from `start` on for a consumer that it never saw, until it starts.
    fn introduce(&self, name: &ConsumerName, start: Start) -> impl Future<Output = backend::Result<()>> + Send;

    /// Deliveries started afterwards meet `live`; those already running finish on what they have.
    fn swap(&self, worker: &Self::Worker, live: Live<Self::Version>);

    /// Returns when deliveries already running have finished and no other will start.
    fn stop(&self, worker: Self::Worker) -> impl Future<Output = ()> + Send;

    /// What the consumer's events took of its limits; `None` for one that never ran.
    fn usage(&self, _name: &ConsumerName) -> Option<Usage> {
        None
    }

    /// Consumers that the store knows, present in the directory or not.
    fn known(&self) -> impl Future<Output = backend::Result<Vec<ConsumerName>>> + Send;
}
