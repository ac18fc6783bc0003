//! From a file to what a worker runs, in stages that are types:
//!
//! ```text
//! File ──read──▶ Settled ──verify──▶ Trusted ──load──▶ Loaded ──grant──▶ Granted ──link──▶ Live
//!  path, stamp    bytes, hash         signed by a       plugin,           needs ⊆ grants,    version, policy,
//!                                     named key         description       subscriptions      subscriptions
//! ```
//!
//! Each step is the only way to the next type. A step that fails says which kind of failure it is, because the
//! directory treats them differently: see [`Refused`].

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::grants;
use super::runtime::{Live, LoadError, Loader};
use super::scan::{Entry, Stamp};
use crate::backend;
use crate::event::Subscriptions;
use crate::policy::parse::SIDE_FILE_BYTES_MAX;
use crate::policy::{ConsumerName, Policy};
use crate::sandbox::Description;
use crate::signature::{self, PublicKey};
use crate::version::{Binary, Hash};

/// Why a stage was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The file changed while it was read: it was not complete. Nobody needs to hear of it.
    #[error("the file is still being written")]
    Changed,
    /// The file or its side file is to blame; tried again when either changes.
    #[error("{0}")]
    Faulty(String),
    /// The plugin needs what its policy does not grant.
    #[error("{0}")]
    Ungranted(String),
    /// The file is good, and was decided against: another version runs in its place.
    #[error("{0}")]
    KeptOut(String),
    /// The host or its store is to blame; tried again after a while.
    #[error("{0}")]
    Unavailable(String),
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::File(message) => Self::Faulty(message),
            LoadError::Host(message) => Self::Unavailable(message),
        }
    }
}

impl From<backend::Error> for Refused {
    fn from(error: backend::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A path and what was seen there.
#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    pub entry: Entry,
}

/// A plugin file, read whole and not changed meanwhile.
pub struct Settled {
    pub binary: Binary,
    /// Number of the user whose file it was, where the file system knows users.
    pub owner: Option<u32>,
}

/// A plugin file that the host may load: signed by a key that its operator named, or no key is named.
pub struct Trusted {
    binary: Binary,
}

/// A plugin that compiles and describes itself.
pub struct Loaded<L: Loader> {
    pub plugin: Arc<L::Plugin>,
    pub hash: Hash,
}

/// A plugin under a policy that gives it all it needs.
pub struct Granted<L: Loader> {
    loaded: Loaded<L>,
    layout: u32,
    policy: Arc<Policy>,
    subscriptions: Subscriptions,
}

impl File {
    /// Reads the plugin file, of at most `bytes_max`. Blocks on the file system.
    ///
    /// # Errors
    /// `Faulty` where it is no file, too large or unreadable; `Changed`.
    pub fn read(&self, bytes_max: u64) -> Result<Settled, Refused> {
        let stamp = self.stamp()?;
        if stamp.bytes > bytes_max {
            return Err(Refused::Faulty(format!(
                "{} has {} bytes; at most {bytes_max} are allowed. Build it in release mode, or strip it",
                self.path.display(),
                stamp.bytes
            )));
        }
        let (bytes, owner) = self.bytes(stamp)?;
        Ok(Settled { binary: bytes.into(), owner })
    }

    /// Reads it as a side file. Blocks on the file system.
    ///
    /// # Errors
    /// `Faulty` with the lines that are wrong; `Changed`.
    pub fn read_policy(&self) -> Result<Policy, Refused> {
        let stamp = self.stamp()?;
        let path = self.path.display();
        if stamp.bytes > SIDE_FILE_BYTES_MAX as u64 {
            let bytes = stamp.bytes;
            return Err(Refused::Faulty(format!(
                "{path} has {bytes} bytes; at most {SIDE_FILE_BYTES_MAX} are allowed"
            )));
        }
        let text = String::from_utf8(self.bytes(stamp)?.0)
            .map_err(|error| Refused::Faulty(format!("{path} is not UTF-8 text: {error}")))?;
        Policy::parse(&self.path, &text).map_err(|error| Refused::Faulty(error.to_string()))
    }

    fn stamp(&self) -> Result<&Stamp, Refused> {
        match &self.entry {
            Entry::File(stamp) => Ok(stamp),
            Entry::Other(what) => Err(Refused::Faulty(format!("{} is {what}, not a file", self.path.display()))),
        }
    }

