//! Messages of the consumer's queue: taken in, held while their events wait or run, and deleted.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::operation::receive_message::ReceiveMessageError;
use aws_sdk_sqs::operation::send_message::SendMessageError;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
};
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout, timeout_at};

use super::AwsInbox;
use super::desk::{Added, LaneIn, Receipt, Work};
use super::silence::{AGAIN, Silence};
use crate::backend::aws::due;
use crate::backend::aws::gather::pace;
use crate::backend::aws::item::{Key, LaneKey};
use crate::backend::aws::lane::{ENVELOPE_VERSION, Envelope, Logged};
use crate::backend::aws::place::Place;
use crate::backend::aws::publisher::ENVELOPE_ATTRIBUTE;
use crate::backend::aws::store::{SEQ_MAX, Store};
use crate::backend::aws::table::failed;
use crate::backend::{Error, Result};
use crate::clock::Timestamp;
use crate::fault::{self, Point};

/// What SQS gives and takes at once.
const BATCH_MAX: i32 = 10;
const DELETED_MAX: usize = 10;
/// How long SQS holds a question open.
const POLL_SECONDS: i32 = 20;
/// For how long a message is nobody else's, and how often that is said again. Most are done long before; the message of a host
/// that dies, or that hangs up while SQS answers, comes again this soon.
const VISIBILITY_SECONDS: i32 = 15;
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Questions at once while there is much to take.
const POLLS_MAX: usize = 8;
/// Deliveries in memory for each that may run, and at least: so many that none waits for SQS, and so few that other hosts
/// get theirs.
const HELD_PER_RUNNING: usize = 4;
const HELD_MIN: usize = 32;
/// A step of [`pace`] between the beginnings of two questions while messages come, so that they come many at once.
const PACE: Duration = Duration::from_millis(25);
/// As such a step, how long messages to be deleted wait for others. The next event of their lane waits with them.
const GATHER: Duration = Duration::from_millis(40);

pub fn start(inbox: &Arc<AwsInbox>) {
    inbox.tasks.spawn(Arc::clone(inbox).poll(true));
    inbox.tasks.spawn(Arc::clone(inbox).renew());
}

