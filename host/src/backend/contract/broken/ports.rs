//! The ports of a real backend, with a fault before them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::Fault;
use crate::backend::{
    AttemptBy, Backend, Changed, ConsumerReport, Consumers, Delivery, Durable, Finished, Forgotten, Inbox, InboxPolicy,
    Intake, Pause, Placed, Placement, Published, Result, Settlement, StatePage, StateQuery, View,
};
use crate::effects::{Effects, Reads};
use crate::event::{Body, Custom, Event, EventId};
use crate::order::{Change, OrderId};
use crate::policy::{ConsumerName, OnDead, Start};

/// `backend` with one promise broken.
pub fn break_promise(backend: Backend, fault: Fault) -> Backend {
    let intake = Arc::new(BrokenIntake { real: Arc::clone(&backend.intake), fault, parts: AtomicU64::new(0) });
    let consumers = Arc::new(BrokenConsumers { real: Arc::clone(&backend.consumers), fault });
    Backend { intake, consumers, ..backend }
}

struct BrokenIntake {
    real: Arc<dyn Intake>,
    fault: Fault,
    /// Of lanes that are split.
    parts: AtomicU64,
}

#[async_trait]
impl Intake for BrokenIntake {
    async fn place(&self, mut placement: Placement) -> Result<Durable<Placed>> {
        match self.fault {
            Fault::OrdersForgotten => return Ok(Durable::assert(Placed::New(placement.order))),
            Fault::KeysForgotten => placement.idempotency_key = None,
            _ => {}
        }
        self.real.place(placement).await
    }

    async fn change(&self, id: OrderId, change: Change) -> Result<Durable<Changed>> {
        self.real.change(id, change).await
    }

    async fn publish(&self, mut events: Vec<Custom>) -> Result<Durable<Vec<Published>>> {
        match self.fault {
            Fault::EventsForgotten => {
                let published = |_| Published { id: EventId::generate(), repeated: false };
                return Ok(Durable::assert(events.into_iter().map(published).collect()));
            }
            Fault::LanesSplit => {
                for event in &mut events {
                    event.subject =
                        format!("{}{PART}{}", event.subject, self.parts.fetch_add(1, Ordering::SeqCst)).into();
                }
            }
            _ => {}
        }
        self.real.publish(events).await
    }
}

/// Before the number of a lane's part.
const PART: char = '\u{1f}';

/// The event as it was before its lane was split.
fn whole(event: &Event) -> Option<Event> {
    let Body::Custom(custom) = &event.body else { return None };
    let (subject, _) = custom.subject.split_once(PART)?;
    Some(Event { body: Body::Custom(Custom { subject: subject.into(), ..custom.clone() }), ..event.clone() })
}

struct BrokenConsumers {
    real: Arc<dyn Consumers>,
    fault: Fault,
}

#[async_trait]
impl Consumers for BrokenConsumers {
    async fn attach(&self, name: &ConsumerName, start: Start) -> Result<Arc<dyn Inbox>> {
        let (real, fault) = (self.real.attach(name, start).await?, self.fault);
        let (again, seen, parts) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Arc::new(BrokenInbox { real, fault, again, seen, parts }))
    }

    async fn introduce(&self, name: &ConsumerName, start: Start) -> Result<()> {
        self.real.introduce(name, start).await
    }

    async fn known(&self) -> Result<Vec<ConsumerReport>> {
        self.real.known().await
    }

    async fn state(&self, name: &ConsumerName, query: StateQuery) -> Result<StatePage> {
        self.real.state(name, query).await
    }

    async fn forget(&self, name: &ConsumerName) -> Result<Durable<Forgotten>> {
        self.real.forget(name).await
    }

    async fn set_pause(&self, name: &ConsumerName, pause: Option<Pause>) -> Result<Durable<bool>> {
        self.real.set_pause(name, pause).await
    }

    async fn pause(&self, name: &ConsumerName) -> Result<Option<Pause>> {
        self.real.pause(name).await
    }
}

