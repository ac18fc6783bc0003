//! What the tests do a few times, for as long as somebody likes: kills, swaps, damaged input.

use anyhow::{Result, anyhow};

use crate::emulators::Emulators;
use crate::workspace::Workspace;
use crate::{command, emulators, plugins};

/// What a program is told where it needs what stands in for AWS.
const ON_AWS: &str = "--hosts";

/// Builds everything and runs `name`, one of the programs of the tests.
pub fn run(workspace: &Workspace, name: &str, arguments: &[&str]) -> Result<()> {
    if arguments.contains(&ON_AWS) {
        return run_on_aws(workspace, name, arguments);
    }
    build(workspace)?;
    run_built(workspace, name, arguments, None)
}

/// The same, with what stands in for AWS, which ends with it.
pub fn run_on_aws(workspace: &Workspace, name: &str, arguments: &[&str]) -> Result<()> {
    let starting = emulators::start_beside(workspace);
    build(workspace)?;
    let emulators = starting.join().map_err(|_| anyhow!("starting the emulators panicked"))??;
    run_built(workspace, name, arguments, Some(&emulators))
}

/// As `cargo xtask test` does, so that neither builds anew what the other has.
fn build(workspace: &Workspace) -> Result<()> {
    plugins::build(workspace)?;
    command::run(command::cargo(&workspace.root).args(["build", "--locked", "--workspace", "--bins", "--tests"]))
}

fn run_built(workspace: &Workspace, name: &str, arguments: &[&str], emulators: Option<&Emulators>) -> Result<()> {
    let programs = workspace.target.join("debug");
    let program = |name: &str| programs.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut command = std::process::Command::new(program(name));
    command.envs(emulators.into_iter().flat_map(Emulators::environment));
    command.env("FANFARE_BIN", program("fanfare")).env("FANFARE_GUESTS", &workspace.target);
    command::run(command.args(arguments))
}
