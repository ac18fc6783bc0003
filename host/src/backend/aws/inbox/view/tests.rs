//! Against emulators: the order of an event, which the event answers for.

use crate::backend::aws::inbox::fixture::Handed;
use crate::backend::aws::item::LaneKey;
use crate::backend::contract::{confirm, done, place};
use crate::backend::{Delivery, Error, Finished, Inbox, View};
use crate::effects::{Effects, Reads};
use crate::event::Lane;
use crate::order::{Order, OrderId, Status};

/// An order that was just placed, and went on before its event is handled.
async fn gone_on(handed: &Handed) -> (OrderId, Delivery) {
    let id = place(&handed.backend).await.id;
    handed.inbox.take_in(handed.messages(&LaneKey::of(&Lane::Order(id))).await).await;
    let delivery = handed.lease().unwrap();
    confirm(&handed.backend, id).await;
    (id, delivery)
}

async fn seen(view: &dyn View, id: OrderId) -> Option<(Status, u64)> {
    view.order(id).await.unwrap().map(|Order { status, revision, .. }| (status, revision))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_told_of_its_order_is_looked_at_by_the_commit_and_then_it_is_not_told_again() {
    let handed = Handed::open().await;
    let (id, delivery) = gone_on(&handed).await;
    let view = handed.inbox.view_for(&delivery);
    assert_eq!(seen(&*view, id).await, Some((Status::Placed, 1)), "as its event told");
    let reads = |revision| Reads { orders: vec![(id, Some(revision))], ..Reads::default() };
    let finished = handed.inbox.finish(delivery, &reads(1), done(Effects::default())).await;
    let Finished::Conflict(again) = finished else { panic!("{finished:?}") };
    let view = handed.inbox.view_for(&again);
    assert_eq!(seen(&*view, id).await, Some((Status::Confirmed, 2)));
    let finished = handed.inbox.finish(again, &reads(2), done(Effects::default())).await;
    assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    drop(view);
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_from_what_an_event_told_before_the_table_says_so_too() {
    let handed = Handed::open().await;
    let (id, delivery) = gone_on(&handed).await;
    let view = handed.inbox.view_for(&delivery);
    assert!(view.durable(delivery.lease()).await.is_ok(), "nobody asked for the order");
    assert_eq!(seen(&*view, id).await, Some((Status::Placed, 1)));
    let stopped = view.durable(delivery.lease()).await;
    assert!(matches!(&stopped, Err(Error::Unavailable(why)) if why.contains("has gone on")), "{stopped:?}");
    let again = handed.inbox.view_for(&delivery);
    assert_eq!(seen(&*again, id).await, Some((Status::Confirmed, 2)));
    assert!(again.durable(delivery.lease()).await.is_ok());
    drop((view, again));
    handed.backend.lifecycle.close().await;
}
