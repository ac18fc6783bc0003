//! Against emulators: events that come to stand in front of what was read.

use super::*;
use crate::backend::aws::inbox::shop;
use crate::backend::aws::lane::Tail;
use crate::backend::aws::table::Transaction;
use crate::backend::contract::{custom, eventually};
use crate::event::Body;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_write_took_long_is_found_by_who_looks_once_more() {
    let (backend, store) = shop().await;
    let settled = backend.journal.settled();
    let logged = |subject| store.next(&Tail::default(), Body::Custom(custom(subject)), None);
    let write = async |logged: Logged| {
        let mut transaction = Transaction::default();
        transaction.create((), logged.item().unwrap());
        assert!(store.append(transaction, vec![logged]).await.unwrap().is_ok());
    };
    let (slow, quick) = (logged("slow"), logged("quick"));
    let (before, last) = (Position::new(slow.position() - 1), quick.event.position);
    write(quick).await;
    let journal = &backend.journal;
    eventually("it is told", async || {
        let told = journal.events_after(before, 10).await.unwrap();
        (told.len() == 1).then_some(())
    })
    .await;
    write(slow).await;
    let positions = eventually("both are found", async || {
        let mut found = journal.positions(before, last, 10).await.unwrap();
        found.sort_unstable();
        (found.len() == 2).then_some(found)
    });
    let positions = positions.await;
    assert_eq!(positions.last(), Some(&last));
    assert!(journal.events_after(Some(last), 10).await.unwrap().is_empty(), "it is not behind what was read");
    let told = journal.events_after(before, 1).await.unwrap();
    assert_eq!(told.first().map(|event| event.position), positions.first().copied());
    assert!(settled < positions.first().copied(), "others may still come");
    backend.lifecycle.close().await;
}
