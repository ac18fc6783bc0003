//! The place of a consumer in a lane: through which event it is done, and what stands at the head if that is an exception.
//!
//! One item, written in every transaction that ends a delivery, and only as it was read (`ver`). That is what makes a
//! delivery effective once, and keeps the order of a lane, over any number of hosts and whatever SQS delivers. What a
//! backfill brings lies before all that, and each one has its own mark of how far it came.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::item::{Item, Key, LaneKey, attempts_prefix, json, number, place_partition, text};
use super::lane::Logged;
use super::store::Store;
use super::table::{Change, Span};
use crate::backend::{
    AttemptReport, BackfillEffects, Cause, CauseKind, DeliveryState, EditedCopy, Error, FromBackfill, HttpCall,
    LogLine, Origin, Result,
};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// Deliveries that a place remembers, newest last: more than an order has changes.
const HANDLED_MAX: usize = 12;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Raised by every write; 0 where nothing is written yet.
    pub ver: u64,
    /// Through this event the consumer is through with the lane: done, passed by, discarded or left behind dead.
    pub seq: u64,
    pub head: Option<Head>,
    pub handled: Vec<Handled>,
    pub made: Vec<Made>,
    pub marks: Vec<Mark>,
}

/// How far one backfill came in a lane: its number, and the last of its events that is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark(pub i64, pub u64);

/// The event that the lane stands at, which is not simply done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub state: HeadState,
    /// Attempts that have ended.
    pub attempts: u32,
    pub first_at: Option<Timestamp>,
    /// It was a dead letter.
    pub replayed: bool,
    /// The backfill that brought it.
    pub from: Option<FromBackfill>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadState {
    Retrying(Timestamp),
    /// A person made it deliverable again.
    Waiting,
    Dead,
}

/// A delivery that was done at its first attempt: number, time in ms, duration in µs, version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled(pub u64, pub u64, pub u64, pub Arc<str>);

/// What a delivery left that is not in the lane: number of the event, time in ms, rows by data set, and events of other lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made(pub u64, pub u64, pub Vec<(Arc<str>, u64)>, pub Vec<(String, u64)>);

impl Place {
    /// As it stands in the table. One that expired stands for nothing: its lane went by age, long ago.
    pub fn read(item: &Item) -> Result<Self> {
        if item.is_expired(Timestamp::now())? {
            return Ok(Self::default());
        }
        let state = match item.text_or_none("hs") {
            Some("retrying") => Some(HeadState::Retrying(item.time("due")?)),
            Some("waiting") => Some(HeadState::Waiting),
            Some(_) => Some(HeadState::Dead),
            None => None,
        };
        let head = state.map(|state| {
            let (seq, attempts) = (item.number("hq")?, item.number("att")?);
            let (first_at, replayed, from) = (item.time_or_none("fa")?, item.flag("rp"), from_backfill(item)?);
            Ok::<_, Error>(Head { seq, state, attempts, first_at, replayed, from })
        });
        Ok(Self {
            ver: item.number("ver")?,
            seq: item.number("seq")?,
            head: head.transpose()?,
            handled: item.json_or_none("dn")?.unwrap_or_default(),
            made: item.json_or_none("mk")?.unwrap_or_default(),
            marks: item.json_or_none("bm")?.unwrap_or_default(),
        })
    }

    pub async fn load(store: &Store, name: &ConsumerName, lane: &LaneKey) -> Result<Self> {
        let item = store.table.get(&Key::place(name, lane)).await?;
        item.as_ref().map_or_else(|| Ok(Self::default()), Self::read)
    }

    /// Whether nothing behind the head may be delivered.
    pub fn is_parked(&self) -> bool {
        self.head.is_some()
    }

    /// Through which of its events in the lane a backfill is.
    pub fn history_through(&self, backfill: i64) -> u64 {
        self.marks.iter().find(|mark| mark.0 == backfill).map_or(0, |mark| mark.1)
    }

    /// Whether the consumer is through with an event that came from there.
    pub fn is_through(&self, seq: u64, from: Option<FromBackfill>) -> bool {
        seq <= from.map_or(self.seq, |from| self.history_through(from.number))
    }

