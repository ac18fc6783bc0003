//! Against emulators: events that come to stand in front of what was read.

use super::*;
use crate::backend::aws::inbox::shop;
use crate::backend::aws::lane::Tail;
use crate::backend::aws::table::Transaction;
use crate::backend::contract::{custom, eventually, hears, name, place, placement, policy};
use crate::backend::{InboxPolicy, damaged};
use crate::event::Body;
use crate::order::Change;
use crate::policy::Start;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_order_is_missing_holds_up_nobody() {
    let (backend, store) = shop().await;
    // What was ordered is gone from the table, and what became of it is not.
    let change = Change::Confirmed {};
    let order = placement(None, None, 1).order.after(&change).unwrap();
    let placed = store.next(&Tail::default(), Body::Custom(custom("before")), None);
    let logged = store.next(&Tail::behind(&placed), Body::OrderChanged { order: order.clone(), change }, None);
    let position = logged.event.position;
    let mut transaction = Transaction::default();
    transaction.create((), logged.item().unwrap());
    assert!(store.append(transaction, vec![logged]).await.unwrap().is_ok());
    let whole = place(&backend).await;

    let told = eventually("both are told", async || {
        let told = backend.journal.events_after(Position::new(position.get() - 1), 10).await.unwrap();
        (told.len() == 2).then_some(told)
    });
    let told = told.await;
    assert_eq!((told[0].kind(), told[0].position), (damaged::KIND, position));
    assert_eq!((told[0].order_id(), told[1].order_id()), (Some(order.id), Some(whole.id)));
    let inbox = backend.consumers.attach(&name("alpha"), Start::Beginning).await.unwrap();
    inbox.configure(InboxPolicy { subscriptions: hears(&["order.*"]), ..policy() });
    eventually("what the consumer has to do is counted", async || {
        let known = backend.consumers.known().await.unwrap();
        (known.first().map(|report| report.pending) == Some(1)).then_some(())
    })
    .await;
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_this_host_cannot_read_is_passed_by_nobody() {
    let (backend, store) = shop().await;
    let logged = store.next(&Tail::default(), Body::Custom(custom("newer")), None);
    // Whatever a newer host may write.
    let item = logged.item().unwrap().with("ch", crate::backend::aws::item::text(r#"{"returned":{}}"#));
    let mut transaction = Transaction::default();
    transaction.create((), item);
    store.table.transact(transaction).await.unwrap().unwrap();
    eventually("it is found, and not read", async || {
        backend.journal.events_after(None, 10).await.is_err().then_some(())
    })
    .await;
    backend.lifecycle.close().await;
}
