//! The loop that keeps what runs in step with what is in the directory.
//!
//! ```text
//! hint or tick ─▶ look ─▶ Settling ─▶ Diff ─▶ one task per consumer that changed ─▶ Slot
//! ```
//!
//! Looks are cheap and made every [`Settings::poll`]; notifications of the file system only make the next one come
//! sooner, and may be lost. One task owns the table; a consumer's slot moves into its task and comes back with it, so
//! nothing is ever done twice at once for one consumer, while consumers do not wait for each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::RecommendedWatcher;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::board::Board;
use super::diff::Diff;
use super::elsewhere::Elsewhere;
use super::runtime::Runtime;
use super::scan::{self, Entry, Look, Sighting};
use super::settle::Settling;
use super::slot::{self, Shared, Slot, TakenUp, blocking};
use super::status::{Catalogue, State};
use super::steer::{ASKED_MAX, Ask, Handle, Refusal, Steering};
use super::watch::{Renamed, watch};
use crate::backend::{Fleet, Layouts, Versions};
use crate::delivery::shadow::Report;
use crate::policy::ConsumerName;
use crate::signature::PublicKey;
use crate::version::Hash;

/// A plugin of this size compiles for seconds and is a mistake more often than a plugin.
pub const PLUGIN_BYTES_MAX: u64 = 64 << 20;
/// Copies on one machine write without such pauses; a longer time would be felt by somebody who waits for a plugin.
const SETTLE_AFTER: Duration = Duration::from_millis(120);
/// A burst of notifications becomes one look, and a swap hardly waits for it.
const LOOK_GAP: Duration = Duration::from_millis(5);
/// What the host or its store could not do is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Start-up does not wait longer than this for plugins; they go on loading while the host serves.
const OPEN_TIME_MAX: Duration = Duration::from_secs(60);
/// Plugins read or compiled at the same time: each is held in memory whole meanwhile, and more would only share the
/// same processors.
const LOADS_MAX: usize = 4;

#[derive(Clone, Debug)]
pub struct Settings {
    pub dir: PathBuf,
    /// Time between looks where no notification comes.
    pub poll: Duration,
    /// Files unchanged for this long are taken for complete, as are those that came by a rename.
    pub settle: Duration,
    pub plugin_bytes_max: u64,
    /// One of them must have signed a plugin; if there are none, nobody need have.
    pub plugin_keys: Vec<PublicKey>,
    /// Where files of versions that ran are kept. The host's alone.
    pub versions_dir: PathBuf,
    /// The only consumer that is taken up, whatever else is there.
    pub only: Option<ConsumerName>,
}

