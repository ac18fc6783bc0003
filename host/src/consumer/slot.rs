//! One consumer: the version that runs, and the steps from what is in the directory to the next one.
//!
//! ```text
//! sighting ─▶ policy, plugin file ─▶ Plan (what was decided about this very file?) ─▶ history ─▶ worker
//! ```
//!
//! **Invariants**
//! - A version that runs is replaced only by one that passed every stage; until then it stays untouched.
//! - A grant that is taken away takes effect at once: what needs it stops.
//! - At most one worker runs per consumer, and versions with different `state-version` never run side by side.
//! - The history says which version is live before the worker knows it: whatever crashes, the next start goes on with it.

mod back;
mod canary;
mod files;
mod load;
mod shadow;
mod shown;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::back::Returning;
use self::canary::NotTried;
use self::files::Files;
use self::shadow::{Attending, same_ledger};
pub use self::shadow::{no_shadow, same_layout};
pub use self::shown::removed_reason;
use super::archive::Archive;
use super::board::Board;
use super::history::{self, Came, Plan, Word};
use super::runtime::{Live, Runtime};
use super::scan::{self, Entry, Sighting};
use super::stage::{Loaded, Refused};
use super::status::State;
use crate::backend::{Fleet, HISTORY_MAX, Layouts, PluginFile, Standing, Turn, TurnOutcome, Versions};
use crate::clock::Timestamp;
use crate::delivery::shadow::Ledger;
use crate::delivery::trial::Trial;
use crate::event::Subscriptions;
use crate::fault::{self, Point};
use crate::policy::{ConsumerName, Policy};
use crate::signature::PublicKey;
use crate::version::Hash;

/// Of a reason in the history: what is longer tells no more.
const REASON_BYTES_MAX: usize = 2_000;

/// What every consumer of one directory shares.
pub struct Shared<R> {
    pub dir: PathBuf,
    pub runtime: R,
    pub board: Board,
    pub versions: Arc<dyn Versions>,
    pub layouts: Arc<dyn Layouts>,
    pub fleet: Arc<dyn Fleet>,
    pub archive: Arc<Archive>,
    /// Of consumers that try a new version.
    pub trials: Mutex<BTreeMap<ConsumerName, Arc<Trial>>>,
    /// Of consumers whose shadow handles events.
    pub ledgers: Mutex<BTreeMap<ConsumerName, Arc<Ledger>>>,
    /// Consumers that are on their way back to a version with another layout of state.
    pub returning: Mutex<BTreeSet<ConsumerName>>,
    /// Where each consumer's shadow lies, and what was there when it was taken up.
    pub shadow_files: Mutex<BTreeMap<ConsumerName, (PathBuf, Option<Entry>)>>,
    /// Rung when one of them has a verdict.
    pub hint: Arc<Notify>,
    /// Turns at reading and compiling.
    pub loads: Semaphore,
    pub plugin_bytes_max: u64,
    /// One of them must have signed a plugin; if there are none, nobody need have.
    pub plugin_keys: Vec<PublicKey>,
    /// Once cancelled, no load is waited for.
    pub stopping: CancellationToken,
}

pub struct Slot<R: Runtime> {
    name: ConsumerName,
    running: Option<Running<R>>,
    /// What became of the newest file: another side file needs no second compile, and a refused file no second try.
    newest: Option<(Entry, Newest<R>)>,
    /// The policy as it was last in force.
    policy: Option<Arc<Policy>>,
    /// The side file that was read last, and what it says.
    side_file: Option<(Entry, Arc<Policy>)>,
    /// What its side file names as its shadow.
    shadow: Option<Attending<R>>,
    back: Option<Returning<R>>,
    files: Files,
    /// Whether somebody put the newest file there since the last sighting was taken up.
    arrived: bool,
}

/// A plugin file as far as it came.
struct Newest<R: Runtime> {
    file: PluginFile,
    loaded: Result<Loaded<R>, Refused>,
}

