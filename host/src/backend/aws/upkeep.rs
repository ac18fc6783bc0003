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
use crate::backend::{CheckPlace, CheckStep, Copied, Error, Result, Retention, Snapshot, Upkeep};
use crate::policy::Rate;

pub use self::sweep::{gone_through, held, round, run};

#[async_trait]
impl Upkeep for Aws {
    fn retain(&self, retention: Retention) {
        *self.store.retention.lock() = retention;
        self.store.retained.notify_one();
    }

    async fn backup(&self, _told: watch::Sender<Copied>) -> Result<Snapshot> {
        Err(Error::NotHere("on AWS, DynamoDB makes the copies: use its point-in-time recovery or its backups".into()))
    }

    async fn check(&self, place: CheckPlace) -> Result<CheckStep> {
        check::step(&self.store, place).await
    }

    fn check_rate(&self) -> Option<Rate> {
        NonZeroU32::new(check::ROWS_PER_SECOND).map(|per_second| Rate { per_second })
    }
}
