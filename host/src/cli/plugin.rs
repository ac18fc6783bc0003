//! `fanfare plugin`: work with plugin files, without a host.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use super::Failure;
use super::print::{Output, items, table, text, visible};
use crate::consumer::check::{self, Report};
use crate::consumer::directory::PLUGIN_BYTES_MAX;
use crate::sandbox::{Compiler, Sandbox, Settings};

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Take a file through the stages that a host takes it through, and say where it stops.
    Check {
        /// NAME.wasm; NAME.toml beside it is its side file.
        file: PathBuf,
    },
}

impl Plugin {
    pub fn run(self, output: &Output) -> Result<(), Failure> {
        let Self::Check { file } = self;
        let report = check(&file)?;
        output.show(&json!(report), describe);
        match report.ok {
            true => Ok(()),
            false => Err(Failure::Failed(format!("a host would not run {}", file.display()))),
        }
    }
}

fn check(file: &std::path::Path) -> anyhow::Result<Report> {
    // One instance at a time is enough to describe itself.
    let compiler = Compiler::this_program()?;
    let sandbox = Sandbox::new(Settings { cache_dir: None, compiler, instances_max: 1 })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start the threads that run the plugin")?;
    Ok(runtime.block_on(check::check(file, PLUGIN_BYTES_MAX, &sandbox)))
}

fn describe(report: &Value) -> String {
    let row = |stage: &Value| {
        let result = if stage.get("ok").and_then(Value::as_bool) == Some(true) { "ok" } else { "failed" };
        [text(stage, "/stage"), result.to_owned()]
    };
    let mut shown = table(["stage", "result"], items(report, "/stages").iter().map(row));
    shown.push_str("\n\n");
    for (name, path) in [
        ("name", "/name"),
        ("sha-256", "/hash"),
        ("side file", "/side_file"),
        ("version", "/description/version"),
        ("summary", "/description/summary"),
        ("hears", "/description/subscriptions"),
        ("needs", "/description/needs"),
    ] {
        let value = match report.pointer(path) {
            Some(Value::Array(items)) => items.iter().map(|item| text(item, "")).collect::<Vec<_>>().join(", "),
            _ => text(report, path),
        };
        if !value.is_empty() {
            shown.push_str(&format!(" {name:<10} {}\n", visible(&value)));
        }
    }
    for stage in items(report, "/stages") {
        let reason = text(stage, "/reason");
        if !reason.is_empty() {
            shown.push_str(&format!("\n {}", visible(&reason)));
        }
    }
    shown.trim_end().to_owned()
}
