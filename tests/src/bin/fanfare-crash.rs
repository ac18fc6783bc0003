//! Kills a host under load again and again, and checks that nothing was lost, repeated or out of turn.
//! `cargo xtask crash` runs it; it needs `fanfare` and the guests built.

use std::process::ExitCode;

use fanfare_tests::crash::random::Run;

const USAGE: &str = "Usage: cargo xtask crash [--kills N] [--seed N] [--power-loss]

  --kills N      SIGKILLs at random moments, on one store under load [200]
  --seed N       draw the same moments again
  --power-loss   what was not synced to disk goes with each kill";

fn main() -> ExitCode {
    let run = match arguments(std::env::args().skip(1)) {
        Ok(run) => run,
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{} kills, --seed {}{}", run.kills, run.seed, if run.power_loss { ", with power loss" } else { "" });
    let step = run.kills.div_ceil(10);
    let told = run.run(|kills| {
        if kills.is_multiple_of(step) {
            println!("{kills:>6} kills");
        }
    });
    match told {
        Ok(report) => {
            println!("{report:#?}\nnothing was lost, repeated or out of turn");
            ExitCode::SUCCESS
        }
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Run, String> {
    let mut run = Run { kills: 200, seed: std::process::id().into(), power_loss: false };
    while let Some(flag) = given.next() {
        let mut number = || given.next().and_then(|text| text.parse().ok()).ok_or(format!("{flag} takes a number"));
        match flag.as_str() {
            "--kills" => run.kills = u32::try_from(number()?).map_err(|_| "--kills: too many".to_owned())?,
            "--seed" => run.seed = number()?,
            "--power-loss" => run.power_loss = true,
            _ => return Err(format!("{flag} is no flag")),
        }
    }
    Ok(run)
}
