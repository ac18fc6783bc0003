//! Moves the cursor of a backfill through the journal, and brings the events that it comes by into their lanes. One host does
//! it, as long as it says so; whoever is next goes on at the cursor, and sees in the places what is through.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::rebuild::Rebuilder;
use super::{Fill, news};
use crate::backend::aws::due;
use crate::backend::aws::inbox::{AwsInbox, Until};
use crate::backend::aws::item::{Key, LaneKey, number, text};
use crate::backend::aws::journal::settled_below;
use crate::backend::aws::lane::Logged;
use crate::backend::aws::place::Place;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Transaction};
use crate::backend::pace::Pace;
use crate::backend::{BackfillState, Result};
use crate::clock::Timestamp;
use crate::fault::{self, Point};

/// Events looked at before the cursor moves: at most, and about as many as the rate lets through in a second.
const BATCH_MAX: usize = 256;
/// Past events in memory for each that may run, and at least.
const BROUGHT_PER_RUNNING: usize = 4;
const BROUGHT_MIN: usize = 16;
/// Between two looks at what was brought.
const STEP: Duration = Duration::from_millis(10);
/// Before events are brought again that could not be, or were handled elsewhere.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two looks for a backfill to go through, where nothing rang.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at one that another host goes through.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// How long a host has a backfill for itself, unless it says so again, which it does this often.
const CLAIM: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Between two looks for lanes that wait for a backfill which has ended, and how many are let go at once.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
const SWEEP_BATCH: usize = 100;

/// Goes through backfills of the consumer until its inbox ends.
pub async fn run(inbox: Arc<AwsInbox>, store: Arc<Store>, owner: String) {
    let mut walk = Walk::new(inbox, store, owner, None);
    loop {
        let wait = match walk.look().await {
            Ok(Looked::More) => Duration::ZERO,
            Ok(Looked::Nothing) => LOOK_EVERY,
            Ok(Looked::Elsewhere) => FOLLOW_EVERY,
            Err(error) => {
                if walk.store.repeats.is_news("backfill", walk.inbox.name.as_str(), &error) {
                    tracing::warn!(consumer = %walk.inbox.name, %error, "a backfill does not go on; it is tried again");
                }
                LOOK_EVERY
            }
        };
        tokio::select! {
            biased;
            () = walk.inbox.ended() => break,
            () = sleep(wait) => {}
            () = walk.inbox.filled() => {}
        }
    }
    walk.leave().await;
}

/// Goes through the backfill or rebuild that is under way until it is done or the time is over, and lets another host go on
/// with it at once. What could not be brought in time comes with whoever goes on.
pub async fn run_until(inbox: Arc<AwsInbox>, store: Arc<Store>, owner: String, until: Until) {
    let mut walk = Walk::new(inbox, store, owner, Some(until));
    loop {
        let wait = match timeout_at(until.end, walk.look()).await {
            Ok(Ok(Looked::More)) => Duration::ZERO,
            // What was to be handled failed, or runs still: the table says what is next.
            Ok(Ok(Looked::Nothing)) if walk.is_in_a_rebuild() => LOOK_EVERY,
            Ok(Err(error)) => {
                tracing::warn!(consumer = %walk.inbox.name, %error, "a backfill does not go on; the next invocation tries again");
                break;
            }
            _ => break,
        };
        if !walk.has_time() {
            break;
        }
        sleep(wait).await;
    }
    walk.leave().await;
}

pub enum Looked {
    More,
    Nothing,
    /// Another host goes through it, or another invocation does.
    Elsewhere,
}

struct Walk {
    inbox: Arc<AwsInbox>,
    store: Arc<Store>,
    owner: String,
    /// Of which backfill, and how fast it is.
    pace: Option<(i64, Pace)>,
    /// The backfill that is this host's, and since when that was last said.
    claimed: Option<(i64, Instant)>,
    /// When lanes were last looked for that wait for nothing.
    swept: Option<Instant>,
    /// Nothing is brought from then on; `None` as long as the inbox is there.
    ends: Option<Instant>,
    rebuilder: Rebuilder,
}

/// Events of a batch, by what is to be done.
#[derive(Default)]
struct Sorted {
    open: VecDeque<Logged>,
    /// The lowest position of those that their lanes, which stand at exceptions, bring by themselves.
    left: Option<u64>,
}

impl Walk {
    fn new(inbox: Arc<AwsInbox>, store: Arc<Store>, owner: String, until: Option<Until>) -> Self {
        let rebuilder = Rebuilder::new(&inbox, &store, owner.clone(), until);
        let ends = until.map(|until| until.begin);
        Self { inbox, store, owner, pace: None, claimed: None, swept: None, ends, rebuilder }
    }

    fn has_time(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }

    fn is_in_a_rebuild(&self) -> bool {
        self.inbox.is_open() && self.inbox.fills().running().is_some_and(Fill::is_rebuild)
    }

