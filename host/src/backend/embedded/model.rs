//! The committer against a map: orders and events come, handlers read, wait and finish on what may have changed meanwhile,
//! batches fail, the store is closed and opened again; and what is durable is always what a map says.
//!
//! Every handling appends its event's position to an entry of its lane, to one that all lanes share, and takes from a
//! stock. So a lost, repeated or reordered delivery, and an effect that outlived its undone commit, each show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::{Embedded, Settings, start};
use crate::backend::{
    Backfill, BackfillEffects, BackfillStep, Backfilled, Backfills as _, Cause, CauseKind, Consumers as _,
    DeadLetters as _, Delivery, Error, Finished, Inbox, InboxPolicy, Intake as _, Journal as _, LetterQuery,
    Lifecycle as _, Origin, Pause, Placed, Placement, Ran, Result, Settlement, Since, StateQuery, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Reads};
use crate::event::{Custom, KindPattern};
use crate::order::{Change, Content, Customer, Order, OrderId};
use crate::policy::{ConsumerName, OnDead, Start};

const STOCK: i64 = 12;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Step {
    Place,
    Confirm(usize),
    Publish(u8),
    /// Lease and handle, and wait with the end.
    Handle,
    End(usize, How),
    FailBatch,
    Reopen,
    Pause(bool),
    Retry,
    Discard,
    Rebuild,
    Steer(BackfillStep),
    Compare,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Done,
    Retry,
    Dead,
    Released,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![8 => Just(How::Done), 1 => Just(How::Retry), 1 => Just(How::Dead), 1 => Just(How::Released)];
    prop_oneof![
        5 => Just(Step::Place),
        2 => (0_usize..6).prop_map(Step::Confirm),
        3 => (0_u8..3).prop_map(Step::Publish),
        12 => Just(Step::Handle),
        12 => (0_usize..6, how).prop_map(|(which, how)| Step::End(which, how)),
        1 => Just(Step::FailBatch),
        1 => Just(Step::Reopen),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Retry),
        1 => Just(Step::Discard),
        2 => Just(Step::Rebuild),
        1 => prop_oneof![
            1 => Just(BackfillStep::Pause), 2 => Just(BackfillStep::Resume), 1 => Just(BackfillStep::Cancel)
        ].prop_map(Step::Steer),
        2 => Just(Step::Compare),
    ]
}

/// A delivery that was handled and has not ended.
struct Held {
    delivery: Delivery,
    reads: Reads,
    effects: Effects,
}

struct World {
    folder: TempDir,
    /// Absent between two openings: it holds the lock of its folder.
    store: Option<Arc<Embedded>>,
    inbox: Arc<dyn Inbox>,
    held: Vec<Held>,
    orders: Vec<OrderId>,
    /// Positions whose dead letters were given up.
    discarded: BTreeSet<u64>,
}

fn name() -> ConsumerName {
    "alpha".parse().unwrap()
}

async fn open(folder: &TempDir) -> (Arc<Embedded>, Arc<dyn Inbox>) {
    let store = start(&Settings { data_dir: folder.path().to_owned() }).unwrap();
    let inbox = store.attach(&name(), Start::Beginning).await.unwrap();
    inbox.configure(InboxPolicy {
        subscriptions: ["*".parse::<KindPattern>().unwrap()].into_iter().collect(),
        concurrency: 6,
        rate: None,
        on_dead: OnDead::Park,
        state_bytes_max: 1 << 20,
        layout: None,
        back: None,
    });
    (store, inbox)
}

fn cause() -> Cause {
    Cause::new(CauseKind::Retry, "told to")
}

