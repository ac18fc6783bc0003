//! Files of versions that ran, kept so that a consumer can go back to one: `<sha-256>.wasm`, in a folder of the host's own.
//!
//! The name says what must be in a file, and reading one checks it: what a crash cut short or a disk changed is not there.
//! Which files are needed, the history of versions says; the others are deleted.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use super::slot::blocking;
use crate::backend::Versions;
use crate::fault::{self, Point};
use crate::version::{Binary, Hash};

/// What is compared with a kept file at a time.
const PIECE_BYTES: usize = 64 << 10;

pub struct Archive {
    dir: PathBuf,
    /// Held while it is decided whether a file is needed.
    deciding: Mutex<()>,
}

/// Why the file of a version is not there.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    #[error("its file is not kept any more: {0} is not there")]
    Missing(PathBuf),
    #[error("{0} is damaged: its content is not what its name says")]
    Damaged(PathBuf),
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, io::Error),
}

impl Archive {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, deciding: Mutex::default() }
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Nobody else lets go of what turned out to be needed by nobody, until this is dropped.
    pub async fn alone(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().await
    }

    /// Keeps `binary`; on disk when this returns. Blocks on the file system.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn keep(&self, binary: &Binary) -> io::Result<()> {
        let path = self.path(binary.hash());
        // What has its name was synced before it got it. One that a disk damaged since is written again.
        if holds(&path, binary).unwrap_or(false) {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        let draft = path.with_extension(format!("{}.draft", uuid::Uuid::now_v7()));
        let written = (|| {
            let mut file = fs::File::create_new(&draft)?;
            file.write_all(binary)?;
            fault::pass(Point::KeptDrafted);
            file.sync_all()?;
            fault::pass(Point::KeptSynced);
            fs::rename(&draft, &path)?;
            fs::File::open(&self.dir)?.sync_all()?;
            fault::pass(Point::KeptNamed);
            Ok(())
        })();
        if written.is_err() {
            drop(fs::remove_file(&draft));
        }
        written
    }

    #[must_use]
    pub fn has(&self, hash: &Hash) -> bool {
        self.path(hash).is_file()
    }

    /// The plugin file. Blocks on the file system.
    ///
    /// # Errors
    /// [`Gone`], and why.
    pub fn read(&self, hash: &Hash) -> Result<Binary, Gone> {
        let path = self.path(hash);
        match fs::read(&path).map(Binary::from) {
            Ok(binary) if binary.hash() == hash => Ok(binary),
            Ok(_) => Err(Gone::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Gone::Missing(path)),
            Err(error) => Err(Gone::Unreadable(path, error)),
        }
    }

    /// Deletes the files of these versions, but of those that `history` says are kept: the same file may have come again
    /// meanwhile. Where it cannot say it, all stay.
    pub async fn leave(self: &Arc<Self>, mut hashes: Vec<Hash>, history: &dyn Versions) {
        if hashes.is_empty() {
            return;
        }
        let _alone = self.alone().await;
        match history.kept().await {
            Ok(kept) => {
                hashes.retain(|hash| !kept.contains(hash));
                let archive = Arc::clone(self);
                blocking(move || archive.let_go(&hashes)).await;
            }
            Err(error) => tracing::warn!(%error, "cannot tell whether files of versions are needed: they stay"),
        }
    }

    /// The archive in `dir`, without what a crash left in it. That it cannot be said what is needed keeps everything.
    pub async fn swept(dir: PathBuf, history: &dyn Versions) -> Arc<Self> {
        let archive = Arc::new(Self::new(dir));
        match history.kept().await {
            Ok(kept) => {
                let archive = Arc::clone(&archive);
                blocking(move || archive.sweep(&kept)).await;
            }
            Err(error) => tracing::warn!(%error, "cannot tell which files of versions are needed: all stay"),
        }
        archive
    }

    /// Deletes the files of versions. Blocks on the file system.
    fn let_go(&self, hashes: &[Hash]) {
        for hash in hashes {
            delete(&self.path(hash));
        }
    }

    /// Deletes whatever is no file of a version in `kept`: what a crash left unfinished, and what was never needed. Only
    /// while nothing is being kept. Blocks on the file system.
    fn sweep(&self, kept: &BTreeSet<Hash>) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hash = name.strip_suffix(".wasm").and_then(|stem| stem.parse().ok());
            if !hash.is_some_and(|hash| kept.contains(&hash)) {
                delete(&path);
            }
        }
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.dir.join(format!("{hash}.wasm"))
    }
}

/// Whether the file at `path` is these bytes, read piece by piece rather than as a whole.
fn holds(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    for expected in bytes.chunks(PIECE_BYTES) {
        let (piece, _) = piece.split_at_mut(expected.len());
        file.read_exact(piece)?;
        if piece != expected {
            return Ok(false);
        }
    }
    Ok(file.metadata()?.len() == bytes.len() as u64)
}

fn delete(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the file of a version that nobody needs cannot be deleted");
        }
        _ => {}
    }
}

/// The name of the user `uid`, as this machine's own file of users has it; else the number.
#[must_use]
pub fn user(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    named(&users, uid).unwrap_or_else(|| uid.to_string())
}

fn named(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path().join("versions"));
        // Longer than what is compared at a time.
        let binary = Binary::from(b"plugin".repeat(PIECE_BYTES));
        let hash = binary.hash();
        assert!(matches!(archive.read(hash), Err(Gone::Missing(_))));
        archive.keep(&binary).unwrap();
        archive.keep(&binary).unwrap();
        assert!(*archive.read(hash).unwrap() == *binary);

        let path = dir.path().join(format!("versions/{hash}.wasm"));
        let (mut changed, longer) = (binary.to_vec(), [&*binary, b"s"].concat());
        *changed.last_mut().unwrap() ^= 1;
        for damaged in [b"plug", &changed[..], &longer] {
            fs::write(&path, damaged).unwrap();
            let told = archive.read(hash).unwrap_err().to_string();
            assert!(told.contains(&format!("{hash}.wasm is damaged")), "{told}");
            archive.keep(&binary).unwrap();
            assert!(*archive.read(hash).unwrap() == *binary, "a good copy takes the place of a damaged one");
        }
    }

    #[test]
    fn what_nobody_needs_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path().to_owned());
        let [one, two, three] = ["1", "2", "3"].map(|plugin| {
            let binary = Binary::from(plugin.as_bytes());
            archive.keep(&binary).unwrap();
            *binary.hash()
        });
        let draft = dir.path().join("half.draft");
        fs::write(&draft, b"x").unwrap();
        archive.let_go(&[three]);
        archive.sweep(&[one].into());
        assert_eq!([one, two, three].map(|hash| archive.has(&hash)), [true, false, false]);
        assert!(!draft.exists());
    }

    #[test]
    fn a_user_is_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nhalf:x\n";
        assert_eq!(named(users, 1000).as_deref(), Some("ada"));
        assert_eq!(named(users, 7), None);
    }
}
