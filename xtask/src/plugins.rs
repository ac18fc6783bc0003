//! Builds the guests in `plugins/`.

use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{command, guests};

const TARGET: &str = "wasm32-wasip2";

pub fn build(workspace: &Workspace) -> Result<()> {
    add_target(workspace)?;
    command::run(
        cargo(workspace)
            .args(["build", "--release", "--locked", "--target", TARGET])
            // It would take the place of the link arguments in plugins/.cargo/config.toml.
            .env_remove("RUSTFLAGS"),
    )?;
    guests::lay_out(workspace)
}

/// Cargo for the workspace of the plugins, with its own target folder: `cargo(…).args(["build", …])`.
pub fn cargo(workspace: &Workspace) -> Command {
    let mut command = command::cargo(&workspace.plugins());
    command.env("CARGO_TARGET_DIR", workspace.plugins_target());
    command
}

/// Adds the target that guests are compiled for. Whoever installed Rust without rustup has to bring it along.
fn add_target(workspace: &Workspace) -> Result<()> {
    let sysroot = command::read(Command::new("rustc").args(["--print", "sysroot"]).current_dir(&workspace.root))?;
    if std::path::Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    command::run(Command::new("rustup").args(["target", "add", TARGET]).current_dir(&workspace.root)).with_context(|| {
        format!("consumers are compiled for {TARGET}, which this Rust does not have: add it by `rustup target add {TARGET}`")
    })
}
