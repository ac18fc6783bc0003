//! What an inbox knows in memory: the lanes, and what of each may run. No IO.

mod aside;
mod gap;
mod history;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::aws::due::Due;
use crate::backend::aws::item::{Key, LaneKey};
use crate::backend::aws::lane::Logged;
use crate::backend::aws::layouts::Laid;
use crate::backend::aws::place::{Head, HeadState, Past, Place};
use crate::backend::aws::settle;
use crate::backend::pace::Pace;
use crate::backend::{FromBackfill, InboxPolicy, Origin, Result};
use crate::clock::Timestamp;
use crate::event::{Event, Subscriptions};
use crate::policy::{ConsumerName, OnDead};

/// Deliveries whose ends are being written, beside those that are handled.
const SETTLING_MAX: usize = 64;

/// A message of the queue, as it was received: names it for a while.
pub type Receipt = String;

/// One delivery that was leased, with everything that its settlement is decided on.
#[derive(Clone, Debug)]
pub struct Running {
    /// Names this lease.
    pub ticket: u64,
    pub lane: LaneKey,
    pub logged: Logged,
    /// As the consumer gets it.
    pub event: Arc<Event>,
    /// Before this delivery.
    pub place: Place,
    /// What became of it before, where it is an exception.
    pub head: Option<Head>,
    pub edited: bool,
    /// A dead letter whose lane went on without it.
    pub stray: bool,
    /// The claim of the item that stands for it.
    pub due_ver: u64,
    /// The backfill that brought it: it is from before the consumer was there.
    pub from: Option<FromBackfill>,
    pub leased_at: Timestamp,
}

impl Running {
    pub fn first_at(&self) -> Timestamp {
        self.head.and_then(|head| head.first_at).unwrap_or(self.leased_at)
    }

    pub fn replayed(&self) -> bool {
        self.head.is_some_and(|head| head.replayed)
    }

    pub fn origin(&self) -> Origin {
        settle::origin(self.replayed(), self.from.is_some())
    }

    pub fn due_key(&self, name: &ConsumerName) -> Key {
        if self.stray { Key::stray(name, &self.lane, self.logged.seq) } else { Key::due(name, &self.lane) }
    }
}

/// One event that waits for its turn.
#[derive(Clone, Debug)]
pub struct Work {
    pub logged: Logged,
    event: Arc<Event>,
    head: Option<Head>,
    edited: bool,
    stray: bool,
    from: Option<FromBackfill>,
    pub receipts: Vec<Receipt>,
}

impl Work {
    pub fn new(logged: Logged) -> Self {
        let event = Arc::clone(&logged.event);
        Self { logged, event, head: None, edited: false, stray: false, from: None, receipts: Vec::new() }
    }

    /// One that a backfill brings.
    pub fn past(logged: Logged, from: FromBackfill) -> Self {
        Self { from: Some(from), ..Self::new(logged) }
    }
}

/// A lane in memory.
#[derive(Debug)]
pub struct LaneIn {
    pub place: Place,
    /// What stands for it in the table.
    pub due: Option<Due>,
    queue: VecDeque<Work>,
    running: Option<u64>,
    /// The table is asked for what comes next: nothing starts meanwhile.
    looking: bool,
}

impl LaneIn {
    pub fn at(place: Place) -> Self {
        Self { place, due: None, queue: VecDeque::new(), running: None, looking: false }
    }

    /// One that an item which is due stands for.
    pub fn due(place: Place, due: Due) -> Self {
        Self { due: Some(due), ..Self::at(place) }
    }

    /// One that the table is asked for more of.
    pub fn looking(place: Place, due: Due) -> Self {
        Self { due: Some(due), looking: true, ..Self::at(place) }
    }

    /// Whether the table has what is behind: what stands at the head has an item, or is a dead letter.
    fn is_parked(&self) -> bool {
        self.place.is_parked() && self.due.as_ref().is_some_and(|due| due.stray)
    }

