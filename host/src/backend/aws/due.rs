//! Deliveries that are due at a time: retries, what a person made deliverable again, and lanes to look at once more.
//!
//! Each is an item of its own, written in the transaction that made it due, and found over the index by time. Whoever takes
//! it up moves it [`CLAIM`] ahead, so that it comes back if that host dies; it is deleted when the lane has nothing left.
//! Messages of SQS need not wait for any of this: while an item stands for a lane, the lane is read from the table.
//!
//! One that stands for a lane whose live events wait for its history ([`hold`]) is due when somebody says so ([`release`]).

use std::time::Duration;

use super::item::{Item, Key, LaneKey, number, text};
use super::journal::POSITION_MAX;
use super::place::{from_backfill, with_backfill};
use super::store::Store;
use super::table::{Change, Indexed};
use crate::backend::{FromBackfill, Result};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// How long whoever took a delivery up has it for himself, unless he says so again.
pub const CLAIM: Duration = Duration::from_secs(30);

/// A delivery that is due, taken up.
#[derive(Clone, Debug)]
pub struct Due {
    pub key: Key,
    pub lane: LaneKey,
    pub seq: u64,
    /// A dead letter whose lane went on without it.
    pub stray: bool,
    pub attempts: u32,
    pub first_at: Option<Timestamp>,
    /// Of a stray one: the backfill that brought it.
    pub from: Option<FromBackfill>,
    /// Of this very claim.
    pub ver: u64,
}

impl Key {
    /// Of a dead letter whose lane went on without it.
    pub fn stray(name: &ConsumerName, lane: &LaneKey, seq: u64) -> Self {
        let Self { pk, sk } = Self::due(name, lane);
        Self { pk, sk: format!("{sk}!{seq:010}") }
    }
}

pub fn partition(name: &str) -> String {
    format!("due#{name}")
}

/// Of the index: lanes that wait for their history, by since when.
pub fn held_partition(name: &str) -> String {
    format!("held#{name}")
}

/// Another number than any before.
fn version() -> u64 {
    fastrand::u64(1..1 << 53)
}

pub fn item(key: &Key, lane: &LaneKey, seq: u64, at: Timestamp) -> Item {
    let name = key.pk.strip_prefix("q#").unwrap_or(&key.pk);
    Item::at(key)
        .with("l", text(lane.as_str()))
        .with("q", number(seq))
        .with("ver", number(version()))
        .with("lp", text(partition(name)))
        .with("ls", number(at.as_millis()))
}

/// The item of a dead letter whose lane went on, to be tried.
pub fn stray(name: &ConsumerName, lane: &LaneKey, seq: u64, from: Option<FromBackfill>, at: Timestamp) -> Item {
    with_backfill(item(&Key::stray(name, lane, seq), lane, seq, at).with("stray", number(1)), from)
}

/// Due again at `at`, where it is still claimed as `ver`.
pub fn again(at: Timestamp, attempts: u32, first_at: Timestamp, ver: u64) -> Change {
    Change::of("SET ls = :at, att = :att, fa = :fa, ver = :new")
        .only_if("ver = :ver")
        .value(":at", number(at.as_millis()))
        .value(":att", number(attempts))
        .value(":fa", number(first_at.as_millis()))
        .value(":new", number(version()))
        .value(":ver", number(ver))
}

/// Takes up what is due, at most `limit`. What was taken up before something failed is not lost over it.
pub async fn take(store: &Store, name: &ConsumerName, limit: usize) -> Result<Vec<Due>> {
    let now = Timestamp::now().as_millis();
    let found = Indexed { partition: partition(name.as_str()), from: 0, to: now, newest_first: false, limit };
    let mut taken = Vec::new();
    for (key, _) in store.table.indexed(found).await? {
        match claim(store, &key).await {
            Ok(due) => taken.extend(due),
            Err(error) if taken.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(consumer = %name, %error, "not all that is due can be taken up; the rest is looked for again");
                break;
            }
        }
    }
    Ok(taken)
}

/// When the next one is due.
pub async fn next(store: &Store, name: &ConsumerName) -> Result<Option<Timestamp>> {
    next_in(store, partition(name.as_str())).await
}

/// When the first one of a partition of the index is due.
pub async fn next_in(store: &Store, partition: String) -> Result<Option<Timestamp>> {
    let first = Indexed { partition, from: 0, to: POSITION_MAX, newest_first: false, limit: 1 };
    Ok(store.table.indexed(first).await?.first().map(|(_, at)| Timestamp::from_millis(*at)))
}

