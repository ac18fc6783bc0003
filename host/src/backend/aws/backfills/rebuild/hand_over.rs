//! The end of a rebuild: what it filled becomes the consumer's state.
//!
//! ```text
//!  at the edge ──► try: no live delivery starts ──► all gates are shut ──► nothing is left ──► one transaction
//!       ▲                          │ takes too long
//!       └──── live ones go on ◄────┘
//! ```
//!
//! The try stands in the consumer's item. While it does, no gate opens (`gate`); each host shuts its own once nothing runs there,
//! and those of hosts that are gone are shut for them, as are those of functions: one that stands still cannot say whether it is
//! gone, and one that runs handles again what finds its gate shut. Whatever the consumer did was written before the last gate was
//! shut, so a look at everything after that misses nothing. Generation, and the end of the try and of the rebuild are one
//! transaction, refused where the try or the rebuild has ended.
//!
//! A try is of one invocation, where a function makes it: it is not begun where it could not be through, and ends with it.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::{Instant, sleep};

use super::{AGAIN, BATCH, CLEARED, POSITION_MAX, Passed, Rebuilder, Walk};
use crate::backend::aws::backfills::{gate, news};
use crate::backend::aws::clock::first_at;
use crate::backend::aws::item::{Item, Key, counters_partition, entries_partition, number, rebuilds_partition, text};
use crate::backend::aws::journal::{SETTLED, settled_below};
use crate::backend::aws::layouts::back;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Span, Transaction};
use crate::backend::aws::{versions, weight};
use crate::backend::{BackfillState, Result};
use crate::clock::Timestamp;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// Events that came a moment ago, or are not done yet, and may be left when live deliveries are held back.
const REST_MAX: usize = 512;
/// How long those are waited for that are to be done.
pub const EDGE_MAX: Duration = Duration::from_secs(5);
/// How long live deliveries are held back at the first try; each that fails is followed by one of twice that.
const HELD_BACK_TIME: Duration = Duration::from_secs(4);
const HELD_BACK_TIME_MAX: Duration = Duration::from_secs(64);
/// For how long they go on then.
const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// What a try needs of an invocation, where nothing runs: live deliveries are not held back for nothing.
const TRY_TIME: Duration = Duration::from_secs(3);
/// How long after its beginning somebody who did not hear of a rebuild, and is not there any more, may have begun to commit
/// something: three times as long as anybody goes by what he knew. When that arrives does not matter ([`Rebuilder::fence`]).
pub const UNHEARD_MAX: Duration = Duration::from_secs(30);

/// What became of earlier tries.
pub struct Tries {
    rest: Option<Instant>,
    held_back: Duration,
}

impl Default for Tries {
    fn default() -> Self {
        Self { rest: None, held_back: HELD_BACK_TIME }
    }
}

/// A try to hand over.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    pub number: u64,
    until: Instant,
    /// When all gates were first seen shut.
    shut: Option<Instant>,
}

impl Rebuilder {
    /// Everything was handled that is settled and done. Once the rest is little and young, and done or waited for long enough, the
    /// rebuild is about to be handed over. What is older was put off by then, and is fenced off.
    pub(super) async fn approach(&self, walk: &mut Walk, all_done: bool) -> Result<bool> {
        let edge = *walk.edge.get_or_insert_with(Instant::now);
        let is_young = |(position, _)| position > first_at(Timestamp::now().minus(EDGE_MAX));
        let is_near = match edge.elapsed() > EDGE_MAX {
            true => (all_done || walk.pending.is_some_and(is_young)) && self.rest(walk, REST_MAX).await? <= REST_MAX,
            false => all_done && self.rest(walk, 0).await? == 0,
        };
        if !self.tell_lag(walk, !is_near && edge.elapsed() > EDGE_MAX).await? {
            return Ok(false);
        }
        let rests = walk.tries.rest.is_some_and(|until| Instant::now() < until);
        if rests || !is_near || self.time_left() < TRY_TIME || !self.is_known_to_all(walk).await? {
            sleep(AGAIN).await;
            return Ok(true);
        }
        if !walk.fenced {
            if !self.fence(walk).await? {
                return Ok(false);
            }
            let fenced = walk.own("SET fen = :one", "").value(":one", number(1));
            if self.store.table.update(&Key::backfill(self.name(), walk.fill.number), fenced).await?.is_none() {
                return Ok(false);
            }
            walk.fenced = true;
        }
        self.begin_try(walk).await
    }

    /// Says whether it is not handed over because live deliveries lag behind. `false` where it is not this host's any more.
    async fn tell_lag(&self, walk: &mut Walk, lags: bool) -> Result<bool> {
        if walk.lags == lags {
            return Ok(true);
        }
        let change = match lags {
            true => walk.own("SET lgs = :one", "").value(":one", number(1)),
            false => walk.own("REMOVE lgs", ""),
        };
        walk.lags = lags;
        Ok(self.store.table.update(&Key::backfill(self.name(), walk.fill.number), change).await?.is_some())
    }

