//! A folder, a directory over it that runs, and a fake of what stands behind: a plugin is one line of text,
//! `plugin VERSION [state N] [needs change_order] [filter]`, and workers write a log.

mod forgetful;
mod late;
mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::forgetful::Forgetful;
pub use self::shared::TOO_LARGE;
use crate::backend::{self, Backend, Fleet, Turn, embedded};
use crate::consumer::directory::{Directory, Settings};
use crate::consumer::runtime::{Candidate, Live, LoadError, Loader, Runtime};
use crate::consumer::scan::{Entry, look};
use crate::consumer::status::{CandidateState, Catalogue, ConsumerStatus, State};
use crate::consumer::steer::{Refusal, Steering, Step};
use crate::consumer::watch::Renamed;
use crate::delivery::trial::Trial;
use crate::event::Subscription;
use crate::event::filter::Filter;
use crate::policy::{ConsumerName, Policy, Start};
use crate::sandbox::{Description, Need};
use crate::version::{Binary, Hash};

pub const PLUGIN_BYTES_MAX: u64 = 4096;

pub struct World {
    dir: TempDir,
    data: TempDir,
    store: Backend,
    steering: Arc<dyn Steering>,
    fake: Arc<Fake>,
    catalogue: Arc<dyn Catalogue>,
    reasons: Arc<Mutex<Vec<(ConsumerName, String)>>>,
    shutdown: CancellationToken,
    running: Mutex<Option<JoinHandle<()>>>,
    watching: Mutex<Option<JoinHandle<()>>>,
}

impl World {
    pub async fn open(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in files {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        Self::over(dir, tempfile::tempdir().unwrap(), Fake::default()).await
    }

    /// As a host that starts again, after `meanwhile` changed the folder.
    pub async fn reopen(self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.stop().await;
        let Self { dir, data, store, catalogue, .. } = self;
        // The next one opens the same store.
        drop((store, catalogue));
        meanwhile(dir.path());
        Self::over(dir, data, Fake::default()).await
    }

    /// Where the store knows a consumer whose file is not there.
    pub async fn open_knowing(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let known = vec![name.parse().unwrap()];
        Self::over(dir, tempfile::tempdir().unwrap(), Fake { known, ..Fake::default() }).await
    }

    pub async fn open_settling(settle: Duration) -> Self {
        let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let settings = Settings { settle, ..settings(&dir, &data) };
        Self::with(dir, data, settings, Fake::default()).await
    }

    async fn over(dir: TempDir, data: TempDir, fake: Fake) -> Self {
        let settings = settings(&dir, &data);
        Self::with(dir, data, settings, fake).await
    }

    async fn with(dir: TempDir, data: TempDir, settings: Settings, fake: Fake) -> Self {
        let fake = Arc::new(fake);
        let (store, directory) = directory(&data, settings, &fake).await;
        let (catalogue, steering) = (directory.catalogue(), directory.steering());
        let shutdown = CancellationToken::new();
        let reasons = Arc::default();
        let watching = tokio::spawn(note_reasons(Arc::clone(&catalogue), Arc::clone(&reasons), shutdown.clone()));
        let running = Mutex::new(Some(tokio::spawn(directory.run(shutdown.clone()))));
        let watching = Mutex::new(Some(watching));
        Self { dir, data, store, steering, fake, catalogue, reasons, shutdown, running, watching }
    }

    /// Stops the directory and returns what the workers did.
    pub async fn close(self) -> Vec<String> {
        self.stop().await;
        self.fake.log.lock().clone()
    }

    async fn stop(&self) {
        self.shutdown.cancel();
        for task in [&self.running, &self.watching] {
            let task = task.lock().take().unwrap();
            task.await.unwrap();
        }
        assert_eq!(self.fake.workers.lock().len(), 0, "a worker was left behind");
        self.store.lifecycle.close().await;
    }

    /// Goes back to the version whose content this is, or to the one before.
    pub async fn roll_back(&self, name: &str, to: Option<&str>) -> Result<(), Refusal> {
        let to = to.map(|content| Hash::of(content.as_bytes()).to_string()[..12].parse().unwrap());
        self.step(name, Step::RollBack { to, from: None, reason: Some("a test".to_owned()) }).await
    }

    pub async fn promote(&self, name: &str) -> Result<(), Refusal> {
        self.step(name, Step::Promote { reason: None }).await
    }

    async fn step(&self, name: &str, step: Step) -> Result<(), Refusal> {
        self.steering.step(&name.parse().unwrap(), step).await
    }

    /// What the history has of a consumer, oldest first: outcome, and the version that the file called itself.
    pub async fn history(&self, name: &str) -> Vec<String> {
        let mut history = self.store.versions.history(&name.parse().unwrap(), 100).await.unwrap();
        history.reverse();
        let told = |turn: Turn| format!("{} {}", turn.outcome.as_str(), turn.file.version.unwrap_or_default());
        history.into_iter().map(|entry| told(entry.turn)).collect()
    }

    /// Where the file of the version with this content is kept.
    pub fn kept_path(&self, content: &str) -> PathBuf {
        self.data.path().join(format!("versions/{}.wasm", Hash::of(content.as_bytes())))
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn put(&self, file: &str, content: &str) {
        std::fs::write(self.path(file), content).unwrap();
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.path(file)).unwrap();
    }

    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: not so in time; {:?}", self.catalogue.list());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn status(&self, name: &str) -> Option<ConsumerStatus> {
        self.catalogue.list().into_iter().find(|status| status.name.as_str() == name)
    }

