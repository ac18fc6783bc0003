//! A consumer is there, or it is not: whoever attaches beside whoever forgets.

use std::time::Duration;

use super::{Place, accept, done, eventually, lease, name, place, policy, report, settled};
use crate::backend::{Backend, Forgotten, InboxPolicy};
use crate::effects::{Adjustment, Effects};
use crate::policy::Start;

async fn who_attaches_beside_who_forgets_gets_a_consumer_that_is_there(home: Place) {
    let backend = home.open().await;
    let (rounds, spread) = match home.delivers_at_once() {
        true => (100, Duration::from_millis(6)),
        false => (10, Duration::from_millis(200)),
    };
    let alpha = name("alpha");
    for _ in 0..rounds {
        backend.consumers.introduce(&alpha, Start::Now).await.unwrap();
        let attach = async {
            let inbox = backend.consumers.attach(&alpha, Start::Now).await.unwrap();
            inbox.configure(policy());
            inbox
        };
        let forget = async {
            tokio::time::sleep(spread.mul_f64(fastrand::f64())).await;
            backend.consumers.forget(&alpha).await.unwrap().into_inner()
        };
        let (inbox, forgotten) = futures::join!(attach, forget);
        assert_ne!(forgotten, Forgotten::Unknown);

        let order = place(&backend).await;
        let delivery = lease(&inbox).await;
        assert_eq!(delivery.event.order_id(), Some(order.id), "{forgotten:?}");
        let effects = Effects { entries: vec![("key".into(), Some(b"kept".as_slice().into()))], ..Effects::default() };
        accept(&inbox, delivery, done(effects)).await;
        settled(&backend, "alpha").await;
        assert_eq!(report(&backend, "alpha").await.dead, 0);
        let value = inbox.view().get("key").await.unwrap();
        assert_eq!(value.as_deref(), Some(b"kept".as_slice()), "{forgotten:?}");

        inbox.configure(InboxPolicy { concurrency: 0, ..policy() });
        drop(inbox);
        eventually("it is forgotten", async || {
            let forgotten = backend.consumers.forget(&alpha).await.unwrap().into_inner();
            (forgotten == Forgotten::Done).then_some(())
        })
        .await;
        assert!(backend.consumers.known().await.unwrap().is_empty());
    }
}

async fn one_that_another_host_forgot_begins_anew(home: Place) {
    let (first, second) = (home.open().await, home.open().await);
    let alpha = name("alpha");
    let attached = async |backend: &Backend| {
        let inbox = backend.consumers.attach(&alpha, Start::Now).await.unwrap();
        inbox.configure(policy());
        inbox
    };
    let effects =
        || Effects { adjustments: vec![Adjustment { key: "n".into(), by: 1, floor: Some(0) }], ..Effects::default() };
    for made_anew_by in [&second, &first] {
        for backend in [&first, &second] {
            let inbox = attached(backend).await;
            inbox.configure(InboxPolicy { concurrency: 0, ..policy() });
        }
        assert_eq!(first.consumers.forget(&alpha).await.unwrap().into_inner(), Forgotten::Done);
        drop(attached(made_anew_by).await);
        let inbox = attached(&second).await;
        if std::ptr::eq(made_anew_by, &raw const first) {
            let other = made_anew_by.consumers.attach(&alpha, Start::Now).await.unwrap();
            other.configure(InboxPolicy { concurrency: 0, ..policy() });
        }
        place(&first).await;
        accept(&inbox, lease(&inbox).await, done(effects())).await;
        settled(&second, "alpha").await;
        assert_eq!(inbox.view().count("n").await.unwrap(), 1);
        inbox.configure(InboxPolicy { concurrency: 0, ..policy() });
    }
    second.lifecycle.close().await;
    first.lifecycle.close().await;
}

claims! {
    one_that_another_host_forgot_begins_anew on [aws] because "a store on one machine has one host",
    who_attaches_beside_who_forgets_gets_a_consumer_that_is_there on [embedded, aws],
}
