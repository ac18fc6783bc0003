//! Keeps a state that a version with another layout takes over: a copy, made when all have left who handled by the layout
//! before, and before anybody handles by the new one.
//!
//! ```text
//!  all have left ──► claimed, by a generation of its own ──► copied ──► what is not done is put off ──► kept, and laid anew
//! ```
//!
//! Nothing of the consumer is handled meanwhile, so what is copied and what is done are of one moment. Whoever copies writes
//! under the condition that the consumer's item names his generation: who was too slow, or died, writes into one that is past.
//!
//! **Invariants**
//! - What is done up to the position of a kept state is in it, and what is not is put off beside it.
//! - Nothing but a way back ([`Back`](crate::backend::aws::backfills::Back)) writes into a kept state.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Laid;
use crate::backend::aws::backfills::{Fills, Found, Seen, look, position_of, put_off_item, put_off_items, settled};
use crate::backend::aws::clock::first_at;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::inbox::page;
use crate::backend::aws::item::{
    Item, Key, LaneKey, counters_partition, entries_partition, json, number, put_off_prefix, rebuilds_partition, text,
};
use crate::backend::aws::journal::POSITION_MAX;
use crate::backend::aws::lane::Logged;
use crate::backend::aws::place::Place;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Span, Transaction, WRITES_MAX};
use crate::backend::aws::{upkeep, versions, weight};
use crate::backend::layouts::{AGED, IS_FILLED, weighs};
use crate::backend::{KeptState, Result};
use crate::clock::Timestamp;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;
use crate::version::Hash;

pub const BY_FUNCTIONS: &str = "functions of AWS Lambda keep none: nobody can go back to it there";
const UNSAID: &str = "a host of an earlier release began to take it over, which keeps none";
const AHEAD: &str = "the clock of a host is ahead by more than 10 seconds, and nobody can say which events are in it";

/// Generations of copies are numbered from here on: a rebuild's is its own number, and never as high.
const COPIES: i64 = 5_000_000_000;
/// How long a host copies for itself, unless it says so again, which it does this often.
const CLAIM: Duration = Duration::from_secs(30);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Items read at once, and what they weigh that are written at once.
const PAGE: usize = 500;
const BYTES_MAX: usize = 3 << 20;
/// Events that are looked at in one go.
const BATCH: usize = 64;
/// A consumer that has more to do than this is too far behind to be brought along.
const OPEN_MAX: usize = 20_000;
/// How far the clock of another host may be ahead.
const AHEAD_MAX: Duration = Duration::from_secs(10);

/// A state of the layout before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub generation: i64,
    /// Beside which number stands what is put off.
    pub put_off: i64,
    pub layout: u32,
    /// The version that ran on it last, where that is known.
    pub version: Option<Hash>,
    pub since_ms: u64,
    /// What is done up to this position is in it.
    pub position: u64,
    /// The way back that was on its way to it last: it is as far as that came.
    pub way: Option<i64>,
}

impl Kept {
    pub fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.since_ms)
    }

    /// Up to which position what is done is in it by now.
    pub fn position(&self, fills: &Fills) -> u64 {
        let way = self.way.and_then(|way| fills.all.iter().find(|fill| fill.number == way));
        way.map_or(self.position, |fill| fill.position)
    }

    /// As whoever asks is told.
    pub fn shown(&self, item: &Item) -> Result<KeptState> {
        let bytes = item.number_or_none::<i64>(&weight::attribute(self.generation))?.unwrap_or_default();
        let (layout, hash, since) = (self.layout, self.version, self.since());
        Ok(KeptState { layout, hash, bytes: u64::try_from(bytes).unwrap_or_default(), since })
    }
}

/// That what is kept goes, and why.
pub fn goes(why: &str) -> Change {
    Change::of("SET kpw = :why REMOVE kp").value(":why", text(why))
}

/// Why a state is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NotKept {
    Because(&'static str),
    Weighs {
        bytes: u64,
        bytes_max: u64,
    },
    Behind,
    /// Another host copies it, or something else became of the take-over.
    Elsewhere,
}

impl NotKept {
    fn told(&self) -> String {
        match self {
            Self::Because(why) => (*why).to_owned(),
            Self::Weighs { bytes, bytes_max } => weighs(*bytes, *bytes_max),
            Self::Behind => format!("more than {OPEN_MAX} events were to be done when it was taken over"),
            Self::Elsewhere => String::new(),
        }
    }
}