    pub fn state(&self, name: &str) -> Option<State> {
        self.status(name).map(|status| status.state)
    }

    /// Whether this version runs although a newer file (or side file) was refused, and is shown so.
    pub fn kept(&self, name: &str, version: &str, refused: CandidateState) -> bool {
        let shown = self.status(name).is_some_and(|status| {
            let candidate = status.candidate.map(|candidate| candidate.state);
            status.state == State::Running && status.version.as_deref() == Some(version) && candidate == Some(refused)
        });
        shown && self.works(name, version)
    }

    /// Whether this version runs and no newer file was refused, by the status and by the workers alike.
    pub fn running(&self, name: &str, version: &str) -> bool {
        let shown = self.status(name).is_some_and(|status| {
            status.state == State::Running && status.version.as_deref() == Some(version) && status.candidate.is_none()
        });
        shown && self.works(name, version)
    }

    fn works(&self, name: &str, version: &str) -> bool {
        self.fake.workers.lock().values().any(|worker| worker.name == name && worker.version == version)
    }

    /// Where what the candidate of `name` does is counted.
    pub fn trial(&self, name: &str) -> Arc<Trial> {
        let workers = self.fake.workers.lock();
        let worker = workers.values().find(|worker| worker.name == name).expect("it runs");
        Arc::clone(&worker.candidate.as_ref().expect("it tries a new version").trial)
    }

    /// Whether `tried` is shown, and is, on a share of the orders beside `version`.
    pub fn tries(&self, name: &str, version: &str, tried: &str) -> bool {
        let shown = self.kept(name, version, CandidateState::Canary);
        let workers = self.fake.workers.lock();
        let candidates = workers.values().filter(|worker| worker.name == name).filter_map(|it| it.candidate.as_ref());
        shown && candidates.map(|candidate| candidate.version.as_str()).eq([tried])
    }

    /// The version that handles the events of `name` without effect, by its worker.
    pub fn shadow(&self, name: &str) -> Option<String> {
        self.fake.workers.lock().values().find(|worker| worker.name == name)?.shadow.clone()
    }

    /// Why the shadow of `name` handles nothing, once that is told.
    pub async fn shadow_refused(&self, name: &str) -> String {
        let reason = || self.status(name)?.shadow?.reason;
        self.until("the refusal shows", || reason().is_some()).await;
        reason().unwrap()
    }

    pub fn concurrency(&self, name: &str) -> u32 {
        let workers = self.fake.workers.lock();
        workers
            .values()
            .find(|worker| worker.name == name)
            .map(|worker| worker.policy.concurrency.get())
            .unwrap_or_default()
    }

    pub fn log(&self) -> Vec<String> {
        self.fake.log.lock().clone()
    }

    pub fn loads(&self, content: &str) -> usize {
        self.fake.loads.lock().iter().filter(|loaded| *loaded == content).count()
    }

    pub fn loads_all(&self) -> usize {
        self.fake.loads.lock().len()
    }

    /// Loading this content waits until the answer is dropped.
    pub fn hold(&self, content: &str) -> impl Drop + use<> {
        let gate = Arc::new(Semaphore::new(0));
        self.fake.held.lock().insert(content.to_owned(), Arc::clone(&gate));
        Gate(gate)
    }

    pub fn refuse_starts(&self, times: u32) {
        self.fake.refused_starts.store(times, Ordering::SeqCst);
    }

    /// So many loads from now on fail through no fault of their files.
    pub fn refuse_loads(&self, times: u32) {
        self.fake.refused_loads.store(times, Ordering::SeqCst);
    }

