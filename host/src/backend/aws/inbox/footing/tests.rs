//! What commits go by; against emulators, what those of a function do, which nobody looks after in the middle of an invocation.

use super::*;
use crate::backend::aws::backfills::news;
use crate::backend::aws::fixture::{alpha, begin, policy};
use crate::backend::aws::inbox::fixture::shop;
use crate::backend::aws::item::number;
use crate::backend::{Backend, Backfilled};
use crate::policy::Start;

fn gated() -> Stands {
    Stands::Gated { rebuild: 7, gate: Key { pk: "w#alpha".into(), sk: "7".into() } }
}

#[test]
fn a_host_is_fenced_once_nothing_is_on_its_way_that_went_by_what_was_known_before() {
    let on = |generation, stands| Ground { generation, laid: None, stands };
    let (ground, asked) = (Arc::new(on(0, Stands::Free)), Asked::now());
    let mut footing = Footing { ground, asked, relaid: None, follows: false, unfenced: Vec::new(), joined: None };
    let on_its_way = Arc::clone(&footing.ground);
    assert!(!footing.is_fenced());
    footing.stand(on(0, gated()));
    assert!(!footing.is_fenced(), "a commit without a gate may come still");
    footing.stand(on(0, Stands::Shut { rebuild: 7 }));
    footing.stand(on(0, gated()));
    assert!(!footing.is_fenced());
    drop(on_its_way);
    assert!(footing.is_fenced());
    footing.stand(on(7, Stands::Free));
    assert!(!footing.is_fenced(), "the next rebuild is another matter");
}

#[test]
fn a_host_has_left_a_layout_once_nothing_is_on_its_way_that_went_by_it() {
    let laid = |layout| Some(Laid { number: 1, is_ready: true, layout });
    let on = |laid| Ground { generation: 0, laid, stands: Stands::Free };
    assert!(on(None).holds(0, Some(1)) && on(laid(1)).holds(0, Some(1)) && on(laid(1)).holds(0, None));
    assert!(!on(laid(2)).holds(0, Some(1)) && !on(laid(1)).holds(1, Some(1)));
    let under_way = Laid { number: 1, is_ready: false, layout: 2 };
    assert!(!on(Some(under_way)).holds(0, Some(2)));

    let (ground, asked) = (Arc::new(on(laid(1))), Asked::now());
    let mut footing = Footing { ground, asked, relaid: None, follows: false, unfenced: Vec::new(), joined: None };
    let on_its_way = Arc::clone(&footing.ground);
    footing.stand(on(Some(under_way)));
    assert!(!footing.is_young());
    drop(on_its_way);
    assert!(footing.is_young());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_has_not_left_a_layout_while_what_went_by_it_may_be_on_its_way() {
    let (backend, store) = shop().await;
    backend.consumers.attach(&alpha(), Start::Now).await.unwrap().configure(policy());
    let inbox = store.inbox(&alpha()).unwrap();
    let lay_out = async |layout| backend.layouts.lay_out(&alpha(), layout, 0, true).await.unwrap().into_inner();
    lay_out(1).await;
    let on_its_way = inbox.ground().await.unwrap();
    lay_out(2).await;
    let laid = inbox.known().laid.unwrap();
    assert!(!laid.is_ready && !inbox.has_left(laid));
    drop(on_its_way);
    assert!(inbox.has_left(laid));
    backend.lifecycle.close().await;
}

#[test]
fn what_was_asked_for_before_the_machine_slept_is_old() {
    let asked = Asked::now();
    assert!(asked.age() < KNOWN_MAX);
    // Instants stand still meanwhile.
    let slept = Asked { time: asked.time.minus(KNOWN_MAX), ..asked };
    assert!(slept.age() >= KNOWN_MAX);
    let set_back = Asked { time: asked.time.plus(KNOWN_MAX), ..asked };
    assert!(set_back.age() < KNOWN_MAX);
}

/// A function of a consumer whose state is made anew from some moment of an invocation on.
async fn function() -> (Backend, Arc<AwsInbox>) {
    let (backend, store) = shop().await;
    backend.consumers.attach(&alpha(), Start::Now).await.unwrap().configure(policy());
    let inbox = store.inbox(&alpha()).unwrap();
    assert!(inbox.ground().await.unwrap().is_free());
    begin(&backend, Backfilled::Rebuild).await;
    inbox.footing.lock().asked.time = Timestamp::now().minus(KNOWN_MAX);
    (backend, inbox)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_goes_through_its_gate_in_the_middle_of_an_invocation_once_what_it_knew_is_old() {
    let (backend, inbox) = function().await;
    let ground = inbox.ground().await.unwrap();
    assert!(ground.gate().is_some(), "{ground:?}");
    backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_goes_on_in_the_same_invocation_when_a_try_to_hand_over_is_over() {
    let (backend, inbox) = function().await;
    let until = number(Timestamp::now().plus(Duration::from_secs(3_600)).as_millis());
    let tried = news("SET nr = :one, nru = :until").value(":one", number(1)).value(":until", until);
    inbox.store.table.update(&Key::consumer(&inbox.name), tried).await.unwrap().unwrap();
    let ground = inbox.ground().await.unwrap();
    assert!(ground.is_shut() && inbox.desk.lock().held, "{ground:?}");
    gate::end_try(&inbox.store, &inbox.name, 1).await.unwrap();
    let goes_on = async {
        while inbox.desk.lock().held {
            sleep(KEEP_EVERY).await;
        }
    };
    tokio::select! {
        () = goes_on => {}
        () = inbox.follow_rebuild() => {}
        () = sleep(Duration::from_secs(120)) => panic!("it waits for the next invocation"),
    }
    let ground = inbox.ground().await.unwrap();
    assert!(ground.gate().is_some(), "{ground:?}");
    backend.lifecycle.close().await;
}
