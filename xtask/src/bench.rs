//! The benchmark: guests, host and load generator in their release profiles, then one run.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{command, plugins};

pub fn run(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    plugins::build(workspace)?;
    // The yardstick: a plugin's own code without a sandbox.
    let native = ["build", "--release", "--locked", "--package", "inventory", "--example", "native"];
    command::run(plugins::cargo(workspace).args(native))?;
    let programs = ["build", "--release", "--locked", "--package", "fanfare", "--package", "fanfare-bench", "--bins"];
    command::run(command::cargo(&workspace.root).args(programs))?;

    let program = |folder: PathBuf, name: &str| folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let release = workspace.target.join("release");
    let mut bench = std::process::Command::new(program(release.clone(), "fanfare-bench"));
    bench.arg("--bin").arg(program(release, "fanfare")).arg("--consumers").arg(&workspace.target);
    bench.arg("--native").arg(program(workspace.plugins_target().join("release/examples"), "native"));
    command::run(bench.args(arguments))
}
