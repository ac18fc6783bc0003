//! Compiled plugins on disk, so that a restart compiles nothing.
//!
//! A file is `<sha-256 of the plugin>-<engine settings>.cwasm` and begins with the SHA-256 of what follows: a file that a
//! crash cut short or a disk changed is compiled again. The machine code in it is trusted, so the folder is the host's
//! alone; whoever can write there can run code in the host, which is why [`Cache::open`] refuses a shared folder.

use std::fs;
use std::hash::{Hash as _, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::Error;
use super::plugin::Hash;
use crate::fault::{self, Point};

const DIGEST_BYTES: usize = 32;

pub struct Cache {
    dir: PathBuf,
    /// Differs where wasmtime, its settings or the CPU's features differ.
    engine: u64,
}

impl Cache {
    /// The cache in `dir`, made if missing.
    pub fn open(dir: &Path, engine: &Engine) -> Result<Self, Error> {
        own(dir).map_err(|cause| Error::Cache { path: dir.to_owned(), cause: cause.to_string() })?;
        let mut hasher = Stable(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir: dir.to_owned(), engine: hasher.finish() })
    }

    /// The compiled plugin, if it is there and whole.
    pub fn get(&self, engine: &Engine, plugin: &Hash) -> Option<Component> {
        let file = fs::read(self.path(plugin)).ok()?;
        let (digest, compiled) = file.split_at_checked(DIGEST_BYTES)?;
        if Sha256::digest(compiled).as_slice() != digest {
            tracing::warn!(%plugin, "a compiled plugin in the cache is damaged and will be made again");
            return None;
        }
        deserialize(engine, compiled)
            .inspect_err(|cause| tracing::warn!(%plugin, %cause, "a compiled plugin in the cache does not load"))
            .ok()
    }

    /// Keeps a compiled plugin. Failing to is no reason not to run it.
    pub fn put(&self, plugin: &Hash, compiled: &Component) {
        let kept = compiled.serialize().map_err(io::Error::other).and_then(|bytes| self.write(plugin, &bytes));
        if let Err(cause) = kept {
            tracing::warn!(%plugin, %cause, dir = %self.dir.display(), "cannot keep a compiled plugin: the next start compiles it again");
        }
    }

    fn write(&self, plugin: &Hash, compiled: &[u8]) -> io::Result<()> {
        let path = self.path(plugin);
        let draft = path.with_extension(format!("{}.draft", uuid::Uuid::now_v7()));
        let written = (|| {
            let mut file = fs::File::create_new(&draft)?;
            file.write_all(&Sha256::digest(compiled))?;
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

    fn path(&self, plugin: &Hash) -> PathBuf {
        self.dir.join(format!("{plugin}-{:016x}.cwasm", self.engine))
    }
}

#[allow(unsafe_code, reason = "only bytes that this host compiled and kept in a folder that nobody else can write")]
fn deserialize(engine: &Engine, compiled: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `compiled` is what `Component::serialize` gave, read back whole from the host's own folder.
    unsafe { Component::deserialize(engine, compiled) }
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