struct Running<R: Runtime> {
    loaded: Loaded<R>,
    version: Arc<R::Version>,
    policy: Arc<Policy>,
    subscriptions: Subscriptions,
    since: Timestamp,
    worker: R::Worker,
    candidate: Option<Trying<R>>,
    shadow: Option<Arc<Ledger>>,
    /// The version that it is on its way back to.
    back: Option<Hash>,
}

/// The newest file, as long as it is tried on a share of the orders.
struct Trying<R: Runtime> {
    file: PluginFile,
    loaded: Loaded<R>,
    version: Arc<R::Version>,
    trial: Arc<Trial>,
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
    pub fn new(name: ConsumerName, arrived: bool) -> Self {
        let (newest, side_file, files) = (None, None, Files::default());
        Self { name, running: None, newest, policy: None, side_file, shadow: None, back: None, files, arrived }
    }

    /// Brings the consumer as near to what is in the directory as it goes.
    pub async fn take_up(&mut self, sighting: &Sighting, shared: &Arc<Shared<R>>) -> TakenUp {
        // A refused consumer stays so until the next file is judged: trying again must not make it flicker.
        let before = shared.board.get(&self.name).map(|status| status.state);
        if matches!(before, None | Some(State::Loading | State::Removed)) {
            shared.board.show_state(&self.name, State::Loading, Some("its file is checked and compiled".to_owned()));
        }
        let policy = self.read_policy(sighting, shared).await;
        let newest = self.load(&sighting.plugin, shared).await;
        self.keep_running(&newest, shared).await;
        let mut refusals = Refusals::default();
        refusals.note(self.heed_verdict(shared).await);
        self.policy = self.in_force(&policy);
        let attended = self.attend(shared).await;
        refusals.note(self.follow_back(shared).await);
        match (shared.versions.standing(&self.name).await, self.policy.clone()) {
            (Ok(standing), Some(policy)) => self.follow(&newest, standing, &policy, &mut refusals, shared).await,
            (Ok(_), None) => refusals.note(newest.loaded.as_ref().map(drop).map_err(Clone::clone)),
            (Err(error), _) => refusals.note(Err(error.into())),
        }
        refusals.note(policy.map(drop));
        if refusals.0.contains(&Refused::Changed) {
            return TakenUp::Again;
        }
        self.show(&refusals.0, newest.loaded.ok().as_ref(), shared);
        let again = refusals.0.iter().any(|refused| matches!(refused, Refused::Unavailable(_)));
        self.arrived &= again;
        if again || attended.is_err() { TakenUp::Again } else { TakenUp::Yes }
    }

