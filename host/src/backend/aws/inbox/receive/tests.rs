//! Against emulators: messages that come in any order, as those of a standard queue do.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use serde_json::value::RawValue;

use super::{AwsInbox, LaneKey, SEQ_MAX, Timestamp};
use crate::backend::aws::publisher::message;
use crate::backend::aws::seat::Seat;
use crate::backend::aws::settings::Settings;
use crate::backend::aws::store::Store;
use crate::backend::aws::{backend, store};
use crate::backend::{Backend, Delivery, Finished, Inbox, InboxPolicy, Ran, Settlement};
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

impl Handed {
    async fn open() -> Self {
        let prefix = format!("t-{}", uuid::Uuid::now_v7().simple()).parse().unwrap();
        let settings = Settings { prefix, provision: true, ..Settings::default() };
        let store = Box::pin(store(&settings, async |_| Ok(Seat::lent()))).await.unwrap();
        let backend = backend(Arc::clone(&store));
        let name: ConsumerName = "alpha".parse().unwrap();
        let inbox = backend.consumers.attach(&name, Start::Beginning).await.unwrap();
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
        let event = || {
            let data = RawValue::from_string("{}".into()).unwrap().into();
            let (kind, source) = ("com.example.a".into(), "/test".into());
            Custom { kind, source, origin_id: None, subject: subject.into(), order_id: None, data }
        };
        let _ = self.backend.intake.publish(vec![event(), event(), event()]).await.unwrap();
        let lane = LaneKey::of(&Lane::Subject(subject.into()));
        let logged = self.store.logged(&lane, 1, SEQ_MAX, usize::MAX).await.unwrap();
        assert_eq!(logged.iter().map(|it| it.seq).collect::<Vec<_>>(), [1, 2, 3]);
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