impl Settings {
    #[must_use]
    pub fn new(dir: PathBuf, versions_dir: PathBuf) -> Self {
        Self {
            dir,
            versions_dir,
            poll: Duration::from_millis(500),
            settle: SETTLE_AFTER,
            plugin_bytes_max: PLUGIN_BYTES_MAX,
            plugin_keys: Vec::new(),
            only: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot use {} as the directory of consumers: {cause}", dir.display())]
pub struct Error {
    dir: PathBuf,
    cause: io::Error,
}

/// The directory of consumers, open.
#[must_use = "nothing is watched until it runs"]
pub struct Directory<R: Runtime> {
    shared: Arc<Shared<R>>,
    only: Option<ConsumerName>,
    poll: Duration,
    settling: Settling,
    /// What the slots are in step with, or are being brought in step with.
    taken_up: BTreeMap<ConsumerName, Sighting>,
    idle: BTreeMap<ConsumerName, Slot<R>>,
    busy: BTreeSet<ConsumerName>,
    /// Of these, what a look found something new of.
    passed_over: BTreeSet<ConsumerName>,
    again: BTreeMap<ConsumerName, Instant>,
    updates: JoinSet<(ConsumerName, Slot<R>, TakenUp)>,
    hint: Arc<Notify>,
    renamed: Arc<Renamed>,
    asks: mpsc::Receiver<Ask>,
    steering: Handle,
    /// Steps whose consumer is busy.
    asked: VecDeque<Ask>,
    /// Watches for as long as it is held; absent where the file system cannot tell.
    _watcher: Option<RecommendedWatcher>,
    told: Told,
    /// Shadows whose file is not what was taken up, and since when it is as it is.
    moving: BTreeMap<ConsumerName, (Option<Entry>, Instant)>,
    elsewhere: Elsewhere,
    /// Rung when a way back has come to its end.
    handed_over: Arc<Notify>,
    /// Files that come from now on are put there by somebody, and were not there before.
    is_open: bool,
}

/// What was logged and still holds, so that it is logged once.
#[derive(Default)]
struct Told {
    strays: BTreeMap<String, String>,
    unreadable: Option<String>,
}

impl<R: Runtime> Directory<R> {
    /// Opens the directory, making it if it is not there, and returns when every consumer in it runs or was refused.
    ///
    /// # Errors
    /// The directory cannot be made or read. A bad plugin is no error: its status tells.
    pub async fn open(
        settings: Settings,
        runtime: R,
        versions: Arc<dyn Versions>,
        layouts: Arc<dyn Layouts>,
        fleet: Arc<dyn Fleet>,
    ) -> Result<Self, Error> {
        let Settings { dir, poll, settle, plugin_bytes_max, plugin_keys, versions_dir, only } = settings;
        let failed = |cause| Error { dir: dir.clone(), cause };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let renamed = Arc::new(Renamed::default());
        let first = scan::look(&dir, &renamed).map_err(failed)?.only(only.as_ref());
        let hint = Arc::new(Notify::new());
        let shared = Shared {
            dir: dir.clone(),
            runtime,
            board: Board::default(),
            archive: Archive::swept(versions_dir, &*versions).await,
            trials: Mutex::default(),
            ledgers: Mutex::default(),
            shadow_files: Mutex::default(),
            returning: Mutex::default(),
            hint: Arc::clone(&hint),
            versions,
            layouts,
            fleet,
            loads: Semaphore::new(LOADS_MAX),
            plugin_bytes_max,
            plugin_keys,
            stopping: CancellationToken::new(),
        };
        let (ask, asks) = mpsc::channel(ASKED_MAX);
        let elsewhere = Elsewhere::of(&*shared.fleet);
        let handed_over = shared.layouts.handed_over();
        let mut directory = Self {
            asks,
            steering: Handle(ask),
            asked: VecDeque::new(),
            shared: Arc::new(shared),
            only,
            poll,
            settling: Settling::new(settle),
            taken_up: BTreeMap::new(),
            idle: BTreeMap::new(),
            busy: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            again: BTreeMap::new(),
            updates: JoinSet::new(),
            _watcher: watch(&dir, Arc::clone(&hint), Arc::clone(&renamed)),
            hint,
            renamed,
            told: Told::default(),
            moving: BTreeMap::new(),
            elsewhere,
            handed_over,
            is_open: false,
        };
        if directory.only.is_none() {
            directory.show_absent(&first).await;
        }
        directory.take_in(&first, BTreeSet::new());
        let deadline = tokio::time::Instant::now() + OPEN_TIME_MAX;
        while !(directory.busy.is_empty() && directory.settling.next_look().is_none()) {
            if tokio::time::timeout_at(deadline, directory.step()).await.is_err() {
                tracing::warn!("some consumers are still loading; serving without them");
                break;
            }
        }
        directory.is_open = true;
        directory.tell_running();
        Ok(directory)
    }

    /// What the API and the command line read.
    #[must_use]
    pub fn catalogue(&self) -> Arc<dyn Catalogue> {
        Arc::clone(&self.shared) as Arc<dyn Catalogue>
    }

    /// Where a person's steps are handed in. They are taken while the directory runs.
    #[must_use]
    pub fn steering(&self) -> Arc<dyn Steering> {
        Arc::new(self.steering.clone())
    }

    /// Follows the directory until `shutdown`, then lets every worker finish what it is handling.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.step() => {}
            }
        }
        self.shared.stopping.cancel();
        while let Some(update) = self.updates.join_next().await {
            self.take_back(update);
        }
        let mut draining = JoinSet::new();
        for (_, mut slot) in self.idle {
            let shared = Arc::clone(&self.shared);
            draining.spawn(async move { slot.drain(&shared).await });
        }
        draining.join_all().await;
    }

