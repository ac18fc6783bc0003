//! A consumer's backfills, as the table has them, and what each has to do with an event of a lane.
//!
//! The first backfill that is about an event is the one that brings it. One that was cancelled leaves what it is not through
//! with to those behind it.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::backend::aws::consumers::{heard, said};
use crate::backend::aws::item::{Item, Key, backfills_partition, json, number, text};
use crate::backend::aws::lane::{Logged, Prior};
use crate::backend::aws::place::Place;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Span;
use crate::backend::{
    Backfill, BackfillEffects, BackfillFailure, BackfillReport, BackfillState, Backfilled, Error, FromBackfill, Result,
    Since, WAY_BACK_RATE, WayBack,
};
use crate::clock::Timestamp;
use crate::event::Subscriptions;
use crate::event::filter::Filter;
use crate::policy::{ConsumerName, Rate};

/// Sums of a backfill: deliveries that were done, and effects that were dropped.
pub const DELIVERED: &str = "d";
pub const DROPPED: &str = "x";

/// One backfill.
#[derive(Clone, Debug)]
pub struct Fill {
    pub number: i64,
    /// It fills a generation: the item says itself what was done, and up to where events were counted.
    pub rebuild: Option<Counted>,
    /// That generation. A rebuild's has its number.
    pub generation: i64,
    /// It fills what was kept.
    pub back: Option<Back>,
    pub state: BackfillState,
    since: Since,
    filter: Option<Filter>,
    pub rate: Rate,
    effects: BackfillEffects,
    /// What the consumer heard when it began; `None` where that was never said.
    heard: Option<Subscriptions>,
    /// Positions that it is about.
    pub first: u64,
    pub last: u64,
    /// At and below this position every event is through, or is brought by its lane, which stood at an exception.
    pub position: u64,
    /// The lowest position that was left to its lane.
    pub left: Option<u64>,
    pub events: u64,
    pub delivered: u64,
    dropped: u64,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
}

/// What only a rebuild says of itself.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Events behind this position were not counted when it began.
    pub through: u64,
    pub failure: Option<BackfillFailure>,
    /// Too much of what is live is not done for it to be handed over.
    pub lags: bool,
}

/// What only a way back says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Back {
    pub way: WayBack,
    /// Beside which number stands what was put off before it began.
    pub put_off: i64,
    /// Everything up to this position was in the state that was kept, or put off.
    pub from: u64,
}

impl Fill {
    /// One that begins now. A rebuild has counted its events up to `counted`.
    pub fn new(
        number: i64,
        asked: &Backfill,
        heard: Option<Subscriptions>,
        scope: (u64, u64),
        (events, counted): (u64, u64),
    ) -> Self {
        let now = Timestamp::now();
        let (first, last) = scope;
        let rebuild =
            (asked.of == Backfilled::Rebuild).then_some(Counted { through: counted, failure: None, lags: false });
        // A rebuild of nothing is an empty generation to hand over.
        let nothing = events == 0 && rebuild.is_none();
        Self {
            number,
            rebuild,
            generation: number,
            back: None,
            state: if nothing { BackfillState::Done } else { BackfillState::Running },
            since: asked.from,
            filter: asked.filter.clone(),
            rate: asked.rate,
            effects: asked.effects,
            heard,
            first,
            last,
            position: if nothing { last } else { first.saturating_sub(1) },
            left: None,
            events,
            delivered: 0,
            dropped: 0,
            started_at: now,
            ended_at: nothing.then_some(now),
        }
    }

    /// A way back that begins now, to a state that has everything up to a position, as it was kept at a time. It has so many
    /// events to handle, of which none behind `through` is counted.
    pub fn way_back(
        number: i64,
        back: Back,
        (generation, since): (i64, Timestamp),
        (events, through): (u64, u64),
    ) -> Self {
        let from = back.from;
        Self {
            number,
            rebuild: Some(Counted { through, failure: None, lags: false }),
            generation,
            back: Some(back),
            state: BackfillState::Running,
            since: Since::At(since),
            filter: None,
            rate: WAY_BACK_RATE,
            effects: BackfillEffects::StateOnly,
            heard: None,
            // It offers nothing that was not offered before.
            first: from + 1,
            last: from,
            position: from,
            left: None,
            events,
            delivered: 0,
            dropped: 0,
            started_at: Timestamp::now(),
            ended_at: None,
        }
    }

