//! Files of versions: kept to go back to, shared with other hosts, and let go of once nobody needs them.
//!
//! That one cannot be kept is no reason not to run it. Its status says so until it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Newest, Running, Shared, Slot, blocking};
use crate::backend::PluginFile;
use crate::consumer::runtime::Runtime;
use crate::consumer::scan;
use crate::consumer::stage::{File, Loaded};
use crate::version::{Binary, Hash};

/// What could not be done with files of versions, and why.
#[derive(Default)]
pub(super) struct Files {
    not_kept: BTreeMap<Hash, String>,
    not_shared: BTreeMap<Hash, String>,
}

impl Files {
    pub(super) fn note_kept(&mut self, hash: Hash, kept: Result<(), String>) {
        note(&mut self.not_kept, hash, kept);
    }

    /// Whether other hosts still lack one that they were to have.
    pub(super) fn lack(&self, hash: &Hash) -> bool {
        self.not_shared.contains_key(hash)
    }

    /// What people are told, where it is of the version that runs or of the newest file.
    pub(super) fn told<'l, R: Runtime>(
        &self,
        versions: impl Iterator<Item = &'l Loaded<R>>,
        path: &std::path::Path,
        shared: &Shared<R>,
    ) -> Option<String>
    where
        R::Plugin: 'l,
    {
        let told = versions.flat_map(|Loaded { hash, plugin, .. }| {
            let version = format!("{} ({})", shared.runtime.description(plugin).version, hash.short());
            let kept = self.not_kept.get(hash).map(|why| {
                format!("the file of version {version} is not kept, and nobody will be able to go back to it: {why}")
            });
            let shared = self
                .not_shared
                .get(hash)
                .map(|why| format!("other hosts cannot have the file of version {version} from here: {why}"));
            kept.into_iter().chain(shared)
        });
        let told = told.collect::<Vec<_>>().join("\n");
        (!told.is_empty()).then(|| format!("{told}\n`touch {}` tries again, once the cause is gone", path.display()))
    }
}

fn note(failed: &mut BTreeMap<Hash, String>, hash: Hash, done: Result<(), String>) {
    match done {
        Ok(()) => failed.remove(&hash),
        Err(why) => failed.insert(hash, why),
    };
}

impl<R: Runtime> Slot<R> {
    /// Keeps the newest file again, where it is one of these and was let go of since it was loaded: it was kept out, or another
    /// consumer had it.
    pub(super) async fn keep_newest(&mut self, mut versions: impl Iterator<Item = &Loaded<R>>, shared: &Shared<R>) {
        let Some((entry, Newest { file: PluginFile { hash: Some(hash), .. }, .. })) = &self.newest else { return };
        if !versions.any(|loaded| loaded.hash == *hash) {
            return;
        }
        let file = File { path: scan::plugin_path(&shared.dir, &self.name), entry: entry.clone() };
        let (archive, hash, bytes_max) = (Arc::clone(&shared.archive), *hash, shared.plugin_bytes_max);
        let read = move || (!archive.has(&hash)).then(|| file.read(bytes_max));
        let kept = match blocking(read).await {
            Some(Ok(settled)) => keep(settled.binary, shared).await,
            Some(Err(error)) => {
                tracing::warn!(version = %hash.short(), %error, "cannot keep the file of a version: nobody will be able to go back to it");
                Err(error.to_string())
            }
            None => Ok(()),
        };
        self.files.note_kept(hash, kept);
    }

    /// The version that runs, where it is the newest file and nothing is known to be amiss with how that is kept.
    pub fn kept_as_newest(&self) -> Option<Hash> {
        let hash = self.running.as_ref()?.loaded.hash;
        let (_, newest) = self.newest.as_ref()?;
        (newest.file.hash == Some(hash) && !self.files.not_kept.contains_key(&hash)).then_some(hash)
    }

    /// Keeps the file of the version that runs again, where somebody deleted what was kept: once another file comes, nobody has it.
    pub(super) async fn keep_running(&mut self, newest: &Newest<R>, shared: &Shared<R>) {
        let Ok(loaded) = &newest.loaded else { return };
        let runs = |running: &Running<R>| running.loaded.hash == loaded.hash;
        if self.running.as_ref().is_some_and(runs) {
            let _alone = shared.archive.alone().await;
            self.keep_newest(std::iter::once(loaded), shared).await;
        }
    }

    /// Keeps the files of versions for other hosts, too: those that do not have it will say so.
    pub(super) async fn share(&mut self, versions: impl Iterator<Item = &Loaded<R>>, shared: &Shared<R>) {
        for Loaded { hash, .. } in versions {
            let done = share(*hash, shared).await;
            if let Err(why) = &done {
                tracing::warn!(consumer = %self.name, version = %hash.short(), why, "other hosts cannot have the file of a version from here");
            }
            note(&mut self.files.not_shared, *hash, done);
        }
    }

    /// What is amiss with the files of the version that runs and of the newest one.
    pub(super) fn not_kept(&self, newest: Option<&Loaded<R>>, shared: &Shared<R>) -> Option<String> {
        let running = self.running.as_ref().map(|Running { loaded, .. }| loaded);
        let other = newest.filter(|newest| running.is_none_or(|running| running.hash != newest.hash));
        let path = scan::plugin_path(&shared.dir, &self.name);
        self.files.told(running.into_iter().chain(other), &path, shared)
    }
}

/// Keeps the file of a version that is about to run. Without it, only going back to it will be refused.
pub(super) async fn keep<R: Runtime>(binary: Binary, shared: &Shared<R>) -> Result<(), String> {
    let (archive, hash) = (Arc::clone(&shared.archive), *binary.hash());
    let kept = blocking(move || archive.keep(&binary)).await;
    kept.map_err(|error| {
        tracing::warn!(version = %hash.short(), %error, "cannot keep the file of a version: nobody will be able to go back to it");
        format!("cannot write into {}: {error}", shared.archive.dir().display())
    })
}

async fn share<R: Runtime>(hash: Hash, shared: &Shared<R>) -> Result<(), String> {
    if shared.fleet.has_file(&hash).await.map_err(|error| error.to_string())? {
        return Ok(());
    }
    let archive = Arc::clone(&shared.archive);
    let binary = blocking(move || archive.read(&hash)).await.map_err(|gone| gone.to_string())?;
    shared.fleet.keep_file(&binary).await.map_err(|error| error.to_string())
}

/// Lets go of the file of a version that is in the directory no more, unless it ran and is kept. Who has the same one keeps it again
/// before it runs.
pub(super) async fn leave<R: Runtime>(left: Option<Hash>, shared: &Shared<R>) {
    let_go(left.into_iter().collect(), shared).await;
}

/// Lets go of the files of versions, but of those that are kept by now: the same file may have come again meanwhile.
pub(super) async fn let_go<R: Runtime>(versions: Vec<Hash>, shared: &Shared<R>) {
    shared.archive.leave(versions, &*shared.versions).await;
}