fn ran() -> Ran {
    Ran { version: "1.0.0".into(), duration: Duration::ZERO, calls: Vec::new() }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, inbox) = open(&folder).await;
        Self { folder, store: Some(store), inbox, held: Vec::new(), orders: Vec::new(), discarded: BTreeSet::new() }
    }

    fn store(&self) -> &Embedded {
        self.store.as_ref().unwrap()
    }

    /// What a store refuses while it goes back to what is durable was not kept: it is asked again.
    async fn insist<T>(&self, ask: impl AsyncFn(&Embedded) -> Result<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask(self.store()).await {
                Ok(answer) => return answer,
                Err(Error::Unavailable(_)) if Instant::now() < deadline => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Place => self.place().await,
            Step::Confirm(which) => {
                if let Some(order) = self.orders.get(which) {
                    // Refused where it is confirmed already.
                    let _ =
                        self.insist(async |store| store.change(*order, Change::Confirmed {}).await).await.into_inner();
                }
            }
            Step::Publish(subject) => self.publish(subject).await,
            Step::Handle => {
                if let Some(delivery) = self.inbox.lease() {
                    let held = self.handle(delivery).await;
                    self.held.push(held);
                }
            }
            Step::End(which, how) => {
                if !self.held.is_empty() {
                    let held = self.held.remove(which % self.held.len());
                    self.end(held, how).await;
                }
            }
            Step::FailBatch => {
                let failed = self.store().task(|_| Err::<(), _>(rusqlite::Error::InvalidQuery)).await;
                assert!(failed.is_err());
            }
            Step::Reopen => self.reopen().await,
            Step::Pause(paused) => {
                let pause = paused.then(|| Pause { since: Timestamp::now(), reason: None });
                let known = self.insist(async |store| store.set_pause(&name(), pause.clone()).await).await;
                assert!(known.into_inner());
            }
            Step::Retry => {
                self.durable().await;
                let _ =
                    self.insist(async |store| store.retry(&name(), Which::All.first(1_000)).await).await.into_inner();
            }
            Step::Discard => {
                self.durable().await;
                let query = LetterQuery { limit: 1_000, ..LetterQuery::default() };
                let letters = self.store().list(&name(), query).await.unwrap().items;
                self.discarded.extend(letters.iter().map(|letter| letter.position.get()));
                let _ =
                    self.insist(async |store| store.discard(&name(), Which::All.first(1_000)).await).await.into_inner();
            }
            Step::Rebuild => {
                let rebuild = Backfill {
                    from: Since::Beginning,
                    filter: None,
                    rate: "1000000/s".parse().unwrap(),
                    effects: BackfillEffects::StateOnly,
                    of: Backfilled::Rebuild,
                };
                // One that was cancelled is waited for. Refused where one is under way.
                for held in
                    self.held.extract_if(.., |held| held.delivery.origin == Origin::Backfill).collect::<Vec<_>>()
                {
                    self.end(held, How::Released).await;
                }
                let _ = self.insist(async |store| store.start(&name(), rebuild.clone()).await).await.into_inner();
            }
            Step::Steer(step) => {
                let _ = self.insist(async |store| store.steer(&name(), step).await).await.into_inner();
            }
            Step::Compare => self.compare().await,
        }
    }

    async fn place(&mut self) {
        let content = Content {
            reference: None,
            currency: "EUR".into(),
            customer: Customer { id: "c".into(), name: None, email: None, phone: None },
            lines: Vec::new(),
            total_amount: 0,
            shipping_address: None,
            metadata: BTreeMap::new(),
        };
        let order = Order::place(Arc::new(content), Timestamp::now());
        let place = async |store: &Embedded| {
            let placement = Placement { order: order.clone(), fingerprint: [0; 32], idempotency_key: None };
            store.place(placement).await
        };
        let Placed::New(order) = self.insist(place).await.into_inner() else { panic!("placed before") };
        self.orders.push(order.id);
    }

    async fn publish(&self, subject: u8) {
        let event = Custom {
            kind: "com.a".into(),
            source: "/test".into(),
            origin_id: None,
            subject: format!("subject-{subject}").into(),
            order_id: None,
            data: RawValue::from_string("{}".to_owned()).unwrap().into(),
        };
        let _ = self.insist(async |store| store.publish(vec![event.clone()]).await).await.into_inner();
    }

    async fn handle(&self, delivery: Delivery) -> Held {
        let view = self.inbox.view_for(&delivery);
        let position = delivery.event.position.to_string();
        let (mut reads, mut effects) = (Reads::default(), Effects::default());
        for key in [format!("lane/{}", delivery.event.lane()), "all".to_owned()] {
            let key: Arc<str> = key.into();
            let before = view.get(&key).await.unwrap();
            let mut text = before.as_deref().map_or(String::new(), |bytes| String::from_utf8(bytes.to_vec()).unwrap());
            reads.entries.push((Arc::clone(&key), before));
            text = format!("{text}{}{position}", if text.is_empty() { "" } else { "," });
            effects.entries.push((key, Some(text.into_bytes().into())));
        }
        let taken = view.count("taken").await.unwrap();
        let adjust = |key: &str, floor| Adjustment {
            key: key.into(),
            by: if floor { -1 } else { 1 },
            floor: floor.then_some(-STOCK),
        };
        if taken < STOCK {
            // Blindly, under its floor; with what was taken counted beside it.
            effects.adjustments.extend([adjust("stock", true), adjust("taken", false)]);
        } else {
            reads.counters.push(("taken".into(), taken));
        }
        effects.adjustments.push(adjust(&format!("seen/{position}"), false));
        Held { delivery, reads, effects }
    }

    async fn end(&self, held: Held, how: How) {
        let Held { delivery, reads, effects } = held;
        let settlement = match how {
            How::Done => Settlement::Done { effects, ran: ran() },
            How::Retry => Settlement::Retry { at: Timestamp::now(), cause: cause(), ran: ran() },
            How::Dead => Settlement::Dead { cause: cause(), ran: ran() },
            How::Released => Settlement::Released,
        };
        match self.inbox.finish(delivery, &reads, settlement).await {
            Finished::Accepted | Finished::Superseded => {}
            Finished::Full { excess, .. } => panic!("{excess:?} is within the limit"),
            // On a fresh view nothing can have changed: this is the only thread.
            Finished::Conflict(again) => {
                let Held { delivery, reads, effects } = self.handle(again).await;
                let again = self.inbox.finish(delivery, &reads, Settlement::Done { effects, ran: ran() }).await;
                assert!(matches!(again, Finished::Accepted | Finished::Superseded), "{again:?}");
            }
        }
    }

    async fn reopen(&mut self) {
        self.held.clear();
        self.store().close().await;
        self.store = None;
        let (store, inbox) = open(&self.folder).await;
        (self.store, self.inbox) = (Some(store), inbox);
    }

    /// Waits until everything that was finished is on disk.
    async fn durable(&self) {
        let () = self.insist(async |store| store.task(|_| Ok(())).await).await.into_inner();
    }

    async fn compare(&self) {
        self.durable().await;
        let query = StateQuery { limit: 10_000, ..StateQuery::default() };
        let state = self.store().state(&name(), query).await.unwrap();
        let counters: BTreeMap<String, i64> = state.counters.into_iter().collect();
        let seen: BTreeMap<u64, i64> = counters
            .iter()
            .filter_map(|(key, count)| Some((key.strip_prefix("seen/")?.parse().unwrap(), *count)))
            .collect();
        assert!(seen.values().all(|count| *count == 1), "an effect twice: {seen:?}");

        let events = self.store().events_after(None, 100_000).await.unwrap();
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in events.iter().filter(|event| seen.contains_key(&event.position.get())) {
            map.entry(format!("lane/{}", event.lane())).or_default().push(event.position.to_string());
        }
        let mut entries: BTreeMap<String, String> =
            state.entries.into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())).collect();
        let all = entries.remove("all").unwrap_or_default();
        let listed: BTreeSet<u64> = all.split(',').filter(|it| !it.is_empty()).map(|it| it.parse().unwrap()).collect();
        assert_eq!(listed, seen.keys().copied().collect(), "what all lanes share");
        // In journal order, whatever came between.
        assert_eq!(entries, map.into_iter().map(|(lane, positions)| (lane, positions.join(","))).collect());

        let taken = counters.get("taken").copied().unwrap_or(0);
        assert_eq!(counters.get("stock").copied().unwrap_or(0), -taken);
        assert!(taken <= STOCK, "{taken} taken of {STOCK}");
        let bytes = "SELECT (SELECT bytes FROM state_sizes AS s WHERE s.state = c.state),
                            (SELECT sum(octet_length(key) + octet_length(value)) FROM entries AS e WHERE e.state = c.state),
                            (SELECT sum(octet_length(key) + 8) FROM counters AS n WHERE n.state = c.state)
                     FROM consumers AS c";
        let read =
            move |disk: &Connection| disk.query_row(bytes, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]));
        let [counted, entries, counters]: [Option<u64>; 3] = self.store().store.read(read).await.unwrap();
        assert_eq!(counted.unwrap_or(0), entries.unwrap_or(0) + counters.unwrap_or(0), "bytes of all keys and values");

        let report = self.store().known().await.unwrap().remove(0);
        assert_eq!(report.done, seen.len() as u64);
        assert_eq!(report.pending, (events.len() - seen.len() - self.discarded.len()) as u64);
    }

    /// Everything that is left is done.
    async fn drain(&mut self) {
        self.held.clear();
        self.step(Step::Pause(false)).await;
        self.step(Step::Steer(BackfillStep::Resume)).await;
        self.reopen().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let _ = self.insist(async |store| store.retry(&name(), Which::All.first(1_000)).await).await.into_inner();
            while let Some(delivery) = self.inbox.lease() {
                let held = self.handle(delivery).await;
                self.end(held, How::Done).await;
            }
            self.durable().await;
            let report = self.store().known().await.unwrap().remove(0);
            if report.pending == 0 && report.backfill.is_none() {
                break;
            }
            assert!(Instant::now() < deadline, "something is left behind");
        }
        self.compare().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn what_is_durable_is_what_a_map_says(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
            world.drain().await;
            world.store().close().await;
        });
    }
}

