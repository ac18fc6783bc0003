//! A version that handles the events of the live one without effect: what it would have done is compared, and reported.
//!
//! ```text
//! live handles ──▶ shadow handles, on what the live one was told ──▶ the live one's commit ──▶ the comparison counts
//! ```
//!
//! **Invariants**
//! - Nothing that a shadow stages is committed, and no outcome of it changes what becomes of the delivery.
//! - It never runs in an instance that handled an event before: what such a one remembers was never committed.
//! - What it costs is bounded: its limits are the consumer's, with [`TIME_MAX`] at most, and a slow one rests for several times as
//!   long as it took. What it did not see is counted.

mod differences;
mod masked;
pub mod replay;
pub mod report;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

pub use self::differences::Kind;
pub use self::differences::Outcomes;
use self::differences::differences;
use self::masked::Mask;
use self::report::Compared;
pub use self::report::Ledger;
pub use self::report::Report;
use self::snapshot::Snapshot;
use crate::backend::{Delivery, View};
use crate::clock::Timestamp;
use crate::event::{Event, Subscriptions};
use crate::policy::{Isolation, Policy};
use crate::sandbox::{Outcome, Version};

/// Of one event: the lane waits for it.
pub const TIME_MAX: Duration = Duration::from_secs(1);
/// A shadow that takes no longer costs about what the delivery costs, and sees every event.
const UNNOTICED: Duration = Duration::from_millis(5);
/// One that takes longer rests for so many times as long.
const RESTS: u32 = 9;

#[derive(Clone)]
pub struct Shadow {
    pub version: Arc<Version>,
    pub subscriptions: Subscriptions,
    pub ledger: Arc<Ledger>,
}

/// An event that the shadow is to see, while the live version handles it.
pub struct Watch {
    snapshot: Arc<Snapshot>,
    began: Timestamp,
}

impl Watch {
    /// What the live version is to read.
    #[must_use]
    pub fn view(&self) -> Arc<dyn View> {
        Arc::clone(&self.snapshot) as _
    }
}

impl Shadow {
    /// Watches the handling of an event on `view`; `None` while the shadow rests.
    pub fn watch(&self, view: Arc<dyn View>) -> Option<Watch> {
        if self.ledger.rests() {
            self.ledger.passed_over();
            return None;
        }
        Some(Watch { snapshot: Arc::new(Snapshot::new(view)), began: Timestamp::now() })
    }

    /// Handles what the live version just did, on what that one was told. `None` where the store did not answer.
    pub async fn compare(&self, delivery: &Delivery, live: Outcomes<'_>, watch: Watch) -> Option<Compared> {
        let event = &delivery.event;
        if !self.subscriptions.want(event) {
            return Some(Compared::unheard(event, Some(&live), None));
        }
        let handled =
            self.version.handle_event(event, delivery.attempt, delivery.origin, watch.snapshot as Arc<dyn View>).await;
        if handled.duration > UNNOTICED {
            self.ledger.rest(handled.duration * RESTS);
        }
        if matches!(handled.outcome, Outcome::Store(_)) {
            self.ledger.passed_over();
            return None;
        }
        let mask = Mask::new(known(event), watch.began, Timestamp::now());
        let shadow = Outcomes::of(&handled.outcome, &handled.effects);
        Some(Compared::new(event, differences(&live, &shadow, &mask)))
    }
}

/// The policy under which a version handles events without effect: it calls nobody, and remembers nothing.
#[must_use]
pub fn narrowed(policy: &Policy) -> Policy {
    let mut narrowed = policy.clone();
    narrowed.grant.http.clear();
    narrowed.grant.secrets.clear();
    narrowed.isolation = Isolation::Event;
    narrowed
}

/// Ids that both were told: they are compared.
fn known(event: &Event) -> Vec<String> {
    let ids =
        [Some(event.id.to_string()), event.cause.map(|id| id.to_string()), event.order_id().map(|id| id.to_string())];
    ids.into_iter().flatten().collect()
}
