//! Mail into a folder: one `.eml` file a message, named after its id, so that a repeat overwrites the same file.
//!
//! A file is complete as soon as it has its name. It is not synced to disk one by one: the folder is for looking at
//! what would have been sent, and a power cut may take the last files with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lettre::Message as Email;

use super::Error;
use super::compose::safe_name;
use super::smtp::later;
use crate::backend::{Parcel, Sending};
use crate::fault::{self, Point};

pub(super) struct Folder {
    path: Arc<Path>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let refuse = |error| Error::Folder { folder: path.display().to_string(), error };
        create_private(path).map_err(refuse)?;
        let probe = path.join(".probe.tmp");
        fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(refuse)?;
        Ok(Self { path: path.into() })
    }

    pub(super) async fn write(&self, parcel: &Parcel, mail: Email) -> Sending {
        let name = safe_name(&parcel.message_id);
        let path = Arc::clone(&self.path);
        let written = tokio::task::spawn_blocking(move || put(&path, &name, &mail.formatted())).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(_) => Sending::Sent,
            Err(error) => later(parcel, format!("the mail folder cannot be written: {error}"), false),
        }
    }
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let half = folder.join(format!(".{name}.tmp"));
    let whole = folder.join(format!("{name}.eml"));
    fs::write(&half, bytes)?;
    fault::pass(Point::MailDrafted);
    fs::rename(&half, &whole)?;
    Ok(whole)
}

/// Mails tell who bought what: the folder is for its owner alone.
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_overwrites_and_leaves_no_half_file() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a.0.n", b"first").unwrap();
        fs::write(folder.path().join(".a.0.n.tmp"), b"left behind by a crash").unwrap();
        put(folder.path(), "a.0.n", b"second").unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.0.n.eml"]);
        assert_eq!(fs::read(folder.path().join("a.0.n.eml")).unwrap(), b"second");
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Folder::open(file.path()).map(drop).unwrap_err();
        assert!(error.to_string().contains("set mail.folder"), "{error}");
    }
}
