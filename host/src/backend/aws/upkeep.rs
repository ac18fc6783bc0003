//! What a store does for itself, and what AWS does for it.
//!
//! Idempotency keys, attempts, messages and records carry the time when DynamoDB may delete them. Events and orders hang
//! together and on what consumers still have to do, so hosts let go of them (`sweep`).

mod lanes;
mod needs;
mod sweep;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Aws, check};
use crate::backend::{
    Backfill, BackfillReport, BackfillStep, Backfills, CheckPlace, CheckStep, Copied, Durable, Error, Result,
    Retention, Snapshot, Started, Steered, Upkeep,
};
use crate::policy::{ConsumerName, Rate};

pub use self::sweep::{gone_through, held, run};

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

    async fn check(&self, place: CheckPlace) -> Result<CheckStep> {
        check::step(&self.store, place).await
    }

    fn check_rate(&self) -> Option<Rate> {
        NonZeroU32::new(check::ROWS_PER_SECOND).map(|per_second| Rate { per_second })
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
