//! One look at the directory: which plugin files and side files are there, by name and stamp, unread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::watch::Renamed;
use crate::clock::Timestamp;
use crate::policy::ConsumerName;

/// A directory with more entries than this is not one of consumers; looking at it twice a second would cost more
/// than it tells.
const ENTRIES_MAX: usize = 10_000;
/// A file that was not touched for this long is not being copied: it needs no second look. Well above the
/// granularity of file times, and above what clocks of file servers are commonly off.
const QUIET_AFTER: Duration = Duration::from_secs(2);

/// What one look saw.
#[derive(Debug, Default)]
pub struct Look {
    pub sightings: BTreeMap<ConsumerName, Sighting>,
    /// Names among the sightings whose files are complete: not touched for a while, or renamed to where they are.
    pub whole: BTreeSet<ConsumerName>,
    /// File names that look like a plugin's and cannot be one, with the reason.
    pub strays: BTreeMap<String, String>,
}

/// What is in the directory for one consumer. Two equal sightings mean that nothing was written in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub plugin: Entry,
    pub side_file: Option<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    File(Stamp),
    /// Something that cannot be read as a file, and what it is.
    Other(String),
}

/// Tells one content of a file from another without reading it.
///
/// The time of the last status change is part of it: a copy that keeps the modification time (`cp -p`) still sets
/// that one, and nobody can set it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub bytes: u64,
    modified: Option<SystemTime>,
    changed: Option<SystemTime>,
    inode: u64,
}

impl Look {
    /// Without what is there for other consumers.
    #[must_use]
    pub fn only(mut self, name: Option<&ConsumerName>) -> Self {
        if let Some(name) = name {
            self.sightings.retain(|seen, _| seen == name);
            self.whole.retain(|seen| seen == name);
            self.strays.clear();
        }
        self
    }
}

impl Stamp {
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok();
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let since_epoch = u64::try_from(metadata.ctime()).ok().map(Duration::from_secs);
            let fraction = Duration::from_nanos(u64::try_from(metadata.ctime_nsec()).unwrap_or_default());
            let changed = since_epoch.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds + fraction));
            Self { bytes: metadata.len(), modified, changed, inode: metadata.ino() }
        }
        #[cfg(not(unix))]
        Self { bytes: metadata.len(), modified, changed: None, inode: 0 }
    }

    fn quiet_at(&self, now: Timestamp) -> bool {
        let since_epoch = self.changed.and_then(|changed| changed.duration_since(SystemTime::UNIX_EPOCH).ok());
        since_epoch.is_some_and(|changed| Timestamp::default().plus(changed + QUIET_AFTER) < now)
    }
}

/// Path of the plugin file of `name`.
#[must_use]
pub fn plugin_path(dir: &Path, name: &ConsumerName) -> PathBuf {
    dir.join(format!("{name}.wasm"))
}

/// Path of the side file of `name`.
#[must_use]
pub fn side_file_path(dir: &Path, name: &ConsumerName) -> PathBuf {
    dir.join(format!("{name}.toml"))
}

/// Looks at `dir`. Blocks on the file system.
///
/// # Errors
/// The directory cannot be read: nothing is known then, which is not the same as nothing being there.
pub fn look(dir: &Path, renamed: &Renamed) -> io::Result<Look> {
    look_at(dir, Timestamp::now(), renamed)
}

fn look_at(dir: &Path, now: Timestamp, renamed: &Renamed) -> io::Result<Look> {
    let mut seen = Look::default();
    for (count, entry) in fs::read_dir(dir)?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
        }
        let file_name = entry?.file_name();
        let file_name = file_name.to_string_lossy();
        // Editors and copying tools keep their work in dotfiles, which are nobody's plugin.
        let Some(stem) = file_name.strip_suffix(".wasm").filter(|stem| !stem.starts_with('.')) else { continue };
        let name = match stem.parse::<ConsumerName>() {
            Ok(name) => name,
            Err(error) => {
                seen.strays.insert(file_name.to_string(), error.to_string());
                continue;
            }
        };
        let Some((plugin, whole)) = see(&plugin_path(dir, &name), now, renamed) else { continue };
        let side_file = see(&side_file_path(dir, &name), now, renamed);
        if whole && side_file.as_ref().is_none_or(|(_, whole)| *whole) {
            seen.whole.insert(name.clone());
        }
        seen.sightings.insert(name, Sighting { plugin, side_file: side_file.map(|(entry, _)| entry) });
    }
    Ok(seen)
}

