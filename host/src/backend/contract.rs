//! What every backend must pass: the promises of the ports, as functions over the ports alone.

mod backfills;
mod dead_letters;
mod deliveries;
mod hearing;
mod intake;
mod pausing;
mod pressure;
mod rebuilds;
mod retention;
mod room;
mod timeline;
mod versions;

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Delivery, Finished, Inbox, InboxPolicy, Placed, Placement, Ran, Settlement};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::{KindPattern, Subscriptions};
use crate::order::{Content, Customer, Line, Order};
use crate::policy::{ConsumerName, OnDead, Start};

/// A place where a backend lives, so that it can be closed and opened again.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Backend {
        super::embedded::open(&super::embedded::Settings { data_dir: self.directory.path().to_owned() }).unwrap()
    }

    /// How many rows a table has.
    fn rows(&self, table: &str) -> u64 {
        super::embedded::rows_of(&self.directory.path().join(super::embedded::FILE), table)
    }

    async fn reopen(&self, backend: Backend) -> Backend {
        backend.lifecycle.close().await;
        drop(backend);
        self.open()
    }
}

fn content(reference: Option<&str>, quantity: u32) -> Content {
    Content {
        reference: reference.map(str::to_owned),
        currency: "EUR".into(),
        customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
        lines: vec![Line { sku: "A".into(), title: None, quantity, unit_amount: 100, discount_amount: 0 }],
        total_amount: 100 * i64::from(quantity),
        shipping_address: None,
        metadata: std::collections::BTreeMap::default(),
    }
}

fn placement(reference: Option<&str>, key: Option<&str>, quantity: u32) -> Placement {
    let order = Order::place(Arc::new(content(reference, quantity)), Timestamp::now());
    let mut fingerprint = [0; 32];
    fingerprint[0] = u8::try_from(quantity).unwrap();
    Placement { order, fingerprint, idempotency_key: key.map(str::to_owned) }
}

async fn place(backend: &Backend) -> Order {
    match backend.intake.place(placement(None, None, 1)).await.unwrap().into_inner() {
        Placed::New(order) => order,
        other => panic!("{other:?}"),
    }
}

fn name(name: &str) -> ConsumerName {
    name.parse().unwrap()
}

fn hears(kinds: &[&str]) -> Subscriptions {
    kinds.iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect()
}

fn policy() -> InboxPolicy {
    InboxPolicy {
        subscriptions: hears(&["order.*"]),
        concurrency: 8,
        rate: None,
        on_dead: OnDead::Park,
        state_bytes_max: 1 << 30,
    }
}

async fn inbox(backend: &Backend, consumer: &str) -> Arc<dyn Inbox> {
    let inbox = backend.consumers.attach(&name(consumer), Start::Beginning).await.unwrap();
    inbox.configure(policy());
    inbox
}

fn ran() -> Ran {
    Ran { version: "1.0.0 (test)".into(), duration: Duration::from_micros(10), calls: Vec::new() }
}

fn done(effects: Effects) -> Settlement {
    Settlement::Done { effects, ran: ran() }
}

#[track_caller]
fn accept(inbox: &Arc<dyn Inbox>, delivery: Delivery, settlement: Settlement) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
        assert!(matches!(finished, Finished::Accepted), "{caller}: {finished:?}");
    }
}

/// Waits for the next lease, at most a few seconds.
async fn lease(inbox: &Arc<dyn Inbox>) -> Delivery {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(delivery) = inbox.lease() {
            return delivery;
        }
        tokio::time::timeout_at(deadline, inbox.changed()).await.expect("nothing to lease for 5 s");
    }
}

/// Waits until everything that was finished is durable and nothing is left to do.
async fn settled(backend: &Backend, consumer: &str) -> super::ConsumerReport {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let report = report(backend, consumer).await;
        if report.pending == report.dead || std::time::Instant::now() > deadline {
            return report;
        }
        tokio::task::yield_now().await;
    }
}

async fn report(backend: &Backend, consumer: &str) -> super::ConsumerReport {
    let known = backend.consumers.known().await.unwrap();
    known.into_iter().find(|report| report.name == name(consumer)).unwrap()
}
