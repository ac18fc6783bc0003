//! `fanfare demo`: a host of its own, real orders over HTTP, and what each consumer did with them.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use clap::Args;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::client::Client;
use super::print::{Output, line};
use super::serve::{HostFlags, usage};
use crate::config::{Config, Transport, from_env};
use crate::{app, telemetry};

mod catalogue;
mod customers;
mod gather;
mod plan;
mod random;
mod report;
mod story;

use plan::Plan;
use story::Story;

/// Enough to fill a demo of minutes; more is a benchmark, and `cargo xtask bench` measures better.
const ORDERS_MAX: u64 = 100_000;

#[derive(Args, Debug)]
pub struct Demo {
    #[command(flatten)]
    flags: HostFlags,
    /// Orders to place.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=ORDERS_MAX))]
    orders: u64,
    /// The same seed makes the same customers, orders and stock.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop when everything was shown, instead of serving on.
    #[arg(long)]
    exit: bool,
}

impl Demo {
    pub fn run(mut self, output: &Output) -> Result<(), Failure> {
        let folder = self.own_folder()?;
        // The demo's own lines are the log that a person wants to see.
        if self.flags.log_level.is_none() && from_env("FANFARE_LOG_LEVEL").is_none() {
            self.flags.log_level = Some("warn".to_owned());
        }
        let config = self.flags.config()?;
        config.has_consumers_dir().map_err(usage)?;
        telemetry::start_log(&config.log).map_err(|error| Failure::Failed(error.to_string()))?;
        let orders = usize::try_from(self.orders).unwrap_or(usize::MAX);
        let show = Show { plan: Plan::make(self.seed, orders), setting: Setting::of(&config), exit: self.exit };

        let (stop, exit) = (CancellationToken::new(), self.exit);
        let (announce, address) = mpsc::channel();
        let outcome = thread::scope(|scope| {
            let (show, stop) = (&show, &stop);
            let narrator = scope.spawn(move || {
                // No address: the host did not start, and says itself why.
                let outcome = address.recv().map_or(Ok(()), |address| show.narrate(address, output));
                if exit || outcome.is_err() {
                    stop.cancel();
                }
                outcome
            });
            let served = app::run(config, move |address| _ = announce.send(address), stop.clone());
            let told = narrator.join().unwrap_or_else(|_| Err(Failure::Failed("the demo broke down".to_owned())));
            served?;
            // Stopped from outside: whatever the story lacks, nobody waits for it.
            if stop.is_cancelled() { told } else { Ok(()) }
        });
        drop(folder);
        outcome
    }

    /// Where no data directory is named: a new one, removed at the end.
    fn own_folder(&mut self) -> Result<Option<Folder>, Failure> {
        if self.flags.data_dir.is_some() || from_env("FANFARE_DATA_DIR").is_some() {
            return Ok(None);
        }
        let path = std::env::temp_dir().join(format!("fanfare-demo-{}", uuid::Uuid::now_v7().simple()));
        let refused = |error| Failure::Failed(format!("{}: {error}", path.display()));
        std::fs::create_dir(&path).map_err(refused)?;
        self.flags.data_dir = Some(path.join("data").display().to_string());
        Ok(Some(Folder(path)))
    }
}

/// A folder that goes when the demo does.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the demo's folder stays behind");
        }
    }
}

/// What of the host's settings the demo tells of.
struct Setting {
    data_dir: PathBuf,
    consumers_dir: PathBuf,
    mail_folder: Option<PathBuf>,
}

impl Setting {
    fn of(config: &Config) -> Self {
        let mail_folder = match &config.mail.transport {
            Transport::Folder(folder) => Some(folder.clone()),
            Transport::Smtp(_) | Transport::Off => None,
        };
        Self { data_dir: config.data_dir.clone(), consumers_dir: config.consumers_dir.clone(), mail_folder }
    }
}

struct Show {
    plan: Plan,
    setting: Setting,
    exit: bool,
}

impl Show {
    fn narrate(&self, address: SocketAddr, output: &Output) -> Result<(), Failure> {
        let url = format!("http://{address}");
        let client = Client::new(&url)?;
        output.say(&format!(
            "Fanfare demo: {} orders, seed {}\n  host       {url}\n  data       {}\n  consumers  {}\n",
            self.plan.orders.len(),
            self.plan.seed,
            self.setting.data_dir.display(),
            self.setting.consumers_dir.display(),
        ));
        let story = Story { client: &client, plan: &self.plan, output, progress: std::io::stderr().is_terminal() };
        let placing = story.tell(&self.setting.consumers_dir)?;
        let told = gather::gather(&client, &placing, self.setting.mail_folder.as_deref())?;
        output.show(&told, report::text);
        if !self.exit {
            output.say(&next_steps(&url, &told, &self.setting.data_dir));
        }
        report::verdict(&told)
    }
}

fn next_steps(url: &str, told: &Value, data_dir: &Path) -> String {
    let order = super::print::text(told, "/example_order");
    format!(
        "\nStill serving on {url}. Look around, and stop with Ctrl-C:\n  \
           curl {url}/v1/orders/{order}\n  \
           curl '{url}/v1/orders?status=rejected&limit=5'\n  \
           curl {url}/v1/consumers\n  \
           curl '{url}/v1/consumers/inventory/state?prefix=stock/'\n  \
           curl {url}/metrics\n  \
           fanfare --url {url} records export lines | head\n  \
           sqlite3 {}/fanfare.sqlite .tables",
        data_dir.display()
    )
}

/// Says what goes on, to people only.
fn say(output: &Output, what: &str, detail: &str) {
    if !output.is_json() {
        line(&format!("  {what:<12} {detail}"));
    }
}