    /// Beside which number stands what it put off.
    pub fn put_off(&self) -> i64 {
        self.back.as_ref().map_or(self.number, |back| back.put_off)
    }

    pub fn item(&self, name: &ConsumerName) -> Result<Item> {
        let since = match self.since {
            Since::Beginning => None,
            Since::At(time) => Some(number(time.as_millis())),
        };
        Ok(Item::at(&Key::backfill(name, self.number))
            .with("sta", text(self.state.as_str()))
            .with_some("rb", self.rebuild.as_ref().map(|_| number(1)))
            .with_some("upt", self.rebuild.as_ref().map(|counted| number(counted.through)))
            .with_some("gen", self.back.as_ref().map(|_| number(self.generation)))
            .with_some("wb", self.back.as_ref().map(json).transpose()?)
            .with_some("dl", self.rebuild.as_ref().map(|_| number(0)))
            .with_some("dx", self.rebuild.as_ref().map(|_| number(0)))
            .with_some("frm", since)
            .with_some("fil", self.filter.as_ref().map(|filter| text(filter.to_string())))
            .with_some("hrd", self.heard.as_ref().map(|heard| json(&said(heard))).transpose()?)
            .with("rt", number(self.rate.per_second))
            .with("eff", text(self.effects.as_str()))
            .with("fst", number(self.first))
            .with("lst", number(self.last))
            .with("cur", number(self.position))
            .with("evs", number(self.events))
            .with("ta", number(self.started_at.as_millis()))
            .with_some("tz", self.ended_at.map(|time| number(time.as_millis()))))
    }

    /// Without its sums, which are items of their own.
    pub fn read(item: &Item) -> Result<Self> {
        let per_second: NonZeroU32 = item.number("rt")?;
        let filter = item.text_or_none("fil").map(Filter::parse).transpose();
        let number = item.parse("sk")?;
        Ok(Self {
            number,
            generation: item.number_or_none("gen")?.unwrap_or(number),
            back: item.json_or_none("wb")?,
            rebuild: match item.number_or_none::<u8>("rb")? {
                Some(_) => Some(Counted {
                    through: item.number("upt")?,
                    failure: item.json_or_none("fl")?,
                    lags: item.number_or_none::<u8>("lgs")?.is_some(),
                }),
                None => None,
            },
            state: match item.text("sta")? {
                "running" => BackfillState::Running,
                "paused" => BackfillState::Paused,
                "cancelled" => BackfillState::Cancelled,
                _ => BackfillState::Done,
            },
            since: item.time_or_none("frm")?.map_or(Since::Beginning, Since::At),
            filter: filter
                .map_err(|_| Error::Failed("the filter of a backfill cannot be read from the table".into()))?,
            rate: Rate { per_second },
            effects: match item.text("eff")? {
                "state-only" => BackfillEffects::StateOnly,
                _ => BackfillEffects::All,
            },
            heard: item.json_or_none::<Vec<String>>("hrd")?.as_deref().map(heard).transpose()?,
            first: item.number("fst")?,
            last: item.number("lst")?,
            position: item.number("cur")?,
            left: item.number_or_none("lft")?,
            events: item.number("evs")?,
            delivered: item.number_or_none("dl")?.unwrap_or_default(),
            dropped: item.number_or_none("dx")?.unwrap_or_default(),
            started_at: item.time("ta")?,
            ended_at: item.time_or_none("tz")?,
        })
    }

