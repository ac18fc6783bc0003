//! A host: the real program, serving from folders of its own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::consumers::Consumers;
use crate::{PATIENCE, eventually, program};

/// What the program prints once it serves; the address follows.
const LISTENING: &str = "fanfare is listening on ";

/// One data folder and one folder of consumers, and the process that serves them, if it runs.
pub struct TestHost {
    pub consumers: Consumers,
    folder: TempDir,
    data: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(String, String)>,
    /// Shell commands that set up the process before it becomes the host.
    preamble: Option<String>,
    process: Option<Process>,
    starts: u32,
    leftovers: Leftovers,
    /// Where the next host is to die: [`crate::crash::points`].
    fault: Option<String>,
}

struct Process {
    child: Child,
    client: Client,
}

/// What may be left when a host is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    None,
    Any,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// A host that does not run yet.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for a host");
        Self {
            consumers: Consumers::create(folder.path().join("consumers")),
            data: folder.path().join("data"),
            folder,
            arguments: Vec::new(),
            variables: Vec::new(),
            preamble: None,
            process: None,
            starts: 0,
            leftovers: Leftovers::None,
            fault: None,
        }
    }

    /// A host that serves with these guests and their side files.
    #[must_use]
    pub fn with(guests: &[&str]) -> Self {
        let mut host = Self::new();
        for guest in guests {
            host.consumers.add(guest);
        }
        host.start();
        host
    }

    /// Passed to `fanfare serve` from the next start on.
    pub fn argument(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// Set for `fanfare serve` from the next start on.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps the data in `folder` instead of a folder of its own.
    pub fn keep_data_in(&mut self, folder: impl Into<PathBuf>) -> &mut Self {
        self.data = folder.into();
        self
    }

    /// Runs `shell` in the process before it becomes the host: limits and signals are inherited.
    pub fn prepare_process(&mut self, shell: &str) -> &mut Self {
        self.preamble = Some(shell.to_owned());
        self
    }

    /// This story leaves deliveries pending or dead on purpose.
    pub fn leave_deliveries(&mut self) -> &mut Self {
        self.leftovers = Leftovers::Any;
        self
    }

    /// The point and the passing at which hosts that start from now on die.
    pub fn die_at(&mut self, fault: Option<&str>) -> &mut Self {
        self.fault = fault.map(str::to_owned);
        self
    }

    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder that is this host's and goes with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// # Panics
    /// Where the host does not run.
    #[must_use]
    pub fn client(&self) -> Client {
        self.process().client.clone()
    }

    /// # Panics
    /// Where the host does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process().child.id()
    }

    /// Memory of the process that is in use and not swapped out.
    ///
    /// # Panics
    /// Where the host does not run.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Starts the host and waits until it has looked at every plugin that is there. Where what stands in for AWS is too slow for
    /// it, on a busy machine, it is started again, as whoever runs it would.
    ///
    /// # Panics
    /// If it ends or stays silent instead.
    pub fn start(&mut self) {
        let begin = Instant::now();
        while let Err(status) = self.start_or_end() {
            let is_late = self.log().contains("request has timed out");
            assert!(is_late && begin.elapsed() < PATIENCE, "the host ended with {status}:\n{}", self.log());
        }
        let client = self.client();
        for name in self.consumers.names() {
            client.wait_for_consumer(&name, |consumer| consumer["state"] != "loading");
        }
    }

    /// Starts the host and waits until it serves.
    ///
    /// # Errors
    /// How it ended, if it did instead.
    ///
    /// # Panics
    /// If it does neither.
    pub fn start_or_end(&mut self) -> Result<(), ExitStatus> {
        self.spawn();
        eventually("the host listens", || {
            if let Some(status) = self.ended_by_now() {
                return Ok(Err(status));
            }
            if self.listens() { Ok(Ok(())) } else { Err(format!("it does not; {}", self.log())) }
        })
    }

    /// Whether the host serves by now.
    ///
    /// # Panics
    /// Where no host runs.
    pub fn listens(&mut self) -> bool {
        let printed = fs::read_to_string(self.log_path("out")).unwrap_or_default();
        let line = printed.lines().find_map(|line| line.strip_prefix(LISTENING)).filter(|_| printed.ends_with('\n'));
        let process = self.process.as_mut().expect("the host runs");
        if let Some(address) = line
            && process.client.base() != address.trim()
        {
            process.client = Client::new(address.trim());
        }
        line.is_some()
    }

    /// Starts the process and waits for nothing.
    ///
    /// # Panics
    /// If one runs already.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the host runs already");
        self.starts += 1;
        let child = self.command().spawn().expect("the program starts");
        self.process = Some(Process { child, client: Client::new("http://127.0.0.1:0") });
    }

    /// How the host ended, if it did.
    ///
    /// # Panics
    /// Where no host runs.
    pub fn ended_by_now(&mut self) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("a host");
        let status = process.child.try_wait().expect("a child")?;
        self.process = None;
        Some(status)
    }

    /// Runs the program to its end where it is expected not to serve; the [`log`](TestHost::log) says why.
    pub fn start_in_vain(&mut self) -> ExitStatus {
        self.spawn();
        self.ended()
    }

    /// As a power cut would: SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the host runs");
        process.child.kill().expect("a child to kill");
        process.child.wait().expect("a child to wait for");
    }

    /// Asks the host to end: SIGTERM. [`TestHost::ended`] waits for it.
    pub fn ask_to_end(&self) {
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.pid())]).status();
        assert!(status.expect("a shell").success(), "the host was gone already");
    }

    /// How the host ended.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("the host ends", || self.ended_by_now().ok_or_else(|| format!("it runs on:\n{}", self.log())))
    }

    /// What the host has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path("log")).unwrap_or_default()
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the host runs")
    }

    fn command(&self) -> Command {
        let mut command = match &self.preamble {
            None => Command::new(program::path()),
            Some(preamble) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{preamble}; exec \"$@\""), "sh"]).arg(program::path());
                shell
            }
        };
        command = program::clean(command);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&self.data);
        command.arg("--consumers-dir").arg(self.consumers.folder()).args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(self.fault.iter().map(|fault| ("FANFARE_FAULT", fault)));
        // Files, not pipes: a host that nobody reads must not stop.
        let file = |kind| fs::File::create(self.log_path(kind)).expect("a file for the log");
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("log"));
        command
    }

    fn log_path(&self, kind: &str) -> PathBuf {
        self.folder.path().join(format!("host-{}.{kind}", self.starts))
    }

    /// Deliveries that are pending or dead, consumer by consumer.
    fn left_behind(&self) -> Vec<Value> {
        let consumers = self.client().consumers();
        consumers.into_iter().filter(|consumer| consumer["pending"] != 0 || consumer["dead"] != 0).collect()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the host's log:\n{}", self.log());
        } else if self.process.is_some() && self.leftovers == Leftovers::None {
            let left = self.left_behind();
            if !left.is_empty() {
                self.kill();
                panic!("deliveries were left behind: {left:#?}\nthe host's log:\n{}", self.log());
            }
        }
        if self.process.is_some() {
            self.kill();
        }
    }
}
