//! From the files of one consumer to its policy and a loaded plugin: the newest file, or one that was kept.

use std::sync::Arc;

use super::files::{keep, leave};
use super::{Newest, Running, Shared, Slot, blocking};
use crate::backend::PluginFile;
use crate::consumer::archive;
use crate::consumer::runtime::Runtime;
use crate::consumer::scan::{self, Entry, Sighting};
use crate::consumer::stage::{File, Loaded, Refused, Settled};
use crate::policy::{Policy, SecretSource};
use crate::version::Hash;

impl<R: Runtime> Slot<R> {
    /// The same value as long as the file is the same.
    pub(super) async fn read_policy(
        &mut self,
        sighting: &Sighting,
        shared: &Shared<R>,
    ) -> Result<Arc<Policy>, Refused> {
        let Some(entry) = sighting.side_file.clone() else { return Ok(Arc::new(Policy::default())) };
        if let Some((_, policy)) = self.side_file.as_ref().filter(|(before, _)| *before == entry) {
            return Ok(Arc::clone(policy));
        }
        let file = File { path: scan::side_file_path(&shared.dir, &self.name), entry: entry.clone() };
        let policy = Arc::new(blocking(move || file.read_policy()).await?);
        self.side_file = Some((entry, Arc::clone(&policy)));
        Ok(policy)
    }

    pub(super) async fn load(&mut self, entry: &Entry, shared: &Arc<Shared<R>>) -> Newest<R> {
        if let Some((_, newest)) = self.newest.as_ref().filter(|(before, _)| before == entry) {
            return newest.clone();
        }
        let path = scan::plugin_path(&shared.dir, &self.name);
        let mut file = PluginFile { path: path.display().to_string(), ..PluginFile::default() };
        let loaded = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => Err(Refused::Changed),
            loaded = self.load_anew(File { path, entry: entry.clone() }, &mut file, shared) => loaded,
        };
        let newest = Newest { file, loaded };
        self.arrived |= self.newest.as_ref().is_some_and(|(_, before)| before.file.hash != newest.file.hash);
        if !matches!(newest.loaded, Err(Refused::Changed | Refused::Unavailable(_))) {
            let before = self.newest.replace((entry.clone(), newest.clone()));
            let left = before.and_then(|(_, before)| before.file.hash).filter(|hash| newest.file.hash != Some(*hash));
            leave(left, shared).await;
        }
        newest
    }

    async fn load_anew(
        &mut self,
        file: File,
        told: &mut PluginFile,
        shared: &Arc<Shared<R>>,
    ) -> Result<Loaded<R>, Refused> {
        let Ok(_permit) = shared.loads.acquire().await else { return Err(Refused::Changed) };
        let (settled, owner, file) = {
            let bytes_max = shared.plugin_bytes_max;
            let read = move || {
                let settled = file.read(bytes_max);
                let owner = settled.as_ref().ok().and_then(|settled| settled.owner).map(archive::user);
                (settled, owner, file)
            };
            blocking(read).await
        };
        let settled = settled?;
        let binary = settled.binary.clone();
        (told.hash, told.owner) = (Some(*binary.hash()), owner);
        // A touched or restored file is what runs already.
        let loaded = match self.running.as_ref().filter(|running| running.loaded.hash == *binary.hash()) {
            Some(running) => Ok(running.loaded.clone()),
            None => load_settled(settled, shared).await,
        };
        // A copy that paused for longer than files take to settle looks complete and is not.
        if loaded.is_err() && blocking(move || scan::entry_at(&file.path) != Some(file.entry)).await {
            return Err(Refused::Changed);
        }
        if let Ok(loaded) = &loaded {
            let description = shared.runtime.description(&loaded.plugin);
            told.version = Some(description.version.to_string());
            told.state_version = Some(description.state_version);
            let kept = keep(binary, shared).await;
            self.files.note_kept(loaded.hash, kept);
        }
        loaded
    }

    /// A version whose file was kept.
    pub(super) async fn load_kept(&self, hash: Hash, shared: &Arc<Shared<R>>) -> Result<Loaded<R>, Refused> {
        let Ok(_permit) = shared.loads.acquire().await else { return Err(Refused::Changed) };
        let archive = Arc::clone(&shared.archive);
        let told = |what: String| Refused::Faulty(format!("version {} cannot run in its place: {what}", hash.short()));
        let binary = match blocking(move || archive.read(&hash)).await {
            Ok(binary) => binary,
            Err(gone) => match shared.fleet.file(&hash).await {
                Ok(Some(binary)) => {
                    // It is where it came from, too.
                    let _ = keep(binary.clone(), shared).await;
                    binary
                }
                Ok(None) => {
                    let path = scan::plugin_path(&shared.dir, &self.name);
                    return Err(told(format!("{gone}; to run it again, put its file there as {}", path.display())));
                }
                Err(error) => return Err(error.into()),
            },
        };
        // The keys may be others than when it ran.
        load_settled(Settled { binary, owner: None }, shared).await.map_err(|refused| match refused {
            Refused::Faulty(what) => told(what),
            other => other,
        })
    }
}

impl<R: Runtime> Clone for Newest<R> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), loaded: self.loaded.clone() }
    }
}

impl<R: Runtime> Running<R> {
    /// Whether what was linked for it runs under `policy` as it is.
    pub(super) fn links_under(&self, policy: &Arc<Policy>) -> bool {
        self.policy.links_like(policy) && self.has_secrets_of(policy)
    }

    pub(super) fn is_under(&self, policy: &Arc<Policy>) -> bool {
        self.policy == *policy && self.has_secrets_of(policy)
    }

    /// Files of secrets may be others at each save of the side file.
    fn has_secrets_of(&self, policy: &Arc<Policy>) -> bool {
        let is_file = |source: &SecretSource| matches!(source, SecretSource::File(_));
        Arc::ptr_eq(&self.policy, policy) || !policy.grant.secrets.values().any(is_file)
    }
}

/// Of a file that was read. Where the host stops, nobody waits for it.
pub(super) async fn load_settled<R: Runtime>(settled: Settled, shared: &Arc<Shared<R>>) -> Result<Loaded<R>, Refused> {
    let trusted = {
        let shared = Arc::clone(shared);
        blocking(move || settled.verify(&shared.plugin_keys)).await?
    };
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => Err(Refused::Changed),
        loaded = trusted.load(&shared.runtime) => loaded,
    }
}
