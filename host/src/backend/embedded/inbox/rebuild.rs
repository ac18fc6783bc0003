//! A rebuild that is under way, as one consumer's desk knows it. Pure but for [`Rebuild::load`].
//!
//! ```text
//!                 handled on the new generation     in the queue    not looked at      the edge
//! positions   ├───────────────────────────────┼──── open ────┼───────────────────┤ what is done ─ ─►
//!           first     (deferred here and there)            looked
//! ```
//!
//! It follows what is durable of the consumer: a position that the consumer is through with and that has no row among the
//! exceptions was done, and is handled again. One that is an exception is deferred, and comes back when the store says that
//! it is over. One event is handled after another, in journal order, and one that is tried again holds up the others: so
//! what comes of it depends on the journal alone, also where events of different lanes meet in one key. Attempts are
//! remembered here alone: after a restart, the first one comes again.
//!
//! A way back is a rebuild of what is in its generation already, by the version that it leads to.
//!
//! **Invariants**: an event is queued at most once, and only after those of its lane that the consumer did before it; what
//! is handed over has nothing open.

pub mod look;
mod settle;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;

use self::look::{Fed, Found, Look};
use crate::backend::embedded::backfills;
use crate::backend::embedded::cache::Cache;
use crate::backend::embedded::commit::{BackfillNumber, ConsumerNumber};
use crate::backend::embedded::generations::Filling;
use crate::backend::embedded::progress::Progress;
use crate::backend::pace::Pace;
use crate::backend::{BackfillStep, Backfilled, WayBack};
use crate::clock::Timestamp;
use crate::event::Event;

/// Events in the queue below which more is looked for.
const OPEN_MIN: usize = 128;
/// One lease in so many is the rebuild's, if it has one to make: it runs behind live events, and comes to its end.
const TURN_EVERY: u8 = 4;
/// Positions that may be left when live deliveries are held back for the hand-over: a moment's work.
const REST_MAX: u64 = 64;
/// How long they are held back at the first try, which must be long enough for those that run; each that fails is followed
/// by one of twice that.
const HELD_BACK_TIME: Duration = Duration::from_secs(2);
const HELD_BACK_TIME_MAX: Duration = Duration::from_secs(64);
/// For how long they go on then.
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

pub struct Rebuild {
    pub filling: Filling,
    /// Of the generation that it fills.
    pub cache: Arc<Mutex<Cache>>,
    /// Where it is a way back.
    pub way: Option<WayBack>,
    stage: Stage,
    edge: Edge,
    /// The last look found all that there was.
    was_at_edge: bool,
    held_back_max: Duration,
    /// By position; the first one is next, or runs.
    queue: BTreeMap<u64, Entry>,
    runs: Option<u64>,
    pace: Pace,
    /// Positions that were looked at: done, passed by, deferred, or in the queue.
    looked: Progress,
    /// Deferred ones that are over and in the queue.
    reopened: HashSet<u64>,
    /// What failed last, as the store knows it.
    failing: Option<u64>,
    /// The last job that said something of deferred ones: what the store says of them before that is durable is old.
    written: u64,
    /// The last durable job when a look found nothing.
    idle_at: Option<u64>,
    /// Somebody is at it, without the desk's lock.
    looking: bool,
    turn: u8,
}

/// One event that is to be handled.
struct Entry {
    event: Arc<Event>,
    /// Attempts that have ended.
    attempts: u32,
    first_attempt_at: Option<Timestamp>,
    due: Timestamp,
}

/// One that runs from now on.
pub struct Leased {
    pub event: Arc<Event>,
    pub attempt: u32,
    pub first_attempt_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Paused,
    /// What runs ends, for nothing.
    Cancelled,
}

/// How near the hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Behind,
    /// Little is left, and no live delivery starts.
    Near {
        since: Timestamp,
    },
    /// It was near, and live deliveries could be held back no longer.
    Resting {
        until: Timestamp,
    },
    /// The committer was asked for it.
    Asked {
        since: Timestamp,
    },
}

