//! Goes through a rebuild: all that a consumer has done, one event after another in the order of the journal, into a generation
//! of its state that is not in use.
//!
//! ```text
//!      handled on the new generation, or needs no handling       not looked at         the edge
//!  ├──────────── put off ──── put off ─────────────────────┼────────────────────────┤ what is settled ─ ─►
//!                                                        cursor
//! ```
//!
//! One host at a time does it, as long as it says so. What moves the rebuild on is written in the transaction of what it leaves in
//! the state, of many events at once, under the condition that it is still this host's and stands where it stood: nothing counts
//! twice, whoever dies.
//! An event that is retried, waits or is dead when the cursor comes to it, and one that is not done for long, is *put off*: an
//! item each, looked at again until it is done, and before anything behind it in its lane. How it is handed over, see
//! [`hand_over`]. A host that AWS Lambda invokes does it for as long as deliveries may begin, and lets go of it then: what holds
//! from one of them to the next is in the rebuild's item.
//!
//! **Invariants**
//! - Up to the cursor, everything is handled and written, needs no handling, or is put off.
//! - The number of a rebuild is that of the generation which it fills, and never that of another. A way back fills one that was
//!   kept, and goes on with what was put off beside it.
//! - Nothing that counts is in memory alone: whoever claims a rebuild goes by its item, and only what he writes under his own
//!   name moves it on.

mod claim;
mod hand_over;
#[cfg(test)]
mod invoked_tests;
pub mod look;
mod put_off;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use self::claim::Watched;
pub use self::hand_over::UNHEARD_MAX;
use self::hand_over::{EDGE_MAX, Try};
use self::look::{Found, Seen, look};
pub use self::put_off::{position_of, put_off_item, put_off_items};
use super::run::Looked;
use super::{Fill, Fills, gate, news, settled, so_far};
use crate::backend::aws::clock::first_at;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::hosts;
use crate::backend::aws::inbox::{Again, AwsInbox, Fate, Progress, Tried, Until};
use crate::backend::aws::item::{Key, LaneKey, number, text};
use crate::backend::aws::journal::{POSITION_MAX, settled_below};
use crate::backend::aws::lane::Logged;
use crate::backend::aws::settle::as_edited;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Transaction};
use crate::backend::aws::weight;
use crate::backend::pace::Pace;
use crate::backend::{BackfillState, Error, Result};
use crate::clock::Timestamp;
use crate::event::Subscriptions;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// Events looked at in one go.
const BATCH: usize = 64;
/// Events counted in one go.
const COUNT_BATCH: usize = 200;
/// For how long an event is waited for that is to be done, before it is put off.
const PENDING_MAX: Duration = Duration::from_secs(5);
/// Between two looks at what is not done yet.
const AGAIN: Duration = Duration::from_millis(200);
/// Between two looks at what was put off, for each [`BATCH`] of it.
const PUT_OFF_EVERY: Duration = Duration::from_millis(500);
/// Between two looks whether what was offered was handled, where nothing rang.
const STEP: Duration = Duration::from_millis(50);
/// Gates that are made where a rebuild begins: what a transaction holds beside the rest.
const HOSTS_MAX: usize = 90;
/// Items of a state that is past, deleted at once.
const CLEARED: usize = 500;

/// Begins a rebuild or a way back: what its consumer's item says differently. Whoever may commit something is to join.
pub async fn begin(
    store: &Store,
    name: &ConsumerName,
    fill: &Fill,
    transaction: &mut Transaction<()>,
) -> Result<Change> {
    let rebuild = fill.number;
    let hosts = hosts::keepers(&store.table).await?;
    if hosts.len() > HOSTS_MAX {
        return Err(Error::Unavailable(format!("a rebuild goes with {HOSTS_MAX} hosts at most").into()));
    }
    gate::begun(name, rebuild, &hosts).for_each(|item| transaction.put((), item));
    // The generation weighs nothing. That it has a weight says that it is to be cleared when it is no use any more, with the gates; a
    // way back has nothing else of its number.
    let begun = news("SET bfa = :number, bfr = :one, #sb = :zero").name("#sb", &weight::attribute(rebuild));
    Ok(begun.value(":number", number(rebuild)))
}

