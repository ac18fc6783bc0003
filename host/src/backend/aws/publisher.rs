//! Tells SNS of events that are in the table: each after the one before it in its lane, in batches where there are many.
//!
//! ```text
//! commit ─► lane's queue ─► ready lanes ─► batch of one event each of up to 10 lanes ─► SNS
//!                               ▲                              │
//!                               └───── next of the lane ◄──────┘ confirmed, or again
//! ```
//!
//! Nothing here is durable. What a host had not published when it died is found in the table by another one (`hosts`), and
//! an event that is published twice is delivered once, because a consumer's place in the lane says so.
//!
//! **Invariants**
//! - At most one event of a lane is on its way, so that a batch that succeeds in part cannot turn two around.
//! - A position is open from before its event is written until the event is published, or is known not to be there. So all
//!   that this host wrote below the lowest open one is published.

mod message;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::message::{ENVELOPE_ATTRIBUTE, group, message};
use super::gather::pace;
use super::item::LaneKey;
use super::lane::Logged;
use super::resources::Shared;
use super::settings::TopicKind;
use super::store::Store;
use super::table::{failed, jittered};
use crate::event::Position;
use crate::fault::{self, Point};

/// What SNS takes in one batch.
const BATCH_MAX: usize = 10;
/// Of one batch, and so of one event with all that goes with it, in bytes; SNS takes 262,144.
const BATCH_BYTES_MAX: usize = 240 << 10;
/// Batches on their way at once.
const REQUESTS_MAX: usize = 16;
/// Events that wait. Beyond that nothing is accepted: SNS does not take what is there already.
const WAITING_MAX: usize = 50_000;
/// A step of [`pace`] between the beginnings of two batches that are not whole.
const PACE: Duration = Duration::from_millis(20);
/// After a batch that was refused, as the first and the longest wait.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// After a write that was not answered: by then it is in the table, or never will be.
const UNSURE: Duration = Duration::from_secs(20);

pub struct Publisher {
    client: aws_sdk_sns::Client,
    topic_arn: String,
    table_id: Option<String>,
    fifo: bool,
    state: Mutex<State>,
    changed: Notify,
    /// Rung when nothing waits.
    empty: Notify,
}

#[derive(Default)]
struct State {
    lanes: HashMap<LaneKey, VecDeque<Logged>>,
    /// Lanes whose first event may be sent.
    ready: VecDeque<LaneKey>,
    waiting: usize,
    requests: usize,
    /// When the last batch began, and how many events it had.
    began: Option<(Instant, usize)>,
    open: BTreeSet<u64>,
    /// Events that may be in the table or not.
    unsure: VecDeque<(Instant, Logged)>,
}

impl Publisher {
    pub fn new(client: aws_sdk_sns::Client, shared: &Shared) -> Self {
        let fifo = shared.kind == TopicKind::Fifo;
        let (state, changed, empty) = (Mutex::default(), Notify::new(), Notify::new());
        let (topic_arn, table_id) = (shared.topic_arn.clone(), shared.table_id.clone());
        Self { client, topic_arn, table_id, fifo, state, changed, empty }
    }

    /// A position that is open from the moment on in which it is drawn.
    pub fn open(&self, draw: impl FnOnce() -> Position) -> Position {
        let mut state = self.state.lock();
        let position = draw();
        state.open.insert(position.get());
        position
    }