/// A handling that read what was then undone must not act on it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_undone_is_not_durable() {
    let mut world = World::new().await;
    world.place().await;
    world.place().await;
    let (first, second) = (world.inbox.lease().unwrap(), world.inbox.lease().unwrap());
    // The committer is busy, so what follows is one batch.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let store = Arc::clone(world.store.as_ref().unwrap());
    let (begun, busy) = tokio::sync::oneshot::channel();
    let blocking = tokio::spawn(async move {
        let wait = move |_: &mut super::writer::Writer<'_>| {
            begun.send(()).unwrap();
            held.recv().ok();
            Ok(())
        };
        store.task(wait).await.map(drop)
    });
    busy.await.unwrap();
    let handled = world.handle(first).await;
    world.end(handled, How::Done).await;
    let view = world.inbox.view();
    assert!(view.get("all").await.unwrap().is_some(), "it is seen before it is durable");
    let failing = {
        let store = Arc::clone(world.store.as_ref().unwrap());
        tokio::spawn(async move { store.task(|_| Err::<(), _>(rusqlite::Error::InvalidQuery)).await.map(drop) })
    };
    while world.store().store.queue.depth() < 3 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    blocking.await.unwrap().unwrap();
    failing.await.unwrap().unwrap_err();
    let again = async |lease| loop {
        match view.durable(lease).await {
            // While the store goes back to what is durable it takes nothing.
            Err(Error::Unavailable(why)) if !why.contains("undone") => tokio::task::yield_now().await,
            ended => return ended,
        }
    };
    assert!(again(second.lease()).await.is_err());
    assert!(view.get("all").await.unwrap().is_none());
    let fresh = world.inbox.lease().unwrap();
    again(fresh.lease()).await.unwrap();
    assert_ne!(fresh.generation, second.generation, "a guest may remember what was undone");
}