/// How many events a rebuild would handle by now, from a position on: of many, about. And up to which position that is.
pub async fn count(
    store: &Store,
    known: &Known,
    fills: &Fills,
    first: u64,
    heard: Option<&Subscriptions>,
) -> Result<(u64, u64)> {
    let last = store.positions.newest(Timestamp::now());
    settled(last).await;
    let (mut after, mut count, mut oldest) = (first.saturating_sub(1), 0, None);
    let began = Instant::now();
    loop {
        let keys = store.log(after + 1, last, false, COUNT_BATCH).await?;
        let (Some((_, read)), is_more) = (keys.last(), keys.len() == COUNT_BATCH) else { return Ok((count, last)) };
        after = *read;
        let oldest = *oldest.get_or_insert(keys.first().map_or(after, |(_, oldest)| *oldest));
        let keys: Vec<Key> = keys.into_iter().map(|(key, _)| key).collect();
        let mut events = store.logged_at(&keys).await?;
        events.retain(|logged| heard.is_none_or(|heard| heard.want(&logged.event)));
        let seen = look(store, known, fills, events).await?;
        // What is pending is done when the cursor comes there.
        let is_brought = |seen: &&Seen| !matches!(seen.found, Found::Exception | Found::Discarded);
        count += seen.iter().filter(is_brought).count() as u64;
        if let Some(all) = so_far(count, (oldest, after, last), is_more, began.elapsed()) {
            return Ok((all, last));
        }
    }
}

/// Goes through the rebuilds of one consumer, where it is this host's turn.
pub struct Rebuilder {
    inbox: Arc<AwsInbox>,
    store: Arc<Store>,
    /// As which the host follows the journal for the consumer.
    host: String,
    /// Until when it may do what; `None` as long as the inbox is there.
    until: Option<Until>,
    walk: Option<Walk>,
    /// Since when this host knows of a rebuild, and of which.
    known: Option<(i64, Instant)>,
    /// As which this host had a rebuild last.
    last: String,
    watched: Watched,
}

/// A rebuild that is this host's, as far as the table has it.
struct Walk {
    fill: Fill,
    /// Names this host as long as it has the rebuild without a break: what it remembers holds as long.
    owner: String,
    claimed: Instant,
    cursor: u64,
    put_off: BTreeMap<u64, (LaneKey, u64)>,
    put_off_at: Option<Instant>,
    pace: Pace,
    /// The event that failed last, and is tried again.
    tried: Option<Tried>,
    /// It is, when this invocation is over.
    rests: bool,
    /// An event that is not done yet, since when.
    pending: Option<(u64, Instant)>,
    /// Since when there is nothing left but what came a moment ago, or is not done yet.
    edge: Option<Instant>,
    /// It was said that live deliveries lag too far behind.
    lags: bool,
    /// Nothing that was decided on before the rebuild was heard of can be committed any more.
    fenced: bool,
    tries: hand_over::Tries,
    near: Option<Try>,
}

/// How far a pass over the next events came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    /// It had to stop: what is known may hold no more.
    Stopped,
    /// At an event that is not done yet.
    Waits,
    /// There may be more.
    More,
    /// Nothing is left up to the end, and so many were handled that a hand-over cannot leave.
    All(usize),
}

impl Rebuilder {
    pub fn new(inbox: &Arc<AwsInbox>, store: &Arc<Store>, host: String, until: Option<Until>) -> Self {
        let last = uuid::Uuid::now_v7().to_string();
        let watched = Watched::nothing();
        let (inbox, store) = (Arc::clone(inbox), Arc::clone(store));
        Self { inbox, store, host, until, walk: None, known: None, last, watched }
    }

    fn name(&self) -> &ConsumerName {
        &self.inbox.name
    }

