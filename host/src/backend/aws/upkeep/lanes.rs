//! What is old of one lane goes, and with it what consumers remember of it.
//!
//! A lane goes in steps that each may be the last before a crash, or meet another host that does the same: it is ended first,
//! then what is remembered of it goes, then its events, which the index names until then; so it is found again.
//!
//! **Invariant**: a consumer's place in a lane outlives every message of the lane's events in SQS, so that none is handled
//! twice; and the item that ends the lane outlives the places, so that no event takes a number that they are through with.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::backend::aws::consumers::Known;
use crate::backend::aws::item::{Item, Key, LaneKey, event_sort, number, place_partition, text};
use crate::backend::aws::lane::{OLD_ORDERS, Standing, Tail, content_of, end_item, is_end, tail_of};
use crate::backend::aws::place::Place;
use crate::backend::aws::store::{SEQ_MAX, Store};
use crate::backend::aws::table::{Change, Span, Transaction};
use crate::backend::{Result, Retention};
use crate::clock::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// SQS keeps a message for 14 days, for 14 more where it went to the dead-letter queue, and anew if a person moves it back.
const PLACE_KEPT: Duration = DAY.saturating_mul(60);
const END_KEPT: Duration = DAY.saturating_mul(61);
/// Requests at once.
const REQUESTS_MAX: usize = 8;

/// Events of a lane that may go: all from `first` up to and with `last`, and none before them is there.
#[derive(Clone, Debug)]
pub struct Old {
    pub lane: LaneKey,
    pub first: u64,
    pub last: u64,
}

/// What a write is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The lane has gone on.
    End,
    /// The order's reference is another's.
    Reference,
}

/// Who lets go of what.
pub struct Letting<'a> {
    pub store: &'a Store,
    pub consumers: &'a [Known],
    pub retention: Retention,
    pub now: Timestamp,
}

impl Letting<'_> {
    /// Lets go of old events, and of the lane where nothing is left of it and its order may go too.
    pub async fn events(&self, old: &Old) -> Result<()> {
        let Old { lane, first, last } = old;
        let remembered = self.remembered(lane).await?;
        // Nobody may be before them any more; whoever stands at one of them needs it, whatever was seen before.
        if remembered.iter().any(|it| it.place.head.is_some_and(|head| head.seq <= *last)) {
            return Ok(());
        }
        let Some(end) = self.last_item(lane).await? else { return Ok(()) };
        let tail = tail_of(&end)?;
        let over = tail.seq == *last && self.may_go(&end)?;
        let goes = (is_end(&end) && tail.seq == last + 1) || (over && self.end(lane, &tail).await?);
        self.forget(&remembered, *last, goes).await?;
        let mut gone: BTreeSet<u64> = (*first..*last).collect();
        // What was the last event when others went is out of the index, and goes with the next ones.
        gone.extend(Some(first.saturating_sub(1)).filter(|before| *before > 1));
        if goes {
            gone.extend(Some(1).filter(|_| *last > 1));
        } else if tail.standing.is_some() && *first == 1 {
            gone.remove(&1);
            let change = Change::of("SET gone = :one, lp = :old").only_if("attribute_exists(pk)");
            let change = change.value(":one", number(1)).value(":old", text(OLD_ORDERS));
            self.store.table.update(&Key::event(lane, 1), change).await?;
        }
        self.delete(lane, gone).await?;
        // The index names this one, so until now all of it would have been found again.
        if goes || tail.standing.is_none() || tail.seq != *last {
            let stays = !goes && tail.standing.is_some() && *last == 1;
            return if stays { Ok(()) } else { self.store.table.delete(&Key::event(lane, *last)).await };
        }
        if *last > 1 {
            let change = Change::of("SET gone = :one REMOVE lp, ls").only_if("attribute_exists(pk)");
            self.store.table.update(&Key::event(lane, *last), change.value(":one", number(1))).await?;
        }
        Ok(())
    }

    /// Lets go of an order whose events went before, if it is its time.
    pub async fn order(&self, lane: &LaneKey) -> Result<()> {
        let Some(end) = self.last_item(lane).await? else { return Ok(()) };
        let tail = tail_of(&end)?;
        let goes = is_end(&end) || (end.is_gone() && self.may_go(&end)? && self.end(lane, &tail).await?);
        if !goes {
            return Ok(());
        }
        let last = if is_end(&end) { tail.seq.saturating_sub(1) } else { tail.seq };
        self.forget(&self.remembered(lane).await?, last, true).await?;
        self.delete(lane, Some(last).filter(|last| *last > 1)).await?;
        // The index names this one.
        self.store.table.delete(&Key::event(lane, 1)).await
    }

    async fn last_item(&self, lane: &LaneKey) -> Result<Option<Item>> {
        let (partition, from, to) = (lane.partition(), event_sort(0), event_sort(SEQ_MAX));
        let mut last = self.store.table.query(Span { partition, from, to, newest_first: true, limit: 1 }).await?;
        Ok(last.pop())
    }

    /// Whether the lane that ends with this item may go as a whole: its order is at its end for long enough, or it has none.
    fn may_go(&self, end: &Item) -> Result<bool> {
        let Some(Standing { status, .. }) = end.json_or_none("st")? else { return Ok(true) };
        let keep = if status.is_final() { self.retention.orders } else { self.retention.open_orders };
        let since = end.time("t")?;
        Ok(keep.cutoff(self.now).is_some_and(|cutoff| since < cutoff))
    }

    /// Ends the lane behind `tail`; `false` where it has gone on.
    async fn end(&self, lane: &LaneKey, tail: &Tail) -> Result<bool> {
        let expires = self.now.plus(END_KEPT).as_millis() / 1_000;
        let mut reference = match tail.standing {
            Some(_) => self.reference(lane).await?,
            None => None,
        };
        loop {
            let mut transaction = Transaction::default();
            transaction.create(Mark::End, end_item(lane, tail, expires));
            if let Some((key, order)) = &reference {
                let own = Change::default().only_if("attribute_not_exists(pk) OR o = :o").value(":o", text(order));
                transaction.delete(Mark::Reference, key.clone(), own);
            }
            match self.store.table.transact(transaction).await? {
                Ok(()) => return Ok(true),
                Err(refused) if refused.contains(&Mark::End) => return Ok(false),
                Err(_) => reference = None,
            }
        }
    }

    /// What makes the reference of the lane's order known, and the order's id.
    async fn reference(&self, lane: &LaneKey) -> Result<Option<(Key, String)>> {
        let Some(first) = self.store.table.get(&Key::event(lane, 1)).await? else { return Ok(None) };
        let reference = content_of(&first)?.and_then(|content| content.reference);
        let order = lane.as_str().strip_prefix("o#").unwrap_or_default().to_owned();
        Ok(reference.map(|reference| (Key::reference(&reference), order)))
    }

    async fn delete(&self, lane: &LaneKey, gone: impl IntoIterator<Item = u64>) -> Result<()> {
        self.store.table.delete_all(gone.into_iter().map(|seq| Key::event(lane, seq)).collect()).await
    }
}

