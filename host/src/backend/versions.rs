//! The versions of each consumer: what became of every plugin file, which version handles events, and which are kept.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Durable, Result};
use crate::clock::Timestamp;
use crate::policy::ConsumerName;
use crate::version::Hash;

/// Rows kept of one consumer's history: years of releases, and little beside one page of a journal where a file flaps.
pub const HISTORY_MAX: usize = 1_000;

/// The history of versions, by consumer. It is added to, and never changed.
#[async_trait]
pub trait Versions: Send + Sync {
    /// Adds to the history of `name`, under the time of the commit. Of the versions that ever handled its events, the
    /// newest `keep` are kept, and always those that this row makes live or a canary. Returns the hashes that no consumer keeps any
    /// more: their files may go.
    ///
    /// A refusal that says what the row before says is no news, and adds nothing. Of old rows, [`HISTORY_MAX`] stay,
    /// besides the newest that is no refusal.
    async fn record(&self, name: &ConsumerName, turn: Turn, keep: usize) -> Result<Durable<Vec<Hash>>>;

    /// Where the newest row that is no refusal left the consumer; `None` where no version of it ever ran.
    async fn standing(&self, name: &ConsumerName) -> Result<Option<Standing>>;

    /// Newest first, at most `limit`.
    async fn history(&self, name: &ConsumerName, limit: usize) -> Result<Vec<HistoryEntry>>;

    /// Every version that some consumer keeps.
    async fn kept(&self) -> Result<BTreeSet<Hash>>;
}

/// One row of the history: what became of a plugin file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub outcome: TurnOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(flatten)]
    pub file: PluginFile,
    /// The version that handles events from then on. Absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Hash>,
}

/// The file that was in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFile {
    /// Absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// What the plugin calls itself; absent where it could not be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_version: Option<u32>,
    pub path: String,
    /// Whose the file was: a name where the machine knows one, else a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TurnOutcome {
    /// It handles all events.
    Live,
    /// It was refused; what ran before, if anything, runs on.
    Refused,
    /// It handles a share of the orders, beside the version that is live.
    Canary,
    /// A person, or a canary's judge, made it live.
    Promoted,
    /// It is kept out: another version is live in its place.
    RolledBack,
}

impl TurnOutcome {
    pub const ALL: [Self; 5] = [Self::Live, Self::Refused, Self::Canary, Self::Promoted, Self::RolledBack];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Refused => "refused",
            Self::Canary => "canary",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled-back",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    pub time: Timestamp,
    #[serde(flatten)]
    pub turn: Turn,
    /// Whether the file of this version is kept, so that the consumer can go back to it.
    pub kept: bool,
}

/// Where a consumer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub outcome: TurnOutcome,
    /// The file that `outcome` is about: another one is another decision.
    pub file: Option<Hash>,
    pub live: Option<Hash>,
    pub reason: Option<String>,
}