/// Takes one up, if it is due and nobody else was quicker.
async fn claim(store: &Store, key: &Key) -> Result<Option<Due>> {
    let now = Timestamp::now();
    // Where the answer was lost, it is ours when it is asked for again.
    let change = Change::of("SET ls = :until, ver = :ver").only_if("ls <= :now OR ver = :ver");
    let change = change
        .value(":until", number(now.plus(CLAIM).as_millis()))
        .value(":now", number(now.as_millis()))
        .value(":ver", number(version()));
    let Some(item) = store.table.update(key, change).await? else { return Ok(None) };
    Ok(Some(Due {
        key: key.clone(),
        lane: LaneKey::known(item.text("l")?),
        seq: item.number("q")?,
        stray: item.number_or_none::<u8>("stray")?.is_some(),
        attempts: item.number_or_none("att")?.unwrap_or_default(),
        first_at: item.time_or_none("fa")?,
        from: from_backfill(&item)?,
        ver: item.number("ver")?,
    }))
}

/// Whoever has taken it up settles it no more: it comes back when the claim runs out.
pub async fn disown(store: &Store, key: &Key) -> Result<()> {
    let change = Change::of("SET ver = :ver").only_if("attribute_exists(pk)").value(":ver", number(version()));
    store.table.update(key, change).await.map(drop)
}

/// Nobody else takes it up before `at`, where it is still ours: to keep it, or to give it back.
pub async fn claim_until(store: &Store, due: &Due, at: Timestamp) -> Result<()> {
    let change = Change::of("SET ls = :at").only_if("ver = :ver");
    let change = change.value(":at", number(at.as_millis())).value(":ver", number(due.ver));
    store.table.update(&due.key, change).await.map(drop)
}

/// Nothing is left to do, unless it became due anew.
pub async fn done(store: &Store, due: &Due) -> Result<()> {
    let mut transaction = super::table::Transaction::default();
    let ours = Change::default().only_if("ver = :ver").value(":ver", number(due.ver));
    transaction.delete((), due.key.clone(), ours);
    store.table.transact(transaction).await.map(drop)
}

/// Whether the item stands for a lane that waits for its history.
pub fn is_held(item: &Item) -> bool {
    item.number_or_none::<u8>("held").is_ok_and(|held| held.is_some())
}

/// The lane waits for its history from now on, or is due at once. `false` where something stood for it before.
pub async fn stand_for(store: &Store, name: &ConsumerName, lane: &LaneKey, seq: u64, waits: bool) -> Result<bool> {
    let key = Key::due(name, lane);
    let mut set = "SET l = :l, q = :q, ver = :ver, lp = :lp, ls = :ls".to_owned();
    let mut change = Change::default();
    if waits {
        set += ", held = :one";
        change = change.value(":one", number(1));
    }
    let partition = if waits { held_partition(name.as_str()) } else { partition(name.as_str()) };
    // Made once more, it stands for a lane that has nothing to wait for, which whoever looks finds out.
    let change = change
        .update(set)
        .only_if("attribute_not_exists(pk) OR ver = :ver")
        .value(":l", text(lane.as_str()))
        .value(":q", number(seq))
        .value(":ver", number(version()))
        .value(":lp", text(partition))
        .value(":ls", number(Timestamp::now().as_millis()));
    Ok(store.table.update(&key, change).await?.is_some())
}

/// What was taken up waits for the history of its lane.
pub async fn hold(store: &Store, name: &ConsumerName, due: &Due) -> Result<()> {
    let change = Change::of("SET held = :one, lp = :lp, ls = :ls").only_if("ver = :ver");
    let change = change
        .value(":one", number(1))
        .value(":lp", text(held_partition(name.as_str())))
        .value(":ls", number(Timestamp::now().as_millis()))
        .value(":ver", number(due.ver));
    store.table.update(&due.key, change).await.map(drop)
}

/// The lane waits no longer.
pub async fn release(store: &Store, name: &ConsumerName, key: &Key) -> Result<()> {
    let change = Change::of("SET lp = :lp, ls = :ls, ver = :ver REMOVE held").only_if("attribute_exists(held)");
    let change = change
        .value(":lp", text(partition(name.as_str())))
        .value(":ls", number(Timestamp::now().as_millis()))
        .value(":ver", number(version()));
    store.table.update(key, change).await.map(drop)
}

/// Lanes that wait for their history, at most `limit`: what stands for each. The index may not have the newest yet.
pub async fn held(store: &Store, name: &ConsumerName, limit: usize) -> Result<Vec<Key>> {
    let partition = held_partition(name.as_str());
    let held = Indexed { partition, from: 0, to: POSITION_MAX, newest_first: false, limit };
    Ok(store.table.indexed(held).await?.into_iter().map(|(key, _)| key).collect())
}
