//! What the end of a delivery writes, as one transaction.
//!
//! Every write carries its own condition, so that what was decided on is still so when it is made: what was read has the
//! value that was seen, a counter is above its floors, the lanes that events are added to end where they ended, and the
//! consumer's place is as it was. Which condition failed says what to do: handle again, look at the lanes again, or leave
//! the delivery to whoever did it.

mod committer;
mod counter;
pub mod intent;
mod rebuilt;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use self::committer::BYTES_MAX;
pub use self::committer::Committer;
pub use self::counter::Counter;
use self::intent::Done;
use super::inbox::Running;
use super::item::{Item, Key, LaneKey, bytes, json, number, text};
use super::lane::{Logged, Tail};
use super::outgoing::{self, Staged};
use super::place::{Attempt, Handled, Head, HeadState, Made, Place, with_backfill};
use super::store::Store;
use super::table::{Change as Write, Transaction, WRITES_MAX};
use crate::backend::{AttemptBy, Cause, Error, FailedTry, Keep, Origin, Parcel, Ran, Result, Settlement, cause};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads, Value};
use crate::event::{Body, Event, Lane};
use crate::order::OrderId;
use crate::policy::{ConsumerName, OnDead};
use crate::telemetry::meters;

/// Attempts kept of one delivery: how it began, and how it went lately.
const ATTEMPTS_KEPT_FIRST: usize = 5;
const ATTEMPTS_KEPT_LAST: usize = 15;

/// Data sets, and events of other lanes, that a place remembers of one delivery.
const MADE_MAX: usize = 8;

/// What a write is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The consumer's place is another, or a stray delivery is gone: somebody else did it.
    Place,
    /// What was read holds no more.
    Read,
    Floor,
    /// A lane has gone on.
    Lane,
    /// Nothing: it has no condition.
    Plain,
    /// The intent of a large commit was given up by somebody else.
    Intent,
    /// The host's gate is shut, beside a rebuild.
    Gate,
}

/// How a settlement ended.
#[derive(Debug)]
pub enum Settled {
    /// With the place as it is now.
    Written(Place),
    Conflict,
    /// Somebody else was through with it before.
    Elsewhere,
    /// The host's gate is shut: the consumer may have another state by now.
    Shut,
}

/// Who settles what.
pub struct Settling<'a> {
    pub store: &'a Store,
    pub committer: &'a Arc<Committer>,
    pub name: &'a ConsumerName,
    pub generation: i64,
    pub on_dead: OnDead,
    pub running: &'a Running,
    /// What must be open, beside a rebuild.
    pub gate: Option<&'a Key>,
    /// Effects that its backfill does not commit.
    pub dropped: u64,
}

