//! What the tests of this backend begin with.

use super::clients::Clients;
use super::resources;
use super::settings::Settings;
use super::table::Table;
use crate::backend::contract::{self, hears, name};
use crate::backend::{Backend, Backfill, BackfillEffects, BackfillReport, Backfilled, InboxPolicy, Since, Started};
use crate::policy::ConsumerName;

/// A store that nobody else uses, at the emulators.
pub fn settings() -> Settings {
    let prefix = format!("t-{}", uuid::Uuid::now_v7().simple()).parse().unwrap();
    Settings { prefix, provision: true, ..Settings::default() }
}

/// How many entries and counters there are, in whatever generations.
pub async fn state_items(settings: &Settings) -> (u64, u64) {
    let clients = Clients::connect(settings).await.unwrap();
    let shared = resources::ensure(&clients, settings).await.unwrap();
    let table = Table::new(clients.dynamodb.clone(), shared.table);
    (table.count_all("s#", "#k").await.unwrap(), table.count_all("s#", "#n").await.unwrap())
}

pub fn alpha() -> ConsumerName {
    name("alpha")
}

/// Hears custom events and orders.
pub fn policy() -> InboxPolicy {
    InboxPolicy { subscriptions: hears(&["com.*", "order.*"]), ..contract::policy() }
}

/// Begins a backfill of all there is.
pub async fn begin(backend: &Backend, of: Backfilled) -> BackfillReport {
    let (rate, effects) = match of {
        Backfilled::Rebuild => ("1000/s", BackfillEffects::StateOnly),
        _ => ("1/s", BackfillEffects::All),
    };
    let asked = Backfill { from: Since::Beginning, filter: None, rate: rate.parse().unwrap(), effects, of };
    let started = backend.backfills.start(&alpha(), asked).await.unwrap().into_inner();
    let Started::Yes(report) = started else { panic!("{started:?}") };
    report
}
