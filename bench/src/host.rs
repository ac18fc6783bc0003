//! One host, or the baseline in its place: the real program, in a process of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use crate::api::{Api, Consumer};
use crate::mode::Mode;

/// Compiling five plugins on a slow machine that does other things too.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// Handling what was taken on before.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
/// Between two looks at a host that starts or stops.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Lines of the host's log that an error shows.
const LOG_LINES_SHOWN: usize = 20;

// In the folder of a host.
const DATA: &str = "data";
const LOG: &str = "host.log";

/// What becomes of e-mails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mail {
    /// They are committed, and wait in the store.
    Off,
    /// They are committed, and then written to files: 1 an order in `fanout`, 3 in `journey`.
    Folder,
}

impl Mail {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Folder => "folder",
        }
    }
}

pub struct Host {
    pub address: SocketAddr,
    pub kind: Kind,
    child: Child,
    folder: PathBuf,
    started: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fanfare,
    /// Everything that an order means is on disk with its answer.
    Native,
}

impl Host {
    /// Starts `program` on the plugins in `consumers`, with all that it stores in `folder`.
    pub fn start(program: &Path, consumers: &Path, folder: &Path, mail: Mail) -> Result<Self> {
        Self::spawn(Kind::Fanfare, program, folder, |command, address| {
            command.arg("serve").arg("--listen").arg(address.to_string());
            command.arg("--data-dir").arg(folder.join(DATA)).arg("--consumers-dir").arg(consumers);
            command.env("FANFARE_MAIL_TRANSPORT", mail.as_str());
        })
    }

    /// Starts the baseline of a mode, which is this very program.
    pub fn start_native(mode: &Mode, folder: &Path) -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        Self::spawn(Kind::Native, &own, folder, |command, address| {
            command.args(["native", "--mode", mode.name]).arg("--listen").arg(address.to_string());
            command.arg("--data-dir").arg(folder.join(DATA));
        })
    }

    fn spawn(
        kind: Kind,
        program: &Path,
        folder: &Path,
        arguments: impl FnOnce(&mut Command, SocketAddr),
    ) -> Result<Self> {
        // The port is free when this returns; nobody else on the machine is asking for ports all the time.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = folder.join(LOG);
        let file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;

        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FANFARE_") {
                command.env_remove(name);
            }
        }
        arguments(&mut command, address);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { address, kind, child, folder: folder.to_owned(), started })
    }

    /// The file that holds everything.
    pub fn store(&self) -> PathBuf {
        self.folder.join(DATA).join(fanfare::backend::embedded::FILE)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the host is ready and exactly these consumers run. Returns how long that took from its start.
    pub async fn ready(&mut self, names: &[&str]) -> Result<Duration> {
        loop {
            let standing = self.standing(names).await?;
            let Some(standing) = standing else { return Ok(self.started.elapsed()) };
            if let Some(status) = self.child.try_wait()? {
                bail!("the host ended with {status}:\n{}", self.log_shown());
            }
            let waited = self.started.elapsed();
            ensure!(waited < START_TIME_MAX, "not ready after {waited:?}: {standing}\n{}", self.log_shown());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What is missing, or nothing.
    async fn standing(&self, names: &[&str]) -> Result<Option<String>> {
        let api = Api::new(self.address);
        match api.is_ready().await {
            Ok(true) => {}
            Ok(false) => return Ok(Some("/readyz says that it is not ready".to_owned())),
            Err(error) => return Ok(Some(format!("{error:#}"))),
        }
        if self.kind == Kind::Native {
            return Ok(None);
        }
        let consumers = api.consumers().await?;
        let refused = |consumer: &&Consumer| !matches!(consumer.state.as_str(), "running" | "loading");
        if let Some(Consumer { name, state, reason, .. }) = consumers.iter().find(refused) {
            let reason = reason.as_deref().unwrap_or("without a reason");
            bail!("consumer {name} is {state}: {reason}\n{}", self.log_shown());
        }
        let mut running: Vec<_> =
            consumers.iter().filter(|one| one.state == "running").map(|one| one.name.as_str()).collect();
        running.sort_unstable();
        if running == names { Ok(None) } else { Ok(Some(format!("{running:?} run, {names:?} should"))) }
    }

    /// Asks the host to end, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process without an id")?;
        kill_process(pid, Signal::TERM).context("the host is gone already")?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the host ended with {status}:\n{}", self.log_shown());
                return Ok(());
            }
            let waited = asked.elapsed();
            ensure!(waited < STOP_TIME_MAX, "the host runs on after {waited:?}:\n{}", self.log_shown());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The end of the host's log, and where all of it is.
    pub fn log_shown(&self) -> String {
        let file = self.folder.join(LOG);
        let log = fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
        format!("{}\n(all of it: {})", last.join("\n"), file.display())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Only a host that could not be stopped is still there; nothing is lost that anybody wants.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
