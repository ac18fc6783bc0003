//! What a rebuild went by and comes back to: events that were exceptions, or not done for long.

use std::collections::{BTreeSet, HashMap};

use futures::future::try_join_all;
use tokio::time::Instant;

use super::look::{Found, look};
use super::{BATCH, Rebuilder, Walk};
use crate::backend::aws::due;
use crate::backend::aws::inbox::Progress;
use crate::backend::aws::item::{Item, Key, LaneKey, number, put_off_prefix, rebuilds_partition, text};
use crate::backend::aws::place::{HeadState, Place};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Span, Transaction};
use crate::backend::{Error, Result};
use crate::policy::ConsumerName;

impl Rebuilder {
    /// Looks at all that was put off, and handles what is done by now: how much, or `None` where it had to stop.
    pub(super) async fn come_back(&self, walk: &mut Walk) -> Result<Option<usize>> {
        let all: Vec<(LaneKey, u64)> = walk.put_off.values().cloned().collect();
        let mut handled = 0;
        for chunk in all.chunks(BATCH) {
            let Some(more) = self.come_back_to_these(walk, chunk).await? else { return Ok(None) };
            handled += more;
        }
        walk.put_off_at = Some(Instant::now());
        Ok(self.inbox.batches.write().await?.then_some(handled))
    }

    /// What was put off in a lane before an event that is done comes first.
    pub(super) async fn come_back_to(&self, walk: &mut Walk, lane: &LaneKey, before: u64) -> Result<bool> {
        let here = walk.put_off.values().filter(|(other, seq)| other == lane && *seq < before);
        let here: Vec<(LaneKey, u64)> = here.cloned().collect();
        for chunk in here.chunks(BATCH) {
            if self.come_back_to_these(walk, chunk).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn come_back_to_these(&self, walk: &mut Walk, these: &[(LaneKey, u64)]) -> Result<Option<usize>> {
        let keys: Vec<Key> = these.iter().map(|(lane, seq)| Key::event(lane, *seq)).collect();
        let events = self.store.logged_at(&keys).await?;
        let (heard, mut handled) = (self.heard()?, 0);
        for seen in look(&self.store, &self.inbox.known(), &self.inbox.fills(), events).await? {
            let position = seen.logged.position();
            let is_done = match seen.found {
                Found::Pending | Found::Exception => continue,
                // What the consumer hears may have changed.
                Found::Done | Found::Unheard if heard.want(&seen.logged.event) => {
                    handled += 1;
                    self.handle(walk, seen, Progress::PutOff).await?
                }
                Found::Done | Found::Unheard | Found::Discarded => self.dismiss(walk, position).await?,
            };
            if !is_done {
                return Ok(None);
            }
            walk.put_off.remove(&position);
        }
        Ok(Some(handled))
    }

    /// Whatever is put off is settled from here on by who reads its place anew: a commit that somebody decided on before, and that
    /// comes whenever it may, is refused. `false` where the rebuild has to stop.
    pub(super) async fn fence(&self, walk: &mut Walk) -> Result<bool> {
        let all: Vec<(LaneKey, u64)> = walk.put_off.values().cloned().collect();
        let (table, name) = (&self.store.table, self.name());
        for chunk in all.chunks(BATCH) {
            if !self.goes_on(walk).await? {
                return Ok(false);
            }
            let strays = chunk.iter().map(|(lane, seq)| Key::stray(name, lane, *seq));
            let strays = table.get_all(strays).await?;
            let disowned: Vec<_> = strays.keys().map(|key| due::disown(&self.store, key)).collect();
            try_join_all(disowned).await?;
            let lanes: BTreeSet<&LaneKey> = chunk.iter().map(|(lane, _)| lane).collect();
            let keys: Vec<Key> = lanes.into_iter().map(|lane| Key::place(name, lane)).collect();
            let found: HashMap<Key, Item> = table.get_all(keys.iter().cloned()).await?;
            let mut again = Vec::new();
            for key in &keys {
                let place = found.get(key).map_or_else(|| Ok(Place::default()), Place::read)?;
                // Who retries a dead letter writes the place.
                if place.head.is_none_or(|head| head.state != HeadState::Dead) {
                    again.push(table.update(key, place.again()?));
                }
            }
            // Where it has moved meanwhile, that was as good.
            try_join_all(again).await?;
        }
        Ok(true)
    }

    /// What was put off needs no handling after all.
    async fn dismiss(&self, walk: &Walk, position: u64) -> Result<bool> {
        let mut transaction = Transaction::default();
        let (name, rebuild) = (self.name(), walk.fill.number);
        transaction.check((), Key::backfill(name, rebuild), walk.own("", ""));
        transaction.delete((), Key::put_off(name, walk.fill.put_off(), position), Change::default());
        Ok(self.store.table.transact(transaction).await?.is_ok())
    }
}

/// Of an event that is put off beside a number.
pub fn put_off_item(name: &ConsumerName, beside: i64, position: u64, lane: &LaneKey, seq: u64) -> Item {
    Item::at(&Key::put_off(name, beside, position)).with("l", text(lane.as_str())).with("q", number(seq))
}

/// What is put off beside the number of a rebuild or a copy, lowest position first.
pub async fn put_off_items(store: &Store, name: &ConsumerName, rebuild: i64, limit: usize) -> Result<Vec<Item>> {
    let (partition, from) = (rebuilds_partition(name), put_off_prefix(rebuild));
    let to = format!("{from}~");
    store.table.query(Span { partition, from, to, newest_first: false, limit }).await
}

/// Of an event that was put off.
pub fn position_of(item: &Item) -> Result<u64> {
    let sort = item.text("sk")?;
    let position = sort.rsplit('#').next().and_then(|position| position.parse().ok());
    position.ok_or_else(|| Error::Failed(format!("{sort} names no event that was put off").into()))
}
