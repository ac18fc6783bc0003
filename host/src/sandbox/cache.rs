//! Compiled plugins on disk, so that a restart compiles nothing.
//!
//! A file is `<sha-256 of the plugin>-<engine settings>.cwasm` and begins with a MAC (HMAC-SHA256) of its name and what follows,
//! under a key that the host drew for this folder: what a crash cut short, a disk changed, or somebody put there who cannot read
//! the key, is compiled again. The machine code in it is trusted, so the folder is the host's alone; whoever can read and write
//! there can run code in the host, which is why [`Cache::open`] refuses a shared folder.

use std::fs;
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ring::hmac;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::Error;
use crate::fault::{self, Point};
use crate::version::Hash;

const MAC_BYTES: usize = 32;
const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;

pub struct Cache {
    dir: PathBuf,
    /// Differs where wasmtime, its settings or the CPU's features differ.
    engine: u64,
    key: hmac::Key,
}

impl Cache {
    /// The cache in `dir`, made if missing.
    pub fn open(dir: &Path, engine: &Engine) -> Result<Self, Error> {
        let failed = |cause: io::Error| Error::Cache { path: dir.to_owned(), cause: cause.to_string() };
        own(dir).map_err(failed)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key(&dir.join(KEY_FILE)).map_err(failed)?);
        let mut hasher = Stable(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir: dir.to_owned(), engine: hasher.finish(), key })
    }

    /// The compiled plugin, if it is there and whole.
    pub fn get(&self, engine: &Engine, plugin: &Hash) -> Option<Component> {
        let file = fs::read(self.path(plugin)).ok()?;
        let (mac, compiled) = file.split_at_checked(MAC_BYTES)?;
        if hmac::verify(&self.key, &self.marked(plugin, compiled), mac).is_err() {
            tracing::warn!(%plugin, "a compiled plugin in the cache is not what this host kept there, and will be made again");
            return None;
        }
        deserialize(engine, compiled)
            .inspect_err(|cause| tracing::warn!(%plugin, %cause, "a compiled plugin in the cache does not load"))
            .ok()
    }

    /// Keeps a compiled plugin. Failing to is no reason not to run it.
    pub fn put(&self, plugin: &Hash, compiled: &[u8]) {
        if let Err(cause) = self.write(plugin, compiled) {
            tracing::warn!(%plugin, %cause, dir = %self.dir.display(), "cannot keep a compiled plugin: the next start compiles it again");
        }
    }

    fn write(&self, plugin: &Hash, compiled: &[u8]) -> io::Result<()> {
        let path = self.path(plugin);
        let mac = hmac::sign(&self.key, &self.marked(plugin, compiled));
        let draft = path.with_extension(format!("{}.draft", uuid::Uuid::now_v7()));
        let written = (|| {
            let mut file = fs::File::create_new(&draft)?;
            file.write_all(mac.as_ref())?;
            file.write_all(compiled)?;
            fault::pass(Point::CompiledDrafted);
            file.sync_all()?;
            fault::pass(Point::CompiledSynced);
            fs::rename(&draft, &path)?;
            fault::pass(Point::CompiledKept);
            Ok(())
        })();
        if written.is_err() {
            drop(fs::remove_file(&draft));
        }
        written
    }

    /// What the MAC is of: the digest of the file's name and its content, so that no file can stand for another.
    fn marked(&self, plugin: &Hash, compiled: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(format!("{plugin}-{:016x}", self.engine));
        digest.update(compiled);
        digest.finalize().into()
    }

    fn path(&self, plugin: &Hash) -> PathBuf {
        self.dir.join(format!("{plugin}-{:016x}.cwasm", self.engine))
    }
}

#[allow(unsafe_code, reason = "only bytes that this host compiled, and may have kept where nobody else can write")]
pub fn deserialize(engine: &Engine, compiled: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `compiled` is what `Engine::precompile_component` gave to this program, or came back from the host's own folder with
    // the MAC that it got there.
    unsafe { Component::deserialize(engine, compiled) }
}

/// The key in the file at `path`, drawn and written where there is none.
fn key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Ok(Ok(key)) = fs::read(path).map(TryInto::try_into) {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let draft = path.with_extension(format!("{}.draft", uuid::Uuid::now_v7()));
    let mut file = private(&draft)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(key)
}

/// A new file that nobody else can read.
#[cfg(unix)]
fn private(path: &Path) -> io::Result<fs::File> {
    std::os::unix::fs::OpenOptionsExt::mode(fs::File::options().write(true).create_new(true), 0o600).open(path)
}

#[cfg(not(unix))]
fn private(path: &Path) -> io::Result<fs::File> {
    fs::File::create_new(path)
}

/// Makes `dir`, or checks that nobody else can write in it.
#[cfg(unix)]
fn own(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let metadata = fs::metadata(dir)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("the folder belongs to another user; remove it or name another one"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write in the folder; remove it, or run chmod 700 on it"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn own(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

/// `std`'s default hasher may change with the compiler; file names outlive it.
struct Stable(Sha256);

impl Hasher for Stable {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}
