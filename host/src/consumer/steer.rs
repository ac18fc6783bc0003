//! What a person decides about the version that runs: taken up by the loop of the directory, one step at a time per consumer.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::backend;
use crate::policy::ConsumerName;
use crate::version::HashPrefix;

/// Steps that wait for their consumer; whoever asks for more waits with them.
pub const ASKED_MAX: usize = 64;

/// One step that a person asked for.
#[derive(Clone, Debug)]
pub enum Step {
    /// Back to a version that ran before; `None` is the one before this one. Only from the version `from`, where that is given:
    /// the one that is tried, or else the one that runs.
    RollBack { to: Option<HashPrefix>, from: Option<HashPrefix>, reason: Option<String> },
    /// The file that was rolled back is taken up after all.
    Promote { reason: Option<String> },
}

/// Why a step was not taken. Nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    UnknownVersion(String),
    /// The consumer or the version stands against it.
    #[error("{0}")]
    Impossible(String),
    #[error(transparent)]
    Store(#[from] backend::Error),
}

/// Where the API hands steps in.
#[async_trait]
pub trait Steering: Send + Sync {
    /// Takes the step: durable, and in force for every delivery that starts afterwards, when this returns.
    async fn step(&self, name: &ConsumerName, step: Step) -> Result<(), Refusal>;
}

pub struct Ask {
    pub name: ConsumerName,
    pub step: Step,
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}

/// The way into the loop of the directory.
#[derive(Clone)]
pub struct Handle(pub mpsc::Sender<Ask>);

#[async_trait]
impl Steering for Handle {
    async fn step(&self, name: &ConsumerName, step: Step) -> Result<(), Refusal> {
        let stopping = || Refusal::Store(backend::Error::Unavailable("the host is shutting down".into()));
        let (reply, answer) = oneshot::channel();
        self.0.send(Ask { name: name.clone(), step, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}
