//! Against emulators: hosts that die within a sweep, and hosts that sweep at the same time.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use serde_json::value::RawValue;

use super::lanes::{Letting, Old};
use super::needs::limits;
use super::sweep::old_lanes;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::due;
use crate::backend::aws::item::{Item, Key, LaneKey, number};
use crate::backend::aws::journal::POSITION_MAX;
use crate::backend::aws::lane::OLD_ORDERS;
use crate::backend::aws::place::{Head, HeadState, Place};
use crate::backend::aws::seat::Seat;
use crate::backend::aws::settings::Settings;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Indexed, Span, Table};
use crate::backend::aws::{Aws, Clients, hosts, resources};
use crate::backend::{Changed, HeldBy, Intake as _, Keep, Placed, Placement, Result, Retention};
use crate::clock::Timestamp;
use crate::event::{Custom, Lane};
use crate::order::{Change, Content, Customer, Line, Order, OrderId};
use crate::policy::ConsumerName;

const SOON: Keep = Keep::For(Duration::from_millis(1));
/// How long a message may be in the queue of its consumer, and then in that for dead letters.
const IN_QUEUES: Duration = Duration::from_secs(28 * 24 * 3_600);
const SHORT: Retention = Retention {
    events: SOON,
    orders: SOON,
    open_orders: SOON,
    attempts: SOON,
    messages: SOON,
    records: SOON,
    idempotency: SOON,
};
const EVENTS_ALONE: Retention = Retention { orders: Keep::Forever, open_orders: Keep::Forever, ..SHORT };

/// A store on which nothing goes by itself, and a consumer that knows of its lanes.
struct Shop {
    aws: Aws,
    consumers: Vec<Known>,
}

impl Shop {
    async fn open() -> Self {
        let prefix = format!("t-{}", uuid::Uuid::now_v7().simple()).parse().unwrap();
        let settings = Settings { prefix, provision: true, ..Settings::default() };
        let clients = Clients::connect(&settings).await.unwrap();
        let shared = resources::ensure(&clients, &settings).await.unwrap();
        let slot =
            hosts::claim(&Table::new(clients.dynamodb.clone(), shared.table.clone()), hosts::Stay::Kept).await.unwrap();
        let aws = Aws { store: Arc::new(Store::new(clients, settings, shared, Seat::Kept(slot))) };
        let alpha: ConsumerName = "alpha".parse().unwrap();
        let item = ["start", "cua", "cuu"].iter();
        let item = item.fold(Item::at(&Key::consumer(&alpha)), |item, name| item.with(name, number(0)));
        Self { aws, consumers: vec![Known::read(&item).unwrap()] }
    }

    fn store(&self) -> &Store {
        &self.aws.store
    }

