//! The chores of this repository: `cargo xtask COMMAND`.
//!
//! **Invariant**: needs nothing but Rust as rustup installs it, and Python for the emulators of AWS; what else is there
//! (nextest, deny, machete) is used, and what is not is said.

mod bench;
mod checks;
mod command;
mod demo;
mod emulators;
mod guests;
mod longer;
mod plugins;
mod steps;
mod tidy;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  demo [ARGS]   build everything, start a host with the five consumers on 127.0.0.1:8080 and place orders
  test          everything that .ci/run runs: format, tidy, clippy, docs, plugins, tests
  ci            test, and the checks of the dependencies (cargo deny, cargo machete)
  bench [ARGS]  build everything for speed and measure it over HTTP; `bench --help` says what ARGS there are
  crash [ARGS]  kill a host under load at random, 200 times, and compare what is left with what was promised; `--power-loss`
                takes what was not synced with it; `--hosts 3` kills one of three on AWS's stand-ins, 50 times; with
                `--operator`, consumers are paused, rebuilt, replaced and rolled back meanwhile
  swaps [ARGS]  swap a plugin under load 10,000 times, and look whether anything was lost, repeated, reordered or failed
  cost [ARGS]   count what an order takes at AWS, against emulators, and print what a million of them cost
  fuzz [ARGS]   hand damaged plugins, side files, filters, orders and events to the host until it does not stand one
  emulators     run emulators of SNS, SQS, DynamoDB and CloudFormation, and print what tells an AWS client to talk to them
  plugins       build the consumers in plugins/ and lay them out under the target folder
  tidy          only the rules of this repository that no compiler knows
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let result = Workspace::find().and_then(|workspace| match (command.as_str(), rest.as_slice()) {
        ("demo", rest) => demo::run(&workspace, rest),
        ("test", []) => checks::test(&workspace),
        ("ci", []) => checks::ci(&workspace),
        ("bench", rest) => bench::run(&workspace, rest),
        ("crash", rest) => longer::run(&workspace, "fanfare-crash", rest),
        ("swaps", rest) => longer::run(&workspace, "fanfare-swaps", rest),
        ("cost", rest) => longer::run_on_aws(&workspace, "fanfare-cost", rest),
        ("fuzz", rest) => longer::run(&workspace, "fanfare-fuzz", rest),
        ("emulators", []) => emulators::run(&workspace),
        ("plugins", []) => plugins::build(&workspace),
        ("tidy", []) => tidy::check(&workspace),
        ("help" | "--help" | "-h", _) => {
            print!("{USAGE}");
            Ok(())
        }
        ("", []) => Err(anyhow::anyhow!("which command?\n\n{USAGE}")),
        (command, rest) => Err(anyhow::anyhow!("`{}` is no command\n\n{USAGE}", [&[command], rest].concat().join(" "))),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