type Copied<T> = Result<std::result::Result<T, NotKept>>;

/// What the consumer's item says at the end of a take-over: with what became of the state before. `None` where another host
/// copies that, or the take-over is over.
pub async fn end(store: &Store, item: &Item, laid: Laid) -> Result<Option<Change>> {
    let known = Known::read(item)?;
    let before: Option<u32> = item.number_or_none("lyb")?;
    let over = |set: &str, removes: &str| {
        let change = Change::of(format!("SET lyr = :number{set} REMOVE lyb, lym, cpg, cpt{removes}"));
        change.only_if("lyn = :number").value(":number", number(laid.number))
    };
    if before == Some(laid.layout) {
        // Nobody has handled anything by another one.
        return Ok(Some(over("", "")));
    }
    Ok(match keep(store, item, &known, before, laid.number).await? {
        Ok((kept, bytes)) => Some(
            over(", kp = :kept, #weight = :bytes", ", kpw")
                .only_if("lyn = :number AND cpg = :copy")
                .name("#weight", &weight::attribute(kept.generation))
                .value(":copy", number(kept.generation))
                .value(":bytes", number(bytes))
                .value(":kept", json(&kept)?),
        ),
        Err(NotKept::Elsewhere) => None,
        Err(why) => Some(over(", kpw = :why", ", kp").value(":why", text(why.told()))),
    })
}

async fn keep(store: &Store, item: &Item, known: &Known, before: Option<u32>, take_over: i64) -> Copied<(Kept, u64)> {
    if store.seat.kept().is_none() {
        return Ok(Err(NotKept::Because(BY_FUNCTIONS)));
    }
    let Some((layout, bytes_max)) = before.zip(item.number_or_none::<u64>("lym")?) else {
        return Ok(Err(NotKept::Because(UNSAID)));
    };
    if known.filling.is_some() {
        return Ok(Err(NotKept::Because(IS_FILLED)));
    }
    if bytes_max == 0 {
        return Ok(Err(NotKept::Weighs { bytes: 0, bytes_max }));
    }
    if item.time_or_none("cpt")?.is_some_and(|until| until > Timestamp::now()) {
        return Ok(Err(NotKept::Elsewhere));
    }
    let bytes = weight::whole(store, &known.name, known.generation).await?;
    if bytes > bytes_max {
        return Ok(Err(NotKept::Weighs { bytes, bytes_max }));
    }
    let Some(mut copy) = Copy::claim(store, known, take_over).await? else { return Ok(Err(NotKept::Elsewhere)) };
    tracing::info!(consumer = %known.name, layout, bytes, "its state is copied, before a version with another layout takes it over");
    for of in [entries_partition, counters_partition] {
        let (from, to) = (of(&known.name, known.generation), of(&known.name, copy.generation));
        if !copy.partition(from, &to).await? {
            return Ok(Err(NotKept::Elsewhere));
        }
    }
    let position = match copy.put_off_open(known).await? {
        Ok(position) => position,
        Err(why) => return Ok(Err(why)),
    };
    fault::pass(Point::LayoutNoted);
    let version = versions::last_of_layout(&store.table, &known.name, layout).await?;
    let (generation, since_ms) = (copy.generation, Timestamp::now().as_millis());
    Ok(Ok((Kept { generation, put_off: generation, layout, version, since_ms, position, way: None }, bytes)))
}

/// A copy that is this host's to make.
struct Copy<'a> {
    store: &'a Store,
    name: ConsumerName,
    generation: i64,
    said: Instant,
}

impl<'a> Copy<'a> {
    /// Makes it this host's, unless it is another's, or the take-over is over.
    async fn claim(store: &'a Store, known: &Known, take_over: i64) -> Result<Option<Self>> {
        let (said, now, copies) = (Instant::now(), Timestamp::now(), known.copies + 1);
        let generation = COPIES + copies;
        let open = "lyn = :number AND (attribute_not_exists(lyr) OR lyr <> :number)";
        let free = "(attribute_not_exists(cpn) OR cpn = :before) AND (attribute_not_exists(cpt) OR cpt < :now)";
        // That it has a weight says that it is to be cleared when it is no use any more.
        let claim = Change::of("SET cpg = :copy, cpn = :copies, cpt = :until, #weight = :zero")
            .only_if(format!("{open} AND {free}"))
            .name("#weight", &weight::attribute(generation))
            .value(":number", number(take_over))
            .value(":copy", number(generation))
            .value(":copies", number(copies))
            .value(":before", number(known.copies))
            .value(":now", number(now.as_millis()))
            .value(":until", number(now.plus(CLAIM).as_millis()))
            .value(":zero", number(0));
        let claimed = store.table.update_once(&Key::consumer(&known.name), claim).await?;
        let is_own =
            claimed.as_ref().is_some_and(|item| item.number_or_none("cpg").is_ok_and(|of| of == Some(generation)));
        Ok(is_own.then(|| Self { store, name: known.name.clone(), generation, said }))
    }