    /// The content, and whose it was.
    fn bytes(&self, stamp: &Stamp) -> Result<(Vec<u8>, Option<u32>), Refused> {
        let read = || -> io::Result<Option<(Vec<u8>, Option<u32>)>> {
            let file = open(&self.path)?;
            let mut bytes = Vec::with_capacity(usize::try_from(stamp.bytes).unwrap_or_default());
            // One more than it should have, so that a file that grows is not read for ever.
            (&file).take(stamp.bytes.saturating_add(1)).read_to_end(&mut bytes)?;
            let metadata = file.metadata()?;
            let whole = Stamp::of(&metadata) == *stamp && bytes.len() as u64 == stamp.bytes;
            Ok(whole.then(|| (bytes, owner(&metadata))))
        };
        match read() {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(Refused::Changed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refused::Changed),
            // Giving permission changes the stamp, so it is tried again then.
            Err(error) => Err(Refused::Faulty(format!("cannot read {}: {error}", self.path.display()))),
        }
    }
}

impl Settled {
    /// Looks, before anything else of it is read, whether one of `keys` signed it; where there are none, anybody may have
    /// made it. Blocks: it reads through the whole file.
    ///
    /// # Errors
    /// `Faulty` where none of them signed it as it is.
    pub fn verify(self, keys: &[PublicKey]) -> Result<Trusted, Refused> {
        if !keys.is_empty() {
            signature::verify(&self.binary, keys).map_err(|refused| Refused::Faulty(refused.to_string()))?;
        }
        Ok(Trusted { binary: self.binary })
    }
}

impl Trusted {
    /// Validates, compiles and describes.
    ///
    /// # Errors
    /// `Faulty` or `Unavailable`, as the loader says.
    pub async fn load<L: Loader>(self, loader: &L) -> Result<Loaded<L>, Refused> {
        let hash = *self.binary.hash();
        Ok(Loaded { plugin: loader.load(self.binary).await?, hash })
    }
}

impl<L: Loader> Loaded<L> {
    /// Holds the plugin's needs against the grants of `policy`.
    ///
    /// # Errors
    /// `Ungranted` with the lines that `side_file` lacks.
    pub fn grant(&self, loader: &L, policy: &Arc<Policy>, side_file: &Path) -> Result<Granted<L>, Refused> {
        let description = loader.description(&self.plugin);
        grants::check(description, policy).map_err(|missing| {
            let side_file = side_file.display();
            Refused::Ungranted(format!(
                "it needs what is not granted; if you agree, {side_file} must say:\n{}",
                missing.lines
            ))
        })?;
        Ok(Granted {
            loaded: self.clone(),
            layout: description.state_version,
            policy: Arc::clone(policy),
            subscriptions: subscriptions(description, policy),
        })
    }
}

impl<L: Loader> Granted<L> {
    /// The same plugin, linked under a narrower policy than the one that grants it what it needs.
    #[must_use]
    pub fn under(self, policy: Arc<Policy>) -> Self {
        Self { policy, ..self }
    }

    /// Links it for one consumer.
    ///
    /// # Errors
    /// `Faulty` or `Unavailable`, as the loader says.
    pub fn link(self, loader: &L, name: &ConsumerName) -> Result<Live<L::Version>, Refused> {
        let version = loader.link(&self.loaded.plugin, name, &self.policy)?;
        Ok(self.on(version))
    }

    /// As [`Granted::link`], on a version that was linked before.
    #[must_use]
    pub fn on(self, version: Arc<L::Version>) -> Live<L::Version> {
        let Self { layout, policy, subscriptions, .. } = self;
        Live { version, policy, subscriptions, layout, candidate: None, shadow: None, back: None }
    }
}

/// Whatever is there by now: a pipe is not waited for until somebody writes to it.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<fs::File> {
    std::os::unix::fs::OpenOptionsExt::custom_flags(fs::File::options().read(true), libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

#[cfg(unix)]
fn owner(metadata: &fs::Metadata) -> Option<u32> {
    Some(std::os::unix::fs::MetadataExt::uid(metadata))
}

#[cfg(not(unix))]
fn owner(_: &fs::Metadata) -> Option<u32> {
    None
}

/// The subscriptions in force: those of the policy, or the plugin's own.
fn subscriptions(description: &Description, policy: &Policy) -> Subscriptions {
    policy.subscribe.clone().unwrap_or_else(|| description.subscriptions.iter().cloned().collect())
}

impl<L: Loader> Clone for Loaded<L> {
    fn clone(&self) -> Self {
        Self { plugin: Arc::clone(&self.plugin), hash: self.hash }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::consumer::scan;

    #[test]
    fn a_pipe_that_took_the_place_of_a_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        fs::write(&path, b"").unwrap();
        let file = File { entry: scan::entry_at(&path).unwrap(), path };
        fs::remove_file(&file.path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file.path).status().unwrap().success());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(file.read(1_000).map(drop)));
        let read = told.recv_timeout(std::time::Duration::from_secs(30)).expect("an answer");
        assert_eq!(read.unwrap_err(), Refused::Changed);
    }
}