    /// Size of the plugin file of `name`, as a look sees it.
    pub fn bytes(&self, name: &str) -> Option<u64> {
        match &look(self.dir.path(), &Renamed::default())
            .unwrap()
            .sightings
            .get(&name.parse::<ConsumerName>().unwrap())?
            .plugin
        {
            Entry::File(stamp) => Some(stamp.bytes),
            Entry::Other(_) => None,
        }
    }

    /// Every reason that was shown for `name` since the world opened.
    pub fn every_reason(&self, name: &str) -> Vec<String> {
        self.reasons.lock().iter().filter(|(of, _)| of.as_str() == name).map(|(_, reason)| reason.clone()).collect()
    }
}

async fn directory(data: &TempDir, settings: Settings, fake: &Arc<Fake>) -> (Backend, Directory<Handle>) {
    let store = embedded::open(&embedded::Settings { data_dir: data.path().to_owned() }).unwrap();
    let versions = late::over(&store.versions, &fake.late);
    let fleet = fake.fleet.as_ref().unwrap_or(&store.fleet).clone();
    let layouts = Arc::clone(&store.layouts);
    let directory = Directory::open(settings, Handle(Arc::clone(fake)), versions, layouts, fleet).await.unwrap();
    (store, directory)
}

/// Whether a directory asks for another look when all that is in it was taken up.
pub async fn looks_on(files: &[(&str, &str)]) -> bool {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = embedded::open(&embedded::Settings { data_dir: folders[1].path().to_owned() }).unwrap();
    let fleet = Arc::clone(&store.fleet);
    let directory = taken_up(&store, &folders, files, fleet).await;
    let looks_on = directory.hint.notified().now_or_never().is_some();
    end(store, directory).await;
    looks_on
}

/// Whether a file is kept for others once its version is written down, where these let go of it just before that.
pub async fn keeps_again(file: (&str, &str)) -> bool {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = embedded::open(&embedded::Settings { data_dir: folders[1].path().to_owned() }).unwrap();
    let fleet = Arc::new(Forgetful::default());
    let directory = taken_up(&store, &folders, &[file], Arc::<Forgetful>::clone(&fleet)).await;
    end(store, directory).await;
    fleet.has_file(&Hash::of(file.1.as_bytes())).await.unwrap()
}

/// A directory with these files, when all that is in it was taken up.
async fn taken_up(
    store: &Backend,
    [dir, data]: &[TempDir; 2],
    files: &[(&str, &str)],
    fleet: Arc<dyn Fleet>,
) -> Directory<Handle> {
    for (file, content) in files {
        std::fs::write(dir.path().join(file), content).unwrap();
    }
    let (versions, layouts) = (Arc::clone(&store.versions), Arc::clone(&store.layouts));
    Directory::open(settings(dir, data), Handle(Arc::default()), versions, layouts, fleet).await.unwrap()
}

async fn end(store: Backend, directory: Directory<Handle>) {
    let over = CancellationToken::new();
    over.cancel();
    directory.run(over).await;
    store.lifecycle.close().await;
}

fn settings(dir: &TempDir, data: &TempDir) -> Settings {
    let settings = Settings::new(dir.path().to_owned(), data.path().join("versions"));
    Settings { plugin_bytes_max: PLUGIN_BYTES_MAX, ..settings }
}