    /// Runs the newest file, or what was decided to run in its place, or else what ran before.
    async fn follow(
        &mut self,
        newest: &Newest<R>,
        standing: Option<Standing>,
        policy: &Arc<Policy>,
        refusals: &mut Refusals,
        shared: &Arc<Shared<R>>,
    ) {
        let before = self.stays(standing.as_ref(), shared);
        let came = match self.came(&newest.file, standing.as_ref(), shared).await {
            Ok(came) => came,
            Err(refused) => return refusals.note(Err(refused)),
        };
        let plan = |loaded: &Loaded<R>| Plan::of(&loaded.hash, standing.as_ref(), policy.rollout.is_some(), came);
        let mut planned = newest.loaded.clone().map(|loaded| (plan(&loaded), loaded));
        if let Ok((Plan::Try { live }, loaded)) = &planned {
            let news = Plan::is_new_canary(&loaded.hash, standing.as_ref());
            let live = before.unwrap_or(*live);
            match self.try_beside(live, loaded.clone(), &newest.file, news, policy, shared).await {
                Err(NotTried::Alone) => planned = Ok((Plan::Take, loaded.clone())),
                Err(NotTried::Refused(refused)) => planned = Err(refused),
                Ok(()) => return,
            }
        }
        let refused = match planned {
            Ok((Plan::Take, loaded)) => match self.prepare(&loaded, policy, shared) {
                Ok(live) => {
                    let news = Plan::is_news(&loaded.hash, standing.as_ref(), came);
                    let news = news && !(came == Came::Before && self.runs_alone(&loaded.hash));
                    let turn = news.then(|| turn(TurnOutcome::Live, &newest.file, loaded.hash));
                    let word = Word::of(&loaded.hash, standing.as_ref(), came);
                    return refusals.note(self.go_live(loaded, live, None, (turn, word), shared).await);
                }
                Err(refused) => refused,
            },
            // It was tried above.
            Ok((Plan::Try { .. }, _)) => return,
            Ok((Plan::Keep { live, reason }, _)) => {
                refusals.note(Err(self.kept_out(&reason)));
                let word = Word::of(&live, standing.as_ref(), Came::Before);
                return refusals.note(self.fall_back(Some((live, word)), policy, shared).await);
            }
            Err(refused) => refused,
        };
        self.note_refused(&newest.file, &refused, before, policy, shared).await;
        let waits = before.is_none() && matches!(refused, Refused::Ungranted(_));
        refusals.note(Err(refused));
        if waits {
            refusals.note(self.introduce(policy, shared).await);
        }
        let before = before.map(|live| (live, Word::of(&live, standing.as_ref(), Came::Before)));
        refusals.note(self.fall_back(before, policy, shared).await);
    }

    /// What runs on where the newest file does not. That a file came to another host says nothing of what runs here.
    fn stays(&self, standing: Option<&Standing>, shared: &Shared<R>) -> Option<Hash> {
        let is_for_all = standing.is_none_or(Standing::is_decision) || !shared.fleet.is_shared();
        let here = self.running.as_ref().filter(|_| !is_for_all).map(|running| running.loaded.hash);
        here.or_else(|| standing.and_then(|standing| standing.live))
    }

    /// Events wait for a consumer that waits for its grant, though it never ran.
    async fn introduce(&self, policy: &Policy, shared: &Shared<R>) -> Result<(), Refused> {
        let introduced = shared.runtime.introduce(&self.name, policy.start).await;
        Ok(introduced?)
    }

    /// Whether the file was there while other hosts decided.
    async fn came(&self, file: &PluginFile, standing: Option<&Standing>, shared: &Shared<R>) -> Result<Came, Refused> {
        let (Some(hash), Some(standing)) = (file.hash, standing) else { return Ok(Came::Last) };
        if self.arrived || !shared.fleet.is_shared() || (self.tries(&hash) && !standing.is_decision()) {
            return Ok(Came::Last);
        }
        if [standing.live, standing.file].contains(&Some(hash)) || self.runs_alone(&hash) {
            return Ok(Came::Before);
        }
        let history = shared.versions.history(&self.name, HISTORY_MAX).await;
        let history = history?;
        Ok(if history::knows(&history, &hash) { Came::Before } else { Came::Last })
    }

    fn tries(&self, hash: &Hash) -> bool {
        let candidate = self.running.as_ref().and_then(|running| running.candidate.as_ref());
        candidate.is_some_and(|candidate| candidate.loaded.hash == *hash)
    }

    fn runs_alone(&self, hash: &Hash) -> bool {
        self.running.as_ref().is_some_and(|running| running.loaded.hash == *hash && running.candidate.is_none())
    }

    fn kept_out(&self, reason: &str) -> Refused {
        Refused::KeptOut(format!(
            "{reason}; `fanfare consumers promote {}` takes it up, and so does another file",
            self.name
        ))
    }

    /// Stops the consumer because its file is gone. Its position stays in the store.
    pub async fn remove(&mut self, shared: &Arc<Shared<R>>) {
        self.drain(shared).await;
        files::leave(self.newest.take().and_then(|(_, newest)| newest.file.hash), shared).await;
        (self.shadow, self.back, self.arrived) = (None, None, true);
        shared.shadow_files.lock().remove(&self.name);
        shared.returning.lock().remove(&self.name);
        shared.board.show_state(&self.name, State::Removed, Some(removed_reason(&self.name, shared)));
    }

