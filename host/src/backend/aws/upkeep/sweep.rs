//! Lets go of events and orders that are old, one host at a time.
//!
//! The index by position is the list of what is kept, so a round begins at its oldest entry and has nothing to remember.
//! Between two batches, several times as long as one took belongs to others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::lanes::{Letting, Old};
use super::needs::{Limits, last_old, limits};
use crate::backend::aws::clock::{first_at, time_of};
use crate::backend::aws::item::{Item, Key, LaneKey, json, number, text};
use crate::backend::aws::lane::{OLD_ORDERS, place_of};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Indexed};
use crate::backend::{Held, HeldBy, Keep, Result, Retention};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// Between two rounds, unless what is kept for the shortest time asks for more.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);
/// How long a host has this for itself, unless it says so again.
const CLAIM: Duration = Duration::from_secs(30);
/// Events of one batch.
const BATCH: usize = 200;
/// Lanes at once.
const LANES_MAX: usize = 8;
/// After a batch, this many times as long belongs to others.
const SHARE: u32 = 2;
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Orders without events that are looked at in one round.
const ORDERS_MAX: usize = 500;
/// Events held back that are counted.
const HELD_MAX: usize = 2_000;

/// Lets go of what `store.retention` says, until the store is closed.
pub async fn run(store: Arc<Store>) {
    let owner = uuid::Uuid::now_v7().to_string();
    let mut orders_after = 0;
    loop {
        let retention = *store.retention.lock();
        tokio::select! {
            () = tokio::time::sleep(look_every(&retention)) => {}
            () = store.retained.notified() => {}
            () = store.stopping.cancelled() => return,
        }
        round(&store, &owner, &mut orders_after, store.stopping.cancelled()).await;
        if store.stopping.is_cancelled() {
            return;
        }
    }
}

/// Lets go of what is old by now, unless `over` comes before: what is half done is found again.
pub async fn round(store: &Store, owner: &str, orders_after: &mut u64, over: impl Future<Output = ()>) {
    let retention = *store.retention.lock();
    let round = Round { store, owner, retention };
    let done = tokio::select! {
        done = Box::pin(round.run(orders_after)) => done,
        () = over => Ok(()),
    };
    if let Err(error) = done
        && store.repeats.is_news("let go of what is old", "", &error)
    {
        tracing::warn!(%error, "what is old stays for now");
    }
    if let Err(error) = round.give_back().await {
        tracing::debug!(%error, "no other host lets go of what is old for a while");
    }
}

/// Up to which position events may have gone by age.
pub async fn gone_through(store: &Store) -> Result<u64> {
    let item = store.table.get(&Key::upkeep()).await?;
    Ok(item.map(|item| item.number_or_none("gone")).transpose()?.flatten().unwrap_or_default())
}

/// What holds events back, as whoever let go of some last found it.
pub async fn held(store: &Store) -> Result<Option<Held>> {
    if store.retention.lock().events == Keep::Forever {
        return Ok(None);
    }
    let item = store.table.get(&Key::upkeep()).await?;
    item.map_or(Ok(None), |item| read_held(&item))
}

/// Consumer, reason, events, and since when in ms.
type Said = (ConsumerName, String, u64, u64);

fn read_held(item: &Item) -> Result<Option<Held>> {
    let said: Option<Said> = item.json_or_none("hb")?;
    Ok(said.map(|(by, reason, events, since)| {
        let reason = match reason.as_str() {
            "delivery" => HeldBy::Delivery,
            "backfill" => HeldBy::Backfill,
            _ => HeldBy::Position,
        };
        Held { by, reason, events, since: Timestamp::from_millis(since) }
    }))
}

struct Round<'a> {
    store: &'a Store,
    owner: &'a str,
    retention: Retention,
}

