//! What the host tells about itself: the log on standard error, and the meters behind `/metrics`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

pub mod meters;

/// The log could not be started: something else in this process took it first.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up: {0}")]
pub struct Taken(String);

/// Starts the log of this process, once.
///
/// # Errors
/// [`Taken`] where it was started before.
pub fn start_log(log: &Log) -> Result<(), Taken> {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    // A log that cannot be written (it may be on the disk that is full) is lost. The library would tell standard error of
    // it, which is the same file, and panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Taken(error.to_string()))
}
