//! A person pauses a consumer: nothing starts, nothing is passed by, nothing is lost.

use super::{
    Place, accept, confirm, done, hears, inbox, lease, leases, name, place, policy, report, report_when, stays_quiet,
};
use crate::backend::{Backend, InboxPolicy, Pause};
use crate::clock::Timestamp;
use crate::effects::Effects;

async fn pause(backend: &Backend, consumer: &str, reason: Option<&str>) -> bool {
    let pause = Pause { since: Timestamp::now(), reason: reason.map(str::to_owned) };
    backend.consumers.set_pause(&name(consumer), Some(pause)).await.unwrap().into_inner()
}

async fn resume(backend: &Backend, consumer: &str) -> bool {
    backend.consumers.set_pause(&name(consumer), None).await.unwrap().into_inner()
}

async fn a_paused_consumer_ends_what_runs_and_starts_nothing(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    place(&backend).await;
    let running = lease(&deliveries).await;
    assert!(pause(&backend, "alpha", Some("stocktaking")).await);
    stays_quiet(&home, &backend, &deliveries).await;
    accept(&deliveries, running, done(Effects::default())).await;
    stays_quiet(&home, &backend, &deliveries).await;
    let paused = report(&backend, "alpha").await.paused.unwrap();
    assert_eq!(paused.reason.as_deref(), Some("stocktaking"));
    let told = async |consumer| backend.consumers.pause(&name(consumer)).await.unwrap();
    assert_eq!((told("alpha").await.as_ref(), told("nobody").await), (Some(&paused), None));

    // Once more changes nothing but a reason that is given.
    assert!(pause(&backend, "alpha", None).await);
    let again = report(&backend, "alpha").await.paused.unwrap();
    assert_eq!(again, paused);

    assert!(resume(&backend, "alpha").await && resume(&backend, "alpha").await);
    assert_eq!((report(&backend, "alpha").await.paused, told("alpha").await), (None, None));
    accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, 2)).await;
}

async fn a_pause_outlives_a_restart_and_counts_on(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    pause(&backend, "alpha", None).await;
    let order = place(&backend).await;
    drop(deliveries);

    let backend = home.reopen(backend).await;
    // Before its plugin is there, and after.
    assert!(report(&backend, "alpha").await.paused.is_some());
    let deliveries = inbox(&backend, "alpha").await;
    confirm(&backend, order.id).await;
    stays_quiet(&home, &backend, &deliveries).await;
    report_when(&backend, "alpha", |it| it.pending == 2).await;
    resume(&backend, "alpha").await;
    for kind in ["order.placed", "order.confirmed"] {
        let delivery = lease(&deliveries).await;
        assert_eq!(delivery.event.kind(), kind);
        accept(&deliveries, delivery, done(Effects::default())).await;
    }
}

async fn what_was_done_ahead_is_not_pending_while_a_consumer_is_paused(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    for _ in 0..3 {
        place(&backend).await;
    }
    let [first, second] = leases(&deliveries).await;
    accept(&deliveries, second, done(Effects::default())).await;
    pause(&backend, "alpha", None).await;
    drop((first, deliveries));

    let backend = home.reopen(backend).await;
    let _deliveries = inbox(&backend, "alpha").await;
    report_when(&backend, "alpha", |it| it.pending == 2).await;
}

async fn what_comes_while_a_consumer_is_paused_is_judged_when_it_goes_on(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["order.cancelled"]), ..policy() });
    pause(&backend, "alpha", None).await;
    place(&backend).await;
    stays_quiet(&home, &backend, &deliveries).await;
    report_when(&backend, "alpha", |it| it.pending == 0).await;
    // Nothing was passed by: the version that comes next may want it.
    deliveries.configure(policy());
    resume(&backend, "alpha").await;
    assert_eq!(lease(&deliveries).await.event.kind(), "order.placed");
}

async fn consumers_without_a_plugin_are_paused_and_unknown_ones_are_not(home: Place) {
    let backend = home.open().await;
    drop(inbox(&backend, "alpha").await);
    let backend = home.reopen(backend).await;
    assert!(pause(&backend, "alpha", None).await);
    assert!(!pause(&backend, "beta", None).await);
    assert!(!resume(&backend, "beta").await);
    let deliveries = inbox(&backend, "alpha").await;
    place(&backend).await;
    stays_quiet(&home, &backend, &deliveries).await;
}

claims! {
    a_paused_consumer_ends_what_runs_and_starts_nothing on [embedded, aws],
    a_pause_outlives_a_restart_and_counts_on on [embedded, aws],
    what_was_done_ahead_is_not_pending_while_a_consumer_is_paused on [embedded, aws],
    what_comes_while_a_consumer_is_paused_is_judged_when_it_goes_on on [embedded, aws],
    consumers_without_a_plugin_are_paused_and_unknown_ones_are_not on [embedded, aws],
}
