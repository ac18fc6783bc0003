//! What a rebuild has handled and not written yet.
//!
//! Nobody but the host that goes through a rebuild writes to the generation that it fills. So what it handled may wait for what it
//! handles next: a handler is answered from memory first, and the end of its delivery is *staged*, until the batch is full, the
//! table is to be asked, or nothing else comes at once. Then all of it is one transaction with the cursor, on the condition that
//! what was read of the table holds.
//!
//! **Invariants**
//! - What is staged is lost where its write is refused, or nobody knows how that ended. The cursor says what is handled again.
//! - The end of a delivery is staged in the batch that it saw, and nowhere else.

mod ahead;
#[cfg(test)]
mod fixture;
mod staged;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use parking_lot::Mutex;

use self::ahead::{Ahead, Stands};
use self::staged::Staged;
use super::{Again, AwsView};
use crate::backend::aws::item::LaneKey;
use crate::backend::aws::lane::Tail;
use crate::backend::aws::place::Place;
use crate::backend::aws::settle::{Committer, Settled};
use crate::backend::aws::store::Store;
use crate::backend::aws::weight::Weight;
use crate::backend::{Error, Lease, Result, View};
use crate::effects::{Effects, Reads, Value};
use crate::event::Lane;
use crate::fault::{self, Point};
use crate::order::{Order, OrderId};
use crate::policy::ConsumerName;

/// How long the first of a batch waits for others.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// What is remembered of the state beneath, and what one part of it takes beside key and value.
const KNOWN_BYTES_MAX: usize = 8 << 20;
const EACH: usize = 64;
/// From more than this that were written together on, what was refused once is forgotten.
const MANY_MAX: usize = 64;

/// The batch of the rebuild that this host goes through.
pub struct Batches {
    store: Arc<Store>,
    committer: Arc<Committer>,
    name: ConsumerName,
    current: tokio::sync::Mutex<Current>,
    weight: Mutex<WeightAgain>,
}

#[derive(Default)]
struct Current {
    /// As who this host goes through the rebuild; `None` where it does not know how the last write ended.
    owner: Option<String>,
    staged: Staged,
    known: Known,
    /// No more than so many go together, since more were refused; 0 where none were.
    many_max: usize,
    /// Nobody comes to write what is staged.
    at_once: bool,
}

/// Parts of the generation, as they are with what is staged.
#[derive(Default)]
struct Known {
    entries: HashMap<Arc<str>, Value>,
    counters: HashMap<Arc<str>, i64>,
    bytes: usize,
    /// Orders, as the handlers of this batch are told.
    orders: HashMap<OrderId, Stands>,
    ahead: Ahead,
}

/// What the generation weighs that a rebuild fills, by the word of whoever had delivered so much of it.
#[derive(Default)]
struct WeightAgain {
    rebuild: i64,
    /// `None` where it may weigh what was lost, too.
    delivered: Option<u64>,
    weight: Arc<Weight>,
}

impl Batches {
    pub fn new(store: &Arc<Store>, committer: &Arc<Committer>, name: &ConsumerName) -> Arc<Self> {
        let (store, committer, name) = (Arc::clone(store), Arc::clone(committer), name.clone());
        let (current, weight) = (tokio::sync::Mutex::default(), Mutex::default());
        Arc::new(Self { store, committer, name, current, weight })
    }

    /// This host goes through the rebuild as `owner` from now on.
    pub async fn begin(&self, owner: &str) {
        let mut current = self.current.lock().await;
        if !current.staged.is_empty() {
            self.weight.lock().delivered = None;
        }
        *current = Current { owner: Some(owner.to_owned()), many_max: current.many_max, ..Current::default() };
    }

    /// These are the orders of the events that come next.
    pub async fn look_ahead(&self, orders: impl Iterator<Item = OrderId>) {
        self.current.lock().await.known.ahead.look(orders);
    }

    /// Writes what is staged. What is handled still is written as it ends.
    pub async fn end(&self) {
        let mut current = self.current.lock().await;
        if let Err(error) = self.write_now(&mut current).await {
            tracing::debug!(consumer = %self.name, %error, "what a rebuild handled is handled again, unless it was written");
        }
        current.at_once = true;
    }