    /// The event that the lane stands at, or one that it went on without.
    pub fn offer_head(&mut self, logged: Logged, past: &Past) -> Result<()> {
        let mut work = Work::new(logged);
        work.stray = self.due.as_ref().is_some_and(|due| due.stray);
        work.head = match &self.due {
            Some(due) if due.stray => {
                let (seq, attempts, first_at, from) = (due.seq, due.attempts, due.first_at, due.from);
                Some(Head { seq, state: HeadState::Waiting, attempts, first_at, replayed: true, from })
            }
            _ => self.place.head,
        };
        work.from = work.head.and_then(|head| head.from);
        if let Some(copy) = &past.edited {
            work.event = settle::as_edited(&work.event, &copy.data)?;
            work.edited = true;
        }
        self.queue.push_front(work);
        Ok(())
    }

    /// Adds what is not here yet, in the order of the lane, and gives back the messages of what is done already.
    pub fn add(&mut self, works: impl IntoIterator<Item = Work>) -> Vec<Receipt> {
        let mut done = Vec::new();
        for work in works {
            let seq = work.logged.seq;
            if self.place.is_through(seq, work.from) || self.is_parked() {
                done.extend(work.receipts);
                continue;
            }
            match self.queue.iter_mut().find(|other| other.logged.seq == seq && !other.stray) {
                Some(same) => same.receipts.extend(work.receipts),
                None => {
                    let first =
                        usize::from(self.running.is_some() || self.queue.front().is_some_and(|work| work.stray));
                    let behind = self.queue.iter().skip(first).position(|other| other.logged.seq > seq);
                    self.queue.insert(behind.map_or(self.queue.len(), |at| at + first), work);
                }
            }
        }
        done
    }

    /// The first of its events, leased; `None` where it has none.
    fn running_as(&self, key: &LaneKey, ticket: u64, leased_at: Timestamp) -> Option<Running> {
        let work = self.queue.front()?;
        Some(Running {
            ticket,
            lane: key.clone(),
            logged: work.logged.clone(),
            event: Arc::clone(&work.event),
            place: self.place.clone(),
            head: work.head,
            edited: work.edited,
            stray: work.stray,
            due_ver: self.due.as_ref().map_or(0, |due| due.ver),
            from: work.from,
            leased_at,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.queue.iter().flat_map(|work| &work.receipts)
    }
}

/// Where events went that came for a lane.
#[derive(Debug)]
#[must_use]
pub enum Added {
    /// The messages of what is done already.
    To(Vec<Receipt>),
    NotHere(Vec<Work>),
}

/// Where a lane went whose delivery ended. Messages may be deleted.
#[derive(Debug)]
pub enum Ended {
    /// The next one of it may run.
    Next(Vec<Receipt>),
    /// It may have more in the table.
    Look(Vec<Receipt>),
    Left(Vec<Receipt>),
}

pub struct Desk {
    lanes: HashMap<LaneKey, LaneIn>,
    /// Lanes whose first event may run.
    ready: VecDeque<LaneKey>,
    /// Leases that count: of which lane, and since when.
    running: HashMap<u64, (LaneKey, Timestamp)>,
    /// Those of them that were handled and are being written, which make room for others.
    settling: HashSet<u64>,
    policy: Option<InboxPolicy>,
    pub paused: bool,
    pub laid: Option<Laid>,
    pace: Option<Pace>,
    /// The backfill that may bring events.
    filling: Option<i64>,
    /// No live delivery begins: a rebuild is about to be handed over.
    pub held: bool,
    /// An event of a rebuild is handled.
    again: bool,
    tickets: u64,
}

impl Desk {
    pub fn new(paused: bool) -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            running: HashMap::new(),
            settling: HashSet::new(),
            policy: None,
            paused,
            laid: None,
            pace: None,
            filling: None,
            held: false,
            again: false,
            tickets: 0,
        }
    }

    /// The messages of what is not wanted any more.
    pub fn configure(&mut self, policy: InboxPolicy) -> Vec<Receipt> {
        let before = self.policy.replace(policy.clone());
        if before.as_ref().and_then(|before| before.rate) != policy.rate {
            self.pace = policy.rate.map(Pace::new);
        }
        if before.is_none_or(|before| before.subscriptions == policy.subscriptions) {
            return Vec::new();
        }
        let mut passed = Vec::new();
        for lane in self.lanes.values_mut() {
            let first = usize::from(lane.running.is_some());
            let queue = std::mem::take(&mut lane.queue);
            for (index, work) in queue.into_iter().enumerate() {
                // What was tried already is delivered still.
                if index < first || work.head.is_some() || policy.subscriptions.want(&work.event) {
                    lane.queue.push_back(work);
                } else {
                    passed.extend(work.receipts);
                }
            }
        }
        self.lanes.retain(|_, lane| !lane.queue.is_empty() || lane.due.is_some());
        passed
    }

