//! Past events for a consumer that was not there.
//!
//! A backfill is an item with a cursor, which one host at a time moves through the journal ([`run`]). Its events come in the
//! lanes in which live ones come, and how far it came in a lane is a mark in the consumer's place there: so whatever ends a
//! delivery, past or live, is refused where somebody else was quicker, on whichever host.
//!
//! ```text
//!                 through       in the lanes                               live
//! positions  ├───────────────┼─────────────────┼────────────────────┤ start │ ─────►
//!          first          position                                 last
//! ```
//!
//! **Invariants**
//! - The consumer's item names the backfill that is under way (`bfa`), so that there is one; and its number of changes
//!   (`bfv`), by which every host learns of what was begun, steered or ended.
//! - What the cursor has gone by is through, or its lane stood at an exception and brings it when it goes on.

mod fill;
pub mod gate;
pub mod rebuild;
mod run;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

pub use self::fill::{Back, Fill, Fills, Way};
use self::fill::{DELIVERED, DROPPED};
pub use self::rebuild::look::{Found, Seen, look};
pub use self::rebuild::{UNHEARD_MAX, position_of, put_off_item, put_off_items};
pub use self::run::{run, run_until};
use super::Aws;
use super::clock::{first_at, time_of};
use super::consumers::Known;
use super::item::{Key, LaneKey, number, text};
use super::journal::{SETTLED, settled_below};
use super::lane::Logged;
use super::layouts::keep;
use super::place::Place;
use super::settle::Counter;
use super::store::Store;
use super::table::{Change, Transaction};
use crate::backend::layouts::BROUGHT_MORE;
use crate::backend::{
    Backfill, BackfillReport, BackfillState, BackfillStep, Backfilled, Backfills, Durable, Error, Origin, Result,
    Since, Started, Steered,
};
use crate::clock::Timestamp;
use crate::event::{Event, Subscriptions};
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// Events read at once to be counted, and for how long: who asks waits a few seconds for the answer.
const COUNT_BATCH: usize = 500;
const COUNT_TIME_MAX: Duration = Duration::from_secs(2);
/// Lanes that wait for their history, of which every live event is counted, and whose first one is.
const COUNTED_WHOLE_MAX: usize = 50;
const COUNTED_MAX: usize = 5_000;

#[async_trait]
impl Backfills for Aws {
    async fn count(&self, name: &ConsumerName, asked: &Backfill) -> Result<Option<u64>> {
        let Some(known) = self.store.known_as(name).await? else { return Ok(None) };
        let fills = Fills::load(&self.store, name, known.fills).await?;
        self.counted(&known, &fills, asked, scope(&known, asked)).await.map(|(events, _)| Some(events))
    }

    async fn start(&self, name: &ConsumerName, asked: Backfill) -> Result<Durable<Started>> {
        loop {
            let Some(known) = self.store.known_as(name).await? else {
                return Ok(Durable::assert(Started::UnknownConsumer));
            };
            if known.filling.is_some() {
                return Ok(Durable::assert(Started::Runs));
            }
            let fills = Fills::load(&self.store, name, known.fills).await?;
            let scope = scope(&known, &asked);
            let counted = self.counted(&known, &fills, &asked, scope).await?;
            let brings_more = self.brings_more(&known, &fills, &asked, scope).await?;
            let heard = self.store.heard(&known).map(|heard| heard.everywhere());
            let fill = Fill::new(fills.newest() + 1, &asked, heard, scope, counted);
            let mut transaction = Transaction::default();
            transaction.create((), fill.item(name)?);
            let news = match (fill.is_under_way(), fill.is_rebuild()) {
                (true, true) => rebuild::begin(&self.store, name, &fill, &mut transaction).await?,
                (true, false) => news("SET bfa = :number").value(":number", number(fill.number)),
                (false, _) => news(""),
            };
            let news = if brings_more { news.and(keep::goes(BROUGHT_MORE)) } else { news };
            let news = news.only_if("attribute_exists(pk) AND attribute_not_exists(bfa)");
            transaction.update((), Key::consumer(name), news);
            // Refused where another one began meanwhile, or the consumer was forgotten.
            if self.store.table.transact(transaction).await?.is_ok() {
                fault::pass(Point::BackfillStarted);
                self.tell(name).await?;
                return Ok(Durable::assert(Started::Yes(fill.report(0))));
            }
        }
    }

