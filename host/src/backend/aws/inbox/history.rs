//! Events from before the consumer began, which a backfill brings: in front of live events of their lanes, which wait until
//! there is no more history to come.
//!
//! Only the host that goes through a backfill brings its events (`backfills::run`). Where a lane stands at an exception, the
//! backfill goes by, and whoever takes the lane up again goes on with its history.
//!
//! **Invariant**: a live event that waits for its history, and whose message was deleted, has an item that stands for its
//! lane. Whoever writes that item looks at the lane once more, and who ends the history of a lane looks for that item
//! afterwards: so one of both sees the other.

use std::collections::HashMap;
use std::sync::Arc;

use super::AwsInbox;
use super::desk::{Receipt, Work};
use crate::backend::aws::backfills::{Fills, Way};
use crate::backend::aws::due::{self, Due};
use crate::backend::aws::item::{Key, LaneKey};
use crate::backend::aws::lane::Logged;
use crate::backend::aws::place::Place;
use crate::backend::aws::store::SEQ_MAX;
use crate::backend::{FromBackfill, Result};
use crate::clock::Timestamp;

/// Events of a lane read at once to find the next of its history; the first read is of one, since mostly there is none.
const PAGE: usize = 32;

/// What of its history a lane has before its live events.
pub enum Ahead {
    Nothing,
    /// A backfill comes by and brings it.
    Backfill,
    /// The next of what the lane brings by itself.
    Itself(Vec<Work>),
}

impl AwsInbox {
    pub fn fills(&self) -> Arc<Fills> {
        Arc::clone(&self.fills.lock())
    }

    /// Reads what the table says of the consumer's backfills.
    pub async fn refresh_fills(&self) -> Result<()> {
        let _sorting = self.sorting.lock().await;
        self.read_fills().await
    }

    /// Of whoever brings lanes into memory: nobody else does meanwhile, by what was known before.
    async fn read_fills(&self) -> Result<()> {
        self.reknow().await?;
        let fills = Fills::load(&self.store, &self.name, self.known().fills).await?;
        self.take_up_fills(fills);
        Ok(())
    }

    pub(super) fn take_up_fills(&self, fills: Fills) {
        let begun = {
            let mut own = self.fills.lock();
            let begun = fills.under_way().is_some_and(|fill| fill.number > own.newest() && !fill.is_rebuild());
            *own = Arc::new(fills);
            let mut desk = self.desk.lock();
            desk.fill(own.running().filter(|fill| !fill.is_rebuild()).map(|fill| fill.number));
            begun.then(|| desk.make_way())
        };
        self.forget_offered(self.fills().under_way().map(|fill| fill.number));
        if let Some((receipts, dues)) = begun {
            self.leave_to_others(receipts, dues);
        }
        self.filled.notify_one();
        self.ring();
    }

    /// Gives back messages, and what stands for lanes in the table.
    pub(super) fn leave_to_others(&self, receipts: Vec<Receipt>, dues: Vec<Due>) {
        if !receipts.is_empty() {
            self.acknowledge_none(receipts);
        }
        if dues.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        self.store.tasks.spawn(async move {
            for due in dues {
                drop(due::claim_until(&store, &due, Timestamp::now()).await);
            }
        });
    }

    /// What is known of backfills; all there is to know, where a place tells of one that began since: the one that this host
    /// goes through is cancelled then, and the place may be through with its events by the other.
    async fn fills_for(&self, places: impl IntoIterator<Item = &Place>) -> Result<Arc<Fills>> {
        let newest = self.fills().newest();
        if places.into_iter().flat_map(|place| &place.marks).any(|mark| mark.0 > newest) {
            self.read_fills().await?;
        }
        Ok(self.fills())
    }

    /// The backfill that is under way has come so far.
    pub fn note_fill(&self, number: i64, position: u64) {
        let mut fills = self.fills.lock();
        let mut all = (**fills).clone();
        if let Some(known) = all.all.iter_mut().find(|known| known.number == number) {
            known.position = position;
            *fills = Arc::new(all);
        }
    }

    /// Returns when there may be something to do for a backfill.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Deliveries that may run at once.
    pub fn concurrency(&self) -> usize {
        self.desk.lock().concurrency()
    }

    pub fn has_history(&self, lane: &LaneKey, seq: u64) -> bool {
        self.desk.lock().has_history(lane, seq)
    }