struct BrokenInbox {
    real: Arc<dyn Inbox>,
    fault: Fault,
    /// Done, and to be leased once more.
    again: Mutex<Vec<Delivery>>,
    seen: Mutex<HashSet<EventId>>,
    /// The events of lanes that are split, as the real inbox knows them.
    parts: Mutex<HashMap<EventId, Arc<Event>>>,
}

impl BrokenInbox {
    /// What is handed to the real inbox in place of `settlement`.
    fn spoil(&self, settlement: Settlement) -> Settlement {
        match (self.fault, settlement) {
            (Fault::EffectsLost, Settlement::Done { ran, .. })
            | (Fault::LettersDropped, Settlement::Dead { ran, .. })
            | (Fault::RetriesDropped, Settlement::Retry { ran, .. }) => {
                Settlement::Done { effects: Effects::default(), ran }
            }
            (Fault::OutboxLost, Settlement::Done { mut effects, ran }) => {
                effects.messages.clear();
                effects.records.clear();
                Settlement::Done { effects, ran }
            }
            (Fault::FloorsIgnored, Settlement::Done { mut effects, ran }) => {
                effects.adjustments.iter_mut().for_each(|adjustment| adjustment.floor = None);
                Settlement::Done { effects, ran }
            }
            // With a policy that skips, the lane goes on.
            (Fault::RetriesPassed, Settlement::Retry { cause, ran, .. }) => Settlement::Dead { cause, ran },
            (_, settlement) => settlement,
        }
    }
}

#[async_trait]
impl Inbox for BrokenInbox {
    fn configure(&self, policy: InboxPolicy) {
        let passes = matches!(self.fault, Fault::RetriesPassed | Fault::LettersPassed);
        self.real.configure(if passes { InboxPolicy { on_dead: OnDead::Skip, ..policy } } else { policy });
    }

    fn lease(&self) -> Option<Delivery> {
        if let Some(again) = self.again.lock().pop() {
            return Some(again);
        }
        let mut delivery = self.real.lease()?;
        if let Some(whole) = whole(&delivery.event) {
            let part = std::mem::replace(&mut delivery.event, Arc::new(whole));
            self.parts.lock().insert(part.id, part);
        }
        Some(delivery)
    }

    async fn changed(&self) {
        self.real.changed().await;
    }

    fn view(&self) -> Arc<dyn View> {
        self.real.view()
    }

    fn view_for(&self, delivery: &Delivery) -> Arc<dyn View> {
        self.real.view_for(delivery)
    }

    async fn finish(&self, mut delivery: Delivery, reads: &Reads, settlement: Settlement) -> Finished {
        if let Some(part) = self.parts.lock().get(&delivery.event.id) {
            delivery.event = Arc::clone(part);
        }
        if self.fault == Fault::NotAcknowledged && matches!(settlement, Settlement::Done { .. }) {
            if !self.seen.lock().insert(delivery.event.id) {
                return Finished::Accepted;
            }
            self.again.lock().push(copy(&delivery));
        }
        let settlement = self.spoil(settlement);
        match self.fault {
            Fault::ReadsIgnored => self.real.finish(delivery, &Reads::default(), settlement).await,
            _ => self.real.finish(delivery, reads, settlement).await,
        }
    }

    async fn holds(&self, reads: &Reads) -> Result<bool> {
        if self.fault == Fault::ReadsIgnored { Ok(true) } else { self.real.holds(reads).await }
    }
}

fn copy(delivery: &Delivery) -> Delivery {
    let Delivery { event, attempt, origin, first_attempt_at, generation, lease, .. } = delivery;
    Delivery {
        event: Arc::clone(event),
        attempt: *attempt,
        origin: *origin,
        first_attempt_at: *first_attempt_at,
        generation: *generation,
        by: AttemptBy::Live,
        lease: *lease,
    }
}