impl Round<'_> {
    async fn run(&self, orders_after: &mut u64) -> Result<()> {
        let Some(cutoff) = self.retention.events.cutoff(Timestamp::now()) else { return Ok(()) };
        loop {
            if !self.claim().await? {
                return Ok(());
            }
            let began = Instant::now();
            let old = last_old(self.store, cutoff).await?;
            let mut keys = self.store.log(0, old, false, BATCH).await?;
            let limits = limits(self.store, old).await?;
            keys.retain(|(_, position)| *position <= limits.last);
            if let Some((_, last)) = keys.last() {
                for known in &limits.consumers {
                    if !self.store.let_kept_go(known, *last).await? {
                        // It is being brought along by now, and needs them.
                        return Ok(());
                    }
                }
                self.note_gone(*last).await?;
            }
            let letting = self.letting(&limits);
            let lanes = stream::iter(old_lanes(&keys)?).map(|old| {
                let letting = &letting;
                async move { letting.events(&old).await }
            });
            lanes.buffer_unordered(LANES_MAX).try_collect::<()>().await?;
            if keys.len() < BATCH {
                self.note_held(&limits).await?;
                return self.orders(&letting, orders_after).await;
            }
            tokio::time::sleep((began.elapsed() * SHARE).min(PAUSE_MAX)).await;
        }
    }

    fn letting<'l>(&'l self, limits: &'l Limits) -> Letting<'l> {
        let Self { store, retention, .. } = *self;
        Letting { store, consumers: &limits.consumers, retention, now: Timestamp::now() }
    }

    /// Orders whose events went before: some of them in each round, since those that stay are looked at again and again.
    async fn orders(&self, letting: &Letting<'_>, after: &mut u64) -> Result<()> {
        let ended = self.retention.orders.cutoff(letting.now);
        let open = self.retention.open_orders.cutoff(letting.now);
        let Some(cutoff) = ended.max(open) else { return Ok(()) };
        let (partition, to) = (OLD_ORDERS.into(), first_at(cutoff).saturating_sub(1));
        let found = Indexed { partition, from: *after + 1, to, newest_first: false, limit: ORDERS_MAX };
        let found = self.store.table.indexed(found).await?;
        *after = found.last().filter(|_| found.len() == ORDERS_MAX).map_or(0, |(_, position)| *position);
        let orders = stream::iter(old_lanes(&found)?).map(|old| async move { letting.order(&old.lane).await });
        orders.buffer_unordered(LANES_MAX).try_collect().await
    }

    /// Whether this host lets go of what is old, and no other.
    async fn claim(&self) -> Result<bool> {
        let now = Timestamp::now();
        let claim = Change::of("SET own = :owner, cl = :to")
            .only_if("attribute_not_exists(own) OR own = :owner OR cl < :now")
            .value(":owner", text(self.owner))
            .value(":to", number(now.plus(CLAIM).as_millis()))
            .value(":now", number(now.as_millis()));
        Ok(self.store.table.update(&Key::upkeep(), claim).await?.is_some())
    }

    /// Says, before they go, up to which position events may be gone: what is missing behind it was lost.
    async fn note_gone(&self, last: u64) -> Result<()> {
        let change = Change::of("SET gone = :last").only_if("attribute_not_exists(gone) OR gone < :last");
        self.store.table.update(&Key::upkeep(), change.value(":last", number(last))).await.map(drop)
    }

    /// Another host may do it next.
    async fn give_back(&self) -> Result<()> {
        if self.retention.events == Keep::Forever {
            return Ok(());
        }
        let change = Change::of("SET cl = :zero").only_if("own = :owner");
        let change = change.value(":zero", number(0)).value(":owner", text(self.owner));
        self.store.table.update(&Key::upkeep(), change).await.map(drop)
    }

    /// Writes down who keeps events that are old enough to go, where that has changed.
    async fn note_held(&self, limits: &Limits) -> Result<()> {
        let held = self.who_holds(limits).await?;
        let before = match self.store.table.get(&Key::upkeep()).await? {
            Some(item) => read_held(&item)?,
            None => None,
        };
        if held == before {
            return Ok(());
        }
        let by = |held: &Option<Held>| held.as_ref().map(|held| (held.by.clone(), held.reason));
        if by(&held) != by(&before) {
            match &held {
                Some(Held { by, reason, events, since }) => tracing::warn!(
                    consumer = %by, events, %since, "events that are old enough to go stay for this consumer: {}", reason.advice()
                ),
                None => tracing::info!("nothing keeps old events any more"),
            }
        }
        let change = match held {
            Some(Held { by, reason, events, since }) => {
                let reason = match reason {
                    HeldBy::Position => "position",
                    HeldBy::Delivery => "delivery",
                    HeldBy::Backfill => "backfill",
                };
                let said: Said = (by, reason.to_owned(), events, since.as_millis());
                Change::of("SET hb = :hb").value(":hb", json(&said)?)
            }
            None => Change::of("REMOVE hb"),
        };
        let change = change.only_if("own = :owner").value(":owner", text(self.owner));
        self.store.table.update(&Key::upkeep(), change).await.map(drop)
    }

    async fn who_holds(&self, limits: &Limits) -> Result<Option<Held>> {
        let Limits { last, old, by: Some((by, reason)), .. } = limits else { return Ok(None) };
        let found = self.store.log(last + 1, *old, false, HELD_MAX).await?;
        let events = u64::try_from(found.len()).unwrap_or(u64::MAX);
        let held = |(_, first): &(Key, u64)| Held { by: by.clone(), reason: *reason, events, since: time_of(*first) };
        Ok(found.first().map(held))
    }
}

/// By lane. What the index names of one is its first events, in their order.
pub fn old_lanes(keys: &[(Key, u64)]) -> Result<Vec<Old>> {
    let mut lanes: BTreeMap<LaneKey, (u64, u64)> = BTreeMap::new();
    for (key, _) in keys {
        let (lane, seq) = place_of(&Item::at(key))?;
        let (first, last) = lanes.entry(lane).or_insert((seq, seq));
        (*first, *last) = ((*first).min(seq), (*last).max(seq));
    }
    Ok(lanes.into_iter().map(|(lane, (first, last))| Old { lane, first, last }).collect())
}

/// Often enough that nothing stays for much longer than it should.
fn look_every(retention: &Retention) -> Duration {
    let Retention { events, orders, open_orders, .. } = *retention;
    let times = [events, orders, open_orders].into_iter().filter_map(|keep| match keep {
        Keep::For(time) => Some(time),
        Keep::Forever => None,
    });
    times.min().map_or(LOOK_EVERY_MAX, |time| (time / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX))
}
