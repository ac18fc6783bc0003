//! The plugin that handles a consumer's events without effect: named by its side file, and taken through the same stages.

use std::path::Path;
use std::sync::Arc;

use super::load::load_settled;
use super::{Running, Shared, Slot, blocking};
use crate::consumer::runtime::{self, Live, Runtime};
use crate::consumer::scan::{self, Entry};
use crate::consumer::stage::{File, Loaded, Refused};
use crate::consumer::status::ShadowStatus;
use crate::delivery::shadow::{Ledger, TIME_MAX, narrowed};
use crate::policy::{Policy, SHADOW_DIR};
use crate::sandbox::Description;

/// What became of the file that the side file names.
pub(super) struct Attending<R: Runtime> {
    file: String,
    entry: Option<Entry>,
    policy: Arc<Policy>,
    ready: Result<(Loaded<R>, runtime::Shadow<R::Version>), Refused>,
}

/// The host was to blame, and not the file.
pub(super) struct TryAgain;

impl<R: Runtime> Slot<R> {
    /// Takes up the shadow that the policy names, where it or its file is not what it was.
    ///
    /// # Errors
    /// Where the host could not: it is to be tried again.
    pub(super) async fn attend(&mut self, shared: &Arc<Shared<R>>) -> Result<(), TryAgain> {
        let named = self.policy.as_ref().and_then(|policy| Some((policy.shadow.clone()?, Arc::clone(policy))));
        let Some((file, policy)) = named else {
            self.shadow = None;
            shared.shadow_files.lock().remove(&self.name);
            return Ok(());
        };
        let path = shared.dir.join(SHADOW_DIR).join(&file);
        let entry = {
            let path = path.clone();
            blocking(move || scan::entry_at(&path)).await
        };
        let same = |before: &&Attending<R>| before.file == file && before.entry == entry && before.policy == policy;
        let before = self.shadow.as_ref().filter(same);
        if before.is_some_and(Attending::is_settled) {
            return Ok(());
        }
        let told = before.and_then(|before| before.ready.as_ref().err().cloned());
        let found = entry.clone().ok_or_else(|| no_shadow(&path));
        let ready = match found {
            Ok(entry) => self.prepare_shadow(File { path: path.clone(), entry }, &policy, shared).await,
            Err(refused) => Err(refused),
        };
        if let Err(refused) = &ready
            && told.as_ref() != Some(refused)
        {
            tracing::warn!(consumer = %self.name, file, reason = %refused, "the shadow handles nothing");
        }
        shared.shadow_files.lock().insert(self.name.clone(), (path, entry.clone()));
        let attending = Attending { file, entry, policy, ready };
        let settled = attending.is_settled();
        self.shadow = Some(attending);
        if settled { Ok(()) } else { Err(TryAgain) }
    }

    async fn prepare_shadow(
        &self,
        file: File,
        policy: &Arc<Policy>,
        shared: &Arc<Shared<R>>,
    ) -> Result<(Loaded<R>, runtime::Shadow<R::Version>), Refused> {
        let Ok(_permit) = shared.loads.acquire().await else { return Err(Refused::Changed) };
        let bytes_max = shared.plugin_bytes_max;
        let loaded = load_settled(blocking(move || file.read(bytes_max)).await?, shared).await?;
        let side_file = scan::side_file_path(&shared.dir, &self.name);
        let granted = loaded.grant(&shared.runtime, policy, &side_file)?.under(Arc::new(bounded(policy)));
        let Live { version, subscriptions, .. } = granted.link(&shared.runtime, &self.name)?;
        let before = self.shadow.as_ref().and_then(|before| before.ready.as_ref().ok());
        // What was found out about a plugin holds under another policy too.
        let ledger =
            before.filter(|(before, _)| before.hash == loaded.hash).map(|(_, before)| Arc::clone(&before.ledger));
        let ledger = ledger.unwrap_or_default();
        Ok((loaded, runtime::Shadow { version, subscriptions, ledger }))
    }

    /// The shadow of `live`, if there is one that may read its state.
    pub(super) fn shadow_of(&self, live: &Loaded<R>, shared: &Shared<R>) -> Option<runtime::Shadow<R::Version>> {
        let (loaded, shadow) = self.shadow.as_ref()?.ready.as_ref().ok()?;
        layouts(live, loaded, shared).is_ok().then(|| shadow.clone())
    }

    /// Whether a version runs under this policy, with this shadow, and on its way to where the consumer goes.
    pub(super) fn is_as(&self, running: &Running<R>, policy: &Arc<Policy>, shared: &Shared<R>) -> bool {
        let shadow = self.shadow_of(&running.loaded, shared).map(|shadow| shadow.ledger);
        running.is_under(policy) && same_ledger(&running.shadow, &shadow) && running.back == self.back_hash()
    }

    /// Lets readers see what a shadow finds.
    pub(super) fn show_shadow(&self, ledger: Option<&Arc<Ledger>>, shared: &Shared<R>) {
        let mut ledgers = shared.ledgers.lock();
        match ledger {
            Some(ledger) => ledgers.insert(self.name.clone(), Arc::clone(ledger)),
            None => ledgers.remove(&self.name),
        };
    }
}

impl<R: Runtime> Attending<R> {
    /// From the same file, under the same policy, nothing else comes of it.
    fn is_settled(&self) -> bool {
        !matches!(self.ready, Err(Refused::Unavailable(_) | Refused::Changed))
    }

    pub(super) fn shown(&self, running: &Running<R>, shared: &Shared<R>) -> ShadowStatus {
        let loaded = self.ready.as_ref().map(|(loaded, _)| loaded);
        let against = loaded.map_err(Clone::clone).and_then(|loaded| layouts(&running.loaded, loaded, shared));
        let loaded = loaded.ok();
        ShadowStatus {
            file: self.file.clone(),
            reason: against.err().map(|refused| refused.to_string()),
            version: loaded.map(|loaded| shared.runtime.description(&loaded.plugin).version.to_string()),
            hash: loaded.map(|loaded| loaded.hash.to_string()),
        }
    }
}

pub(super) fn same_ledger(one: &Option<Arc<Ledger>>, other: &Option<Arc<Ledger>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// A shadow holds its lane up for no longer than it must.
fn bounded(policy: &Policy) -> Policy {
    let mut bounded = narrowed(policy);
    bounded.limits.time = bounded.limits.time.min(TIME_MAX);
    bounded
}

fn layouts<R: Runtime>(live: &Loaded<R>, shadow: &Loaded<R>, shared: &Shared<R>) -> Result<(), Refused> {
    let [live, shadow] = [live, shadow].map(|loaded| shared.runtime.description(&loaded.plugin));
    same_layout(live, shadow)
}

/// The file that the side file names is not there.
pub fn no_shadow(path: &Path) -> Refused {
    let path = path.display();
    Refused::Faulty(format!("there is no file {path}: put the plugin there, or take `shadow` out of the side file"))
}

/// Whether a shadow can read the state of the version that runs.
///
/// # Errors
/// `Faulty` where it keeps its state otherwise.
pub fn same_layout(live: &Description, shadow: &Description) -> Result<(), Refused> {
    let (runs, wanted) = (live.state_version, shadow.state_version);
    if runs == wanted {
        return Ok(());
    }
    Err(Refused::Faulty(format!(
        "it keeps state of layout {wanted} and the version that runs of layout {runs}: it cannot read it; `fanfare plugin run` with \
         `--state empty` compares both over what has happened"
    )))
}
