//! What became of handling one event.

use std::time::Duration;

use super::version::Warm;
use crate::backend::{self, HttpCall, LogLine};
use crate::effects::{Effects, Reads};

/// One handling of one event by one version.
#[must_use]
pub struct Handled {
    pub outcome: Outcome,
    /// What the handler was told, whatever the outcome: it must still hold, or the event is handled again.
    pub reads: Reads,
    /// What it staged, whatever the outcome. To be committed only if done.
    pub effects: Effects,
    /// What it called over HTTP, whatever the outcome.
    pub calls: Vec<HttpCall>,
    /// The last lines that it logged. Empty if done.
    pub log: Vec<LogLine>,
    pub duration: Duration,
    /// Give it back through [`super::Version::keep`] once the effects are accepted; dropped, the next event gets
    /// another instance. `None` unless done.
    pub instance: Option<Warm>,
}

#[derive(Debug)]
pub enum Outcome {
    Done,
    /// The guest asks to be tried again; by default after the consumer's own back-off.
    Retry {
        after: Option<Duration>,
        reason: String,
    },
    /// Never going to work.
    Reject {
        reason: String,
    },
    /// `kind` is wasmtime's name of the trap in kebab-case, or one of the host's own: `limit`, `grant`, `trial`, `memory`,
    /// `event-loop`, `bad-argument`, `exit`, `host`. All texts are bounded and never trusted: they quote the guest.
    Trap {
        kind: String,
        message: String,
        backtrace: Option<String>,
    },
    /// The limit that was used up.
    Timeout {
        what: &'static str,
        limit: Duration,
        /// Where it was stopped, if the CPU was what it used up.
        backtrace: Option<String>,
    },
    /// The store could not answer a read. Not an attempt.
    Store(backend::Error),
}
