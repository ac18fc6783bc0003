//! Promise 2, however much a handler stages: all of it or nothing.

use std::sync::Arc;

use super::{
    Place, accept, content, done, eventually, inbox, lease, leases, name, nothing_comes, place, placement, report_when,
    settled,
};
use crate::backend::{Backend, Delivery, Finished, Inbox, OrderQuery, Placement, StatePage, StateQuery};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Message, Reads, Record, Value};
use crate::order::{Change, Content, Order, Status};

/// Keys: one, what one transaction of DynamoDB holds beside the rest and what it does not, and what it never will.
const SIZES: [usize; 4] = [1, 99, 101, 500];

fn key(n: usize) -> Arc<str> {
    format!("key/{n:03}").into()
}

fn bytes(value: &str) -> Value {
    Some(value.as_bytes().into())
}

/// `value` under so many keys, and one of everything else.
fn staged(keys: usize, value: &str) -> Effects {
    Effects {
        entries: (0..keys).map(|n| (key(n), bytes(value))).collect(),
        adjustments: vec![Adjustment { key: "handled".into(), by: 1, floor: None }],
        messages: vec![Message::Sms { to: "+1".into(), text: value.to_owned() }],
        records: vec![Record { dataset: "rows".into(), row: format!("\"{value}\"") }],
        ..Effects::default()
    }
}

async fn state(backend: &Backend) -> StatePage {
    let query = StateQuery { limit: 1_000, ..StateQuery::default() };
    backend.consumers.state(&name("alpha"), query).await.unwrap()
}

async fn counts(backend: &Backend) -> (usize, usize) {
    let messages = backend.journal.messages(None, 100).await.unwrap().items.len();
    (messages, backend.journal.records("rows", None, 100).await.unwrap().items.len())
}

async fn effects_of_any_size_are_all_there_once(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for keys in SIZES {
        let order = place(&backend).await;
        let order_changes = vec![(order.id, Change::Confirmed {})];
        let effects = Effects { order_changes, ..staged(keys, &keys.to_string()) };
        accept(&deliveries, lease(&deliveries).await, done(effects)).await;
        let view = deliveries.view();
        for n in [0, keys - 1] {
            assert_eq!(view.get(&key(n)).await.unwrap(), bytes(&keys.to_string()), "later handlings see it at once");
        }
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        assert_eq!(backend.journal.order(order.id).await.unwrap().unwrap().status, Status::Confirmed);
    }
    settled(&backend, "alpha").await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    let deliveries = inbox(&backend, "alpha").await;
    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 8)).await;
    let StatePage { entries, counters, .. } = state(&backend).await;
    let expected: Vec<_> = (0..500).map(|n| (key(n).to_string(), b"500".to_vec())).collect();
    assert_eq!(entries, expected);
    assert_eq!(counters, [("handled".to_owned(), 4)]);
    assert_eq!(counts(&backend).await, (4, 4));
    nothing_comes(&home, &backend, &deliveries, "all was acknowledged").await;
}

async fn of_effects_of_any_size_nothing_is_there_where_one_thing_does_not_hold(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for keys in SIZES {
        place(&backend).await;
        let mut delivery = lease(&deliveries).await;
        let stale = Reads { entries: vec![(key(keys - 1), bytes("was there"))], ..Reads::default() };
        let mut below = staged(keys, "vain");
        below.adjustments.push(Adjustment { key: "stock".into(), by: -1, floor: Some(0) });
        for (reads, effects) in [(stale, staged(keys, "vain")), (Reads::default(), below)] {
            match deliveries.finish(delivery, &reads, done(effects)).await {
                Finished::Conflict(again) => delivery = again,
                other => panic!("{other:?}"),
            }
            assert_eq!(deliveries.view().get(&key(0)).await.unwrap(), None);
        }
        assert_eq!(delivery.attempt, 1, "a conflict is not an attempt");
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 4)).await;
    let StatePage { entries, counters, .. } = state(&backend).await;
    assert!(entries.is_empty() && counters.is_empty(), "{entries:?} {counters:?}");
    assert_eq!(counts(&backend).await, (0, 0));
}

/// Reads the first and the last of many keys and commits under what it read; again, while that does not hold.
async fn compare(inbox: &Arc<dyn Inbox>, mut delivery: Delivery, keys: usize) {
    loop {
        let view = inbox.view();
        let first = view.get(&key(0)).await.unwrap();
        let last = view.get(&key(keys - 1)).await.unwrap();
        let reads = Reads { entries: vec![(key(0), first.clone()), (key(keys - 1), last.clone())], ..Reads::default() };
        match inbox.finish(delivery, &reads, done(Effects::default())).await {
            Finished::Accepted => return assert_eq!(first, last, "a part of what is committed was seen"),
            Finished::Conflict(again) => delivery = again,
            other => panic!("{other:?}"),
        }
    }
}

