//! AWS Lambda as the tests see it: the program as the process of a function, and everything that invokes it.
//!
//! ```text
//! story ── invoke ──► RuntimeApi ── next ──► fanfare lambda … ── response or error ──► RuntimeApi ──► story
//! queue ── Source ──► event                        └── stands still (SIGSTOP) until the next one
//! ```

mod events;
mod runtime;
pub mod shop;
mod source;

use std::fs;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::consumers::Consumers;
use crate::{eventually, program};
pub use events::{asked, request, request_v1};
use runtime::RuntimeApi;
pub use source::Source;

/// How long an invocation may take unless a story says otherwise: as long as a function may be set to, and a test should not.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Time of an invocation in which something is to fail until its end.
pub const SHORT: Duration = Duration::from_secs(15);

/// One execution environment of a function: a process that runs while it is invoked, and stands still otherwise.
pub struct TestFunction {
    pub consumers: Consumers,
    /// What it is: the handler that it is set up with.
    handler: String,
    folder: TempDir,
    variables: Vec<(String, String)>,
    fault: Option<String>,
    api: RuntimeApi,
    process: Option<Child>,
    starts: u32,
}

/// Why an invocation was not answered.
#[derive(Clone, Debug)]
pub enum Failed {
    /// The function said so: `{"errorType": …, "errorMessage": …}`.
    Told(Value),
    /// The process ended.
    Ended(ExitStatus),
    /// It took longer than it had; Lambda ends the process then.
    TimedOut,
}

impl TestFunction {
    /// A function on the store of `prefix`, which does not run yet: `api`, `consumer.NAME` or `worker`.
    #[must_use]
    pub fn new(handler: &str, prefix: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for a function");
        let mut function = Self {
            consumers: Consumers::create(folder.path().join("consumers")),
            handler: handler.to_owned(),
            api: RuntimeApi::listen(),
            variables: Vec::new(),
            fault: None,
            folder,
            process: None,
            starts: 0,
        };
        function.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
        function
    }

    /// A function that runs, with these guests and their side files.
    #[must_use]
    pub fn with(handler: &str, prefix: &str, guests: &[&str]) -> Self {
        let mut function = Self::new(handler, prefix);
        guests.iter().for_each(|guest| function.consumers.add(guest));
        function.start();
        function
    }

    /// Set for the process from the next start on.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The point and the passing at which processes that start from now on die.
    pub fn die_at(&mut self, fault: Option<&str>) -> &mut Self {
        self.fault = fault.map(str::to_owned);
        self
    }

    /// A folder that is this function's and goes with it.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Starts the process, and lets it stand still once it asks for an event.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn start(&mut self) {
        if let Err(why) = self.start_or_fail() {
            panic!("the function did not start: {why}\n{}", self.log());
        }
    }

    /// [`TestFunction::start`], for one that may not.
    ///
    /// # Errors
    /// What it told Lambda of the reason.
    ///
    /// # Panics
    /// If it does neither.
    pub fn start_or_fail(&mut self) -> Result<(), Value> {
        assert!(self.process.is_none(), "the function runs already");
        self.starts += 1;
        self.process = Some(self.command().spawn().expect("the program starts"));
        let started = eventually("the function asks for an event", || {
            if self.api.is_asked() {
                return Ok(None);
            }
            match self.ended_by_now() {
                Some(status) => Ok(Some(status)),
                None => Err(self.log()),
            }
        });
        match started {
            None => {
                self.signal("STOP");
                Ok(())
            }
            Some(status) => {
                self.process = None;
                Err(self.api.take_failure().unwrap_or_else(|| json!(status.to_string())))
            }
        }
    }

    /// Invokes the function, and returns what it answers.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn invoke(&mut self, event: &Value) -> Value {
        match self.try_invoke(event, TIMEOUT) {
            Ok(answer) => answer,
            Err(why) => panic!("{why:?}; the function's log:\n{}", self.log()),
        }
    }

    /// Invokes the function, which has `timeout` to answer.
    ///
    /// # Errors
    /// Why it has not answered.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn try_invoke(&mut self, event: &Value, timeout: Duration) -> Result<Value, Failed> {
        self.signal("CONT");
        let id = self.api.invoke(event, timeout);
        let late = std::time::Instant::now() + timeout;
        let outcome = eventually("the function answers", || {
            if let Some(outcome) = self.api.outcome(&id) {
                return Ok(outcome.map_err(Failed::Told));
            }
            if let Some(status) = self.ended_by_now() {
                return Ok(Err(Failed::Ended(status)));
            }
            if std::time::Instant::now() > late { Ok(Err(Failed::TimedOut)) } else { Err(self.log()) }
        });
        match outcome {
            Err(Failed::Ended(_)) => self.process = None,
            Err(Failed::TimedOut) => self.kill(),
            _ => {
                eventually("the function asks for the next event", || {
                    if self.api.is_asked() { Ok(()) } else { Err(self.log()) }
                });
                self.signal("STOP");
            }
        }
        outcome
    }

    /// Lambda takes the process away, as it may at any time between two events.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the function runs");
        process.kill().expect("a child to kill");
        process.wait().expect("a child to wait for");
        self.api.forget();
    }

    /// What the function has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn ended_by_now(&mut self) -> Option<ExitStatus> {
        let ended = self.process.as_mut().and_then(|process| process.try_wait().expect("a child"));
        if ended.is_some() {
            self.api.forget();
        }
        ended
    }

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("the function runs").id();
        let sent = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.expect("a shell").success(), "the function was gone already:\n{}", self.log());
    }

    fn command(&self) -> std::process::Command {
        // As `bootstrap`, the program gets no arguments.
        let mut command = program::fanfare();
        command.env("AWS_LAMBDA_RUNTIME_API", self.api.address()).env("_HANDLER", &self.handler);
        command.env("AWS_LAMBDA_FUNCTION_NAME", "fanfare").env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST");
        command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512");
        command.env("FANFARE_CONSUMERS_DIR", self.consumers.folder());
        command.env("FANFARE_DATA_DIR", self.folder.path().join("data"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(self.fault.iter().map(|fault| ("FANFARE_FAULT", fault)));
        let log = fs::File::create(self.log_path()).expect("a file for the log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        command.current_dir(self.folder.path());
        command
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.folder.path().join(format!("function-{}.log", self.starts))
    }
}

impl Drop for TestFunction {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of {}:\n{}", self.handler, self.log());
        }
        if self.process.is_some() {
            self.kill();
        }
    }
}