    /// How many events behind the cursor the consumer hears, roughly and from above where that is no more than `enough`.
    async fn rest(&self, walk: &Walk, enough: usize) -> Result<usize> {
        let keys = self.store.log(walk.cursor + 1, POSITION_MAX, false, REST_MAX + 1).await?;
        if keys.len() <= enough {
            return Ok(keys.len());
        }
        let keys: Vec<Key> = keys.into_iter().map(|(key, _)| key).collect();
        let heard = self.inbox.subscriptions();
        let events = self.store.logged_at(&keys).await?;
        Ok(events.iter().filter(|logged| heard.want(&logged.event)).count())
    }

    /// Whether everybody who may commit something of the consumer has heard of the rebuild.
    async fn is_known_to_all(&self, walk: &Walk) -> Result<bool> {
        let gates = gate::all(&self.store, self.name(), walk.fill.number).await?;
        // A function that goes through it is one of those.
        let (mut lost, mut gone) = (false, self.until.is_some() || self.inbox.known().by_functions);
        for gate in gates.values().filter(|gate| !gate.joined) {
            lost |= gate.lives;
            gone |= !gate.lives;
        }
        Ok(!lost && (!gone || self.under_way_for() > UNHEARD_MAX))
    }

    /// How long anything may begin.
    pub(super) fn time_left(&self) -> Duration {
        self.until.map_or(Duration::MAX, |until| until.begin.saturating_duration_since(Instant::now()))
    }

    async fn begin_try(&self, walk: &mut Walk) -> Result<bool> {
        let now = Timestamp::now();
        if let Some(near) = self.inbox.known().near {
            // Of a host that went through the rebuild before.
            gate::end_try(&self.store, self.name(), near.number).await?;
        }
        let held_back = walk.tries.held_back.min(self.time_left());
        let until = now.plus(held_back);
        let tried = Try { number: fastrand::u64(1..1 << 53), until: Instant::now() + held_back, shut: None };
        let begun = news("SET nr = :try, nru = :until").only_if("bfa = :rebuild AND attribute_not_exists(nr)");
        let begun = begun
            .value(":try", number(tried.number))
            .value(":until", number(until.as_millis()))
            .value(":rebuild", number(walk.fill.number));
        if self.store.table.update_once(&Key::consumer(self.name()), begun).await?.is_some() {
            walk.near = Some(tried);
        }
        self.inbox.refresh_fills().await?;
        Ok(true)
    }

    pub(super) async fn end_try(&self, tried: u64) -> Result<()> {
        gate::end_try(&self.store, self.name(), tried).await?;
        self.inbox.refresh_fills().await
    }

    /// One step of a try: `false` where the rebuild is over, or stops.
    pub(super) async fn try_on(&self, walk: &mut Walk, tried: Try) -> Result<bool> {
        if Instant::now() > tried.until {
            walk.near = None;
            walk.edge = None;
            walk.tries.held_back = (walk.tries.held_back * 2).min(HELD_BACK_TIME_MAX);
            walk.tries.rest = Some(Instant::now() + BETWEEN_TRIES);
            self.end_try(tried.number).await?;
            return Ok(true);
        }
        // Whoever ended it lets live deliveries go on.
        if self.inbox.known().near.is_none_or(|near| near.number != tried.number) {
            walk.near = None;
            return Ok(true);
        }
        let is_last_look = tried.shut.is_some_and(|shut| shut.elapsed() > SETTLED);
        let settled = settled_below(Timestamp::now()).saturating_sub(1);
        match self.pass(walk, settled).await? {
            Passed::Stopped => return Ok(false),
            Passed::More | Passed::Waits => return Ok(true),
            Passed::All(handled) if handled > 0 => return Ok(true),
            Passed::All(_) => {}
        }
        match tried.shut {
            None => {
                if self.are_shut(walk).await? {
                    walk.near = Some(Try { shut: Some(Instant::now()), ..tried });
                } else {
                    sleep(AGAIN).await;
                }
                Ok(true)
            }
            Some(_) if !is_last_look || !self.is_nothing_left(walk, settled).await? => {
                sleep(AGAIN).await;
                // Another host may have it by now.
                self.goes_on(walk).await
            }
            Some(_) => {
                self.hand_over(walk, tried).await?;
                // Refused, it is looked at anew.
                Ok(false)
            }
        }
    }

    /// Whether all gates are shut. Those of whoever has no slot are shut here.
    async fn are_shut(&self, walk: &Walk) -> Result<bool> {
        let (name, rebuild) = (self.name(), walk.fill.number);
        if self.until.is_some() {
            // Nobody else does that at once in the middle of an invocation.
            self.inbox.look_at_gate().await?;
        }
        let mut are_shut = true;
        let mut left_open = Vec::new();
        for (host, gate) in gate::all(&self.store, name, rebuild).await? {
            // What runs here, on a function, ends first.
            let is_in_use = gate.open && !gate.lives && self.inbox.goes_through_gate_of(&host);
            if gate.open && !gate.lives && !is_in_use {
                left_open.push(host);
            }
            are_shut &= !is_in_use && (!gate.lives || (!gate.open && gate.joined));
        }
        for hosts in left_open.chunks(BATCH) {
            try_join_all(hosts.iter().map(|host| gate::shut(&self.store, name, rebuild, host))).await?;
        }
        Ok(are_shut)
    }

