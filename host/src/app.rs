//! The composition root: config → build → run → drain.
//!
//! ```text
//! start:  runtimes ─► listen ─► store ─► sandbox, engine ─► consumers ─► sender ─► announce
//! drain:  no more requests (those in flight finish) ─► consumers (running deliveries finish) ─► sender ─► store
//! ```
//!
//! **Invariants**
//! - The port is taken before the store is opened, and announced only when every consumer runs or was refused.
//! - HTTP and deliveries have a runtime each: a busy guest never makes an answer wait.
//! - The store is closed last, so that whatever still runs can commit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{self, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Hosts};
use crate::backend::{Backend, aws, embedded};
use crate::config::{AllowedHosts, BackendKind, Config};
use crate::consumer::host::Host;
use crate::consumer::status::Catalogue;
use crate::consumer::steer::Steering;
use crate::consumer::{self, Directory};
use crate::delivery::Engine;
use crate::fault;
use crate::policy::ConsumerName;
use crate::sandbox::{self, Compiler, Sandbox};
use crate::sender::Sender;
use crate::telemetry::meters;
use crate::threads;

/// Where compiled plugins are kept, in the data directory.
const COMPILED_DIR: &str = "compiled";
/// Where files of versions that ran are kept, in the data directory.
pub const VERSIONS_DIR: &str = "versions";
/// How long running deliveries may take to end. What is cut off then is delivered again at the next start.
const DELIVERIES_DRAIN_MAX: Duration = Duration::from_secs(20);
/// Threads that are stuck in the file system must not keep the process.
const THREADS_END_MAX: Duration = Duration::from_secs(2);

/// Runs a host until a signal, `stop`, or the end of its store; `announce` is told where it listens.
///
/// # Errors
/// Where it cannot start, or did not end in order.
pub fn run(config: Config, announce: impl FnOnce(SocketAddr), stop: CancellationToken) -> Result<()> {
    if let Some(fault) = config.fault {
        fault::arm(fault);
    }
    raise_open_files();
    let runtimes = Runtimes::start()?;
    let outcome = runtimes.http.block_on(async {
        let mut signals = Signals::listen()?;
        let Some(app) = App::start(&config, runtimes.deliveries.handle(), &mut signals).await? else { return Ok(()) };
        announce(app.address);
        app.run(signals, stop).await
    });
    runtimes.end();
    outcome
}

/// Lets this process hold as many files open as it may: each connection is one, and programs are commonly started with 1,024 for
/// the sake of such as use `select`.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "the limit on open files stays as it is");
    }
}

/// Everything that a host consists of, ready to run.
struct App {
    address: SocketAddr,
    listener: TcpListener,
    api: Api,
    backend: Backend,
    directory: Directory<Host>,
    sender: Sender,
    deliveries: Handle,
}

impl App {
    /// None where a signal came first: then what was opened is closed.
    async fn start(config: &Config, deliveries: &Handle, signals: &mut Signals) -> Result<Option<Self>> {
        let listener = listen(config.listen).await?;
        let backend = tokio::select! {
            backend = Box::pin(open_backend(config)) => backend?,
            name = signals.next() => {
                tracing::info!(signal = name, "the host has stopped before its store was open");
                return Ok(None);
            }
        };
        let lifecycle = Arc::clone(&backend.lifecycle);
        let name = tokio::select! {
            app = Box::pin(Self::build(config, deliveries, listener, backend)) => return app.map(Some),
            name = signals.next() => name,
        };
        tracing::info!(signal = name, "stopping before the host was ready; a second signal stops at once");
        tokio::select! {
            () = lifecycle.close() => Ok(None),
            name = signals.next() => bail!("stopped at once by a second {name}"),
        }
    }

    async fn build(config: &Config, deliveries: &Handle, listener: TcpListener, backend: Backend) -> Result<Self> {
        let address = listener.local_addr()?;
        backend.upkeep.retain(config.retention);
        let directory = directory(config, &backend, deliveries, None).await?;
        let sender = Sender::start(Arc::clone(&backend.outgoing), &config.mail, deliveries)?;
        let hosts = match &config.allowed_hosts {
            AllowedHosts::Only(names) => Hosts::Only(names.clone()),
            AllowedHosts::Any => Hosts::Any,
            AllowedHosts::ByAddress if address.ip().is_loopback() => Hosts::loopback(),
            AllowedHosts::ByAddress => Hosts::Any,
        };
        let api = api(hosts, &backend, directory.catalogue(), directory.steering());
        Ok(Self { address, listener, api, backend, directory, sender, deliveries: deliveries.clone() })
    }