async fn who_sees_a_part_of_much_is_a_conflict(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for value in ["one", "two", "three"] {
        for _ in 0..8 {
            place(&backend).await;
        }
        let [writer, readers @ ..] = leases::<8>(&deliveries).await;
        let write = accept(&deliveries, writer, done(staged(500, value)));
        let read = async {
            for reader in readers {
                compare(&deliveries, reader, 500).await;
            }
        };
        futures::join!(write, read);
        assert_eq!(deliveries.view().get(&key(499)).await.unwrap(), bytes(value));
    }
    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 24)).await;
}

/// How many are on each page, from the first to the last.
async fn pages(page: impl AsyncFn(Option<String>) -> (usize, Option<String>)) -> Vec<usize> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let (items, next) = page(after).await;
        pages.push(items);
        if next.is_none() {
            return pages;
        }
        after = next;
    }
}

async fn pages_of_large_rows_are_small_and_lead_through_all_of_them(home: Place) {
    /// Sixteen of them are two mebibytes.
    const LARGE: usize = 40;
    const BYTES: usize = 1 << 17;
    const LIMIT: usize = 1_000;
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    let text = "x".repeat(BYTES);
    place(&backend).await;
    let effects = Effects {
        messages: vec![Message::Sms { to: "+1".into(), text: text.clone() }; LARGE],
        records: vec![Record { dataset: "rows".into(), row: format!("\"{text}\"") }; LARGE],
        ..staged(LARGE, &text)
    };
    accept(&deliveries, lease(&deliveries).await, done(effects)).await;
    settled(&backend, "alpha").await;
    for _ in 1..LARGE {
        let metadata = [("note".to_owned(), text.clone())].into();
        let order = Order::place(Arc::new(Content { metadata, ..content(None, 1) }), Timestamp::now());
        backend.intake.place(Placement { order, ..placement(None, None, 1) }).await.unwrap().into_inner();
    }

    let journal = &backend.journal;
    let orders = eventually("all orders are listed", async || {
        let pages = pages(async |after| {
            let page = journal.orders(OrderQuery { after, limit: LIMIT, ..OrderQuery::default() }).await.unwrap();
            (page.items.len(), page.next)
        });
        Some(pages.await).filter(|pages| pages.iter().sum::<usize>() == LARGE)
    });
    let messages = pages(async |after| {
        let page = journal.messages(after, LIMIT).await.unwrap();
        (page.items.len(), page.next)
    });
    let records = pages(async |after| {
        let page = journal.records("rows", after, LIMIT).await.unwrap();
        (page.items.len(), page.next)
    });
    let entries = pages(async |after| {
        let query = StateQuery { after, limit: LIMIT, ..StateQuery::default() };
        let page = backend.consumers.state(&name("alpha"), query).await.unwrap();
        (page.entries.len(), page.next)
    });
    for (what, pages) in
        [("orders", orders.await), ("messages", messages.await), ("records", records.await), ("entries", entries.await)]
    {
        assert_eq!(pages.iter().sum::<usize>(), LARGE, "{what}: {pages:?}");
        assert!(pages.iter().all(|page| (1..=17).contains(page)), "{what}: {pages:?}");
    }
}

async fn the_journal_is_read_in_parts_that_memory_has_room_for(home: Place) {
    const LARGE: usize = 40;
    let backend = home.open().await;
    for _ in 0..LARGE {
        let metadata = [("note".to_owned(), "x".repeat(1 << 17))].into();
        let order = Order::place(Arc::new(Content { metadata, ..content(None, 1) }), Timestamp::now());
        backend.intake.place(Placement { order, ..placement(None, None, 1) }).await.unwrap().into_inner();
    }
    let (mut parts, mut after) = (Vec::new(), None);
    while parts.iter().sum::<usize>() < LARGE {
        let events = eventually("there are more events", async || {
            Some(backend.journal.events_after(after, 1_000).await.unwrap()).filter(|events| !events.is_empty())
        });
        let events = events.await;
        after = events.last().map(|event| event.position);
        parts.push(events.len());
    }
    // At most a page, and what is read at once.
    assert!(parts.iter().all(|part| *part <= 32), "{parts:?}");
}

claims! {
    the_journal_is_read_in_parts_that_memory_has_room_for on [aws] because "the newest events of a file are in memory",
    pages_of_large_rows_are_small_and_lead_through_all_of_them on [embedded, aws],
    effects_of_any_size_are_all_there_once on [embedded, aws],
    of_effects_of_any_size_nothing_is_there_where_one_thing_does_not_hold on [embedded, aws],
    who_sees_a_part_of_much_is_a_conflict on [embedded, aws],
}