    fn letting(&self, retention: Retention) -> Letting<'_> {
        let now = Timestamp::now().plus(Duration::from_secs(1));
        Letting { store: self.store(), consumers: &self.consumers, retention, now }
    }

    async fn place(&self, reference: &str) -> OrderId {
        let content = Content {
            reference: Some(reference.to_owned()),
            currency: "EUR".into(),
            customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
            lines: vec![Line { sku: "A".into(), title: None, quantity: 1, unit_amount: 1, discount_amount: 0 }],
            total_amount: 1,
            shipping_address: None,
            metadata: BTreeMap::default(),
        };
        let order = Order::place(Arc::new(content), Timestamp::now());
        let placement = Placement { order, fingerprint: [0; 32], idempotency_key: None };
        match self.aws.place(placement).await.unwrap().into_inner() {
            Placed::New(order) => order.id,
            other => panic!("{other:?}"),
        }
    }

    async fn publish(&self, subject: &str, order_id: Option<OrderId>) {
        let data = RawValue::from_string("{}".into()).unwrap().into();
        let (kind, source) = ("com.example.a".into(), "/test".into());
        let event = Custom { kind, source, origin_id: None, subject: subject.into(), order_id, data };
        let _ = self.aws.publish(vec![event]).await.unwrap();
    }

    /// The consumer is through with the lane.
    async fn through(&self, lane: &LaneKey, seq: u64) {
        let place = Place::default().through(seq, None, None);
        let key = Key::place(&self.consumers[0].name, lane);
        assert!(self.store().table.update(&key, place.change().unwrap()).await.unwrap().is_some());
    }

    /// What a sweep finds of a lane.
    async fn found(&self, lane: &LaneKey) -> Option<Old> {
        let keys = self.store().log(0, POSITION_MAX, false, 10_000).await.unwrap();
        old_lanes(&keys).unwrap().into_iter().find(|old| old.lane == *lane)
    }

    /// Whether a sweep finds the lane's order among those without events.
    async fn found_old(&self, lane: &LaneKey) -> bool {
        let (partition, to) = (OLD_ORDERS.into(), POSITION_MAX);
        let old = Indexed { partition, from: 0, to, newest_first: false, limit: 10_000 };
        let keys = self.store().table.indexed(old).await.unwrap();
        old_lanes(&keys).unwrap().iter().any(|old| old.lane == *lane)
    }

    /// Sort keys of what is kept of a lane.
    async fn kept(&self, lane: &LaneKey) -> Vec<String> {
        let (partition, from, to) = (lane.partition(), "!".into(), "~".into());
        let items =
            self.store().table.query(Span { partition, from, to, newest_first: false, limit: 100 }).await.unwrap();
        items.iter().map(|item| item.text("sk").unwrap().to_owned()).collect()
    }

    /// The lane went whole, with all that was known of it, and its numbers go on.
    async fn is_gone(&self, id: OrderId, reference: &str, cut: usize) {
        let lane = LaneKey::of(&Lane::Order(id));
        let store = self.store();
        assert_eq!(self.kept(&lane).await, ["e#0000000003"], "what ends the lane, cut off after {cut}");
        assert!(self.found(&lane).await.is_none() && !self.found_old(&lane).await);
        assert!(store.table.get(&Key::reference(reference)).await.unwrap().is_none(), "cut off after {cut}");
        let place = store.table.get(&Key::place(&self.consumers[0].name, &lane)).await.unwrap().unwrap();
        let end = store.table.get(&Key::event(&lane, 3)).await.unwrap().unwrap();
        let [place_goes, end_goes] = [place, end].map(|item| item.number::<u64>("ttl").unwrap());
        let outlives = Timestamp::now().as_millis() / 1_000 + IN_QUEUES.as_secs();
        assert!(outlives < place_goes && place_goes < end_goes, "{place_goes} {end_goes}, cut off after {cut}");
        assert!(store.order(id).await.unwrap().0.is_none());
        let refused = self.aws.change(id, Change::Confirmed {}).await.unwrap().into_inner();
        assert!(matches!(refused, Changed::UnknownOrder), "{refused:?}");
        self.publish("late", Some(id)).await;
        assert_eq!(store.tail(&lane).await.unwrap().seq, 4, "cut off after {cut}");
    }
}

/// Runs something as a host does that dies: whether it came to its end.
async fn cut_off(cut: usize, run: impl Future<Output = Result<()>>) -> bool {
    let (mut run, mut polls) = (pin!(run), 0);
    std::future::poll_fn(|context| {
        if polls == cut {
            return Poll::Ready(false);
        }
        polls += 1;
        run.as_mut().poll(context).map(|done| {
            done.unwrap();
            true
        })
    })
    .await
}

#[tokio::test]
async fn a_sweep_that_is_cut_off_anywhere_is_ended_by_the_next_one() {
    let shop = Shop::open().await;
    for cut in 0.. {
        let reference = format!("R-{cut}");
        let id = shop.place(&reference).await;
        let lane = LaneKey::of(&Lane::Order(id));
        let _ = shop.aws.change(id, Change::Cancelled { reason: "test".into() }).await.unwrap();
        shop.through(&lane, 2).await;
        let old = Old { lane: lane.clone(), first: 1, last: 2 };
        let is_whole = cut_off(cut, shop.letting(SHORT).events(&old)).await;
        if let Some(rest) = shop.found(&lane).await {
            assert!(!is_whole, "nothing is found again: {rest:?}");
            shop.letting(SHORT).events(&rest).await.unwrap();
        }
        shop.is_gone(id, &reference, cut).await;
        if is_whole {
            assert!(cut > 4, "it was cut off at many places");
            return;
        }
    }
}

