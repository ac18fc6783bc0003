//! A version that handles recorded events, beside the one that it is compared with: each on a copy of a state that is its own,
//! so that what it does to an event has the consequences for later ones that it would have had.
//!
//! Events come in the order of the journal, and each is handled once. Orders are what history made of them, whatever either
//! version does; one that ends otherwise than done changes nothing, and holds up nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::differences::{Kind, Outcomes, differences};
use super::known;
use super::masked::Mask;
use super::report::{Compared, Ledger, Report};
use crate::backend::{Excess, Kept, Origin, Result, StateCopy};
use crate::capability::TRIAL;
use crate::clock::Timestamp;
use crate::delivery::full;
use crate::effects::Effects;
use crate::event::{Event, Subscriptions};
use crate::policy::ConsumerName;
use crate::sandbox::{Outcome, Version};

/// One of the two.
pub struct Side {
    pub name: ConsumerName,
    pub version: Arc<Version>,
    pub subscriptions: Subscriptions,
    pub state: Arc<dyn StateCopy>,
    pub state_bytes_max: u64,
}

/// What a version did with the events that were compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Did {
    /// Events of the range that it hears.
    pub heard: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How many of each kind the events that were done had.
    pub effects: BTreeMap<Kind, usize>,
    /// Events at which it called somebody over HTTP, which was refused.
    pub called_out: u64,
}

/// Both of them, or the candidate beside nothing.
pub struct Replay {
    candidate: Side,
    live: Option<Side>,
    did: [Did; 2],
    ledger: Ledger,
    began: Timestamp,
}

impl Side {
    /// Handles the event, and keeps what it did to the state. `None` where it does not hear it.
    ///
    /// # Errors
    /// Where what is handled on cannot be read or written.
    pub async fn handle(&self, event: &Arc<Event>) -> Result<Option<(Outcome, Effects)>> {
        if !self.subscriptions.want(event) {
            return Ok(None);
        }
        let view = Arc::clone(&self.state).view_at(event.position);
        let handled = self.version.handle_event(event, 1, Origin::Live, view).await;
        let mut outcome = handled.outcome;
        match &outcome {
            Outcome::Store(error) => return Err(error.clone()),
            Outcome::Done => {
                if let Kept::Full { bytes } = self.state.keep(&handled.effects, self.state_bytes_max)? {
                    outcome = full(&self.name, self.state_bytes_max, &Excess::State { bytes });
                }
            }
            Outcome::Retry { .. } | Outcome::Reject { .. } | Outcome::Trap { .. } | Outcome::Timeout { .. } => {}
        }
        Ok(Some((outcome, handled.effects)))
    }
}

impl Replay {
    /// Beside nothing, all that the candidate does is a difference.
    #[must_use]
    pub fn new(candidate: Side, live: Option<Side>) -> Self {
        Self { candidate, live, did: Default::default(), ledger: Ledger::new(), began: Timestamp::now() }
    }

    /// # Errors
    /// As [`Side::handle`].
    pub async fn compare(&mut self, event: &Arc<Event>) -> Result<()> {
        let [candidate_did, live_did] = &mut self.did;
        let candidate = self.candidate.handle(event).await?;
        candidate_did.note(candidate.as_ref());
        let live = match &self.live {
            Some(live) => live.handle(event).await?,
            // It hears what the candidate does, and does nothing about it.
            None => candidate.as_ref().map(|_| (Outcome::Done, Effects::default())),
        };
        live_did.note(live.as_ref());
        let [live, candidate] =
            [&live, &candidate].map(|side| side.as_ref().map(|(outcome, effects)| Outcomes::of(outcome, effects)));
        self.ledger.note(match (&live, &candidate) {
            (None, None) => return Ok(()),
            (Some(live), Some(candidate)) => {
                // What either wrote down as "now" at an earlier event is read again at later ones.
                let mask = Mask::new(known(event), self.began, Timestamp::now());
                Compared::new(event, differences(live, candidate, &mask))
            }
            (live, candidate) => Compared::unheard(event, live.as_ref(), candidate.as_ref()),
        });
        Ok(())
    }

    /// What the candidate did, what the live version did if there is one, and in what they differ.
    #[must_use]
    pub fn end(self) -> (Did, Option<Did>, Report) {
        let [candidate, live] = self.did;
        (candidate, self.live.map(|_| live), self.ledger.report())
    }
}

impl Did {
    fn note(&mut self, handled: Option<&(Outcome, Effects)>) {
        let Some((outcome, effects)) = handled else { return };
        self.heard += 1;
        *self.outcomes.entry(Outcomes::of(outcome, effects).name()).or_default() += 1;
        self.called_out += u64::from(matches!(outcome, Outcome::Trap { kind, .. } if kind == TRIAL));
        if !matches!(outcome, Outcome::Done) {
            return;
        }
        for (kind, count) in [
            (Kind::State, effects.entries.len() + effects.adjustments.len()),
            (Kind::OrderChanges, effects.order_changes.len()),
            (Kind::Events, effects.events.len()),
            (Kind::Messages, effects.messages.len()),
            (Kind::Records, effects.records.len()),
        ] {
            *self.effects.entry(kind).or_default() += count;
        }
    }
}
