//! Hands damaged input to every reader of the host until one does not stand it. `cargo xtask fuzz` runs it; it needs `fanfare`
//! built.

use std::process::ExitCode;
use std::time::Instant;

use fanfare_fuzz::{Filters, Plugins, Requests, SideFiles, Target, run};

const USAGE: &str = "Usage: cargo xtask fuzz [--runs N] [--seed N] [--target NAME]

  --runs N        inputs for each target [10000]
  --seed N        make the same inputs again
  --target NAME   plugins, side-files, filters or requests alone";

struct Arguments {
    runs: u64,
    seed: u64,
    target: Option<String>,
}

fn main() -> ExitCode {
    let Arguments { runs, seed, target } = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{runs} inputs for each target, --seed {seed}");
    let targets: [fn() -> Box<dyn Target>; 4] = [
        || Box::<Plugins>::default(),
        || Box::<SideFiles>::default(),
        || Box::<Filters>::default(),
        || Box::<Requests>::default(),
    ];
    const NAMES: [&str; 4] = ["plugins", "side-files", "filters", "requests"];
    let mut found = 0;
    for (make, name) in targets.into_iter().zip(NAMES) {
        if target.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let (mut target, begin) = (make(), Instant::now());
        match run(&mut *target, runs, seed) {
            Ok(()) => println!("{name:<12} stands {runs} in {:.1} s", begin.elapsed().as_secs_f64()),
            Err(finding) => {
                found += 1;
                println!("{finding}");
            }
        }
    }
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { runs: 10_000, seed: std::process::id().into(), target: None };
    while let Some(flag) = given.next() {
        let value = given.next().ok_or(format!("{flag} takes a value"))?;
        let number = || value.parse().map_err(|_| format!("{flag} takes a number"));
        match flag.as_str() {
            "--runs" => arguments.runs = number()?,
            "--seed" => arguments.seed = number()?,
            "--target" => arguments.target = Some(value),
            _ => return Err(format!("{flag} is no flag")),
        }
    }
    Ok(arguments)
}
