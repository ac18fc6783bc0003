//! The command line: one binary that serves, and that talks to a host that serves.
//!
//! Every command that talks to a host prints tables for people, or with `--json` what the host answered, for programs.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod backfill;
mod backup;
mod check;
pub mod client;
mod consumers;
mod dead_letters;
mod demo;
mod events;
mod failure;
mod half;
mod import;
mod lambda;
mod messages;
mod orders;
mod plugin;
mod print;
mod provision;
mod records;
mod serve;
mod timeline;
mod versions;

use crate::sandbox::compiler;
use client::Client;
pub use failure::Failure;
use print::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or settings
  3  refused by the host, for a reason that repeating does not change
  4  the host cannot be reached, or cannot serve now; the same command may succeed later
  5  what was compared differs";

/// Submit an order once; every sandboxed consumer hears of it.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

/// Which host a command talks to, and how it answers.
#[derive(Args, Clone, Debug)]
struct Target {
    /// The host to talk to.
    #[arg(long, global = true, env = "FANFARE_URL", hide_env_values = true, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a host: API, store, and the consumers in a directory.
    Serve(serve::Serve),
    /// Run a host, place made-up orders over HTTP and show what each consumer did.
    Demo(Box<demo::Demo>),
    /// Place and follow orders.
    #[command(subcommand)]
    Orders(orders::Orders),
    /// Tell consumers of something else than orders.
    #[command(subcommand)]
    Events(events::Events),
    /// Look at consumers and their state.
    #[command(subcommand)]
    Consumers(consumers::Consumers),
    /// Look at what could not be handled, and decide what becomes of it.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Look at e-mail and SMS.
    #[command(subcommand)]
    Messages(messages::Messages),
    /// Take out the rows that consumers recorded.
    #[command(subcommand)]
    Records(records::Records),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Check(check::Check),
    Provision(provision::Provision),
    Lambda(lambda::Lambda),
    /// Work with plugin files.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Compile a component from standard input to standard output, within limits. For the host itself.
    #[command(name = compiler::COMMAND, hide = true)]
    CompilePlugin {
        /// Bytes of address space.
        memory: u64,
        cpu_seconds: u64,
    },
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = lambda::arguments();
    let Cli { target, command } = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(wrong) if wrong.use_stderr() && arguments.iter().any(|argument| argument == "--json") => {
            let failure = Failure::Usage(wrong.to_string().trim_end().to_owned());
            Output::new(true).failure(&failure);
            return failure.exit_code();
        }
        // Prints help, and wrong usage with exit code 2, by itself.
        Err(wrong) => wrong.exit(),
    };
    let output = Output::new(target.json);
    match run(&target, command, &output).and_then(|()| output.check()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn run(target: &Target, command: Command, output: &Output) -> Result<(), Failure> {
    let client = || Client::new(&target.url);
    match command {
        Command::Serve(serve) => serve.run(output),
        Command::Demo(demo) => demo.run(output),
        Command::Orders(orders) => orders.run(&client()?, output),
        Command::Events(events) => events.run(&client()?, output),
        Command::Consumers(consumers) => consumers.run(&client()?, output),
        Command::DeadLetters(dead_letters) => dead_letters.run(&client()?, output),
        Command::Messages(messages) => messages.run(&client()?, output),
        Command::Records(records) => records.run(&client()?, output),
        Command::Backup(backup) => backup.run(client, output),
        Command::Restore(restore) => restore.run(output),
        Command::Check(check) => check.run(client, output),
        Command::Provision(provision) => provision.run(output),
        Command::Lambda(lambda) => lambda.run(),
        Command::Plugin(plugin) => plugin.run(output),
        Command::CompilePlugin { memory, cpu_seconds } => compiler::serve(memory, cpu_seconds).map_err(Failure::Failed),
    }
}

#[cfg(test)]
mod tests;