    /// The place after this one: through with `seq`, which came from there.
    pub fn through(&self, seq: u64, from: Option<FromBackfill>, handled: Option<Handled>) -> Self {
        let mut next =
            Self { ver: self.ver + 1, head: None, handled: last_few(&self.handled, handled), ..self.clone() };
        let Some(FromBackfill { number, .. }) = from else { return Self { seq: seq.max(self.seq), ..next } };
        match next.marks.iter_mut().find(|mark| mark.0 == number) {
            Some(mark) => mark.1 = mark.1.max(seq),
            None => next.marks.push(Mark(number, seq)),
        }
        next
    }

    /// This place, where the delivery left something.
    #[must_use]
    pub fn with_made(self, made: Option<Made>) -> Self {
        Self { made: last_few(&self.made, made), ..self }
    }

    /// The place after this one: standing at `head`.
    pub fn at(&self, head: Head) -> Self {
        Self { ver: self.ver + 1, head: Some(head), ..self.clone() }
    }

    /// Writes this place where the one before is still as it was.
    pub fn change(&self) -> Result<Change> {
        let mut set = "SET ver = :ver, seq = :seq, dn = :dn, mk = :mk".to_owned();
        let mut change = Change::default()
            .value(":ver", number(self.ver))
            .value(":seq", number(self.seq))
            .value(":dn", json(&self.handled)?)
            .value(":mk", json(&self.made)?);
        if !self.marks.is_empty() {
            set += ", bm = :bm";
            change = change.value(":bm", json(&self.marks)?);
        }
        match &self.head {
            Some(Head { seq, state, attempts, first_at, replayed, from }) => {
                set += ", hq = :hq, hs = :hs, att = :att, rp = :rp";
                let mut gone = vec!["#ttl"];
                let (state, due) = match state {
                    HeadState::Retrying(due) => ("retrying", Some(due)),
                    HeadState::Waiting => ("waiting", None),
                    HeadState::Dead => ("dead", None),
                };
                change = change
                    .value(":hq", number(seq))
                    .value(":hs", text(state))
                    .value(":att", number(attempts))
                    .value(":rp", aws_sdk_dynamodb::types::AttributeValue::Bool(*replayed));
                // What the head before this one had is none of its own.
                match first_at {
                    Some(first_at) => {
                        set += ", fa = :fa";
                        change = change.value(":fa", number(first_at.as_millis()));
                    }
                    None => gone.push("fa"),
                }
                match due {
                    Some(due) => {
                        set += ", due = :due";
                        change = change.value(":due", number(due.as_millis()));
                    }
                    None => gone.push("due"),
                }
                match from {
                    Some(from) => {
                        set += ", bk = :bk, be = :be";
                        change = change.value(":bk", number(from.number)).value(":be", text(from.effects.as_str()));
                    }
                    None => gone.extend(["bk", "be"]),
                }
                set += &format!(" REMOVE {}", gone.join(", "));
            }
            None => set += " REMOVE #ttl, hq, hs, att, rp, fa, due, bk, be",
        }
        // A lane that goes on after it went by age needs its place again: hence no time to live.
        let change = change.update(set).name("#ttl", "ttl");
        Ok(if self.ver == 1 {
            let now = number(Timestamp::now().as_millis() / 1_000);
            change.only_if("attribute_not_exists(pk) OR #ttl < :now").value(":now", now)
        } else {
            change.only_if("ver = :before").value(":before", number(self.ver - 1))
        })
    }

    /// Writes this place once more, as it is: what was decided on it is refused from then on.
    pub fn again(&self) -> Result<Change> {
        let next = Self { ver: self.ver + 1, ..self.clone() };
        if next.ver == 1 {
            return next.change();
        }
        let again = Change::of("SET ver = :ver").only_if("ver = :before");
        Ok(again.value(":ver", number(next.ver)).value(":before", number(self.ver)))
    }

