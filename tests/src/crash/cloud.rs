//! The crash matrix on AWS: a host dies at a point where something becomes durable there, and another one goes on.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::books;
use super::fleet::{host, prefix};
use super::points::SIGKILL;
use super::shops::Shops;
use crate::orders::event;
use crate::{Client, TestHost, Value, json, within};

const SHOPS: usize = 4;
/// Orders that the first host may be sent, and the one that follows it.
const ORDERS_BEFORE: u64 = 60;
const ORDERS_AFTER: u64 = 5;
/// Orders of which `hoarder` keeps a value: more than one transaction holds, so that to let go of all is an intent.
const HOARDED: i64 = 110;
/// Of a host under load, the passing at which it dies: not the first, so that others are under way.
const PASSING: u64 = 4;
/// Another host waits until it takes one for dead, and SQS until it shows again what a dead one took.
const SETTLED_WITHIN: Duration = Duration::from_secs(240);

/// Kills a host at `point` on a store of its own, lets another follow, and compares the books.
///
/// # Panics
/// If the point is not reached, or the books do not balance.
pub fn crash_at(point: &str) {
    let prefix = prefix();
    let hosts = [host(&prefix), host(&prefix)];
    hosts.iter().for_each(|host| host.consumers.add("hoarder"));
    let [mut first, mut second] = hosts;
    let is_intent = point.starts_with("intent.");
    first.die_at(Some(&format!("{point}:{}", if is_intent { 1 } else { PASSING })));
    first.start();
    let shops = Shops::open(SHOPS);
    shops.serve_by(first.client());
    if is_intent {
        let hoarded = u64::try_from(HOARDED).unwrap_or_default();
        shops.allow(hoarded);
        let client = first.client();
        within(SETTLED_WITHIN, "hoarder has a value of each order", || match client.counter("hoarder", "handled") {
            HOARDED.. => Ok(()),
            handled => Err(format!("{handled}")),
        });
        let headers = [("Content-Type", "application/cloudevents+json")];
        // The answer may be lost with the host.
        drop(client.try_post("/v1/events", &headers, let_go().to_string().as_bytes()));
    } else {
        shops.allow(ORDERS_BEFORE);
    }
    dies(&mut first, point);
    second.start();
    shops.serve_by(second.client());
    shops.allow(ORDERS_AFTER);
    let client = second.client();
    if is_intent {
        // A shop may be told of it twice, and the host knows it for one.
        assert!(client.publish(&let_go()).status.is_success());
    }
    let ledger = shops.close();
    let log = || format!("{}\n---\n{}", first.log(), second.log());
    books::settled(&client, SETTLED_WITHIN).unwrap_or_else(|left| panic!("{point}: {left}\n{}", log()));
    let mut faults = books::faults(&client, &ledger);
    faults.extend(hoard(&client, is_intent));
    assert!(faults.is_empty(), "after a crash at {point}:\n{}\n{}", faults.join("\n"), log());
}

fn let_go() -> Value {
    event("let-go", "com.example.let-go", "all", json!({}))
}

fn dies(host: &mut TestHost, point: &str) {
    let status = within(SETTLED_WITHIN, &format!("the host reaches {point}"), || {
        host.ended_by_now().ok_or_else(|| format!("it runs on; {}", host.log()))
    });
    assert_eq!(status.signal(), Some(SIGKILL), "the host should die at {point}: {}", host.log());
}

/// `hoarder` handled every event once, and kept a value of each order or, of those that were there, let go of all.
fn hoard(client: &Client, let_go: bool) -> Vec<String> {
    let orders = i64::try_from(client.orders().len()).unwrap_or(i64::MAX);
    let handled = client.counter("hoarder", "handled");
    let kept = i64::try_from(client.entries("hoarder", "kept/").len()).unwrap_or(i64::MAX);
    let (events, kept_max) = if let_go { (orders + 1, orders - HOARDED) } else { (orders, orders) };
    let mut faults = Vec::new();
    if handled != events {
        faults.push(format!("hoarder handled {handled} of {events} events"));
    }
    if kept > kept_max || (!let_go && kept < orders) {
        faults.push(format!("hoarder keeps {kept} values of {orders} orders"));
    }
    faults
}

/// Kills a host at each of `points`, two at a time: most of it is waiting.
///
/// # Panics
/// As [`crash_at`].
pub fn crash_at_each(points: &[String]) {
    assert!(!points.is_empty(), "the program names no such point");
    for points in points.chunks(2) {
        std::thread::scope(|scope| {
            let crashes: Vec<_> = points.iter().map(|point| scope.spawn(move || crash_at(point))).collect();
            for crash in crashes {
                crash.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
            }
        });
    }
}
