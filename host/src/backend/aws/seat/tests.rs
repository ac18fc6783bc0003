//! Against emulators: the slot of a host that takes one only where it needs one.

use std::time::Duration;

use super::*;
use crate::backend::aws::clock::slot_of;
use crate::backend::aws::hosts::NOBODY;
use crate::backend::aws::inbox::shop;
use crate::backend::aws::item::{Item, Key, LaneKey, text};
use crate::backend::aws::table::Change;
use crate::backend::contract::{custom, done, publish};
use crate::effects::Effects;
use crate::event::Lane;
use crate::order::{Change as Step, OrderId};

const PATIENCE: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_millis(50);

/// The slot that the host has.
async fn has(store: &Store) -> Option<Slot> {
    let Seat::Lent(lent) = &store.seat else { panic!("it keeps its slot") };
    lent.lock().await.as_ref().map(|held| held.slot.clone())
}

/// The item of a slot.
async fn stands(store: &Store, slot: &Slot) -> Item {
    store.table.get(&Key::host(slot.number)).await.unwrap().unwrap()
}

/// The position of the newest event of a subject.
async fn newest(store: &Store, subject: &str) -> u64 {
    store.tail(&LaneKey::of(&Lane::Subject(subject.into()))).await.unwrap().position
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !holds().await {
            sleep(AGAIN).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waits).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_of_the_slot_that_the_host_has_and_whoever_has_it_next_goes_on_above_them() {
    let (backend, store) = shop().await;
    assert!(has(&store).await.is_none());
    for _ in 0..3 {
        publish(&backend, "tea").await;
        let (slot, position) = (has(&store).await.unwrap(), newest(&store, "tea").await);
        assert_eq!(slot_of(position), slot.number);
        leave(&store, Instant::now() + PATIENCE).await;
        assert!(has(&store).await.is_none());
        let item = stands(&store, &slot).await;
        let drawn: u64 = item.number("drawn").unwrap();
        assert!(item.text("own").unwrap() == NOBODY && drawn >= position, "{drawn} and {position}");
    }
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_says_that_it_lives_while_it_has_a_slot_and_has_none_once_another_took_it() {
    let (backend, store) = shop().await;
    publish(&backend, "tea").await;
    let slot = has(&store).await.unwrap();
    until("it says that it lives", async || stands(&store, &slot).await.number::<u64>("beat").unwrap() > 1).await;
    let taken = Change::of("SET own = :other").only_if_also(&slot.is_own()).value(":other", text("other"));
    store.table.update(&Key::host(slot.number), taken.value(":owner", text(&slot.owner))).await.unwrap().unwrap();
    until("it knows that it has none", async || has(&store).await.is_none()).await;
    publish(&backend, "tea").await;
    let next = has(&store).await.unwrap();
    assert_eq!(slot_of(newest(&store, "tea").await), next.number);
    assert_ne!((next.number, &next.owner), (slot.number, &slot.owner));
    assert_eq!(stands(&store, &slot).await.text("own").unwrap(), "other");
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_taken_for_an_end_that_writes_events_and_for_no_other() {
    let (backend, store) = shop().await;
    let entries = vec![("a".into(), None)];
    for quiet in [Settlement::Released, done(Effects { entries, ..Effects::default() })] {
        take_for(&store, &quiet).await.unwrap();
        assert!(has(&store).await.is_none(), "{quiet:?}");
    }
    let events = Effects { events: vec![custom("tea")], ..Effects::default() };
    let changes = Effects { order_changes: vec![(OrderId::generate(), Step::Confirmed {})], ..Effects::default() };
    for effects in [events, changes] {
        take_for(&store, &done(effects)).await.unwrap();
        assert!(has(&store).await.is_some());
        leave(&store, Instant::now() + PATIENCE).await;
    }
    backend.lifecycle.close().await;
}