#[tokio::test]
async fn an_order_that_outlives_its_events_goes_later_wherever_a_sweep_is_cut_off() {
    let shop = Shop::open().await;
    for cut in 0.. {
        let reference = format!("R-{cut}");
        let id = shop.place(&reference).await;
        let lane = LaneKey::of(&Lane::Order(id));
        let _ = shop.aws.change(id, Change::Confirmed {}).await.unwrap();
        shop.through(&lane, 2).await;
        let old = Old { lane: lane.clone(), first: 1, last: 2 };
        let mut is_whole = cut_off(cut, shop.letting(EVENTS_ALONE).events(&old)).await;
        if let Some(rest) = shop.found(&lane).await {
            shop.letting(EVENTS_ALONE).events(&rest).await.unwrap();
        }
        assert!(shop.found(&lane).await.is_none(), "cut off after {cut}");
        assert_eq!(shop.kept(&lane).await, ["e#0000000001", "e#0000000002"], "cut off after {cut}");
        assert!(shop.store().logged_after(&lane, 0, 10).await.unwrap().is_empty());
        let order = shop.store().order(id).await.unwrap().0.unwrap();
        assert_eq!((order.revision, order.content.reference.as_ref()), (2, Some(&reference)));

        is_whole &= cut_off(cut, shop.letting(SHORT).order(&lane)).await;
        if shop.found_old(&lane).await {
            shop.letting(SHORT).order(&lane).await.unwrap();
        }
        shop.is_gone(id, &reference, cut).await;
        if is_whole {
            return;
        }
    }
}

#[tokio::test]
async fn hosts_that_sweep_at_once_take_nothing_that_comes_meanwhile() {
    let shop = Shop::open().await;
    for round in 0..20 {
        let subject = format!("s-{round}");
        let lane = LaneKey::of(&Lane::Subject(subject.as_str().into()));
        shop.publish(&subject, None).await;
        shop.publish(&subject, None).await;
        shop.through(&lane, 2).await;
        let old = Old { lane: lane.clone(), first: 1, last: 2 };
        let (one, other) = (shop.letting(SHORT), shop.letting(SHORT));
        let (one, other, ()) = tokio::join!(one.events(&old), other.events(&old), shop.publish(&subject, None));
        one.unwrap();
        other.unwrap();
        let left = shop.store().logged_after(&lane, 0, 10).await.unwrap();
        assert!(matches!(&left[..], [only] if only.seq > 2), "{left:?}");

        let id = shop.place(&format!("R-{round}")).await;
        let lane = LaneKey::of(&Lane::Order(id));
        shop.through(&lane, 1).await;
        let old = Old { lane: lane.clone(), first: 1, last: 1 };
        let (one, other) = (shop.letting(SHORT), shop.letting(SHORT));
        let change = shop.aws.change(id, Change::Confirmed {});
        let (one, other, changed) = tokio::join!(one.events(&old), other.events(&old), change);
        one.unwrap();
        other.unwrap();
        let (order, left) =
            (shop.store().order(id).await.unwrap().0, shop.store().logged_after(&lane, 0, 10).await.unwrap());
        match changed.unwrap().into_inner() {
            Changed::Done(_) => assert_eq!((order.map(|order| order.revision), left.len()), (Some(2), 1)),
            other => assert!(matches!(other, Changed::UnknownOrder) && order.is_none() && left.is_empty()),
        }
    }
}

