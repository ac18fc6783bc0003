//! What the table says of a consumer, and which events concern it.

use crate::backend::aws::item::Item;
use crate::backend::aws::lane::{Logged, Prior};
use crate::backend::aws::layouts::{Kept, Laid};
use crate::backend::aws::weight::{self, Total};
use crate::backend::{Error, Pause, Result};
use crate::clock::Timestamp;
use crate::event::filter::Filter;
use crate::event::{Subscription, Subscriptions};
use crate::policy::ConsumerName;

/// Changes of what a consumer hears that are remembered: by then, what is older has long been delivered or passed by.
const EPOCHS_MAX: usize = 8;
/// What the table says of a consumer.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: ConsumerName,
    /// What tells it from one of the same name that was forgotten. Those of earlier releases have none.
    pub id: Option<String>,
    /// Events below this position are no business of it.
    pub start: u64,
    pub generation: i64,
    pub paused: Option<Pause>,
    /// What it heard, from which position on; oldest first.
    pub epochs: Vec<Epoch>,
    pub done: u64,
    pub catch_up: CatchUp,
    /// What its state weighs; `None` where it was never weighed.
    pub total: Option<Total>,
    /// Changes of its backfills, and the number of the one that is under way.
    pub fills: u64,
    pub filling: Option<i64>,
    /// That one, where it is a rebuild or a way back.
    pub rebuilding: Option<i64>,
    /// The rebuild is about to be handed over.
    pub near: Option<Near>,
    /// Generations that are no use any more, and not cleared yet.
    pub past: Vec<i64>,
    /// The layout of its state, where somebody said one.
    pub laid: Option<Laid>,
    /// The state of the layout before.
    pub kept: Option<Kept>,
    /// The generation that the state is copied to, to be kept.
    pub copying: Option<i64>,
    /// Copies that were begun until now.
    pub copies: i64,
    /// Functions have handled its events: who commits them is not known by their slots alone.
    pub by_functions: bool,
}

/// One try to hand a rebuild over, while which no live delivery starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near {
    /// Never that of another try.
    pub number: u64,
    /// Whoever is left waiting after this ends the try.
    pub until: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    pub since: u64,
    /// `None` where it was not there, and passed nothing by.
    pub heard: Option<Subscriptions>,
}

/// How far the journal was followed: see `catch_up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// At and below this position everything is done, or stands at an exception.
    pub after: u64,
    /// Up to this one, the queue may not be told of events.
    pub until: u64,
}

impl CatchUp {
    /// Whether events come by the journal, and not by the queue alone.
    pub fn is_eager(self) -> bool {
        self.after < self.until
    }
}

impl Known {
    pub fn read(item: &Item) -> Result<Self> {
        let epochs: Vec<(u64, Option<Vec<String>>)> = item.json_or_none("epochs")?.unwrap_or_default();
        let generation = item.number_or_none("gen")?.unwrap_or_default();
        let filling = item.number_or_none("bfa")?;
        let rebuilding = filling.filter(|_| item.number_or_none::<u8>("bfr").is_ok_and(|is| is.is_some()));
        let near = item.number_or_none("nr")?.zip(item.time_or_none("nru")?);
        let kept: Option<Kept> = item.json_or_none("kp")?;
        let copying = item.number_or_none("cpg")?;
        let in_use = [Some(generation), rebuilding, copying, kept.as_ref().map(|kept| kept.generation)];
        let mut past = weight::generations(item);
        past.retain(|other| !in_use.contains(&Some(*other)));
        let then = |then: Option<Vec<String>>| then.as_deref().map(heard).transpose();
        let epochs = epochs.into_iter().map(|(since, heard)| Ok(Epoch { since, heard: then(heard)? }));
        Ok(Self {
            name: item.parse("sk")?,
            id: item.text_or_none("id").map(str::to_owned),
            start: item.number("start")?,
            generation,
            paused: item
                .time_or_none("psince")?
                .map(|since| Pause { since, reason: item.text_or_none("preason").map(str::to_owned) }),
            epochs: epochs.collect::<Result<_>>()?,
            done: item.number_or_none("dn")?.unwrap_or_default(),
            catch_up: catch_up(item)?,
            total: Total::read(item, generation)?,
            fills: item.number_or_none("bfv")?.unwrap_or_default(),
            filling,
            rebuilding,
            near: near.map(|(number, until)| Near { number, until }).filter(|_| rebuilding.is_some()),
            past,
            laid: Laid::read(item)?,
            kept,
            copying,
            copies: item.number_or_none("cpn")?.unwrap_or_default(),
            by_functions: item.number_or_none::<u8>("byf")?.is_some(),
        })
    }

    /// Whether a way back was handed over between this and what is known later, which wrote what the consumer hears since then.
    pub fn has_gone_back(&self, later: &Self) -> bool {
        later.laid > self.laid && later.generation != self.generation
    }

    /// Notes that `heard` counts for what comes behind `newest`, or with `None` that nothing is passed by from there on. What
    /// to write down, if that is news.
    pub fn hears(&mut self, heard: Option<&Subscriptions>, newest: u64) -> Option<Vec<Epoch>> {
        let heard = heard.map(Subscriptions::everywhere);
        if self.epochs.last().map_or(heard.is_none(), |last| last.heard == heard) {
            return None;
        }
        // What came while nothing was passed by is judged by what is heard then; if that is what was heard before, it is as if
        // it had never ceased.
        if let [.., before, stopped] = self.epochs.as_slice()
            && stopped.heard.is_none()
            && before.heard == heard
        {
            self.epochs.pop();
            return Some(self.epochs.clone());
        }
        let since = if self.epochs.is_empty() { 0 } else { newest + 1 };
        self.epochs.push(Epoch { since, heard });
        let surplus = self.epochs.len().saturating_sub(EPOCHS_MAX);
        self.epochs.drain(..surplus);
        Some(self.epochs.clone())
    }