    /// Takes the end of a delivery, which counts once it is [written](Self::write); or writes it, where it has to go alone.
    pub async fn stage(&self, again: &Again, reads: &Reads, effects: &Effects, dropped: u64) -> Result<Settled> {
        let mut current = self.current.lock().await;
        let is_own = current.owner.as_ref() == Some(&again.owner);
        let one = Staged::of(again, reads, effects, dropped);
        let is_alone = current.at_once || current.many_max == 1 || one.is_large();
        let is_full = current.many_max > 0 && current.staged.events() >= current.many_max;
        let has_room = !is_alone && !is_full && current.staged.takes(&one);
        if !is_own || (!has_room && !self.write_now(&mut current).await?) {
            return Ok(Settled::Elsewhere);
        }
        if !is_alone {
            current.staged.add(one);
            current.known.take(effects);
            return Ok(Settled::Written(Place::default()));
        }
        // Where it is not written, something of what is known may be why; and who stops here does not know.
        let mut known = std::mem::take(&mut current.known);
        let settled = self.commit(&one, &known).await;
        if let Ok(Settled::Written(_)) = settled {
            known.take(effects);
            known.orders.clear();
            current.known = known;
            current.take_more();
        }
        settled
    }

    /// Writes what is staged: `false` where that is lost, or was before.
    pub async fn write(&self) -> Result<bool> {
        self.write_now(&mut *self.current.lock().await).await
    }

    /// The same, where it has waited for long enough.
    pub async fn write_if_due(&self) -> Result<bool> {
        let mut current = self.current.lock().await;
        match current.staged.age() > WAIT_MAX {
            true => self.write_now(&mut current).await,
            false => Ok(current.owner.is_some()),
        }
    }

    async fn write_now(&self, current: &mut Current) -> Result<bool> {
        if current.staged.is_empty() {
            return Ok(current.owner.is_some());
        }
        // Whoever stops in the middle of it does not know how it ends.
        let Current { owner, staged, mut known, many_max, at_once } = std::mem::take(current);
        let settled = self.commit(&staged, &known).await;
        if let Ok(Settled::Written(_)) = settled {
            if known.bytes > KNOWN_BYTES_MAX {
                known = Known::default();
            }
            known.orders.clear();
            *current = Current { owner, known, many_max, at_once, ..Current::default() };
            current.take_more();
            return Ok(true);
        }
        self.weight.lock().delivered = None;
        // Mostly something has gone on meanwhile, and is asked for anew; what is refused all the same is found by itself.
        if matches!(settled, Ok(Settled::Conflict) | Err(Error::Failed(_))) {
            current.many_max = (staged.events() / 2).max(1);
        }
        settled.map(|_| false)
    }

    async fn commit(&self, staged: &Staged, known: &Known) -> Result<Settled> {
        let delivered = self.weight.lock().delivered.take();
        let settled = Box::pin(staged.commit(&self.store, &self.committer, &self.name, known.tails())).await?;
        let is_written = matches!(settled, Settled::Written(_));
        let more = if is_written { staged.events() as u64 } else { 0 };
        self.weight.lock().delivered = delivered.map(|delivered| delivered + more);
        if is_written {
            fault::pass(Point::RebuildHandled);
        }
        Ok(settled)
    }

    /// What the generation weighs that a rebuild fills.
    pub fn weight_of(&self, rebuild: i64) -> Arc<Weight> {
        let mut own = self.weight.lock();
        if own.rebuild != rebuild {
            *own = WeightAgain { rebuild, delivered: Some(0), ..WeightAgain::default() };
        }
        Arc::clone(&own.weight)
    }

    /// The same, to be told to whoever goes on: when how much was delivered, and what it weighed.
    pub fn weighs(&self, rebuild: i64) -> Option<(u64, i64)> {
        let own = self.weight.lock();
        let bytes = own.weight.bytes().filter(|_| own.rebuild == rebuild)?;
        Some((own.delivered?, bytes.max(0)))
    }