    /// Lets deliveries that run finish, and starts no other.
    pub async fn drain(&mut self, shared: &Shared<R>) {
        if let Some(running) = self.running.take() {
            self.show_trial(None, shared);
            self.show_shadow(None, shared);
            shared.board.show_state(&self.name, State::Draining, None);
            shared.runtime.stop(running.worker).await;
        }
    }

    /// Without the policy that the operator wrote, a consumer that runs keeps its own; a new one must not start.
    fn in_force(&self, policy: &Result<Arc<Policy>, Refused>) -> Option<Arc<Policy>> {
        let own = self.running.as_ref().map(|running| &running.policy);
        policy.as_ref().ok().or(own).cloned()
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
        let linked = self.running.as_ref().filter(|running| running.links_under(policy));
        let versions = linked.into_iter().flat_map(|running| {
            let candidate = running.candidate.iter().map(|candidate| (&candidate.loaded, &candidate.version));
            std::iter::once((&running.loaded, &running.version)).chain(candidate)
        });
        let same = versions.into_iter().find(|(running, _)| running.hash == loaded.hash);
        match same {
            Some((_, version)) => Ok(granted.on(Arc::clone(version))),
            None => granted.link(&shared.runtime, &self.name),
        }
    }

    /// Makes a version live, once the history says so where that is news.
    async fn go_live(
        &mut self,
        loaded: Loaded<R>,
        live: Live<R::Version>,
        candidate: Option<Trying<R>>,
        (turn, mut word): (Option<Turn>, Word),
        shared: &Arc<Shared<R>>,
    ) -> Result<(), Refused> {
        let versions = || std::iter::once(&loaded).chain(candidate.iter().map(|tried| &tried.loaded));
        let is_news = turn.is_some();
        if is_news || self.running.is_none() || versions().any(|loaded| self.files.lack(&loaded.hash)) {
            self.share(versions(), shared).await;
        }
        if is_news && word == Word::Last {
            self.lay_out(&live, shared).await?;
            // Whoever comes from now on came later.
            word = Word::Earlier;
        }
        if let Some(turn) = turn {
            let alone = shared.archive.alone().await;
            self.keep_newest(versions(), shared).await;
            let gone = self.record(turn, &live.policy, shared).await?;
            drop(alone);
            files::let_go(gone, shared).await;
            // Others may have let go of a file until then.
            self.share(versions(), shared).await;
            // Whatever is recorded ends a way back.
            self.back = None;
        }
        let live = Live { shadow: self.shadow_of(&loaded, shared), back: self.back(), ..live };
        let Live { version, policy, subscriptions, .. } = &live;
        let (version, policy, subscriptions) = (Arc::clone(version), Arc::clone(policy), subscriptions.clone());
        let back = self.back_hash();
        let state_version = |loaded: &Loaded<R>| shared.runtime.description(&loaded.plugin).state_version;
        let same_file = |running: &Running<R>| running.loaded.hash == loaded.hash;
        let same_trial = |running: &Running<R>| match (&running.candidate, &candidate) {
            (None, None) => true,
            (Some(before), Some(now)) => Arc::ptr_eq(&before.trial, &now.trial),
            _ => false,
        };
        let shadow = live.shadow.as_ref().map(|shadow| Arc::clone(&shadow.ledger));
        let same = |running: &Running<R>| {
            same_file(running)
                && same_trial(running)
                && running.is_under(&policy)
                && same_ledger(&running.shadow, &shadow)
                && running.back == back
        };
        if self.running.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.show_trial(candidate.as_ref(), shared);
        self.show_shadow(shadow.as_ref(), shared);
        let since = self.running.as_ref().filter(|running| same_file(running)).map(|running| running.since);
        let together = |running: &Running<R>| state_version(&running.loaded) == state_version(&loaded);
        let worker = match self.running.take_if(|running| together(running)) {
            Some(running) => {
                shared.runtime.swap(&running.worker, live);
                running.worker
            }
            None => {
                let relays = self.running.is_some();
                self.drain(shared).await;
                if relays {
                    let why = "a version with another layout of state takes over; what the state was is kept first";
                    shared.board.show_state(&self.name, State::Draining, Some(why.to_owned()));
                }
                tokio::select! {
                    biased;
                    () = shared.stopping.cancelled() => return Err(Refused::Changed),
                    started = shared.runtime.start(&self.name, live, word == Word::Last) => started?,
                }
            }
        };
        let since = since.unwrap_or_else(Timestamp::now);
        self.running = Some(Running { loaded, version, policy, subscriptions, since, worker, candidate, shadow, back });
        Ok(())
    }

