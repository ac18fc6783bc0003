//! What an operator set: flags before `FANFARE_…` before the file before the default.
//!
//! [`RawConfig`] is what was written and where; [`Config`] is what it means. Every setting passes through the one
//! table in `settings`, so that a key, its variable and its flag can never drift apart.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use lettre::message::Mailbox;

use crate::backend::{Retention, aws};
use crate::fault::Fault;
use crate::policy::CompileLimits;
use crate::signature::PublicKey;

mod check;
mod cloud;
mod compile;
mod keys;
mod raw;
mod retention;
pub mod settings;
mod shown;

pub use cloud::{is_endpoint, is_region};
pub use raw::{Given, Origin, RawConfig};
pub use shown::without_login;

/// Everything that the host was set to, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Loopback, unless the operator insisted.
    pub listen: SocketAddr,
    pub allowed_hosts: AllowedHosts,
    pub data_dir: PathBuf,
    pub consumers_dir: PathBuf,
    /// Where that was written, if it was.
    pub consumers_dir_named: Option<Origin>,
    /// One of them must have signed a plugin; if there are none, nobody need have.
    pub plugin_keys: Vec<PublicKey>,
    /// What compiling a plugin may take.
    pub compile: CompileLimits,
    pub backend: BackendKind,
    pub mail: Mail,
    pub retention: Retention,
    /// What counts where the backend is on AWS.
    pub aws: aws::Settings,
    pub log: Log,
    /// Where the host is to die, for tests of what a crash leaves.
    pub fault: Option<Fault>,
}

impl Config {
    /// A folder of consumers that is named must be there: one that is made by a slip of the keyboard has none, and what comes
    /// meanwhile passes by those that were never seen. The one that nobody named is made.
    ///
    /// # Errors
    /// [`Error`] where it is not.
    pub fn has_consumers_dir(&self) -> Result<(), Error> {
        let (Some(origin), false) = (&self.consumers_dir_named, self.consumers_dir.is_dir()) else { return Ok(()) };
        let dir = self.consumers_dir.display();
        let what = if self.consumers_dir.exists() { "is not a folder" } else { "is not there" };
        Err(Error(vec![format!("{origin}: {dir} {what}: make it, or name the folder that has the plugins")]))
    }
}

/// The names under which requests may ask for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Those of this machine where it listens on loopback, else any.
    ByAddress,
    Only(Vec<String>),
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    Embedded,
    Aws,
}

/// How messages leave.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: Mailbox,
    pub transport: Transport,
    /// Messages on their way at the same time.
    pub concurrency: NonZeroUsize,
    /// Messages started per second; no bound if absent.
    pub rate: Option<NonZeroU32>,
}

#[derive(Clone, Debug)]
pub enum Transport {
    /// One `.eml` file a message in this folder.
    Folder(PathBuf),
    Smtp(Smtp),
    /// Messages stay pending until another transport is set.
    Off,
}

#[derive(Clone, Debug)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// From the first byte, as on port 465.
    Implicit,
    /// Asked for in the clear and then required, as on port 587.
    StartTls,
    /// In the clear: to this machine only, unless the operator insisted.
    Off,
}

#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// Without the password: a config is printed in logs.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// A level, or directives such as `info,fanfare=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Every setting that is wrong, each with its place and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Error(pub Vec<String>);

/// Reads a variable of the environment: the only place that does. One that is no text is absent here; where it is a setting,
/// [`illegible`] names it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "settings come through here")]
pub fn from_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the variable is there with nothing in it, which others may take for something.
#[must_use]
pub fn is_blank_in_env(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value.is_empty())
}

/// Names of the variables of settings whose values are no UTF-8: to pass over them would be to do something else than was
/// set.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "settings come through here")]
pub fn illegible() -> Vec<String> {
    let names = settings::SETTINGS.into_iter().map(settings::Setting::variable);
    names.filter(|name| matches!(std::env::var(name), Err(std::env::VarError::NotUnicode(_)))).collect()
}

/// Variables of the environment that are called almost as a setting's, each with that one.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "settings come through here")]
pub fn misspelt() -> Vec<(String, String)> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| settings::nearest(&name).map(|near| (name, near))).collect()
}

#[cfg(test)]
mod tests;