    /// What became of an event of the lane; `None` where it does not concern the consumer. `history` says of one that a
    /// backfill is about whether it is through with it.
    pub fn state_of(
        &self,
        logged: &Logged,
        wanted: bool,
        history: Option<bool>,
        past: Option<&Past>,
    ) -> Option<DeliveryState> {
        if let Some(head) = self.head.filter(|head| head.seq == logged.seq) {
            return Some(match head.state {
                HeadState::Retrying(_) => DeliveryState::Retrying,
                HeadState::Waiting => DeliveryState::Waiting,
                HeadState::Dead => DeliveryState::Dead,
            });
        }
        match past {
            Some(past) if past.discarded.is_some() => return Some(DeliveryState::Discarded),
            Some(past) if past.attempts.last().is_some_and(|last| last.outcome.is_some()) => {
                return Some(DeliveryState::Dead);
            }
            _ => {}
        }
        if !wanted && history.is_none() && past.is_none() {
            return None;
        }
        Some(match history.unwrap_or(logged.seq <= self.seq) {
            true => DeliveryState::Done,
            false if self.head.is_some() => DeliveryState::Waiting,
            false => DeliveryState::Pending,
        })
    }
}

/// The backfill that brought what the item stands for.
pub fn from_backfill(item: &Item) -> Result<Option<FromBackfill>> {
    let Some(number) = item.number_or_none("bk")? else { return Ok(None) };
    let effects = match item.text("be")? {
        "state-only" => BackfillEffects::StateOnly,
        _ => BackfillEffects::All,
    };
    Ok(Some(FromBackfill { number, effects }))
}

/// An item that stands for what a backfill brought.
pub fn with_backfill(item: Item, from: Option<FromBackfill>) -> Item {
    item.with_some("bk", from.map(|from| number(from.number)))
        .with_some("be", from.map(|from| text(from.effects.as_str())))
}

fn last_few<T: Clone>(kept: &[T], more: Option<T>) -> Vec<T> {
    let surplus = (kept.len() + usize::from(more.is_some())).saturating_sub(HANDLED_MAX);
    kept.iter().skip(surplus).cloned().chain(more).collect()
}

/// What is remembered of one delivery besides its place.
#[derive(Clone, Debug, Default)]
pub struct Past {
    pub attempts: Vec<AttemptReport>,
    pub discarded: Option<Timestamp>,
    pub edited: Option<EditedCopy>,
}

/// Everything that a consumer's partition of a lane holds.
pub async fn look(store: &Store, name: &ConsumerName, lane: &LaneKey) -> Result<(Place, BTreeMap<u64, Past>)> {
    let partition = place_partition(name, lane);
    let (from, to) = ("a".to_owned(), "w".to_owned());
    let items = store.table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await?;
    let (mut place, mut past) = (Place::default(), BTreeMap::<u64, Past>::new());
    for item in &items {
        let sort = item.text("sk")?;
        match sort.split_once('#') {
            None => place = Place::read(item)?,
            Some(("a", rest)) => {
                let seq = rest.split('#').next().and_then(|seq| seq.parse().ok()).unwrap_or_default();
                past.entry(seq).or_default().attempts.push(report(item)?);
            }
            Some((_, seq)) => {
                let past = past.entry(seq.parse().unwrap_or_default()).or_default();
                let time = item.time("t")?;
                match item.json_or_none::<Box<RawValue>>("copy")? {
                    Some(data) => past.edited = Some(EditedCopy { time, data }),
                    None => past.discarded = Some(time),
                }
            }
        }
    }
    Ok((place, past))
}

/// One attempt that is remembered.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub seq: u64,
    pub attempt: u32,
    /// `None` where it was done.
    pub cause: Option<Cause>,
    pub version: Arc<str>,
    pub duration_us: u64,
    pub time: Timestamp,
    pub origin: Origin,
    pub edited: bool,
    pub candidate: bool,
    pub calls: Vec<HttpCall>,
}

impl Attempt {
    /// `number` sorts the attempts of a delivery.
    pub fn item(&self, name: &ConsumerName, lane: &LaneKey, number_of: u64, expires: Option<u64>) -> Result<Item> {
        let Self { seq, attempt, cause, version, duration_us, time, origin, edited, candidate, calls } = self;
        let evidence = cause.as_ref().map(|cause| &cause.evidence);
        let log = evidence.map(|evidence| &evidence.log).filter(|log| !log.is_empty());
        Ok(Item::at(&Key::attempt(name, lane, *seq, number_of))
            .with("n", number(attempt))
            .with("out", text(cause.as_ref().map_or("done", |cause| cause.kind.as_str())))
            .with_some("why", cause.as_ref().map(|cause| text(&cause.detail)))
            .with_some("trace", cause.as_ref().and_then(|cause| cause.backtrace.as_deref()).map(text))
            .with("v", text(&**version))
            .with("us", number(duration_us))
            .with("t", number(time.as_millis()))
            .with("og", text(origin.as_str()))
            .with_some("ed", edited.then(|| number(1)))
            .with_some("cand", candidate.then(|| number(1)))
            .with_some("eff", evidence.and_then(|evidence| evidence.effects.as_deref()).map(text))
            .with_some("log", log.map(json).transpose()?)
            .with_some("calls", Some(calls).filter(|calls| !calls.is_empty()).map(json).transpose()?)
            .with_some("ttl", expires.map(number)))
    }
}

