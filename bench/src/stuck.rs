//! What a stuck consumer costs the others: orders at one rate for the five of `fanout`, alone and beside one that waits, one
//! that tries again at once and one that computes without end.
//!
//! The rate is fixed, [`ORDERS_PER_S`], so that all runs do the same work; the answer, and the time until the five are done,
//! are what may differ.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::half::{self, Half};
use crate::host::{Host, Mail};
use crate::load::Tickets;
use crate::mode::{self, FANOUT};
use crate::workload::Workload;
use crate::{Arguments, Places};

/// Far below what a host can take: it is the stuck one that is measured.
const ORDERS_PER_S: f64 = 300.0;
/// From plugins/fixtures, with what makes each as bad as it can be.
const STUCK: [(&str, &str); 3] = [
    ("sleeps", "concurrency = 300\n[limits]\ntime = \"1h\"\n"),
    ("always-retry", "[retry]\nmax_attempts = 1000000\nbase = \"1ms\"\ncap = \"1ms\"\n"),
    ("spin", "concurrency = 300\n[limits]\ncpu = \"1h\"\ntime = \"1h\"\n"),
];

/// Prints a line for each company in which the five work.
pub async fn measure(arguments: &Arguments, places: &Places) -> Result<()> {
    println!("{:<14} {:>12} {:>12} {:>12} {:>12}", "beside", "answer p50", "p99 (ms)", "done p50", "p99 (ms)");
    let companies = std::iter::once(None).chain(STUCK.map(Some)).chain([None]);
    for (number, stuck) in companies.enumerate() {
        let folder = places.scratch.join(format!("stuck-{number}"));
        let Half { ack_p50_ms, ack_p99_ms, done_p50_ms, done_p99_ms, .. } =
            beside(stuck, &folder, arguments, places).await?;
        let name = stuck.map_or("nobody", |(name, _)| name);
        println!("{name:<14} {ack_p50_ms:>12.1} {ack_p99_ms:>12.1} {done_p50_ms:>12.1} {done_p99_ms:>12.1}");
    }
    Ok(())
}

async fn beside(
    stuck: Option<(&'static str, &str)>,
    folder: &Path,
    arguments: &Arguments,
    places: &Places,
) -> Result<Half> {
    let consumers = consumers(stuck, &folder.join("consumers"), places)?;
    let mut host = Host::start(&places.program, &consumers, folder, Mail::Off)?;
    let mut names: Vec<_> = FANOUT.names().into_iter().chain(stuck.map(|(name, _)| name)).collect();
    names.sort_unstable();
    host.ready(&names).await?;
    mode::stock_up(&host).await?;
    let workload = Arc::new(Workload::generate(&host.address.to_string())?);
    let tickets = Arc::new(Tickets::default());
    // Dropped, the host is killed: it would wait for those that are stuck.
    half::measure(&FANOUT, host.address, &workload, &tickets, arguments, ORDERS_PER_S).await
}

/// A folder with the five and the one that is stuck.
fn consumers(stuck: Option<(&str, &str)>, folder: &Path, places: &Places) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for entry in fs::read_dir(&places.guests)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    if let Some((name, policy)) = stuck {
        let fixture = places.guests.with_file_name("fixtures").join(format!("{name}.wasm"));
        fs::copy(&fixture, folder.join(format!("{name}.wasm"))).with_context(|| format!("no {}", fixture.display()))?;
        fs::write(folder.join(format!("{name}.toml")), policy)?;
    }
    Ok(folder.to_owned())
}