impl Settling<'_> {
    /// Commits the settlement, or says why it cannot be.
    pub async fn settle(&self, reads: &Reads, settlement: &Settlement, by: &AttemptBy) -> Result<Settled> {
        // The lane of the event most likely ends with it, which is tried without a look; what has gone on is looked at.
        let mut tails = HashMap::from([(self.running.logged.key.clone(), Tail::behind(&self.running.logged))]);
        let (mut looked, nothing) = (false, Effects::default());
        let effects = match settlement {
            Settlement::Done { effects, .. } => effects,
            _ => &nothing,
        };
        loop {
            let Some(mut draft) = self.draft(reads, effects, &mut tails).await? else {
                if looked {
                    return Ok(Settled::Conflict);
                }
                self.look(&mut tails).await?;
                looked = true;
                continue;
            };
            let ended = self.finish(&mut draft, settlement, by).await;
            let place = ended.inspect_err(|_| self.store.publisher.abandon(&draft.events))?;
            let staged = std::mem::take(&mut draft.staged);
            let done = match draft.is_large() {
                true => intent::commit(self.store, draft).await?,
                false => self.committer.commit(draft).await?.map(|()| Done::Whole),
            };
            let refused = match done {
                Ok(Done::Whole) => {
                    if !staged.is_empty() {
                        self.store.outgoing.hand(staged);
                    }
                    return Ok(Settled::Written(place));
                }
                Ok(Done::Decided) => return Ok(Settled::Written(place)),
                Err(refused) => refused,
            };
            if refused.contains(&Mark::Place) {
                return Ok(Settled::Elsewhere);
            }
            if refused.contains(&Mark::Gate) {
                return Ok(Settled::Shut);
            }
            if refused.contains(&Mark::Floor) {
                meters::floor_conflict();
            }
            if [Mark::Floor, Mark::Read, Mark::Intent].iter().any(|mark| refused.contains(mark)) {
                return Ok(Settled::Conflict);
            }
            self.look(&mut tails).await?;
            looked = true;
        }
    }

    /// Where the lanes end now.
    async fn look(&self, tails: &mut HashMap<LaneKey, Tail>) -> Result<()> {
        for (lane, tail) in tails {
            *tail = self.store.tail(lane).await?;
        }
        Ok(())
    }

    /// Effects and the conditions on what was read; `None` where something does not hold any more.
    async fn draft(
        &self,
        reads: &Reads,
        effects: &Effects,
        tails: &mut HashMap<LaneKey, Tail>,
    ) -> Result<Option<Draft>> {
        let mut draft = Draft { gate: self.gate.cloned(), ..Draft::default() };
        let holds = self.fill(&mut draft, reads, effects, tails).await;
        if !matches!(holds, Ok(true)) {
            self.store.publisher.abandon(&draft.events);
        }
        Ok(holds?.then_some(draft))
    }

    /// `false` where something does not hold any more.
    async fn fill(
        &self,
        draft: &mut Draft,
        reads: &Reads,
        effects: &Effects,
        tails: &mut HashMap<LaneKey, Tail>,
    ) -> Result<bool> {
        self.state(draft, reads, effects);
        let mut orders: BTreeMap<OrderId, Option<u64>> = BTreeMap::new();
        for (id, seen) in &reads.orders {
            let lane = LaneKey::of(&Lane::Order(*id));
            let tail = tail(self.store, tails, &lane).await?;
            if tail.standing.map(|standing| standing.revision) != *seen {
                self.store.goes_on(*id);
                return Ok(false);
            }
            orders.insert(*id, *seen);
        }
        let event = &self.running.logged.event;
        for (id, change) in &effects.order_changes {
            let lane = LaneKey::of(&Lane::Order(*id));
            let tail = tail(self.store, tails, &lane).await?;
            let content = match &event.body {
                Body::OrderChanged { order, .. } if order.id == *id => Some(Arc::clone(&order.content)),
                _ => self.store.content(*id).await?,
            };
            let order = tail.standing.zip(content).map(|(standing, content)| standing.order(*id, content));
            let Some(Ok(order)) = order.map(|order| order.after(change)) else { return Ok(false) };
            let body = Body::OrderChanged { order, change: change.clone() };
            self.add(draft, tails, lane, body)?;
            orders.remove(id);
        }
        for custom in &effects.events {
            let lane = LaneKey::of(&custom.lane());
            tail(self.store, tails, &lane).await?;
            self.add(draft, tails, lane, Body::Custom(custom.clone()))?;
        }
        // What was read and is not written must stand still, too.
        for id in orders.into_keys() {
            let lane = LaneKey::of(&Lane::Order(id));
            if draft.events.iter().any(|logged| logged.key == lane) {
                continue;
            }
            let next = Key::event(&lane, tails.get(&lane).map_or(0, |tail| tail.seq) + 1);
            draft.writes.check(Mark::Lane, next, Write::default().only_if("attribute_not_exists(pk)"));
        }
        let now = Timestamp::now();
        let position = event.position.get();
        for (index, message) in effects.messages.iter().enumerate() {
            let id = format!("{}.{}.{}", event.id, index + 1, self.name);
            let key = Key::message(position, index + 1, self.name);
            let due = self.store.outgoing.due_at(now);
            let item = outgoing::item(&key, self.name, event, &id, message, now)?;
            draft.writes.put(Mark::Plain, outgoing::pending(item.clone(), due));
            let id_of = key.sk.as_str().into();
            let parcel = Parcel { id: id_of, message_id: id, message: message.clone(), attempts: 0, time: now };
            draft.staged.push(Staged { parcel, due, item });
        }
        for item in super::records::items(self.name, event, &effects.records, now, self.keep(|it| it.records))? {
            draft.writes.put(Mark::Plain, item);
        }
        Ok(true)
    }

    fn add(&self, draft: &mut Draft, tails: &mut HashMap<LaneKey, Tail>, lane: LaneKey, body: Body) -> Result<()> {
        let cause = &self.running.logged.event;
        let tail = tails.get(&lane).cloned().unwrap_or_default();
        let mut logged = self.store.next(&tail, body, Some(cause));
        logged.by = Some(self.name.clone());
        logged.astray = cause.order_id().is_some() && logged.event.order_id() != cause.order_id();
        draft.writes.create(Mark::Lane, logged.item()?);
        tails.insert(lane, Tail::behind(&logged));
        draft.events.push(logged);
        Ok(())
    }

    /// Entries and counters: each item once, with the condition on what was read of it and with what becomes of it.
    fn state(&self, draft: &mut Draft, reads: &Reads, effects: &Effects) {
        let mut entries: BTreeMap<&Arc<str>, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
        for (key, seen) in &reads.entries {
            entries.entry(key).or_default().0 = Some(seen);
        }
        for (key, value) in &effects.entries {
            entries.entry(key).or_default().1 = Some(value);
        }
        for (key, (seen, written)) in entries {
            let key = Key::entry(self.name, self.generation, key);
            let held = match seen {
                Some(Some(seen)) => Write::default().only_if("v = :seen").value(":seen", bytes(seen)),
                Some(None) => Write::default().only_if("attribute_not_exists(v)"),
                None => Write::default(),
            };
            let held = held.only_if_also(&free());
            match written {
                Some(Some(value)) => {
                    let write = held.update("SET v = :v").value(":v", bytes(value));
                    draft.writes.update(Mark::Read, key, write);
                }
                Some(None) => draft.writes.delete(Mark::Read, key, held),
                None => draft.writes.check(Mark::Read, key, held),
            }
        }
        let mut counters: BTreeMap<&Arc<str>, Counter> = BTreeMap::new();
        for (key, seen) in &reads.counters {
            counters.entry(key).or_default().seen = Some(*seen);
        }
        for adjustment in &effects.adjustments {
            counters.entry(&adjustment.key).or_default().adjust(adjustment.by, adjustment.floor);
        }
        let counters = counters.into_iter();
        draft.counters = counters.map(|(key, it)| (Key::counter(self.name, self.generation, key), it)).collect();
    }

    async fn finish(&self, draft: &mut Draft, settlement: &Settlement, by: &AttemptBy) -> Result<Place> {
        self.forget_surplus(draft).await?;
        self.end(draft, settlement, by)
    }

    /// Of many attempts, the first and the last are kept: one between goes for each that comes.
    async fn forget_surplus(&self, draft: &mut Draft) -> Result<()> {
        let Running { logged, head, .. } = self.running;
        if head.is_none() {
            return Ok(());
        }
        let kept = super::place::attempt_keys(self.store, self.name, &logged.key, logged.seq).await?;
        if kept.len() >= ATTEMPTS_KEPT_FIRST + ATTEMPTS_KEPT_LAST
            && let Some(surplus) = kept.into_iter().nth(ATTEMPTS_KEPT_FIRST)
        {
            draft.writes.delete(Mark::Place, surplus, Write::default());
        }
        Ok(())
    }

    /// The acknowledgement, or what stands in its place.
    fn end(&self, draft: &mut Draft, settlement: &Settlement, by: &AttemptBy) -> Result<Place> {
        let Running { logged, place, head, from, .. } = self.running;
        let (seq, candidate) = (logged.seq, matches!(by, AttemptBy::Candidate));
        let attempts = head.map_or(0, |head| head.attempts) + 1;
        // Attempts sort by when they ended.
        let mut number_of = Timestamp::now().as_millis();
        let mut remember = |draft: &mut Draft, cause: Option<Cause>, ran: &Ran, candidate| {
            number_of += 1;
            let attempt = self.attempt(attempts, cause, ran, candidate);
            let item = attempt.item(self.name, &logged.key, number_of, self.keep(|it| it.attempts))?;
            draft.writes.put(Mark::Place, item);
            Ok::<_, Error>(())
        };
        if let AttemptBy::LiveAfter(tried) = by {
            let FailedTry { cause, ran } = &**tried;
            remember(draft, Some(cause.clone()), ran, true)?;
        }
        let next = match settlement {
            Settlement::Done { effects, ran } => {
                // Of what is done at once, the place itself tells.
                let apart = attempts > 1 || head.is_some() || !ran.calls.is_empty() || !matches!(by, AttemptBy::Live);
                if apart {
                    remember(draft, None, ran, candidate)?;
                }
                let handled = (!apart)
                    .then(|| Handled(seq, Timestamp::now().as_millis(), duration_us(ran), Arc::clone(&ran.version)));
                place.through(seq, *from, handled).with_made(made(draft, seq, effects))
            }
            Settlement::Retry { at, cause, ran } => {
                remember(draft, Some(cause.clone()), ran, candidate)?;
                place.at(self.head(HeadState::Retrying(*at), attempts))
            }
            Settlement::Dead { cause, ran } => {
                remember(draft, Some(cause.clone()), ran, candidate)?;
                let parks = self.on_dead == OnDead::Park && !self.running.stray;
                draft.writes.put(Mark::Place, self.letter(attempts, cause, ran, parks)?);
                if parks { place.at(self.head(HeadState::Dead, attempts)) } else { place.through(seq, *from, None) }
            }
            Settlement::Released => place.clone(),
        };
        if let (Some(from), Settlement::Done { .. }) = (from, settlement) {
            draft.counters.extend(super::backfills::counted(self.name, from.number, self.dropped));
        }
        let due_key = self.running.due_key(self.name);
        if self.running.stray {
            // The lane is past it: its own item is what says that it is still to be done.
            let gone = Write::default().only_if("ver = :ver").value(":ver", number(self.running.due_ver));
            match next.head.map(|head| head.state) {
                Some(HeadState::Retrying(at)) => {
                    let again = super::due::again(at, attempts, self.running.first_at(), self.running.due_ver);
                    draft.writes.update(Mark::Place, due_key, again);
                }
                _ => draft.writes.delete(Mark::Place, due_key, gone),
            }
            return Ok(place.clone());
        }
        draft.writes.update(Mark::Place, Key::place(self.name, &logged.key), next.change()?);
        if let Some(HeadState::Retrying(at)) = next.head.map(|head| head.state) {
            draft.writes.put(Mark::Place, super::due::item(&due_key, &logged.key, seq, at));
        }
        Ok(next)
    }

    fn head(&self, state: HeadState, attempts: u32) -> Head {
        let first_at = Some(self.running.first_at());
        let (replayed, from) = (self.running.replayed(), self.running.from);
        Head { seq: self.running.logged.seq, state, attempts, first_at, replayed, from }
    }

    fn attempt(&self, attempt: u32, cause: Option<Cause>, ran: &Ran, candidate: bool) -> Attempt {
        Attempt {
            seq: self.running.logged.seq,
            attempt,
            cause,
            version: Arc::clone(&ran.version),
            duration_us: duration_us(ran),
            time: Timestamp::now(),
            origin: self.running.origin(),
            edited: self.running.edited,
            candidate,
            calls: ran.calls.clone(),
        }
    }

    /// What a dead letter is found by and listed with.
    fn letter(&self, attempts: u32, cause: &Cause, ran: &Ran, parks: bool) -> Result<Item> {
        let Logged { event, key, seq, .. } = &self.running.logged;
        let letter = Item::at(&Key::dead_letter(self.name, event.position.get()));
        Ok(with_backfill(letter, self.running.from)
            .with("l", text(key.as_str()))
            .with("q", number(seq))
            .with("id", text(event.id.to_string()))
            .with("k", text(event.kind()))
            .with_some("o", event.order_id().map(|id| text(id.to_string())))
            .with("n", number(attempts))
            .with("out", text(cause.kind.as_str()))
            .with("why", text(&cause.detail))
            .with("gen", text(cause::in_general(&cause.detail)))
            .with_some("trace", cause.backtrace.as_deref().map(text))
            .with("v", text(&*ran.version))
            .with("t", number(Timestamp::now().as_millis()))
            .with_some("parks", parks.then(|| number(1))))
    }

    fn keep(&self, what: impl Fn(&crate::backend::Retention) -> Keep) -> Option<u64> {
        match what(&self.store.retention.lock()) {
            Keep::For(time) => Some(Timestamp::now().plus(time).as_millis() / 1_000),
            Keep::Forever => None,
        }
    }
}

