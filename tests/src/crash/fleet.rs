//! Hosts that share one store on AWS. One after another is killed and started again, each behind a network that fails, while
//! shops go on and fight over what is scarce.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::books;
use super::goods::{Dice, SCARCE};
use super::network::{Faults, Network};
use super::operator::{Acts, Operator};
use super::shops::{Ledger, Shops};
use crate::{Client, TestHost, eventually, orders, within};

const SHOPS: usize = 8;
/// Orders that may be placed between two kills, so that a run stays bounded whatever the machine.
const ORDERS_A_KILL: u64 = 30;
/// One order in so many is for what is scarce, and of that there is for less than every second one.
const SCARCE_EVERY: u64 = 3;
const SCARCE_A_KILL: u32 = 4;
const LIFE_MS_MAX: u64 = 1_500;
/// One host in so many is killed a second time before it serves, that long at most after its start.
const KILLED_AT_START_EVERY: u64 = 6;
const START_MS_MAX: u64 = 1_500;
/// Between two kills in so many, one host loses its network for a while: less than it takes to be held for dead.
const CUT_OFF_EVERY: u64 = 4;
const CUT_OFF: Duration = Duration::from_secs(2);
/// In one life, somebody does fewer than so many things to consumers.
const ACTS_A_LIFE: u64 = 9;
const SOLD_OUT_WITHIN: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub hosts: usize,
    pub kills: u32,
    /// Topic and queues are standard ones: messages come in any order, and some of them again.
    pub standard: bool,
    /// Somebody pauses, rebuilds, replaces and rolls back consumers meanwhile.
    pub operator: bool,
    /// The same seed draws the same moments and faults; what the hosts are doing then is up to the machine.
    pub seed: u64,
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    pub orders: usize,
    pub answered: usize,
    /// Orders for what was scarce, and units of it that there were.
    pub asked_for: i64,
    pub in_stock: u32,
    pub killed_at_start: u32,
    /// Hosts that ended by themselves and were started again: they could not start, or others took them for dead.
    pub ended: u32,
    /// What happened to requests between hosts and AWS.
    pub network: Faults,
    /// What was done to consumers meanwhile.
    pub acts: Acts,
    /// From the last kill until every consumer had done everything.
    pub settled_in: Duration,
    pub took: Duration,
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
        let mut fleet = Fleet::start(self);
        let in_stock = SCARCE_A_KILL * self.kills;
        let received = orders::received("scarce", SCARCE, in_stock);
        assert!(fleet.hosts[0].client().publish(&received).status.is_success());
        // What is sold before it has arrived is rejected.
        eventually("the scarce goods are in stock", || {
            match fleet.hosts[0].client().counter("inventory", &format!("stock/{SCARCE}")) {
                units if units == i64::from(in_stock) => Ok(()),
                units => Err(units.to_string()),
            }
        });
        let shops = Shops::open_with_scarce_goods(SHOPS, SCARCE_EVERY);
        shops.received(SCARCE, in_stock.into());
        fleet.networks.iter().for_each(Network::worsen);
        for kill in 0..self.kills {
            fleet.live_and_die(&shops);
            progress(kill + 1);
        }
        fleet.sell_out(&shops, in_stock.into());
        fleet.networks.iter().for_each(Network::clear);
        fleet.all_serve();
        shops.serve_by_all(fleet.serving());
        let ledger = shops.close();
        let calm = Instant::now();
        fleet.rest();
        let acts = fleet.check(&ledger, Duration::from_secs(600) + Duration::from_secs(2) * self.kills)?;
        Ok(Report {
            orders: ledger.sales.len(),
            answered: ledger.sales.values().filter(|sale| sale.id.is_some()).count(),
            asked_for: ledger.asked_for(SCARCE),
            in_stock,
            killed_at_start: fleet.killed_at_start,
            ended: fleet.ended,
            network: fleet.networks.iter().map(Network::faults).fold(Faults::default(), Faults::and),
            acts,
            settled_in: calm.elapsed(),
            took: begin.elapsed(),
        })
    }
}

struct Fleet {
    hosts: Vec<TestHost>,
    /// Of each host.
    networks: Vec<Network>,
    dice: Dice,
    operator: Option<Operator>,
    killed_at_start: u32,
    ended: u32,
}

impl Fleet {
    /// Hosts that serve, on a store of their own.
    fn start(run: Run) -> Self {
        let prefix = prefix();
        let mut hosts: Vec<TestHost> = (0..run.hosts).map(|_| host(&prefix)).collect();
        for host in hosts.iter_mut().filter(|_| run.standard) {
            host.variable("FANFARE_AWS_TOPIC", "standard");
        }
        let mut dice = Dice::new(run.seed);
        let operator = run.operator.then(|| Operator::of(&hosts, run.seed));
        let networks = hosts.iter_mut().map(|host| Network::before(host, dice.below(u64::MAX))).collect();
        hosts.iter_mut().for_each(TestHost::start);
        Self { hosts, networks, dice, operator, killed_at_start: 0, ended: 0 }
    }