    /// Does the next batch of the backfill that is under way.
    async fn look(&mut self) -> Result<Looked> {
        let fills = self.inbox.fills();
        if fills.under_way().is_none() {
            if !fills.all.is_empty() && self.swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY) {
                self.sweep().await?;
            }
            self.rebuilder.clear().await?;
            return Ok(Looked::Nothing);
        }
        self.swept = None;
        let Some(fill) = fills.running().filter(|_| self.inbox.is_open()) else { return Ok(Looked::Nothing) };
        if fill.is_rebuild() {
            return self.rebuilder.look(fill.number).await;
        }
        let Some(fill) = self.claim(fill.number).await? else { return Ok(Looked::Elsewhere) };
        let settled = settled_below(Timestamp::now()).saturating_sub(1);
        let to = fill.last.min(settled).max(fill.position);
        let batch = usize::try_from(fill.rate.per_second.get()).unwrap_or(BATCH_MAX).min(BATCH_MAX);
        let keys = self.store.log(fill.position + 1, to, false, batch).await?;
        let reached = keys.last().filter(|_| keys.len() == batch).map_or(to, |(_, last)| *last);
        let keys: Vec<Key> = keys.into_iter().map(|(key, _)| key).collect();
        let events = self.store.logged_at(&keys).await?;
        let Some(left) = self.bring(&fill, &events).await? else { return Ok(Looked::Nothing) };
        if reached == fill.position && reached < fill.last {
            return Ok(Looked::Nothing);
        }
        if !self.advance(&fill, reached, left).await? {
            // It was steered, or is another host's.
            return Ok(Looked::Nothing);
        }
        let heard = self.inbox.subscriptions();
        self.let_go(events.iter().filter(|logged| heard.want(&logged.event))).await?;
        Ok(Looked::More)
    }

    /// Says that the backfill is this host's, unless it is another's, and reads how it stands.
    async fn claim(&mut self, fill: i64) -> Result<Option<Fill>> {
        let now = Timestamp::now();
        let change = Change::of("SET own = :owner, til = :until")
            .only_if("sta = :running AND (attribute_not_exists(own) OR own = :owner OR til < :now)")
            .value(":owner", text(&self.owner))
            .value(":running", text(BackfillState::Running.as_str()))
            .value(":until", number(now.plus(CLAIM).as_millis()))
            .value(":now", number(now.as_millis()));
        let claimed = self.store.table.update(&Key::backfill(&self.inbox.name, fill), change).await?;
        self.claimed = claimed.as_ref().map(|_| (fill, Instant::now()));
        claimed.as_ref().map(Fill::read).transpose()
    }

    /// Says so again, from time to time. `false` where it is another's by now, or does not run.
    async fn renew(&mut self, fill: i64) -> Result<bool> {
        match self.claimed {
            Some((of, since)) if of == fill && since.elapsed() < RENEW_EVERY => Ok(true),
            _ => Ok(self.claim(fill).await?.is_some()),
        }
    }

    /// Whether past events may be brought still.
    async fn goes_on(&mut self, fill: &Fill) -> Result<bool> {
        let runs = self.inbox.fills().running().is_some_and(|running| running.number == fill.number);
        let may = runs && self.has_time() && self.inbox.is_open() && !self.inbox.is_ending();
        Ok(may && self.renew(fill.number).await?)
    }

    /// Brings events until each is through, or its lane brings it by itself: then, the lowest position of those. `None` where
    /// it had to stop before.
    async fn bring(&mut self, fill: &Fill, events: &[Logged]) -> Result<Option<Option<u64>>> {
        loop {
            if !self.goes_on(fill).await? {
                return Ok(None);
            }
            let Sorted { open, left } = self.sort(fill, events).await?;
            if open.is_empty() {
                return Ok(Some(left));
            }
            if !self.feed(fill, open).await? {
                return Ok(None);
            }
        }
    }

    async fn sort(&self, fill: &Fill, events: &[Logged]) -> Result<Sorted> {
        let (fills, heard) = (self.inbox.fills(), self.inbox.subscriptions());
        let places = self.store.places(&self.inbox.name, events).await?;
        let nowhere = Place::default();
        let mut sorted = Sorted::default();
        for logged in events.iter().filter(|logged| heard.want(&logged.event)) {
            let place = places.get(&logged.key).unwrap_or(&nowhere);
            let is_own = fills.of(place, logged).is_some_and(|of| of.number == fill.number);
            match is_own && fills.brings(place, logged).is_some() {
                false => {}
                true if place.is_parked() => {
                    sorted.left = Some(sorted.left.map_or(logged.position(), |left| left.min(logged.position())));
                }
                true => sorted.open.push_back(logged.clone()),
            }
        }
        Ok(sorted)
    }

    /// Brings events as fast as they are to come, and waits until memory has them no more. `false` where it had to stop.
    async fn feed(&mut self, fill: &Fill, mut open: VecDeque<Logged>) -> Result<bool> {
        let mut brought: Vec<(LaneKey, u64)> = Vec::new();
        let mut some = false;
        loop {
            if !self.goes_on(fill).await? {
                return Ok(false);
            }
            let room = (self.inbox.concurrency() * BROUGHT_PER_RUNNING).max(BROUGHT_MIN).saturating_sub(brought.len());
            let (mut group, now) = (Vec::new(), Timestamp::now());
            while group.len() < room && self.pace(fill).allows(now) {
                let Some(logged) = open.pop_front() else { break };
                self.pace(fill).started(now);
                brought.push((logged.key.clone(), logged.seq));
                group.push(logged);
            }
            if !group.is_empty() {
                self.inbox.bring_history(fill.from(), group).await?;
            }
            brought.retain(|(lane, seq)| self.inbox.has_history(lane, *seq));
            some |= !brought.is_empty();
            if open.is_empty() && brought.is_empty() {
                if !some {
                    // Their lanes are busy, here or elsewhere.
                    sleep(AGAIN).await;
                }
                return Ok(true);
            }
            sleep(STEP).await;
        }
    }

    fn pace(&mut self, fill: &Fill) -> &mut Pace {
        if self.pace.as_ref().is_none_or(|(of, _)| *of != fill.number) {
            self.pace = None;
        }
        let (_, pace) = self.pace.get_or_insert_with(|| (fill.number, Pace::new(fill.rate)));
        pace
    }

    /// Moves the cursor, and ends the backfill where nothing is left. `false` where it is not this host's to move.
    async fn advance(&self, fill: &Fill, reached: u64, left: Option<u64>) -> Result<bool> {
        let (name, key) = (&self.inbox.name, Key::backfill(&self.inbox.name, fill.number));
        let mut set = "SET cur = :reached".to_owned();
        let mut change = Change::default();
        if let Some(left) = left.filter(|left| fill.left.is_none_or(|before| *left < before)) {
            set += ", lft = :left";
            change = change.value(":left", number(left));
        }
        let ends = reached >= fill.last;
        if ends {
            set += ", sta = :done, tz = :now";
            change = change.value(":done", text(BackfillState::Done.as_str()));
            change = change.value(":now", number(Timestamp::now().as_millis()));
        }
        let change = change
            .update(set)
            .only_if("own = :owner AND cur = :before AND sta = :running")
            .value(":reached", number(reached))
            .value(":owner", text(&self.owner))
            .value(":running", text(BackfillState::Running.as_str()))
            .value(":before", number(fill.position));
        let moved = match ends {
            false => self.store.table.update(&key, change).await?.is_some(),
            true => {
                let mut transaction = Transaction::default();
                transaction.update((), key, change);
                let ended = news("REMOVE bfa").only_if("bfa = :filling").value(":filling", number(fill.number));
                transaction.update((), Key::consumer(name), ended);
                self.store.table.transact(transaction).await?.is_ok()
            }
        };
        fault::pass(Point::BackfillProgressed);
        if moved {
            self.inbox.note_fill(fill.number, reached);
        }
        if moved && ends {
            tracing::info!(consumer = %name, events = fill.events, "a backfill is done");
            self.inbox.refresh_fills().await?;
        }
        Ok(moved)
    }

    /// Lanes of these events whose history is through wait no longer.
    async fn let_go(&self, events: impl Iterator<Item = &Logged>) -> Result<()> {
        let name = &self.inbox.name;
        let lanes: HashSet<&LaneKey> = events.map(|logged| &logged.key).collect();
        let dues = self.store.table.get_all(lanes.into_iter().map(|lane| Key::due(name, lane))).await?;
        let mut held = dues.into_iter().filter(|(_, item)| due::is_held(item)).peekable();
        if held.peek().is_none() {
            return Ok(());
        }
        for (key, _) in held {
            let lane = LaneKey::known(&key.sk);
            let place = Place::load(&self.store, name, &lane).await?;
            if !self.inbox.waits(&lane, &place).await? {
                due::release(&self.store, name, &key).await?;
            }
        }
        self.inbox.rung.notify_one();
        Ok(())
    }

    /// No backfill is under way, so nothing waits for one.
    async fn sweep(&mut self) -> Result<()> {
        let name = &self.inbox.name;
        let held = due::held(&self.store, name, SWEEP_BATCH).await?;
        for key in &held {
            due::release(&self.store, name, key).await?;
        }
        if !held.is_empty() {
            self.inbox.rung.notify_one();
        }
        // There may be more.
        self.swept = (held.len() < SWEEP_BATCH).then(Instant::now);
        Ok(())
    }

    /// Lets another host go on with it at once.
    async fn leave(&self) {
        self.rebuilder.leave().await;
        let Some((fill, _)) = self.claimed else { return };
        let change = Change::of("SET til = :zero").only_if("own = :owner");
        let change = change.value(":zero", number(0)).value(":owner", text(&self.owner));
        if let Err(error) = self.store.table.update(&Key::backfill(&self.inbox.name, fill), change).await {
            tracing::debug!(consumer = %self.inbox.name, %error, "another host goes on with the backfill when the claim runs out");
        }
    }
}