    /// What an older answer says, but for what it says of backfills.
    pub fn but_for_backfills(&self, older: Self) -> Self {
        let total = older.total.filter(|_| older.generation == self.generation);
        let Self { generation, fills, filling, rebuilding, near, .. } = *self;
        Self { generation, fills, filling, rebuilding, near, total, past: self.past.clone(), ..older }
    }

    /// What it heard when it was last there.
    pub fn last_heard(&self) -> Option<&Subscriptions> {
        self.epochs.iter().rev().find_map(|epoch| epoch.heard.as_ref())
    }

    /// Whether all that the consumer heard since the event was there holds: what it passed by once stays so.
    fn heard_since(&self, position: u64, hears: impl Fn(&Subscriptions) -> bool) -> bool {
        let first = self.epochs.iter().rposition(|epoch| epoch.since <= position).unwrap_or(0);
        self.epochs.iter().skip(first).all(|epoch| epoch.heard.as_ref().is_none_or(&hears))
    }

    /// Whether the consumer, which hears `heard` now, should get the event. What it hears of a share of the lanes alone is
    /// not remembered.
    pub fn wants_by(&self, heard: &Subscriptions, logged: &Logged) -> bool {
        let event = &logged.event;
        logged.position() >= self.start
            && heard.want(event)
            && (!heard.everywhere().want(event) || self.heard_since(logged.position(), |then| then.want(event)))
    }

    /// Whether the event is none of the consumer's, whatever it may hear later.
    pub fn passed_by(&self, logged: &Logged) -> bool {
        logged.position() < self.start || !self.heard_since(logged.position(), |then| then.want(&logged.event))
    }

    /// Whether it may be one that [`Known::wants_by`] wants.
    pub fn may_want(&self, heard: &Subscriptions, prior: &Prior) -> bool {
        let common = || heard.everywhere().hear(prior.kind());
        prior.position() >= self.start
            && heard.hear(prior.kind())
            && (!common() || self.heard_since(prior.position(), |then| then.hear(prior.kind())))
    }
}

/// How far the journal was followed.
pub fn catch_up(item: &Item) -> Result<CatchUp> {
    Ok(CatchUp { after: item.number("cua")?, until: item.number("cuu")? })
}

/// What was heard, as it is written down.
pub fn heard(heard: &[String]) -> Result<Subscriptions> {
    let one = |text: &String| {
        let (kind, filter) = text.split_once(' ').map_or((text.as_str(), None), |(kind, filter)| (kind, Some(filter)));
        Some(Subscription { kind: kind.parse().ok()?, filter: filter.map(Filter::parse).transpose().ok()? })
    };
    let unreadable = || Error::Failed("what a consumer heard cannot be read from the table".into());
    heard.iter().map(|text| one(text).ok_or_else(unreadable)).collect::<Result<Vec<_>>>().map(Subscriptions::from_iter)
}

pub fn spoken(epochs: &[Epoch]) -> Vec<(u64, Option<Vec<String>>)> {
    epochs.iter().map(|epoch| (epoch.since, epoch.heard.as_ref().map(said))).collect()
}

/// What is heard, to be written down.
pub fn said(heard: &Subscriptions) -> Vec<String> {
    heard.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::KindPattern;

    fn known() -> Known {
        Known {
            name: "alpha".parse().unwrap(),
            id: None,
            start: 0,
            generation: 0,
            paused: None,
            epochs: Vec::new(),
            done: 0,
            catch_up: CatchUp { after: 0, until: 0 },
            total: None,
            fills: 0,
            filling: None,
            rebuilding: None,
            near: None,
            past: Vec::new(),
            laid: None,
            kept: None,
            copying: None,
            copies: 0,
            by_functions: false,
        }
    }

    fn hears(kind: &str) -> Subscriptions {
        std::iter::once(kind.parse::<KindPattern>().unwrap()).collect()
    }

    fn wants(known: &Known, now: &str, kind: &str, position: u64) -> bool {
        known.may_want(&hears(now), &Prior(1, kind.into(), position))
    }

    #[test]
    fn what_was_passed_by_stays_so_and_what_came_while_nobody_was_there_is_judged_later() {
        let mut known = known();
        known.hears(Some(&hears("order.*")), 0);
        known.hears(Some(&hears("order.confirmed")), 10);
        known.hears(Some(&hears("order.*")), 20);
        assert!(!wants(&known, "order.*", "order.placed", 5), "it waited when it ceased to be heard");
        assert!(!wants(&known, "order.*", "order.placed", 15));
        assert!(wants(&known, "order.*", "order.confirmed", 15));
        assert!(wants(&known, "order.*", "order.placed", 21));
        known.hears(None, 30);
        known.hears(Some(&hears("com.*")), 40);
        assert!(wants(&known, "com.*", "com.a", 35), "nobody passed it by");
        assert!(!wants(&known, "com.*", "com.a", 25));
        known.hears(None, 50);
        known.hears(Some(&hears("com.*")), 60);
        assert_eq!(known.epochs.last().unwrap().since, 41, "as if it had never ceased");
    }
}
