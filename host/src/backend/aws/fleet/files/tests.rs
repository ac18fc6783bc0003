//! Against emulators: hosts that keep a file while others let go of it, and hosts that die over either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use super::*;
use crate::backend::aws::fixture::{alpha, settings};
use crate::backend::aws::seat::Seat;
use crate::backend::aws::store::Store;
use crate::backend::aws::{Aws, Clients, hosts, resources, versions};
use crate::backend::{PluginFile, Turn, TurnOutcome, Versions as _};
use crate::policy::ConsumerName;

const PATIENCE: Duration = Duration::from_secs(60);

/// More than one piece.
fn file(content: u8) -> Binary {
    Binary::from(vec![content; PIECE_BYTES_MAX + 1])
}

async fn shop() -> Aws {
    let settings = settings();
    let clients = Clients::connect(&settings).await.unwrap();
    let shared = resources::ensure(&clients, &settings).await.unwrap();
    let table = Table::new(clients.dynamodb.clone(), shared.table.clone());
    let slot = hosts::claim(&table, hosts::Stay::Kept).await.unwrap();
    Aws { store: Arc::new(Store::new(clients, settings, shared, Seat::Kept(slot))) }
}

/// Goes on with something until it has waited so often, as a host does that stands still then, or dies. What it ends with, if it
/// came to its end.
async fn until<T>(waits: usize, run: &mut Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    let mut waited = 0;
    std::future::poll_fn(|context| {
        if waited == waits {
            return Poll::Ready(None);
        }
        waited += 1;
        run.as_mut().poll(context).map(Some)
    })
    .await
}

async fn let_it_go(table: &Table, hash: &Hash) -> Result<()> {
    match let_go(table, hash).await? {
        Some(going) => going.end(table).await,
        None => Ok(()),
    }
}

/// Either it is there, as it was, or nobody takes it for there.
async fn is_there(table: &Table, file: &Binary) -> bool {
    let (has, read) = (has(table, file.hash()).await.unwrap(), read(table, file.hash()).await.unwrap());
    assert_eq!(has, read.is_some(), "it is there and cannot be read");
    assert!(read.is_none_or(|read| *read == **file));
    has
}

#[tokio::test]
async fn a_file_that_is_kept_while_another_host_lets_go_of_it_is_whole() {
    let shop = shop().await;
    let table = &shop.store.table;
    let file = file(1);
    for waits in 0.. {
        keep(table, &file).await.unwrap();
        let mut going = Box::pin(let_it_go(table, file.hash()));
        let is_over = until(waits, &mut going).await.is_some();
        keep(table, &file).await.unwrap();
        if !is_over {
            going.await.unwrap();
        }
        if !is_there(table, &file).await {
            // Nobody had begun to let go of it when it was kept.
            keep(table, &file).await.unwrap();
            assert!(is_there(table, &file).await, "stood still after {waits}");
        }
        if is_over {
            assert!(waits > 4, "it stood still at many places");
            return;
        }
    }
}

#[tokio::test]
async fn a_file_that_another_host_lets_go_of_while_it_is_written_is_written_anew() {
    let shop = shop().await;
    let table = &shop.store.table;
    let file = file(2);
    for waits in 0.. {
        let mut kept = Box::pin(keep(table, &file));
        let is_over = until(waits, &mut kept).await.is_some();
        let was_whole = has(table, file.hash()).await.unwrap();
        let_it_go(table, file.hash()).await.unwrap();
        if is_over {
            assert!(!is_there(table, &file).await && waits > 4, "it stood still at many places");
            return;
        }
        kept.await.unwrap();
        assert!(is_there(table, &file).await || was_whole, "stood still after {waits}");
        let_it_go(table, file.hash()).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_host_left_that_died_over_a_file_goes_whole_later() {
    let shop = shop().await;
    let table = &shop.store.table;
    let file = file(3);
    let (mut waits, mut keeps) = (0, true);
    loop {
        let is_over = match keeps {
            true => until(waits, &mut Box::pin(keep(table, &file))).await.is_some(),
            false => {
                keep(table, &file).await.unwrap();
                until(waits, &mut Box::pin(let_it_go(table, file.hash()))).await.is_some()
            }
        };
        let is_gone = async {
            // The request that it died over may come late.
            while table.get(&file_key(file.hash())).await.unwrap().is_some() {
                let long_ago = Timestamp::now().minus(LEFT_AFTER * 2).as_millis();
                let aged = Change::of("SET t = :ago").only_if("attribute_exists(pk)").value(":ago", number(long_ago));
                table.update(&file_key(file.hash()), aged).await.unwrap();
                assert_eq!(left(table, &[*file.hash()].into()).await.unwrap(), [], "it is kept");
                versions::sweep_files(Arc::clone(&shop.store)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, is_gone).await.is_ok(), "keeps: {keeps}, died after {waits}");
        assert!(pieces(table, file.hash()).await.unwrap().is_empty(), "keeps: {keeps}, died after {waits}");
        waits += 1;
        if is_over {
            assert!(waits > 4, "it died at many places");
            if !keeps {
                return;
            }
            (waits, keeps) = (0, false);
        }
    }
}

#[tokio::test]
async fn a_file_that_one_consumer_lets_go_of_while_another_takes_it_up_stays() {
    let shop = shop().await;
    let table = &shop.store.table;
    let beta = "beta".parse().unwrap();
    let live = async |name: &ConsumerName, file: &Binary| {
        let plugin = PluginFile { hash: Some(*file.hash()), path: "a.wasm".into(), ..PluginFile::default() };
        let turn = Turn { outcome: TurnOutcome::Live, reason: None, file: plugin, live: Some(*file.hash()) };
        drop(shop.record(name, turn, 1).await.unwrap());
    };
    let (shared, other) = (file(4), file(5));
    for waits in 0.. {
        keep(table, &shared).await.unwrap();
        live(&alpha(), &shared).await;
        live(&beta, &other).await;
        let alpha = alpha();
        let mut away = Box::pin(live(&alpha, &other));
        let is_over = until(waits, &mut away).await.is_some();
        // As a host takes a version up.
        keep(table, &shared).await.unwrap();
        live(&beta, &shared).await;
        keep(table, &shared).await.unwrap();
        if !is_over {
            away.await;
        }
        assert!(is_there(table, &shared).await, "stood still after {waits}");
        if is_over {
            assert!(waits > 4, "it stood still at many places");
            return;
        }
    }
}
