//! Counts what an order takes at AWS, and prints what a million of them cost beside services that are wired by hand.
//! `cargo xtask cost` runs it against emulators.

use std::process::ExitCode;
use std::time::Duration;

use fanfare_tests::cost::{Counted, PRICED, Pace, Prices, kept, reference};

const USAGE: &str = "Usage: cargo xtask cost [--orders N] [--clients N] [--slow N] [--settle SECONDS]

  --orders N         orders that come as fast as they are answered [2000]
  --clients N        how many clients place them [64]
  --slow N           orders that come one a second before that [120]
  --settle SECONDS   how long the host has nothing to do before: consumers that are new follow the journal closely for a
                     quarter of an hour [0]";

/// What is counted of a host with nothing to do.
const IDLE: Duration = Duration::from_secs(20);

struct Run {
    orders: usize,
    clients: usize,
    slow: usize,
    settle: u64,
}

fn main() -> ExitCode {
    let run = match arguments(std::env::args().skip(1)) {
        Ok(run) => run,
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut counted = Counted::start();
    let _ = counted.sell(run.clients, Pace { clients: run.clients, rate: None });
    eprintln!("{} s until the host is settled", run.settle);
    let _ = counted.idle(Duration::from_secs(run.settle));
    let idle = counted.idle(IDLE);
    println!("with nothing to do\n{idle}");
    let slow = counted.sell(run.slow, Pace { clients: 4, rate: Some(1.0) });
    println!("one order a second\n{slow}");
    let fast = counted.sell(run.orders, Pace { clients: run.clients, rate: None });
    println!("as many as go, from {} clients\n{fast}", run.clients);
    counted.check();

    let (kept, prices) = (kept(&slow, &idle), Prices::LIST);
    println!(
        "consumers keep {kept:.1} write units an order; dollars for a million orders at list prices ({PRICED}):\n"
    );
    println!("| | 1 order/s: Fanfare | wired by hand | {:.0} orders/s: Fanfare | wired by hand |", rate(&fast));
    println!("|---|---|---|---|---|");
    let columns =
        [slow.dollars(&prices), reference(kept, 1.0, &prices), fast.dollars(&prices), reference(kept, 10.0, &prices)];
    for (row, (name, _)) in columns[0].iter().enumerate() {
        let cells: Vec<_> = columns.iter().map(|column| format!("{:.2}", column[row].1)).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    let sums: Vec<_> =
        columns.iter().map(|column| format!("{:.2}", column.iter().map(|(_, dollars)| dollars).sum::<f64>())).collect();
    println!("| together | {} |", sums.join(" | "));
    ExitCode::SUCCESS
}

fn rate(spent: &fanfare_tests::cost::Spent) -> f64 {
    spent.orders as f64 / spent.took.as_secs_f64()
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Run, String> {
    let mut run = Run { orders: 2_000, clients: 64, slow: 120, settle: 0 };
    while let Some(flag) = given.next() {
        let mut number = || given.next().and_then(|text| text.parse().ok()).ok_or(format!("{flag} takes a number"));
        match flag.as_str() {
            "--orders" => run.orders = number()?,
            "--clients" => run.clients = number()?,
            "--slow" => run.slow = number()?,
            "--settle" => run.settle = number()? as u64,
            _ => return Err(format!("{flag} is no flag")),
        }
    }
    if run.orders * run.clients * run.slow == 0 {
        return Err("each of --orders, --clients and --slow is at least 1".to_owned());
    }
    Ok(run)
}
