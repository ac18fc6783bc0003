//! Up to which position events may go, and who needs the one behind.

use std::collections::HashMap;

use crate::backend::aws::backfills::{Fills, position_of, put_off_items};
use crate::backend::aws::clock::first_at;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::item::{Item, Key, LaneKey};
use crate::backend::aws::journal::{POSITION_MAX, settled_below};
use crate::backend::aws::lane::Logged;
use crate::backend::aws::place::Place;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Span;
use crate::backend::{BackfillState, HeldBy, Result};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// Events looked at one by one behind what is known to be done of a consumer; the next round goes on.
const WALK_MAX: usize = 2_000;
const WALK_BATCH: usize = 200;
/// Deliveries that are due. Where a consumer has more, nothing goes until they are fewer.
const DUE_MAX: usize = 1_000;

/// How far events may go.
#[derive(Debug)]
pub struct Limits {
    /// The last position that may go.
    pub last: u64,
    /// The last one that is old enough.
    pub old: u64,
    pub by: Option<(ConsumerName, HeldBy)>,
    pub consumers: Vec<Known>,
}

impl Limits {
    fn lower(&mut self, first_needed: Option<u64>, name: &ConsumerName, by: HeldBy) {
        let last = first_needed.map(|first| first.saturating_sub(1));
        if let Some(last) = last.filter(|last| *last < self.last) {
            (self.last, self.by) = (last, Some((name.clone(), by)));
        }
    }
}

/// The last position that is old enough. The newest event stays.
pub async fn last_old(store: &Store, cutoff: Timestamp) -> Result<u64> {
    let newest = store.log(0, POSITION_MAX, true, 1).await?.first().map_or(0, |(_, position)| *position);
    Ok(first_at(cutoff).min(settled_below(Timestamp::now())).min(newest).saturating_sub(1))
}

/// Whatever a known consumer needs stays, with all that follows it. Only what was in the index before may go by this: what
/// comes later, at an older position, was not asked about.
pub async fn limits(store: &Store, old: u64) -> Result<Limits> {
    let consumers = store.known().await?;
    let mut limits = Limits { last: old, old, by: None, consumers: Vec::new() };
    for known in &consumers {
        limits.lower(first_open(store, known, limits.last).await?, &known.name, HeldBy::Position);
        let first_exception = first_exception(store, &known.name).await?;
        limits.lower(first_exception, &known.name, HeldBy::Delivery);
        let fills = Fills::load(store, &known.name, known.fills).await?;
        for fill in &fills.all {
            // What was left to lanes that stood at exceptions may be there as long as there are any.
            let left = fill.left.filter(|_| first_exception.is_some() && fill.state != BackfillState::Cancelled);
            limits.lower(left, &known.name, HeldBy::Delivery);
            let ahead = fill.is_under_way().then_some(fill.position + 1);
            limits.lower(ahead, &known.name, HeldBy::Backfill);
            if fill.is_under_way() && fill.is_rebuild() {
                // Read behind the cursor, which moves on in the transaction that puts one off.
                let put_off = put_off_items(store, &known.name, fill.put_off(), 1).await?;
                let first = put_off.first().map(position_of).transpose()?;
                limits.lower(first, &known.name, HeldBy::Backfill);
            }
        }
    }
    Ok(Limits { consumers, ..limits })
}

/// The first event up to `last` that the consumer is not through with, and that is no exception.
async fn first_open(store: &Store, known: &Known, last: u64) -> Result<Option<u64>> {
    let mut after = known.catch_up.after;
    let mut walked = 0;
    while after < last {
        if walked >= WALK_MAX {
            return Ok(Some(after + 1));
        }
        let events = store.between(after, last, WALK_BATCH).await?;
        let places = events.iter().map(|logged| Key::place(&known.name, &logged.key));
        let places = store.table.get_all(places).await?;
        for logged in &events {
            let place = places.get(&Key::place(&known.name, &logged.key)).map(Place::read).transpose()?;
            if !is_through(store, known, &place.unwrap_or_default(), logged) {
                return Ok(Some(logged.position()));
            }
        }
        walked += events.len();
        match events.last().filter(|_| events.len() == WALK_BATCH) {
            Some(last) => after = last.position(),
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Done, behind an exception, or never to be delivered.
fn is_through(store: &Store, known: &Known, place: &Place, logged: &Logged) -> bool {
    logged.seq <= place.seq || place.is_parked() || (known.passed_by(logged) && !store.wants(known, logged))
}

/// The first event that is a dead letter, or of a delivery that is due at a time.
async fn first_exception(store: &Store, name: &ConsumerName) -> Result<Option<u64>> {
    // A letter that is retried leaves the one and comes to the other: looked at before and behind, it is found.
    let before = first_due(store, name).await?;
    let letter = Span { limit: 1, ..partition(format!("d#{name}")) };
    let letter = store.table.query(letter).await?.first().map(|item| item.parse::<u64>("sk")).transpose()?;
    let behind = first_due(store, name).await?;
    Ok([before, letter, behind].into_iter().flatten().min())
}

async fn first_due(store: &Store, name: &ConsumerName) -> Result<Option<u64>> {
    let due = Span { limit: DUE_MAX + 1, ..partition(format!("q#{name}")) };
    let due = store.table.query(due).await?;
    if due.len() > DUE_MAX {
        return Ok(Some(1));
    }
    let event = |item: &Item| Ok(Key::event(&LaneKey::known(item.text("l")?), item.number("q")?));
    let keys = due.iter().map(event).collect::<Result<Vec<_>>>()?;
    let events: HashMap<Key, Item> = store.table.get_all(keys).await?;
    let positions = events.values().map(|event| event.number("pos")).collect::<Result<Vec<u64>>>()?;
    Ok(positions.into_iter().min())
}

fn partition(partition: String) -> Span {
    Span { partition, from: "!".into(), to: "~".into(), newest_first: false, limit: usize::MAX }
}