    async fn latest(&self, name: &ConsumerName) -> Result<Option<BackfillReport>> {
        let Some(known) = self.store.known_as(name).await? else { return Ok(None) };
        let fills = Fills::load(&self.store, name, known.fills).await?;
        match fills.all.last() {
            Some(last) => self.store.report(&known, last).await.map(Some),
            None => Ok(None),
        }
    }

    async fn steer(&self, name: &ConsumerName, step: BackfillStep) -> Result<Durable<Steered>> {
        let known = self.store.known_as(name).await?;
        let Some((known, filling)) = known.and_then(|known| known.filling.map(|number| (known, number))) else {
            return Ok(Durable::assert(Steered::None));
        };
        let (state, set, news) = match step {
            BackfillStep::Pause => (BackfillState::Paused, "SET sta = :state", news("REMOVE nr, nru")),
            BackfillStep::Resume => (BackfillState::Running, "SET sta = :state", news("")),
            BackfillStep::Cancel => {
                (BackfillState::Cancelled, "SET sta = :state, tz = :now", news("REMOVE bfa, bfr, nr, nru"))
            }
        };
        let mut steered = Change::of(set).value(":state", text(state.as_str()));
        if step == BackfillStep::Cancel {
            steered = steered.value(":now", number(Timestamp::now().as_millis()));
        }
        let mut transaction = Transaction::default();
        transaction.update((), Key::backfill(name, filling), steered.only_if("attribute_exists(pk)"));
        let news = news.only_if("bfa = :filling").value(":filling", number(filling));
        transaction.update((), Key::consumer(name), news);
        if self.store.table.transact(transaction).await?.is_err() {
            // It has ended meanwhile.
            return Ok(Durable::assert(Steered::None));
        }
        fault::pass(Point::BackfillSteered);
        self.tell(name).await?;
        let fills = Fills::load(&self.store, name, known.fills + 1).await?;
        let fill = fills.all.iter().find(|fill| fill.number == filling);
        let fill = fill.ok_or_else(|| Error::Unavailable("the consumer was forgotten meanwhile".into()))?;
        Ok(Durable::assert(Steered::Yes(self.store.report(&known, fill).await?)))
    }
}

/// What a consumer's item says differently when something about its backfills has changed, besides `more`.
pub fn news(more: &str) -> Change {
    let version = "bfv = if_not_exists(bfv, :zero) + :one";
    let update = match more.strip_prefix("SET ") {
        Some(set) => format!("SET {version}, {set}"),
        None => format!("SET {version} {more}"),
    };
    Change::of(update).value(":zero", number(0)).value(":one", number(1))
}

/// One more delivery of a backfill that is done, and what it dropped.
pub fn counted(name: &ConsumerName, backfill: i64, dropped: u64) -> Vec<(Key, Counter)> {
    let sums = [(DELIVERED, 1), (DROPPED, i64::try_from(dropped).unwrap_or(i64::MAX))];
    let more = |(sum, by): (&str, i64)| {
        let mut counter = Counter::default();
        counter.adjust(by, None);
        (Key::backfill_sum(name, backfill, sum), counter)
    };
    sums.into_iter().filter(|(_, by)| *by > 0).map(more).collect()
}

/// Which positions from before the consumer began a backfill is about.
fn scope(known: &Known, asked: &Backfill) -> (u64, u64) {
    let last = known.start.saturating_sub(1);
    let first = match asked.from {
        Since::Beginning => 1,
        Since::At(time) if time_of(last) < time && asked.of == Backfilled::Missed => last + 1,
        Since::At(time) => first_at(time),
    };
    (first.max(1), last)
}