impl Rebuild {
    /// The consumer's rebuild that is under way.
    pub fn load(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<Option<Self>> {
        let Some(row) = backfills::under_way(disk, consumer, Backfilled::Rebuild)? else { return Ok(None) };
        let Some(state) = row.generation else { return Ok(None) };
        let mut cache = Cache::new(state);
        cache.reload(disk)?;
        Ok(Some(Self {
            filling: Filling { consumer, backfill: row.from.number, state },
            cache: Arc::new(Mutex::new(cache)),
            way: row.way_back,
            stage: if row.paused { Stage::Paused } else { Stage::Running },
            edge: Edge::Behind,
            was_at_edge: false,
            held_back_max: HELD_BACK_TIME,
            queue: BTreeMap::new(),
            runs: None,
            pace: Pace::new(row.rate),
            looked: row.progress,
            reopened: HashSet::new(),
            failing: row.failing,
            written: 0,
            idle_at: None,
            looking: false,
            turn: 0,
        }))
    }

    pub fn number(&self) -> BackfillNumber {
        self.filling.backfill
    }

    pub fn steer(&mut self, step: BackfillStep) {
        let stage = match (self.stage, step) {
            (Stage::Cancelled, _) | (_, BackfillStep::Cancel) => Stage::Cancelled,
            (_, BackfillStep::Pause) => Stage::Paused,
            (_, BackfillStep::Resume) => Stage::Running,
        };
        if self.stage != stage {
            self.stage = stage;
            self.leave_edge();
            self.idle_at = None;
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.stage == Stage::Cancelled
    }

    /// Nothing of it is left to end.
    pub fn is_over(&self) -> bool {
        self.is_cancelled() && self.runs.is_none()
    }

    /// Whether the next lease is the rebuild's, if it has one to make.
    pub fn takes_turn(&mut self) -> bool {
        self.turn = (self.turn + 1) % TURN_EVERY;
        self.turn == 0
    }

    /// Live deliveries do not start now: it is about to be handed over.
    pub fn holds_back(&self) -> bool {
        matches!(self.edge, Edge::Near { .. } | Edge::Asked { .. })
    }

    /// Deliveries of it that run: one at most.
    pub fn running(&self) -> usize {
        usize::from(self.runs.is_some())
    }

    fn is_at_work(&self) -> bool {
        self.stage == Stage::Running && !matches!(self.edge, Edge::Asked { .. })
    }

    /// The next event, if one may start: it runs from now on.
    pub fn lease(&mut self, now: Timestamp) -> Option<Leased> {
        let paced = self.holds_back() || self.pace.allows(now);
        if !self.is_at_work() || !paced || self.runs.is_some() {
            return None;
        }
        let (position, entry) = self.queue.iter_mut().next().filter(|(_, entry)| entry.due <= now)?;
        let first_attempt_at = *entry.first_attempt_at.get_or_insert(now);
        self.runs = Some(*position);
        self.pace.started(now);
        Some(Leased { event: Arc::clone(&entry.event), attempt: entry.attempts + 1, first_attempt_at })
    }

    /// When something may be done that may not be now.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        if !self.is_at_work() {
            return None;
        }
        let next = self.queue.first_key_value().filter(|_| self.runs.is_none());
        let paced = next.and_then(|(_, entry)| self.pace.next_due(now).max(Some(entry.due)));
        let edge = match self.edge {
            Edge::Near { since } => Some(since.plus(self.held_back_max)),
            Edge::Resting { until } => Some(until),
            Edge::Behind | Edge::Asked { .. } => None,
        };
        [paced, edge].into_iter().flatten().min()
    }

    /// Live deliveries are held back for a while at most.
    pub fn keep_time(&mut self, now: Timestamp) {
        match self.edge {
            Edge::Near { since } if now >= since.plus(self.held_back_max) => {
                self.edge = Edge::Resting { until: now.plus(BETWEEN_TRIES) };
                self.held_back_max = (self.held_back_max * 2).min(HELD_BACK_TIME_MAX);
            }
            Edge::Resting { until } if now >= until => {
                (self.edge, self.idle_at) = (Edge::Behind, None);
            }
            _ => {}
        }
    }

    /// The clock was set back by so much: nothing waits for that, too.
    pub fn set_back(&mut self, by: Duration) {
        self.queue.values_mut().for_each(|entry| entry.due = entry.due.minus(by));
        match &mut self.edge {
            Edge::Near { since: time } | Edge::Asked { since: time } | Edge::Resting { until: time } => {
                *time = time.minus(by)
            }
            Edge::Behind => {}
        }
    }

    /// What to look for, if it is time to look. Until [`Rebuild::looked`] nobody else does.
    pub fn begin_look(&mut self, durable: u64) -> Option<Past> {
        let wanted = self.is_at_work()
            && !self.looking
            && self.queue.len() < OPEN_MIN
            && durable >= self.written
            && self.idle_at.is_none_or(|at| durable > at);
        if !wanted {
            return None;
        }
        self.looking = true;
        Some(Past { filling: self.filling, looked: self.looked.clone(), reopened: self.reopened.clone() })
    }

    pub fn give_up_look(&mut self) {
        self.looking = false;
    }

