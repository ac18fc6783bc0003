//! In what two handlings of one event differ. Pure.

use serde::Serialize;
use serde_json::value::RawValue;

use super::masked::Mask;
use crate::effects::{Effects, Message};
use crate::sandbox::Outcome;

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One of them does not hear the event at all.
    Subscription,
    /// done, retry, reject, trap or timeout. Then effects are not compared.
    Outcome,
    State,
    OrderChanges,
    Events,
    Messages,
    Records,
}

/// How a handling ended, and what it staged.
pub struct Outcomes<'a> {
    outcome: &'static str,
    detail: Option<String>,
    effects: &'a Effects,
}

/// One difference: what either did.
#[derive(Clone, Debug)]
pub struct Difference {
    pub kind: Kind,
    pub live: Box<RawValue>,
    pub shadow: Box<RawValue>,
}

impl<'a> Outcomes<'a> {
    #[must_use]
    pub fn of(outcome: &Outcome, effects: &'a Effects) -> Self {
        let (outcome, detail) = match outcome {
            Outcome::Done => ("done", None),
            Outcome::Retry { reason, .. } => ("retry", Some(reason.clone())),
            Outcome::Reject { reason } => ("reject", Some(reason.clone())),
            Outcome::Trap { kind, message, .. } => ("trap", Some(format!("{kind}: {message}"))),
            Outcome::Timeout { what, limit, .. } => ("timeout", Some(format!("{what}: {limit:?}"))),
            Outcome::Store(error) => ("store", Some(error.to_string())),
        };
        Self { outcome, detail, effects }
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.outcome
    }

    /// For people: how it ended, and what it staged if it was done.
    #[must_use]
    pub fn shown(&self) -> Box<RawValue> {
        #[derive(Serialize)]
        struct Shown<'s> {
            outcome: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'s str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            effects: Option<Box<RawValue>>,
        }
        let effects = (self.outcome == "done").then(|| staged(self.effects));
        raw(&Shown { outcome: self.outcome, detail: self.detail.as_deref(), effects })
    }
}

#[must_use]
pub fn differences(live: &Outcomes<'_>, shadow: &Outcomes<'_>, mask: &Mask) -> Vec<Difference> {
    if live.outcome != shadow.outcome {
        return vec![Difference { kind: Kind::Outcome, live: live.shown(), shadow: shadow.shown() }];
    }
    if live.outcome != "done" {
        return Vec::new();
    }
    let kinds = [Kind::State, Kind::OrderChanges, Kind::Events, Kind::Messages, Kind::Records];
    let differ = |kind: &Kind| comparable(*kind, live.effects, mask) != comparable(*kind, shadow.effects, mask);
    let told = |kind: Kind| {
        let [live, shadow] = [live, shadow].map(|side| staged(&only(kind, side.effects)));
        Difference { kind, live, shadow }
    };
    kinds.into_iter().filter(differ).map(told).collect()
}

/// Effects of one kind, so that equal ones are equal texts. State is what it comes to, whatever the order of the writes.
fn comparable(kind: Kind, effects: &Effects, mask: &Mask) -> Vec<String> {
    match kind {
        Kind::State => {
            let entries = effects.entries.iter().map(|(key, value)| {
                let value = value.as_deref().map(|bytes| match std::str::from_utf8(bytes) {
                    Ok(text) => mask.text(text),
                    Err(_) => format!("{bytes:?}"),
                });
                format!("entry {} {value:?}", mask.text(key))
            });
            let adjustments =
                effects.adjustments.iter().map(|it| format!("counter {} {} {:?}", it.key, it.by, it.floor));
            let mut all: Vec<String> = entries.chain(adjustments).collect();
            all.sort_unstable();
            all
        }
        Kind::OrderChanges => {
            let text = |(order, change)| format!("{order} {}", mask.text(raw(change).get()));
            effects.order_changes.iter().map(|(order, change)| text((order, change))).collect()
        }
        Kind::Events => {
            let events = effects.events.iter();
            events
                .map(|it| {
                    let order = it.order_id.map(|id| id.to_string());
                    format!("{} {} {order:?} {}", it.kind, mask.text(&it.subject), mask.text(it.data.get()))
                })
                .collect()
        }
        Kind::Messages => effects.messages.iter().map(|message: &Message| mask.text(raw(message).get())).collect(),
        Kind::Records => {
            effects.records.iter().map(|record| format!("{} {}", record.dataset, mask.text(&record.row))).collect()
        }
        Kind::Subscription | Kind::Outcome => Vec::new(),
    }
}

