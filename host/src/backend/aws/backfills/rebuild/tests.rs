//! Against emulators: what a rebuild leaves in the table, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::aws::fixture::{alpha, begin, policy, settings};
use crate::backend::aws::item::{Item, Key, counters_partition, entries_partition, number, rebuilds_partition};
use crate::backend::aws::table::{Change, Span, Table};
use crate::backend::aws::{Clients, open, resources};
use crate::backend::contract::{custom, done, publish};
use crate::backend::{Backend, BackfillState, Backfilled, Inbox, StateQuery};
use crate::effects::{Adjustment, Effects, Reads};
use crate::event::Custom;
use crate::policy::Start;

const PATIENCE: Duration = Duration::from_secs(120);

async fn done_all(inbox: &Arc<dyn Inbox>) {
    while let Some(delivery) = inbox.lease() {
        let effects = Effects {
            entries: vec![("entry".into(), Some(b"value".as_slice().into()))],
            adjustments: vec![Adjustment { key: "count".into(), by: 1, floor: None }],
            ..Effects::default()
        };
        drop(inbox.finish(delivery, &Reads::default(), done(effects)).await);
    }
}

/// Does what there is to do until something holds.
async fn until(inbox: &Arc<dyn Inbox>, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let work = async {
        while !holds().await {
            done_all(inbox).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, work).await.is_ok(), "{what}");
}

async fn count(backend: &Backend) -> i64 {
    let state = backend.consumers.state(&alpha(), StateQuery { limit: 10, ..StateQuery::default() }).await.unwrap();
    state.counters.first().map_or(0, |(_, count)| *count)
}

async fn items(table: &Table, partition: String) -> Vec<Item> {
    let (from, to) = ("\u{1}".to_owned(), "\u{10ffff}".to_owned());
    table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_past_goes_with_what_its_rebuild_left() {
    let settings = settings();
    let backend = open(&settings).await.unwrap();
    let inbox = backend.consumers.attach(&alpha(), Start::Now).await.unwrap();
    inbox.configure(policy());
    for subject in ["tea", "salt"] {
        publish(&backend, subject).await;
    }
    until(&inbox, "both are done", async || count(&backend).await == 2).await;
    let clients = Clients::connect(&settings).await.unwrap();
    let shared = resources::ensure(&clients, &settings).await.unwrap();
    let table = Table::new(clients.dynamodb.clone(), shared.table.clone());
    assert_eq!(items(&table, entries_partition(&alpha(), 0)).await.len(), 1);

    assert_eq!(begin(&backend, Backfilled::Rebuild).await.events, 2);
    assert_eq!(items(&table, rebuilds_partition(&alpha())).await.len(), 1, "a gate for the host");
    let is_done = async || backend.backfills.latest(&alpha()).await.unwrap().unwrap().state == BackfillState::Done;
    until(&inbox, "it is handed over", is_done).await;
    let is_cleared = async || {
        let consumer = table.get(&Key::consumer(&alpha())).await.unwrap().unwrap();
        let mut left = items(&table, rebuilds_partition(&alpha())).await;
        left.extend(items(&table, entries_partition(&alpha(), 0)).await);
        left.extend(items(&table, counters_partition(&alpha(), 0)).await);
        left.is_empty() && consumer.number_or_none::<i64>("sb0").unwrap().is_none()
    };
    until(&inbox, "nothing is left of it", is_cleared).await;
    assert_eq!(count(&backend).await, 2, "the one in use stays");
    drop(inbox);
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_says_that_live_deliveries_lag_behind() {
    let backend = open(&settings()).await.unwrap();
    let inbox = backend.consumers.attach(&alpha(), Start::Now).await.unwrap();
    inbox.configure(policy());
    publish(&backend, "tea").await;
    until(&inbox, "it is done", async || count(&backend).await == 1).await;
    // More than may be left when it is handed over, behind one that takes long.
    for part in 0..6 {
        let named = |number| Custom { origin_id: Some(format!("{part}-{number}").into()), ..custom("slow") };
        drop(backend.intake.publish((0..100).map(named).collect()).await.unwrap());
    }
    assert!(!begin(&backend, Backfilled::Rebuild).await.lags);
    let report = async || backend.backfills.latest(&alpha()).await.unwrap().unwrap();
    let (mut held, begun) = (Vec::new(), std::time::Instant::now());
    while !report().await.lags {
        assert!(begun.elapsed() < PATIENCE, "{:?}", report().await);
        while let Some(delivery) = inbox.lease() {
            match delivery.event.lane().to_string() == "slow" {
                true => held.push(delivery),
                false => drop(inbox.finish(delivery, &Reads::default(), done(Effects::default())).await),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for delivery in held {
        drop(inbox.finish(delivery, &Reads::default(), done(Effects::default())).await);
    }
    until(&inbox, "it is handed over", async || report().await.state == BackfillState::Done).await;
    assert!(!report().await.lags);
    drop(inbox);
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_not_handed_over_while_a_host_may_write_to_the_one_before() {
    let settings = settings();
    let (backend, other) = (open(&settings).await.unwrap(), open(&settings).await.unwrap());
    let inbox = backend.consumers.attach(&alpha(), Start::Now).await.unwrap();
    inbox.configure(policy());
    publish(&backend, "tea").await;
    until(&inbox, "it is done", async || count(&backend).await == 1).await;
    let clients = Clients::connect(&settings).await.unwrap();
    let shared = resources::ensure(&clients, &settings).await.unwrap();
    let table = Table::new(clients.dynamodb.clone(), shared.table.clone());
    assert_eq!(begin(&backend, Backfilled::Rebuild).await.events, 1);
    let gates: Vec<Key> =
        items(&table, rebuilds_partition(&alpha())).await.iter().map(|it| it.key().unwrap()).collect();
    assert_eq!(gates.len(), 2, "one for each host");
    for gate in &gates {
        let opened = Change::of("SET op = :open").value(":open", number(1));
        table.update(gate, opened).await.unwrap().unwrap();
    }
    // The host shuts its own, and the other one, which does not have the consumer, leaves what it has alone.
    let state = async || backend.backfills.latest(&alpha()).await.unwrap().unwrap().state;
    let is_tried = async || {
        table.get(&Key::consumer(&alpha())).await.unwrap().unwrap().number_or_none::<u64>("nru").unwrap().is_some()
    };
    let mut tried = false;
    let is_over = async || {
        let tries = is_tried().await;
        tried |= tries;
        (tried && !tries) || state().await == BackfillState::Done
    };
    until(&inbox, "a try to hand over ends", is_over).await;
    assert_eq!(state().await, BackfillState::Running);
    for gate in &gates {
        let shut = Change::of("REMOVE op").only_if("attribute_exists(pk)");
        table.update(gate, shut).await.unwrap();
    }
    until(&inbox, "it is handed over", async || state().await == BackfillState::Done).await;
    assert_eq!(count(&backend).await, 1);
    drop(inbox);
    backend.lifecycle.close().await;
    other.lifecycle.close().await;
}
