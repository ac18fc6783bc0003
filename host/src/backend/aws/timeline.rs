//! The timeline of an order, put together from its lane, the places of the consumers in it, and the messages.

use async_trait::async_trait;

use super::Aws;
use super::backfills::History;
use super::item::{Key, LaneKey, MESSAGES, position_sort};
use super::lane::Logged;
use super::outgoing;
use super::place::{Handled, HeadState, Made, Past, Place, look};
use super::table::Span;
use crate::backend::{AttemptReport, DeliveryState, Error, Moment, Page, Result, Timelines, What};
use crate::clock::Timestamp;
use crate::effects::Message;
use crate::event::{Body, Event, Lane};
use crate::order::OrderId;
use crate::policy::ConsumerName;

#[async_trait]
impl Timelines for Aws {
    async fn timeline(&self, order: OrderId, after: Option<String>, events: usize) -> Result<Page<Moment>> {
        let cursor = |text: String| text.parse::<u64>().map_err(|_| Error::NotACursor(text.as_str().into()));
        let after = after.map(cursor).transpose()?.unwrap_or_default();
        let lane = LaneKey::of(&Lane::Order(order));
        let mut logged = self.store.logged_after(&lane, after, events.saturating_add(1)).await?;
        let more = logged.len() > events;
        logged.truncate(events);
        let mut consumers = Vec::new();
        for known in self.store.known().await? {
            let (place, past) = look(&self.store, &known.name, &lane).await?;
            let history = self.store.history(&known).await?;
            consumers.push((known, history, place, past));
        }
        let mut moments = Vec::new();
        for logged in &logged {
            moments.push(event(logged));
            self.messages(&logged.event, &mut moments).await?;
            for (known, history, place, past) in &consumers {
                let wanted = self.store.wants(known, logged);
                let whats = delivery(logged, place, wanted, history, past.get(&logged.seq));
                moments.extend(whats.into_iter().map(|what| moment(&logged.event, Some(&known.name), what)));
                self.made(logged, place, &known.name, &mut moments).await?;
            }
        }
        moments.sort_by_key(|moment| moment.what.time());
        let next = logged.last().filter(|_| more).map(|last| last.seq.to_string());
        Ok(Page { items: moments, next })
    }
}

fn moment(event: &Event, consumer: Option<&ConsumerName>, what: What) -> Moment {
    Moment { what, event_id: event.id, kind: event.kind().to_owned(), consumer: consumer.cloned() }
}

fn event(logged: &Logged) -> Moment {
    let event = &logged.event;
    let change = match &event.body {
        Body::OrderChanged { change, .. } => Some(change.clone()),
        Body::Custom(_) => None,
    };
    let what = What::Event { time: event.time, position: event.position, cause: event.cause, change };
    moment(event, logged.by.as_ref(), what)
}

/// What is known of one delivery.
fn delivery(logged: &Logged, place: &Place, wanted: bool, history: &History, past: Option<&Past>) -> Vec<What> {
    let mut whats = Vec::new();
    let attempt = |attempt| What::Attempt { attempt: Box::new(attempt), run: None };
    if let Some(past) = past {
        whats.extend(past.attempts.iter().cloned().map(attempt));
        whats.extend(past.edited.clone().map(|copy| What::Edited { time: copy.time, data: copy.data }));
        whats.extend(past.discarded.map(|time| What::Discarded { time }));
    }
    let handled = place.handled.iter().find(|handled| handled.0 == logged.seq);
    whats.extend(handled.map(|Handled(_, millis, duration_us, version)| {
        attempt(AttemptReport {
            attempt: 1,
            outcome: None,
            cause: None,
            backtrace: None,
            version: version.to_string(),
            duration_us: *duration_us,
            time: Timestamp::from_millis(*millis),
            origin: history.origin(logged),
            edited: false,
            candidate: false,
            effects: None,
            log: Vec::new(),
            calls: Vec::new(),
        })
    }));
    let due = match place.head {
        Some(head) if head.seq == logged.seq => match head.state {
            HeadState::Retrying(at) => Some(at),
            HeadState::Waiting | HeadState::Dead => None,
        },
        _ => None,
    };
    let open = place.state_of(logged, wanted, history.of(place, logged), past);
    let open = open.filter(|state| !matches!(state, DeliveryState::Done | DeliveryState::Discarded));
    whats.extend(open.map(|state| What::Open { state, due }));
    whats
}

impl Aws {
    /// What a delivery left outside of the lane.
    async fn made(&self, logged: &Logged, place: &Place, name: &ConsumerName, moments: &mut Vec<Moment>) -> Result<()> {
        for Made(_, millis, rows, events) in place.made.iter().filter(|made| made.0 == logged.seq) {
            let time = Timestamp::from_millis(*millis);
            for (dataset, count) in rows {
                let what = What::Records { time, dataset: dataset.to_string(), count: *count };
                moments.push(moment(&logged.event, Some(name), what));
            }
            let keys: Vec<Key> = events.iter().map(|(lane, seq)| Key::event(&LaneKey::known(lane), *seq)).collect();
            moments.extend(self.store.logged_at(&keys).await?.iter().map(event));
        }
        Ok(())
    }

    async fn messages(&self, event: &Event, moments: &mut Vec<Moment>) -> Result<()> {
        let from = format!("{}#", position_sort(event.position.get()));
        let span =
            Span { to: format!("{from}~"), from, partition: MESSAGES.into(), newest_first: false, limit: usize::MAX };
        for item in self.store.table.query(span).await? {
            let (by, message): (ConsumerName, Message) = (item.parse("by")?, item.json("m")?);
            let what = What::Message {
                time: item.time("t")?,
                id: item.text("id")?.to_owned(),
                kind: message.kind(),
                to: message.to().to_owned(),
                state: outgoing::state(&item)?,
            };
            moments.push(moment(event, Some(&by), what));
        }
        Ok(())
    }
}
