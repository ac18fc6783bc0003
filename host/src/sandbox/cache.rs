//! Compiled plugins on disk, so that a restart compiles nothing.
//!
//! A file is `<sha-256 of the plugin>-<engine settings>.cwasm` and begins with a MAC (HMAC-SHA256) of its name and what follows,
//! under a key that the host drew for this folder: what a crash cut short, a disk changed, or somebody put there who cannot read
//! the key, is compiled again. The MAC is looked at over the very bytes that are loaded, not over a file that may change meanwhile
//! (see [`Code`]). The machine code in it is trusted, so the folder is the host's alone; whoever can read and write
//! there can run code in the host, which is why [`Cache::open`] refuses a shared folder.

use std::fs;
use std::hash::{Hash as _, Hasher};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ring::hmac;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::code::Code;
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
        let mut file = fs::File::open(self.path(plugin)).ok()?;
        let (mut mac, mut digest) = ([0; MAC_BYTES], self.digest(plugin));
        let read = file.read_exact(&mut mac).and_then(|()| Code::read(file, |piece| digest.update(piece)));
        let code = read
            .inspect_err(|cause| tracing::warn!(%plugin, %cause, "a compiled plugin in the cache cannot be read, and will be made again"))
            .ok()?;
        if hmac::verify(&self.key, &digest.finalize(), &mac).is_err() {
            tracing::warn!(%plugin, "a compiled plugin in the cache is not what this host kept there, and will be made again");
            return None;
        }
        code.component(engine)
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
        let mac = hmac::sign(&self.key, &self.digest(plugin).chain_update(compiled).finalize());
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

    /// What the MAC is of, but for the content that follows: the file's name comes first, so that no file can stand for another.
    fn digest(&self, plugin: &Hash) -> Sha256 {
        Sha256::new().chain_update(format!("{plugin}-{:016x}", self.engine))
    }

    fn path(&self, plugin: &Hash) -> PathBuf {
        self.dir.join(format!("{plugin}-{:016x}.cwasm", self.engine))
    }
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