    /// Brings past events into their lanes, unless those stand at an exception.
    pub async fn bring_history(&self, from: FromBackfill, events: Vec<Logged>) -> Result<()> {
        let _sorting = self.sorting.lock().await;
        let mut lanes: HashMap<LaneKey, Vec<Work>> = HashMap::new();
        for logged in events {
            lanes.entry(logged.key.clone()).or_default().push(Work::past(logged, from));
        }
        let absent: Vec<Key> = {
            let desk = self.desk.lock();
            let absent = lanes.keys().filter(|lane| !desk.has(lane));
            absent.map(|lane| Key::place(&self.name, lane)).collect()
        };
        let places = self.store.table.get_all(absent.iter().cloned()).await?;
        let places: HashMap<Key, Place> =
            places.into_iter().map(|(key, item)| Ok((key, Place::read(&item)?))).collect::<Result<_>>()?;
        let fills = self.fills_for(places.values()).await?;
        for (lane, works) in lanes {
            let key = Key::place(&self.name, &lane);
            let place = match absent.contains(&key) {
                true => Some(places.get(&key).cloned().unwrap_or_default()),
                // It was there; if it has left meanwhile, the next look brings these.
                false => None,
            };
            let mut desk = self.desk.lock();
            // One that was cancelled may have come to the end of its last delivery since the place was looked at before.
            let stands = desk.lane(&lane).map(|lane| lane.place.clone()).or_else(|| place.clone());
            let is_own = |work: &Work| {
                let of = stands.as_ref().map(|place| fills.of(place, &work.logged).map(|fill| fill.number));
                of.is_none_or(|number| number == Some(from.number))
            };
            let works = works.into_iter().filter(is_own).collect();
            desk.bring(from.number, lane, place, works);
        }
        self.ring();
        Ok(())
    }

    /// What comes next in a lane that was looked at; `None` where a backfill has to come by first.
    pub(super) async fn behind(&self, lane: &LaneKey, place: &Place) -> Result<Option<Vec<Work>>> {
        self.fills_for([place]).await?;
        match self.ahead(lane, place).await? {
            Ahead::Nothing => {
                let (known, subscriptions) = (self.known(), self.subscriptions());
                let mut behind = self.store.logged_after(lane, place.seq, usize::MAX).await?;
                behind.retain(|logged| known.wants_by(&subscriptions, logged));
                Ok(Some(behind.into_iter().map(Work::new).collect()))
            }
            Ahead::Itself(works) => Ok(Some(works)),
            Ahead::Backfill => Ok(None),
        }
    }

    /// What of its history is to come in a lane.
    async fn ahead(&self, lane: &LaneKey, place: &Place) -> Result<Ahead> {
        let (fills, heard) = (self.fills(), self.subscriptions());
        let Some((mut after, last)) = fills.ahead(place) else { return Ok(Ahead::Nothing) };
        let mut limit = 1;
        loop {
            let page = self.store.logged(lane, after + 1, SEQ_MAX, limit).await?;
            let more = page.len() == limit && page.iter().all(|logged| logged.position() <= last);
            (after, limit) = (page.last().map_or(after, |logged| logged.seq), PAGE);
            let mut works = Vec::new();
            for logged in page.into_iter().filter(|logged| heard.want(&logged.event)) {
                match fills.brings(place, &logged) {
                    Some(Way::Backfill) if works.is_empty() => return Ok(Ahead::Backfill),
                    Some(Way::Backfill) => break,
                    Some(Way::Itself(from)) => works.push(Work::past(logged, from)),
                    None => {}
                }
            }
            if !works.is_empty() {
                return Ok(Ahead::Itself(works));
            }
            if !more {
                return Ok(Ahead::Nothing);
            }
        }
    }

    /// Whether live events of a lane have to wait until a backfill has come by.
    pub async fn waits(&self, lane: &LaneKey, place: &Place) -> Result<bool> {
        Ok(!place.is_parked() && matches!(self.ahead(lane, place).await?, Ahead::Backfill))
    }

    /// Live events that do not have to wait for history of their lane. Of those that do, the table has all.
    pub(super) async fn without_history(
        &self,
        lane: &LaneKey,
        place: &Place,
        works: Vec<Work>,
    ) -> Result<Option<Vec<Work>>> {
        let fills = self.fills_for([place]).await?;
        // What comes once more waits for nothing: it is done.
        let mut ahead = works.iter().filter(|work| !place.is_through(work.logged.seq, None));
        let Some(first) = ahead.next().filter(|_| !fills.all.is_empty() && !place.is_parked()) else {
            return Ok(Some(works));
        };
        if !fills.may_be_ahead(place, &self.subscriptions(), &first.logged) {
            return Ok(Some(works));
        }
        let waits = match self.ahead(lane, place).await? {
            Ahead::Nothing => return Ok(Some(works)),
            Ahead::Backfill => true,
            // It is under way, or whoever takes the lane up brings it.
            Ahead::Itself(_) => false,
        };
        // The first event that may have to wait: as long as it is not done, it stays.
        if due::stand_for(&self.store, &self.name, lane, place.seq + 1, waits).await? {
            self.look_again(lane, waits).await?;
        }
        self.acknowledge(works.into_iter().flat_map(|work| work.receipts).collect());
        Ok(None)
    }

    /// A lane that was taken up waits until a backfill has come by.
    pub(super) async fn hold(&self, due: &Due) -> Result<()> {
        due::hold(&self.store, &self.name, due).await?;
        self.look_again(&due.lane, true).await
    }

    /// What a lane waits for may have come to its end since it was looked at.
    async fn look_again(&self, lane: &LaneKey, waits: bool) -> Result<()> {
        if waits {
            self.read_fills().await?;
            let place = Place::load(&self.store, &self.name, lane).await?;
            if self.waits(lane, &place).await? {
                return Ok(());
            }
            due::release(&self.store, &self.name, &Key::due(&self.name, lane)).await?;
        }
        self.rung.notify_one();
        Ok(())
    }
}
