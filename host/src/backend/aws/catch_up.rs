//! Makes good what SNS and SQS did not tell a consumer of: it follows the journal through every consumer's places, and what
//! a consumer should have had is brought into the same lanes as what its queue tells of. What comes by both ways is one
//! delivery, because the place in the lane says so.
//!
//! Mostly it follows a minute behind, reads that all is done, and is the net below the queue: for messages that were lost, a
//! queue that was deleted, or one that stood for longer than SQS keeps messages. Where a consumer begins in the past, or
//! hears of a kind anew until SNS knows, it looks close behind, and is the way that these events come. But what is that young
//! may get events still at positions that were looked at: their transaction takes long, or their host's clock is behind. So
//! only what is a minute old is done with, and the rest is looked at once more then.
//!
//! **Invariant**: at and below `after`, everything is done, or its lane stands at an exception or waits for its history.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::first_at;
use super::inbox::{AwsInbox, Work};
use super::item::{Key, LaneKey, number, text};
use super::lane::Logged;
use super::place::Place;
use super::store::Store;
use super::table::{Change, Freshness};
use crate::backend::Result;
use crate::clock::Timestamp;

/// Events read at once.
const BATCH: usize = 256;
/// Close behind, and as the net.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const AUDIT_EVERY: Duration = Duration::from_secs(30);
/// What is younger is left to the queue.
const AUDIT_LAG: Duration = super::journal::LATE_MAX;
/// How long a host has this for itself, unless it says so again.
const CLAIM: Duration = Duration::from_secs(60);

/// The part of the journal that was read last, behind one position and up to another. Consumers look at the same part at
/// the same time, so it is read once for all.
pub type Window = tokio::sync::Mutex<Option<(u64, u64, Arc<[Logged]>)>>;

/// Follows the journal until the inbox ends.
pub async fn run(inbox: Arc<AwsInbox>, store: Arc<Store>, owner: String) {
    let (mut audited, mut ahead, mut claims) = (None, 0, false);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = inbox.ended() => break,
        }
        inbox.look_at_wrong_way();
        if !inbox.is_open() {
            if std::mem::take(&mut claims) {
                give_back(&inbox, &store, &owner).await;
            }
            continue;
        }
        let eager = inbox.known().catch_up.is_eager();
        let to = audited_to(Timestamp::now());
        if !eager && audited == Some(to) {
            continue;
        }
        claims = true;
        match step(&inbox, &store, &owner, to, &mut ahead).await {
            // There may be more.
            Ok(true) => audited = None,
            Ok(false) => audited = Some(to),
            Err(error) if !store.repeats.is_news("follow the journal", inbox.name.as_str(), &error) => {}
            Err(error) => {
                tracing::warn!(consumer = %inbox.name, %error, "the journal cannot be followed; it is tried again");
            }
        }
    }
    if claims {
        give_back(&inbox, &store, &owner).await;
    }
}

/// Another host may follow the journal at once.
async fn give_back(inbox: &AwsInbox, store: &Store, owner: &str) {
    let change = Change::of("SET cut = :zero").only_if("cuo = :owner");
    let change = change.value(":zero", number(0)).value(":owner", text(owner));
    if let Err(error) = store.table.update(&Key::consumer(&inbox.name), change).await {
        tracing::debug!(consumer = %inbox.name, %error, "another host follows the journal when the claim runs out");
    }
}

/// How far an audit goes: the same for every consumer, until the next.
pub fn audited_to(now: Timestamp) -> u64 {
    let since = Duration::from_millis(now.as_millis() % (AUDIT_EVERY.as_secs() * 1_000));
    first_at(now.minus(since + AUDIT_LAG))
}