    async fn run(self, mut signals: Signals, stop: CancellationToken) -> Result<()> {
        let Self { address, listener, api, backend, directory, sender, deliveries } = self;
        let stopping = api.stopping.clone();
        let leaving = CancellationToken::new();
        let mut http = JoinSet::new();
        http.spawn(api::serve(listener, api));
        let mut consumers = JoinSet::new();
        consumers.spawn_on(directory.run(leaving.clone()), &deliveries);
        let mut upkeep = JoinSet::new();
        upkeep.spawn(drain_meters());
        tracing::info!(%address, "the host is ready");

        let ended = tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping; what runs is finished, a second signal stops at once");
                Ok(())
            }
            () = stop.cancelled() => Ok(()),
            error = backend.lifecycle.failed() => Err(anyhow!(error)),
            Some(_) = http.join_next() => Err(anyhow!("the API stopped by itself")),
            Some(_) = consumers.join_next() => Err(anyhow!("the directory of consumers stopped by itself")),
        };

        let drain = async {
            stopping.cancel();
            http.join_all().await;
            leaving.cancel();
            if timeout(DELIVERIES_DRAIN_MAX, consumers.join_all()).await.is_err() {
                tracing::warn!("some deliveries took too long; they run again at the next start");
            }
            sender.stop().await;
            backend.lifecycle.close().await;
        };
        tokio::select! {
            () = drain => {
                tracing::info!("the host has stopped");
                ended
            }
            name = signals.next() => {
                bail!("stopped at once by a second {name}; deliveries that were cut off run again at the next start")
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; stop what uses it, or choose another address with --listen")
    })
}

async fn open_backend(config: &Config) -> Result<Backend> {
    match config.backend {
        BackendKind::Aws => Ok(aws::open(&config.aws).await?),
        BackendKind::Embedded => Ok(embedded::open(&embedded::Settings { data_dir: config.data_dir.clone() })?),
    }
}

/// The consumers of the directory, or the only one that is wanted of them; their events are handled on `deliveries`.
///
/// # Errors
/// Where the directory or the sandbox cannot be set up. A bad plugin is no error: its status tells.
pub async fn directory(
    config: &Config,
    backend: &Backend,
    deliveries: &Handle,
    only: Option<ConsumerName>,
) -> Result<Directory<Host>> {
    let sandbox = Sandbox::new(sandbox::Settings {
        cache_dir: Some(config.data_dir.join(COMPILED_DIR)),
        compiler: Compiler::this_program(config.compile)?,
        ..sandbox::Settings::default()
    })?;
    let (consumers, layouts) = (Arc::clone(&backend.consumers), Arc::clone(&backend.layouts));
    let host = Host { sandbox, consumers, layouts: Arc::clone(&layouts), engine: Engine::new(deliveries.clone()) };
    let settings = consumer::Settings::new(config.consumers_dir.clone(), config.data_dir.join(VERSIONS_DIR));
    let settings = consumer::Settings { plugin_keys: config.plugin_keys.clone(), only, ..settings };
    // Guests describe themselves while the directory is opened: not on the threads that answer HTTP.
    let (versions, fleet) = (Arc::clone(&backend.versions), Arc::clone(&backend.fleet));
    Ok(deliveries.spawn(Directory::open(settings, host, versions, layouts, fleet)).await??)
}

/// The API of a host on this store, with these consumers.
pub fn api(hosts: Hosts, backend: &Backend, catalogue: Arc<dyn Catalogue>, steering: Arc<dyn Steering>) -> Api {
    let consumers = Arc::clone(&backend.consumers);
    let metrics = move || {
        let consumers = Arc::clone(&consumers);
        // Without the store there are no gauges, but all else is worth telling.
        async move { meters::render(consumers.known().await.ok().as_deref()) }.boxed()
    };
    Api {
        intake: Arc::clone(&backend.intake),
        journal: Arc::clone(&backend.journal),
        timelines: Arc::clone(&backend.timelines),
        consumers: Arc::clone(&backend.consumers),
        dead_letters: Arc::clone(&backend.dead_letters),
        upkeep: Arc::clone(&backend.upkeep),
        backfills: Arc::clone(&backend.backfills),
        versions: Arc::clone(&backend.versions),
        layouts: Arc::clone(&backend.layouts),
        fleet: Arc::clone(&backend.fleet),
        catalogue,
        steering,
        metrics: Arc::new(metrics),
        hosts,
        stopping: CancellationToken::new(),
    }
}

async fn drain_meters() {
    let mut ticks = tokio::time::interval(meters::DRAIN_EVERY);
    loop {
        ticks.tick().await;
        meters::drain();
    }
}

/// Where answers are made, and where deliveries are handled.
pub struct Runtimes {
    pub http: Runtime,
    pub deliveries: Runtime,
}

impl Runtimes {
    /// # Errors
    /// Where the system gives no more threads.
    pub fn start() -> Result<Self> {
        // All threads of the host are started by this one, or by one that is.
        threads::in_short_slices();
        let runtime = |name| runtime::Builder::new_multi_thread().thread_name(name).enable_all().build();
        Ok(Self { http: runtime("http")?, deliveries: runtime("deliveries")? })
    }

    /// Ends both; what hangs in a system call is left behind.
    pub fn end(self) {
        self.deliveries.shutdown_timeout(THREADS_END_MAX);
        self.http.shutdown_timeout(THREADS_END_MAX);
    }
}

/// A signal to a whole group of processes comes twice where one of them hands it on (`timeout`, a shell's script, a package manager):
/// what comes so soon behind another is nobody who lost patience.
const ECHO_MAX: Duration = Duration::from_secs(1);

/// The two signals that ask a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    last: Option<Instant>,
}

impl Signals {
    fn listen() -> Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, last: None })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
            };
            if self.last.is_none_or(|last| last.elapsed() > ECHO_MAX) {
                self.last = Some(Instant::now());
                return name;
            }
        }
    }
}
