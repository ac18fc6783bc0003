//! What an inbox knows in memory: the lanes, how far it has looked, and what is still to be written down.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::ahead::Counts;
use super::fill::Fill;
use super::rebuild::Rebuild;
use super::room::Room;
use crate::backend::embedded::commit::{
    BackfillNumber, ConsumerCommit, ConsumerNumber, Exception, Standing, StateNumber,
};
use crate::backend::embedded::lanes::{Head, Item, Lanes};
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::{backfills, dead_letters, pause, rows};
use crate::backend::pace::Pace;
use crate::backend::{BackfillStep, InboxPolicy, Lease};
use crate::clock::Timestamp;
use crate::event::{Event, Lane, Subscriptions};
use crate::policy::OnDead;

/// Past events in the lanes at once, where two for each delivery that may run are less: live ones stand behind few of
/// them.
const OPEN_MIN: usize = 16;

#[derive(Default)]
pub struct Desk {
    pub lanes: Lanes,
    /// Position of the last event looked at.
    pub cursor: u64,
    /// Raised when the desk goes back to what is durable: leases of before count for nothing.
    pub epoch: u64,
    policy: Option<InboxPolicy>,
    /// By a person; as it is on disk.
    pub paused: bool,
    /// The state in use, and how it is laid out.
    pub generation: StateNumber,
    pub layout: Option<u32>,
    /// The rebuild that is under way, if there is one.
    pub rebuild: Option<Rebuild>,
    /// As it was on disk when the desk was loaded: what is done ahead of the cursor is not offered again.
    loaded: Progress,
    /// Ranges that need no delivery, not written down yet.
    passed: Vec<(u64, u64)>,
    exceptions: Vec<Exception>,
    /// Positions of events that a person edited a copy of: few, and looked for at every delivery that is retried.
    pub edited: HashSet<u64>,
    /// Jobs that finished a delivery and are not durable yet, oldest first.
    unsettled: VecDeque<u64>,
    room: Room,
    pace: Option<Pace>,
    fill: Option<Fill>,
    counts: Counts,
    /// The time as it was told last.
    seen: Timestamp,
}

impl Desk {
    /// The time. Nothing that waits for one waits longer because the clock is set back.
    pub fn now(&mut self) -> Timestamp {
        let now = Timestamp::now();
        self.keep_time(now);
        now
    }

    fn keep_time(&mut self, now: Timestamp) {
        let back = self.seen.since(now);
        if back > Duration::ZERO {
            self.lanes.set_back(back);
            self.rebuild.iter_mut().for_each(|rebuild| rebuild.set_back(back));
        }
        self.seen = now;
    }