    pub fn is_configured(&self) -> bool {
        self.policy.is_some()
    }

    pub fn concurrency(&self) -> usize {
        self.policy.as_ref().map_or(0, |policy| policy.concurrency as usize)
    }

    pub fn on_dead(&self) -> OnDead {
        self.policy.as_ref().map_or(OnDead::Park, |policy| policy.on_dead)
    }

    pub fn state_bytes_max(&self) -> u64 {
        self.policy.as_ref().map_or(u64::MAX, |policy| policy.state_bytes_max)
    }

    /// Nothing, where the consumer was never configured.
    pub fn subscriptions(&self) -> Subscriptions {
        match &self.policy {
            Some(policy) => policy.subscriptions.clone(),
            None => std::iter::empty::<crate::event::Subscription>().collect(),
        }
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Deliveries in memory, but for those that a backfill brought.
    pub fn len(&self) -> usize {
        self.lanes.values().map(|lane| lane.queue.iter().filter(|work| work.from.is_none()).count()).sum()
    }

    pub fn has(&self, lane: &LaneKey) -> bool {
        self.lanes.contains_key(lane)
    }

    pub fn lane(&self, lane: &LaneKey) -> Option<&LaneIn> {
        self.lanes.get(lane)
    }

    /// A lane that is not in memory yet.
    pub fn insert(&mut self, key: LaneKey, lane: LaneIn) {
        if !lane.queue.is_empty() {
            self.ready.push_back(key.clone());
        }
        self.lanes.insert(key, lane);
    }

    /// Live events that are wanted by now, and the messages of the others: what is heard may have changed on their way here.
    pub fn sift(&self, works: impl IntoIterator<Item = Work>) -> (Vec<Work>, Vec<Receipt>) {
        let wants = |work: &Work| self.policy.as_ref().is_none_or(|policy| policy.subscriptions.want(&work.event));
        let (wanted, passed): (Vec<Work>, Vec<Work>) = works.into_iter().partition(wants);
        (wanted, passed.into_iter().flat_map(|work| work.receipts).collect())
    }

    /// More of a lane that is in memory.
    pub fn add(&mut self, key: &LaneKey, works: Vec<Work>) -> Added {
        if !self.has(key) {
            return Added::NotHere(works);
        }
        let (works, mut done) = self.sift(works);
        let Some(lane) = self.lanes.get_mut(key) else { return Added::NotHere(works) };
        done.extend(lane.add(works));
        if lane.running.is_none() && !lane.queue.is_empty() {
            self.ready.push_back(key.clone());
        }
        Added::To(done)
    }

    /// What the table has next of a lane. `false` where there is nothing to do.
    pub fn looked(&mut self, key: &LaneKey, works: Vec<Work>) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.looking = false;
        drop(lane.add(works));
        let more = !lane.queue.is_empty();
        if more {
            self.ready.push_back(key.clone());
        }
        more
    }

    /// Whether another delivery may begin beside those that are handled.
    fn has_room(&self) -> bool {
        let live = self.running.len().saturating_sub(self.settling.len().min(SETTLING_MAX));
        self.is_open() && live + usize::from(self.again) < self.concurrency()
    }

    /// An event of a rebuild is handled from now on, where there is room for it.
    pub fn begin_again(&mut self, now: Timestamp) -> bool {
        if self.again || !self.has_room() || self.pace.as_ref().is_some_and(|pace| !pace.allows(now)) {
            return false;
        }
        self.pace.iter_mut().for_each(|pace| pace.started(now));
        self.again = true;
        true
    }

    pub fn end_again(&mut self) {
        self.again = false;
    }

