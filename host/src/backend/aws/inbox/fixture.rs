//! A consumer on a host that receives nothing by itself: messages come as they are handed in. Against emulators.

use std::sync::Arc;

use aws_sdk_sqs::types::{Message, MessageAttributeValue};

use super::AwsInbox;
use crate::backend::aws::fixture::{alpha, policy, settings};
use crate::backend::aws::item::LaneKey;
use crate::backend::aws::publisher::message;
use crate::backend::aws::seat::Seat;
use crate::backend::aws::store::{SEQ_MAX, Store};
use crate::backend::aws::{backend, store};
use crate::backend::contract::done;
use crate::backend::{Backend, Delivery, Finished, Inbox};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::Lane;
use crate::policy::Start;

pub struct Handed {
    pub backend: Backend,
    pub store: Arc<Store>,
    pub inbox: Arc<AwsInbox>,
}

/// A store that nobody else uses, through a seat that nobody looks after.
pub async fn shop() -> (Backend, Arc<Store>) {
    let store = Box::pin(store(&settings(), async |_| Ok(Seat::lent()))).await.unwrap();
    (backend(Arc::clone(&store)), store)
}

pub fn lane(subject: &str) -> LaneKey {
    LaneKey::of(&Lane::Subject(subject.into()))
}

impl Handed {
    pub async fn open() -> Self {
        let (backend, store) = shop().await;
        Self::attached(backend, store, Start::Beginning).await
    }

    pub async fn attached(backend: Backend, store: Arc<Store>, start: Start) -> Self {
        backend.consumers.attach(&alpha(), start).await.unwrap().configure(policy());
        let inbox = store.inbox(&alpha()).unwrap();
        Self { backend, store, inbox }
    }

    /// The messages of all events of a lane, in its order.
    pub async fn messages(&self, lane: &LaneKey) -> Vec<Message> {
        let logged = self.store.logged(lane, 1, SEQ_MAX, usize::MAX).await.unwrap();
        assert!(logged.iter().map(|it| it.seq).eq(1..=logged.len() as u64));
        let of = |logged| {
            let (attributes, body) = message(logged, self.store.shared.table_id.as_deref()).unwrap();
            let attributes = attributes.map(|(name, value)| {
                let value = MessageAttributeValue::builder().data_type("String").string_value(value);
                (name.to_owned(), value.build().unwrap())
            });
            let id = format!("{lane} {}", logged.seq);
            let told = Message::builder().message_id(&id).receipt_handle(&id).body(body);
            told.set_message_attributes(Some(attributes.into())).build()
        };
        logged.iter().map(of).collect()
    }

    /// Brings the messages of all events of a subject in.
    pub async fn take_in(&self, subject: &str) {
        let messages = self.messages(&lane(subject)).await;
        self.inbox.take_in(messages).await;
    }

    /// Which event of its lane the delivery is of.
    pub fn seq(&self, delivery: &Delivery) -> u64 {
        self.inbox.desk.lock().running_of(delivery.lease.epoch).unwrap().logged.seq
    }

    pub fn lease(&self) -> Option<Delivery> {
        self.inbox.lease_live(Timestamp::now())
    }

    pub async fn done(&self, delivery: Delivery) {
        let finished = self.inbox.finish(delivery, &Reads::default(), done(Effects::default())).await;
        assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    }

    /// Handles what there is: the numbers of the events, as they come.
    pub async fn rest(&self) -> Vec<u64> {
        let mut handled = Vec::new();
        while let Some(delivery) = self.lease() {
            handled.push(self.seq(&delivery));
            self.done(delivery).await;
        }
        handled
    }
}
