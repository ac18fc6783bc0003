//! Hosts that share one store on AWS, of which one after another is killed and started again while shops go on.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::goods::Dice;
use super::shops::Shops;
use super::{books, random::Report};
use crate::TestHost;

const SHOPS: usize = 8;
/// Orders that may be placed between two kills, so that a run stays bounded whatever the machine.
const ORDERS_A_KILL: u64 = 30;
const LIFE_MS_MAX: u64 = 1_500;

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub hosts: usize,
    pub kills: u32,
    /// The same seed draws the same moments; what the hosts are doing then is up to the machine.
    pub seed: u64,
}

/// A host on the store of `prefix` that does not run yet.
#[must_use]
pub fn host(prefix: &str) -> TestHost {
    let mut host = super::host();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    host
}

/// A name for a store that nobody else uses.
#[must_use]
pub fn prefix() -> String {
    // The standard library seeds it anew for each.
    format!("s-{:016x}", RandomState::new().hash_one(std::process::id()))
}

impl Run {
    /// Kills, checks, and tells.
    ///
    /// # Errors
    /// Every fault in the books.
    ///
    /// # Panics
    /// If a host does not start again.
    pub fn run(self, mut progress: impl FnMut(u32)) -> Result<Report, String> {
        let begin = Instant::now();
        let prefix = prefix();
        let mut hosts: Vec<TestHost> = (0..self.hosts).map(|_| host(&prefix)).collect();
        hosts.iter_mut().for_each(TestHost::start);
        let mut dice = Dice::new(self.seed);
        let mut draw = |below: usize| usize::try_from(dice.below(below as u64)).unwrap_or(0);
        let shops = Shops::open(SHOPS);
        for kill in 0..self.kills {
            let (serving, victim) = (draw(self.hosts), draw(self.hosts));
            shops.serve_by(hosts[serving].client());
            shops.allow(ORDERS_A_KILL);
            std::thread::sleep(Duration::from_millis(draw(LIFE_MS_MAX as usize) as u64));
            hosts[victim].kill();
            let started = hosts[victim].start_or_end();
            started.unwrap_or_else(|status| panic!("the host ended with {status}:\n{}", hosts[victim].log()));
            progress(kill + 1);
        }
        shops.serve_by(hosts[0].client());
        let ledger = shops.close();
        let patience = Duration::from_secs(600) + Duration::from_secs(2) * self.kills;
        let logs = || hosts.iter().map(TestHost::log).collect::<Vec<_>>().join("\n---\n");
        books::settled(&hosts[0].client(), patience).map_err(|left| format!("{left}\n{}", logs()))?;
        let faults = books::faults(&hosts[0].client(), &ledger);
        if !faults.is_empty() {
            return Err(format!("{}\n{}", faults.join("\n"), logs()));
        }
        Ok(Report {
            orders: ledger.sales.len(),
            answered: ledger.sales.values().filter(|sale| sale.id.is_some()).count(),
            killed_at_start: 0,
            unsynced: 0,
            lost: 0,
            took: begin.elapsed(),
        })
    }
}
