//! Against emulators: what a host does within one invocation.

use super::*;
use crate::backend::aws::inbox::shop;
use crate::backend::aws::item::Key;
use crate::backend::aws::journal::POSITION_MAX;
use crate::backend::contract::publish;
use crate::backend::{Keep, Retention};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_cut_off_at_the_end_of_an_invocation_and_have_all_the_time_of_the_next_one() {
    let (backend, store) = shop().await;
    let invoked = Invoked::new(Arc::clone(&store));
    for _ in 0..2 {
        invoked.wake().await.unwrap();
        assert!(!store.table.hurries());
        publish(&backend, "tea").await;
        invoked.rest(Instant::now() + PATIENCE).await;
        assert!(store.table.hurries(), "one may be on its way while the process stands still");
    }
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_goes_where_only_functions_are_there() {
    let (backend, store) = shop().await;
    let soon = Keep::For(Duration::from_millis(1));
    backend.upkeep.retain(Retention { events: soon, ..Retention::default() });
    let invoked = Invoked::new(Arc::clone(&store));
    invoked.wake().await.unwrap();
    for subject in ["tea", "salt", "pepper"] {
        publish(&backend, subject).await;
    }
    invoked.rest(Instant::now() + PATIENCE).await;
    let is_left = async || store.log(0, POSITION_MAX, false, 10).await.unwrap().len();
    assert_eq!(is_left().await, 3);
    let goes = async {
        // The newest one stays.
        while is_left().await > 1 {
            invoked.wake().await.unwrap();
            let begin = Instant::now() + Duration::from_secs(3);
            Box::pin(invoked.make_up(Until { begin, end: begin + PATIENCE }, false)).await;
            invoked.rest(Instant::now() + PATIENCE).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, goes).await.is_ok());
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_on_its_way_when_an_invocation_is_over() {
    let (backend, store) = shop().await;
    let invoked = Invoked::new(Arc::clone(&store));
    invoked.wake().await.unwrap();
    let on_its_way = store.in_flight.token();
    let rests = invoked.rest(Instant::now() + PATIENCE);
    tokio::pin!(rests);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut rests).await.is_err());
    drop(on_its_way);
    rests.await;
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_a_function_that_is_gone_is_free_after_an_invocation() {
    let (backend, store) = shop().await;
    let gone = hosts::claim(&store.table, hosts::Stay::Lent).await.unwrap();
    let invoked = Invoked::new(Arc::clone(&store));
    invoked.wake().await.unwrap();
    let begin = Instant::now() + PATIENCE;
    Box::pin(invoked.make_up(Until { begin, end: begin + PATIENCE }, false)).await;
    assert!(Instant::now() < begin, "it does not wait for more");
    let slot = store.table.get(&Key::host(gone.number)).await.unwrap().unwrap();
    assert_eq!(slot.text("own").unwrap(), hosts::NOBODY);
    invoked.rest(Instant::now() + PATIENCE).await;
    backend.lifecycle.close().await;
}
