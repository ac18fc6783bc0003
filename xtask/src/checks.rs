//! What must hold before a change is merged.
//!
//! **Invariant**: one set of profiles. Clippy, docs and tests all use `dev` with the features of the whole workspace,
//! tests included, so that no dependency is compiled twice.

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::steps::Steps;
use crate::workspace::Workspace;
use crate::{command, emulators, plugins, tidy};

/// Everything that `.ci/run` runs.
pub fn test(workspace: &Workspace) -> Result<()> {
    let mut steps = Steps::default();
    all(workspace, &mut steps)?;
    steps.print();
    Ok(())
}

/// [`test()`], and the checks of the dependencies where the tools for them are installed.
pub fn ci(workspace: &Workspace) -> Result<()> {
    let mut steps = Steps::default();
    all(workspace, &mut steps)?;
    for (tool, arguments) in [("deny", &["deny", "--workspace", "check"][..]), ("machete", &["machete"])] {
        if command::has_cargo_command(tool)? {
            steps.run(if tool == "deny" { "deny" } else { "machete" }, || {
                command::run(command::cargo(&workspace.root).args(arguments))
            })?;
        } else {
            steps.skip(format!("cargo {tool}: not installed (`cargo install --locked cargo-{tool}`)"));
        }
    }
    steps.print();
    Ok(())
}

/// Cheapest first: what fails for a slip of the pen fails before anything is compiled.
fn all(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let host = || command::cargo(&workspace.root);
    let guests = || plugins::cargo(workspace);
    let deny_warnings = ["--", "--deny", "warnings"];
    let emulators = emulators::start_beside(workspace);

    steps.run("format", || {
        command::run(host().args(["fmt", "--all", "--check"]))?;
        command::run(guests().args(["fmt", "--all", "--check"]))
    })?;
    steps.run("tidy", || tidy::check(workspace))?;
    steps.run("clippy", || {
        command::run(host().args(["clippy", "--locked", "--workspace", "--all-targets"]).args(deny_warnings))
    })?;
    steps.run("clippy of the plugins", || {
        command::run(guests().args(["clippy", "--locked", "--workspace", "--all-targets"]).args(deny_warnings))
    })?;
    steps.run("docs", || {
        command::run(
            host().args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"),
        )
    })?;
    steps.run("plugins", || plugins::build(workspace))?;
    steps
        .run("tests of the plugins", || command::run(guests().args(["test", "--locked", "--workspace", "--quiet"])))?;
    // With `--tests` beside `--bins` the program gets the very dependencies that the tests are linked with.
    steps.run("build", || command::run(host().args(["build", "--locked", "--workspace", "--bins", "--tests"])))?;
    let nextest = command::has_cargo_command("nextest")?;
    if !nextest {
        steps.skip("cargo nextest: not installed, so `cargo test` ran the tests, more slowly");
    }
    let emulators =
        steps.run("emulators", || emulators.join().map_err(|_| anyhow!("starting the emulators panicked"))?)?;
    steps.run("tests", || {
        let mut tests: Command = host();
        tests.args(if nextest { &["nextest", "run"][..] } else { &["test"] }).args(["--locked", "--workspace"]);
        tests.env("FANFARE_BIN", workspace.target.join("debug/fanfare")).env("FANFARE_GUESTS", &workspace.target);
        tests.envs(emulators.environment());
        command::run(&mut tests)
    })
}