/// Returns when everything up to a position is in the index: other hosts may have written what is not, yet.
pub async fn settled(last: u64) {
    while settled_below(Timestamp::now()) <= last {
        sleep(SETTLED / 10).await;
    }
}

/// About how many there are in `all` positions, if there are `counted` in those that were looked at. At least one.
fn in_all(counted: u64, looked_at: u64, all: u64) -> u64 {
    let about = u128::from(counted) * u128::from(all) / u128::from(looked_at.max(1));
    u64::try_from(about).unwrap_or(u64::MAX).max(1)
}

/// How many events there are up to `last`, where `counted` were found between `oldest` and `after`: all of them, if the part that
/// was read had no more, or about, if that took long. `None` where the next part is to be read.
fn so_far(counted: u64, (oldest, after, last): (u64, u64, u64), is_more: bool, took: Duration) -> Option<u64> {
    match is_more && after < last {
        false => Some(counted),
        true if took > COUNT_TIME_MAX => Some(in_all(counted, after - oldest, last - oldest)),
        true => None,
    }
}

impl Aws {
    /// How many events there are to be delivered: of many, about. And up to which position that is.
    async fn counted(&self, known: &Known, fills: &Fills, asked: &Backfill, scope: (u64, u64)) -> Result<(u64, u64)> {
        match asked.of {
            Backfilled::Missed => Ok((self.missed(known, fills, asked, scope).await?, scope.1)),
            Backfilled::Rebuild => {
                let heard = self.store.heard(known);
                rebuild::count(&self.store, known, fills, scope.0, heard.as_ref()).await
            }
        }
    }

    /// Whether it brings events that a kept state lacks, and that nobody can bring there.
    async fn brings_more(&self, known: &Known, fills: &Fills, asked: &Backfill, scope: (u64, u64)) -> Result<bool> {
        Ok(known.kept.is_some() && scope.0 <= scope.1 && self.missed(known, fills, asked, scope).await? > 0)
    }

    /// How many events between two positions the consumer was never offered: of many, about.
    async fn missed(&self, known: &Known, fills: &Fills, asked: &Backfill, (first, last): (u64, u64)) -> Result<u64> {
        if first <= last {
            settled(last).await;
        }
        let heard = self.store.heard(known);
        // Without a word on what it hears, every event counts.
        let wants = |event: &Event| {
            heard.as_ref().is_none_or(|heard| heard.want(event))
                && asked.filter.as_ref().is_none_or(|filter| event.passes(filter))
        };
        let (mut after, mut missed, mut oldest) = (first - 1, 0, None);
        let began = Instant::now();
        loop {
            let keys = self.store.log(after + 1, last, false, COUNT_BATCH).await?;
            let (Some((_, read)), is_more) = (keys.last(), keys.len() == COUNT_BATCH) else { return Ok(missed) };
            after = *read;
            let oldest = *oldest.get_or_insert(keys.first().map_or(after, |(_, oldest)| *oldest));
            let keys: Vec<Key> = keys.into_iter().map(|(key, _)| key).collect();
            let mut events = self.store.logged_at(&keys).await?;
            events.retain(|logged| wants(&logged.event));
            if !fills.all.is_empty() {
                let places = self.store.places(&known.name, &events).await?;
                let nowhere = Place::default();
                events.retain(|logged| fills.of(places.get(&logged.key).unwrap_or(&nowhere), logged).is_none());
            }
            missed += events.len() as u64;
            if let Some(all) = so_far(missed, (oldest, after, last), is_more, began.elapsed()) {
                return Ok(all);
            }
        }
    }

    /// Something about a consumer's backfills has changed: what this host does follows at once.
    pub(super) async fn tell(&self, name: &ConsumerName) -> Result<()> {
        match self.store.inbox(name) {
            Some(inbox) => inbox.refresh_fills().await,
            None => Ok(()),
        }
    }
}

/// What is known of the history of one consumer.
pub struct History {
    start: u64,
    fills: Fills,
    heard: Option<Subscriptions>,
}

