//! Against emulators: messages that come in any order, as those of a standard queue do.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use serde_json::value::RawValue;

use super::{AwsInbox, Key, LaneKey, SEQ_MAX, Timestamp};
use crate::backend::aws::publisher::message;
use crate::backend::aws::seat::Seat;
use crate::backend::aws::settings::Settings;
use crate::backend::aws::store::Store;
use crate::backend::aws::{backend, store};
use crate::backend::{
    Backend, Backfill, BackfillEffects, Backfilled, Delivery, Finished, Inbox, InboxPolicy, Ran, Settlement, Since,
    Started,
};
use crate::effects::{Effects, Reads};
use crate::event::{Custom, KindPattern, Lane};
use crate::policy::{ConsumerName, OnDead, Start};

/// Every order in which the messages of a lane's events can come.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A consumer on a host that receives nothing by itself, so that messages come as they are handed in.
struct Handed {
    backend: Backend,
    store: Arc<Store>,
    inbox: Arc<AwsInbox>,
}

async fn shop() -> (Backend, Arc<Store>) {
    let prefix = format!("t-{}", uuid::Uuid::now_v7().simple()).parse().unwrap();
    let settings = Settings { prefix, provision: true, ..Settings::default() };
    let store = Box::pin(store(&settings, async |_| Ok(Seat::lent()))).await.unwrap();
    (backend(Arc::clone(&store)), store)
}

fn event(subject: &str) -> Custom {
    let data = RawValue::from_string("{}".into()).unwrap().into();
    let (kind, source) = ("com.example.a".into(), "/test".into());
    Custom { kind, source, origin_id: None, subject: subject.into(), order_id: None, data }
}

fn lane(subject: &str) -> LaneKey {
    LaneKey::of(&Lane::Subject(subject.into()))
}

impl Handed {
    async fn open() -> Self {
        let (backend, store) = shop().await;
        Self::attached(backend, store, Start::Beginning).await
    }

    async fn attached(backend: Backend, store: Arc<Store>, start: Start) -> Self {
        let name: ConsumerName = "alpha".parse().unwrap();
        let inbox = backend.consumers.attach(&name, start).await.unwrap();
        inbox.configure(InboxPolicy {
            subscriptions: std::iter::once("com.*".parse::<KindPattern>().unwrap()).collect(),
            concurrency: 8,
            rate: None,
            on_dead: OnDead::Park,
            state_bytes_max: 1 << 30,
            layout: None,
            back: None,
        });
        let inbox = store.inbox(&name).unwrap();
        Self { backend, store, inbox }
    }

    /// The messages of three events of a lane, in its order.
    async fn three(&self, subject: &str) -> Vec<Message> {
        let _ = self.backend.intake.publish(vec![event(subject), event(subject), event(subject)]).await.unwrap();
        let messages = self.messages(subject).await;
        assert_eq!(messages.len(), 3);
        messages
    }

    /// The messages of all events of a lane, in its order.
    async fn messages(&self, subject: &str) -> Vec<Message> {
        let logged = self.store.logged(&lane(subject), 1, SEQ_MAX, usize::MAX).await.unwrap();
        assert!(logged.iter().map(|it| it.seq).eq(1..=logged.len() as u64));
        let of = |logged| {
            let (attributes, body) = message(logged).unwrap();
            let attributes = attributes.map(|(name, value)| {
                let value = MessageAttributeValue::builder().data_type("String").string_value(value);
                (name.to_owned(), value.build().unwrap())
            });
            let id = format!("{subject} {}", logged.seq);
            let told = Message::builder().message_id(&id).receipt_handle(&id).body(body);
            told.set_message_attributes(Some(attributes.into())).build()
        };
        logged.iter().map(of).collect()
    }

    /// Which event of its lane the delivery is of.
    fn seq(&self, delivery: &Delivery) -> u64 {
        self.inbox.desk.lock().running_of(delivery.lease.epoch).unwrap().logged.seq
    }

    fn lease(&self) -> Option<Delivery> {
        self.inbox.lease_live(Timestamp::now())
    }

    async fn done(&self, delivery: Delivery) {
        let ran = Ran { version: "1".into(), duration: Duration::from_micros(10), calls: Vec::new() };
        let settlement = Settlement::Done { effects: Effects::default(), ran };
        let finished = self.inbox.finish(delivery, &Reads::default(), settlement).await;
        assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    }

    /// Handles what there is: the numbers of the events, as they come.
    async fn rest(&self) -> Vec<u64> {
        let mut handled = Vec::new();
        while let Some(delivery) = self.lease() {
            handled.push(self.seq(&delivery));
            self.done(delivery).await;
        }
        handled
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_lane_are_handled_in_its_order_whatever_the_order_of_their_messages() {
    let handed = Handed::open().await;
    for order in ORDERS {
        let messages = handed.three(&format!("one by one, {order:?}")).await;
        let [first, second, third] = order.map(|at| messages[at].clone());
        handed.inbox.take_in(vec![first]).await;
        let running = handed.lease().unwrap();
        let mut seen = vec![handed.seq(&running)];
        handed.inbox.take_in(vec![second]).await;
        assert!(handed.lease().is_none(), "one of a lane at a time");
        handed.done(running).await;
        seen.extend(handed.rest().await);
        handed.inbox.take_in(vec![third]).await;
        seen.extend(handed.rest().await);
        assert_eq!(seen, [1, 2, 3], "one by one, while the first that came is handled: {order:?}");

        let messages = handed.three(&format!("two at once, {order:?}")).await;
        let [first, second, third] = order.map(|at| messages[at].clone());
        handed.inbox.take_in(vec![first, second]).await;
        let mut seen = handed.rest().await;
        handed.inbox.take_in(vec![third]).await;
        seen.extend(handed.rest().await);
        assert_eq!(seen, [1, 2, 3], "two at once: {order:?}");
    }
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_once_more_has_nothing_wait_for_the_history_of_its_lane() {
    let (subject, (backend, store)) = ("late", shop().await);
    let _ = backend.intake.publish(vec![event(subject)]).await.unwrap();
    let handed = Handed::attached(backend, store, Start::Now).await;
    let Handed { backend, store, inbox } = &handed;
    let _ = backend.intake.publish(vec![event(subject)]).await.unwrap();
    let live = handed.messages(subject).await.remove(1);
    inbox.take_in(vec![live.clone()]).await;
    assert_eq!(handed.rest().await, [2]);

    let asked = Backfill {
        from: Since::Beginning,
        filter: None,
        rate: "1/s".parse().unwrap(),
        effects: BackfillEffects::All,
        of: Backfilled::Missed,
    };
    let started = backend.backfills.start(&inbox.name, asked).await.unwrap().into_inner();
    assert!(matches!(started, Started::Yes(report) if report.events == 1));
    inbox.refresh_fills().await.unwrap();
    inbox.take_in(vec![live]).await;
    let stands = store.table.get(&Key::due(&inbox.name, &lane(subject))).await.unwrap();
    assert_eq!(stands, None, "nothing of the lane is to be done");

    let _ = backend.intake.publish(vec![event(subject)]).await.unwrap();
    inbox.take_in(handed.messages(subject).await).await;
    let stands = store.table.get(&Key::due(&inbox.name, &lane(subject))).await.unwrap();
    assert!(stands.is_some_and(|item| item.number::<u64>("q").unwrap() == 3), "the new one waits");
    backend.lifecycle.close().await;
}