    fn condition(&self) -> Change {
        Change::default().only_if("cpg = :copy").value(":copy", number(self.generation))
    }

    /// Says again that this host copies. `false` where it does no more.
    async fn goes_on(&mut self) -> Result<bool> {
        if self.said.elapsed() < RENEW_EVERY {
            return Ok(true);
        }
        self.said = Instant::now();
        let until = Timestamp::now().plus(CLAIM).as_millis();
        let renewed = self.condition().update("SET cpt = :until").value(":until", number(until));
        Ok(self.store.table.update(&Key::consumer(&self.name), renewed).await?.is_some())
    }

    /// Writes items of the copy, as long as it is this host's.
    async fn write(&mut self, items: Vec<Item>) -> Result<bool> {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let mut transaction = Transaction::default();
            transaction.check((), Key::consumer(&self.name), self.condition());
            let mut bytes = 0;
            while let Some(item) = items.next_if(|item| {
                bytes += item.bytes();
                transaction.len() == 1 || (transaction.len() < WRITES_MAX && bytes < BYTES_MAX)
            }) {
                transaction.put((), item);
            }
            if self.store.table.transact(transaction).await?.is_err() || !self.goes_on().await? {
                return Ok(false);
            }
            fault::pass(Point::LayoutCopied);
        }
        Ok(true)
    }

    async fn partition(&mut self, from: String, to: &str) -> Result<bool> {
        let mut after: Option<String> = None;
        loop {
            let (items, _) = page(self.store, from.clone(), "", after.as_deref(), PAGE).await?;
            let Some(last) = items.last() else { return Ok(true) };
            after = Some(last.text("sk")?.to_owned());
            if !self.write(items.into_iter().map(|item| item.with("pk", text(to))).collect()).await? {
                return Ok(false);
            }
        }
    }

    /// Puts off what is not done by now: up to which position that is all.
    async fn put_off_open(&mut self, known: &Known) -> Copied<u64> {
        let newest = self.store.log(0, POSITION_MAX, true, 1).await?.first().map_or(0, |(_, position)| *position);
        let now = Timestamp::now();
        if newest > first_at(now.plus(AHEAD_MAX)) {
            return Ok(Err(NotKept::Because(AHEAD)));
        }
        let last = self.store.positions.newest(now).max(newest);
        settled(last).await;
        let mut open = BTreeMap::new();
        let mut exceptions = self.exceptions(known, last).await?;
        loop {
            let rest = exceptions.split_off(exceptions.len().min(BATCH));
            if exceptions.is_empty() {
                break;
            }
            if !self.note_open(known, exceptions, &mut open).await? {
                return Ok(Err(NotKept::Elsewhere));
            }
            exceptions = rest;
        }
        // Up to there, nothing is left but exceptions.
        let mut after = known.catch_up.after;
        loop {
            let some = self.store.between(after, last, BATCH).await?;
            let Some(read) = some.last().map(Logged::position) else { break };
            after = read;
            if !self.note_open(known, some, &mut open).await? {
                return Ok(Err(NotKept::Elsewhere));
            }
            if open.len() > OPEN_MAX {
                return Ok(Err(NotKept::Behind));
            }
        }
        let (name, generation) = (self.name.clone(), self.generation);
        let items = open.iter().map(|(position, (lane, seq))| put_off_item(&name, generation, *position, lane, *seq));
        Ok(if self.write(items.collect()).await? { Ok(last) } else { Err(NotKept::Elsewhere) })
    }

    async fn note_open(
        &mut self,
        known: &Known,
        events: Vec<Logged>,
        open: &mut BTreeMap<u64, (LaneKey, u64)>,
    ) -> Result<bool> {
        let fills = Fills::load(self.store, &known.name, known.fills).await?;
        for Seen { logged, found, .. } in look(self.store, known, &fills, events).await? {
            if matches!(found, Found::Exception | Found::Pending) {
                open.insert(logged.position(), (logged.key.clone(), logged.seq));
            }
        }
        self.goes_on().await
    }

    /// Events up to a position that are exceptions, or wait in a lane that stands at one.
    async fn exceptions(&self, known: &Known, last: u64) -> Result<Vec<Logged>> {
        let table = &self.store.table;
        let (mut lanes, mut keys) = (BTreeSet::new(), Vec::new());
        for partition in [format!("q#{}", known.name), format!("d#{}", known.name)] {
            let (from, to) = ("!".to_owned(), "~".to_owned());
            for item in table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await? {
                let lane = LaneKey::known(item.text("l")?);
                keys.push(Key::event(&lane, item.number("q")?));
                lanes.insert(lane);
            }
        }
        let places = table.get_all(lanes.iter().map(|lane| Key::place(&known.name, lane))).await?;
        let mut events = self.store.logged_at(&keys).await?;
        for lane in &lanes {
            let place = places.get(&Key::place(&known.name, lane)).map(Place::read).transpose()?.unwrap_or_default();
            // What a backfill left to the lane is from before the consumer began.
            let through = if known.fills > 0 { 0 } else { place.seq };
            events.extend(self.store.logged_after(lane, through, OPEN_MAX + 1).await?);
        }
        events.retain(|logged| logged.position() <= last);
        Ok(events)
    }
}