    pub fn reload(&mut self, disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<()> {
        let loaded = disk
            .prepare_cached("SELECT position, ahead, layout FROM consumers WHERE number = ?1")?
            .query_row([consumer], |row| Ok((rows::progress(row, 0)?, row.get(2)?)))
            .optional()?;
        let (loaded, layout) = loaded.unwrap_or_default();
        let policy = self.policy.take();
        let on_dead = policy.as_ref().map_or(OnDead::Park, |policy| policy.on_dead);
        let paused = pause::is_paused(disk, consumer)?;
        let (counts, cursor, epoch, generation) = (self.counts.again(), loaded.base(), self.epoch + 1, self.generation);
        let pace = policy.as_ref().and_then(|policy| policy.rate).map(Pace::new);
        let (fill, rebuild) = (Fill::load(disk, consumer)?, Rebuild::load(disk, consumer)?);
        let durable =
            Self { cursor, epoch, paused, generation, layout, loaded, counts, fill, rebuild, ..Self::default() };
        *self = Self { policy, pace, ..durable };
        let mut statement = disk.prepare_cached(
            "SELECT d.position, d.lane, d.state, d.attempts, d.first_at, d.due, d.replayed, d.backfill, b.effects, d.behind,
                    iif(d.state = 'retrying', (SELECT max(a.time) FROM attempts AS a
                                               WHERE a.consumer = d.consumer AND a.position = d.position), NULL)
             FROM deliveries AS d LEFT JOIN backfills AS b ON b.number = d.backfill
             WHERE d.consumer = ?1 AND d.state <> 'skipped' ORDER BY d.state IN ('retrying', 'dead') DESC, d.position",
        )?;
        let now = Timestamp::now();
        let mut stored = statement.query([consumer])?;
        while let Some(row) = stored.next()? {
            let lane = rows::lane(row.get_ref(1)?.as_str()?)?;
            let head = match row.get_ref(2)?.as_str()? {
                "retrying" => {
                    let (due, tried) = (rows::optional_timestamp(row, 5)?, rows::optional_timestamp(row, 10)?);
                    Head::Retrying(due_by(now, due.unwrap_or_default(), tried))
                }
                "dead" if on_dead == OnDead::Skip => {
                    self.exceptions.push(Exception::LeaveBehind { position: rows::unsigned(row.get(0)?) });
                    continue;
                }
                "dead" => Head::Dead,
                _ => Head::Ready,
            };
            let item = Item {
                position: rows::unsigned(row.get(0)?),
                event: None,
                attempts: row.get(3)?,
                first_attempt_at: rows::optional_timestamp(row, 4)?,
                stored: true,
                replayed: row.get(6)?,
                backfill: backfills::from(row, 7)?,
            };
            let behind = row.get::<_, Option<i64>>(9)?.map(rows::unsigned);
            match (&mut self.fill, behind) {
                (Some(fill), Some(behind)) if behind > fill.ahead().0 => fill.hold(lane, item, behind),
                _ => self.lanes.restore(lane, item, head),
            }
        }
        self.edited = dead_letters::edited_positions(disk, consumer)?;
        Ok(())
    }

    pub fn configure(&mut self, policy: InboxPolicy) {
        let before = self.policy.replace(policy.clone());
        if before.as_ref().and_then(|before| before.rate) != policy.rate {
            self.pace = policy.rate.map(Pace::new);
        }
        if before.is_some_and(|before| before.subscriptions != policy.subscriptions) {
            self.counts = self.counts.again();
            for position in self.lanes.reconsider(|event| policy.subscriptions.want(event)) {
                match &mut self.fill {
                    Some(fill) if fill.is_open(position) => {
                        fill.closed(position);
                        fill.pass(position, position);
                    }
                    _ => self.pass(position),
                }
            }
        }
        // As if it had been so from the start: the letters stay, their lanes go on.
        if policy.on_dead == OnDead::Skip {
            let left = self.lanes.leave_dead_behind().into_iter();
            self.exceptions.extend(left.map(|position| Exception::LeaveBehind { position }));
        }
    }

    /// Whether events may be looked at. A consumer that is paused or gone, or whose version is not that of its state, looks at
    /// none: the version that comes next may want what this one would pass by.
    pub fn is_open(&self) -> bool {
        self.is_served() && self.fits()
    }

    fn is_served(&self) -> bool {
        !self.paused && self.policy.as_ref().is_some_and(|policy| policy.concurrency > 0)
    }

    /// Whether the version that handles events is one for the state in use.
    fn fits(&self) -> bool {
        let runs = self.policy.as_ref().and_then(|policy| policy.layout);
        self.layout.is_none() || runs.is_none() || self.layout == runs
    }

    /// What the version hears that handles what the rebuild delivers; `None` where that one is not here.
    pub fn rebuilt_for(&self) -> Option<&Subscriptions> {
        let policy = self.policy.as_ref().filter(|_| self.is_served())?;
        match &self.rebuild.as_ref()?.way {
            None => self.fits().then_some(&policy.subscriptions),
            Some(way) => policy.back.as_ref().filter(|back| back.version == way.to).map(|back| &back.subscriptions),
        }
    }

    pub fn on_dead(&self) -> OnDead {
        self.policy.as_ref().map_or(OnDead::Park, |policy| policy.on_dead)
    }

    pub fn state_bytes_max(&self) -> u64 {
        self.policy.as_ref().map_or(u64::MAX, |policy| policy.state_bytes_max)
    }

    pub fn subscriptions(&self) -> Option<&Subscriptions> {
        self.policy.as_ref().map(|policy| &policy.subscriptions)
    }

    /// Whether the event is delivered, now or before; `None` where nothing was configured yet.
    pub fn wants(&self, event: &Event) -> Option<bool> {
        self.subscriptions().map(|subscriptions| subscriptions.want(event))
    }

    /// What was done when the desk was loaded: its events are not offered again.
    pub fn loaded(&self) -> &Progress {
        &self.loaded
    }

    /// Changes what was counted ahead, and tells it as of the cursor.
    pub fn count(&mut self, change: impl FnOnce(&mut Counts)) -> Counts {
        change(&mut self.counts);
        self.counts = self.counts.at(self.cursor);
        self.counts
    }

    /// Looks at the event after the cursor, which waits for what is up to `behind` in the history of its lane.
    pub fn offer(&mut self, event: Arc<Event>, behind: Option<u64>) {
        let position = event.position.get();
        self.cursor = position;
        if self.loaded.contains(position) {
            return;
        }
        if self.wants(&event) != Some(true) {
            self.pass(position);
            return;
        }
        self.counts.taken += 1;
        let lane = event.lane();
        if let Some(behind) = behind {
            return self.hold(lane, Item::new(event), behind);
        }
        if self.lanes.offer(lane.clone(), Item::new(event)) {
            self.pass(position);
            self.exceptions.push(waiting(position, &lane, None));
        }
    }

    fn pass(&mut self, position: u64) {
        match self.passed.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => self.passed.push((position, position)),
        }
    }