/// What is at `path`, and whether it is complete.
fn see(path: &Path, now: Timestamp, renamed: &Renamed) -> Option<(Entry, bool)> {
    // Asked before the look, or it could be of a file that came after it; taken after it, when a write in between was told.
    let came = path.file_name().filter(|file| renamed.has(file));
    let entry = entry_at(path)?;
    let came = came.is_some_and(|file| renamed.take(file));
    // A link says nothing of what it leads to.
    let itself = || fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_symlink());
    let quiet = matches!(&entry, Entry::File(stamp) if stamp.quiet_at(now));
    Some((entry, quiet || came && itself()))
}

/// What is at `path`, links followed; `None` if nothing is.
#[must_use]
pub fn entry_at(path: &Path) -> Option<Entry> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Some(Entry::File(Stamp::of(&metadata))),
        Ok(metadata) if metadata.is_dir() => Some(Entry::Other("a directory".to_owned())),
        Ok(_) => Some(Entry::Other("a device, pipe or socket".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::symlink_metadata(path).ok().map(|_| Entry::Other("a link that leads nowhere".to_owned()))
        }
        Err(error) => Some(Entry::Other(format!("something that cannot be looked at ({error})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_legal_names_are_consumers_and_the_rest_is_ignored_or_told() {
        let dir = tempfile::tempdir().unwrap();
        for file in [".hidden.wasm", "a.wasm~", "b.wasm.tmp", "c.txt", "d.toml", "Upper.wasm", "shipment.wasm"] {
            fs::write(dir.path().join(file), b"x").unwrap();
        }
        let look = look(dir.path(), &Renamed::default()).unwrap();
        let names: Vec<_> = look.sightings.keys().map(ConsumerName::as_str).collect();
        assert_eq!(names, ["shipment"]);
        assert_eq!(look.strays.keys().collect::<Vec<_>>(), ["Upper.wasm"]);
        assert!(look.whole.is_empty(), "just written");
    }

    #[test]
    fn what_is_no_file_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("x.wasm")).unwrap();
        let plugin = look(dir.path(), &Renamed::default()).unwrap().sightings.into_values().next().unwrap().plugin;
        assert_eq!(plugin, Entry::Other("a directory".to_owned()));
    }

    #[cfg(unix)]
    #[test]
    fn what_was_renamed_here_is_whole_unless_it_is_a_link_or_its_side_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["alone.wasm", "copied.wasm", "led-to", "steered.toml", "steered.wasm"] {
            fs::write(dir.path().join(file), b"x").unwrap();
        }
        std::os::unix::fs::symlink("led-to", dir.path().join("linked.wasm")).unwrap();
        let whole = |renamed: &Renamed| {
            // So long ago that nothing is quiet.
            let look = look_at(dir.path(), Timestamp::default(), renamed).unwrap();
            look.whole.into_iter().map(|name| name.to_string()).collect::<Vec<_>>()
        };
        let renamed = Renamed::of(&["alone.wasm", "linked.wasm", "steered.wasm"]);
        assert_eq!(whole(&renamed), ["alone"]);
        assert!(whole(&renamed).is_empty(), "a rename counts for one look");
        assert_eq!(whole(&Renamed::of(&["steered.wasm", "steered.toml"])), ["steered"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_broken_ones_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("target"), b"x").unwrap();
        std::os::unix::fs::symlink("target", dir.path().join("a.wasm")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("b.wasm")).unwrap();
        let plugins: Vec<_> =
            look(dir.path(), &Renamed::default()).unwrap().sightings.into_values().map(|seen| seen.plugin).collect();
        assert!(matches!(&plugins[..], [Entry::File(_), Entry::Other(what)] if what.contains("nowhere")));
    }

    #[cfg(unix)]
    #[test]
    fn a_rewrite_with_size_and_time_put_back_is_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        fs::write(&path, b"one").unwrap();
        let (before, modified) = (entry_at(&path), fs::metadata(&path).unwrap().modified().unwrap());
        // The clock of file times ticks every few milliseconds; until it does, the rewrite cannot be told.
        let rewrite = || {
            fs::write(&path, b"two").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            entry_at(&path)
        };
        assert!((0..100_000).any(|_| rewrite() != before));
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_an_error_and_not_empty() {
        assert!(look(Path::new("/nowhere/at/all"), &Renamed::default()).is_err());
    }
}