/// Looks at the next events: those up to `audited`, and notes how far it came; then, where the queue alone does not tell of
/// all, at younger ones, from behind `ahead` on, which moves with it. Whether there may be more at once.
pub async fn step(inbox: &Arc<AwsInbox>, store: &Store, owner: &str, audited: u64, ahead: &mut u64) -> Result<bool> {
    let now = Timestamp::now();
    let key = Key::consumer(&inbox.name);
    let claim = Change::of("SET cuo = :owner, cut = :until")
        .only_if("attribute_exists(cua) AND (attribute_not_exists(cuo) OR cuo = :owner OR cut < :now)")
        .value(":owner", text(owner))
        .value(":until", number(now.plus(CLAIM).as_millis()))
        .value(":now", number(now.as_millis()));
    let Some(item) = store.table.update(&key, claim).await? else { return Ok(false) };
    let at = super::consumers::catch_up(&item)?;
    let settled = super::journal::settled_below(now).saturating_sub(1);
    let looks_ahead = at.after >= audited;
    if looks_ahead && !at.is_eager() {
        return Ok(false);
    }
    let (after, to) = if looks_ahead { (at.after.max(*ahead), settled) } else { (at.after, audited) };
    let events = match at.is_eager() {
        // Each goes its own way.
        true => store.between(after, to, BATCH).await?.into(),
        false => window(store, after, to).await?,
    };
    let more = events.len() == BATCH;
    let last = if more { events.last().map_or(to, Logged::position) } else { to };
    let (known, subscriptions) = (inbox.known(), inbox.subscriptions());
    let wanted = events.iter().filter(|logged| known.wants_by(&subscriptions, logged)).cloned();
    let mut lanes: HashMap<LaneKey, Vec<Work>> = HashMap::new();
    for logged in wanted {
        lanes.entry(logged.key.clone()).or_default().push(Work::new(logged));
    }
    let mut through = open(inbox, store, &lanes).await?;
    if !through.is_empty() {
        lanes.retain(|lane, _| through.contains_key(lane));
        if !at.is_eager() {
            tracing::warn!(consumer = %inbox.name, lanes = lanes.len(), "the queue has not told of events, or they wait for long; they are read from the table");
            inbox.look_at_way();
        }
        inbox.sort_in(lanes).await?;
        inbox.ring();
        left(inbox, &mut through).await;
        // Done, retried, or taken by somebody else: the next look tells.
        return Ok(true);
    }
    if looks_ahead {
        *ahead = last.max(after);
        return Ok(more);
    }
    if last > at.after {
        let change = Change::of("SET cua = :last").only_if("cuo = :owner AND cua = :after");
        let change = change.value(":last", number(last)).value(":owner", text(owner)).value(":after", number(at.after));
        if let Some(item) = store.table.update(&key, change).await? {
            inbox.learn_catch_up(super::consumers::catch_up(&item)?);
        }
    }
    Ok(more || at.is_eager())
}

/// The first [`BATCH`] events behind a position, up to and with another.
async fn window(store: &Store, after: u64, to: u64) -> Result<Arc<[Logged]>> {
    let mut window = store.window.lock().await;
    match &*window {
        Some((from, until, events)) if (*from, *until) == (after, to) => Ok(Arc::clone(events)),
        _ => {
            let events: Arc<[Logged]> = store.between(after, to, BATCH).await?.into();
            *window = Some((after, to, Arc::clone(&events)));
            Ok(events)
        }
    }
}

/// Waits until memory has these events no more, for a while.
async fn left(inbox: &AwsInbox, lanes: &mut HashMap<LaneKey, u64>) {
    let deadline = Instant::now() + CLAIM / 2;
    loop {
        lanes.retain(|lane, seq| inbox.has_in_memory(lane, *seq));
        if lanes.is_empty() || Instant::now() > deadline {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lanes with events that the consumer is not through with and that stand behind no exception, and the last of these.
async fn open(inbox: &AwsInbox, store: &Store, lanes: &HashMap<LaneKey, Vec<Work>>) -> Result<HashMap<LaneKey, u64>> {
    let last = |works: &Vec<Work>| works.iter().map(|work| work.logged.seq).max().unwrap_or_default();
    let mut open: HashMap<LaneKey, u64> = lanes.iter().map(|(lane, works)| (lane.clone(), last(works))).collect();
    // Mostly all is done, and a cheap look shows it; what it may have missed, the second one does not.
    for freshness in [Freshness::Eventual, Freshness::Latest] {
        let places = store.table.get_all_as(freshness, open.keys().map(|lane| Key::place(&inbox.name, lane))).await?;
        let mut still = HashMap::new();
        for (lane, last) in open {
            let place = places.get(&Key::place(&inbox.name, &lane));
            let place = place.map_or_else(|| Ok(Place::default()), Place::read)?;
            if place.seq < last && !place.is_parked() {
                still.insert(lane, last);
            }
        }
        open = still;
    }
    if !open.is_empty() && !inbox.fills().all.is_empty() {
        // What waits for its history has an item that stands for its lane.
        let dues = store.table.get_all(open.keys().map(|lane| Key::due(&inbox.name, lane))).await?;
        for (Key { sk, .. }, _) in dues.into_iter().filter(|(_, due)| super::due::is_held(due)) {
            open.remove(&LaneKey::known(sk));
        }
    }
    Ok(open)
}