fn only(kind: Kind, effects: &Effects) -> Effects {
    let mut of_kind = Effects::default();
    match kind {
        Kind::State => {
            (of_kind.entries, of_kind.adjustments) = (effects.entries.clone(), effects.adjustments.clone());
        }
        Kind::OrderChanges => of_kind.order_changes.clone_from(&effects.order_changes),
        Kind::Events => of_kind.events.clone_from(&effects.events),
        Kind::Messages => of_kind.messages.clone_from(&effects.messages),
        Kind::Records => of_kind.records.clone_from(&effects.records),
        Kind::Subscription | Kind::Outcome => {}
    }
    of_kind
}

/// Bounded: [`Effects::sketch`].
fn staged(effects: &Effects) -> Box<RawValue> {
    let sketch = effects.sketch().and_then(|sketch| RawValue::from_string(sketch).ok());
    sketch.unwrap_or_else(|| raw(&serde_json::json!({})))
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Texts and numbers are always JSON.
    serde_json::value::to_raw_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::effects::{Adjustment, Record};
    use crate::order::{Change, OrderId};

    fn kinds(live: &Effects, shadow: &Effects) -> Vec<Kind> {
        let mask = Mask::new(Vec::new(), Timestamp::default(), Timestamp::default());
        let [live, shadow] = [live, shadow].map(|effects| Outcomes::of(&Outcome::Done, effects));
        differences(&live, &shadow, &mask).into_iter().map(|difference| difference.kind).collect()
    }

    fn adjust(key: &str, by: i64) -> Adjustment {
        Adjustment { key: key.into(), by, floor: Some(0) }
    }

    #[test]
    fn the_order_of_writes_does_not_matter_and_what_they_come_to_does() {
        let live = Effects { adjustments: vec![adjust("a", 1), adjust("b", 2)], ..Effects::default() };
        let shadow = Effects { adjustments: vec![adjust("b", 2), adjust("a", 1)], ..Effects::default() };
        assert_eq!(kinds(&live, &shadow), []);
        let other = Effects { adjustments: vec![adjust("a", 1), adjust("b", 3)], ..Effects::default() };
        assert_eq!(kinds(&live, &other), [Kind::State]);
    }

    #[test]
    fn every_kind_of_effect_is_compared_on_its_own() {
        let order = OrderId::generate();
        let all = Effects {
            entries: vec![("k".into(), Some(b"v".as_slice().into()))],
            adjustments: Vec::new(),
            order_changes: vec![(order, Change::Confirmed {})],
            events: Vec::new(),
            messages: vec![Message::Sms { to: "+49".into(), text: "hello".into() }],
            records: vec![Record { dataset: "rows".into(), row: "{}".into() }],
        };
        assert_eq!(kinds(&all, &all), []);
        let none = Effects::default();
        assert_eq!(kinds(&all, &none), [Kind::State, Kind::OrderChanges, Kind::Messages, Kind::Records]);
    }

    #[test]
    fn another_outcome_is_the_one_difference_and_says_why() {
        let effects = Effects { adjustments: vec![adjust("a", 1)], ..Effects::default() };
        let mask = Mask::new(Vec::new(), Timestamp::default(), Timestamp::default());
        let reject = Outcome::Reject { reason: "no".to_owned() };
        let found = differences(&Outcomes::of(&Outcome::Done, &effects), &Outcomes::of(&reject, &effects), &mask);
        let [Difference { kind: Kind::Outcome, live, shadow }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(live.get(), r#"{"outcome":"done","effects":{"adjustments":[{"by":1,"floor":0,"key":"a"}]}}"#);
        assert_eq!(shadow.get(), r#"{"outcome":"reject","detail":"no"}"#);
        let both = differences(&Outcomes::of(&reject, &effects), &Outcomes::of(&reject, &effects), &mask);
        assert!(both.is_empty(), "what was staged in vain is nobody's effect");
    }
}
