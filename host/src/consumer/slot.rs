//! One consumer: the version that runs, and the steps from what is in the directory to the next one.
//!
//! **Invariants**
//! - A version that runs is replaced only by one that passed every stage; until then it stays untouched.
//! - A grant that is taken away takes effect at once: what needs it stops.
//! - At most one worker runs per consumer, and versions with different `state-version` never run side by side.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::runtime::{Live, Runtime};
use super::scan::{self, Entry, Sighting};
use super::stage::{File, Loaded, Refused};
use super::status::{Candidate, ConsumerStatus, State};
use crate::clock::Timestamp;
use crate::event::Subscriptions;
use crate::policy::{ConsumerName, Policy};

/// What every consumer of one directory shares.
pub struct Shared<R> {
    pub dir: PathBuf,
    pub runtime: R,
    pub board: Board,
    /// Turns at reading and compiling.
    pub loads: Semaphore,
    pub plugin_bytes_max: u64,
    /// Once cancelled, no load is waited for.
    pub stopping: CancellationToken,
}

pub struct Slot<R: Runtime> {
    name: ConsumerName,
    running: Option<Running<R>>,
    /// What became of the newest file: another side file needs no second compile, and a refused file no second try.
    newest: Option<(Entry, Result<Loaded<R>, Refused>)>,
}

struct Running<R: Runtime> {
    loaded: Loaded<R>,
    version: Arc<R::Version>,
    policy: Arc<Policy>,
    subscriptions: Subscriptions,
    since: Timestamp,
    worker: R::Worker,
}

/// Whether a sighting was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TakenUp {
    /// For good or ill; only another sighting changes it.
    Yes,
    /// The files moved on or the host could not: try again.
    Again,
}

impl<R: Runtime> Slot<R> {
    #[must_use]
    pub fn new(name: ConsumerName) -> Self {
        Self { name, running: None, newest: None }
    }

    /// Brings the consumer as near to what is in the directory as it goes.
    pub async fn take_up(&mut self, sighting: &Sighting, shared: &Arc<Shared<R>>) -> TakenUp {
        // A refused consumer stays so until the next file is judged: trying again must not make it flicker.
        let before = shared.board.get(&self.name).map(|status| status.state);
        if matches!(before, None | Some(State::Loading | State::Removed)) {
            shared.board.show_state(&self.name, State::Loading, None);
        }
        let policy = self.read_policy(sighting, shared).await;
        let newest = self.load(&sighting.plugin, shared).await;
        let mut refusals = Refusals::default();
        match (newest.as_ref(), self.in_force(&policy)) {
            (Ok(loaded), Some(in_force)) => match self.prepare(loaded, &in_force, shared) {
                Ok(live) => refusals.note(self.go_live(loaded.clone(), live, shared).await),
                Err(refused) => {
                    refusals.note(Err(refused));
                    refusals.note(self.fall_back(&in_force, shared).await);
                }
            },
            (Err(refused), in_force) => {
                refusals.note(Err(refused.clone()));
                if let Some(in_force) = in_force {
                    refusals.note(self.fall_back(&in_force, shared).await);
                }
            }
            (Ok(_), None) => {}
        }
        refusals.note(policy.map(drop));
        if refusals.0.contains(&Refused::Changed) {
            return TakenUp::Again;
        }
        self.show(&refusals.0, newest.ok().as_ref(), shared);
        let again = refusals.0.iter().any(|refused| matches!(refused, Refused::Unavailable(_)));
        if again { TakenUp::Again } else { TakenUp::Yes }
    }

    /// Stops the consumer because its file is gone. Its position stays in the store.
    pub async fn remove(&mut self, shared: &Arc<Shared<R>>) {
        self.drain(shared).await;
        self.newest = None;
        shared.board.show_state(&self.name, State::Removed, Some(removed_reason(&self.name, shared)));
    }

