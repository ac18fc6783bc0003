//! A backfill that is under way, as one consumer's desk knows it. Pure but for [`Fill::load`].
//!
//! ```text
//!                 through      in the lanes      buffer         not read yet         live
//! positions   ├──────────────┼─ open ─ open ─┼─────────────┼────────────────────┤ began │ ─────►
//!           first                          cursor                              last
//! ```
//!
//! Past events go into the same lanes as live ones. A live event whose lane has history behind the cursor is *held*: it
//! has a row of its own, so that the consumer's position goes on, and joins its lane when the cursor has passed the
//! last of that history.
//!
//! **Invariants**: an event is offered to the lanes at most once; what is held is behind something that the cursor has
//! not passed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use crate::backend::embedded::backfills::{self, Earlier};
use crate::backend::embedded::commit::{BackfillNumber, ConsumerCommit, ConsumerNumber};
use crate::backend::embedded::lanes::Item;
use crate::backend::embedded::progress::Progress;
use crate::backend::pace::Pace;
use crate::backend::{BackfillStep, Backfilled, FromBackfill};
use crate::clock::Timestamp;
use crate::event::filter::Filter;
use crate::event::{Event, Lane};

pub struct Fill {
    from: FromBackfill,
    /// Position of the last past event looked at.
    cursor: u64,
    last: u64,
    stage: Stage,
    pace: Pace,
    /// As it was on disk when the fill was loaded: what is done ahead of the cursor is not offered again.
    loaded: Progress,
    filter: Option<Filter>,
    /// What was offered by backfills before this one.
    earlier: Vec<Earlier>,
    /// Read, and not looked at yet.
    buffer: VecDeque<Arc<Event>>,
    /// In the lanes, and not stored.
    open: BTreeSet<u64>,
    /// Ranges that need no delivery, not written down yet.
    passed: Vec<(u64, u64)>,
    held: HashMap<Lane, Held>,
    /// Which lanes are free once the cursor has passed a position.
    releases: BTreeMap<u64, Vec<Lane>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Paused,
    /// Offers no more; what runs ends.
    Cancelled,
}

struct Held {
    behind: u64,
    items: VecDeque<Item>,
}