    /// How many positions were passed by and not written down; a delivery that waits counts for many.
    pub fn passed(&self) -> u64 {
        const WAITING_WEIGHS: u64 = 64;
        let waiting = u64::try_from(self.exceptions.len()).unwrap_or(u64::MAX);
        let history = self.fill.as_ref().map_or(0, Fill::passed);
        self.passed.iter().map(|(first, last)| last - first + 1).sum::<u64>()
            + waiting.saturating_mul(WAITING_WEIGHS)
            + history
    }

    pub fn take_passed(&mut self, commit: &mut ConsumerCommit) {
        commit.through.append(&mut self.passed);
        commit.exceptions.append(&mut self.exceptions);
        if let Some(fill) = &mut self.fill {
            fill.take_passed(commit);
        }
    }

    /// Whether concurrency and rate let a delivery start.
    pub fn may_start(&self, now: Timestamp) -> bool {
        !self.rebuild.as_ref().is_some_and(Rebuild::holds_back) && self.fits() && self.has_place(now)
    }

    /// As [`Desk::may_start`], of a delivery that the rebuild makes.
    pub fn may_start_past(&self, now: Timestamp) -> bool {
        self.rebuilt_for().is_some() && self.has_place(now)
    }

    fn has_place(&self, now: Timestamp) -> bool {
        let Some(policy) = self.policy.as_ref().filter(|_| !self.paused) else { return false };
        let rebuilt = self.rebuild.as_ref().map_or(0, Rebuild::running);
        let running = u32::try_from(self.lanes.leased() + rebuilt).unwrap_or(u32::MAX);
        running < policy.concurrency && self.pace.as_ref().is_none_or(|pace| pace.allows(now))
    }

    pub fn started(&mut self, now: Timestamp) {
        if let Some(pace) = &mut self.pace {
            pace.started(now);
        }
    }

