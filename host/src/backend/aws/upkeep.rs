//! What a store does for itself, and what AWS does for it.
//!
//! Idempotency keys, attempts, messages and records carry the time when DynamoDB may delete them. Events and orders hang
//! together and on what consumers still have to do, so hosts let go of them (`sweep`).

mod lanes;
mod needs;
mod sweep;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Aws;
use crate::backend::{
    Backfill, BackfillReport, BackfillStep, Backfills, CheckPlace, Checked, Copied, Durable, Error, Result, Retention,
    Snapshot, Started, Steered, Upkeep,
};
use crate::policy::ConsumerName;

pub use self::sweep::{held, run};

#[async_trait]
impl Upkeep for Aws {
    fn retain(&self, retention: Retention) {
        *self.store.retention.lock() = retention;
        self.store.retained.notify_one();
    }

    async fn backup(&self, _told: watch::Sender<Copied>) -> Result<Snapshot> {
        Err(Error::Unavailable(
            "on AWS, DynamoDB makes the copies: use its point-in-time recovery or its backups".into(),
        ))
    }

    async fn check(&self, _place: CheckPlace) -> Result<Checked> {
        Err(Error::Unavailable("on AWS there is no check yet: `fanfare check` looks through an embedded store".into()))
    }
}

fn none_yet() -> Error {
    Error::Unavailable(
        "on AWS there are no backfills yet: a new consumer begins in the past with `start` in its side file".into(),
    )
}

#[async_trait]
impl Backfills for Aws {
    async fn count(&self, _name: &ConsumerName, _asked: &Backfill) -> Result<Option<u64>> {
        Err(none_yet())
    }

    async fn start(&self, _name: &ConsumerName, _asked: Backfill) -> Result<Durable<Started>> {
        Err(none_yet())
    }

    async fn latest(&self, _name: &ConsumerName) -> Result<Option<BackfillReport>> {
        Ok(None)
    }

    async fn steer(&self, _name: &ConsumerName, _step: BackfillStep) -> Result<Durable<Steered>> {
        Ok(Durable::assert(Steered::None))
    }
}