#[tokio::test]
async fn what_a_consumer_stands_at_stays_whatever_was_seen_before() {
    let shop = Shop::open().await;
    let lane = LaneKey::of(&Lane::Subject("tea".into()));
    shop.publish("tea", None).await;
    let head = Head { seq: 1, state: HeadState::Dead, attempts: 1, first_at: None, replayed: false, from: None };
    let change = Place::default().at(head).change().unwrap();
    shop.store().table.update(&Key::place(&shop.consumers[0].name, &lane), change).await.unwrap().unwrap();
    shop.letting(SHORT).events(&Old { lane: lane.clone(), first: 1, last: 1 }).await.unwrap();
    assert_eq!(shop.store().logged_after(&lane, 0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_known_of_a_lane_that_goes_on_stays() {
    let shop = Shop::open().await;
    let alpha = &shop.consumers[0].name;
    let id = shop.place("R-1").await;
    let lane = LaneKey::of(&Lane::Order(id));
    let _ = shop.aws.change(id, Change::Confirmed {}).await.unwrap();
    shop.through(&lane, 2).await;
    let attempts = [1, 2].map(|seq| Key::attempt(alpha, &lane, seq, 1));
    shop.store().table.put_all(attempts.iter().map(Item::at).collect()).await.unwrap();
    shop.letting(SHORT).events(&Old { lane: lane.clone(), first: 1, last: 1 }).await.unwrap();
    let left = shop.store().table.get_all(attempts.clone()).await.unwrap();
    assert_eq!(left.into_keys().collect::<Vec<_>>(), attempts[1..]);
    let place = shop.store().table.get(&Key::place(alpha, &lane)).await.unwrap().unwrap();
    assert_eq!(place.number_or_none::<u64>("ttl").unwrap(), None, "what it is through with would come again");
}

#[tokio::test]
async fn of_an_order_that_stays_its_first_event_and_its_last_stay_until_its_time() {
    let shop = Shop::open().await;
    let id = shop.place("R-1").await;
    let lane = LaneKey::of(&Lane::Order(id));
    let _ = shop.aws.change(id, Change::Confirmed {}).await.unwrap();
    shop.letting(EVENTS_ALONE).events(&Old { lane: lane.clone(), first: 1, last: 2 }).await.unwrap();
    assert_eq!(shop.kept(&lane).await, ["e#0000000001", "e#0000000002"]);
    let _ = shop.aws.change(id, Change::Cancelled { reason: "test".into() }).await.unwrap();
    shop.letting(EVENTS_ALONE).events(&Old { lane: lane.clone(), first: 3, last: 3 }).await.unwrap();
    assert_eq!(shop.kept(&lane).await, ["e#0000000001", "e#0000000003"]);
    let for_an_hour = Retention { orders: Keep::For(Duration::from_secs(3_600)), ..SHORT };
    shop.letting(for_an_hour).order(&lane).await.unwrap();
    assert_eq!(shop.kept(&lane).await, ["e#0000000001", "e#0000000003"]);
    shop.letting(SHORT).order(&lane).await.unwrap();
    assert_eq!(shop.kept(&lane).await, ["e#0000000004"], "what ends the lane");
}

/// Consumers that the table knows, from the beginning on.
async fn known(shop: &Shop) {
    let item = ["start", "cua", "cuu"].iter();
    let item = item.fold(Item::at(&Key::consumer(&shop.consumers[0].name)), |item, name| item.with(name, number(0)));
    shop.store().table.put_all(vec![item]).await.unwrap();
}

#[tokio::test]
async fn what_was_not_looked_at_of_a_consumer_far_behind_stays() {
    let shop = Shop::open().await;
    known(&shop).await;
    let lane = LaneKey::of(&Lane::Subject("tea".into()));
    // Many more than are looked at in one go.
    let data: Arc<RawValue> = RawValue::from_string("{}".into()).unwrap().into();
    let (kind, source) = ("com.example.a".into(), "/test".into());
    let event =
        Custom { kind, source, origin_id: None, subject: "tea".into(), order_id: None, data: Arc::clone(&data) };
    for _ in 0..50 {
        let _ = shop.aws.publish(vec![event.clone(); 50]).await.unwrap();
    }
    let last = shop.store().tail(&lane).await.unwrap();
    assert_eq!(last.seq, 2_500);
    shop.through(&lane, last.seq - 1).await;
    let limits = limits(shop.store(), POSITION_MAX).await.unwrap();
    assert!(limits.last < last.position, "{limits:?}");
    assert!(matches!(limits.by, Some((_, HeldBy::Position))), "{limits:?}");
}

#[tokio::test]
async fn nothing_goes_while_a_consumer_has_more_that_is_due_than_is_looked_at() {
    let shop = Shop::open().await;
    known(&shop).await;
    let alpha = &shop.consumers[0].name;
    let dues = (0..=1_000).map(|n| {
        let lane = LaneKey::of(&Lane::Subject(n.to_string().as_str().into()));
        due::item(&Key::due(alpha, &lane), &lane, 1, Timestamp::now())
    });
    let dues: Vec<Item> = dues.collect();
    let one = dues[0].key().unwrap();
    shop.store().table.put_all(dues).await.unwrap();
    assert_eq!(limits(shop.store(), POSITION_MAX).await.unwrap().last, 0);
    // Of these, the events are known, and there are none.
    shop.store().table.delete(&one).await.unwrap();
    assert_eq!(limits(shop.store(), POSITION_MAX).await.unwrap().last, POSITION_MAX);
}
