//! What an order takes at AWS, counted on the way there.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fanfare_tests::aws::{self, Bill, FaultProxy};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::guests::SHIPPED;
use fanfare_tests::orders::referenced;
use fanfare_tests::{TestHost, json, within};

const SERVICES: [&str; 3] = ["SNS", "SQS", "DYNAMODB"];
const ORDERS: usize = 120;
const CUSTOMERS: usize = 97;
const SKUS: [&str; 6] = ["CUP", "JAR", "MUG", "POT", "TEA", "TIN"];

/// A host with the five consumers that ship, whose every request to AWS goes by a proxy that counts it.
struct Counted {
    host: TestHost,
    proxies: BTreeMap<&'static str, FaultProxy>,
}

impl Counted {
    fn start() -> Self {
        let mut host = TestHost::new();
        SHIPPED.iter().for_each(|name| host.consumers.add(name));
        host.argument("--backend").argument("aws");
        host.variable("FANFARE_AWS_PREFIX", &prefix()).variable("FANFARE_AWS_PROVISION", "true");
        let mut proxies = BTreeMap::new();
        for service in SERVICES {
            let proxy = FaultProxy::before(&aws::endpoint(service));
            host.variable(&format!("AWS_ENDPOINT_URL_{service}"), &proxy.url());
            proxies.insert(service, proxy);
        }
        host.start();
        Self { host, proxies }
    }

    /// What was asked for since the last time.
    fn bills(&self) -> BTreeMap<&'static str, Bill> {
        self.proxies.iter().map(|(service, proxy)| (*service, proxy.take_bill())).collect()
    }

    /// Places the orders of these numbers by `clients` at once, and returns when all is done and every e-mail is out.
    fn sell(&self, orders: Range<usize>, clients: usize) {
        let next = AtomicUsize::new(orders.start);
        std::thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| {
                    let client = self.host.client();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= orders.end {
                            return;
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
        within(Duration::from_secs(300), "all e-mails are out", || {
            let count = fs::read_dir(&mails).map_or(0, Iterator::count);
            if count >= 3 * orders.end { Ok(()) } else { Err(format!("{count} of {}", 3 * orders.end)) }
        });
        self.host.client().wait_until_idle();
    }

    /// Seconds of CPU that the host has used.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.host.pid())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
    }
}

fn shown(bills: &BTreeMap<&str, Bill>, orders: f64) -> String {
    let mut lines = Vec::new();
    for (service, bill) in bills {
        let total = bill.total();
        lines.push(format!(
            "{service}: {:.2} requests, {:.1} write units",
            total.requests as f64 / orders,
            total.write_units / orders
        ));
        for (operation, tally) in &bill.0 {
            lines.push(format!("  {operation}: {:.2}", tally.requests as f64 / orders));
        }
    }
    lines.join("\n")
}

#[test]
fn many_orders_share_requests() {
    let counted = Counted::start();
    counted.host.client().stock(&SKUS, 1_000_000);
    counted.sell(0..8, 8);
    drop(counted.bills());
    let (began, cpu) = (Instant::now(), counted.cpu());
    counted.sell(8..8 + ORDERS, 32);
    let (took, cpu) = (began.elapsed(), counted.cpu() - cpu);
    let bills = counted.bills();
    let each = ORDERS as f64;
    eprintln!("{ORDERS} orders in {took:.1?}, {:.1} ms of CPU each\n{}", cpu * 1e3 / each, shown(&bills, each));
    // One transaction to place an order and one for each of its nine deliveries, three events and nine messages, if none shared.
    let requests = |service: &str, operation: &str| bills[service].requests(operation) as f64 / each;
    assert!(requests("DYNAMODB", "TransactWriteItems") < 9.0, "{}", shown(&bills, each));
    assert!(requests("SNS", "PublishBatch") < 2.0, "{}", shown(&bills, each));
    assert!(requests("SQS", "DeleteMessageBatch") < 6.0, "{}", shown(&bills, each));
}
