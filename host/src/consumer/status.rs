//! What the directory of consumers tells about each of them: plain data, for the API and the command line.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::delivery::rollout::Progress;
use crate::delivery::shadow::Report;
use crate::policy::ConsumerName;
use crate::sandbox::Usage;
use crate::version::Hash;

/// Where the API learns which consumers are there.
pub trait Catalogue: Send + Sync {
    /// Every consumer whose plugin file is there, or was there since the host started; by name, each once.
    /// Answers from memory: it is asked on every request for the list.
    fn list(&self) -> Vec<ConsumerStatus>;

    /// What is said of a consumer that the store knows and that is not in the list: how it stands, and why.
    fn absent(&self) -> (State, &'static str) {
        (State::Removed, "its plugin file is not there; put it back and nothing was missed")
    }

    /// Tells no more of a consumer that is removed.
    fn forget(&self, name: &ConsumerName);

    /// What its events took of its limits since the host started; `None` for one that never ran.
    fn usage(&self, _name: &ConsumerName) -> Option<Usage> {
        None
    }

    /// What the consumer's shadow did otherwise; `None` where it has none that handles events.
    fn shadow(&self, name: &ConsumerName) -> Option<Report>;

    /// Data sets that plugins here declare, whether they run or not; `None` where what plugins declare is not known here, or not yet.
    fn datasets(&self) -> Option<BTreeSet<String>> {
        let all = self.list();
        let is_known = all.iter().all(|status| status.state != State::Loading);
        is_known.then(|| all.into_iter().flat_map(|status| status.datasets).collect())
    }

    /// Deletes the files of versions that nobody keeps any more, soon.
    fn let_go(&self, versions: Vec<Hash>);
}

/// One consumer as it stands now. What only `describe` knows is absent until a version was loaded.
#[derive(Clone, Debug, Serialize)]
pub struct ConsumerStatus {
    pub name: ConsumerName,
    pub state: State,
    /// Why it is in this state, in words that say what to do; absent where nothing is amiss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The plugin's own semantic version: of the version that handles events, else of the file that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of that version's file, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// In force: the plugin's own, or those of its policy. A kind or pattern each, with its filter behind it.
    pub subscriptions: Vec<String>,
    /// What the plugin asks for, one phrase each: `change-order`, `publish com.example.*`, …
    pub needs: Vec<String>,
    /// Data sets that it declares, and those of the newest file.
    #[serde(skip)]
    pub datasets: Vec<String>,
    /// Why the file of its version, or of the newest one, is not kept to go back to, or not for other hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
    /// Since when this version handles events; absent while none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<Timestamp>,
    /// The plugin that handles the same events without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowStatus>,
    /// Where it is on its way back to: a version with another layout of state, which runs once that is up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_back: Option<WayBackStatus>,
    /// The newest file, where another version runs in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
}

/// A file that would replace the version that runs, and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    pub state: CandidateState,
    pub reason: String,
    /// Absent where the file could not be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Of a canary.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WayBackStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub hash: String,
    pub state_version: u32,
    /// Why it waits; absent where it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShadowStatus {
    /// In the folder of shadows.
    pub file: String,
    /// Why it handles nothing; absent where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateState {
    /// The file was refused.
    Failed,
    /// The plugin needs something that its policy does not grant.
    AwaitingGrant,
    /// It handles a share of the orders, until it is judged.
    Canary,
    /// It was decided against, and stays out until the file changes or somebody promotes it.
    RolledBack,
}

impl ConsumerStatus {
    /// A status that says nothing beyond the name, the state and its reason.
    #[must_use]
    pub fn bare(name: ConsumerName, state: State, reason: Option<String>) -> Self {
        Self {
            name,
            state,
            reason,
            version: None,
            hash: None,
            state_version: None,
            summary: None,
            subscriptions: Vec::new(),
            needs: Vec::new(),
            datasets: Vec::new(),
            not_kept: None,
            loaded_at: None,
            shadow: None,
            way_back: None,
            candidate: None,
        }
    }
}

/// Where a consumer stands in the life of its plugin file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A file is being checked and compiled, and no version handles events yet.
    Loading,
    /// A version handles events; where a newer file was refused, `candidate` says why.
    Running,
    /// The plugin needs something that its policy does not grant.
    AwaitingGrant,
    /// The file was refused, and there is no older version to run instead.
    Failed,
    Paused,
    /// Hosts that share the store run different versions.
    Mixed,
    /// No new deliveries; those already running finish.
    Draining,
    /// The file is gone; position and state are kept.
    Removed,
}

impl State {
    pub const ALL: [Self; 8] = [
        Self::Loading,
        Self::Running,
        Self::AwaitingGrant,
        Self::Failed,
        Self::Paused,
        Self::Mixed,
        Self::Draining,
        Self::Removed,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Running => "running",
            Self::AwaitingGrant => "awaiting-grant",
            Self::Failed => "failed",
            Self::Paused => "paused",
            Self::Mixed => "mixed",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listed(Vec<ConsumerStatus>);

    impl Catalogue for Listed {
        fn list(&self) -> Vec<ConsumerStatus> {
            self.0.clone()
        }

        fn forget(&self, _: &ConsumerName) {}

        fn shadow(&self, _: &ConsumerName) -> Option<Report> {
            None
        }

        fn let_go(&self, _: Vec<Hash>) {}
    }

    #[test]
    fn which_data_sets_there_are_is_not_known_while_a_plugin_loads() {
        let listed = |state| {
            let status = ConsumerStatus::bare("a".parse().unwrap(), state, None);
            let loads = ConsumerStatus::bare("b".parse().unwrap(), State::Loading, None);
            let declares = ConsumerStatus { datasets: vec!["rows".to_owned()], ..status };
            (Listed(vec![declares.clone()]).datasets(), Listed(vec![declares, loads]).datasets())
        };
        let rows = BTreeSet::from(["rows".to_owned()]);
        for state in [State::Running, State::Failed, State::Removed] {
            assert_eq!(listed(state), (Some(rows.clone()), None), "{state}");
        }
    }
}