    /// Some time under load, at the end of which one host dies, and comes back meanwhile.
    fn live_and_die(&mut self, shops: &Shops) {
        // One may still be on its way.
        eventually("all hosts but one serve", || {
            let serving = self.serving().len();
            if serving + 1 >= self.hosts.len() { Ok(()) } else { Err(format!("{serving} do")) }
        });
        shops.serve_by_all(self.serving());
        shops.allow(ORDERS_A_KILL);
        if self.dice.below(CUT_OFF_EVERY) == 0 {
            let host = self.draw_host();
            self.networks[host].fall(CUT_OFF);
        }
        self.operate();
        self.wait(LIFE_MS_MAX);
        let victim = self.draw_host();
        self.hosts[victim].kill();
        self.hosts[victim].spawn();
        if self.dice.below(KILLED_AT_START_EVERY) == 0 {
            self.wait(START_MS_MAX);
            self.hosts[victim].kill();
            self.hosts[victim].spawn();
            self.killed_at_start += 1;
        }
    }

    /// What somebody does to consumers, by way of one host or another.
    fn operate(&mut self) {
        let Some(mut operator) = self.operator.take() else { return };
        for _ in 0..self.dice.below(ACTS_A_LIFE) {
            let serving = self.serving();
            let drawn = usize::try_from(self.dice.below(serving.len() as u64)).unwrap_or(0);
            if let Some(client) = serving.get(drawn) {
                operator.act(&self.hosts, client);
            }
            self.wait(LIFE_MS_MAX / ACTS_A_LIFE);
        }
        self.operator = Some(operator);
    }

    /// Has what somebody began come to its end.
    fn rest(&mut self) {
        if let Some(mut operator) = self.operator.take() {
            let serving = self.one_that_serves();
            operator.rest(&self.hosts, &mut || serving.clone());
            self.operator = Some(operator);
        }
    }

    /// Lets the shops go on until more is asked for than there ever was.
    fn sell_out(&mut self, shops: &Shops, in_stock: i64) {
        let missing = u64::try_from(in_stock + 1 - shops.asked_for(SCARCE)).unwrap_or(0);
        shops.allow(missing * SCARCE_EVERY);
        within(SOLD_OUT_WITHIN, "what is scarce is asked for more often than it is there", || {
            shops.serve_by_all(self.serving());
            let asked_for = shops.asked_for(SCARCE);
            if asked_for > in_stock { Ok(()) } else { Err(format!("{asked_for} of {in_stock}")) }
        });
    }

    /// Waits until every consumer has done everything, and compares the books.
    fn check(&mut self, ledger: &Ledger, patience: Duration) -> Result<Acts, String> {
        let settled = books::settled_where(|| self.one_that_serves(), patience);
        let mut faults = match settled {
            Ok(()) => books::faults(&self.one_that_serves(), ledger),
            Err(left) => vec![left],
        };
        let client = self.one_that_serves();
        let acts = self.operator.take().map(|operator| operator.check(&client)).transpose();
        let acts = acts.unwrap_or_else(|fault| {
            faults.push(fault);
            None
        });
        let logs = || self.hosts.iter().map(TestHost::log).collect::<Vec<_>>().join("\n---\n");
        if faults.is_empty() { Ok(acts.unwrap_or_default()) } else { Err(format!("{}\n{}", faults.join("\n"), logs())) }
    }

    /// A machine that has too much to do may have one taken for dead until the end.
    fn one_that_serves(&mut self) -> Client {
        eventually("a host serves", || self.serving().into_iter().next().ok_or_else(|| "none does".to_owned()))
    }

    fn all_serve(&mut self) {
        eventually("all hosts serve", || {
            let serving = self.serving().len();
            if serving == self.hosts.len() { Ok(()) } else { Err(format!("{serving} do")) }
        });
    }

    /// Those that serve now. A host that ended by itself is started again, as whoever runs it would.
    fn serving(&mut self) -> Vec<Client> {
        let mut serving = Vec::new();
        for host in &mut self.hosts {
            if let Some(status) = host.ended_by_now() {
                let log = host.log();
                let why = log.lines().rev().find(|line| line.contains("ERROR") || line.starts_with("error"));
                eprintln!("a host ended with {status}: {}", why.or(log.lines().last()).unwrap_or_default());
                self.ended += 1;
                host.spawn();
            } else if host.listens() {
                serving.push(host.client());
            }
        }
        serving
    }

    fn draw_host(&mut self) -> usize {
        usize::try_from(self.dice.below(self.hosts.len() as u64)).unwrap_or(0)
    }

    /// The moment of a kill is a time, and nothing else.
    fn wait(&mut self, milliseconds_max: u64) {
        std::thread::sleep(Duration::from_millis(self.dice.below(milliseconds_max)));
    }
}