impl AwsInbox {
    /// Asks for messages, over and over. The first one never ends; others help while batches are full.
    fn poll(self: Arc<Self>, first: bool) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.ask(first).await })
    }

    async fn ask(self: &Arc<Self>, first: bool) {
        let ending = self.ending.clone();
        let mut silence = Silence::default();
        loop {
            let open = {
                let desk = self.desk.lock();
                let held = (desk.concurrency() * HELD_PER_RUNNING).max(HELD_MIN) + desk.settling_count();
                desk.is_open() && desk.len() < held
            };
            if !open {
                if !first {
                    break;
                }
                tokio::select! {
                    () = self.room.notified() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                    () = ending.cancelled() => break,
                }
                continue;
            }
            let began = Instant::now();
            let received = tokio::select! {
                received = self.receive(if silence.is_over() { POLL_SECONDS } else { 0 }) => received,
                () = ending.cancelled() => break,
            };
            let count = match received {
                Ok(messages) => {
                    self.hear_of_queue(None);
                    if silence.end() {
                        tracing::info!(consumer = %self.name, "the queue answers again");
                    }
                    let count = messages.len();
                    if count > 0 {
                        fault::pass(Point::CloudReceived);
                        self.take_in(messages).await;
                    }
                    count
                }
                Err(error) => {
                    let why = match &error {
                        Error::Unavailable(why) | Error::Failed(why) => Arc::clone(why),
                        other => other.to_string().into(),
                    };
                    let (wait, is_news) = silence.go_on(&why);
                    self.hear_of_queue(Some(&why));
                    if is_news {
                        tracing::warn!(consumer = %self.name, %error, "the queue does not answer; it is asked again");
                    }
                    drop(timeout(wait, ending.cancelled()).await);
                    0
                }
            };
            let full = i32::try_from(count) == Ok(BATCH_MAX);
            if full && self.join_polls() {
                self.tasks.spawn(Arc::clone(self).poll(false));
            }
            if !full {
                if !first {
                    break;
                }
                if count > 0 {
                    drop(timeout_at(began + pace(PACE, count), ending.cancelled()).await);
                }
            }
        }
        if !first {
            self.polls.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Whether one more may ask.
    fn join_polls(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.polls.fetch_update(Relaxed, Relaxed, |polls| (polls + 1 < POLLS_MAX).then_some(polls + 1)).is_ok()
    }

    /// Messages, as soon as there is one, or none after so many `seconds`.
    async fn receive(self: &Arc<Self>, seconds: i32) -> Result<Vec<Message>> {
        let request = self.store.clients.polling.receive_message().queue_url(&self.queue.url);
        let request = request
            .max_number_of_messages(BATCH_MAX)
            .wait_time_seconds(seconds)
            .visibility_timeout(VISIBILITY_SECONDS)
            .message_attribute_names(ENVELOPE_ATTRIBUTE)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let answer = request.send().await.map_err(|error| {
            if error.as_service_error().is_some_and(ReceiveMessageError::is_queue_does_not_exist) {
                self.look_at_way();
                let url = &self.queue.url;
                return Error::Failed(format!("{url} is gone; `fanfare provision` makes the queue anew").into());
            }
            failed("ReceiveMessage", &error)
        })?;
        Ok(answer.messages.unwrap_or_default())
    }

    pub(super) async fn take_in(self: &Arc<Self>, messages: Vec<Message>) {
        if !self.desk.lock().is_here() {
            // They were asked for before that. Others may handle what is not even wanted here.
            return self.acknowledge_none(messages.into_iter().filter_map(|message| message.receipt_handle).collect());
        }
        let mut works = Vec::new();
        for message in messages {
            let Some(receipt) = message.receipt_handle.clone() else { continue };
            match open(&self.store, &message).await {
                Ok(Opened::Event(logged)) => {
                    let mut work = Work::new(*logged);
                    work.receipts.push(receipt);
                    works.push(work);
                }
                Ok(Opened::Gone) => self.acknowledge(vec![receipt]),
                Ok(Opened::Newer) => {
                    tracing::warn!(consumer = %self.name, "an event of a newer host waits in the queue: update this host");
                    self.hand_back(|| vec![receipt]);
                }
                Ok(Opened::Nothing(why)) => self.put_aside(&message, receipt, &why).await,
                Err(error) => {
                    tracing::warn!(consumer = %self.name, %error, "an event cannot be read; it comes again");
                    self.hand_back(|| vec![receipt]);
                }
            }
        }
        let subscriptions = self.desk.lock().subscriptions();
        let known = self.known();
        // What is not wanted is passed by without a write: whoever comes behind it sees that it need not be done.
        let (works, passed): (Vec<Work>, Vec<Work>) =
            works.into_iter().partition(|work| known.wants_by(&subscriptions, &work.logged));
        self.acknowledge(passed.into_iter().flat_map(|work| work.receipts).collect());
        let mut lanes: HashMap<LaneKey, Vec<Work>> = HashMap::new();
        for work in works {
            lanes.entry(work.logged.key.clone()).or_default().push(work);
        }
        let all = self.handed.is_some().then(|| {
            let works = lanes.values().flatten();
            works.flat_map(|work| work.receipts.clone()).collect()
        });
        if let Err(error) = self.sort_in(lanes).await {
            tracing::warn!(consumer = %self.name, %error, "events cannot be sorted into their lanes; they come again");
            self.hand_back(|| all.unwrap_or_default());
        }
        self.ring();
    }

    /// Whoever handed messages in is told that these come again. Others see them again after a while.
    fn hand_back(&self, receipts: impl FnOnce() -> Vec<Receipt>) {
        if let Some(handed) = &self.handed {
            handed.not_done(receipts());
        }
    }

    /// Brings events into their lanes, which come into memory where they are not.
    pub(in crate::backend::aws) async fn sort_in(self: &Arc<Self>, lanes: HashMap<LaneKey, Vec<Work>>) -> Result<()> {
        // One at a time: two readers of the same place would both take it for what is now.
        let _sorting = self.sorting.lock().await;
        let absent: Vec<LaneKey> = {
            let desk = self.desk.lock();
            lanes.keys().filter(|lane| !desk.has(lane)).cloned().collect()
        };
        let keys: HashSet<Key> = absent.iter().map(|lane| Key::place(&self.name, lane)).collect();
        let mut places = self.store.table.get_all(keys).await?;
        for (key, mut works) in lanes {
            works.sort_by_key(|work| work.logged.seq);
            let here = self.desk.lock().lane(&key).map(|lane| lane.place.clone());
            let was_here = here.is_some();
            let place = match here {
                Some(place) => place,
                None if absent.contains(&key) => {
                    let place = places.remove(&Key::place(&self.name, &key));
                    place.as_ref().map_or_else(|| Ok(Place::default()), Place::read)?
                }
                // It left meanwhile, and its place moved.
                None => Place::load(&self.store, &self.name, &key).await?,
            };
            let Some(works) = self.without_history(&key, &place, works).await? else { continue };
            let works = self.without_gaps(&key, place.seq, works).await?;
            let rest = self.desk.lock().add(&key, works);
            let works = match rest {
                Added::To(repeats) => {
                    self.acknowledge(repeats);
                    continue;
                }
                Added::NotHere(works) => works,
            };
            let (place, works) = match was_here {
                // It left, and what it had of its events with it.
                true => {
                    let place = Place::load(&self.store, &self.name, &key).await?;
                    let works = self.without_gaps(&key, place.seq, works).await?;
                    (place, works)
                }
                false => (place, works),
            };
            self.bring(key, place, works);
        }
        Ok(())
    }

    /// A lane comes into memory.
    fn bring(&self, key: LaneKey, place: Place, works: Vec<Work>) {
        if place.is_parked() {
            // The table has these events, and what stands at the head has an item, or is a dead letter.
            self.acknowledge(works.into_iter().flat_map(|work| work.receipts).collect());
            return;
        }
        let mut lane = LaneIn::at(place);
        let mut desk = self.desk.lock();
        let (works, mut done) = desk.sift(works);
        done.extend(lane.add(works));
        if !lane.is_empty() && !desk.has(&key) {
            desk.insert(key, lane);
        }
        drop(desk);
        self.acknowledge(done);
    }

    /// Live events of a lane, in order, and those that should have come before each: after the one before it here, or in
    /// memory, or `place`, which the consumer is through with.
    async fn without_gaps(&self, key: &LaneKey, place: u64, works: Vec<Work>) -> Result<Vec<Work>> {
        let (mut through, mut complete) = (place, Vec::with_capacity(works.len()));
        for work in works {
            let seq = work.logged.seq;
            if seq > through {
                let here = self.desk.lock().lane(key).map_or(place, |lane| lane.last_before(seq));
                complete.extend(self.missing(key, here.max(through), &work.logged).await?);
                through = seq;
            }
            complete.push(work);
        }
        Ok(complete)
    }

    /// Events between `place` and `first` that the consumer should have before it.
    async fn missing(&self, key: &LaneKey, place: u64, first: &Logged) -> Result<Vec<Work>> {
        let known = self.known();
        let subscriptions = self.desk.lock().subscriptions();
        let between = || first.prior.iter().filter(|prior| prior.seq() > place);
        let told = between().count();
        let complete = u64::try_from(told).is_ok_and(|told| told == first.seq - place - 1);
        if complete && !between().any(|prior| known.may_want(&subscriptions, prior)) {
            return Ok(Vec::new());
        }
        let between = self.store.logged(key, place + 1, first.seq - 1, usize::MAX).await?;
        Ok(between.into_iter().filter(|logged| known.wants_by(&subscriptions, logged)).map(Work::new).collect())
    }

    /// Says over and over that messages in memory are not for others.
    async fn renew(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW_EVERY) => {}
                () = self.ending.cancelled() => return,
            }
            // What came into memory meanwhile.
            self.step_aside();
            let receipts = self.desk.lock().receipts();
            self.hide(&receipts, VISIBILITY_SECONDS).await;
            let dues = self.desk.lock().dues();
            for due in dues {
                let until = Timestamp::now().plus(due::CLAIM);
                if let Err(error) = due::claim_until(&self.store, &due, until).await {
                    tracing::debug!(consumer = %self.name, lane = %due.lane, %error, "somebody else may take it up, too");
                }
            }
        }
    }

    /// Messages are not given to anybody for so long; 0 gives them back.
    async fn hide(&self, receipts: &[Receipt], seconds: i32) {
        for chunk in receipts.chunks(10) {
            let entry = |(index, receipt): (usize, &Receipt)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(receipt).visibility_timeout(seconds).build().ok()
            };
            let entries: Vec<_> = chunk.iter().enumerate().filter_map(entry).collect();
            let request = self.store.clients.sqs.change_message_visibility_batch().queue_url(&self.queue.url);
            if let Err(error) = request.set_entries(Some(entries)).send().await {
                let error = failed("ChangeMessageVisibilityBatch", &error);
                tracing::debug!(consumer = %self.name, %error, "messages may come again before their events are done");
            }
        }
    }

    /// Everything that they say is in the table.
    pub(super) fn acknowledge(&self, receipts: Vec<Receipt>) {
        if let Some(handed) = &self.handed {
            return handed.done(receipts);
        }
        self.room.notify_one();
        if receipts.is_empty() {
            return;
        }
        self.acknowledged.lock().extend(receipts);
        self.to_delete.notify_one();
    }

    /// They come again, to whoever asks first.
    pub(super) fn acknowledge_none(&self, receipts: Vec<Receipt>) {
        if let Some(handed) = &self.handed {
            return handed.not_done(receipts);
        }
        let (store, name) = (Arc::clone(&self.store), self.name.clone());
        self.store.tasks.spawn(async move {
            if let Some(inbox) = store.inbox(&name) {
                inbox.hide(&receipts, 0).await;
            }
        });
    }

    /// Deletes messages, in batches.
    pub(super) async fn delete(self: Arc<Self>) {
        let mut last = 0;
        loop {
            let waiting = self.acknowledged.lock().len();
            if !self.ending.is_cancelled() {
                if waiting == 0 {
                    tokio::select! {
                        () = self.to_delete.notified() => {}
                        () = self.ending.cancelled() => {}
                    }
                    continue;
                }
                if waiting < DELETED_MAX {
                    drop(timeout(pace(GATHER, last), self.ending.cancelled()).await);
                }
            }
            let batch: Vec<Receipt> = {
                let mut acknowledged = self.acknowledged.lock();
                let count = acknowledged.len().min(DELETED_MAX);
                acknowledged.drain(..count).collect()
            };
            if batch.is_empty() {
                return;
            }
            last = batch.len();
            let entry = |(index, receipt): (usize, &Receipt)| {
                DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build().ok()
            };
            let entries: Vec<_> = batch.iter().enumerate().filter_map(entry).collect();
            let request = self.store.clients.sqs.delete_message_batch().queue_url(&self.queue.url);
            if let Err(error) = request.set_entries(Some(entries)).send().await {
                // It comes again, and is seen to be done.
                tracing::debug!(consumer = %self.name, error = %failed("DeleteMessageBatch", &error), "messages of events that are done come again");
            }
            fault::pass(Point::CloudDeleted);
        }
    }

    /// Gives back what is in memory.
    pub(super) async fn give_back(&self) {
        let receipts = self.desk.lock().receipts();
        self.hide(&receipts, 0).await;
    }

    /// What is no event goes where a person can look at it.
    async fn put_aside(self: &Arc<Self>, message: &Message, receipt: Receipt, why: &str) {
        tracing::error!(
            consumer = %self.name, id = message.message_id().unwrap_or_default(), why,
            "a message of the queue is no event of Fanfare; it is put into the queue's dead-letter queue. Who sends to this queue?"
        );
        let sent = self.store.clients.sqs.send_message().queue_url(&self.queue.dead_url);
        let sent = sent.message_body(message.body().filter(|body| !body.is_empty()).unwrap_or("(empty)"));
        let sent = match self.queue.dead_url.ends_with(".fifo") {
            true => {
                let id = message.message_id().unwrap_or("unnamed");
                sent.message_group_id("no-event").message_deduplication_id(id)
            }
            false => sent,
        };
        match sent.send().await {
            Ok(_) => self.acknowledge(vec![receipt]),
            Err(error) => {
                if error.as_service_error().is_some_and(SendMessageError::is_queue_does_not_exist) {
                    self.look_at_way();
                }
                tracing::warn!(consumer = %self.name, error = %failed("SendMessage", &error), "it stays in the queue");
                self.hand_back(|| vec![receipt]);
            }
        }
    }
}

