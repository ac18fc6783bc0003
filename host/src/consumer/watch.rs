//! What the file system tells of changes in the directory of consumers.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Rings `hint` at every change in `dir`, for as long as what it returns is held; nothing where the file system cannot tell.
pub fn watch(dir: &Path, hint: Arc<Notify>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        // Looking and reading are events too; taking them for hints would never end.
        let written =
            |kind| !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
        if event.is_ok_and(|event| written(event.kind)) {
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