fn report(item: &Item) -> Result<AttemptReport> {
    Ok(AttemptReport {
        attempt: item.number("n")?,
        outcome: item.text("out")?.parse::<CauseKind>().ok(),
        cause: item.text_or_none("why").map(str::to_owned),
        backtrace: item.text_or_none("trace").map(str::to_owned),
        version: item.text("v")?.to_owned(),
        duration_us: item.number("us")?,
        time: item.time("t")?,
        origin: match item.text("og")? {
            "replay" => Origin::Replay,
            "backfill" => Origin::Backfill,
            _ => Origin::Live,
        },
        edited: item.number_or_none::<u8>("ed")?.is_some(),
        candidate: item.number_or_none::<u8>("cand")?.is_some(),
        effects: item.json_or_none("eff")?,
        log: item.json_or_none::<Vec<LogLine>>("log")?.unwrap_or_default(),
        calls: item.json_or_none("calls")?.unwrap_or_default(),
    })
}

/// Attempts of one delivery, oldest first.
pub async fn attempts(store: &Store, name: &ConsumerName, lane: &LaneKey, seq: u64) -> Result<Vec<AttemptReport>> {
    attempt_items(store, name, lane, seq).await?.iter().map(report).collect()
}

pub async fn attempt_keys(store: &Store, name: &ConsumerName, lane: &LaneKey, seq: u64) -> Result<Vec<Key>> {
    let items = attempt_items(store, name, lane, seq).await?;
    items.iter().map(|item| Ok(Key { pk: item.text("pk")?.to_owned(), sk: item.text("sk")?.to_owned() })).collect()
}

async fn attempt_items(store: &Store, name: &ConsumerName, lane: &LaneKey, seq: u64) -> Result<Vec<Item>> {
    let (partition, prefix) = (place_partition(name, lane), attempts_prefix(seq));
    let to = format!("{prefix}~");
    store.table.query(Span { partition, from: prefix, to, newest_first: false, limit: usize::MAX }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_was_written() {
        let head = Head {
            seq: 3,
            state: HeadState::Retrying(Timestamp::from_millis(9)),
            attempts: 2,
            first_at: Some(Timestamp::from_millis(5)),
            replayed: true,
            from: None,
        };
        let made = Made(2, 7, vec![("orders".into(), 1)], vec![("s#TEA".into(), 4)]);
        let done = Place::default().through(2, None, Some(Handled(2, 7, 8, "1.0.0".into()))).with_made(Some(made));
        let from = Some(FromBackfill { number: 7, effects: BackfillEffects::StateOnly });
        let dead = Head { state: HeadState::Dead, first_at: None, ..head };
        let history = done.through(1, from, None);
        for place in [done.at(head), done.at(dead), history.at(Head { from, ..dead }), history, done.clone()] {
            let item = Item::from(place.change().unwrap().written());
            assert_eq!(Place::read(&item).unwrap(), place);
        }
        assert_eq!(done.at(head).through(3, None, None), Place { ver: 3, seq: 3, ..done });
    }

    #[test]
    fn what_a_backfill_is_through_with_says_nothing_of_live_events_nor_of_another_backfill() {
        let [one, two] = [1, 2].map(|number| Some(FromBackfill { number, effects: BackfillEffects::All }));
        let place = Place::default().through(5, None, None).through(2, one, None);
        assert!(place.is_through(5, None) && place.is_through(2, one));
        assert!(!place.is_through(3, one) && !place.is_through(1, two));
        assert_eq!((place.seq, place.ver), (5, 2));
        assert_eq!(place.through(1, one, None).history_through(1), 2, "it never goes back");
    }
}
