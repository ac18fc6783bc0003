//! SIGKILL at any moment, again and again, on one store under load; with or without the page cache going too.

use std::slice;
use std::time::{Duration, Instant};

use super::goods::Dice;
use super::operator::{Acts, Operator};
use super::power::Disk;
use super::shops::Shops;
use super::{REBUILT, books, points};
use crate::TestHost;

const SHOPS: usize = 8;
/// Orders that may be placed between two kills, so that a run stays bounded whatever the machine.
const ORDERS_A_KILL: u64 = 60;
/// One host in so many is killed before it serves.
const KILLED_AT_START_EVERY: u64 = 6;
/// In one life of so many, states are begun to be made anew, beside what was begun before and has not ended.
const REBUILT_EVERY: u64 = 3;
/// In one life, somebody does fewer than so many things to consumers.
const ACTS_A_LIFE: u64 = 7;
const START_MS_MAX: u64 = 400;
const LIFE_MS_MAX: u64 = 500;

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub kills: u32,
    /// The same seed draws the same moments; what the host is doing then is up to the machine.
    pub seed: u64,
    /// What was not synced goes with each kill.
    pub power_loss: bool,
    /// Somebody pauses, rebuilds, replaces and rolls back consumers meanwhile.
    pub operator: bool,
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    pub orders: usize,
    pub answered: usize,
    pub killed_at_start: u32,
    /// Writes that were not synced when a host was killed, and how many of them the disk lost, in whole or in part.
    pub unsynced: u64,
    pub lost: u64,
    /// What was done to consumers meanwhile.
    pub acts: Acts,
    pub took: Duration,
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
        let mut host = super::host();
        let mut disk = self.power_loss.then(|| Disk::under(&mut host));
        let mut dice = Dice::new(self.seed);
        let mut operator = self.operator.then(|| Operator::of(slice::from_ref(&host), self.seed));
        let shops = Shops::open(SHOPS);
        let mut killed_at_start = 0;
        for kill in 0..self.kills {
            killed_at_start += u32::from(live_and_die(&mut host, &shops, &mut dice, operator.as_mut()));
            if let Some(disk) = &mut disk {
                disk.cut_power(dice.below(u64::MAX));
            }
            progress(kill + 1);
        }
        host.start();
        shops.serve_by(host.client());
        let ledger = shops.close();
        if let Some(operator) = &mut operator {
            operator.rest(slice::from_ref(&host), &mut || host.client());
        }
        points::retelling_ends(&host.client());
        let patience = Duration::from_secs(60) + Duration::from_secs(1) * self.kills;
        books::settled(&host.client(), patience).map_err(|left| format!("{left}\n{}", host.log()))?;
        let faults = books::faults(&host.client(), &ledger);
        if !faults.is_empty() {
            return Err(format!("{}\n{}", faults.join("\n"), host.log()));
        }
        let acts = operator.map(|operator| operator.check(&host.client())).transpose();
        let acts = acts.map_err(|faults| format!("{faults}\n{}", host.log()))?;
        let (unsynced, lost) = disk.as_ref().map_or((0, 0), Disk::tally);
        Ok(Report {
            orders: ledger.sales.len(),
            answered: ledger.sales.values().filter(|sale| sale.id.is_some()).count(),
            killed_at_start,
            unsynced,
            lost,
            acts: acts.unwrap_or_default(),
            took: begin.elapsed(),
        })
    }
}

/// One host from its start to its end; whether it ended before it served.
fn live_and_die(host: &mut TestHost, shops: &Shops, dice: &mut Dice, operator: Option<&mut Operator>) -> bool {
    let at_start = dice.below(KILLED_AT_START_EVERY) == 0;
    if at_start {
        host.spawn();
        wait(dice.below(START_MS_MAX));
    } else {
        host.start_or_end().unwrap_or_else(|status| panic!("the host ended with {status}:\n{}", host.log()));
        shops.serve_by(host.client());
        shops.allow(ORDERS_A_KILL);
        if let Some(operator) = operator {
            for _ in 0..dice.below(ACTS_A_LIFE) {
                operator.act(slice::from_ref(host), &host.client());
                wait(dice.below(LIFE_MS_MAX / ACTS_A_LIFE));
            }
        } else if dice.below(REBUILT_EVERY) == 0 {
            REBUILT.iter().for_each(|consumer| points::rebuild(&host.client(), consumer));
        }
        wait(5 + dice.below(LIFE_MS_MAX));
    }
    host.kill();
    at_start
}

/// The moment of a kill is a time, and nothing else.
fn wait(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
