//! Orders and events on their way in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;

use super::Aws;
use super::item::{Item, Key, LaneKey, number, text};
use super::lane::{Logged, Tail};
use super::publisher::Publisher;
use super::seat;
use super::store::Store;
use super::table::{Change as TableChange, Transaction, WRITES_MAX};
use crate::backend::{Changed, Durable, Error, Intake, Keep, Placed, Placement, Published, Result};
use crate::clock::Timestamp;
use crate::event::{Body, Custom, Event, EventId};
use crate::fault::{self, Point};
use crate::order::{Change, OrderId};

/// Of all items of a transaction; DynamoDB takes 4 MB.
const TRANSACTION_BYTES_MAX: usize = 3 << 20;
/// What an event's item weighs besides its data, roughly and from above.
const ITEM_BYTES: usize = 4 << 10;
/// Tries in a row that found a lane gone on.
const CROWDED_MAX: u32 = 100;

/// What a write is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The key was used before.
    Key,
    Reference,
    /// The event from outside was accepted before.
    Origin,
    /// The lane has gone on, or, in a new lane, the answer to the first try was lost.
    Event,
}

#[async_trait]
impl Intake for Aws {
    async fn place(&self, placement: Placement) -> Result<Durable<Placed>> {
        loop {
            if let Some(placed) = self.try_place(&placement).await? {
                return Ok(Durable::assert(placed));
            }
        }
    }

    async fn change(&self, id: OrderId, change: Change) -> Result<Durable<Changed>> {
        self.store.check_room()?;
        seat::take(&self.store).await?;
        loop {
            let (order, tail) = self.store.order(id).await?;
            let Some(order) = order else { return Ok(Durable::assert(Changed::UnknownOrder)) };
            let order = match order.after(&change) {
                Ok(order) => order,
                Err(illegal) => return Ok(Durable::assert(Changed::Illegal(illegal))),
            };
            let body = Body::OrderChanged { order: order.clone(), change: change.clone() };
            let logged = self.store.next(&tail, body, None);
            let mut transaction = Transaction::default();
            transaction.create(Mark::Event, logged.item()?);
            // Refused: the lane has gone on meanwhile.
            if self.store.append(transaction, vec![logged]).await?.is_ok() {
                return Ok(Durable::assert(Changed::Done(order)));
            }
        }
    }

    /// As many as DynamoDB takes are one transaction. Beyond that, each event must have an id of its sender's: where it breaks
    /// off in the middle, the same request once more records what is missing, and nothing twice.
    async fn publish(&self, events: Vec<Custom>) -> Result<Durable<Vec<Published>>> {
        self.store.check_room()?;
        seat::take(&self.store).await?;
        let mut published: Vec<Published> = Vec::new();
        let mut broke_off = 0;
        while let Some(rest) = events.get(published.len()..).filter(|rest| !rest.is_empty()) {
            let more = self.accept(rest).await?;
            broke_off = if more.is_empty() { broke_off + 1 } else { 0 };
            if broke_off > CROWDED_MAX {
                return Err(Error::Unavailable("others add to the same lanes all the time: try again".into()));
            }
            published.extend(more);
            let is_done = published.len() == events.len();
            // Where nothing was taken, a lane had gone on, and all of it is tried again.
            if !is_done && !published.is_empty() && events.iter().any(|event| event.origin_id.is_none()) {
                return Err(Error::Failed("events without an id were taken in parts".into()));
            }
        }
        Ok(Durable::assert(published))
    }
}

