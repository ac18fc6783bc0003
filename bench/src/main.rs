//! Measures Fanfare as a shop and an operator meet it: orders over HTTP into the real program, on loopback, with fsync.
//!
//! | mode | consumers | for one order |
//! |---|---|---|
//! | `fanout` | the five guests of plugins/bench | one event, five deliveries, one effect each |
//! | `journey` | the five that ship | placed, confirmed, shipped: three events, nine deliveries |
//! | `stuck` | those of `fanout`, and one that is stuck | a fixed load, beside each kind of being stuck and alone |
//! | `hostile` | those of `fanout`, and one that goes too far | the same load, beside each way of going too far and alone |
//! | `many` | a hundred variants of inventory | none: start-up, memory, and handling as below |
//! | `handling` | none | none: handling as below, without a host |
//!
//! What is measured, and how:
//! - **accepted**: orders answered 201 over the time of the load; **ack** is the time of one answer. Every connection
//!   sends its next order as soon as the last is answered.
//! - **end to end**: those orders over the time from the first submission until no consumer has anything pending.
//! - **CPU**: of the host's process, over that same time. The load generator shares the machine; its own share is shown.
//! - **native**: the same load into the baseline ([`native`]), right before the host: the same HTTP front and the same rows in
//!   the same tables, with the consumers' work as plain Rust in the transaction that places the order. No queue, no sandbox:
//!   what Fanfare costs is the ratio of the two.
//! - **half**: the host of `fanout` at half of the rate that it just reached end to end ([`half`]): ack, and the time from
//!   the answer until all five deliveries of an order were done.
//! - **memory**: VmRSS when every consumer runs and no event was handled yet, and the largest seen under load.
//! - **handling**: one event of inventory (three lines, all in stock) in the sandbox, in process, without a store; beside it the
//!   same component in a bare loop of wasmtime ([`bare`]); and the same code as native Rust.
//! - **start-up**: from starting the program until it is ready with the five that ship all running.
//!
//! **Invariant**: a figure is printed only if every order was handled by every consumer exactly once and every unit of
//! stock is accounted for; the baseline's only if, besides, it does what the guests do, effect by effect.

mod api;
mod bare;
mod books;
mod half;
mod handling;
mod host;
mod load;
mod machine;
mod many;
mod mode;
mod native;
mod report;
mod startup;
mod stuck;
mod tables;
mod wire;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use host::Mail;
use report::Report;

/// The host's: the baseline is to have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a Fanfare host. Run it by `cargo xtask bench`, which builds what it needs.
#[derive(Debug, Parser)]
#[command(name = "fanfare-bench", args_override_self = true, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Length of the load in each mode, without a warm-up of a fifth of it.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[arg(long, value_enum, default_value_t = Modes::All)]
    mode: Modes,
    /// Keep-alive connections that submit orders.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Whether the host writes e-mails into a folder, as it does by default, or leaves them in the store.
    #[arg(long, value_enum, default_value_t = Mail::Off)]
    mail: Mail,
    /// The program to measure; by default `fanfare` beside this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Folder with `consumers/` and `bench-consumers/`, as `cargo xtask plugins` leaves them; by default the target folder.
    #[arg(long)]
    consumers: Option<PathBuf>,
    /// The example `native` of plugins/inventory, built: runs the plugin's code without a sandbox.
    #[arg(long)]
    native: Option<PathBuf>,
    /// Leave the baseline out. With `--mail folder` it is left out anyway: it sends nothing.
    #[arg(long)]
    without_native: bool,
    /// Folder for the stores, on the disk to be measured; by default in the target folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print all figures as one JSON object on the last line.
    #[arg(long)]
    json: bool,
}

/// What else this program is.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Native(native::Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Modes {
    Fanout,
    Journey,
    /// `fanout`, and then half of its load.
    Half,
    /// A fixed load alone, and beside consumers that are stuck.
    Stuck,
    /// The same load alone, and beside a consumer that goes too far, in each of its ways.
    Hostile,
    /// One event in the sandbox alone, without a host.
    Handling,
    /// A hundred different plugins in one host.
    Many,
    /// All loads but those beside stuck and hostile consumers, and handling and start-up besides.
    All,
}

/// Where everything is.
pub struct Places {
    pub program: PathBuf,
    /// The five that ship.
    pub shipped: PathBuf,
    /// Those of plugins/bench.
    pub guests: PathBuf,
    /// This run's own folder, removed when it ends.
    pub scratch: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Native(arguments)) = &arguments.role {
        return match native::run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    match Places::find(&arguments).and_then(|places| {
        let result = measure(&arguments, &places);
        // A failed run leaves the host's log behind, which its error names.
        if result.is_ok() {
            fs::remove_dir_all(&places.scratch).context("cannot remove what the hosts stored")?;
        }
        result
    }) {
        Ok(report) => {
            report.print(arguments.json);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn measure(arguments: &Arguments, places: &Places) -> Result<Report> {
    // One thread: the load generator is to take as little as it can of the cores that it shares with the host.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::new(arguments.connections, arguments.seconds, arguments.mail);
    let companies: &[_] = match arguments.mode {
        Modes::Stuck => &stuck::STUCK,
        Modes::Hostile => &stuck::HOSTILE,
        _ => &[],
    };
    if !companies.is_empty() {
        runtime.block_on(stuck::measure(companies, arguments, places))?;
        return Ok(report);
    }
    if arguments.mode == Modes::All {
        eprintln!("measuring start-up");
        report.startup = Some(runtime.block_on(startup::measure(places))?);
    }
    if arguments.mode == Modes::Many {
        report.many = Some(runtime.block_on(many::measure(places))?);
    }
    if matches!(arguments.mode, Modes::Handling | Modes::All) {
        eprintln!("measuring the handling of one event");
        report.handling = Some(runtime.block_on(handling::measure(&places.shipped, arguments.native.as_deref()))?);
    }
    let half = matches!(arguments.mode, Modes::Half | Modes::All);
    if matches!(arguments.mode, Modes::Fanout | Modes::Half | Modes::All) {
        report.fanout = Some(runtime.block_on(mode::measure(&mode::FANOUT, half, arguments, places))?);
    }
    if matches!(arguments.mode, Modes::Journey | Modes::All) {
        report.journey = Some(runtime.block_on(mode::measure(&mode::JOURNEY, false, arguments, places))?);
    }
    Ok(report)
}

impl Places {
    fn find(arguments: &Arguments) -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let beside = own.parent().context("this program is in no folder")?;
        let target = beside.parent().context("this program is in no target folder")?;
        let program = arguments.bin.clone().unwrap_or_else(|| beside.join("fanfare"));
        ensure!(program.is_file(), "there is no program {}: build it, or name it by --bin", program.display());
        let consumers = arguments.consumers.as_deref().unwrap_or(target);
        let data = arguments.data.clone().unwrap_or_else(|| target.join("bench"));
        let scratch = data.join(std::process::id().to_string());
        fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        machine::check_disk(&scratch)?;
        Ok(Self {
            program: absolute(&program)?,
            shipped: guests(consumers, "consumers")?,
            guests: guests(consumers, "bench-consumers")?,
            scratch: absolute(&scratch)?,
        })
    }
}

fn guests(folder: &Path, name: &str) -> Result<PathBuf> {
    let guests = folder.join(name);
    ensure!(
        guests.is_dir(),
        "there is no {}: `cargo xtask plugins` makes it, --consumers says where",
        guests.display()
    );
    absolute(&guests)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
}
