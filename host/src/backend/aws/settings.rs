//! What an operator sets for this backend.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What the backend is set to. What is absent is found as every AWS program finds it: environment, profile, metadata.
#[derive(Clone, Debug)]
pub struct Settings {
    pub prefix: Prefix,
    pub region: Option<String>,
    /// Of the files in `~/.aws`.
    pub profile: Option<String>,
    pub endpoints: Endpoints,
    /// Whether the host makes and mends topic, queues, subscriptions and table, or only looks whether they are right.
    pub provision: bool,
    pub topic: TopicKind,
    /// Requests for one call, the first included.
    pub attempts_max: NonZeroU32,
    pub connect_timeout: Duration,
    /// For one request and its answer.
    pub attempt_timeout: Duration,
    /// For one call with all its requests.
    pub operation_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            region: None,
            profile: None,
            endpoints: Endpoints::default(),
            provision: false,
            topic: TopicKind::Fifo,
            attempts_max: const { NonZeroU32::new(4).unwrap() },
            connect_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(20),
        }
    }
}

/// Addresses to call instead of those of AWS, such as an emulator's. What stands for one service comes before `all`.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    pub all: Option<String>,
    pub sns: Option<String>,
    pub sqs: Option<String>,
    pub dynamodb: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// SNS and SQS hand on the events of a lane in order, and none twice.
    Fifo,
    /// They need not; the host keeps order and counts out repeats.
    Standard,
}

/// What the names of all resources of one shop begin with: 3 to 40 letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Arc<str>);

impl Prefix {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("fanfare".into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no beginning of names at AWS: use 3 to 40 letters, digits, '-' and '_'")]
pub struct NotAPrefix(String);

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A table has at least three; a queue has at most 80, of which a consumer and an ending need half.
        let legal = (3..=40).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if legal { Ok(Self(text.into())) } else { Err(NotAPrefix(text.to_owned())) }
    }
}
