//! What a stuck or hostile consumer costs the others: orders at one rate for the five of `fanout`, alone and beside it. What is
//! stuck waits, tries again at once or computes without end, for every order; what is hostile goes too far within its
//! limits, in one of its ways, [`TOLD_PER_S`] times a second.
//!
//! The rate is fixed, [`ORDERS_PER_S`], so that all runs do the same work; the answer, and the time until the five are done,
//! are what may differ.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::api::{Api, event};
use crate::half::{self, Half};
use crate::host::{Host, Mail};
use crate::load::Tickets;
use crate::mode::{self, FANOUT};
use crate::workload::Workload;
use crate::{Arguments, Places};

/// Far below what a host can take: it is the stuck one that is measured.
const ORDERS_PER_S: f64 = 300.0;
const TOLD_PER_S: u32 = 20;

/// A consumer from plugins/fixtures beside which the five work.
#[derive(Clone, Copy)]
pub struct Company {
    fixture: &'static str,
    /// Of its side file; where there is none, the one that it comes with.
    policy: Option<&'static str>,
    /// What it is told to do.
    told: Option<&'static str>,
}

const fn stuck(fixture: &'static str, policy: &'static str) -> Option<Company> {
    Some(Company { fixture, policy: Some(policy), told: None })
}

const fn hostile(told: &'static str) -> Option<Company> {
    Some(Company { fixture: "hostile", policy: None, told: Some(told) })
}

/// With what makes each as bad as it can be.
pub const STUCK: [Option<Company>; 5] = [
    None,
    stuck("sleeps", "concurrency = 300\n[limits]\ntime = \"1h\"\n"),
    stuck("always-retry", "[retry]\nmax_attempts = 1000000\nbase = \"1ms\"\ncap = \"1ms\"\n"),
    stuck("spin", "concurrency = 300\n[limits]\ncpu = \"1h\"\ntime = \"1h\"\n"),
    None,
];

/// All that the fixture `hostile` knows and that ends.
pub const HOSTILE: [Option<Company>; 26] = [
    None,
    hostile("sleep"),
    hostile("spin"),
    hostile("calls"),
    hostile("recurse"),
    hostile("panic"),
    hostile("abort"),
    hostile("exit"),
    hostile("eat"),
    hostile("hold"),
    hostile("values"),
    hostile("keys"),
    hostile("counters"),
    hostile("scans"),
    hostile("publish"),
    hostile("mail"),
    hostile("rows"),
    hostile("text"),
    hostile("reason"),
    hostile("change"),
    hostile("unkind"),
    hostile("order"),
    hostile("loop"),
    hostile("log"),
    hostile("print"),
    None,
];

/// Prints a line for each company in which the five work.
pub async fn measure(companies: &[Option<Company>], arguments: &Arguments, places: &Places) -> Result<()> {
    println!("{:<14} {:>12} {:>12} {:>12} {:>12}", "beside", "answer p50", "p99 (ms)", "done p50", "p99 (ms)");
    for (number, company) in companies.iter().enumerate() {
        let folder = places.scratch.join(format!("stuck-{number}"));
        let Half { ack_p50_ms, ack_p99_ms, done_p50_ms, done_p99_ms, .. } =
            beside(*company, &folder, arguments, places).await?;
        let name = company.map_or("nobody", |company| company.told.unwrap_or(company.fixture));
        println!("{name:<14} {ack_p50_ms:>12.1} {ack_p99_ms:>12.1} {done_p50_ms:>12.1} {done_p99_ms:>12.1}");
    }
    Ok(())
}

async fn beside(company: Option<Company>, folder: &Path, arguments: &Arguments, places: &Places) -> Result<Half> {
    let consumers = consumers(company, &folder.join("consumers"), places)?;
    let mut host = Host::start(&places.program, &consumers, folder, Mail::Off)?;
    let mut names: Vec<_> = FANOUT.names().into_iter().chain(company.map(|company| company.fixture)).collect();
    names.sort_unstable();
    host.ready(&names).await?;
    mode::stock_up(&host).await?;
    let workload = Arc::new(Workload::generate(&host.address.to_string())?);
    let tickets = Arc::new(Tickets::default());
    // Dropped, the host is killed: it would wait for those that are stuck.
    let measured = half::measure(&FANOUT, host.address, &workload, &tickets, arguments, ORDERS_PER_S);
    match company.and_then(|company| company.told) {
        None => measured.await,
        Some(told) => tokio::select! {
            measured = measured => measured,
            Err(error) = tell(Api::new(host.address), told) => Err(error),
        },
    }
}

/// Tells the consumer over and over what to do.
async fn tell(host: Api, what: &str) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / TOLD_PER_S);
    for number in 0_u64.. {
        ticks.tick().await;
        let id = format!("{what}-{number}");
        host.publish(&[event(&id, "com.example.hostile", &id, json!({ "do": what }))]).await?;
    }
    Ok(())
}

/// A folder with the five and their company.
fn consumers(company: Option<Company>, folder: &Path, places: &Places) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for entry in fs::read_dir(&places.guests)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    if let Some(Company { fixture, policy, .. }) = company {
        let fixtures = places.guests.with_file_name("fixtures");
        let copied = |name: String| {
            let from = fixtures.join(&name);
            fs::copy(&from, folder.join(&name)).with_context(|| format!("no {}", from.display()))
        };
        copied(format!("{fixture}.wasm"))?;
        match policy {
            Some(policy) => fs::write(folder.join(format!("{fixture}.toml")), policy)?,
            None => drop(copied(format!("{fixture}.toml"))?),
        }
    }
    Ok(folder.to_owned())
}