    pub fn lease(&mut self, now: Timestamp) -> Option<Running> {
        if self.held || !self.has_room() {
            return None;
        }
        if self.pace.as_ref().is_some_and(|pace| !pace.allows(now)) {
            return None;
        }
        loop {
            let key = self.ready.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&key).filter(|lane| lane.running.is_none() && !lane.looking) else {
                continue;
            };
            let Some(running) = lane.running_as(&key, self.tickets + 1, now) else { continue };
            self.tickets += 1;
            lane.running = Some(self.tickets);
            self.running.insert(self.tickets, (key, now));
            if let Some(pace) = &mut self.pace {
                pace.started(now);
            }
            return Some(running);
        }
    }

    pub fn settling_count(&self) -> usize {
        self.settling.len()
    }

    /// Whether what was leased is handled, and its end is being written.
    pub fn settling(&mut self, ticket: u64, is: bool) {
        let _ = if is { self.settling.insert(ticket) } else { self.settling.remove(&ticket) };
    }

    /// How long until the rate lets another delivery start.
    pub fn paced_until(&self, now: Timestamp) -> Option<Duration> {
        let due = self.pace.as_ref()?.next_due(now)?;
        (!self.ready.is_empty()).then(|| due.since(now))
    }

    /// What a lease was given, as long as it counts.
    pub fn running_of(&self, ticket: u64) -> Option<Running> {
        let (key, leased_at) = self.running.get(&ticket)?;
        let lane = self.lanes.get(key).filter(|lane| lane.running == Some(ticket))?;
        lane.running_as(key, ticket, *leased_at)
    }

    /// It was not handled: it is the first to run again.
    pub fn release(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key)
            && let Some(ticket) = lane.running.take()
        {
            self.running.remove(&ticket);
            self.ready.push_back(key.clone());
        }
        self.withdraw_from(key);
    }

    /// Its end is durable, and the lane stands at `place`.
    pub fn ended(&mut self, running: &Running, place: Place) -> Ended {
        self.running.remove(&running.ticket);
        let Some(lane) = self.lanes.get_mut(&running.lane) else { return Ended::Left(Vec::new()) };
        lane.running = None;
        lane.place = place;
        let mut messages = lane.queue.pop_front().map(|work| work.receipts).unwrap_or_default();
        if running.stray {
            lane.due = None;
        }
        if lane.place.is_parked() && !running.stray {
            // The table has what is behind it, too.
            messages.extend(self.lanes.remove(&running.lane).iter().flat_map(LaneIn::receipts).cloned());
            return Ended::Left(messages);
        }
        // What was done meanwhile by another way.
        let (place, queue) = (&lane.place, &mut lane.queue);
        let is_open = |work: &Work| work.stray || !place.is_through(work.logged.seq, work.from);
        messages.extend(queue.iter().filter(|work| !is_open(work)).flat_map(|work| work.receipts.clone()));
        queue.retain(is_open);
        if lane.due.is_some() && queue.front().is_none_or(|work| work.from.is_none()) {
            // Messages of what is between may have been deleted while the lane stood.
            lane.looking = true;
            return Ended::Look(messages);
        }
        if !lane.queue.is_empty() {
            self.ready.push_back(running.lane.clone());
            return Ended::Next(messages);
        }
        self.lanes.remove(&running.lane);
        Ended::Left(messages)
    }

    /// Forgets a lane; what it was told by comes again, or may be deleted.
    pub fn leave(&mut self, key: &LaneKey) -> Vec<Receipt> {
        let Some(lane) = self.lanes.remove(key) else { return Vec::new() };
        if let Some(ticket) = lane.running {
            self.running.remove(&ticket);
        }
        lane.receipts().cloned().collect()
    }

    /// Forgets everything. Deliveries that run count for nothing from now on.
    pub fn clear(&mut self) -> Vec<Due> {
        let dues = self.dues();
        self.lanes.clear();
        self.ready.clear();
        self.running.clear();
        dues
    }

    /// What stands in the table for lanes in memory.
    pub fn dues(&self) -> Vec<Due> {
        self.lanes.values().filter_map(|lane| lane.due.clone()).collect()
    }

    /// Of everything in memory.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.lanes.values().flat_map(LaneIn::receipts).cloned().collect()
    }
}
