//! The store on AWS, for as many hosts as it takes: a DynamoDB table, an SNS topic, and an SQS queue for each consumer.
//!
//! ```text
//!  api ───► Intake ──► lane's log (DynamoDB) ──► publisher ──► SNS ──► SQS ──► Inbox ──► lease
//!                             ▲                                                            │
//!                             └──────────── one transaction ◄──────────────────── finish ◄─┘
//! ```
//!
//! **A lane is a log without gaps; SNS and SQS are the hint that it grew.** Events of one order, or one subject, are numbered
//! items, each written under the condition that it is the next. A consumer's place in a lane is one item, written under the
//! condition that it has not moved. So what SNS and SQS repeat, lose or turn around is made good from the table, and FIFO
//! makes that rare.
//!
//! **Invariants**
//! - AWS types are named in this folder alone.
//! - A message is deleted, or an event called published, only when the table says all that it said.
//! - Every write of a delivery's end is in one transaction with the consumer's place.

mod backfills;
mod catch_up;
mod check;
pub mod clients;
mod clock;
mod consumers;
mod dead_letters;
mod due;
#[cfg(test)]
mod fixture;
mod fleet;
mod gather;
mod hosts;
mod inbox;
mod intake;
pub mod invoked;
mod item;
mod journal;
mod lane;
mod layouts;
mod outgoing;
mod place;
mod publisher;
mod records;
mod repeats;
pub mod resources;
mod seat;
pub mod settings;
mod settle;
mod store;
mod table;
mod timeline;
mod upkeep;
mod versions;
mod weight;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};

pub use self::clients::Clients;
#[cfg(test)]
pub use self::fixture::state_items;
use self::invoked::Invoked;
use self::publisher::Publisher;
use self::seat::Seat;
use self::store::Store;
use super::{Backend, Error, Lifecycle, Result};

pub use self::settings::{Endpoints, NotAPrefix, Prefix, Settings, TopicKind};

/// How long tasks may take to end.
const END_MAX: Duration = Duration::from_secs(30);

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Connect(#[from] clients::OpenError),
    #[error(transparent)]
    Resources(#[from] resources::Error),
    #[error("{0}")]
    Slot(Error),
}

/// Opens the store of `settings.prefix`, making what is not there where `settings.provision` says so.
///
/// # Errors
/// [`OpenError`] where AWS cannot be reached or used, or where something is missing.
pub async fn open(settings: &Settings) -> Result<Backend, OpenError> {
    host(settings).await.map(backend)
}

/// The store of a host that runs all the time.
async fn host(settings: &Settings) -> Result<Arc<Store>, OpenError> {
    let store =
        Box::pin(store(settings, async |table| hosts::claim(table, hosts::Stay::Kept).await.map(Seat::Kept))).await?;
    store.tasks.spawn(hosts::run(Arc::clone(&store)));
    store.tasks.spawn(Arc::clone(&store).follow());
    store.tasks.spawn(settle::intent::sweep(Arc::clone(&store)));
    store.tasks.spawn(upkeep::run(Arc::clone(&store)));
    store.tasks.spawn(versions::sweep_files(Arc::clone(&store)));
    Ok(store)
}

/// Opens the store for a host that AWS Lambda invokes: it does nothing by itself between two invocations, and what it is to do
/// in one is asked of [`Invoked`].
///
/// # Errors
/// [`OpenError`] where AWS cannot be reached or used, or where something is missing.
pub async fn open_invoked(settings: &Settings) -> Result<(Backend, Invoked), OpenError> {
    let store = Box::pin(store(settings, async |_| Ok(Seat::lent()))).await?;
    let invoked = Invoked::new(Arc::clone(&store));
    Ok((backend(store), invoked))
}

async fn store(
    settings: &Settings,
    seat: impl AsyncFnOnce(&table::Table) -> Result<Seat>,
) -> Result<Arc<Store>, OpenError> {
    let clients = Clients::connect(settings).await?;
    let shared = resources::ensure(&clients, settings).await?;
    let table = table::Table::new(clients.dynamodb.clone(), shared.table.clone());
    let seat = seat(&table).await.map_err(OpenError::Slot)?;
    let store = Arc::new(Store::new(clients, settings.clone(), shared, seat));
    store.tasks.spawn(Publisher::run(Arc::clone(&store)));
    Ok(store)
}

fn backend(store: Arc<Store>) -> Backend {
    let aws = Arc::new(Aws { store });
    Backend {
        intake: Arc::clone(&aws) as _,
        journal: Arc::clone(&aws) as _,
        timelines: Arc::clone(&aws) as _,
        consumers: Arc::clone(&aws) as _,
        dead_letters: Arc::clone(&aws) as _,
        backfills: Arc::clone(&aws) as _,
        outgoing: Arc::clone(&aws) as _,
        upkeep: Arc::clone(&aws) as _,
        versions: Arc::clone(&aws) as _,
        fleet: Arc::clone(&aws) as _,
        layouts: Arc::clone(&aws) as _,
        lifecycle: aws,
    }
}

/// The adapter: every port, on one [`Store`].
struct Aws {
    store: Arc<Store>,
}

#[async_trait]
impl Lifecycle for Aws {
    async fn failed(&self) -> Error {
        let mut failed = self.store.failed.subscribe();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        Error::Failed(why.unwrap_or_else(|| "the store is gone".into()))
    }

    async fn close(&self) {
        for inbox in self.store.inboxes() {
            inbox.close().await;
        }
        if let Err(error) = self.store.leave_layouts().await {
            tracing::debug!(%error, "a take-over waits until nothing of this host can be on its way");
        }
        outgoing::give_back(&self.store).await;
        // The publisher runs until what it has is out.
        match self.store.seat.kept() {
            Some(slot) => hosts::leave(&self.store, slot).await,
            None => seat::leave(&self.store, Instant::now() + END_MAX).await,
        }
        self.store.count_done().await;
        self.store.stopping.cancel();
        self.store.tasks.close();
        if timeout(END_MAX, self.store.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of the store did not end in order");
        }
    }
}
