use super::*;
use crate::backend::aws;
use crate::backend::aws::fixture::{self, alpha};
use crate::backend::aws::inbox::{Inboxed, shop};
use crate::backend::aws::seat::Seat;
use crate::backend::contract::{policy, publish};
use crate::backend::{Backfilled, Inbox as _, InboxPolicy};
use crate::policy::Start;

/// By then, nothing is on its way of those who did not hear of it.
fn long_ago() -> Instant {
    Instant::now() - UNHEARD_MAX - Duration::from_secs(1)
}

async fn laid(store: &Store) -> Option<Laid> {
    store.known_as(&alpha()).await.unwrap().unwrap().laid
}

async fn begin(store: &Store, hosts: &[&str]) {
    let change = Change::of("SET lay = :two, lyn = :one").value(":two", number(2)).value(":one", number(1));
    store.table.update(&Key::consumer(&alpha()), change).await.unwrap();
    for host in hosts {
        let mut transaction = Transaction::default();
        transaction.put((), Item::at(&Key::left(&alpha(), 1, host)));
        store.table.transact(transaction).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn hosts_that_are_gone_are_waited_for_until_nothing_of_theirs_can_be_on_its_way() {
    let (backend, store) = shop().await;
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    begin(&store, &["left", "gone"]).await;
    store.say_left(&alpha(), 1, "left").await.unwrap();
    assert!(!store.look_at_take_over(&alpha(), 1, Instant::now()).await.unwrap());
    assert!(!store.look_at_take_over(&alpha(), 2, long_ago()).await.unwrap(), "of another one nobody knows");
    assert_eq!(laid(&store).await, Some(Laid { number: 1, is_ready: false, layout: 2 }));
    assert!(store.look_at_take_over(&alpha(), 1, long_ago()).await.unwrap());
    assert_eq!(laid(&store).await, Some(Laid { number: 1, is_ready: true, layout: 2 }));
    store.say_left(&alpha(), 1, "gone").await.unwrap();
    assert!(store.left(&alpha(), 0, 9).await.unwrap().is_empty(), "nobody asks any more");
}

#[tokio::test]
async fn nobody_is_waited_for_where_all_have_left() {
    let (backend, store) = shop().await;
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    begin(&store, &["left"]).await;
    store.say_left(&alpha(), 1, "left").await.unwrap();
    // One that another one followed before it ended.
    let mut transaction = Transaction::default();
    transaction.put((), Item::at(&Key::left(&alpha(), 0, "gone")));
    store.table.transact(transaction).await.unwrap().unwrap();
    assert!(store.look_at_take_over(&alpha(), 1, Instant::now()).await.unwrap());
    assert!(store.left(&alpha(), 0, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_host_says_of_a_take_over_just_before_it_ends_goes_with_it() {
    let (backend, store) = shop().await;
    let name = alpha();
    backend.consumers.introduce(&name, Start::Now).await.unwrap();
    for _ in 0..20 {
        begin(&store, &[]).await;
        let (said, ended) =
            tokio::join!(store.say_left(&name, 1, "late"), store.look_at_take_over(&name, 1, Instant::now()));
        said.unwrap();
        assert!(ended.unwrap());
        assert!(store.left(&name, 0, 1).await.unwrap().is_empty());
        let change = Change::of("REMOVE lyr");
        store.table.update(&Key::consumer(&name), change).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_finds_a_take_over_ended_deletes_what_was_said_of_it() {
    let (backend, store) = shop().await;
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    begin(&store, &["late"]).await;
    let of = laid(&store).await.unwrap();
    let change = Change::of("SET lyr = lyn");
    store.table.update(&Key::consumer(&alpha()), change).await.unwrap();
    assert_eq!(store.end_take_over(&alpha(), of).await.unwrap(), Some(Laid { is_ready: true, ..of }));
    assert!(store.left(&alpha(), 0, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_host_that_stops_meanwhile_is_not_waited_for() {
    for has_consumer in [true, false] {
        let settings = fixture::settings();
        let seat = async |table: &_| hosts::claim(table, hosts::Stay::Kept).await.map(Seat::Kept);
        let stops = Box::pin(aws::store(&settings, seat)).await.unwrap();
        let looks = Box::pin(aws::store(&settings, async |_| Ok(Seat::lent()))).await.unwrap();
        let backend = aws::backend(Arc::clone(&stops));
        if has_consumer {
            backend
                .consumers
                .attach(&alpha(), Start::Now)
                .await
                .unwrap()
                .configure(InboxPolicy { layout: Some(1), ..policy() });
        } else {
            backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
        }
        begin(&looks, &[&stops.seat.kept().unwrap().owner]).await;
        backend.lifecycle.close().await;
        assert!(looks.look_at_take_over(&alpha(), 1, Instant::now()).await.unwrap());
    }
}

#[tokio::test]
async fn a_host_that_lives_is_waited_for_however_long_it_takes() {
    let (backend, store) = shop().await;
    let slot = hosts::claim(&store.table, hosts::Stay::Kept).await.unwrap();
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    begin(&store, &[]).await;
    assert!(!store.look_at_take_over(&alpha(), 1, long_ago()).await.unwrap());
    store.say_left(&alpha(), 1, &slot.owner).await.unwrap();
    assert!(store.look_at_take_over(&alpha(), 1, Instant::now()).await.unwrap());
}

#[tokio::test]
async fn of_functions_without_hosts_the_one_that_starts_last_takes_over_whatever_was_known_before() {
    let (backend, store) = shop().await;
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    let starts = async |layout| backend.layouts.lay_out(&alpha(), layout, 0, false).await.unwrap().into_inner();
    assert_eq!(starts(1).await, LaidOut::AsBefore);
    assert!(matches!(starts(2).await, LaidOut::NotKept(_)));
    let _slot = hosts::claim(&store.table, hosts::Stay::Kept).await.unwrap();
    assert_eq!(starts(1).await, LaidOut::Elsewhere(2), "a host has had the last word");
}

#[tokio::test]
async fn a_function_waits_in_its_invocations_for_others_to_leave() {
    let shop = Inboxed::open().await;
    let lay_out = async |layout| shop.backend.layouts.lay_out(&alpha(), layout, 0, true).await.unwrap().into_inner();
    let runs = |layout| {
        let subscriptions = crate::backend::contract::hears(&["*"]);
        shop.inbox.configure(InboxPolicy { layout: Some(layout), subscriptions, ..policy() });
    };
    assert_eq!(lay_out(1).await, LaidOut::AsBefore);
    runs(1);
    publish(&shop.backend, "tea").await;
    shop.take_in("tea").await;
    assert!(matches!(lay_out(2).await, LaidOut::NotKept(_)));
    assert!(shop.lease().is_none(), "it runs by the layout before");
    runs(2);
    shop.take_in("tea").await;
    shop.store.learn().await.unwrap();
    assert!(shop.lease().is_none(), "other functions may not have heard of it");
    assert!(shop.store.look_at_take_over(&alpha(), 1, long_ago()).await.unwrap());
    shop.store.learn().await.unwrap();
    shop.take_in("tea").await;
    assert!(shop.lease().is_some());
}

#[tokio::test]
async fn what_hosts_said_of_a_take_over_that_another_one_followed_goes_with_that() {
    let (backend, store) = shop().await;
    backend.consumers.introduce(&alpha(), Start::Now).await.unwrap();
    begin(&store, &["left", "gone"]).await;
    store.say_left(&alpha(), 1, "left").await.unwrap();
    backend.layouts.lay_out(&alpha(), 3, 0, true).await.unwrap().into_inner();
    assert_eq!(laid(&store).await, Some(Laid { number: 2, is_ready: true, layout: 3 }), "nobody lives");
    assert!(store.left(&alpha(), 0, 9).await.unwrap().is_empty(), "nobody asks any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gate_is_open_any_more_when_a_version_takes_over_whatever_became_of_its_rebuild() {
    let shop = Inboxed::open().await;
    let lay_out = async |layout| shop.backend.layouts.lay_out(&alpha(), layout, 0, true).await.unwrap().into_inner();
    lay_out(1).await;
    shop.inbox.configure(InboxPolicy { layout: Some(1), ..policy() });
    fixture::begin(&shop.backend, Backfilled::Rebuild).await;
    let rebuild = shop.inbox.known().rebuilding.unwrap();
    shop.inbox.look_at_gate().await.unwrap();
    let is_open = async || {
        let gates = gate::all(&shop.store, &alpha(), rebuild).await.unwrap();
        gates.values().any(|gate| gate.open)
    };
    assert!(is_open().await);
    shop.backend.backfills.steer(&alpha(), BackfillStep::Cancel).await.unwrap().into_inner();
    assert!(is_open().await, "who did not hear of it goes through it still");
    lay_out(2).await;
    assert!(!is_open().await);
    shop.backend.lifecycle.close().await;
}
