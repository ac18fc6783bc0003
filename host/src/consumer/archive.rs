//! Files of versions that ran, kept so that a consumer can go back to one: `<sha-256>.wasm`, in a folder of the host's own.
//!
//! The name says what must be in a file, and reading one checks it: what a crash cut short or a disk changed is not there.
//! Which files are needed, the history of versions says; the others are deleted.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fault::{self, Point};
use crate::version::Hash;

pub struct Archive {
    dir: PathBuf,
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
        Self { dir }
    }

    /// Keeps `bytes`, whose SHA-256 is `hash`; on disk when this returns. Blocks on the file system.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn keep(&self, hash: &Hash, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(hash);
        // What has its name was synced before it got it. One that a disk damaged since is written again.
        if self.read(hash).is_ok() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)?;
        let draft = path.with_extension(format!("{}.draft", uuid::Uuid::now_v7()));
        let written = (|| {
            let mut file = fs::File::create_new(&draft)?;
            file.write_all(bytes)?;
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
    pub fn read(&self, hash: &Hash) -> Result<Arc<[u8]>, Gone> {
        let path = self.path(hash);
        match fs::read(&path) {
            Ok(bytes) if Hash::of(&bytes) == *hash => Ok(bytes.into()),
            Ok(_) => Err(Gone::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Gone::Missing(path)),
            Err(error) => Err(Gone::Unreadable(path, error)),
        }
    }

    /// Deletes the files of versions that nobody keeps. Blocks on the file system.
    pub fn let_go(&self, hashes: &[Hash]) {
        for hash in hashes {
            delete(&self.path(hash));
        }
    }

    /// Deletes whatever is no file of a version in `kept`: what a crash left unfinished, and what was never needed. Only
    /// while nothing is being kept. Blocks on the file system.
    pub fn sweep(&self, kept: &BTreeSet<Hash>) {
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
        let hash = Hash::of(b"plugin");
        assert!(matches!(archive.read(&hash), Err(Gone::Missing(_))));
        archive.keep(&hash, b"plugin").unwrap();
        archive.keep(&hash, b"plugin").unwrap();
        assert_eq!(*archive.read(&hash).unwrap(), *b"plugin");

        let path = dir.path().join(format!("versions/{hash}.wasm"));
        fs::write(&path, b"plug").unwrap();
        let told = archive.read(&hash).unwrap_err().to_string();
        assert!(told.contains(&format!("{hash}.wasm is damaged")), "{told}");
        archive.keep(&hash, b"plugin").unwrap();
        assert_eq!(*archive.read(&hash).unwrap(), *b"plugin", "a good copy takes the place of a damaged one");
    }

    #[test]
    fn what_nobody_needs_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path().to_owned());
        let [one, two, three] = ["1", "2", "3"].map(|plugin| Hash::of(plugin.as_bytes()));
        for (hash, plugin) in [(one, "1"), (two, "2"), (three, "3")] {
            archive.keep(&hash, plugin.as_bytes()).unwrap();
        }
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