impl Fill {
    /// The backfill of the consumer that is under way, with nothing held.
    pub fn load(disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<Option<Self>> {
        let Some(row) = backfills::under_way(disk, consumer, Backfilled::Missed)? else { return Ok(None) };
        let earlier = backfills::earlier(disk, consumer)?;
        Ok(Some(Self {
            from: row.from,
            cursor: row.progress.base(),
            last: row.last,
            stage: if row.paused { Stage::Paused } else { Stage::Running },
            pace: Pace::new(row.rate),
            loaded: row.progress,
            filter: row.filter,
            earlier,
            buffer: VecDeque::new(),
            open: BTreeSet::new(),
            passed: Vec::new(),
            held: HashMap::new(),
            releases: BTreeMap::new(),
        }))
    }

    pub fn number(&self) -> BackfillNumber {
        self.from.number
    }

    pub fn from(&self) -> FromBackfill {
        self.from
    }

    pub fn steer(&mut self, step: BackfillStep) {
        self.stage = match (self.stage, step) {
            (Stage::Cancelled, _) | (_, BackfillStep::Cancel) => Stage::Cancelled,
            (_, BackfillStep::Pause) => Stage::Paused,
            (_, BackfillStep::Resume) => Stage::Running,
        };
    }

    /// Nothing of it is left to be offered or to end.
    pub fn is_over(&self) -> bool {
        (self.stage == Stage::Cancelled || self.cursor >= self.last) && self.open.is_empty()
    }

    /// Positions of history that may have to be delivered still: behind the first, up to the second.
    pub fn ahead(&self) -> (u64, u64) {
        if self.stage == Stage::Cancelled { (self.last, self.last) } else { (self.cursor, self.last) }
    }

    /// Behind which position to read events, if some are wanted.
    pub fn reads(&self, now: Timestamp, open_max: usize) -> Option<u64> {
        let wanted = self.buffer.is_empty() && self.cursor < self.last && self.may_offer(now, open_max);
        wanted.then_some(self.cursor)
    }

    /// Takes over what was read. Nothing behind the cursor is nothing up to the end.
    pub fn take_read(&mut self, events: Vec<Arc<Event>>) {
        let last = self.last;
        self.buffer.extend(events.into_iter().take_while(|event| event.position.get() <= last));
        if self.buffer.is_empty() && self.cursor < self.last {
            self.pass(self.cursor + 1, self.last);
            self.cursor = self.last;
        }
    }

    /// The next past event, if one may be offered now: it is looked at from now on.
    pub fn next(&mut self, now: Timestamp, open_max: usize) -> Option<Arc<Event>> {
        if !self.may_offer(now, open_max) {
            return None;
        }
        let event = self.buffer.pop_front()?;
        self.cursor = event.position.get();
        Some(event)
    }

    fn may_offer(&self, now: Timestamp, open_max: usize) -> bool {
        self.stage == Stage::Running && self.open.len() < open_max && self.pace.allows(now)
    }

    /// Whether the event is to be delivered: it matches, was not done before and not offered by another backfill.
    pub fn wants(&self, event: &Event) -> bool {
        !self.loaded.contains(event.position.get())
            && self.filter.as_ref().is_none_or(|filter| event.passes(filter))
            && !self.earlier.iter().any(|earlier| earlier.offered(event))
    }

    /// The event is in the lanes.
    pub fn opened(&mut self, position: u64, now: Timestamp) {
        self.pace.started(now);
        self.open.insert(position);
    }

    /// The event needs no delivery, or has a row of its own.
    pub fn pass(&mut self, first: u64, last: u64) {
        match self.passed.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.passed.push((first, last)),
        }
    }

    /// The event is through. `false` if it was none of those in the lanes.
    pub fn closed(&mut self, position: u64) -> bool {
        self.open.remove(&position)
    }

    pub fn is_open(&self, position: u64) -> bool {
        self.open.contains(&position)
    }

    /// What the lane waits for, if it is held already.
    pub fn behind(&self, lane: &Lane) -> Option<u64> {
        self.held.get(lane).map(|held| held.behind)
    }

    /// Keeps a stored item back until the cursor has passed `behind`.
    pub fn hold(&mut self, lane: Lane, item: Item, behind: u64) {
        let releases = &mut self.releases;
        let held = self.held.entry(lane).or_insert_with_key(|lane| {
            releases.entry(behind).or_default().push(lane.clone());
            Held { behind, items: VecDeque::new() }
        });
        held.items.push_back(item);
    }

    /// What is held no longer, lane by lane in order.
    pub fn release(&mut self) -> Vec<(Lane, Item)> {
        let cursor = if self.stage == Stage::Cancelled { u64::MAX } else { self.cursor };
        let mut free = Vec::new();
        while let Some(first) = self.releases.first_entry().filter(|first| *first.key() <= cursor) {
            for lane in first.remove() {
                let held = self.held.remove(&lane).map(|held| held.items).unwrap_or_default();
                free.extend(held.into_iter().map(|item| (lane.clone(), item)));
            }
        }
        free
    }

    pub fn held(&self) -> usize {
        self.held.values().map(|held| held.items.len()).sum()
    }

    pub fn passed(&self) -> u64 {
        self.passed.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn take_passed(&mut self, commit: &mut ConsumerCommit) {
        if !self.passed.is_empty() {
            commit.backfill(self.from.number).through.append(&mut self.passed);
        }
    }

    /// When an event may be offered that may not be now.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let waits = self.stage == Stage::Running && self.cursor < self.last;
        if waits { self.pace.next_due(now) } else { None }
    }
}