async fn note_reasons(
    catalogue: Arc<dyn Catalogue>,
    reasons: Arc<Mutex<Vec<(ConsumerName, String)>>>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let shown = catalogue.list().into_iter().filter_map(|status| Some((status.name, status.reason?)));
        reasons.lock().extend(shown);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Gate(Arc<Semaphore>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A loader for checks, which need nothing else.
pub fn no_side_file() -> impl Loader {
    Handle(Arc::default())
}

#[derive(Default)]
struct Fake {
    known: Vec<ConsumerName>,
    loads: Mutex<Vec<String>>,
    held: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    workers: Mutex<BTreeMap<u32, Worker>>,
    log: Mutex<Vec<String>>,
    last_worker: AtomicU32,
    refused_starts: AtomicU32,
    refused_loads: AtomicU32,
    /// Absent where it is the only host.
    fleet: Option<Arc<dyn Fleet>>,
    late: Option<Arc<late::Way>>,
}

struct Worker {
    name: String,
    version: String,
    policy: Arc<Policy>,
    candidate: Option<Candidate<String>>,
    shadow: Option<String>,
}

impl Fake {
    fn begin(&self) -> backend::Result<()> {
        let fewer = |times: u32| times.checked_sub(1);
        match self.refused_starts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer) {
            Ok(_) => Err(backend::Error::Unavailable("the disk is full".into())),
            Err(_) => Ok(()),
        }
    }
}

struct Handle(Arc<Fake>);

impl Loader for Handle {
    type Plugin = Description;
    type Version = String;

    async fn load(&self, binary: Binary) -> Result<Arc<Description>, LoadError> {
        let text = String::from_utf8(binary.to_vec()).unwrap();
        self.0.loads.lock().push(text.clone());
        let gate = self.0.held.lock().get(&text).cloned();
        if let Some(gate) = gate {
            let _closed = gate.acquire().await;
        }
        let fewer = |times: u32| times.checked_sub(1);
        if self.0.refused_loads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            return Err(LoadError::Host("no more processes".to_owned()));
        }
        description(&text).map(Arc::new).ok_or_else(|| LoadError::File("the file is no plugin".to_owned()))
    }

    fn description<'p>(&self, plugin: &'p Description) -> &'p Description {
        plugin
    }

    fn link(&self, plugin: &Arc<Description>, _: &ConsumerName, _: &Policy) -> Result<Arc<String>, LoadError> {
        Ok(Arc::new(plugin.version.to_string()))
    }
}

impl Runtime for Handle {
    type Worker = u32;

    async fn start(&self, name: &ConsumerName, live: Live<String>, last_word: bool) -> backend::Result<u32> {
        self.0.begin()?;
        if last_word && self.0.fleet.is_some() {
            self.lay_out(name, &live).await?;
        }
        let worker = self.0.last_worker.fetch_add(1, Ordering::SeqCst);
        self.0.log.lock().push(format!("start {name} {}", live.version));
        let mut workers = self.0.workers.lock();
        assert!(workers.values().all(|other| other.name != name.as_str()), "{name} has a worker already");
        let (name, version) = (name.to_string(), live.version.to_string());
        let Live { policy, candidate, shadow, .. } = live;
        let shadow = shadow.map(|shadow| shadow.version.to_string());
        note_candidate(&self.0, &name, candidate.as_ref());
        workers.insert(worker, Worker { name, version, policy, candidate, shadow });
        Ok(worker)
    }

    async fn lay_out(&self, name: &ConsumerName, live: &Live<String>) -> backend::Result<()> {
        self.0.begin()?;
        self.0.log.lock().push(format!("lay out {name} {}", live.version));
        Ok(())
    }

    async fn introduce(&self, name: &ConsumerName, start: Start) -> backend::Result<()> {
        self.0.log.lock().push(format!("introduce {name} {start:?}"));
        Ok(())
    }

    fn swap(&self, worker: &u32, live: Live<String>) {
        let mut workers = self.0.workers.lock();
        let running = workers.get_mut(worker).expect("it runs");
        if running.version != *live.version {
            self.0.log.lock().push(format!("swap {} {}", running.name, live.version));
        }
        (running.version, running.policy) = (live.version.to_string(), live.policy);
        note_candidate(&self.0, &running.name, live.candidate.as_ref());
        running.candidate = live.candidate;
        running.shadow = live.shadow.map(|shadow| shadow.version.to_string());
    }

    async fn stop(&self, worker: u32) {
        let Worker { name, version, .. } = self.0.workers.lock().remove(&worker).expect("it runs");
        self.0.log.lock().push(format!("stop {name} {version}"));
    }

    async fn known(&self) -> backend::Result<Vec<ConsumerName>> {
        Ok(self.0.known.clone())
    }
}

fn note_candidate(fake: &Fake, name: &str, candidate: Option<&Candidate<String>>) {
    if let Some(candidate) = candidate {
        fake.log.lock().push(format!("try {name} {}", candidate.version));
    }
}

fn description(text: &str) -> Option<Description> {
    let mut words = text.strip_prefix("plugin ")?.split(' ');
    let mut description = Description {
        version: words.next()?.parse().ok()?,
        state_version: 1,
        summary: "A line of text".to_owned(),
        subscriptions: vec![Subscription { kind: "order.*".parse().unwrap(), filter: None }],
        needs: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "state" => description.state_version = words.next()?.parse().ok()?,
            "needs" => description.needs = words.next().map(|_| Need::ChangeOrder).into_iter().collect(),
            "filter" => description.subscriptions[0].filter = Filter::parse(r#"{"order":{"currency":["EUR"]}}"#).ok(),
            _ => return None,
        }
    }
    Some(description)
}
