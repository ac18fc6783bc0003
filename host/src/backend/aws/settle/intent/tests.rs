//! Against emulators: a large commit whose host is cut off anywhere, and one that others take for dead too soon.

use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::backend::aws::fixture::alpha;
use crate::backend::aws::inbox::{Inboxed, shop};
use crate::backend::aws::item::{bytes, counters_partition, entries_partition};
use crate::backend::aws::settle::{Counter, free};
use crate::backend::contract::{custom, done, publish};
use crate::backend::{Excess, Finished, Inbox};
use crate::effects::{Adjustment, Effects, Reads};

/// More than two transactions lock.
const COUNTERS: usize = 2 * CHUNK + 4;

/// One of each of so many counters, an entry that is written, one that goes, and one that is only looked at.
fn steps(prefix: &str) -> Vec<Step> {
    let entry = |name: &str| Key::entry(&alpha(), 0, &format!("{prefix} {name}"));
    let entries = [
        Write::Update(entry("set"), Change::of("SET v = :v").value(":v", bytes(b"new")).only_if_also(&free())),
        Write::Delete(entry("gone"), free()),
        Write::Check(entry("read"), Change::default().only_if("attribute_not_exists(v)").only_if_also(&free())),
    ];
    let counters = (0..COUNTERS).map(|n| {
        let mut counter = Counter::default();
        counter.adjust(1, None);
        counter.write(Key::counter(&alpha(), 0, &format!("{prefix} {n}")))
    });
    entries.into_iter().chain(counters).map(|write| Step { write, mark: Mark::Floor }).collect()
}

/// What the state has: counters, entries, and whether anything is locked.
async fn state(store: &Store, prefix: &str) -> (Vec<i64>, Vec<String>, bool) {
    let of = async |partition| {
        let (from, to) = (format!("{prefix} "), format!("{prefix} ~"));
        store.table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await.unwrap()
    };
    let (counters, entries) = (of(counters_partition(&alpha(), 0)).await, of(entries_partition(&alpha(), 0)).await);
    let locked = counters.iter().chain(&entries).any(|item| item.text_or_none(LOCK).is_some());
    // One that is locked for the first time has no number yet.
    let count = |item: &Item| item.number_or_none("n").unwrap().unwrap_or_default();
    let name = |item: &Item| item.text("sk").unwrap().trim_start_matches(prefix).trim_start().to_owned();
    (counters.iter().map(count).collect(), entries.iter().map(name).collect(), locked)
}

/// Goes on with `work` for so many steps: what it came to, if that is all.
async fn a_while<T>(cut: usize, mut work: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut polls = 0;
    std::future::poll_fn(|context| {
        if polls == cut {
            return Poll::Ready(None);
        }
        polls += 1;
        work.as_mut().poll(context).map(Some)
    })
    .await
}

async fn decide(store: &Store, id: &str) -> bool {
    let mut last = Transaction::default();
    last.update((), Key::intent(id), decided());
    store.table.transact(last).await.unwrap().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_that_others_give_up_while_it_is_made_locks_nothing_and_is_not_decided() {
    let (backend, store) = shop().await;
    for cut in 1.. {
        let (id, steps) = (format!("given-up-{cut}"), steps(&cut.to_string()));
        let mut locks = pin!(lock(&store, &id, &steps));
        let early = a_while(cut, locks.as_mut()).await;
        if store.table.get(&Key::intent(&id)).await.unwrap().is_none() {
            assert!(early.is_none(), "it is there when all is locked");
            continue;
        }
        give_up(&store, &id).await.unwrap();
        let is_whole = early.is_some();
        let ended = match early {
            Some(ended) => ended,
            None => locks.await,
        };
        assert!(matches!(ended, Ok(Err(_))) || !decide(&store, &id).await, "cut off after {cut}: {ended:?}");
        give_up(&store, &id).await.unwrap();
        assert_eq!(state(&store, &cut.to_string()).await, (Vec::new(), Vec::new(), false), "cut off after {cut}");
        assert!(intended(&store, &id).await.unwrap().is_empty(), "cut off after {cut}");
        if is_whole {
            break;
        }
    }
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_decided_intent_says_is_done_once_wherever_its_host_is_cut_off() {
    let (backend, store) = shop().await;
    for cut in 0.. {
        let (prefix, id) = (cut.to_string(), format!("decided-{cut}"));
        let mut old = Transaction::default();
        old.put((), Item::at(&Key::entry(&alpha(), 0, &format!("{prefix} gone"))).with("v", bytes(b"old")));
        assert!(store.table.transact(old).await.unwrap().is_ok());
        assert!(lock(&store, &id, &steps(&prefix)).await.unwrap().is_ok());
        assert!(state(&store, &prefix).await.2 && decide(&store, &id).await);
        give_up(&store, &id).await.unwrap();
        let is_whole = a_while(cut, pin!(finish(&store, &id))).await.is_some();
        // Whoever comes by ends it, two at once.
        let (one, other) = tokio::join!(resolve(&store, &id), resolve(&store, &id));
        one.unwrap();
        other.unwrap();
        let done = (vec![1; COUNTERS], vec!["set".to_owned()], false);
        assert_eq!(state(&store, &prefix).await, done, "cut off after {cut}");
        assert!(store.table.get(&Key::intent(&id)).await.unwrap().is_none(), "cut off after {cut}");
        if is_whole {
            break;
        }
    }
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_writes_what_a_large_commit_has_locked() {
    let handed = Inboxed::open().await;
    let store = &handed.store;
    assert!(lock(store, "open", &steps("x")).await.unwrap().is_ok());
    publish(&handed.backend, "tea").await;
    handed.take_in("tea").await;
    let entry = || Effects { entries: vec![("x set".into(), Some(b"mine".as_slice().into()))], ..Effects::default() };
    let adjustment = Adjustment { key: "x 0".into(), by: 1, floor: None };
    let counter = Effects { adjustments: vec![adjustment], ..Effects::default() };
    let mut delivery = handed.lease().unwrap();
    for effects in [entry(), counter] {
        let finished = handed.inbox.finish(delivery, &Reads::default(), done(effects)).await;
        let Finished::Conflict(again) = finished else { panic!("{finished:?}") };
        delivery = again;
    }
    give_up(store, "open").await.unwrap();
    let finished = handed.inbox.finish(delivery, &Reads::default(), done(entry())).await;
    assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    assert_eq!(state(store, "x").await, (Vec::new(), vec!["set".to_owned()], false));
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_events_than_one_transaction_holds_are_told_in_words() {
    let shop = Inboxed::open().await;
    publish(&shop.backend, "tea").await;
    shop.take_in("tea").await;
    let causing = |count: usize| {
        let events = (0..count).map(|n| custom(&n.to_string())).collect();
        done(Effects { events, ..Effects::default() })
    };
    let reads = Reads::default();
    let finish = shop.inbox.finish(shop.lease().unwrap(), &reads, causing(EVENTS_MAX + 3));
    let Finished::Full { delivery, excess: Excess::Commit { why }, .. } = finish.await else {
        panic!("it is committed")
    };
    assert!(why.contains(&format!("{} events", EVENTS_MAX + 3)) && why.contains("at most 97"), "{why}");
    shop.store.publisher.drained().await;
    assert!(shop.store.publisher.is_clear());
    let finished = shop.inbox.finish(delivery, &reads, causing(EVENTS_MAX)).await;
    assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    shop.backend.lifecycle.close().await;
}