    /// When a delivery that may not run now may run. Where something else must come first, no time is waited for: one that is
    /// past would keep whoever waits awake.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        if let Some(paced) = self.pace.as_ref().and_then(|pace| pace.next_due(now)) {
            return Some(paced);
        }
        let history = self.fill.as_ref().and_then(|fill| fill.next_due(now));
        let rebuild = self.rebuild.as_ref().and_then(|rebuild| rebuild.next_due(now));
        let retry = self.lanes.next_due().filter(|_| self.may_start(now));
        retry.into_iter().chain(history).chain(rebuild).min()
    }

    /// The backfill that is under way, if there is one.
    pub fn fill(&mut self) -> Option<&mut Fill> {
        self.fill.as_mut()
    }

    /// Takes up a backfill. Live deliveries that wait in lanes with history (as `behind` knows it) are held. Where that cannot be
    /// told, all is as before.
    pub fn begin(
        &mut self,
        fill: Fill,
        behind: impl Fn(&mut Self, &Lane) -> rusqlite::Result<Option<u64>>,
    ) -> rusqlite::Result<()> {
        if self.fill.as_ref().is_some_and(|under_way| under_way.number() == fill.number()) {
            return Ok(());
        }
        self.fill = Some(fill);
        let waiting = self.lanes.withdraw(|_| true);
        let told: rusqlite::Result<Vec<_>> = waiting.iter().map(|(lane, _)| behind(self, lane)).collect();
        if told.is_err() {
            self.fill = None;
        }
        let history = told.as_deref().unwrap_or_default().iter().copied().chain(std::iter::repeat(None));
        for ((lane, item), behind) in waiting.into_iter().zip(history) {
            match behind {
                Some(behind) if behind < item.position => self.hold(lane, item, behind),
                _ => drop(self.lanes.offer(lane, item)),
            }
        }
        told.map(drop)
    }

    pub fn steer(&mut self, number: BackfillNumber, step: BackfillStep) {
        let Some(mut fill) = self.fill.take_if(|fill| fill.number() == number) else { return };
        fill.steer(step);
        if step == BackfillStep::Cancel {
            for (_, item) in self.lanes.withdraw(|item| fill.is_open(item.position)) {
                fill.closed(item.position);
            }
        }
        self.release(&mut fill);
        self.fill = Some(fill);
    }

    /// Whether a backfill is under way here; one that has ended and is written down is forgotten.
    pub fn fills(&mut self) -> bool {
        self.fill.take_if(|fill| fill.is_over() && fill.passed() == 0);
        self.fill.is_some()
    }

    /// Past events that may be in the lanes at once.
    pub fn open_max(&self) -> usize {
        let running = self.policy.as_ref().map_or(0, |policy| policy.concurrency);
        usize::try_from(running).unwrap_or(usize::MAX).saturating_mul(2).max(OPEN_MIN)
    }

    /// Looks at past events that were read, as far as they may be delivered now.
    pub fn offer_history(&mut self, now: Timestamp) {
        let open_max = self.open_max();
        let Some(mut fill) = self.fill.take() else { return };
        while let Some(event) = fill.next(now, open_max) {
            let position = event.position.get();
            if self.wants(&event) == Some(true) && fill.wants(&event) {
                let lane = event.lane();
                let item = Item { backfill: Some(fill.from()), ..Item::new(event) };
                fill.opened(position, now);
                if self.lanes.insert(lane.clone(), item) {
                    fill.closed(position);
                    fill.pass(position, position);
                    self.exceptions.push(waiting(position, &lane, Some(fill.number())));
                }
            } else {
                fill.pass(position, position);
            }
            self.release(&mut fill);
        }
        self.fill = Some(fill);
    }

    /// A delivery is through: done, or an exception with a row of its own.
    pub fn through(&mut self, commit: &mut ConsumerCommit, position: u64, lease: &Lease) {
        match lease.backfill {
            None => commit.through.push((position, position)),
            Some(_) if lease.stored => {}
            Some(from) => {
                commit.backfill(from.number).through.push((position, position));
                if let Some(fill) = &mut self.fill {
                    fill.closed(position);
                }
            }
        }
    }

    /// A delivery behind one that parks its lane gets a row of its own.
    pub fn park_behind(&mut self, commit: &mut ConsumerCommit, position: u64, lane: &Lane) {
        let from = self.fill.as_mut().and_then(|fill| fill.closed(position).then_some(fill.number()));
        match from {
            Some(number) => commit.backfill(number).through.push((position, position)),
            None => commit.through.push((position, position)),
        }
        commit.exceptions.push(waiting(position, lane, from));
    }

    fn hold(&mut self, lane: Lane, item: Item, behind: u64) {
        let Some(fill) = &mut self.fill else { return };
        let position = item.position;
        self.exceptions.push(Exception::Store {
            position,
            lane: rows::lane_text(&lane),
            standing: Standing::Waiting,
            attempts: item.attempts,
            first_at: item.first_attempt_at,
            replayed: item.replayed,
            death: None,
            backfill: item.backfill.map(|from| from.number),
            behind: Some(behind),
        });
        // Waiting may last: the event can be read again when its turn comes.
        fill.hold(lane, Item { event: None, stored: true, ..item }, behind);
        self.pass(position);
    }

    fn release(&mut self, fill: &mut Fill) {
        for (lane, item) in fill.release() {
            self.lanes.offer(lane, item);
        }
    }

    pub fn finished(&mut self, job: u64, durable: u64) {
        self.unsettled.push_back(job);
        self.settle(durable);
    }

    fn settle(&mut self, durable: u64) {
        let mut settled = 0;
        while self.unsettled.front().is_some_and(|job| *job <= durable) {
            self.unsettled.pop_front();
            settled += 1;
        }
        self.room.settled(durable, settled);
    }

    /// Whether another delivery may be on its way to the disk.
    pub fn has_room(&mut self, durable: u64) -> bool {
        self.settle(durable);
        self.unsettled.len() < self.room.max()
    }

    pub fn pending(&mut self, durable: u64) -> u64 {
        self.settle(durable);
        let held = self.fill.as_ref().map_or(0, Fill::held);
        u64::try_from(self.lanes.total() + held + self.unsettled.len()).unwrap_or(u64::MAX)
    }
}

/// When a retry that was stored as due at `due` is, after an attempt at `tried`. One from a time that has not come yet is of before
/// the clock was set back, and waits for as long as it would have then.
fn due_by(now: Timestamp, due: Timestamp, tried: Option<Timestamp>) -> Timestamp {
    match tried {
        Some(tried) if tried > now => now.plus(due.since(tried)),
        _ => due,
    }
}

/// The row of a live event, or of one of a backfill, that waits in its lane.
fn waiting(position: u64, lane: &Lane, backfill: Option<BackfillNumber>) -> Exception {
    Exception::Store {
        position,
        lane: rows::lane_text(lane),
        standing: Standing::Waiting,
        attempts: 0,
        first_at: None,
        replayed: false,
        death: None,
        backfill,
        behind: None,
    }
}

#[cfg(test)]
mod tests;
