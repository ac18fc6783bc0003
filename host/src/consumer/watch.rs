//! What the file system tells of changes in the directory of consumers: that there are some, and which files came by a rename.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Renames that no look has asked for; of more, the files settle as copies do.
const RENAMED_MAX: usize = 10_000;

/// Names of files that were renamed into the directory and not touched since, as far as the file system tells.
///
/// Such a file is complete: whoever writes elsewhere and renames is done with it. One that is copied, saved in place or
/// linked is never among them, and one that somebody writes to afterwards no more. Where the file system tells late, or
/// nothing at all, a file that is not complete may be taken for one that is, or the other way round: validation refuses
/// the one, and the other settles.
#[derive(Default)]
pub struct Renamed(Mutex<BTreeSet<OsString>>);

impl Renamed {
    #[cfg(test)]
    pub fn of(files: &[&str]) -> Self {
        Self(Mutex::new(files.iter().map(OsString::from).collect()))
    }

    pub fn has(&self, file: &OsStr) -> bool {
        self.0.lock().contains(file)
    }

    /// Whether it is still among them. It is not any more.
    pub fn take(&self, file: &OsStr) -> bool {
        self.0.lock().remove(file)
    }

    fn note(&self, event: &Event) {
        let mut renamed = self.0.lock();
        if event.need_rescan() {
            // Events were lost, and a write may be among them.
            renamed.clear();
        }
        let files = event.paths.iter().filter_map(|path| path.file_name());
        match event.kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) if renamed.len() < RENAMED_MAX => {
                renamed.extend(files.filter(|file| concerns_consumers(file)).map(OsStr::to_owned));
            }
            // Tells again of what was told as two.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {}
            _ => files.for_each(|file| {
                renamed.remove(file);
            }),
        }
    }
}

/// Rings `hint` at every change in `dir`, for as long as what it returns is held; nothing where the file system cannot tell.
pub fn watch(dir: &Path, hint: Arc<Notify>, renamed: Arc<Renamed>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<Event>| {
        if let Some(event) = event.ok().filter(is_change) {
            renamed.note(&event);
            hint.notify_one();
        }
    };
    let watching = notify::recommended_watcher(on_event)
        .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::NonRecursive).map(|()| watcher));
    watching
        .inspect_err(
            |error| tracing::info!(%error, "the file system does not tell of changes; looking from time to time"),
        )
        .ok()
}

/// Looking and reading are events too; taking them for hints would never end.
fn is_change(event: &Event) -> bool {
    !matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Whether it can be a plugin or a side file, by its name.
fn concerns_consumers(file: &OsStr) -> bool {
    let extension = Path::new(file).extension();
    extension.is_some_and(|extension| extension == "wasm" || extension == "toml")
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag};

    use super::*;

    const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

    fn told(events: &[(EventKind, &str)]) -> Renamed {
        let renamed = Renamed::default();
        for (kind, file) in events {
            renamed.note(&Event::new(*kind).add_path(Path::new("/consumers").join(file)));
        }
        renamed
    }

    #[test]
    fn what_was_renamed_and_not_touched_since_is_taken_once() {
        let renamed = told(&[(WRITTEN, "a.wasm"), (TO, "a.wasm"), (WRITTEN, "b.wasm")]);
        assert!(renamed.has("a.wasm".as_ref()) && !renamed.has("b.wasm".as_ref()));
        assert!(renamed.take("a.wasm".as_ref()) && !renamed.take("a.wasm".as_ref()));
    }

    #[test]
    fn what_was_written_after_its_rename_must_settle() {
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        for kind in [WRITTEN, closed, EventKind::Any, EventKind::Create(notify::event::CreateKind::File)] {
            assert!(!told(&[(TO, "a.wasm"), (kind, "a.wasm")]).has("a.wasm".as_ref()), "{kind:?}");
        }
        let renamed = told(&[(TO, "a.wasm")]);
        renamed.note(&Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert!(!renamed.has("a.wasm".as_ref()), "events were lost");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_file_system_tells_a_rename_from_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (hint, renamed) = (Arc::new(Notify::new()), Arc::new(Renamed::default()));
        let _watcher = watch(dir.path(), Arc::clone(&hint), Arc::clone(&renamed)).unwrap();
        std::fs::write(dir.path().join("copied.wasm"), "a plugin").unwrap();
        std::fs::write(dir.path().join("unfinished"), "a plugin").unwrap();
        std::fs::rename(dir.path().join("unfinished"), dir.path().join("renamed.wasm")).unwrap();
        // Events come in order: what was told of the rename, was told of the copy before.
        while !renamed.has("renamed.wasm".as_ref()) {
            tokio::time::timeout(std::time::Duration::from_secs(60), hint.notified()).await.unwrap();
        }
        assert!(!renamed.has("copied.wasm".as_ref()));
    }
}