impl Aws {
    /// `None` where a key stood in the way that counts no more, and has gone now.
    async fn try_place(&self, placement: &Placement) -> Result<Option<Placed>> {
        let Placement { order, fingerprint, idempotency_key } = placement;
        self.store.check_room()?;
        seat::take(&self.store).await?;
        let (key, reference) = (idempotency_key.as_deref().map(Key::idempotency), order.content.reference.as_deref());
        let reference = reference.map(Key::reference);
        let mark =
            |key: &Key| Item::at(key).with("o", text(order.id.to_string())).with("f", super::item::bytes(fingerprint));
        let body = Body::OrderChanged { order: order.clone(), change: Change::Placed {} };
        let logged = self.store.next(&Tail::default(), body, None);
        fault::pass(Point::OrderDecided);
        let mut transaction = Transaction::default();
        let expires = self.store.expires();
        if let Some(key) = &key {
            transaction.create(Mark::Key, mark(key).with_some("ttl", expires.map(number)));
        }
        if let Some(key) = &reference {
            transaction.create(Mark::Reference, mark(key));
        }
        transaction.create(Mark::Event, logged.item()?);
        let Err(refused) = self.store.append(transaction, vec![logged]).await? else {
            return Ok(Some(Placed::New(order.clone())));
        };
        let before = |mark, key: Option<Key>| key.filter(|_| refused.contains(&mark));
        if let Some(key) = before(Mark::Key, key) {
            return self.placed_before(&key, fingerprint, true).await;
        }
        if let Some(key) = before(Mark::Reference, reference) {
            return self.placed_before(&key, fingerprint, false).await;
        }
        Err(Error::Failed(format!("the id of order {} is taken", order.id).into()))
    }

    /// Records the first of these events, as many as fit into one transaction; none where a lane has gone on meanwhile.
    async fn accept(&self, events: &[Custom]) -> Result<Vec<Published>> {
        let origins: Vec<Option<Key>> = events.iter().map(origin).collect();
        let known = self.store.table.get_all(origins.iter().flatten().cloned()).await?;
        let mut accepted: HashMap<Key, EventId> = HashMap::new();
        for (key, item) in known {
            let id: EventId = item.parse("e")?;
            if self.is_too_old(id.made_at()) {
                self.let_go(&key, "e", id.to_string()).await?;
            } else {
                accepted.insert(key, id);
            }
        }
        let mut tails = self.tails(events.iter().take(WRITES_MAX)).await?;
        let (mut transaction, mut logged, mut published) = (Transaction::default(), Vec::new(), Vec::new());
        let mut bytes = 0;
        for (custom, origin) in events.iter().zip(origins) {
            if let Some(id) = origin.as_ref().and_then(|key| accepted.get(key)) {
                published.push(Published { id: *id, repeated: true });
                continue;
            }
            bytes += custom.data.get().len() + ITEM_BYTES;
            if transaction.len() + 2 > WRITES_MAX || (bytes > TRANSACTION_BYTES_MAX && !logged.is_empty()) {
                break;
            }
            let lane = LaneKey::of(&custom.lane());
            let tail = tails.remove(&lane).unwrap_or_default();
            let next = self.store.next(&tail, Body::Custom(custom.clone()), None);
            tails.insert(lane, Tail::behind(&next));
            let id = next.event.id;
            transaction.create(Mark::Event, next.item()?);
            if let Some(key) = origin {
                let item = Item::at(&key).with("e", text(id.to_string()));
                transaction.create(Mark::Origin, item.with_some("ttl", self.store.expires().map(number)));
                accepted.insert(key, id);
            }
            logged.push(next);
            published.push(Published { id, repeated: false });
        }
        if logged.is_empty() {
            return Ok(published);
        }
        let done = self.store.append(transaction, logged).await?;
        Ok(if done.is_ok() { published } else { Vec::new() })
    }

    /// Where the lanes of these events end.
    async fn tails(&self, events: impl Iterator<Item = &Custom>) -> Result<HashMap<LaneKey, Tail>> {
        let lanes: HashSet<LaneKey> = events.map(|custom| LaneKey::of(&custom.lane())).collect();
        let tails = lanes.into_iter().map(|lane| async move { Ok((lane.clone(), self.store.tail(&lane).await?)) });
        futures::future::try_join_all(tails).await.map(HashMap::from_iter)
    }