/// Nobody else's large commit is to write the item.
fn free() -> Write {
    Write::default().only_if(format!("attribute_not_exists({})", intent::LOCK))
}

/// What is to be written, as far as it is decided.
#[derive(Default)]
pub struct Draft {
    writes: Transaction<Mark>,
    /// Adjusted, or read.
    counters: Vec<(Key, Counter)>,
    gate: Option<Key>,
    events: Vec<Logged>,
    /// Messages, for this host's sender.
    staged: Vec<Staged>,
}

impl Draft {
    /// Whether it is more than one transaction holds.
    fn is_large(&self) -> bool {
        let bytes = self.writes.iter().map(|(_, write)| write.bytes()).sum::<usize>();
        self.writes.len() + self.counters.len() + usize::from(self.gate.is_some()) > WRITES_MAX || bytes > BYTES_MAX
    }
}

/// What the order's timeline is to tell of that is not in its lane.
fn made(draft: &Draft, seq: u64, effects: &Effects) -> Option<Made> {
    let mut rows: Vec<(Arc<str>, u64)> = Vec::new();
    for record in &effects.records {
        match rows.iter_mut().find(|(dataset, _)| *dataset == record.dataset) {
            Some((_, count)) => *count += 1,
            None => rows.push((Arc::clone(&record.dataset), 1)),
        }
    }
    let astray = draft.events.iter().filter(|logged| logged.astray);
    let events: Vec<_> = astray.take(MADE_MAX).map(|logged| (logged.key.as_str().to_owned(), logged.seq)).collect();
    rows.truncate(MADE_MAX);
    (!rows.is_empty() || !events.is_empty()).then(|| Made(seq, Timestamp::now().as_millis(), rows, events))
}