/// What a message is.
enum Opened {
    Event(Box<Logged>),
    /// An event that is not in the table any more.
    Gone,
    /// Of a host that writes what this one cannot read.
    Newer,
    Nothing(String),
}

async fn open(store: &Store, message: &Message) -> Result<Opened> {
    let attributes = message.message_attributes();
    let envelope = attributes.and_then(|all| all.get(ENVELOPE_ATTRIBUTE)).and_then(|value| value.string_value());
    let Some(envelope) = envelope else { return Ok(Opened::Nothing("it has no envelope".into())) };
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    let newer = serde_json::from_str::<Version>(envelope).is_ok_and(|version| version.v > ENVELOPE_VERSION);
    if newer {
        return Ok(Opened::Newer);
    }
    let envelope: Envelope = match serde_json::from_str(envelope) {
        Ok(envelope) => envelope,
        Err(error) => return Ok(Opened::Nothing(error.to_string())),
    };
    if !(1..SEQ_MAX).contains(&envelope.seq) {
        return Ok(Opened::Nothing(format!("no lane has an event {}", envelope.seq)));
    }
    if let (Some(its), Some(own)) = (&envelope.table, &store.shared.table_id)
        && its != own
    {
        return Ok(Opened::Nothing(format!(
            "it is of another store: its table has the id {its}, this one's has {own}"
        )));
    }
    if envelope.by_reference {
        let logged = store.logged(&LaneKey::known(envelope.lane), envelope.seq, envelope.seq, 1).await?.pop();
        return Ok(logged.map_or(Opened::Gone, |logged| Opened::Event(Box::new(logged))));
    }
    match envelope.open(message.body().unwrap_or_default()) {
        Ok(logged) => Ok(Opened::Event(Box::new(logged))),
        Err(error) => Ok(Opened::Nothing(error.to_string())),
    }
}