    /// Lets deliveries that run finish, and starts no other.
    pub async fn drain(&mut self, shared: &Shared<R>) {
        if let Some(running) = self.running.take() {
            shared.board.show_state(&self.name, State::Draining, None);
            shared.runtime.stop(running.worker).await;
        }
    }

    /// Without the policy that the operator wrote, a consumer that runs keeps its own; a new one must not start.
    fn in_force(&self, policy: &Result<Arc<Policy>, Refused>) -> Option<Arc<Policy>> {
        let own = self.running.as_ref().map(|running| &running.policy);
        policy.as_ref().ok().or(own).cloned()
    }

    async fn read_policy(&self, sighting: &Sighting, shared: &Shared<R>) -> Result<Arc<Policy>, Refused> {
        let Some(entry) = sighting.side_file.clone() else { return Ok(Arc::new(Policy::default())) };
        let file = File { path: scan::side_file_path(&shared.dir, &self.name), entry };
        blocking(move || file.read_policy()).await.map(Arc::new)
    }

    async fn load(&mut self, entry: &Entry, shared: &Arc<Shared<R>>) -> Result<Loaded<R>, Refused> {
        if let Some((_, result)) = self.newest.as_ref().filter(|(before, _)| before == entry) {
            return result.clone();
        }
        let loaded = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => Err(Refused::Changed),
            loaded = self.load_anew(entry, shared) => loaded,
        };
        if !matches!(loaded, Err(Refused::Changed | Refused::Unavailable(_))) {
            self.newest = Some((entry.clone(), loaded.clone()));
        }
        loaded
    }

    async fn load_anew(&self, entry: &Entry, shared: &Arc<Shared<R>>) -> Result<Loaded<R>, Refused> {
        let file = File { path: scan::plugin_path(&shared.dir, &self.name), entry: entry.clone() };
        let Ok(_permit) = shared.loads.acquire().await else { return Err(Refused::Changed) };
        let (read, file) = {
            let bytes_max = shared.plugin_bytes_max;
            blocking(move || (file.read(bytes_max), file)).await
        };
        let settled = read?;
        // A touched or restored file is what runs already.
        if let Some(running) = self.running.as_ref().filter(|running| running.loaded.hash == settled.hash) {
            return Ok(running.loaded.clone());
        }
        let loaded = settled.load(&shared.runtime).await;
        // A copy that paused for longer than files take to settle looks complete and is not.
        if loaded.is_err() && blocking(move || scan::entry_at(&file.path) != Some(file.entry)).await {
            return Err(Refused::Changed);
        }
        loaded
    }

    fn prepare(
        &self,
        loaded: &Loaded<R>,
        policy: &Arc<Policy>,
        shared: &Shared<R>,
    ) -> Result<Live<R::Version>, Refused> {
        let side_file = scan::side_file_path(&shared.dir, &self.name);
        let granted = loaded.grant(&shared.runtime, policy, &side_file)?;
        // A version that runs keeps its warm instances where nothing is asked of it that it was not linked for.
        let same = |running: &&Running<R>| running.loaded.hash == loaded.hash && running.policy.links_like(policy);
        match self.running.as_ref().filter(same) {
            Some(running) => Ok(granted.on(Arc::clone(&running.version))),
            None => granted.link(&shared.runtime, &self.name),
        }
    }

    async fn go_live(&mut self, loaded: Loaded<R>, live: Live<R::Version>, shared: &Shared<R>) -> Result<(), Refused> {
        let Live { version, policy, subscriptions } = &live;
        let (version, policy, subscriptions) = (Arc::clone(version), Arc::clone(policy), subscriptions.clone());
        let state_version = |loaded: &Loaded<R>| shared.runtime.description(&loaded.plugin).state_version;
        let same_file = |running: &Running<R>| running.loaded.hash == loaded.hash;
        if self.running.as_ref().is_some_and(|running| same_file(running) && running.policy == policy) {
            return Ok(());
        }
        let since = self.running.as_ref().filter(|running| same_file(running)).map(|running| running.since);
        let together = |running: &Running<R>| state_version(&running.loaded) == state_version(&loaded);
        let worker = match self.running.take_if(|running| together(running)) {
            Some(running) => {
                shared.runtime.swap(&running.worker, live);
                running.worker
            }
            None => {
                self.drain(shared).await;
                let started = shared.runtime.start(&self.name, live).await;
                started.map_err(|error| Refused::Unavailable(error.to_string()))?
            }
        };
        let since = since.unwrap_or_else(Timestamp::now);
        self.running = Some(Running { loaded, version, policy, subscriptions, since, worker });
        Ok(())
    }

    /// The newest file was refused: what runs goes on, under the policy as it is now.
    async fn fall_back(&mut self, policy: &Arc<Policy>, shared: &Shared<R>) -> Result<(), Refused> {
        let Some(running) = self.running.as_ref().filter(|running| running.policy != *policy) else { return Ok(()) };
        let loaded = running.loaded.clone();
        match self.prepare(&loaded, policy, shared) {
            Ok(live) => self.go_live(loaded, live, shared).await,
            Err(refused) => {
                if matches!(refused, Refused::Ungranted(_)) {
                    self.drain(shared).await;
                }
                Err(refused)
            }
        }
    }

    fn show(&self, refusals: &[Refused], newest: Option<&Loaded<R>>, shared: &Shared<R>) {
        let told = refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let refused = refusals.first().map(|refused| match refused {
            Refused::Ungranted(_) => State::AwaitingGrant,
            Refused::Faulty(_) | Refused::Unavailable(_) | Refused::Changed => State::Failed,
        });
        let status = match (&self.running, refused) {
            (Some(running), refused) => {
                let version = &shared.runtime.description(&running.loaded.plugin).version;
                let newest = newest.filter(|newest| newest.hash != running.loaded.hash);
                ConsumerStatus {
                    subscriptions: running.subscriptions.iter().map(ToString::to_string).collect(),
                    loaded_at: Some(running.since),
                    reason: refused.map(|_| format!("version {version} keeps running: {told}")),
                    candidate: refused.map(|state| Candidate {
                        state,
                        reason: told,
                        version: newest.map(|newest| shared.runtime.description(&newest.plugin).version.to_string()),
                        hash: newest.map(|newest| newest.hash.to_string()),
                    }),
                    ..self.status(State::Running, Some(&running.loaded), shared)
                }
            }
            // Neither running nor refused does not happen: what is not refused was started.
            (None, refused) => {
                let state = refused.unwrap_or(State::Loading);
                ConsumerStatus { reason: Some(told), ..self.status(state, newest, shared) }
            }
        };
        shared.board.show(status);
    }

    fn status(&self, state: State, loaded: Option<&Loaded<R>>, shared: &Shared<R>) -> ConsumerStatus {
        let bare = ConsumerStatus::bare(self.name.clone(), state, None);
        let Some(loaded) = loaded else { return bare };
        let description = shared.runtime.description(&loaded.plugin);
        ConsumerStatus {
            version: Some(description.version.to_string()),
            hash: Some(loaded.hash.to_string()),
            state_version: Some(description.state_version),
            summary: Some(description.summary.clone()),
            subscriptions: description.subscriptions.iter().map(ToString::to_string).collect(),
            needs: description.needs.iter().map(ToString::to_string).collect(),
            ..bare
        }
    }
}

/// Why a sighting was not taken up whole: of the newest file first.
#[derive(Default)]
struct Refusals(Vec<Refused>);

impl Refusals {
    fn note(&mut self, result: Result<(), Refused>) {
        if let Err(refused) = result
            && !self.0.contains(&refused)
        {
            self.0.push(refused);
        }
    }
}

/// What a removed consumer's status says.
pub fn removed_reason<R>(name: &ConsumerName, shared: &Shared<R>) -> String {
    let path = scan::plugin_path(&shared.dir, name);
    format!("{} is gone; position and state are kept: put it back to go on", path.display())
}

/// Runs `work` where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody aborts it, so it panicked: a bug, which belongs to the caller as if it had run there.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
