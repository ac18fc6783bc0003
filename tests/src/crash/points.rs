//! The crash matrix: a host dies at every point where something becomes durable, and the next one goes on.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::books;
use super::goods::Dice;
use super::shops::{Ledger, Shops};
use crate::disk::{TAKE_WRITE_ERRORS, limit_files};
use crate::{Answer, Client, TestHost, eventually, guests, program};

const SHOPS: usize = 6;
/// Orders that the shops may place until a point is reached: more than any needs.
const ORDERS_MAX: u64 = 5_000;
/// Passings under load at which a host dies are drawn from so many.
const PASSINGS: u64 = 40;
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
const SIGKILL: i32 = 9;

/// The names of all points, as the program tells them.
///
/// # Panics
/// If it does not.
#[must_use]
pub fn all() -> Vec<String> {
    let run = program::finish(program::fanfare().arg("serve").env("FANFARE_FAULT", "?"));
    let (_, names) = run.stderr.split_once("points are ").unwrap_or_else(|| panic!("no points: {run:#?}"));
    names.split_whitespace().map(str::to_owned).collect()
}

/// Crashes a host at each of `points` in turn, on one store and under load, and checks the books at the end.
///
/// # Panics
/// If a point is not reached, or the books do not balance.
pub fn crash_at_each(points: &[String]) {
    let mut host = super::host();
    let shops = Shops::open(SHOPS);
    if points.iter().any(|point| point.starts_with("letters.")) {
        host.consumers.set_policy(PICKY, "start = \"beginning\"\n");
        host.consumers.put(PICKY, &guests::wasm("always-reject"));
    }
    for point in points {
        crash_at(&mut host, &shops, point);
    }
    host.die_at(None).start();
    let client = host.client();
    shops.serve_by(client.clone());
    let ledger = shops.close();
    if host.consumers.names().iter().any(|name| name == PICKY) {
        redrive(&host, &ledger);
    }
    books::settled(&client, SETTLED_WITHIN).unwrap_or_else(|left| panic!("{left}\n{}", host.log()));
    let faults = books::faults(&client, &ledger);
    assert!(faults.is_empty(), "after crashes at {points:?}:\n{}", faults.join("\n"));
    assert!(ledger.sales.values().any(|sale| sale.id.is_some()), "nothing was sold");
}

fn crash_at(host: &mut TestHost, shops: &Shops, point: &str) {
    prepare(host, point);
    host.die_at(Some(&format!("{point}:{}", passing(point))));
    let status = match host.start_or_end() {
        Err(status) => status,
        Ok(()) => {
            shops.serve_by(host.client());
            shops.allow(ORDERS_MAX);
            provoke(host, point);
            eventually(&format!("the host reaches {point}"), || host.ended_by_now().ok_or_else(|| "it runs on".into()))
        }
    };
    shops.hold();
    assert_eq!(status.signal(), Some(SIGKILL), "the host should die at {point}: {}", host.log());
}

/// Some points are passed once in the life of a host, others again and again.
fn passing(point: &str) -> u64 {
    let (of, step) = point.split_once('.').unwrap_or_default();
    match (of, step) {
        ("store" | "migration" | "close" | "version" | "compiled" | "letters", _) => 1,
        ("batch", "refused" | "reloaded") | ("log", "finishing" | "finished") => 1,
        ("log" | "message", _) | ("batch", "published" | "tasked") => 2,
        _ => {
            let seed = point.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            1 + Dice::new(seed).below(PASSINGS)
        }
    }
}

/// What must be so before the host starts that is to die at `point`.
fn prepare(host: &mut TestHost, point: &str) {
    if point.starts_with("compiled.") {
        // Gone already, where no host got as far as making it.
        drop(std::fs::remove_dir_all(host.data().join("compiled")));
    }
    if matches!(point, "batch.refused" | "batch.reloaded") {
        host.prepare_process(TAKE_WRITE_ERRORS);
    }
}

/// What makes a host that runs under load pass `point`, where load alone does not.
fn provoke(host: &mut TestHost, point: &str) {
    let (of, step) = point.split_once('.').unwrap_or_default();
    match (of, step) {
        ("close", _) => host.ask_to_end(),
        // Different from what was there for another point.
        ("version", _) => host.consumers.set_policy("lanes", &format!("[retry]\nbase = \"{}ms\"\n", step.len())),
        ("batch", "refused") => limit_files(host, "0"),
        ("batch", "reloaded") => {
            limit_files(host, "0");
            refuses(&host.client());
            limit_files(host, "unlimited");
        }
        ("letters", _) => retry_a_dead_letter(host),
        _ => {}
    }
}

fn refuses(client: &Client) {
    eventually("the host takes no orders", || match client.get("/readyz").status.as_u16() {
        503 => Ok(()),
        status => Err(format!("/readyz says {status}")),
    });
}

/// The name under which a consumer rejects everything, until it is replaced.
const PICKY: &str = "picky";

fn retry_a_dead_letter(host: &TestHost) {
    let client = host.client();
    client.wait_for_consumer(PICKY, |consumer| consumer["dead"].as_u64() > Some(0));
    // Its answer is lost with the host.
    drop(retry_all(&client));
}

fn retry_all(client: &Client) -> Result<Answer, ureq::Error> {
    client.try_post(&format!("/v1/consumers/{PICKY}/dead-letters/retry"), &[], b"{\"all\":true}")
}

/// With a plugin that takes them, each order's dead letter is done once.
fn redrive(host: &TestHost, ledger: &Ledger) {
    let client = host.client();
    client.wait_for_consumer(PICKY, |consumer| consumer["pending"] == consumer["dead"]);
    host.consumers.put(PICKY, &guests::wasm("reports-one"));
    client.wait_for_consumer(PICKY, |consumer| consumer["version"].to_string().contains("1.0.0"));
    assert_eq!(retry_all(&client).expect("an answer").status, 200);
    books::settled(&client, SETTLED_WITHIN).unwrap_or_else(|left| panic!("{left}\n{}", host.log()));
    let orders = client.orders().len();
    assert!(orders > 0 && orders <= ledger.sales.len(), "{orders} of {}", ledger.sales.len());
    assert_eq!(client.counter(PICKY, "handled"), i64::try_from(orders).expect("a count"));
}
