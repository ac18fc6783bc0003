//! What orders take at AWS, counted on the way there, and what that costs.

mod prices;

pub use prices::{Line, PRICED, Prices, kept, reference};

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::aws::{self, Bill, FaultProxy, Tally};
use crate::crash::fleet::prefix;
use crate::guests::SHIPPED;
use crate::orders::referenced;
use crate::{TestHost, json, within};

const SERVICES: [&str; 3] = ["SNS", "SQS", "DYNAMODB"];
const CUSTOMERS: usize = 97;
const SKUS: [&str; 6] = ["CUP", "JAR", "MUG", "POT", "TEA", "TIN"];

/// E-mails that a happy order brings about: placed, confirmed, shipped.
const MAILS: usize = 3;

/// How long nothing may be written until everything is taken to be done.
const QUIET: Duration = Duration::from_secs(1);

/// How long orders may take until they are through.
const THROUGH_MAX: Duration = Duration::from_secs(300);

/// How orders come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub clients: usize,
    /// Orders a second over all clients; as fast as they are answered without.
    pub rate: Option<f64>,
}

/// A host with the five consumers that ship, whose every request to AWS goes by a proxy that counts it.
pub struct Counted {
    host: TestHost,
    proxies: BTreeMap<&'static str, FaultProxy>,
    sold: usize,
}

/// What was asked of AWS over a while, and what the host's own CPU did.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    pub orders: usize,
    pub took: Duration,
    /// Seconds of CPU of the host.
    pub cpu: f64,
    pub bills: BTreeMap<&'static str, Bill>,
}

impl Counted {
    /// Starts it, on a store of its own, with goods in stock.
    ///
    /// # Panics
    /// Where no emulators run.
    #[must_use]
    pub fn start() -> Self {
        let mut host = TestHost::new();
        SHIPPED.iter().for_each(|name| host.consumers.add(name));
        host.argument("--backend").argument("aws");
        host.variable("FANFARE_AWS_PREFIX", &prefix()).variable("FANFARE_AWS_PROVISION", "true");
        let mut proxies = BTreeMap::new();
        for service in SERVICES {
            let proxy = FaultProxy::before(&aws::endpoint(service));
            proxy.meter();
            host.variable(&format!("AWS_ENDPOINT_URL_{service}"), &proxy.url());
            proxies.insert(service, proxy);
        }
        host.start();
        host.client().stock(&SKUS, 1_000_000_000);
        Self { host, proxies, sold: 0 }
    }

    /// What a host asks for that has nothing to do.
    #[must_use]
    pub fn idle(&self, period: Duration) -> Spent {
        self.spend(0, || thread::sleep(period))
    }

    /// Places so many orders, waits until all is done and every e-mail is out, and says what that took.
    pub fn sell(&mut self, orders: usize, pace: Pace) -> Spent {
        let numbers = self.sold..self.sold + orders;
        self.sold = numbers.end;
        self.spend(orders, || self.place(numbers, pace))
    }

    fn spend(&self, orders: usize, what: impl FnOnce()) -> Spent {
        drop(self.bills());
        let (began, cpu) = (Instant::now(), self.cpu());
        what();
        let (took, cpu) = (began.elapsed(), self.cpu() - cpu);
        Spent { orders, took, cpu, bills: self.bills() }
    }

    fn bills(&self) -> BTreeMap<&'static str, Bill> {
        self.proxies.iter().map(|(service, proxy)| (*service, proxy.take_bill())).collect()
    }

    fn place(&self, numbers: Range<usize>, pace: Pace) {
        let (begin, next) = (Instant::now(), AtomicUsize::new(numbers.start));
        thread::scope(|scope| {
            for _ in 0..pace.clients {
                scope.spawn(|| {
                    let client = self.host.client();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= numbers.end {
                            return;
                        }
                        if let Some(rate) = pace.rate {
                            let due = Duration::from_secs_f64((number - numbers.start) as f64 / rate);
                            thread::sleep(due.saturating_sub(begin.elapsed()));
                        }
                        let line = |n: usize| (SKUS[(number + n) % SKUS.len()], 1 + n as u32);
                        let mut order = referenced(&format!("R-{number}"), &[line(0), line(1), line(2)]);
                        order["customer"]["id"] = json!(format!("C-{}", number % CUSTOMERS));
                        let _ = client.place_with_key(&format!("K-{number}"), &order).expect(201);
                    }
                });
            }
        });
        let mails = self.host.data().join("mail");
        within(THROUGH_MAX, "all e-mails are out", || {
            let count = fs::read_dir(&mails).map_or(0, Iterator::count);
            if count >= MAILS * numbers.end { Ok(()) } else { Err(format!("{count} of {}", MAILS * numbers.end)) }
        });
        // To ask the host would be on the bill.
        let writes = || self.proxies["DYNAMODB"].bill().requests("TransactWriteItems");
        let (mut last, mut since) = (writes(), Instant::now());
        within(THROUGH_MAX, "nothing is written any more", || {
            let now = writes();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() >= QUIET { Ok(()) } else { Err(format!("{now} transactions")) }
        });
    }

    /// Whether every consumer has done all its deliveries.
    pub fn check(&self) {
        self.host.client().wait_until_idle();
    }

    /// Seconds of CPU that the host has used.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.host.pid())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
    }
}

impl Spent {
    /// Requests of an operation, an order.
    #[must_use]
    pub fn requests(&self, service: &str, operation: &str) -> f64 {
        self.bills[service].requests(operation) as f64 / self.orders as f64
    }

    /// Of a service, whole.
    #[must_use]
    pub fn total(&self, service: &str) -> Tally {
        self.bills.get(service).map(Bill::total).unwrap_or_default()
    }

    /// Without what the host would have asked for in the same time with nothing to do.
    #[must_use]
    pub fn write_units_without(&self, idle: &Self) -> f64 {
        let standing = idle.total("DYNAMODB").write_units / idle.took.as_secs_f64() * self.took.as_secs_f64();
        (self.total("DYNAMODB").write_units - standing) / self.orders as f64
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of a host with nothing to do, by the second.
        let (each, of) = if self.orders == 0 { (self.took.as_secs_f64(), "s") } else { (self.orders as f64, "order") };
        writeln!(f, "{} orders in {:.1?}, {:.2} ms of CPU/{of}", self.orders, self.took, self.cpu * 1e3 / each)?;
        let mut line = |name: &str, tally: Tally| {
            let Tally { requests, read_units, write_units } = tally;
            write!(f, "  {name}: {:.2} requests/{of}", requests as f64 / each)?;
            if read_units + write_units > 0.0 {
                write!(f, ", {:.1} read units, {:.1} write units", read_units / each, write_units / each)?;
            }
            writeln!(f)
        };
        for (service, bill) in &self.bills {
            line(service, bill.total())?;
            for (operation, tally) in &bill.0 {
                line(&format!("  {operation}"), *tally)?;
            }
        }
        Ok(())
    }
}
