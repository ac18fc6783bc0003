//! The ports: what the rest of the host asks of a store, and what an implementation must and must not do.
//!
//! A backend is one value that implements every port here. All of them speak of orders, events, deliveries
//! and effects; SQL, SQS and DynamoDB stop inside the adapters. Every adapter passes the same contract suite.
//!
//! **Invariants that every adapter keeps**
//! - What is returned as [`Durable`] survives a power cut.
//! - [`Inbox::finish`] commits a handler's effects together with the acknowledgement, or neither.
//! - Deliveries of one [`Lane`](crate::event::Lane) to one consumer are leased one after another, in journal order.
//! - A delivery is leased by at most one holder at a time.

pub mod aws;
mod backfills;
pub mod cause;
mod consumers;
#[cfg(test)]
mod contract;
mod damaged;
mod dead_letters;
pub mod embedded;
mod fleet;
mod inbox;
mod intake;
mod journal;
mod layouts;
mod outgoing;
mod pace;
mod past;
mod recent;
mod timeline;
mod upkeep;
mod versions;

use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::backfills::*;
pub use self::consumers::*;
pub use self::dead_letters::*;
pub use self::fleet::*;
pub use self::inbox::*;
pub use self::intake::*;
pub use self::journal::*;
pub use self::layouts::*;
pub use self::outgoing::*;
pub use self::past::*;
pub use self::timeline::*;
pub use self::upkeep::*;
pub use self::versions::*;

/// Proof that a value is on disk: only a backend's commit makes one, and only from one can a 201 be built.
#[derive(Clone, Debug)]
#[must_use]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// For adapters, after their commit.
    pub(in crate::backend) fn assert(value: T) -> Self {
        Self(value)
    }

    /// For tests of what follows from a commit.
    #[cfg(test)]
    pub(crate) fn asserted(value: T) -> Self {
        Self(value)
    }

    pub fn into_inner(self) -> T {
        self.0
    }

    /// What follows from a durable value is as durable.
    pub fn map<U>(self, follow: impl FnOnce(T) -> U) -> Durable<U> {
        Durable(follow(self.0))
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What went wrong in the store. Nothing of the request was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store does not accept now (full disk, overload, recovering); the same request may succeed later.
    #[error("the store does not accept right now: {0}")]
    Unavailable(Arc<str>),
    /// The store answered what it never should; a person must look.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// This store does not do that, whoever asks and however often.
    #[error("{0}")]
    NotHere(Arc<str>),
    /// What was handed in as `after` came from no page of this list: the caller's doing.
    #[error("{0:?} is not a cursor: hand in `next` of the page before, as it was")]
    NotACursor(Arc<str>),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The end of a store.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    /// Returns only when the store has failed for good; the host must stop then.
    async fn failed(&self) -> Error;

    /// Takes nothing more, commits what waits, and ends. The inboxes must be drained before.
    async fn close(&self);
}

/// Everything a backend is.
#[derive(Clone)]
pub struct Backend {
    pub intake: Arc<dyn Intake>,
    pub journal: Arc<dyn Journal>,
    pub timelines: Arc<dyn Timelines>,
    pub consumers: Arc<dyn Consumers>,
    pub dead_letters: Arc<dyn DeadLetters>,
    pub backfills: Arc<dyn Backfills>,
    pub outgoing: Arc<dyn Outgoing>,
    pub lifecycle: Arc<dyn Lifecycle>,
    pub upkeep: Arc<dyn Upkeep>,
    pub versions: Arc<dyn Versions>,
    pub layouts: Arc<dyn Layouts>,
    pub fleet: Arc<dyn Fleet>,
}