/// What a consumer remembers of a lane.
struct Remembered {
    key: Key,
    place: Place,
    /// Of single deliveries: their items, by the number of the event.
    deliveries: Vec<(u64, Key)>,
}

impl Letting<'_> {
    async fn remembered(&self, lane: &LaneKey) -> Result<Vec<Remembered>> {
        let looks: Vec<_> = self.consumers.iter().map(|known| self.remembered_by(known, lane)).collect();
        stream::iter(looks).buffered(REQUESTS_MAX).try_collect().await
    }

    async fn remembered_by(&self, known: &Known, lane: &LaneKey) -> Result<Remembered> {
        let partition = place_partition(&known.name, lane);
        let span = Span { partition, from: "a".into(), to: "w".into(), newest_first: false, limit: usize::MAX };
        let mut remembered =
            Remembered { key: Key::place(&known.name, lane), place: Place::default(), deliveries: Vec::new() };
        for item in self.store.table.query(span).await? {
            let seq = item.text("sk")?.split('#').nth(1).map(|seq| seq.parse().unwrap_or_default());
            match seq {
                Some(seq) => remembered.deliveries.push((seq, item.key()?)),
                None => remembered.place = Place::read(&item)?,
            }
        }
        Ok(remembered)
    }

    /// What was remembered of events up to `last` goes; where the lane goes, places may go too, when SQS has forgotten it.
    async fn forget(&self, remembered: &[Remembered], last: u64, lane_goes: bool) -> Result<()> {
        let old = remembered.iter().flat_map(|it| &it.deliveries).filter(|(seq, _)| *seq <= last);
        self.store.table.delete_all(old.map(|(_, key)| key.clone()).collect()).await?;
        let expires = number(self.now.plus(PLACE_KEPT).as_millis() / 1_000);
        for Remembered { key, place, .. } in remembered.iter().filter(|it| lane_goes && it.place.ver > 0) {
            // One that has moved is of a lane that goes on.
            let change = Change::of("SET #ttl = :ttl").name("#ttl", "ttl").only_if("ver = :ver");
            let change = change.value(":ttl", expires.clone()).value(":ver", number(place.ver));
            self.store.table.update(key, change).await?;
        }
        Ok(())
    }
}
