//! Swaps a plugin under load again and again, and checks that nothing was lost, repeated or reordered.
//! `cargo xtask swaps` runs it; it needs `fanfare` and the guests built.

use std::process::ExitCode;

use fanfare_tests::swaps::Run;

const USAGE: &str = "Usage: cargo xtask swaps [--swaps N] [--seed N]

  --swaps N   files renamed into the directory, one after another [10000]
  --seed N    draw the same files again";
/// What the memory of the host may grow by after the first 100 swaps.
const GROWTH_MAX: f64 = 0.05;

fn main() -> ExitCode {
    let run = match arguments(std::env::args().skip(1)) {
        Ok(run) => run,
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{} swaps, --seed {}", run.swaps, run.seed);
    let step = run.swaps.div_ceil(10).max(1);
    let told = run.run(|swaps| {
        if swaps.is_multiple_of(step) {
            println!("{swaps:>6} swaps");
        }
    });
    let report = match told {
        Ok(report) => report,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::FAILURE;
        }
    };
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let growth = report.memory_last_kib as f64 / report.memory_first_kib as f64 - 1.0;
    println!("{report:#?}\nmemory grew by {:.1} %", growth * 100.0);
    if growth > GROWTH_MAX {
        eprintln!("memory grew by more than {:.0} %", GROWTH_MAX * 100.0);
        return ExitCode::FAILURE;
    }
    println!("no event was lost, repeated or reordered, and no request failed");
    ExitCode::SUCCESS
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Run, String> {
    let mut run = Run { swaps: 10_000, seed: std::process::id().into(), warm_up: true };
    while let Some(flag) = given.next() {
        let mut number = || given.next().and_then(|text| text.parse().ok()).ok_or(format!("{flag} takes a number"));
        match flag.as_str() {
            "--swaps" => run.swaps = u32::try_from(number()?).map_err(|_| "--swaps: too many".to_owned())?,
            "--seed" => run.seed = number()?,
            _ => return Err(format!("{flag} is no flag")),
        }
    }
    Ok(run)
}