    /// Where hosts share the state, those that run a version of another layout make way before the history says that this one
    /// is live: who crashes in between finds that no host has heard of it yet, and begins anew.
    async fn lay_out(&self, live: &Live<R::Version>, shared: &Shared<R>) -> Result<(), Refused> {
        if !shared.fleet.is_shared() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => Err(Refused::Changed),
            laid_out = shared.runtime.lay_out(&self.name, live) => Ok(laid_out?),
        }
    }

    /// The newest file does not run: what ran before goes on, under the policy as it is now; after a restart, from its kept
    /// file.
    async fn fall_back(
        &mut self,
        before: Option<(Hash, Word)>,
        policy: &Arc<Policy>,
        shared: &Arc<Shared<R>>,
    ) -> Result<(), Refused> {
        let (before, word) = before.map_or((None, Word::Earlier), |(hash, word)| (Some(hash), word));
        let running = self.running.as_ref().filter(|running| before.is_none_or(|hash| running.loaded.hash == hash));
        let loaded = match (running, before) {
            (Some(running), _) if running.candidate.is_none() && self.is_as(running, policy, shared) => return Ok(()),
            (Some(running), _) => running.loaded.clone(),
            (None, Some(hash)) => self.load_kept(hash, shared).await?,
            (None, None) => return Ok(()),
        };
        match self.prepare(&loaded, policy, shared) {
            Ok(live) => self.go_live(loaded, live, None, (None, word), shared).await,
            Err(refused) => {
                if matches!(refused, Refused::Ungranted(_)) {
                    self.drain(shared).await;
                }
                Err(refused)
            }
        }
    }

    /// Writes down what became of the file. Returns versions that may be let go of.
    async fn record(&self, turn: Turn, policy: &Policy, shared: &Shared<R>) -> Result<Vec<Hash>, Refused> {
        let keep = policy.keep_versions.get() as usize;
        let gone = shared.versions.record(&self.name, turn, keep).await;
        let gone = gone?.into_inner();
        fault::pass(Point::VersionRecorded);
        Ok(gone)
    }

    /// A refusal of the file itself stands in the history too; that it cannot be written there keeps nobody from anything.
    async fn note_refused(
        &self,
        file: &PluginFile,
        refused: &Refused,
        live: Option<Hash>,
        policy: &Policy,
        shared: &Shared<R>,
    ) {
        if !matches!(refused, Refused::Faulty(_) | Refused::Ungranted(_)) {
            return;
        }
        let mut reason = refused.to_string();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        let turn = Turn { outcome: TurnOutcome::Refused, reason: Some(reason), file: file.clone(), live };
        match self.record(turn, policy, shared).await {
            Ok(gone) => files::let_go(gone, shared).await,
            Err(error) => {
                tracing::warn!(consumer = %self.name, %error, "the history does not say that a file was refused");
            }
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

fn turn(outcome: TurnOutcome, file: &PluginFile, live: Hash) -> Turn {
    Turn { outcome, reason: None, file: file.clone(), live: Some(live) }
}

/// Runs `work` where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody aborts it, so it panicked: a bug, which belongs to the caller as if it had run there.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