    /// Whether anything may begin. What has begun may end.
    fn has_time(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until.begin)
    }

    /// Does the next part of the rebuild.
    pub async fn look(&mut self, rebuild: i64) -> Result<Looked> {
        self.known = self.known.filter(|(of, _)| *of == rebuild).or_else(|| Some((rebuild, Instant::now())));
        // What this host offered before may run still.
        if self.walk.is_none() && !self.inbox.withdraw() {
            return Ok(Looked::Nothing);
        }
        let walk = match self.walk.take().filter(|walk| walk.fill.number == rebuild) {
            Some(walk) => Some(walk),
            None if !self.has_version() => None,
            None => self.claim(rebuild).await?,
        };
        let Some(mut walk) = walk else { return Ok(Looked::Elsewhere) };
        // Where it ends with an error, all is read anew.
        let went = Box::pin(self.go_on(&mut walk)).await;
        if matches!(went, Ok(true)) {
            self.walk = Some(walk);
            return Ok(Looked::More);
        }
        self.inbox.batches.end().await;
        if let Some(tried) = walk.near {
            self.end_try(tried.number).await?;
        }
        went.map(|_| if walk.rests { Looked::Elsewhere } else { Looked::Nothing })
    }

    /// One step: what was put off, what comes next, or what brings it nearer to its end. `false` where it stops.
    async fn go_on(&self, walk: &mut Walk) -> Result<bool> {
        if !self.has_time() || !self.goes_on(walk).await? {
            return Ok(false);
        }
        if let Some(tried) = walk.near {
            return self.try_on(walk, tried).await;
        }
        let every = PUT_OFF_EVERY * u32::try_from(1 + walk.put_off.len() / BATCH).unwrap_or(u32::MAX);
        if walk.put_off_at.is_none_or(|at| at.elapsed() > every) && self.come_back(walk).await?.is_none() {
            return Ok(false);
        }
        let settled = settled_below(Timestamp::now()).saturating_sub(1);
        match self.pass(walk, settled).await? {
            Passed::Stopped => Ok(false),
            Passed::More => {
                walk.edge = walk.edge.filter(|_| walk.cursor > first_at(Timestamp::now().minus(EDGE_MAX)));
                Ok(true)
            }
            // Under load, live deliveries are never done with what is settled.
            Passed::Waits => self.approach(walk, false).await,
            Passed::All(_) => self.approach(walk, true).await,
        }
    }

    /// Goes over the next events up to a position: handles what is done, and puts off what is an exception. What is not done yet
    /// is waited for, unless the rebuild is about to be handed over.
    async fn pass(&self, walk: &mut Walk, to: u64) -> Result<Passed> {
        let keys = self.store.log(walk.cursor + 1, to, false, BATCH).await?;
        let Some((_, reached)) = keys.last() else { return Ok(Passed::All(0)) };
        let (reached, is_full) = (*reached, keys.len() == BATCH);
        let keys: Vec<Key> = keys.into_iter().map(|(key, _)| key).collect();
        let seen = self.seen(self.store.logged_at(&keys).await?).await?;
        let next = seen.iter().filter(|seen| seen.found.is_over()).filter_map(|seen| seen.logged.event.order_id());
        self.inbox.batches.look_ahead(next).await;
        let (mut through, mut handled) = (walk.cursor, 0);
        let mut put_off: Vec<Logged> = Vec::new();
        for Seen { logged, found, copy } in seen {
            let position = logged.position();
            match found {
                Found::Discarded => {}
                Found::Exception => put_off.push(logged),
                Found::Pending if walk.is_to_wait(position) => {
                    return Ok(match self.advance(walk, through, put_off).await? {
                        true => Passed::Waits,
                        false => Passed::Stopped,
                    });
                }
                Found::Pending => put_off.push(logged),
                Found::Done | Found::Unheard => {
                    let is_at = put_off.is_empty() || self.advance(walk, through, std::mem::take(&mut put_off)).await?;
                    if !is_at || !self.come_back_to(walk, &logged.key, logged.seq).await? {
                        return Ok(Passed::Stopped);
                    }
                    let progress = Progress::From(walk.cursor);
                    if !self.handle(walk, Seen { logged, found, copy }, progress).await? {
                        return Ok(Passed::Stopped);
                    }
                    walk.cursor = position;
                    handled += usize::from(walk.cannot_leave(found));
                }
            }
            through = position;
        }
        if !self.advance(walk, reached, put_off).await? {
            return Ok(Passed::Stopped);
        }
        Ok(if is_full { Passed::More } else { Passed::All(handled) })
    }

    /// Whether the version is here that handles what is brought.
    fn has_version(&self) -> bool {
        let fills = self.inbox.fills();
        fills.running().and_then(|fill| fill.back.as_ref()).is_none_or(|back| self.inbox.goes_back_to(&back.way.to))
    }

    /// What became of events, of those that concern the state that is filled or the one that is in use.
    async fn seen(&self, mut events: Vec<Logged>) -> Result<Vec<Seen>> {
        let (heard, in_use) = (self.heard()?, self.inbox.subscriptions());
        events.retain(|logged| heard.want(&logged.event) || in_use.want(&logged.event));
        let seen = look(&self.store, &self.inbox.known(), &self.inbox.fills(), events).await?;
        let concerns = |seen: &Seen| !seen.found.is_over() || heard.want(&seen.logged.event);
        Ok(seen.into_iter().filter(concerns).collect())
    }

    /// What the version listens to that handles what is brought.
    fn heard(&self) -> Result<Subscriptions> {
        self.inbox.heard_again().ok_or_else(|| Error::Unavailable("the version that it leads to is not here".into()))
    }

    /// Writes what was handled, and moves the cursor to a position up to which nothing is left to handle but what is put off.
    async fn advance(&self, walk: &mut Walk, to: u64, put_off: Vec<Logged>) -> Result<bool> {
        let is_written = self.inbox.batches.write().await?;
        if !is_written || to <= walk.cursor {
            return Ok(is_written);
        }
        let (name, rebuild) = (self.name(), walk.fill.number);
        let mut transaction = Transaction::default();
        let change = walk.own("SET cur = :to", " AND cur = :from").value(":from", number(walk.cursor));
        transaction.update((), Key::backfill(name, rebuild), change.value(":to", number(to)));
        for logged in &put_off {
            let put_off = put_off_item(name, walk.fill.put_off(), logged.position(), &logged.key, logged.seq);
            transaction.put((), put_off);
        }
        let moved = self.store.table.transact(transaction).await?.is_ok();
        if moved {
            fault::pass(Point::RebuildLooked);
            walk.cursor = to;
            walk.put_off.extend(put_off.into_iter().map(|logged| (logged.position(), (logged.key, logged.seq))));
        }
        Ok(moved)
    }

    /// Has an event handled on the new generation: `true` once that is done, to be written with what comes next.
    async fn handle(&self, walk: &mut Walk, seen: Seen, progress: Progress) -> Result<bool> {
        while walk.near.is_none() && !walk.pace.allows(Timestamp::now()) {
            if !self.has_time() || !self.goes_on(walk).await? || !self.inbox.batches.write_if_due().await? {
                return Ok(false);
            }
            sleep(STEP / 5).await;
        }
        if !self.has_time() {
            return Ok(false);
        }
        walk.pace.started(Timestamp::now());
        let Seen { logged, copy, .. } = seen;
        let counted = walk.fill.rebuild.as_ref().map_or(0, |counted| counted.through);
        let failed = walk.fill.rebuild.as_ref().and_then(|counted| counted.failure.as_ref());
        let is_counted = walk.fill.back.as_ref().is_some_and(|back| logged.position() <= back.from);
        let again = Again {
            rebuild: walk.fill.number,
            generation: walk.fill.generation,
            put_off: walk.fill.put_off(),
            edited: copy.map(|copy| as_edited(&logged.event, &copy)).transpose()?,
            progress,
            owner: walk.owner.clone(),
            is_more: logged.position() > counted || (matches!(progress, Progress::PutOff) && !is_counted),
            has_failed: failed.is_some_and(|failure| failure.position == logged.position()),
            tried: walk.tried.filter(|tried| tried.position == logged.position()),
            logged,
        };
        self.inbox.offer(again);
        loop {
            drop(timeout(STEP, self.inbox.handled_again()).await);
            match self.inbox.fate() {
                Some(Fate::Done) => {
                    self.inbox.withdraw();
                    return self.inbox.batches.write_if_due().await;
                }
                Some(Fate::Open { leased, attempts, due }) => {
                    if let Some(tried) = walk.near.take_if(|_| attempts > 0) {
                        // Live deliveries do not wait for what is tried again.
                        self.end_try(tried.number).await?;
                    }
                    // What runs has until the end of the invocation.
                    walk.rests = !leased && due.since(Timestamp::now()) > self.time_left();
                    if !leased && (walk.rests || !self.has_time()) && self.inbox.withdraw() {
                        return Ok(false);
                    }
                    if !leased {
                        self.inbox.ring();
                    }
                }
                Some(Fate::Lost) | None => {
                    self.inbox.withdraw();
                    return Ok(false);
                }
            }
            if !self.goes_on(walk).await? || !self.inbox.batches.write_if_due().await? {
                self.inbox.withdraw();
                return Ok(false);
            }
        }
    }

    /// Deletes the generations that are past, where this is the host that follows the journal for the consumer.
    pub async fn clear(&mut self) -> Result<()> {
        if self.inbox.known().past.is_empty() {
            return Ok(());
        }
        let Some(item) = self.store.table.get(&Key::consumer(self.name())).await? else { return Ok(()) };
        let known = Known::read(&item)?;
        if item.text_or_none("cuo") != Some(&*self.host) || known.rebuilding.is_some() {
            return Ok(());
        }
        // One that has begun meanwhile has a higher number.
        let through = self.inbox.fills().newest();
        for past in &known.past {
            hand_over::clear(&self.store, self.name(), *past, through).await?;
        }
        self.store.clear_put_off(&known).await
    }
}

impl Walk {
    /// A write to the rebuild's item, as long as it is this host's and runs.
    fn own(&self, update: &str, more: &str) -> Change {
        Change::of(update)
            .only_if(format!("own = :owner AND sta = :running{more}"))
            .value(":owner", text(&self.owner))
            .value(":running", text(BackfillState::Running.as_str()))
    }

    /// Whether an event must be handled before the rebuild is handed over. What only the version hears that is gone back to, its
    /// consumer hears from the cursor on.
    fn cannot_leave(&self, found: Found) -> bool {
        found == Found::Done || (found == Found::Unheard && self.fill.back.is_none())
    }

    /// Whether to wait for an event that is not done.
    fn is_to_wait(&mut self, position: u64) -> bool {
        if self.near.is_some() {
            return false;
        }
        match self.pending {
            Some((of, since)) if of == position => since.elapsed() < PENDING_MAX,
            _ => {
                self.pending = Some((position, Instant::now()));
                true
            }
        }
    }
}
