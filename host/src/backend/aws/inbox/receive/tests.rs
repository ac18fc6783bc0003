//! Against emulators: messages that come in any order, as those of a standard queue do, and more than once.

use aws_sdk_sqs::types::Message;

use super::super::fixture::{Handed, lane, shop};
use super::Key;
use crate::backend::Backfilled;
use crate::backend::aws::fixture::begin;
use crate::backend::contract::{custom, publish};
use crate::policy::Start;

/// Every order in which the messages of a lane's events can come.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The messages of three events of a lane, in its order.
async fn three(handed: &Handed, subject: &str) -> [Message; 3] {
    let _ = handed.backend.intake.publish(vec![custom(subject); 3]).await.unwrap();
    handed.messages(&lane(subject)).await.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_lane_are_handled_in_its_order_whatever_the_order_of_their_messages() {
    let handed = Handed::open().await;
    for order in ORDERS {
        let messages = three(&handed, &format!("one by one, {order:?}")).await;
        let [first, second, third] = order.map(|at| messages[at].clone());
        handed.inbox.take_in(vec![first]).await;
        let running = handed.lease().unwrap();
        let mut seen = vec![handed.seq(&running)];
        handed.inbox.take_in(vec![second]).await;
        assert!(handed.lease().is_none(), "one of a lane at a time");
        handed.done(running).await;
        seen.extend(handed.rest().await);
        handed.inbox.take_in(vec![third]).await;
        seen.extend(handed.rest().await);
        assert_eq!(seen, [1, 2, 3], "one by one, while the first that came is handled: {order:?}");

        let messages = three(&handed, &format!("two at once, {order:?}")).await;
        let [first, second, third] = order.map(|at| messages[at].clone());
        handed.inbox.take_in(vec![first, second]).await;
        let mut seen = handed.rest().await;
        handed.inbox.take_in(vec![third]).await;
        seen.extend(handed.rest().await);
        assert_eq!(seen, [1, 2, 3], "two at once: {order:?}");
    }
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_once_more_has_nothing_wait_for_the_history_of_its_lane() {
    let (subject, (backend, store)) = ("late", shop().await);
    publish(&backend, subject).await;
    let handed = Handed::attached(backend, store, Start::Now).await;
    let Handed { backend, store, inbox } = &handed;
    publish(backend, subject).await;
    let live = handed.messages(&lane(subject)).await.remove(1);
    inbox.take_in(vec![live.clone()]).await;
    assert_eq!(handed.rest().await, [2]);

    assert_eq!(begin(backend, Backfilled::Missed).await.events, 1);
    inbox.refresh_fills().await.unwrap();
    inbox.take_in(vec![live]).await;
    let stands = store.table.get(&Key::due(&inbox.name, &lane(subject))).await.unwrap();
    assert_eq!(stands, None, "nothing of the lane is to be done");

    publish(backend, subject).await;
    inbox.take_in(handed.messages(&lane(subject)).await).await;
    let stands = store.table.get(&Key::due(&inbox.name, &lane(subject))).await.unwrap();
    assert!(stands.is_some_and(|item| item.number::<u64>("q").unwrap() == 3), "the new one waits");
    backend.lifecycle.close().await;
}
