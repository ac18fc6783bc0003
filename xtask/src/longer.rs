//! What the tests do a few times, for as long as somebody likes: kills, swaps, damaged input.

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, plugins};

/// Builds everything and runs `name`, one of the programs of the tests.
pub fn run(workspace: &Workspace, name: &str, arguments: &[&str]) -> Result<()> {
    run_with(workspace, name, arguments, [])
}

/// The same, with variables of its own.
pub fn run_with<'a>(
    workspace: &Workspace,
    name: &str,
    arguments: &[&str],
    variables: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> Result<()> {
    plugins::build(workspace)?;
    // As `cargo xtask test` builds it, so that neither builds anew what the other has.
    command::run(command::cargo(&workspace.root).args(["build", "--locked", "--workspace", "--bins", "--tests"]))?;
    let programs = workspace.target.join("debug");
    let program = |name: &str| programs.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut command = std::process::Command::new(program(name));
    command.envs(variables).env("FANFARE_BIN", program("fanfare")).env("FANFARE_GUESTS", &workspace.target);
    command::run(command.args(arguments))
}
