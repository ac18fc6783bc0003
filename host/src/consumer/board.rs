//! Where each consumer stands, for readers: one snapshot, replaced as a whole. A change is logged here, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::status::{Candidate, CandidateState, ConsumerStatus, State};
use crate::backend::{Running, RunningVersion};
use crate::policy::ConsumerName;

type Table = BTreeMap<ConsumerName, ConsumerStatus>;

#[derive(Default)]
pub struct Board {
    shown: ArcSwap<Table>,
    /// What is amiss with all of them.
    amiss: ArcSwapOption<String>,
    /// Held while the next snapshot is made, so that no writer undoes another's.
    writing: Mutex<()>,
}

impl Board {
    /// Shows `status`; the same as before is no change.
    pub fn show(&self, status: ConsumerStatus) {
        self.write(|table| {
            let before = table.get(&status.name);
            if before.is_none_or(|before| differs(before, &status)) {
                log(&status);
            }
            table.insert(status.name.clone(), status);
        });
    }

    /// Another state and reason for a consumer; what is known of its version stays.
    pub fn show_state(&self, name: &ConsumerName, state: State, reason: Option<String>) {
        let status = match self.get(name) {
            Some(before) => {
                let loaded_at = before.loaded_at.filter(|_| state == State::Draining);
                let not_kept = before.not_kept.clone().filter(|_| loaded_at.is_some());
                ConsumerStatus {
                    state,
                    reason,
                    candidate: None,
                    shadow: None,
                    way_back: None,
                    not_kept,
                    loaded_at,
                    ..before
                }
            }
            None => ConsumerStatus::bare(name.clone(), state, reason),
        };
        self.show(status);
    }

    /// Forgets a consumer that never came to be.
    pub fn clear(&self, name: &ConsumerName) {
        self.write(|table| {
            table.remove(name);
        });
    }

    #[must_use]
    pub fn list(&self) -> Vec<ConsumerStatus> {
        let amiss = self.amiss.load();
        let told = |mut status: ConsumerStatus| {
            if let Some(amiss) = &*amiss {
                status.reason =
                    Some([Some(amiss.to_string()), status.reason].into_iter().flatten().collect::<Vec<_>>().join("\n"));
            }
            status
        };
        self.shown.load().values().cloned().map(told).collect()
    }

    /// Says what is amiss with all of them from now on.
    pub fn tell_of_all(&self, amiss: Option<String>) {
        self.amiss.store(amiss.map(Arc::new));
    }

    /// Forgets a consumer that is removed.
    pub fn forget(&self, name: &ConsumerName) {
        self.write(|table| {
            if table.get(name).is_some_and(|status| status.state == State::Removed) {
                table.remove(name);
            }
        });
    }

    /// The versions that handle events now.
    #[must_use]
    pub fn running(&self) -> Running {
        let table = self.shown.load();
        let runs = |status: &ConsumerStatus| {
            let hash = status.hash.as_ref().filter(|_| status.loaded_at.is_some())?.parse().ok()?;
            Some((status.name.clone(), RunningVersion { version: status.version.clone()?, hash }))
        };
        table.values().filter_map(runs).collect()
    }

    #[must_use]
    pub fn get(&self, name: &ConsumerName) -> Option<ConsumerStatus> {
        self.shown.load().get(name).cloned()
    }

    fn write(&self, change: impl FnOnce(&mut Table)) {
        let _writing = self.writing.lock();
        let mut table = Table::clone(&self.shown.load());
        change(&mut table);
        for state in State::ALL {
            let count = table.values().filter(|status| status.state == state).count();
            #[allow(clippy::cast_precision_loss, reason = "a directory holds far fewer than 2^52 consumers")]
            metrics::gauge!("fanfare_consumers", "state" => state.as_str()).set(count as f64);
        }
        self.shown.store(Arc::new(table));
    }
}

fn differs(before: &ConsumerStatus, after: &ConsumerStatus) -> bool {
    let candidate = |status: &ConsumerStatus| status.candidate.as_ref().map(|it| (it.state, it.hash.clone()));
    let told = |status: &ConsumerStatus| {
        let ConsumerStatus { state, reason, hash, way_back, .. } = status;
        (*state, reason.clone(), hash.clone(), way_back.clone(), candidate(status))
    };
    told(before) != told(after)
}

fn log(status: &ConsumerStatus) {
    let ConsumerStatus { name, state, reason, version, hash, way_back, .. } = status;
    let back = way_back.as_ref().map(|way| way.hash.as_str());
    let (reason, version, hash) = (reason.as_deref(), version.as_deref(), hash.as_deref());
    if let Some(Candidate { state: CandidateState::Canary, version: tried, reason, .. }) = &status.candidate {
        let tried = tried.as_deref();
        tracing::info!(consumer = %name, version, candidate = tried, reason, "a new version is tried on a share of the orders");
        return;
    }
    let refused = status.candidate.is_some() || matches!(state, State::Failed | State::AwaitingGrant);
    if refused {
        tracing::warn!(consumer = %name, %state, reason, version, hash, "consumer is not as its file wants it");
    } else {
        tracing::info!(consumer = %name, %state, reason, version, hash, back, "consumer changed state");
    }
}