    /// Nothing was written under these positions.
    pub fn abandon<'a>(&self, logged: impl IntoIterator<Item = &'a Logged>) {
        let mut state = self.state.lock();
        for logged in logged {
            state.open.remove(&logged.position());
        }
    }

    /// They are in the table.
    pub fn publish(&self, events: Vec<Logged>) {
        let mut state = self.state.lock();
        events.into_iter().for_each(|logged| state.push(logged));
        drop(state);
        self.changed.notify_one();
    }

    /// While nothing is being written, what waits and what is looked for is all that may be in the table.
    pub fn abandon_rest(&self) {
        let state = &mut *self.state.lock();
        let waiting = state.lanes.values().flatten().chain(state.unsure.iter().map(|(_, logged)| logged));
        state.open = waiting.map(Logged::position).collect();
    }

    /// They may be in the table, or not yet, or never.
    pub fn look_for(&self, events: Vec<Logged>) {
        let mut state = self.state.lock();
        let due = Instant::now() + UNSURE;
        state.unsure.extend(events.into_iter().map(|logged| (due, logged)));
    }

    pub fn has_room(&self) -> bool {
        self.state.lock().waiting < WAITING_MAX
    }

    /// All that this host wrote at a lower position is published, as long as `newest` is its newest position.
    pub fn published_below(&self, newest: u64) -> u64 {
        self.state.lock().open.first().copied().unwrap_or(newest + 1)
    }

    /// Whether all that this host wrote is published.
    pub fn is_clear(&self) -> bool {
        self.state.lock().open.is_empty()
    }

    /// Returns when nothing waits any more.
    pub async fn drained(&self) {
        loop {
            let empty = self.empty.notified();
            if self.state.lock().waiting == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Sends what waits, until the store is closed.
    pub async fn run(store: Arc<Store>) {
        let publisher = &store.publisher;
        let mut requests = JoinSet::new();
        let mut looks = tokio::time::interval(UNSURE / 4);
        loop {
            let paced = loop {
                let (batch, paced) = {
                    let mut state = publisher.state.lock();
                    let now = Instant::now();
                    (state.take(now), state.paced_until(now))
                };
                let Some(batch) = batch else { break paced };
                let store = Arc::clone(&store);
                requests.spawn(async move { store.publisher.send(batch).await });
            };
            tokio::select! {
                () = publisher.changed.notified() => {}
                () = sleep_until(paced.unwrap_or_else(Instant::now)), if paced.is_some() => {}
                Some(_) = requests.join_next() => {}
                _ = looks.tick() => publisher.look(&store).await,
                () = store.stopping.cancelled() => break,
            }
        }
        requests.shutdown().await;
    }

    /// Looks for what was written without an answer.
    async fn look(&self, store: &Store) {
        loop {
            let due = {
                let mut state = self.state.lock();
                let due = state.unsure.front().is_some_and(|(due, _)| *due <= Instant::now());
                if due { state.unsure.pop_front() } else { None }
            };
            let Some((_, logged)) = due else { return };
            match store.table.get(&logged.item_key()).await {
                Ok(Some(item)) if item.text_or_none("id") == Some(&logged.event.id.to_string()) => {
                    self.publish(vec![logged]);
                }
                Ok(_) => self.abandon([&logged]),
                Err(error) => {
                    tracing::warn!(%error, event = %logged.event.id, "whether an event was written is not known yet");
                    return self.state.lock().unsure.push_back((Instant::now() + UNSURE, logged));
                }
            }
        }
    }

    /// One batch, until every event of it was taken.
    async fn send(&self, mut batch: Vec<Logged>) {
        let mut wait = AGAIN_FIRST;
        while !batch.is_empty() {
            let refused = self.try_send(&batch).await;
            fault::pass(Point::CloudPublished);
            let (again, sent): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|logged| refused.contains(&logged.position()));
            self.state.lock().sent(&sent);
            if !sent.is_empty() {
                self.changed.notify_one();
            }
            if !again.is_empty() {
                tokio::time::sleep(jittered(wait)).await;
                wait = (wait * 2).min(AGAIN_MAX);
            }
            batch = again;
        }
        let mut state = self.state.lock();
        state.requests -= 1;
        if state.waiting == 0 {
            self.empty.notify_waiters();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The positions of those that were not taken.
    async fn try_send(&self, batch: &[Logged]) -> Vec<u64> {
        let all = || batch.iter().map(Logged::position).collect::<Vec<_>>();
        let entries: Result<Vec<_>, _> = batch.iter().enumerate().map(|(n, logged)| self.entry(n, logged)).collect();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, "events cannot be told to SNS");
                return all();
            }
        };
        let request = self.client.publish_batch().topic_arn(&self.topic_arn);
        match request.set_publish_batch_request_entries(Some(entries)).send().await {
            Ok(answer) => {
                let refused = answer.failed();
                if let Some(one) = refused.first() {
                    let (code, message) = (one.code(), one.message().unwrap_or_default());
                    tracing::warn!(
                        code,
                        message,
                        events = refused.len(),
                        "SNS did not take events; they are sent again"
                    );
                }
                let numbers = refused.iter().filter_map(|one| one.id().parse::<usize>().ok());
                numbers.filter_map(|n| batch.get(n)).map(Logged::position).collect()
            }
            Err(error) => {
                tracing::warn!(error = %failed("PublishBatch", &error), "SNS did not take events; they are sent again");
                all()
            }
        }
    }

    fn entry(&self, number: usize, logged: &Logged) -> anyhow::Result<PublishBatchRequestEntry> {
        let (attributes, body) = message(logged, self.table_id.as_deref())?;
        let entry = PublishBatchRequestEntry::builder().id(number.to_string()).message(body);
        let mut entry = entry;
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
            entry = entry.message_attributes(name, value);
        }
        if self.fifo {
            entry = entry.message_group_id(group(&logged.key)).message_deduplication_id(logged.event.id.to_string());
        }
        Ok(entry.build()?)
    }
}

