//! The program `fanfare` itself: run to its end, with what it printed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

/// What a run of the program left.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// If it is no JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }

    /// # Panics
    /// Unless it ended well.
    #[must_use]
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }
}

/// `fanfare`, with none of the settings of whoever runs the tests.
#[must_use]
pub fn fanfare() -> Command {
    clean(Command::new(path()))
}

/// Runs `fanfare` with `arguments` to its end.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
    finish(fanfare().args(arguments))
}

/// Runs `command` to its end.
///
/// # Panics
/// If it cannot start.
#[must_use]
pub fn finish(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `FANFARE_BIN`, or what cargo built beside this test.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn path() -> PathBuf {
    let beside = || {
        // TARGET/debug/deps/stories-…
        let test = std::env::current_exe().expect("a test knows where it is");
        test.ancestors().nth(2).expect("a test stands in a target folder").join("fanfare")
    };
    let path = std::env::var_os("FANFARE_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "no {}: run `cargo build --package fanfare --bins`", path.display());
    path
}

/// `command` without the variables that set up a host or a client.
#[must_use]
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
}