    /// Waits for one thing to happen and deals with it. May be dropped at any await without harm.
    async fn step(&mut self) {
        let now = Instant::now();
        let due = [self.settling.next_look(), self.again.values().min().copied(), Some(now + self.poll)];
        let due = due.into_iter().flatten().min().unwrap_or(now);
        tokio::select! {
            Some(update) = self.updates.join_next() => return self.take_back(update),
            Some(ask) = self.asks.recv(), if self.asked.len() < ASKED_MAX => {
                self.asked.push_back(ask);
                return self.take_steps();
            }
            decided = self.elsewhere.decided() => return self.heed(decided),
            () = self.handed_over.notified() => {}
            () = tokio::time::sleep_until(due.into()) => {}
            () = self.hint.notified() => tokio::time::sleep(LOOK_GAP).await,
        }
        let (dir, shadows) = (self.shared.dir.clone(), self.shared.shadow_files.lock().clone());
        let (renamed, only) = (Arc::clone(&self.renamed), self.only.clone());
        let seen = |(name, (path, taken)): (ConsumerName, (PathBuf, Option<Entry>))| {
            let entry = scan::entry_at(&path);
            (entry != taken).then_some((name, entry))
        };
        let kept = self.idle.iter().filter_map(|(name, slot)| Some((name.clone(), slot.kept_as_newest()?)));
        let (kept, archive) = (kept.collect::<Vec<_>>(), Arc::clone(&self.shared.archive));
        let lost = move || kept.into_iter().filter(|(_, hash)| !archive.has(hash)).map(|(name, _)| name).collect();
        match blocking(move || {
            scan::look(&dir, &renamed)
                .map(|look| (look.only(only.as_ref()), shadows.into_iter().filter_map(seen).collect(), lost()))
        })
        .await
        {
            Ok((look, moved, lost)) => {
                self.told.unreadable = None;
                self.shared.board.tell_of_all(None);
                self.note_moving(moved);
                self.take_in(&look, lost);
            }
            // Nothing is known of the consumers then, so nothing is done to them.
            Err(error) => self.told.unreadable(&self.shared, &error),
        }
    }

    /// Takes up what a look found, and consumers of which somebody `lost` the file that was kept.
    fn take_in(&mut self, look: &Look, lost: BTreeSet<ConsumerName>) {
        self.told.strays(look);
        let now = Instant::now();
        self.settling.observe(look, now);
        self.show_arriving(look);
        let mut due: BTreeSet<_> =
            self.again.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        due.extend(lost);
        due.extend(self.judged());
        due.extend(self.shared.returning.lock().iter().cloned());
        due.extend(self.shared.layouts.returning());
        due.extend(self.moving.iter().filter(|(_, (_, at))| *at + SETTLE_AFTER <= now).map(|(name, _)| name.clone()));
        let diff = Diff::between(&self.taken_up, self.settling.settled());
        for name in diff.to_remove {
            self.update(name, None);
        }
        for name in diff.to_add.into_iter().chain(diff.to_change).chain(due) {
            let sighting = self.settling.settled().get(&name).cloned();
            self.update(name, sighting);
        }
    }

