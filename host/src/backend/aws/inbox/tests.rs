//! Against emulators: what fails in the middle of something leaves nothing behind.

use super::fixture::{Handed, lane};
use crate::backend::aws::due;
use crate::backend::aws::item::{Item, Key, number, text};
use crate::backend::aws::place::Place;
use crate::backend::aws::table::Change;
use crate::backend::contract::{custom, done, publish, ran};
use crate::backend::{Cause, CauseKind, Excess, Finished, Inbox, Settlement};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_cannot_be_written_leaves_no_position_open() {
    let handed = Handed::open().await;
    publish(&handed.backend, "tea").await;
    handed.take_in("tea").await;
    // What cannot be read stands at the end of a lane.
    let damaged = Item::at(&Key::event(&lane("damaged"), 1));
    handed.store.table.put_all(vec![damaged]).await.unwrap();
    let effects = Effects { events: vec![custom("sound"), custom("damaged")], ..Effects::default() };
    let finished = handed.inbox.finish(handed.lease().unwrap(), &Reads::default(), done(effects)).await;
    assert!(matches!(finished, Finished::Full { excess: Excess::Commit { .. }, .. }), "{finished:?}");
    handed.store.publisher.drained().await;
    assert!(handed.store.publisher.is_clear(), "whoever follows this host would publish all that it ever wrote since");
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_beside_what_cannot_be_taken_up_is_delivered_at_once() {
    let handed = Handed::open().await;
    for subject in ["one", "two"] {
        publish(&handed.backend, subject).await;
        handed.take_in(subject).await;
        let cause = Cause::new(CauseKind::Retry, "not yet");
        let retry = Settlement::Retry { at: Timestamp::now(), cause, ran: ran() };
        let finished = handed.inbox.finish(handed.lease().unwrap(), &Reads::default(), retry).await;
        assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    }
    let Handed { store, inbox, .. } = &handed;
    let damaged = Item::at(&Key::due(&inbox.name, &lane("damaged")));
    let at = number(Timestamp::now().as_millis());
    let damaged = damaged.with("ver", number(1)).with("lp", text(due::partition(inbox.name.as_str()))).with("ls", at);
    store.table.put_all(vec![damaged]).await.unwrap();
    assert_eq!(inbox.take_due().await, 2);
    assert_eq!(handed.rest().await, [1, 1]);
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_has_expired_keeps_no_event_of_a_lane_that_begins_anew() {
    let handed = Handed::open().await;
    let Handed { backend, store, inbox } = &handed;
    let lane = lane("tea");
    let key = Key::place(&inbox.name, &lane);
    store.table.update(&key, Place::default().through(3, None, None).change().unwrap()).await.unwrap().unwrap();
    // DynamoDB deletes it some time after it may.
    let expired = Change::of("SET #ttl = :past").name("#ttl", "ttl").value(":past", number(1));
    store.table.update(&key, expired).await.unwrap().unwrap();
    publish(backend, "tea").await;
    handed.take_in("tea").await;
    assert_eq!(handed.rest().await, [1]);
    let item = store.table.get(&key).await.unwrap().unwrap();
    assert_eq!(Place::load(store, &inbox.name, &lane).await.unwrap().seq, 1);
    assert_eq!(item.number_or_none::<u64>("ttl").unwrap(), None, "it is needed again");
    backend.lifecycle.close().await;
}
