//! The demo: a host with the five consumers, in folders of its own.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{command, plugins};

pub fn run(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    plugins::build(workspace)?;
    command::run(command::cargo(&workspace.root).args(["build", "--locked", "--package", "fanfare", "--bins"]))?;

    // Every demo starts from nothing, so that what it shows is what it did.
    let folder = workspace.target.join("demo");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .with_context(|| format!("cannot empty {}", folder.display()))?;
    let consumers = folder.join("consumers");
    fs::create_dir_all(&consumers).with_context(|| format!("cannot create {}", consumers.display()))?;
    for entry in fs::read_dir(workspace.target.join("consumers"))? {
        let entry = entry?;
        fs::copy(entry.path(), consumers.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }

    let mut host =
        Command::new(workspace.target.join("debug").join(format!("fanfare{}", std::env::consts::EXE_SUFFIX)));
    host.arg("demo").arg("--data-dir").arg(folder.join("data")).arg("--consumers-dir").arg(consumers);
    if !arguments.iter().any(|argument| argument.starts_with("--listen")) {
        host.args(["--listen", "127.0.0.1:8080"]);
    }
    become_program(host.args(arguments))
}

/// Goes on as `command`, so that Ctrl-C and exit code are the host's own.
#[cfg(unix)]
fn become_program(command: &mut Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

#[cfg(not(unix))]
fn become_program(command: &mut Command) -> Result<()> {
    command::run(command)
}
