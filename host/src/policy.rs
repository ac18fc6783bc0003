//! What an operator decided about one consumer: the side file `NAME.toml`, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{KindPattern, Subscriptions};

pub mod parse;
pub mod url;

pub use url::UrlPrefix;

/// Names one consumer: the stem of its plugin file. 1 to 64 of `a-z`, `0-9` and `-`, starting with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConsumerName(Arc<str>);

impl ConsumerName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a consumer name: use 1 to 64 of a-z, 0-9 and '-', starting with a letter")]
pub struct NotAName(String);

impl FromStr for ConsumerName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NAME_BYTES_MAX: usize = 64;
        let legal = text.len() <= NAME_BYTES_MAX
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if legal { Ok(Self(text.into())) } else { Err(NotAName(text.to_owned())) }
    }
}

impl TryFrom<String> for ConsumerName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ConsumerName> for String {
    fn from(name: ConsumerName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// Everything that a side file decides, with the defaults for what it leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub start: Start,
    pub isolation: Isolation,
    /// Deliveries of this consumer that may run at the same time.
    pub concurrency: NonZeroU32,
    /// Deliveries started per second; no bound if absent.
    pub rate: Option<Rate>,
    pub on_dead: OnDead,
    /// Versions that are kept to go back to, the one that runs included.
    pub keep_versions: NonZeroU32,
    /// What the state may weigh that is kept when a version with another layout takes it over; 0 keeps none.
    pub keep_state_bytes: u64,
    /// Replaces the plugin's own subscriptions.
    pub subscribe: Option<Subscriptions>,
    pub grant: Grant,
    pub settings: BTreeMap<String, String>,
    pub limits: Limits,
    pub retry: Retry,
    /// How a new version is tried; without, it takes over at once.
    pub rollout: Option<Rollout>,
    /// File name of a plugin that handles the same events without effect; it lies in the folder [`SHADOW_DIR`] of the directory.
    pub shadow: Option<String>,
}

/// Where shadows lie in the directory of consumers: no file in there is a consumer.
pub const SHADOW_DIR: &str = "shadow";

impl Default for Policy {
    fn default() -> Self {
        Self {
            start: Start::Now,
            isolation: Isolation::Warm,
            concurrency: const { NonZeroU32::new(8).unwrap() },
            rate: None,
            on_dead: OnDead::Park,
            keep_versions: const { NonZeroU32::new(5).unwrap() },
            // Of the default limit of a state, a quarter: a copy of that much is a matter of seconds.
            keep_state_bytes: 256 << 20,
            subscribe: None,
            grant: Grant::default(),
            settings: BTreeMap::new(),
            limits: Limits::default(),
            retry: Retry::default(),
            rollout: None,
            shadow: None,
        }
    }
}

impl Policy {
    /// Whether a version that was linked under `other` runs under this policy as it is: what differs, if anything, is
    /// looked at by delivery alone.
    #[must_use]
    pub fn links_like(&self, other: &Self) -> bool {
        let linked = |policy: &Self| (policy.isolation, policy.grant.clone(), policy.settings.clone(), policy.limits);
        linked(self) == linked(other)
    }
}

/// Where a consumer begins that was never seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Now,
    Beginning,
    At(Timestamp),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// An instance is reused after outcome done.
    Warm,
    /// A fresh instance for every event.
    Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

/// Why a text is not a [`Rate`].
#[derive(Debug, thiserror::Error)]
#[error("expected a rate such as \"500/s\", got {0:?}")]
pub struct NotARate(String);

impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_suffix("/s").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let per_second = digits.and_then(|digits| digits.parse().ok());
        per_second.map(|per_second| Self { per_second }).ok_or_else(|| NotARate(text.to_owned()))
    }
}

impl Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What becomes of the lane of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDead {
    /// Later events of the lane wait until the dead letter is retried or discarded.
    Park,
    /// The lane goes on: promise 6 is given up for it.
    Skip,
}

