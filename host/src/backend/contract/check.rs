//! A store that nobody but hosts wrote to agrees with itself, while it is used too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::*;
use crate::backend::{
    Backfill, BackfillEffects, Backfilled, Cause, CauseKind, CheckPlace, Finding, Forgotten, Keep, Pause, Retention,
    Selection, Sending, Since, Started, Which,
};
use crate::effects::{Adjustment, Effects, Message, Record};

const WORKERS: u64 = 4;
/// Walks through the whole store while it is written to.
const WALKS: u64 = 3;

/// Looks through the whole store: rows by rule, and what was found.
async fn walk(backend: &Backend) -> (BTreeMap<&'static str, u64>, Vec<Finding>) {
    let (mut rows, mut findings) = (BTreeMap::new(), Vec::new());
    let mut place = Some(CheckPlace::default());
    while let Some(at) = place {
        let step = backend.upkeep.check(at).await.unwrap();
        for checked in step.checked {
            *rows.entry(checked.rule).or_default() += checked.rows;
            findings.extend(checked.findings);
        }
        place = step.next;
    }
    // A page of a table may be empty, a store is not.
    assert!(rows.values().sum::<u64>() > 0, "a walk says what it looked at");
    (rows, findings)
}

fn dead() -> Settlement {
    Settlement::Dead { cause: Cause::new(CauseKind::Reject, "no"), ran: ran() }
}

fn later(after: Duration) -> Settlement {
    Settlement::Retry { at: Timestamp::now().plus(after), cause: Cause::new(CauseKind::Retry, "later"), ran: ran() }
}