async fn tail(store: &Store, tails: &mut HashMap<LaneKey, Tail>, lane: &LaneKey) -> Result<Tail> {
    if let Some(tail) = tails.get(lane) {
        return Ok(tail.clone());
    }
    let tail = store.tail(lane).await?;
    tails.insert(lane.clone(), tail.clone());
    Ok(tail)
}

pub fn duration_us(ran: &Ran) -> u64 {
    u64::try_from(ran.duration.as_micros()).unwrap_or(u64::MAX)
}

/// How an event came to a consumer.
pub fn origin(replayed: bool, past: bool) -> Origin {
    match (replayed, past) {
        (true, _) => Origin::Replay,
        (false, true) => Origin::Backfill,
        (false, false) => Origin::Live,
    }
}

/// The event as the consumer gets it, where a person edited it.
pub fn as_edited(event: &Arc<Event>, data: &serde_json::value::RawValue) -> Result<Arc<Event>> {
    let wrong = |error: serde_json::Error| Error::Failed(error.to_string().into());
    let body = match &event.body {
        Body::OrderChanged { order, change } => {
            let content = Arc::new(serde_json::from_str(data.get()).map_err(wrong)?);
            Body::OrderChanged { order: crate::order::Order { content, ..order.clone() }, change: change.clone() }
        }
        Body::Custom(custom) => Body::Custom(crate::event::Custom { data: data.to_owned().into(), ..custom.clone() }),
    };
    Ok(Arc::new(Event { body, ..(**event).clone() }))
}

/// What of an edited body is kept.
pub fn copy_of(body: &Body) -> Result<aws_sdk_dynamodb::types::AttributeValue> {
    match body {
        Body::OrderChanged { order, .. } => json(&*order.content),
        Body::Custom(custom) => Ok(text(custom.data.get())),
    }
}
