//! A file that is written by a command and is not complete yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

/// Those of this process.
static HALVES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static HEEDED: Once = Once::new();

/// It lies beside the file that it becomes, under a name of its own, and is gone when dropped, or when a signal ends the command.
pub struct Half(PathBuf);

impl Half {
    /// # Errors
    /// Where `file` is no name of a file, or its folder cannot be written.
    pub fn beside(file: &Path) -> Result<Self, Failure> {
        let Some(name) = file.file_name() else {
            return Err(Failure::Usage(format!("{}: is not the name of a file", file.display())));
        };
        let half = file.with_file_name(format!(".{}.{}.half", name.to_string_lossy(), std::process::id()));
        HEEDED.call_once(|| {
            if let Err(error) = heed_signals() {
                tracing::debug!(%error, "a signal leaves what is half written");
            }
        });
        File::create_new(&half).map_err(|error| Failure::Failed(told(file, &error)))?;
        HALVES.lock().insert(half.clone());
        Ok(Self(half))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the file its name, when it is on disk, in the place of one that has it. Returns its length.
    ///
    /// # Errors
    /// Where the disk or the folder fails.
    pub fn replace(self, file: &Path) -> io::Result<u64> {
        self.name(file, |half| fs::rename(half, file))
    }

    /// As [`Half::replace`], but never in the place of another.
    ///
    /// # Errors
    /// As there, and where the name is taken.
    pub fn complete(self, file: &Path) -> io::Result<u64> {
        // Unlike a rename, a link replaces nothing that has come to be there meanwhile.
        self.name(file, |half| match fs::hard_link(half, file) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Err(_) => fs::rename(half, file),
            Ok(()) => Ok(()),
        })
    }

    fn name(self, file: &Path, give: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<u64> {
        let whole = File::open(&self.0)?;
        whole.sync_all()?;
        give(&self.0)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
        File::open(folder)?.sync_all()?;
        Ok(whole.metadata()?.len())
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // What cannot be deleted is told from a whole file by its name.
        drop(fs::remove_file(&self.0));
        HALVES.lock().remove(&self.0);
    }
}

/// Lets signals that end this process delete what it has half written: some of it is as large as a store, and hidden.
fn heed_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let heed = move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        // Held on to, so that none is made meanwhile.
        let halves = HALVES.lock();
        halves.iter().for_each(|half| drop(fs::remove_file(half)));
        end(code)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(heed).map(drop)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a signal ends the process wherever it is; what destructors would do is done"
)]
fn end(code: i32) {
    std::process::exit(code)
}

/// An error about a file.
pub fn told(file: &Path, error: &io::Error) -> String {
    format!("{}: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_completed_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows");
        drop(Half::beside(&file).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        let half = Half::beside(&file).unwrap();
        fs::write(half.path(), "one").unwrap();
        assert_eq!(half.replace(&file).unwrap(), 3);
        let half = Half::beside(&file).unwrap();
        assert_eq!(half.complete(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
