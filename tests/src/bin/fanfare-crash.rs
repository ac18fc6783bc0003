//! Kills hosts under load again and again, and checks that nothing was lost, repeated or out of turn.
//! `cargo xtask crash` runs it; it needs `fanfare` and the guests built, and with `--hosts` what stands in for AWS.

use std::process::ExitCode;

use fanfare_tests::crash::{fleet, random};

const USAGE: &str = "Usage: cargo xtask crash [--kills N] [--seed N] [--operator] [--power-loss]
       cargo xtask crash --hosts N [--standard] [--kills N] [--seed N] [--operator]

  --kills N      SIGKILLs at random moments, on one store under load [200; of several hosts 50]
  --seed N       draw the same moments again
  --operator     somebody pauses, rebuilds, replaces and rolls back consumers meanwhile
  --power-loss   what was not synced to disk goes with each kill
  --hosts N      so many hosts on one store at AWS, for which emulators stand in, each behind a network that fails
  --standard     with topic and queues that keep no order, and give messages again";

enum Run {
    One(random::Run),
    Fleet(fleet::Run),
}

fn main() -> ExitCode {
    let run = match arguments(std::env::args().skip(1)) {
        Ok(run) => run,
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let told = match run {
        Run::One(run) => {
            println!(
                "{} kills, --seed {}{}",
                run.kills,
                run.seed,
                if run.power_loss { ", with power loss" } else { "" }
            );
            run.run(progress(run.kills)).map(|report| format!("{report:#?}"))
        }
        Run::Fleet(run) => {
            let standard = if run.standard { ", on standard queues" } else { "" };
            println!("{} hosts, {} kills, --seed {}{standard}", run.hosts, run.kills, run.seed);
            run.run(progress(run.kills)).map(|report| format!("{report:#?}"))
        }
    };
    match told {
        Ok(report) => {
            println!("{report}\nnothing was lost, repeated or out of turn");
            ExitCode::SUCCESS
        }
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::FAILURE
        }
    }
}

fn progress(kills: u32) -> impl FnMut(u32) {
    let step = kills.div_ceil(10).max(1);
    move |done| {
        if done.is_multiple_of(step) {
            println!("{done:>6} kills");
        }
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Run, String> {
    let (mut hosts, mut kills, mut seed) = (None, None, std::process::id().into());
    let (mut power_loss, mut standard, mut operator) = (false, false, false);
    while let Some(flag) = given.next() {
        let mut number = || given.next().and_then(|text| text.parse().ok()).ok_or(format!("{flag} takes a number"));
        match flag.as_str() {
            "--kills" => kills = Some(u32::try_from(number()?).map_err(|_| "--kills: too many".to_owned())?),
            "--seed" => seed = number()?,
            "--hosts" => hosts = usize::try_from(number()?).ok().filter(|hosts| (1..=16).contains(hosts)),
            "--power-loss" => power_loss = true,
            "--standard" => standard = true,
            "--operator" => operator = true,
            _ => return Err(format!("{flag} is no flag")),
        }
        if flag == "--hosts" && hosts.is_none() {
            return Err("--hosts takes a number from 1 to 16".to_owned());
        }
    }
    match hosts {
        Some(_) if power_loss => Err("--power-loss is about a disk, and several hosts share none".to_owned()),
        Some(hosts) => Ok(Run::Fleet(fleet::Run { hosts, kills: kills.unwrap_or(50), standard, operator, seed })),
        None if standard => Err("--standard is about AWS: say --hosts, too".to_owned()),
        None => Ok(Run::One(random::Run { kills: kills.unwrap_or(200), seed, power_loss, operator })),
    }
}