    /// Files of shadows that are not what was taken up: like plugin files, they settle when two looks agree.
    fn note_moving(&mut self, moved: BTreeMap<ConsumerName, Option<Entry>>) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.moving);
        for (name, entry) in moved {
            let since = before.remove(&name).filter(|(seen, _)| *seen == entry).map_or(now, |(_, since)| since);
            self.moving.insert(name, (entry, since));
        }
    }

    /// Consumers whose candidate was judged. One that the store did not take the verdict of waits for its time.
    fn judged(&self) -> Vec<ConsumerName> {
        let trials = self.shared.trials.lock();
        let judged = trials.iter().filter(|(_, trial)| trial.verdict().is_some()).map(|(name, _)| name);
        judged.filter(|name| !self.again.contains_key(*name)).cloned().collect()
    }

    /// Starts to bring a consumer in step, unless that is under way; then it comes up again when that is over.
    fn update(&mut self, name: ConsumerName, sighting: Option<Sighting>) {
        if !self.busy.insert(name.clone()) {
            self.passed_over.insert(name);
            return;
        }
        self.again.remove(&name);
        match &sighting {
            Some(sighting) => self.taken_up.insert(name.clone(), sighting.clone()),
            None => self.taken_up.remove(&name),
        };
        let mut slot = self.idle.remove(&name).unwrap_or_else(|| Slot::new(name.clone(), self.is_open));
        let shared = Arc::clone(&self.shared);
        self.updates.spawn(async move {
            let taken = match sighting {
                Some(sighting) => slot.take_up(&sighting, &shared).await,
                None => {
                    slot.remove(&shared).await;
                    TakenUp::Yes
                }
            };
            (name, slot, taken)
        });
    }

    /// Begins the steps whose consumers are not busy.
    fn take_steps(&mut self) {
        for Ask { name, step, reply } in std::mem::take(&mut self.asked) {
            // Whoever left may have asked again: it would be done twice.
            if reply.is_closed() {
                continue;
            }
            if self.busy.contains(&name) {
                self.asked.push_back(Ask { name, step, reply });
                continue;
            }
            let Some(mut slot) = self.idle.remove(&name) else {
                let gone = Refusal::Impossible(slot::removed_reason(&name, &self.shared));
                // Whoever asked may have left.
                drop(reply.send(Err(gone)));
                continue;
            };
            self.busy.insert(name.clone());
            let shared = Arc::clone(&self.shared);
            self.updates.spawn(async move {
                let taken = slot.step(step, &shared).await;
                // What the store could not do may have stopped halfway: the decision is written down, and nothing runs.
                let halfway = matches!(&taken, Err(Refusal::Store(_)));
                drop(reply.send(taken));
                (name, slot, if halfway { TakenUp::Again } else { TakenUp::Yes })
            });
        }
    }

    fn take_back(&mut self, update: Result<(ConsumerName, Slot<R>, TakenUp), tokio::task::JoinError>) {
        match update {
            Ok((name, slot, taken)) => {
                self.busy.remove(&name);
                if taken == TakenUp::Again {
                    self.again.insert(name.clone(), Instant::now() + AGAIN_AFTER);
                }
                // A look for each would take longer than what it follows, where many are taken up at once.
                if self.passed_over.remove(&name) {
                    self.hint.notify_one();
                }
                self.idle.insert(name, slot);
                self.take_steps();
                self.tell_running();
            }
            // A bug. Going on without the slot could start a second worker beside the lost one.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Looks again at consumers about which another host decided.
    fn heed(&mut self, decided: Vec<ConsumerName>) {
        for name in decided.into_iter().filter(|name| self.taken_up.contains_key(name)) {
            self.again.insert(name, Instant::now());
        }
    }

    /// Lets other hosts know what runs here.
    fn tell_running(&self) {
        if self.is_open {
            self.shared.fleet.tell_running(self.shared.board.running());
        }
    }

    /// Shows consumers that the store knows and whose files are not there.
    async fn show_absent(&self, look: &Look) {
        match self.shared.runtime.known().await {
            Ok(known) => {
                for name in known.iter().filter(|name| !look.sightings.contains_key(*name)) {
                    let reason = slot::removed_reason(name, &self.shared);
                    self.shared.board.show_state(name, State::Removed, Some(reason));
                }
            }
            Err(error) => tracing::warn!(%error, "cannot tell which consumers were here before"),
        }
    }

    /// Shows that a file is there before it is complete, and forgets one that went away before it was.
    fn show_arriving(&self, look: &Look) {
        let board = &self.shared.board;
        let new = |name: &ConsumerName| !self.busy.contains(name) && !self.idle.contains_key(name);
        for name in self.settling.arriving().filter(|name| new(name)) {
            board.show_state(name, State::Loading, Some("waiting until its file is complete".to_owned()));
        }
        for status in board.list() {
            if status.state == State::Loading && new(&status.name) && !look.sightings.contains_key(&status.name) {
                board.clear(&status.name);
            }
        }
    }
}

impl<R: Runtime> Catalogue for Shared<R> {
    fn list(&self) -> Vec<super::status::ConsumerStatus> {
        let mut list = self.board.list();
        let trials = self.trials.lock();
        for status in &mut list {
            if let (Some(candidate), Some(trial)) = (&mut status.candidate, trials.get(&status.name))
                && candidate.progress.is_some()
            {
                candidate.progress = Some(trial.progress());
            }
        }
        list
    }

    fn forget(&self, name: &ConsumerName) {
        self.board.forget(name);
    }

    fn usage(&self, name: &ConsumerName) -> Option<crate::sandbox::Usage> {
        self.runtime.usage(name)
    }

    fn shadow(&self, name: &ConsumerName) -> Option<Report> {
        self.ledgers.lock().get(name).map(|ledger| ledger.report())
    }

    fn let_go(&self, versions: Vec<Hash>) {
        let (archive, history) = (Arc::clone(&self.archive), Arc::clone(&self.versions));
        drop(tokio::spawn(async move { archive.leave(versions, &*history).await }));
    }
}

impl Told {
    fn strays(&mut self, look: &Look) {
        for (file, reason) in look.strays.iter().filter(|(file, _)| !self.strays.contains_key(*file)) {
            tracing::warn!(file, reason, "a file in the directory of consumers is passed over");
        }
        self.strays.clone_from(&look.strays);
    }

    fn unreadable<R>(&mut self, Shared { dir, board, .. }: &Shared<R>, error: &io::Error) {
        let (dir, error) = (dir.display(), error.to_string());
        if self.unreadable.as_ref() != Some(&error) {
            tracing::error!(%dir, error, "cannot read the directory of consumers; what runs goes on");
            board.tell_of_all(Some(format!("{dir} cannot be read, so nothing new is taken up: {error}")));
        }
        self.unreadable = Some(error);
    }
}

#[cfg(test)]
mod tests;