impl Store {
    /// Lets go of a kept state that lacks events up to a position, which are about to go. `false` where they may not go, since
    /// it is being brought along by now.
    pub async fn let_kept_go(&self, known: &Known, through: u64) -> Result<bool> {
        let Some(kept) = &known.kept else { return Ok(true) };
        if !self.lacks(known, kept, through).await? {
            return Ok(true);
        }
        let gone = goes(AGED).only_if("kp = :kept AND attribute_not_exists(bfa)").value(":kept", json(kept)?);
        Ok(self.table.update_once(&Key::consumer(&known.name), gone).await?.is_some())
    }

    /// Whether a kept state lacks events up to a position.
    pub async fn lacks(&self, known: &Known, kept: &Kept, through: u64) -> Result<bool> {
        let fills = Fills::load(self, &known.name, known.fills).await?;
        if kept.position(&fills) < through {
            return Ok(true);
        }
        let lowest = put_off_items(self, &known.name, kept.put_off, 1).await?;
        if lowest.first().map(position_of).transpose()?.is_none_or(|lowest| lowest > through) {
            return Ok(false);
        }
        let (mut lanes, mut positions, mut over) = (Vec::new(), BTreeSet::new(), Vec::new());
        for item in put_off_items(self, &known.name, kept.put_off, OPEN_MAX + 1).await? {
            let position = position_of(&item)?;
            if position <= through {
                lanes.push(Key::event(&LaneKey::known(item.text("l")?), item.number("q")?));
                positions.insert(position);
            }
        }
        for keys in lanes.chunks(BATCH) {
            let there = self.logged_at(keys).await?;
            for seen in look(self, known, &fills, there).await? {
                let position = seen.logged.position();
                if seen.found == Found::Discarded && positions.remove(&position) {
                    over.push(Key::put_off(&known.name, kept.put_off, position));
                }
            }
        }
        // When its event is gone, nobody could tell any more.
        self.table.delete_all(over).await?;
        Ok(!positions.is_empty())
    }

    /// Deletes what is put off beside copies that are no use any more.
    pub async fn clear_put_off(&self, known: &Known) -> Result<()> {
        let (from, to) = (put_off_prefix(COPIES), format!("{}~", put_off_prefix(COPIES + known.copies)));
        let partition = rebuilds_partition(&known.name);
        let spared = [known.kept.as_ref().map(|kept| kept.put_off), known.copying];
        let spared: Vec<String> = spared.into_iter().flatten().map(put_off_prefix).collect();
        let items = self.table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await?;
        let keys = items.iter().map(Item::key).collect::<Result<Vec<_>>>()?;
        let is_past = |key: &Key| !spared.iter().any(|prefix| key.sk.starts_with(prefix));
        self.table.delete_all(keys.into_iter().filter(is_past).collect()).await
    }
}

/// What is kept lacks something for good, if so many events are gone.
pub async fn is_aged(store: &Store, known: &Known, kept: &Kept) -> Result<bool> {
    store.lacks(known, kept, upkeep::gone_through(store).await?).await
}