/// What the plugin may do beyond its own state. Nothing, unless the operator said so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grant {
    pub change_order: bool,
    pub publish: Vec<KindPattern>,
    pub http: Vec<HttpGrant>,
    pub email: bool,
    pub sms: bool,
    /// Data sets.
    pub records: Vec<String>,
    /// Name of the secret → where its value comes from.
    pub secrets: BTreeMap<String, SecretSource>,
}

/// Methods of HTTP that can be granted.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    pub url_prefix: UrlPrefix,
    pub methods: Vec<String>,
    /// The server may be one of this machine or of a private network.
    pub private: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    File(std::path::PathBuf),
}

/// Enforced for every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sum over all linear memories of an instance.
    pub memory_bytes: usize,
    pub cpu: Duration,
    /// What it may use in the long run while other consumers are at work, in thousandths of a core.
    pub share_permille: u32,
    /// Wall clock, around the whole call.
    pub time: Duration,
    /// All keys and values of the consumer.
    pub state_bytes: u64,
    pub http: HttpLimits,
    /// Everything that one event stages: it becomes one transaction.
    pub effects_bytes: usize,
    /// Entries that one event writes, and adjustments of counters, each.
    pub writes: usize,
    /// What one event reads of state and orders is kept until the commit has checked it.
    pub reads: usize,
    pub order_changes: usize,
    pub events: usize,
    pub messages: usize,
    pub records: usize,
    /// What one event logs, stdout and stderr included.
    pub log_bytes: usize,
    /// What a guest may hand over in one call of a host function: the host copies it before it can check it.
    pub call_bytes: usize,
    /// Resources of the host, and of its own, that one instance may hold.
    pub handles: usize,
}

/// Of outgoing HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Calls for one event.
    pub calls: u32,
    /// Heads and bodies of all requests and responses for one event.
    pub bytes: u64,
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// From the call until the head of the response is there, connecting included.
    pub first_byte: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            calls: 10,
            bytes: 4 << 20,
            connect: Duration::from_secs(2),
            // Within the default of the whole call, so that the guest hears of it and can say when to try again.
            first_byte: Duration::from_secs(4),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            cpu: Duration::from_millis(50),
            share_permille: 500,
            time: Duration::from_secs(5),
            state_bytes: 1 << 30,
            http: HttpLimits::default(),
            effects_bytes: 16 << 20,
            writes: 10_000,
            reads: 20_000,
            order_changes: 1_000,
            events: 1_000,
            messages: 100,
            records: 10_000,
            log_bytes: 64 << 10,
            call_bytes: 8 << 20,
            handles: 256,
        }
    }
}

/// When to try again, and when to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub max_attempts: NonZeroU32,
    pub base: Duration,
    pub cap: Duration,
    /// Since the first attempt.
    pub max_age: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: const { NonZeroU32::new(10).unwrap() },
            base: Duration::from_secs(1),
            cap: Duration::from_secs(600),
            max_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// How a new version is tried on a share of the orders, before it gets all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollout {
    /// Of all lanes, in thousandths.
    pub share_permille: u32,
    /// Events after which it is judged.
    pub min_events: NonZeroU32,
    /// From 0 to less than 1.
    pub max_failure_rate: f64,
    /// How much slower than the version before it may be, at least 1; however slow if absent.
    pub max_slowdown: Option<f64>,
}

impl Rollout {
    pub const MIN_EVENTS_DEFAULT: NonZeroU32 = const { NonZeroU32::new(200).unwrap() };
    pub const MAX_FAILURE_RATE_DEFAULT: f64 = 0.01;
}

/// What compiling one plugin may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// From its start to its end; of CPU, over all its threads, twice as much.
    pub time: Duration,
    /// Bytes of address space.
    pub memory: u64,
}

impl Default for CompileLimits {
    /// A component that carries an interpreter takes seconds on a fast machine, and a minute on a slow one; the memory is several
    /// times what a component of the largest size takes.
    fn default() -> Self {
        Self { time: Duration::from_secs(120), memory: 8 << 30 }
    }
}

impl CompileLimits {
    /// Over all threads.
    #[must_use]
    pub fn cpu_seconds(&self) -> u64 {
        self.time.as_secs_f64().mul_add(2.0, 0.5).ceil() as u64
    }
}