    /// Whether the consumer has done nothing that the rebuild has not, now that it does nothing more.
    async fn is_nothing_left(&self, walk: &mut Walk, settled: u64) -> Result<bool> {
        if self.come_back(walk).await? != Some(0) {
            return Ok(false);
        }
        // By a clock that is ahead, or in the index already.
        let young = self.store.between(settled, POSITION_MAX, REST_MAX * 2).await?;
        Ok(!self.seen(young).await?.iter().any(|seen| walk.cannot_leave(seen.found)))
    }

    /// Makes what the rebuild filled the consumer's state, unless it has ended, or its try.
    async fn hand_over(&self, walk: &mut Walk, tried: Try) -> Result<()> {
        let (name, rebuild) = (self.name(), walk.fill.number);
        let (known, filled) = (self.inbox.known(), walk.fill.generation);
        let generation = known.generation;
        let mut transaction = Transaction::default();
        let done = walk.own("SET sta = :done, tz = :now, evs = dl REMOVE fl", " AND cur = :cursor");
        let done = done
            .value(":done", text(BackfillState::Done.as_str()))
            .value(":now", number(Timestamp::now().as_millis()))
            .value(":cursor", number(walk.cursor));
        transaction.update((), Key::backfill(name, rebuild), done);
        let bytes = self.inbox.batches.weight_of(rebuild).bytes();
        // That the state of before has a weight says that it is to be cleared.
        let mut set = "SET gen = :filled, #old = if_not_exists(#old, :zero)".to_owned();
        let removes = match bytes {
            Some(_) => {
                set += ", #new = :bytes";
                "REMOVE bfa, bfr, nr, nru"
            }
            None => "REMOVE bfa, bfr, nr, nru, #new",
        };
        let condition = match generation {
            0 => "(attribute_not_exists(gen) OR gen = :before)",
            _ => "gen = :before",
        };
        let mut swap = news(&format!("{set} {removes}"))
            .only_if(format!("bfa = :rebuild AND nr = :try AND {condition}"))
            .name("#old", &weight::attribute(generation))
            .name("#new", &weight::attribute(filled))
            .value(":rebuild", number(rebuild))
            .value(":filled", number(filled))
            .value(":try", number(tried.number))
            .value(":before", number(generation));
        if let Some(bytes) = bytes {
            swap = swap.value(":bytes", number(bytes.max(0)));
        }
        let mut gone = Vec::new();
        if let Some(back) = &walk.fill.back {
            let from = (walk.cursor, self.heard()?);
            let handed = back::hand_over(&self.store, known.clone(), back, from, &mut transaction).await?;
            let Some((change, files)) = handed else { return Ok(()) };
            (swap, gone) = (swap.and(change), files);
        }
        transaction.update((), Key::consumer(name), swap);
        if self.store.table.transact(transaction).await?.is_ok() {
            fault::pass(Point::RebuildHandedOver);
            walk.near = None;
            match &walk.fill.back {
                None => tracing::info!(consumer = %name, "its rebuilt state is in use from now on"),
                Some(back) => {
                    let version = back.way.to.short();
                    tracing::info!(consumer = %name, %version, "it has gone back to a version and the state of its layout");
                    versions::let_files_go(&self.store.table, &gone).await;
                    self.store.handed_over.notify_one();
                }
            }
        }
        self.inbox.refresh_fills().await
    }
}

/// Deletes a generation that is past, and what rebuilds left up to and with one.
pub async fn clear(store: &Store, name: &ConsumerName, past: i64, rebuilds_through: i64) -> Result<()> {
    let all = "\u{10ffff}".to_owned();
    let left = format!("{rebuilds_through:010}~");
    let partitions = [
        (entries_partition(name, past), all.clone()),
        (counters_partition(name, past), all),
        (rebuilds_partition(name), left),
    ];
    for (partition, to) in partitions {
        loop {
            let (partition, from, to) = (partition.clone(), "\u{1}".to_owned(), to.clone());
            let items = store.table.query(Span { partition, from, to, newest_first: false, limit: CLEARED }).await?;
            let more = items.len() == CLEARED;
            store.table.delete_all(items.iter().map(Item::key).collect::<Result<_>>()?).await?;
            if !more {
                break;
            }
        }
    }
    let change = Change::of("REMOVE #sb").name("#sb", &weight::attribute(past));
    let change = change.only_if("attribute_exists(pk) AND (attribute_not_exists(gen) OR gen <> :past)");
    store.table.update_once(&Key::consumer(name), change.value(":past", number(past))).await.map(drop)
}