    /// What the order says that a key or a reference was first used for; `None` where it counts no more, and goes.
    async fn placed_before(&self, key: &Key, fingerprint: &[u8; 32], by_key: bool) -> Result<Option<Placed>> {
        let Some(item) = self.store.table.get(key).await? else { return Ok(None) };
        let same_content = item.blob("f") == Some(&fingerprint[..]);
        let by: OrderId = item.parse("o")?;
        let placed = if by_key && self.is_too_old(by.made_at()) { None } else { self.store.placed(by).await? };
        let Some(placed) = placed else {
            // DynamoDB deletes a key some time after it may; a reference goes with its order.
            self.let_go(key, "o", by.to_string()).await?;
            return Ok(None);
        };
        Ok(Some(match (by_key, same_content) {
            (false, same_content) => Placed::ReferenceTaken { by, same_content },
            (true, false) => Placed::KeyReused,
            (true, true) => Placed::Repeated(placed),
        }))
    }

    /// Whether a repeat of what was recorded then is taken for new.
    fn is_too_old(&self, recorded: Timestamp) -> bool {
        let cutoff = self.store.retention.lock().idempotency.cutoff(Timestamp::now());
        cutoff.is_some_and(|cutoff| recorded < cutoff)
    }

    /// Deletes what says of a key what it was used for, if it still says so.
    async fn let_go(&self, key: &Key, attribute: &str, says: String) -> Result<()> {
        let mut transaction = Transaction::default();
        let same = TableChange::default().only_if("#says = :says").name("#says", attribute).value(":says", text(says));
        transaction.delete((), key.clone(), same);
        // Refused where somebody else was quicker.
        self.store.table.transact(transaction).await.map(drop)
    }
}

/// Events of a write. Whoever waits for one may give up, and then nobody knows whether it was made.
struct Unsure<'a> {
    publisher: &'a Publisher,
    events: Vec<Logged>,
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if !self.events.is_empty() {
            self.publisher.look_for(std::mem::take(&mut self.events));
        }
    }
}

fn origin(custom: &Custom) -> Option<Key> {
    custom.origin_id.as_deref().map(|id| Key::origin(&custom.source, id))
}

impl Store {
    pub fn check_room(&self) -> Result<()> {
        if self.publisher.has_room() {
            return Ok(());
        }
        Err(Error::Unavailable("SNS does not take the events that are there; try again later".into()))
    }

    /// `body` as the next event of the lane that ends with `tail`.
    pub fn next(&self, tail: &Tail, body: Body, cause: Option<&Event>) -> Logged {
        let (depth, cause) = (cause.map_or(0, |cause| cause.depth.saturating_add(1)), cause.map(|cause| cause.id));
        let position = self.position(tail);
        // A lane goes forward in time, too, whatever the clocks of other hosts say.
        let time =
            Timestamp::now().max(super::clock::time_of(tail.position).min(super::clock::time_of(position.get())));
        let event = Event { id: EventId::generate(), position, time, cause, depth, body };
        tail.next(Arc::new(event), None, false)
    }

    /// Makes the writes, with which `events` are in the table, and lets them be published.
    pub async fn append<M>(&self, transaction: Transaction<M>, events: Vec<Logged>) -> Result<Result<(), Vec<M>>> {
        let _in_flight = self.in_flight.token();
        let mut unsure = Unsure { publisher: &self.publisher, events };
        let done = self.table.transact(transaction).await;
        let events = std::mem::take(&mut unsure.events);
        match &done {
            Ok(Ok(())) => {
                fault::pass(Point::CloudAppended);
                self.publisher.publish(events);
            }
            Ok(Err(_)) => self.publisher.abandon(&events),
            Err(_) => self.publisher.look_for(events),
        }
        done
    }

    /// Until when a repeat is known for one, in seconds.
    pub fn expires(&self) -> Option<u64> {
        match self.retention.lock().idempotency {
            Keep::For(time) => Some(Timestamp::now().plus(time).as_millis() / 1_000),
            Keep::Forever => None,
        }
    }
}