/// Of every kind that a handler can leave.
fn everything(order: OrderId, n: u64) -> Effects {
    Effects {
        entries: vec![(format!("entry/{n}").into(), Some(b"value".as_slice().into()))],
        adjustments: vec![Adjustment { key: "count".into(), by: 1, floor: None }],
        order_changes: vec![(order, Change::Confirmed {})],
        events: vec![custom(&format!("made-{n}"))],
        messages: vec![Message::Sms { to: format!("+{n}"), text: "t".into() }],
        records: vec![Record { dataset: "rows".into(), row: r#"{"a":1}"#.into() }],
    }
}

async fn placed(backend: &Backend, reference: &str) -> Order {
    let placement = placement(Some(reference), Some(reference), 1);
    match backend.intake.place(placement).await.unwrap().into_inner() {
        Placed::New(order) => order,
        other => panic!("{other:?}"),
    }
}

/// The next delivery of an order. What comes before it is done.
async fn lease_of(deliveries: &Arc<dyn Inbox>, order: OrderId) -> Delivery {
    loop {
        let delivery = lease(deliveries).await;
        if delivery.event.order_id() == Some(order) {
            return delivery;
        }
        accept(deliveries, delivery, done(Effects::default())).await;
    }
}

/// A consumer does orders, retries some, and lets some die; what died, a person looks at.
async fn live(backend: &Backend, deliveries: &Arc<dyn Inbox>) {
    let mut orders = Vec::new();
    for n in 0..6 {
        let order = placed(backend, &format!("R-{n}")).await.id;
        let delivery = lease_of(deliveries, order).await;
        let settlement = match n {
            0 | 1 => done(everything(order, n)),
            2 => later(Duration::from_secs(3_600)),
            3 => later(Duration::ZERO),
            _ => dead(),
        };
        accept(deliveries, delivery, settlement).await;
        orders.push(order);
    }
    let [.., dies, given_up] = orders[..] else { panic!("six orders") };
    confirm(backend, dies).await;
    confirm(backend, given_up).await;
    report_when(backend, "alpha", |it| it.dead == 2).await;
    // The first is tried again and dies once more; the other is given up, and its lane goes on.
    let retried = backend.dead_letters.retry(&name("alpha"), Which::All.first(1)).await.unwrap().into_inner();
    assert_eq!(retried.count, 1);
    accept(deliveries, lease_of(deliveries, dies).await, dead()).await;
    report_when(backend, "alpha", |it| it.dead == 2).await;
    let rest = Selection { after: retried.next, ..Which::All.first(1) };
    assert_eq!(backend.dead_letters.discard(&name("alpha"), rest).await.unwrap().into_inner().count, 1);
    accept(deliveries, lease_of(deliveries, given_up).await, done(Effects::default())).await;
}

async fn a_store_in_which_much_happened_is_well(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    live(&backend, &deliveries).await;
    // One who left messages and rows, and is forgotten.
    let gone = backend.consumers.attach(&name("gone"), crate::policy::Start::Now).await.unwrap();
    gone.configure(InboxPolicy { subscriptions: hears(&["com.*"]), ..policy() });
    let event = Custom { origin_id: Some("1".into()), ..custom("gone") };
    backend.intake.publish(vec![event]).await.unwrap().into_inner();
    let delivery = lease(&gone).await;
    let left = Effects { order_changes: Vec::new(), events: Vec::new(), ..everything(OrderId::generate(), 9) };
    accept(&gone, delivery, done(left)).await;
    settled(&backend, "gone").await;
    gone.configure(InboxPolicy { concurrency: 0, ..policy() });
    drop(gone);
    assert_eq!(backend.consumers.forget(&name("gone")).await.unwrap().into_inner(), Forgotten::Done);
    // More than a transaction of a store across a network holds.
    let large = placed(&backend, "large").await.id;
    let entries = (0..250).map(|n| (format!("large/{n}").into(), Some(b"v".as_slice().into()))).collect();
    accept(&deliveries, lease_of(&deliveries, large).await, done(Effects { entries, ..Effects::default() })).await;
    let pause = Pause { since: Timestamp::now(), reason: Some("test".into()) };
    assert!(backend.consumers.set_pause(&name("alpha"), Some(pause)).await.unwrap().into_inner());
    placed(&backend, "waits").await;
    // Some messages are out.
    let sent = eventually("messages are due", async || {
        let due = tokio::time::timeout(Duration::from_secs(1), backend.outgoing.due(2)).await.ok()?.unwrap();
        (!due.is_empty()).then_some(due)
    })
    .await;
    backend.outgoing.settle(sent.into_iter().map(|parcel| (parcel.id, Sending::Sent)).collect()).await.unwrap();

    let (rows, findings) = walk(&backend).await;
    assert_eq!(findings, []);
    assert_eq!((rows["orders"], rows["idempotency keys"], rows["messages"], rows["records"]), (8, 8, 3, 3), "{rows:?}");
    for rule in ["events", "consumers", "attempts", "state"] {
        assert!(rows[rule] > 0, "{rule} of {rows:?}");
    }
    let backend = home.reopen(backend).await;
    assert_eq!(walk(&backend).await.1, []);
}

async fn a_store_that_let_go_of_what_is_old_is_well(home: Place) {
    const SOON: Keep = Keep::For(Duration::from_millis(1));
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    let mut orders = Vec::new();
    for n in 0..10 {
        let order = placed(&backend, &format!("R-{n}")).await;
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        publish(&backend, "often").await;
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        let change = match n % 2 {
            0 => Change::Cancelled { reason: "test".into() },
            _ => Change::Confirmed {},
        };
        backend.intake.change(order.id, change).await.unwrap().into_inner();
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
        orders.push(order.id);
    }
    // Of this lane, the last event stays, and tells of one that goes.
    for _ in 0..2 {
        publish(&backend, "newest").await;
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    }
    settled(&backend, "alpha").await;
    let retention = Retention { events: SOON, orders: SOON, idempotency: SOON, ..Retention::default() };
    backend.upkeep.retain(retention);
    eventually("nothing old is left", async || (home.events_kept(&backend).await == 1).then_some(())).await;
    // Some lanes go on.
    backend.intake.change(orders[1], Change::Cancelled { reason: "late".into() }).await.unwrap().into_inner();
    publish(&backend, "often").await;
    for _ in 0..2 {
        accept(&deliveries, lease(&deliveries).await, done(Effects::default())).await;
    }
    assert_eq!(walk(&backend).await.1, []);
}

async fn a_store_that_is_backfilled_is_well(home: Place) {
    let backend = home.open().await;
    let mut orders = Vec::new();
    for n in 0..6 {
        orders.push(placed(&backend, &format!("R-{n}")).await.id);
    }
    let late = backend.consumers.attach(&name("late"), crate::policy::Start::Now).await.unwrap();
    late.configure(policy());
    let asked = Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1000000/s".parse().unwrap(),
        effects: BackfillEffects::All,
        of: Backfilled::Missed,
    };
    assert!(matches!(backend.backfills.start(&name("late"), asked).await.unwrap().into_inner(), Started::Yes(_)));
    // Some of the past is dead or waits, and what is live waits behind it.
    for n in 0..5 {
        let settlement = match n {
            0 => dead(),
            1 => later(Duration::from_secs(3_600)),
            _ => done(Effects::default()),
        };
        accept(&late, lease(&late).await, settlement).await;
    }
    for order in &orders {
        confirm(&backend, *order).await;
    }
    assert_eq!(walk(&backend).await.1, []);
    for _ in 0..5 {
        accept(&late, lease(&late).await, done(Effects::default())).await;
    }
    let (rows, findings) = walk(&backend).await;
    assert_eq!((findings.as_slice(), rows["backfills"] > 0), ([].as_slice(), true), "{rows:?}");
}

/// What becomes of the delivery of this number.
fn settlement(n: u64) -> Settlement {
    match n % 8 {
        0 => later(Duration::from_millis(n % 300)),
        1 => dead(),
        2 => done(Effects { order_changes: Vec::new(), ..everything(OrderId::generate(), n) }),
        _ => {
            let adjustments = vec![Adjustment { key: "count".into(), by: 1, floor: None }];
            done(Effects { adjustments, ..Effects::default() })
        }
    }
}

/// What workers do to one store for as long as it is looked through.
struct Load {
    backend: Backend,
    deliveries: Arc<dyn Inbox>,
    ends: AtomicBool,
    handled: AtomicU64,
}

impl Load {
    async fn place(self: Arc<Self>, worker: u64) {
        for n in 0.. {
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            let order = placed(&self.backend, &format!("{worker}-{n}")).await;
            publish(&self.backend, &format!("subject-{}", n % 3)).await;
            if n % 3 == 0 {
                // Its consumer may have been quicker.
                drop(self.backend.intake.change(order.id, Change::Cancelled { reason: "test".into() }).await.unwrap());
            }
        }
    }

    async fn handle(self: Arc<Self>) {
        while !self.ends.load(Ordering::Relaxed) {
            let Some(mut delivery) = self.deliveries.lease() else {
                drop(tokio::time::timeout(Duration::from_millis(20), self.deliveries.changed()).await);
                continue;
            };
            let n = self.handled.fetch_add(1, Ordering::Relaxed);
            while let Finished::Conflict(again) =
                self.deliveries.finish(delivery, &Reads::default(), settlement(n)).await
            {
                delivery = again;
            }
        }
    }

    /// A person redrives what died, half of it in vain, and discards the rest.
    async fn redrive(self: Arc<Self>) {
        while !self.ends.load(Ordering::Relaxed) {
            let alpha = name("alpha");
            drop(self.backend.dead_letters.retry(&alpha, Which::All.first(3)).await.unwrap());
            drop(self.backend.dead_letters.discard(&alpha, Which::All.first(1)).await.unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn a_check_under_load_finds_nothing(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    let keep = Keep::For(Duration::from_secs(3));
    let retention =
        Retention { events: keep, orders: keep, open_orders: keep, idempotency: keep, ..Retention::default() };
    backend.upkeep.retain(retention);
    let load = Load { backend: backend.clone(), deliveries, ends: AtomicBool::new(false), handled: AtomicU64::new(0) };
    let load = Arc::new(load);
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(Arc::clone(&load).place(worker));
        workers.spawn(Arc::clone(&load).handle());
    }
    workers.spawn(Arc::clone(&load).redrive());
    eventually("the load is there", async || (load.handled.load(Ordering::Relaxed) > 50).then_some(())).await;
    let before = load.handled.load(Ordering::Relaxed);
    for _ in 0..WALKS {
        let (rows, findings) = walk(&backend).await;
        assert_eq!(findings, [], "of {rows:?}");
    }
    assert!(load.handled.load(Ordering::Relaxed) > before, "others had the store, too");
    load.ends.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
}

claims! {
    a_store_in_which_much_happened_is_well on [embedded, aws],
    a_store_that_let_go_of_what_is_old_is_well on [embedded, aws],
    a_store_that_is_backfilled_is_well on [embedded, aws],
    a_check_under_load_finds_nothing on [embedded, aws],
}