/// As long as any.
const TABLE_ID: &str = "00000000-0000-0000-0000-000000000000";

/// What an event weighs in a batch, roughly and from above.
fn weight(logged: &Logged) -> usize {
    let Ok((attributes, body)) = message(logged, Some(TABLE_ID)) else { return 0 };
    body.len() + attributes.iter().map(|(name, value)| name.len() + value.len() + 16).sum::<usize>()
}

impl State {
    fn push(&mut self, logged: Logged) {
        self.open.insert(logged.position());
        let lane = self.lanes.entry(logged.key.clone()).or_default();
        if lane.is_empty() {
            self.ready.push_back(logged.key.clone());
            lane.push_back(logged);
        } else {
            // The first one may be on its way.
            let at = lane.iter().skip(1).position(|other| other.seq > logged.seq).map_or(lane.len(), |at| at + 1);
            lane.insert(at, logged);
        }
        self.waiting += 1;
    }

    /// What to send now. Whole batches go at once; what is less waits while something is on its way, or was begun a moment ago,
    /// so that many events make few requests.
    fn take(&mut self, now: Instant) -> Option<Vec<Logged>> {
        let whole = self.ready.len() >= BATCH_MAX;
        let waits = self.ready.is_empty() || self.requests >= REQUESTS_MAX;
        if waits || (!whole && (self.requests > 0 || self.paced_until(now).is_some())) {
            return None;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_MAX {
            let Some(logged) = self.ready.front().and_then(|key| self.lanes.get(key)?.front()) else { break };
            bytes += weight(logged);
            if bytes > BATCH_BYTES_MAX && !batch.is_empty() {
                break;
            }
            batch.push(logged.clone());
            self.ready.pop_front();
        }
        self.requests += 1;
        self.began = Some((now, batch.len()));
        Some(batch)
    }

    /// When what waits may go, though it is no whole batch.
    fn paced_until(&self, now: Instant) -> Option<Instant> {
        let (began, last) = self.began?;
        let until = began + pace(PACE, last);
        (until > now && self.requests == 0 && !self.ready.is_empty()).then_some(until)
    }

    fn sent(&mut self, batch: &[Logged]) {
        for logged in batch {
            self.open.remove(&logged.position());
            let Some(lane) = self.lanes.get_mut(&logged.key) else { continue };
            lane.pop_front();
            self.waiting -= 1;
            if lane.is_empty() {
                self.lanes.remove(&logged.key);
            } else {
                self.ready.push_back(logged.key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::super::inbox::shop;
    use super::super::lane::Tail;
    use super::super::table::Transaction;
    use super::*;
    use crate::backend::contract::custom;
    use crate::clock::Timestamp;
    use crate::event::{Body, Custom, Event, EventId};

    fn event(subject: &str, seq: u64, data_bytes: usize) -> Logged {
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(data_bytes))).unwrap().into();
        let (kind, source) = ("com.example.a".into(), "/shop".into());
        let body =
            Body::Custom(Custom { kind, source, origin_id: None, subject: subject.into(), order_id: None, data });
        let position = Position::new(seq).unwrap();
        let event = Event { id: EventId::generate(), position, time: Timestamp::now(), cause: None, depth: 0, body };
        Logged { seq, ..Tail::default().next(Arc::new(event), None, false) }
    }

    fn shown(batch: &[Logged]) -> Vec<(String, u64)> {
        batch.iter().map(|logged| (logged.key.to_string(), logged.seq)).collect()
    }

    #[test]
    fn one_event_of_a_lane_is_on_its_way() {
        let mut state = State::default();
        for (subject, seq) in [("a", 1), ("a", 3), ("a", 2), ("b", 1)] {
            state.push(event(subject, seq, 1));
        }
        let start = Instant::now();
        let first = state.take(start).unwrap();
        assert_eq!(shown(&first), [("s#a".to_owned(), 1), ("s#b".to_owned(), 1)]);
        assert!(state.take(start + 2 * PACE).is_none());
        state.sent(&first);
        state.requests = 0;
        assert!(state.take(start + PACE).is_none(), "more may come in a moment, as two came before");
        let second = state.take(start + 2 * PACE).unwrap();
        assert_eq!(shown(&second), [("s#a".to_owned(), 2)], "in the order of the lane, whatever order they came in");
        assert_eq!(state.waiting, 2);
    }

    #[test]
    fn many_events_make_whole_batches() {
        let mut state = State::default();
        (0..25).for_each(|n| state.push(event(&n.to_string(), 1, 1)));
        let start = Instant::now();
        let sizes: Vec<usize> = std::iter::from_fn(|| state.take(start)).map(|batch| batch.len()).collect();
        assert_eq!(sizes, [10, 10], "the last five wait for one to come back, or for more");
        state.requests = 0;
        assert_eq!(state.take(start + 3 * PACE).unwrap().len(), 5);
    }

    #[test]
    fn a_batch_fits_into_what_sns_takes() {
        let mut state = State::default();
        (0..4).for_each(|n| state.push(event(&n.to_string(), 1, 100 << 10)));
        assert_eq!(state.take(Instant::now()).unwrap().len(), 2);
        let large = event("a", 1, message::EVENT_BYTES_MAX + 1);
        assert!(weight(&large) < 1_000, "it goes by reference");
    }

    #[test]
    fn what_is_below_the_lowest_open_position_is_published() {
        let mut state = State::default();
        state.push(event("a", 5, 1));
        state.push(event("b", 9, 1));
        let batch = state.take(Instant::now()).unwrap();
        let (first, second) = batch.split_at(1);
        state.sent(second);
        assert_eq!(state.open.first(), Some(&5));
        state.sent(first);
        assert_eq!(state.open.first(), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_written_without_an_answer_is_published_if_it_is_there() {
        let (backend, store) = shop().await;
        let next = |subject| store.next(&Tail::default(), Body::Custom(custom(subject)), None);
        let [there, nowhere, late, instead] = ["there", "nowhere", "late", "late"].map(next);
        for logged in [&there, &instead] {
            let mut transaction = Transaction::default();
            transaction.create((), logged.item().unwrap());
            assert!(store.table.transact(transaction).await.unwrap().is_ok());
        }
        // One that sends nothing by itself.
        let publisher = Publisher::new(store.clients.sns.clone(), &store.shared);
        for logged in [&there, &nowhere, &late] {
            publisher.open(|| logged.event.position);
        }
        publisher.look_for(vec![there.clone(), nowhere, late]);
        publisher.look(&store).await;
        assert_eq!(publisher.state.lock().unsure.len(), 3, "their requests may still arrive");
        publisher.state.lock().unsure.iter_mut().for_each(|(due, _)| *due = Instant::now());
        publisher.look(&store).await;
        let sent = publisher.state.lock().take(Instant::now()).unwrap();
        assert_eq!(shown(&sent), [("s#there".to_owned(), 1)], "at the place of one that came late, there is another");
        assert_eq!(publisher.published_below(u64::MAX - 1), there.position());
        backend.lifecycle.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_refused_leaves_no_position_open() {
        let (backend, store) = shop().await;
        let next = || store.next(&Tail::default(), Body::Custom(custom("tea")), None);
        for (logged, is_first) in [(next(), true), (next(), false)] {
            let mut transaction = Transaction::default();
            transaction.create((), logged.item().unwrap());
            assert_eq!(store.append(transaction, vec![logged]).await.unwrap().is_ok(), is_first);
        }
        store.publisher.drained().await;
        assert!(store.publisher.is_clear());
        backend.lifecycle.close().await;
    }
}
