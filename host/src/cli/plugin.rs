//! `fanfare plugin`: work with plugin files, without a host.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Failure;
use super::print::{Output, items, table, text, visible};
use super::serve;
use crate::config::RawConfig;
use crate::consumer::check;
use crate::consumer::directory::PLUGIN_BYTES_MAX;
use crate::policy::CompileLimits;
use crate::sandbox::{Compiler, Sandbox, Settings};

mod keys;
mod run;

/// Between two steps of what shows that something goes on.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Take a file through the stages that a host takes it through, and say where it stops.
    Check {
        /// NAME.wasm; NAME.toml beside it is its side file.
        file: PathBuf,
        /// Settings file that says who may sign plugins, and what compiling one may take [default: fanfare.toml, if it is there]
        #[arg(long, env = "FANFARE_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make a key to sign plugins with: NAME.key, which is secret, and NAME.pub, for `plugin_keys`.
    Keygen {
        /// Path of both files, without their ends.
        name: PathBuf,
    },
    /// Sign a plugin file in place, beside the signatures of other keys.
    Sign {
        file: PathBuf,
        /// The secret key: NAME.key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Write the signed file there instead.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    Run(run::Run),
}

impl Plugin {
    pub fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Check { file, config } => {
                let raw = serve::settings(config.as_deref());
                let (keys, limits) = raw.and_then(RawConfig::of_plugins).map_err(serve::usage)?;
                let sandbox = sandbox(limits)?;
                // A whole interpreter takes seconds to compile.
                let bar = output.progress(None, "{spinner} checking and compiling the file, {elapsed}");
                bar.enable_steady_tick(TICK);
                let report = runtime()?.block_on(check::check(&file, PLUGIN_BYTES_MAX, &keys, &sandbox));
                bar.finish_and_clear();
                output.show(&json!(report), describe);
                match report.ok {
                    true => Ok(()),
                    false => Err(Failure::Failed(format!("a host would not run {}", file.display()))),
                }
            }
            Self::Keygen { name } => Ok(keys::generate(&name, output)?),
            Self::Run(run) => run.run(output),
            Self::Sign { file, key, output: to } => keys::sign(&file, &key, to.as_deref(), output),
        }
    }
}

/// One instance at a time is enough to describe itself, or to handle one event after the other.
pub(super) fn sandbox(limits: CompileLimits) -> anyhow::Result<Sandbox> {
    let compiler = Compiler::this_program(limits)?;
    Ok(Sandbox::new(Settings { cache_dir: None, compiler, instances_max: 1 })?)
}

pub(super) fn runtime() -> anyhow::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("cannot start the threads that do the work")
}

/// A text, or a signature: one that was not held against its key is only what the file says.
fn item_text(item: &Value) -> String {
    match (item.pointer("/key"), item.pointer("/verified")) {
        (Some(_), Some(Value::Bool(true))) => text(item, "/key"),
        (Some(_), _) => format!("{} (as it says)", text(item, "/key")),
        _ => text(item, ""),
    }
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
        ("signed by", "/signed_by"),
        ("version", "/description/version"),
        ("summary", "/description/summary"),
        ("hears", if report.pointer("/hears").is_some() { "/hears" } else { "/description/subscriptions" }),
        ("needs", "/description/needs"),
    ] {
        let value = match report.pointer(path) {
            Some(Value::Array(items)) => items.iter().map(item_text).collect::<Vec<_>>().join(", "),
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
    let shadow = text(report, "/shadow/reason");
    if !shadow.is_empty() {
        shown.push_str(&format!("\n {} handles nothing: {}", text(report, "/shadow/file"), visible(&shadow)));
    }
    shown.trim_end().to_owned()
}