    /// A rebuild is this host's when so much is delivered. Where others did some of it, they `told` what the generation weighs, or
    /// it is to be weighed.
    pub fn take_weight(&self, (rebuild, generation): (i64, i64), delivered: u64, told: Option<i64>) {
        let mut own = self.weight.lock();
        let delivered = Some(delivered);
        if (own.rebuild, own.delivered) != (rebuild, delivered) {
            *own = WeightAgain { rebuild, delivered, weight: Arc::new(Weight::told_of(generation, told)) };
        }
    }
}

impl Current {
    /// What was written is no reason to hold others back.
    fn take_more(&mut self) {
        self.many_max = if self.many_max > MANY_MAX { 0 } else { 2 * self.many_max };
    }
}

impl Known {
    fn take(&mut self, effects: &Effects) {
        for (key, value) in &effects.entries {
            self.take_entry(key, value.clone());
        }
        for adjustment in &effects.adjustments {
            // One that is not known is asked of the table, and has what is staged added.
            if let Some(value) = self.counters.get_mut(&adjustment.key) {
                *value = value.wrapping_add(adjustment.by);
            }
        }
    }

    fn take_entry(&mut self, key: &Arc<str>, value: Value) {
        self.bytes += EACH + key.len() + value.as_ref().map_or(0, |value| value.len());
        self.entries.insert(Arc::clone(key), value);
    }

    fn tails(&self) -> HashMap<LaneKey, Tail> {
        self.orders.iter().map(|(id, (_, tail))| (LaneKey::of(&Lane::Order(*id)), tail.clone())).collect()
    }

    fn take_counter(&mut self, key: &str, value: i64) {
        self.bytes += EACH + key.len();
        self.counters.insert(key.into(), value);
    }
}

/// What a delivery of a rebuild sees: what is staged, and beneath that the table.
pub struct BatchView {
    pub batches: Arc<Batches>,
    pub table: AwsView,
    /// Who offered it. As long as that is who goes on, what is staged is beneath it.
    pub owner: Option<String>,
}

impl BatchView {
    fn sees(&self, current: &Current) -> bool {
        self.owner.is_some() && self.owner == current.owner
    }

    /// Whatever comes now asks the table.
    async fn written(&self) -> Result<()> {
        let mut current = self.batches.current.lock().await;
        if !self.sees(&current) || self.batches.write_now(&mut current).await? {
            return Ok(());
        }
        Err(Error::Unavailable("what it was told is not so any more".into()))
    }
}

#[async_trait]
impl View for BatchView {
    async fn get(&self, key: &str) -> Result<Value> {
        let mut current = self.batches.current.lock().await;
        if !self.sees(&current) {
            return self.table.get(key).await;
        }
        if let Some(value) = current.known.entries.get(key) {
            return Ok(value.clone());
        }
        let value = self.table.get(key).await?;
        current.known.take_entry(&key.into(), value.clone());
        Ok(value)
    }

    async fn count(&self, key: &str) -> Result<i64> {
        let mut current = self.batches.current.lock().await;
        if !self.sees(&current) {
            return self.table.count(key).await;
        }
        if let Some(value) = current.known.counters.get(key) {
            return Ok(*value);
        }
        let value = self.table.count(key).await?.wrapping_add(current.staged.adds(key));
        current.known.take_counter(key, value);
        Ok(value)
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        self.written().await?;
        self.table.scan(prefix, after, limit).await
    }

    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>> {
        self.written().await?;
        self.table.scan_counts(prefix, after, limit).await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        let mut current = self.batches.current.lock().await;
        if !self.sees(&current) {
            return self.table.order(id).await;
        }
        if let Some((order, _)) = current.known.orders.get(&id) {
            return Ok(order.clone());
        }
        // Where it goes on before the batch is written, that is refused.
        let Known { orders, ahead, .. } = &mut current.known;
        let stands = match ahead.get(id) {
            Some(stands) => stands,
            None => {
                let asked = ahead.ask(id);
                let read: Vec<Stands> = self.batches.store.orders(asked.clone()).try_collect().await?;
                asked.into_iter().zip(read).for_each(|(id, stands)| ahead.add(id, stands));
                ahead.get(id).unwrap_or_default()
            }
        };
        let order = stands.0.clone();
        orders.insert(id, stands);
        Ok(order)
    }

    async fn durable(&self, lease: Lease) -> Result<()> {
        self.written().await?;
        self.table.durable(lease).await
    }
}
