//! Which delivery of one consumer may run next. Pure: no async, no IO, no clock of its own.
//!
//! Deliveries of one lane stand in a queue in journal order, and only its head may run:
//!
//! ```text
//!          offer                lease               done
//!   ────► queued ──► Ready ───────────► Leased ───────────► gone, the next one becomes Ready
//!                      ▲                  │ │
//!                      │   at `due`       │ └─ dead ──► Dead      (parks the lane)
//!                      └──── Retrying ◄───┘ retry
//!                      └──────────────── revive ──────────┘
//! ```
//!
//! While the head is Retrying or Dead the lane is *parked*: what is queued behind it is `stored`, that is, has
//! a row of its own in the store, so that the consumer's position can go on. The caller writes those rows;
//! this module says which.
//!
//! **Invariants**: per lane, positions rise; a delivery runs at most once at a time; a lane in `ready` has a
//! head that is Ready.

mod ready;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::ready::Ready;
use crate::backend::FromBackfill;
use crate::clock::Timestamp;
use crate::event::{Event, Lane};

/// One delivery that is not done.
#[derive(Clone, Debug)]
pub struct Item {
    pub position: u64,
    /// `None` where it has to be read from the store first.
    pub event: Option<Arc<Event>>,
    /// Attempts that have ended.
    pub attempts: u32,
    pub first_attempt_at: Option<Timestamp>,
    /// Has a row in the store.
    pub stored: bool,
    /// Run again by a person.
    pub replayed: bool,
    /// `None` for a live event.
    pub backfill: Option<FromBackfill>,
}