    pub fn report(&self, held: u64) -> BackfillReport {
        BackfillReport {
            state: self.state,
            rebuild: self.is_rebuild(),
            back_to: self.back.as_ref().map(|back| back.way.to),
            from: self.since,
            filter: self.filter.clone(),
            rate: self.rate,
            effects: self.effects,
            first: self.first,
            last: self.rebuild.as_ref().map_or(self.last, |counted| counted.through.max(self.position)),
            position: self.position,
            events: self.events,
            delivered: self.delivered,
            dropped: self.dropped,
            held,
            started_at: self.started_at,
            ended_at: self.ended_at,
            failure: self.rebuild.as_ref().and_then(|counted| counted.failure.clone()).map(Box::new),
            lags: self.state == BackfillState::Running && self.rebuild.as_ref().is_some_and(|counted| counted.lags),
        }
    }

    pub fn is_rebuild(&self) -> bool {
        self.rebuild.is_some()
    }

    pub fn from(&self) -> FromBackfill {
        FromBackfill { number: self.number, effects: self.effects }
    }

    pub fn is_under_way(&self) -> bool {
        matches!(self.state, BackfillState::Running | BackfillState::Paused)
    }

    fn spans(&self, position: u64) -> bool {
        (self.first..=self.last).contains(&position)
    }

    fn is_about(&self, logged: &Logged) -> bool {
        self.spans(logged.position())
            && self.heard.as_ref().is_none_or(|heard| heard.want(&logged.event))
            && self.filter.as_ref().is_none_or(|filter| logged.event.passes(filter))
    }

    /// Whether nothing of it is left to be brought: what stands at the head of a lane goes its own way. What was never offered
    /// counts as offered once a rebuild is handed over.
    fn is_through(&self, place: &Place, seq: u64) -> bool {
        if self.is_rebuild() {
            return self.state == BackfillState::Done;
        }
        let at_head = || place.head.is_some_and(|head| head.seq == seq && head.from == Some(self.from()));
        place.history_through(self.number) >= seq || at_head()
    }
}

/// How an event of history that was not delivered yet comes to its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// When the backfill comes to it.
    Backfill,
    /// With its lane, which stood at an exception when the backfill came by.
    Itself(FromBackfill),
}

/// All backfills of one consumer, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Fills {
    /// Raised whenever one begins, ends, or is steered.
    pub version: u64,
    pub all: Vec<Fill>,
}

impl Fills {
    /// As the table has them; `version` is what the consumer's item said before.
    pub async fn load(store: &Store, name: &ConsumerName, version: u64) -> Result<Self> {
        if version == 0 {
            return Ok(Self::default());
        }
        let (from, to) = ("0".to_owned(), "9~".to_owned());
        let span = Span { partition: backfills_partition(name), from, to, newest_first: false, limit: usize::MAX };
        let mut all: Vec<Fill> = Vec::new();
        for item in store.table.query(span).await? {
            // Its sums stand behind each.
            match (item.text("sk")?.split_once('#'), all.last_mut()) {
                (Some((_, DELIVERED)), Some(fill)) => fill.delivered = item.number_or_none("n")?.unwrap_or_default(),
                (Some((_, DROPPED)), Some(fill)) => fill.dropped = item.number_or_none("n")?.unwrap_or_default(),
                (Some(_), _) => {}
                (None, _) => all.push(Fill::read(&item)?),
            }
        }
        Ok(Self { version, all })
    }

    pub fn under_way(&self) -> Option<&Fill> {
        self.all.iter().find(|fill| fill.is_under_way())
    }

    pub fn running(&self) -> Option<&Fill> {
        self.all.iter().find(|fill| fill.state == BackfillState::Running)
    }

    pub fn newest(&self) -> i64 {
        self.all.last().map_or(0, |fill| fill.number)
    }

    /// The backfill that brings the event, or has.
    pub fn of(&self, place: &Place, logged: &Logged) -> Option<&Fill> {
        let keeps = |fill: &&Fill| fill.state != BackfillState::Cancelled || fill.is_through(place, logged.seq);
        self.all.iter().filter(|fill| fill.is_about(logged)).find(keeps)
    }

    /// Whether a backfill is through with the event; `None` where none is about it.
    pub fn through(&self, place: &Place, logged: &Logged) -> Option<bool> {
        self.of(place, logged).map(|fill| fill.is_through(place, logged.seq))
    }

