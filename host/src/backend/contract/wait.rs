//! How claims wait: for conditions, with a deadline that only a fault reaches.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Place, accept, custom, done, hears, name, place, policy};
use crate::backend::{Backend, ConsumerReport, Delivery, Inbox, InboxPolicy};
use crate::effects::Effects;
use crate::event::Event;
use crate::order::OrderId;
use crate::policy::Start;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// What is placed to overtake what must not come. More than one, because order among lanes is not promised.
const SENTINELS: u64 = 3;

thread_local! {
    /// How long the claims of this thread wait for what must come. On AWS a request of a store that was closed may have taken a
    /// message, which is then hidden for a while, and more than once.
    static PATIENCE: Cell<Duration> = const { Cell::new(Duration::from_secs(120)) };
}

/// For claims that are to fail: they do so the sooner.
pub fn wait_no_longer_than(patience: Duration) {
    PATIENCE.set(patience);
}

/// When to give up.
pub struct Deadline(Instant);

impl Deadline {
    pub fn new() -> Self {
        Self(Instant::now() + PATIENCE.get())
    }

    /// Pauses before the next look.
    pub async fn pause(&self, seen: impl Debug) {
        assert!(Instant::now() < self.0, "waited in vain; last seen: {seen:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks until there is something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Deadline::new();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        deadline.pause(what).await;
    }
}

/// The next lease.
pub async fn lease(inbox: &Arc<dyn Inbox>) -> Delivery {
    let Deadline(deadline) = Deadline::new();
    loop {
        if let Some(delivery) = inbox.lease() {
            return delivery;
        }
        tokio::time::timeout_at(deadline, inbox.changed()).await.expect("there is something to lease");
    }
}

/// The next leases, of as many lanes, by their positions: lanes are leased in any order.
pub async fn leases<const N: usize>(inbox: &Arc<dyn Inbox>) -> [Delivery; N] {
    let mut leased = Vec::new();
    while leased.len() < N {
        leased.push(lease(inbox).await);
    }
    leased.sort_by_key(|delivery| delivery.event.position);
    leased.try_into().unwrap()
}

/// What is known of a consumer now.
pub async fn report(backend: &Backend, consumer: &str) -> ConsumerReport {
    let known = backend.consumers.known().await.unwrap();
    known.into_iter().find(|report| report.name == name(consumer)).unwrap()
}

/// What is known of a consumer once it is what is wanted.
pub async fn report_when(
    backend: &Backend,
    consumer: &str,
    wanted: impl Fn(&ConsumerReport) -> bool,
) -> ConsumerReport {
    let deadline = Deadline::new();
    loop {
        let report = report(backend, consumer).await;
        if wanted(&report) {
            return report;
        }
        deadline.pause(report).await;
    }
}

/// Waits until everything that was finished is durable and nothing is left to do but dead letters and what they park.
pub async fn settled(backend: &Backend, consumer: &str) -> ConsumerReport {
    report_when(backend, consumer, |report| report.pending == report.dead).await
}

/// The journal, once it tells of so many events.
pub async fn events(backend: &Backend, count: usize) -> Vec<Arc<Event>> {
    eventually("so many events in the journal", async || {
        let events = backend.journal.events_after(None, 10_000).await.unwrap();
        (events.len() == count).then_some(events)
    })
    .await
}

/// Asserts that the consumer has nothing to lease, though it may run more. Where messages are on their way, orders are placed
/// to overtake what must not come. Returns how many, each done.
pub async fn nothing_comes(home: &Place, backend: &Backend, inbox: &Arc<dyn Inbox>, why: &str) -> u64 {
    nothing_comes_but(home, inbox, why, async || place(backend).await.id).await
}

/// As [`nothing_comes`], with orders of which the consumer hears one event.
pub async fn nothing_comes_but(
    home: &Place,
    inbox: &Arc<dyn Inbox>,
    why: &str,
    heard: impl AsyncFn() -> OrderId,
) -> u64 {
    if home.delivers_at_once() {
        assert!(inbox.lease().is_none(), "{why}");
        return 0;
    }
    for _ in 0..SENTINELS {
        let sentinel = heard().await;
        let delivery = lease(inbox).await;
        assert_eq!(delivery.event.order_id(), Some(sentinel), "{why}");
        accept(inbox, delivery, done(Effects::default())).await;
    }
    SENTINELS
}

/// Asserts that a consumer which may start nothing starts nothing. Where messages are on their way, others are leased
/// meanwhile by a consumer that hears of what nobody else does.
pub async fn stays_quiet(home: &Place, backend: &Backend, inbox: &Arc<dyn Inbox>) {
    assert!(inbox.lease().is_none());
    if home.delivers_at_once() {
        return;
    }
    let witness = backend.consumers.attach(&name("witness"), Start::Now).await.unwrap();
    witness.configure(InboxPolicy { subscriptions: hears(&["com.example.witnessed"]), ..policy() });
    for _ in 0..SENTINELS {
        let event = crate::event::Custom { kind: "com.example.witnessed".into(), ..custom("witness") };
        backend.intake.publish(vec![event]).await.unwrap().into_inner();
        accept(&witness, lease(&witness).await, done(Effects::default())).await;
        assert!(inbox.lease().is_none());
    }
}

/// Tells many stories, each at a place of its own, and of those that end badly the shortest.
pub fn tell<S: Strategy>(home: &Place, many: u32, steps: S, story: impl AsyncFn(Place, S::Value)) {
    let config =
        Config { cases: home.cases(many), max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let told = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&steps, |steps| {
            Handle::current().block_on(story(home.another(), steps));
            Ok(())
        })
    });
    if let Err(error) = told {
        panic!("{error}");
    }
}
