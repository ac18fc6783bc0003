//! The real thing behind the directory: the sandbox loads, the store keeps positions, the engine delivers.

use std::sync::Arc;

use super::runtime::{Back, Candidate, Live, LoadError, Loader, Runtime, Shadow};
use crate::backend::{self, Consumers, LaidOut, Layouts};
use crate::delivery::{self, Engine, Worker};
use crate::policy::{ConsumerName, Policy, Start};
use crate::sandbox::{self, Description, Plugin, Sandbox, Usage, Version};
use crate::version::Binary;

pub struct Host {
    pub sandbox: Sandbox,
    pub consumers: Arc<dyn Consumers>,
    pub layouts: Arc<dyn Layouts>,
    pub engine: Engine,
}

impl From<sandbox::LoadError> for LoadError {
    fn from(error: sandbox::LoadError) -> Self {
        match error {
            sandbox::LoadError::Host(_) => Self::Host(error.to_string()),
            file => Self::File(file.to_string()),
        }
    }
}

impl Loader for Sandbox {
    type Plugin = Plugin;
    type Version = Version;

    async fn load(&self, binary: Binary) -> Result<Arc<Plugin>, LoadError> {
        Ok(Self::load(self, binary).await?)
    }

    fn description<'p>(&self, plugin: &'p Plugin) -> &'p Description {
        plugin.description()
    }

    fn link(&self, plugin: &Arc<Plugin>, name: &ConsumerName, policy: &Policy) -> Result<Arc<Version>, LoadError> {
        plugin.link(name, policy).map_err(|error| LoadError::File(error.to_string()))
    }
}

impl Loader for Host {
    type Plugin = Plugin;
    type Version = Version;

    async fn load(&self, binary: Binary) -> Result<Arc<Plugin>, LoadError> {
        Loader::load(&self.sandbox, binary).await
    }

    fn description<'p>(&self, plugin: &'p Plugin) -> &'p Description {
        plugin.description()
    }

    fn link(&self, plugin: &Arc<Plugin>, name: &ConsumerName, policy: &Policy) -> Result<Arc<Version>, LoadError> {
        self.sandbox.link(plugin, name, policy)
    }
}

impl Runtime for Host {
    type Worker = Worker;

    async fn start(&self, name: &ConsumerName, live: Live<Version>, last_word: bool) -> backend::Result<Worker> {
        let inbox = self.consumers.attach(name, live.policy.start).await?;
        self.laid_out(name, &live, last_word).await?;
        Ok(self.engine.start(name.clone(), inbox, live.into()))
    }

    async fn lay_out(&self, name: &ConsumerName, live: &Live<Version>) -> backend::Result<()> {
        self.consumers.introduce(name, live.policy.start).await?;
        self.laid_out(name, live, true).await
    }

    async fn introduce(&self, name: &ConsumerName, start: Start) -> backend::Result<()> {
        self.consumers.introduce(name, start).await
    }

    fn swap(&self, worker: &Worker, live: Live<Version>) {
        worker.swap(live.into());
    }

    async fn stop(&self, worker: Worker) {
        worker.stop().await;
    }

    fn usage(&self, name: &ConsumerName) -> Option<Usage> {
        self.sandbox.usage(name)
    }

    async fn known(&self) -> backend::Result<Vec<ConsumerName>> {
        let known = self.consumers.known().await?;
        Ok(known.into_iter().map(|report| report.name).collect())
    }
}

impl Host {
    async fn laid_out(&self, name: &ConsumerName, live: &Live<Version>, last_word: bool) -> backend::Result<()> {
        let laid_out = self.layouts.lay_out(name, live.layout, live.policy.keep_state_bytes, last_word).await?;
        tell(name, live.layout, &laid_out);
        Ok(())
    }
}

/// What became of a state that a version with another layout took over.
fn tell(consumer: &ConsumerName, layout: u32, laid_out: &LaidOut) {
    match laid_out {
        LaidOut::AsBefore => {}
        LaidOut::Kept(kept) => tracing::info!(
            %consumer, layout, before = kept.layout, bytes = kept.bytes,
            "a version with another layout takes over the state; what it was before is kept to go back to"
        ),
        LaidOut::NotKept(why) => tracing::warn!(
            %consumer, layout, why, "a version with another layout takes over the state; what it was before is not kept"
        ),
        LaidOut::Elsewhere(theirs) => tracing::warn!(
            %consumer, layout, theirs,
            "the version of another host has taken over the state with another layout; nothing is handled here beside it"
        ),
    }
}

impl From<Live<Version>> for delivery::Live {
    fn from(live: Live<Version>) -> Self {
        let Live { version, policy, subscriptions, layout, candidate, shadow, back } = live;
        let shadow = shadow.map(|Shadow { version, subscriptions, ledger }| delivery::shadow::Shadow {
            version,
            subscriptions,
            ledger,
        });
        let candidate = candidate.map(|Candidate { version, subscriptions, trial }| delivery::Candidate {
            version,
            subscriptions,
            trial,
        });
        let back = back.map(|Back { version, hash, subscriptions }| delivery::Back { version, hash, subscriptions });
        Self { version, policy, subscriptions, layout, candidate, shadow, back }
    }
}