    /// How the event comes to the consumer, if it is one of history that has to come still. What a rebuild handles does not
    /// come in lanes.
    pub fn brings(&self, place: &Place, logged: &Logged) -> Option<Way> {
        let fill = self.of(place, logged).filter(|fill| !fill.is_rebuild() && !fill.is_through(place, logged.seq))?;
        let comes = fill.is_under_way() && logged.position() > fill.position;
        Some(if comes { Way::Backfill } else { Way::Itself(fill.from()) })
    }

    /// Those that may have history to bring into lanes.
    fn in_lanes(&self) -> impl Iterator<Item = &Fill> + Clone {
        let brings = |fill: &&Fill| fill.state != BackfillState::Cancelled && fill.first <= fill.last;
        self.all.iter().filter(|fill| !fill.is_rebuild()).filter(brings)
    }

    /// Of a lane: behind which event, and up to which position, there may be history that is not through.
    pub fn ahead(&self, place: &Place) -> Option<(u64, u64)> {
        let bring = || self.in_lanes();
        let after = bring().map(|fill| place.history_through(fill.number)).min()?;
        Some((after, bring().map(|fill| fill.last).max()?))
    }

    /// Whether history before a live event may not be through, by what the event tells of the events before it.
    pub fn may_be_ahead(&self, place: &Place, heard: &Subscriptions, logged: &Logged) -> bool {
        let bring = || self.in_lanes();
        if bring().next().is_none() {
            return false;
        }
        let is_open = |prior: &Prior| {
            let mut about = bring().filter(|fill| fill.spans(prior.position()));
            let through = |fill: &Fill| fill.filter.is_none() && place.history_through(fill.number) >= prior.seq();
            heard.hear(prior.kind()) && about.clone().next().is_some() && !about.any(through)
        };
        let told = u64::try_from(logged.prior.len()).unwrap_or_default();
        told + 1 != logged.seq || logged.prior.iter().any(is_open)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::RawValue;

    use super::*;
    use crate::backend::Backfilled;
    use crate::backend::aws::lane::Tail;
    use crate::event::{Body, Custom, Event, EventId, KindPattern, Position};

    fn fill(number: i64, state: BackfillState, filter: Option<&str>) -> Fill {
        let asked = Backfill {
            from: Since::Beginning,
            filter: filter.map(|filter| Filter::parse(filter).unwrap()),
            rate: "1/s".parse().unwrap(),
            effects: BackfillEffects::All,
            of: Backfilled::Missed,
        };
        let heard = std::iter::once("com.*".parse::<KindPattern>().unwrap()).collect();
        Fill { state, ..Fill::new(number, &asked, Some(heard), (1, 100), (1, 100)) }
    }

    /// The event `seq` of a lane, at ten times its position.
    fn event(seq: u64, kind: &str) -> Logged {
        let mut tail = Tail::default();
        loop {
            let data = RawValue::from_string(format!(r#"{{"n":{}}}"#, tail.seq + 1)).unwrap().into();
            let custom = Custom {
                kind: kind.into(),
                source: "/shop".into(),
                origin_id: None,
                subject: "s".into(),
                order_id: None,
                data,
            };
            let position = Position::new((tail.seq + 1) * 10).unwrap();
            let (id, time) = (EventId::generate(), Timestamp::now());
            let event = Event { id, position, time, cause: None, depth: 0, body: Body::Custom(custom) };
            let logged = tail.next(Arc::new(event), None, false);
            if logged.seq == seq {
                return logged;
            }
            tail = Tail::behind(&logged);
        }
    }

    fn of(fills: &[Fill]) -> Fills {
        Fills { version: 1, all: fills.to_vec() }
    }

    #[test]
    fn an_event_is_the_first_backfills_that_is_about_it_but_for_what_a_cancelled_one_left() {
        let (done, nowhere, second) = (fill(1, BackfillState::Done, None), Place::default(), event(2, "com.a"));
        let running = fill(2, BackfillState::Running, None);
        let whose = |fills: &Fills, place: &Place| fills.of(place, &second).map(|fill| fill.number);
        assert_eq!(whose(&of(&[done, running.clone()]), &nowhere), Some(1));
        let cancelled = of(&[fill(1, BackfillState::Cancelled, None), running.clone()]);
        assert_eq!(whose(&cancelled, &nowhere), Some(2));
        let through = nowhere.through(2, Some(cancelled.all[0].from()), None);
        assert_eq!(whose(&cancelled, &through), Some(1));
        assert_eq!(cancelled.brings(&through, &second), None, "it was delivered before the cancel");
        let narrow = of(&[fill(1, BackfillState::Done, Some(r#"{"n": [1]}"#)), running]);
        assert_eq!(whose(&narrow, &nowhere), Some(2));
        assert_eq!(narrow.of(&nowhere, &event(2, "org.b")).map(|fill| fill.number), None, "it was not heard");
        assert_eq!(narrow.of(&nowhere, &event(11, "com.a")).map(|fill| fill.number), None, "it is live");
    }

    #[test]
    fn what_the_backfill_went_by_comes_with_its_lane_and_the_rest_with_the_backfill() {
        let running = Fill { position: 20, ..fill(1, BackfillState::Running, None) };
        let (from, nowhere) = (running.from(), Place::default());
        let fills = of(&[running]);
        assert_eq!(fills.brings(&nowhere, &event(2, "com.a")), Some(Way::Itself(from)));
        assert_eq!(fills.brings(&nowhere, &event(3, "com.a")), Some(Way::Backfill));
        assert_eq!(fills.brings(&nowhere.through(3, Some(from), None), &event(3, "com.a")), None);
        let done = of(&[fill(1, BackfillState::Done, None)]);
        assert_eq!(done.brings(&nowhere, &event(3, "com.a")), Some(Way::Itself(from)));
        let cancelled = of(&[fill(1, BackfillState::Cancelled, None)]);
        assert_eq!(cancelled.brings(&nowhere, &event(3, "com.a")), None);
    }

    #[test]
    fn a_rebuild_brings_nothing_into_lanes_and_has_offered_all_once_it_is_handed_over() {
        let rebuild = |state| Fill {
            rebuild: Some(Counted { through: 100, failure: None, lags: false }),
            ..fill(2, state, None)
        };
        let (nowhere, second) = (Place::default(), event(2, "com.a"));
        for (state, through) in
            [(BackfillState::Running, Some(false)), (BackfillState::Done, Some(true)), (BackfillState::Cancelled, None)]
        {
            let fills = of(&[rebuild(state)]);
            assert_eq!(fills.through(&nowhere, &second), through);
            assert_eq!((fills.brings(&nowhere, &second), fills.ahead(&nowhere)), (None, None));
            let heard: Subscriptions = std::iter::once("com.*".parse::<KindPattern>().unwrap()).collect();
            assert!(!fills.may_be_ahead(&nowhere, &heard, &event(11, "com.a")));
        }
        let behind = of(&[rebuild(BackfillState::Done), fill(3, BackfillState::Running, None)]);
        assert_eq!(behind.of(&nowhere, &second).map(|fill| fill.number), Some(2), "it is not delivered once more");
    }

    #[test]
    fn a_live_event_is_suspected_of_history_only_where_what_is_before_it_may_not_be_through() {
        let fills = of(&[fill(1, BackfillState::Done, None)]);
        let heard: Subscriptions = std::iter::once("com.*".parse::<KindPattern>().unwrap()).collect();
        let (nowhere, live) = (Place::default(), event(11, "com.a"));
        assert!(fills.may_be_ahead(&nowhere, &heard, &live));
        let through = nowhere.through(10, Some(fills.all[0].from()), None);
        assert!(!fills.may_be_ahead(&through, &heard, &live));
        assert!(!fills.may_be_ahead(&nowhere, &heard, &event(11, "org.b")), "the consumer does not hear of them");
        assert!(fills.may_be_ahead(&through, &heard, &event(40, "com.a")), "the event does not tell of all before it");
        assert!(!of(&[]).may_be_ahead(&nowhere, &heard, &live));
    }
}