impl Item {
    pub fn new(event: Arc<Event>) -> Self {
        Self {
            position: event.position.get(),
            event: Some(event),
            attempts: 0,
            first_attempt_at: None,
            stored: false,
            replayed: false,
            backfill: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Ready,
    Leased,
    Retrying(Timestamp),
    Dead,
}

impl Head {
    fn parks(self) -> bool {
        matches!(self, Self::Retrying(_) | Self::Dead)
    }
}

struct Queue {
    head: Head,
    items: VecDeque<Item>,
}

#[derive(Default)]
pub struct Lanes {
    queues: HashMap<Lane, Queue>,
    ready: Ready,
    /// Heads that are Retrying, by when they are due.
    timers: BTreeSet<(Timestamp, u64)>,
    retrying: HashMap<u64, Lane>,
    leased: HashMap<u64, Lane>,
    /// Queued or leased, and not stored: they hold the consumer's position back.
    unstored: usize,
    total: usize,
}

impl Lanes {
    /// Puts `item` at the end of its lane. Returns whether the lane is parked: then the item counts as stored,
    /// and the caller must store it.
    pub fn offer(&mut self, lane: Lane, mut item: Item) -> bool {
        self.total += 1;
        match self.queues.get_mut(&lane) {
            None => {
                self.unstored += usize::from(!item.stored);
                self.ready.push_back(lane.clone(), &item);
                self.queues.insert(lane, Queue { head: Head::Ready, items: VecDeque::from([item]) });
                false
            }
            Some(queue) => {
                let to_store = queue.head.parks() && !item.stored;
                item.stored |= to_store;
                self.unstored += usize::from(!item.stored);
                queue.items.push_back(item);
                to_store
            }
        }
    }

    /// Puts an item of a lane's history before what came later, yet behind a head that runs, retries or is dead.
    /// Returns as [`Lanes::offer`].
    pub fn insert(&mut self, lane: Lane, item: Item) -> bool {
        let position = item.position;
        let to_store = self.offer(lane.clone(), item);
        if let Some(queue) = self.queues.get_mut(&lane) {
            let kept = usize::from(queue.head != Head::Ready);
            let place = queue.items.iter().skip(kept).position(|other| other.position > position);
            if let Some(place) = place
                && let Some(item) = queue.items.pop_back()
            {
                queue.items.insert(kept + place, item);
            }
        }
        to_store
    }

    /// Takes out what is `wanted` and waits for its turn: not a head that runs, retries or is dead. In the order of
    /// the lanes' queues.
    pub fn withdraw(&mut self, wanted: impl Fn(&Item) -> bool) -> Vec<(Lane, Item)> {
        let mut taken = Vec::new();
        self.queues.retain(|lane, queue| {
            let mut kept = usize::from(queue.head != Head::Ready);
            for item in std::mem::take(&mut queue.items) {
                if kept == 0 && wanted(&item) {
                    taken.push((lane.clone(), item));
                } else {
                    queue.items.push_back(item);
                }
                kept = kept.saturating_sub(1);
            }
            !queue.items.is_empty()
        });
        self.ready.retain(|lane| self.queues.contains_key(lane));
        self.total -= taken.len();
        self.unstored -= taken.iter().filter(|(_, item)| !item.stored).count();
        taken
    }

    /// Puts an item back as the store remembers it, with its lane parked as `head` says. Items of a lane must
    /// come in journal order.
    pub fn restore(&mut self, lane: Lane, item: Item, head: Head) {
        let position = item.position;
        let fresh = !self.queues.contains_key(&lane);
        self.offer(lane.clone(), item);
        if !fresh {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&lane) {
            if head.parks()
                && let Some(item) = queue.items.front()
            {
                // The lane that was offered just now.
                self.ready.pop_back(item);
            }
            queue.head = head;
        }
        match head {
            Head::Retrying(due) => self.set_timer(due, position, lane),
            Head::Dead | Head::Ready | Head::Leased => {}
        }
    }

    /// The next delivery that may run at `now`, marked as leased.
    pub fn lease(&mut self, now: Timestamp) -> Option<Item> {
        self.wake(now);
        let lane = self.ready.next()?;
        let queue = self.queues.get_mut(&lane)?;
        debug_assert_eq!(queue.head, Head::Ready);
        queue.head = Head::Leased;
        let item = queue.items.front_mut()?;
        item.first_attempt_at.get_or_insert(now);
        self.leased.insert(item.position, lane);
        Some(item.clone())
    }

    /// The leased delivery is done: its lane goes on.
    pub fn done(&mut self, position: u64) {
        if let Some(lane) = self.leased.remove(&position) {
            self.pop(lane);
        }
    }

    /// The leased delivery was not attempted: it is the next of its lane again.
    pub fn release(&mut self, position: u64) {
        if let Some(lane) = self.leased.remove(&position)
            && let Some(queue) = self.queues.get_mut(&lane)
        {
            queue.head = Head::Ready;
            if let Some(item) = queue.items.front_mut() {
                if item.attempts == 0 {
                    item.first_attempt_at = None;
                }
                self.ready.push_front(lane, item);
            }
        }
    }

    /// The leased delivery is to be tried again at `due`. Returns the positions of the lane that were not
    /// stored, its head first: they count as stored from now on, and the caller must store them.
    pub fn retry(&mut self, position: u64, due: Timestamp) -> Vec<u64> {
        let Some(lane) = self.leased.remove(&position) else { return Vec::new() };
        self.set_timer(due, position, lane.clone());
        self.park(&lane, Head::Retrying(due))
    }

    /// The leased delivery is a dead letter, and its lane waits behind it. Returns positions as [`Lanes::retry`].
    pub fn die(&mut self, position: u64) -> Vec<u64> {
        let Some(lane) = self.leased.remove(&position) else { return Vec::new() };
        self.park(&lane, Head::Dead)
    }

    /// Makes a dead letter that parks its lane deliverable again, with no attempts counted. `false` if no lane
    /// is parked by it.
    pub fn revive(&mut self, lane: &Lane, position: u64) -> bool {
        let Some(queue) = self.dead_queue(lane, position) else { return false };
        queue.head = Head::Ready;
        if let Some(item) = queue.items.front_mut() {
            item.attempts = 0;
            item.first_attempt_at = None;
            item.replayed = true;
        }
        if let Some(item) = self.queues.get(lane).and_then(|queue| queue.items.front()) {
            self.ready.push_back(lane.clone(), item);
        }
        true
    }

    /// Gives up a dead letter that parks its lane; the lane goes on. `false` if no lane is parked by it.
    pub fn discard(&mut self, lane: &Lane, position: u64) -> bool {
        if self.dead_queue(lane, position).is_none() {
            return false;
        }
        self.pop(lane.clone());
        true
    }

    /// Takes out what was never tried, waits for its turn in memory alone, and is not wanted any more. Returns its
    /// positions: no row tells of them.
    pub fn reconsider(&mut self, wanted: impl Fn(&Event) -> bool) -> Vec<u64> {
        let mut unwanted = Vec::new();
        for queue in self.queues.values_mut() {
            let leased = queue.head == Head::Leased;
            let mut index = 0;
            queue.items.retain(|item| {
                let runs = leased && index == 0;
                index += 1;
                let drop = !runs && !item.stored && item.event.as_ref().is_some_and(|event| !wanted(event));
                if drop {
                    unwanted.push(item.position);
                }
                !drop
            });
        }
        self.queues.retain(|_, queue| !queue.items.is_empty());
        self.ready.retain(|lane| self.queues.contains_key(lane));
        self.total -= unwanted.len();
        self.unstored -= unwanted.len();
        unwanted
    }

    /// Lets every lane that a dead letter parks go on behind it. Returns the positions of these letters.
    pub fn leave_dead_behind(&mut self) -> Vec<u64> {
        let parked = self.queues.iter().filter(|(_, queue)| queue.head == Head::Dead);
        let parked = parked.filter_map(|(lane, queue)| Some((lane.clone(), queue.items.front()?.position)));
        let (lanes, letters): (Vec<_>, Vec<_>) = parked.unzip();
        lanes.into_iter().for_each(|lane| self.pop(lane));
        letters
    }

    /// Whether the delivery stands in its lane.
    pub fn holds(&self, lane: &Lane, position: u64) -> bool {
        self.queues.get(lane).is_some_and(|queue| queue.items.iter().any(|item| item.position == position))
    }

    /// When the next retry is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub fn leased(&self) -> usize {
        self.leased.len()
    }

    pub fn unstored(&self) -> usize {
        self.unstored
    }

    /// Deliveries that are not done.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Dead letters that park their lane.
    #[cfg(test)]
    pub fn dead(&self) -> usize {
        self.queues.values().filter(|queue| queue.head == Head::Dead).count()
    }

    /// The clock was set back by so much: what is to be tried again does not wait for that, too.
    pub fn set_back(&mut self, by: Duration) {
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers.into_iter().map(|(due, position)| (due.minus(by), position)).collect();
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some(&(due, position)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.remove(&(due, position));
            if let Some(lane) = self.retrying.remove(&position)
                && let Some(queue) = self.queues.get_mut(&lane)
            {
                queue.head = Head::Ready;
                if let Some(item) = queue.items.front() {
                    self.ready.push_back(lane, item);
                }
            }
        }
    }

    fn set_timer(&mut self, due: Timestamp, position: u64, lane: Lane) {
        self.timers.insert((due, position));
        self.retrying.insert(position, lane);
    }

    fn park(&mut self, lane: &Lane, head: Head) -> Vec<u64> {
        let Some(queue) = self.queues.get_mut(lane) else { return Vec::new() };
        queue.head = head;
        if let Some(item) = queue.items.front_mut() {
            item.attempts += 1;
        }
        let mut to_store = Vec::new();
        for item in &mut queue.items {
            // Waiting may last: the event can be read again when its turn comes.
            item.event = None;
            if !item.stored {
                item.stored = true;
                to_store.push(item.position);
            }
        }
        self.unstored -= to_store.len();
        to_store
    }

    /// Drops the head of the lane; the next one becomes Ready.
    fn pop(&mut self, lane: Lane) {
        let Some(queue) = self.queues.get_mut(&lane) else { return };
        if let Some(item) = queue.items.pop_front() {
            self.total -= 1;
            self.unstored -= usize::from(!item.stored);
        }
        match queue.items.front() {
            None => drop(self.queues.remove(&lane)),
            Some(item) => {
                queue.head = Head::Ready;
                self.ready.push_back(lane, item);
            }
        }
    }

    fn dead_queue(&mut self, lane: &Lane, position: u64) -> Option<&mut Queue> {
        let queue = self.queues.get_mut(lane)?;
        let is_it = queue.head == Head::Dead && queue.items.front().is_some_and(|item| item.position == position);
        is_it.then_some(queue)
    }
}

#[cfg(test)]
mod tests;
