//! What an inbox knows in memory: the lanes, how far it has looked, and what is still to be written down.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::ahead::Counts;
use crate::backend::InboxPolicy;
use crate::backend::embedded::commit::{ConsumerCommit, ConsumerNumber, Exception, Standing};
use crate::backend::embedded::lanes::{Head, Item, Lanes};
use crate::backend::embedded::progress::Progress;
use crate::backend::embedded::{dead_letters, pause, rows};
use crate::clock::Timestamp;
use crate::event::{Event, Lane, Subscriptions};
use crate::policy::{OnDead, Rate};

/// Deliveries that a rate lets through at once after a pause.
const BURST: Duration = Duration::from_millis(100);

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
    /// As it was on disk when the desk was loaded: what is done ahead of the cursor is not offered again.
    loaded: Progress,
    /// Ranges that need no delivery, not written down yet.
    passed: Vec<(u64, u64)>,
    exceptions: Vec<Exception>,
    /// Positions of events that a person edited a copy of: few, and looked for at every delivery that is retried.
    pub edited: HashSet<u64>,
    /// Jobs that finished a delivery and are not durable yet, oldest first.
    unsettled: VecDeque<u64>,
    /// Under a rate: when the next delivery would start if they came evenly, in ms since the epoch.
    paced_at_ms: f64,
    counts: Counts,
}

impl Desk {
    pub fn reload(&mut self, disk: &Connection, consumer: ConsumerNumber) -> rusqlite::Result<()> {
        let loaded = disk
            .prepare_cached("SELECT position, ahead FROM consumers WHERE number = ?1")?
            .query_row([consumer], |row| rows::progress(row, 0))
            .optional()?
            .unwrap_or_default();
        let policy = self.policy.take();
        let on_dead = policy.as_ref().map_or(OnDead::Park, |policy| policy.on_dead);
        let paused = pause::is_paused(disk, consumer)?;
        let counts = self.counts.again();
        *self =
            Self { cursor: loaded.base(), epoch: self.epoch + 1, policy, paused, loaded, counts, ..Self::default() };
        let mut statement = disk.prepare_cached(
            "SELECT position, lane, state, attempts, first_at, due, replayed FROM deliveries
             WHERE consumer = ?1 AND state <> 'skipped' ORDER BY position",
        )?;
        let mut stored = statement.query([consumer])?;
        while let Some(row) = stored.next()? {
            let lane = rows::lane(row.get_ref(1)?.as_str()?)?;
            let head = match row.get_ref(2)?.as_str()? {
                "retrying" => Head::Retrying(rows::optional_timestamp(row, 5)?.unwrap_or_default()),
                "dead" if on_dead == OnDead::Skip => continue,
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
            };
            self.lanes.restore(lane, item, head);
        }
        self.edited = dead_letters::edited_positions(disk, consumer)?;
        Ok(())
    }

    pub fn configure(&mut self, policy: InboxPolicy) {
        let before = self.policy.replace(policy.clone());
        if before.is_some_and(|before| before.subscriptions != policy.subscriptions) {
            self.counts = self.counts.again();
            for position in self.lanes.reconsider(|event| policy.subscriptions.want(event)) {
                self.pass(position);
            }
        }
        // As if it had been so from the start: the letters stay, their lanes go on.
        if policy.on_dead == OnDead::Skip {
            self.lanes.leave_dead_behind();
        }
    }

    /// Whether events may be looked at. A consumer that is paused or gone looks at none: the version that comes
    /// next may want what this one would pass by.
    pub fn is_open(&self) -> bool {
        !self.paused && self.policy.as_ref().is_some_and(|policy| policy.concurrency > 0)
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

    /// Looks at the event after the cursor.
    pub fn offer(&mut self, event: Arc<Event>) {
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
        if self.lanes.offer(lane.clone(), Item::new(event)) {
            self.pass(position);
            self.exceptions.push(waiting(position, &lane));
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
        self.passed.iter().map(|(first, last)| last - first + 1).sum::<u64>() + waiting.saturating_mul(WAITING_WEIGHS)
    }

    pub fn take_passed(&mut self, commit: &mut ConsumerCommit) {
        commit.through.append(&mut self.passed);
        commit.exceptions.append(&mut self.exceptions);
    }

    /// Whether concurrency and rate let a delivery start.
    pub fn may_start(&self, now: Timestamp) -> bool {
        let Some(policy) = self.policy.as_ref().filter(|_| !self.paused) else { return false };
        let running = u32::try_from(self.lanes.leased()).unwrap_or(u32::MAX);
        running < policy.concurrency && policy.rate.is_none_or(|_| self.paced_at_ms <= millis(now) + burst_ms())
    }

    pub fn started(&mut self, now: Timestamp) {
        if let Some(Rate { per_second }) = self.policy.as_ref().and_then(|policy| policy.rate) {
            self.paced_at_ms = self.paced_at_ms.max(millis(now)) + 1_000.0 / f64::from(per_second.get());
        }
    }

    /// When a delivery that may not run now may run.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let paced = self.paced_at_ms - burst_ms();
        if self.policy.as_ref().is_some_and(|policy| policy.rate.is_some()) && paced > millis(now) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after now")]
            return Some(Timestamp::from_millis(paced.ceil() as u64));
        }
        self.lanes.next_due()
    }

    pub fn finished(&mut self, job: u64, durable: u64) {
        self.unsettled.push_back(job);
        self.settle(durable);
    }

    fn settle(&mut self, durable: u64) {
        while self.unsettled.front().is_some_and(|job| *job <= durable) {
            self.unsettled.pop_front();
        }
    }

    pub fn pending(&mut self, durable: u64) -> u64 {
        self.settle(durable);
        u64::try_from(self.lanes.total() + self.unsettled.len()).unwrap_or(u64::MAX)
    }
}

pub fn waiting(position: u64, lane: &Lane) -> Exception {
    let lane = rows::lane_text(lane);
    Exception::Store {
        position,
        lane,
        standing: Standing::Waiting,
        attempts: 0,
        first_at: None,
        replayed: false,
        death: None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of this century are exact in 53 bits")]
fn millis(at: Timestamp) -> f64 {
    at.as_millis() as f64
}

fn burst_ms() -> f64 {
    BURST.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests;