impl History {
    /// Whether a backfill is through with an event from before the consumer began; `None` where none is about it.
    pub fn of(&self, place: &Place, logged: &Logged) -> Option<bool> {
        let through = self.fills.through(place, logged).filter(|_| logged.position() < self.start);
        through.filter(|through| *through || self.wants(logged))
    }

    pub fn is_any(&self) -> bool {
        !self.fills.all.is_empty()
    }

    /// Whether the lane brings the event by itself, and has not yet.
    pub fn waits_in(&self, place: &Place, logged: &Logged) -> bool {
        matches!(self.fills.brings(place, logged), Some(Way::Itself(_))) && self.wants(logged)
    }

    /// How an event that was done at its first attempt came to the consumer.
    pub fn origin(&self, logged: &Logged) -> Origin {
        if logged.position() < self.start { Origin::Backfill } else { Origin::Live }
    }

    fn wants(&self, logged: &Logged) -> bool {
        self.heard.as_ref().is_none_or(|heard| heard.want(&logged.event))
    }
}

impl Store {
    /// What is known of the history of a consumer.
    pub async fn history(&self, known: &Known) -> Result<History> {
        let fills = Fills::load(self, &known.name, known.fills).await?;
        Ok(History { start: known.start, fills, heard: self.heard(known) })
    }

    /// What a consumer hears, or heard when it was last there; `None` where that was never said.
    fn heard(&self, known: &Known) -> Option<Subscriptions> {
        let inbox = self.inbox_of(known).filter(|inbox| inbox.says_what_is_heard());
        inbox.map(|inbox| inbox.subscriptions()).or_else(|| known.last_heard().cloned())
    }

    /// The places of a consumer in the lanes of these events.
    pub async fn places(&self, name: &ConsumerName, events: &[Logged]) -> Result<HashMap<LaneKey, Place>> {
        let items = self.table.get_all(events.iter().map(|logged| Key::place(name, &logged.key))).await?;
        let mut places = HashMap::new();
        for Logged { key, .. } in events {
            if let Some(item) = items.get(&Key::place(name, key)) {
                places.insert(key.clone(), Place::read(item)?);
            }
        }
        Ok(places)
    }

    /// How the backfill that is under way stands.
    pub async fn backfill(&self, known: &Known) -> Result<Option<BackfillReport>> {
        if known.filling.is_none() {
            return Ok(None);
        }
        let fills = Fills::load(self, &known.name, known.fills).await?;
        match fills.under_way() {
            Some(fill) => self.report(known, fill).await.map(Some),
            None => Ok(None),
        }
    }

    /// How a backfill stands.
    async fn report(&self, known: &Known, fill: &Fill) -> Result<BackfillReport> {
        let held = if fill.is_under_way() { self.held(known).await? } else { 0 };
        Ok(fill.report(held))
    }

    /// Live events that wait for history of their lanes; of many lanes, one each.
    async fn held(&self, known: &Known) -> Result<u64> {
        let lanes = super::due::held(self, &known.name, COUNTED_MAX).await?;
        let mut held = lanes.len().saturating_sub(COUNTED_WHOLE_MAX) as u64;
        for key in lanes.iter().take(COUNTED_WHOLE_MAX) {
            let lane = LaneKey::known(&key.sk);
            let place = Place::load(self, &known.name, &lane).await?;
            let behind = self.logged_after(&lane, place.seq, usize::MAX).await?;
            held += behind.iter().filter(|logged| self.wants(known, logged)).count() as u64;
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_estimated_only_where_there_are_more_than_could_be_counted_in_time() {
        let (soon, late) = (Duration::ZERO, COUNT_TIME_MAX * 2);
        assert_eq!(so_far(7, (10, 20, 100), false, late), Some(7), "all were read, however long it took");
        assert_eq!(so_far(7, (10, 20, 20), true, late), Some(7));
        assert_eq!(so_far(7, (10, 20, 100), true, soon), None);
        assert_eq!(so_far(7, (10, 20, 100), true, late), Some(63));
    }
}
