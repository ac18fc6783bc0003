//! Kills at random moments, for as long as somebody likes: what the tests do a few times.

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, plugins};

pub fn run(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    plugins::build(workspace)?;
    // As `cargo xtask test` builds it, so that neither builds anew what the other has.
    command::run(command::cargo(&workspace.root).args(["build", "--locked", "--workspace", "--bins", "--tests"]))?;
    let programs = workspace.target.join("debug");
    let program = |name: &str| programs.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut crash = std::process::Command::new(program("fanfare-crash"));
    crash.env("FANFARE_BIN", program("fanfare")).env("FANFARE_GUESTS", &workspace.target);
    command::run(crash.args(arguments))
}