    /// What becomes of what was found; nothing is changed yet.
    pub fn feed(&self, look: &Look, wants: impl Fn(&Event) -> bool) -> Fed {
        let mut fed = Fed::default();
        for (event, found) in &look.over {
            if *found == Found::Done && wants(event) {
                fed.reopened.push(event.position.get());
                fed.offered.push(Arc::clone(event));
            } else {
                fed.looked.dismissed.push(event.position.get());
            }
        }
        let Some((first, last)) = look.through else { return fed };
        let mut begins = first;
        for (event, found) in &look.fresh {
            let position = event.position.get();
            match found {
                Found::Done if wants(event) => fed.offered.push(Arc::clone(event)),
                Found::Exception => fed.looked.deferred.push(position),
                Found::Done | Found::Discarded => continue,
            }
            if begins < position {
                fed.looked.passed.push((begins, position - 1));
            }
            begins = position + 1;
        }
        if begins <= last {
            fed.looked.passed.push((begins, last));
        }
        fed
    }

    /// Takes over what was found, and written by `job` as far as something had to be. `durable` is as of before the look.
    pub fn looked(&mut self, look: &Look, fed: Fed, job: Option<u64>, durable: u64, now: Timestamp) {
        self.looking = false;
        if let Some((first, last)) = look.through {
            self.looked.add(first, last);
        }
        if !(fed.looked.deferred.is_empty() && fed.looked.dismissed.is_empty()) {
            self.written = job.unwrap_or(self.written);
        }
        self.idle_at = look.is_empty().then_some(durable);
        self.approach(look, now);
        self.reopened.extend(fed.reopened);
        let entry = |event: Arc<Event>| {
            let entry =
                Entry { event: Arc::clone(&event), attempts: 0, first_attempt_at: None, due: Timestamp::default() };
            (event.position.get(), entry)
        };
        self.queue.extend(fed.offered.into_iter().map(entry));
    }

    /// Live deliveries are held back once everything was handled that there was, and what came since is a moment's work.
    fn approach(&mut self, look: &Look, now: Timestamp) {
        let found = look.through.map_or(0, |(first, last)| last - first + 1);
        let is_little = self.was_at_edge && look.rest.is_some_and(|rest| rest + found <= REST_MAX);
        let is_near = self.queue.is_empty() && (is_little || look.is_empty());
        if self.edge == Edge::Behind && self.is_at_work() && is_near {
            self.edge = Edge::Near { since: now };
        }
        self.was_at_edge = look.rest == Some(0);
    }

    pub fn was_deferred(&self, position: u64) -> bool {
        self.reopened.contains(&position)
    }

    /// Whether it is what failed last.
    pub fn is_failing(&self, position: u64) -> bool {
        self.failing == Some(position)
    }

    /// The delivery was done, and `job` writes it.
    pub fn done(&mut self, position: u64, job: u64) {
        self.release(position);
        self.queue.remove(&position);
        self.failing.take_if(|failing| *failing == position);
        if self.reopened.remove(&position) {
            self.written = job;
        }
    }

    /// The delivery was not attempted, or what came of it counts for nothing.
    pub fn release(&mut self, position: u64) {
        self.runs.take_if(|runs| *runs == position);
    }

    /// The delivery is to be tried again: live ones do not wait for that.
    pub fn retry(&mut self, position: u64, due: Timestamp) {
        self.release(position);
        if let Some(entry) = self.queue.get_mut(&position) {
            (entry.attempts, entry.due) = (entry.attempts + 1, due);
        }
        self.failing = Some(position);
        self.leave_edge();
    }

    /// The delivery failed for good: nothing goes on until the rebuild is resumed, and then as if it had not been tried.
    pub fn fail(&mut self, position: u64) {
        self.release(position);
        if let Some(entry) = self.queue.get_mut(&position) {
            (entry.attempts, entry.first_attempt_at, entry.due) = (0, None, Timestamp::default());
        }
        self.failing = Some(position);
        self.steer(BackfillStep::Pause);
    }

    /// Whether the committer is to be asked for the hand-over, where so many live deliveries run. It is asked once.
    pub fn asks(&mut self, running: usize) -> bool {
        let Edge::Near { since } = self.edge else { return false };
        let is_idle = !self.looking && self.idle_at.is_some() && self.queue.is_empty();
        let asks = self.is_at_work() && is_idle && running == 0;
        if asks {
            self.edge = Edge::Asked { since };
        }
        asks
    }

    /// Something was left after all.
    pub fn not_yet(&mut self) {
        if let Edge::Asked { since } = self.edge {
            self.edge = if self.stage == Stage::Running { Edge::Near { since } } else { Edge::Behind };
            self.idle_at = None;
        }
    }

    fn leave_edge(&mut self) {
        if matches!(self.edge, Edge::Near { .. }) {
            self.edge = Edge::Behind;
        }
    }
}

/// What a look is to find: what the store knows of the consumer and this does not.
pub struct Past {
    pub filling: Filling,
    pub looked: Progress,
    pub reopened: HashSet<u64>,
}
