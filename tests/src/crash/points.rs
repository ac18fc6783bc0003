//! The crash matrix: a host dies at every point where something becomes durable, and the next one goes on.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::books;
use super::goods::Dice;
use super::shops::{Ledger, Shops};
use crate::disk::{TAKE_WRITE_ERRORS, limit_files};
use crate::program::Run;
use crate::{Answer, Client, TestHost, Value, eventually, guests, json, program, within};

const SHOPS: usize = 6;
/// Orders that the shops may place until a point is reached: more than any needs.
const ORDERS_MAX: u64 = 5_000;
/// Passings under load at which a host dies are drawn from so many.
const PASSINGS: u64 = 40;
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
pub(super) const SIGKILL: i32 = 9;

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
    if points.iter().any(|point| point.starts_with("forget.")) {
        host.consumers.put(PASSING, &guests::wasm("reports-one"));
    }
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
    retelling_ends(&client);
    tend(&host, points);
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
            shops.allow(orders_max(point));
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
        ("store" | "migration" | "close" | "version" | "compiled" | "kept" | "letters", _) => 1,
        ("batch", "refused" | "reloaded") | ("log", "finishing" | "finished") => 1,
        ("pause" | "forget" | "backup", _) => 1,
        ("retention", _) => 2,
        ("backfill", "started" | "steered") | ("rebuild", "looked" | "ended" | "swapped" | "handed-over") => 1,
        ("log" | "message", _) | ("batch", "published" | "tasked") => 2,
        _ => {
            let seed = point.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            1 + Dice::new(seed).below(PASSINGS)
        }
    }
}

/// Some points come with time, or once there is a lull.
fn orders_max(point: &str) -> u64 {
    match point.split_once('.') {
        Some(("retention" | "rebuild", _)) => 300,
        _ => ORDERS_MAX,
    }
}

/// What must be so before the host starts that is to die at `point`.
fn prepare(host: &mut TestHost, point: &str) {
    if point.starts_with("compiled.") {
        // Gone already, where no host got as far as making it.
        drop(std::fs::remove_dir_all(host.data().join("compiled")));
    }
    if point.starts_with("kept.") {
        drop(std::fs::remove_dir_all(host.data().join("versions")));
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
        ("version", "recorded") => host.consumers.put("lanes", &guests::variant("lanes", 1)),
        // Different from what was there for another point.
        ("version", _) => host.consumers.set_policy("lanes", &format!("[retry]\nbase = \"{}ms\"\n", step.len())),
        ("batch", "refused") => limit_files(host, "0"),
        ("batch", "reloaded") => {
            limit_files(host, "0");
            refuses(&host.client());
            limit_files(host, "unlimited");
        }
        ("letters", _) => retry_a_dead_letter(host),
        ("backfill" | "rebuild", _) => retell(host, step),
        ("pause", _) => post(&host.client(), "lanes/pause", &json!({"reason": "to die"})),
        ("forget", _) => forget(host),
        ("backup", _) => drop(backup(host, "lost.sqlite")),
        _ => {}
    }
}

fn refuses(client: &Client) {
    eventually("the host takes no orders", || match client.get("/readyz").status.as_u16() {
        503 => Ok(()),
        status => Err(format!("/readyz says {status}")),
    });
}

/// Rebuilds every consumer, and goes on to something else where that alone does not pass `step`.
fn retell(host: &TestHost, step: &str) {
    let client = host.client();
    eventually("there is history", || match client.try_get("/v1/consumers/lanes") {
        // What was begun by a host before this one may have brought it to the point already.
        Err(_) => Ok(()),
        Ok(answer) if answer.json()["done"].as_u64() > Some(100) => Ok(()),
        Ok(answer) => Err(answer.text),
    });
    super::REBUILT.iter().for_each(|consumer| rebuild(&client, consumer));
    if step == "steered" {
        post(&client, "lanes/backfill/cancel", &json!({}));
    }
}

/// Tells a consumer something; the answer may be lost with the host.
fn post(client: &Client, path: &str, body: &Value) {
    drop(client.try_post(&format!("/v1/consumers/{path}"), &[], body.to_string().as_bytes()));
}

/// The name of a consumer that goes for good.
const PASSING: &str = "passing";

/// Takes the consumer away, as soon as it has a state, and has the host forget it. The answer may be lost.
fn forget(host: &TestHost) {
    let client = host.client();
    if host.consumers.names().iter().any(|name| name == PASSING) {
        client.wait_for_consumer(PASSING, |consumer| consumer["done"].as_u64() > Some(10));
        host.consumers.remove(PASSING);
    }
    client.wait_for_consumer(PASSING, |consumer| consumer["state"] == "removed");
    drop(client.try_delete(&format!("/v1/consumers/{PASSING}")));
}

fn backup(host: &TestHost, file: &str) -> Run {
    program::finish(program::fanfare().args(["backup", "--url", host.client().base()]).arg(host.folder().join(file)))
}

/// What was begun when a host died is brought to its end, and leaves nothing behind.
fn tend(host: &TestHost, points: &[String]) {
    let has = |of: &str| points.iter().any(|point| point.starts_with(of));
    let client = host.client();
    if has("pause.") {
        client.wait_for_consumer("lanes", |consumer| consumer["paused"]["reason"] == "to die");
        post(&client, "lanes/resume", &json!({}));
    }
    if has("forget.") && client.consumer(PASSING).is_some() {
        forget(host);
        assert_eq!(client.consumer(PASSING), None);
    }
    if has("backup.") {
        let left =
            std::fs::read_dir(host.data()).expect("a data folder").map(|entry| entry.expect("an entry").file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("backup-")).collect();
        assert_eq!(left, [""; 0], "copies that nobody fetched");
        let _ = backup(host, "kept.sqlite").succeeded();
    }
}

/// As [`crash_at_each`], with a host that lets go of what is old: what is left must agree with itself.
///
/// # Panics
/// If a point is not reached, or something disagrees.
pub fn crash_while_ageing(points: &[String]) {
    // Shops ask again with the same key once the next host serves, which must know it then.
    const SETTINGS: &str = "[retention]\nevents = \"200ms\"\norders = \"15s\"\nidempotency = \"15s\"\n\
                            messages = \"200ms\"\nattempts = \"200ms\"\nrecords = \"200ms\"\n";
    let mut host = super::host();
    let file = host.folder().join("fanfare.toml");
    std::fs::write(&file, SETTINGS).expect("a settings file");
    host.argument("--config").argument(file);
    let shops = Shops::open(SHOPS);
    for point in points {
        crash_at(&mut host, &shops, point);
    }
    host.die_at(None).start();
    let client = host.client();
    shops.serve_by(client.clone());
    let ledger = shops.close();
    books::settled(&client, SETTLED_WITHIN).unwrap_or_else(|left| panic!("{left}\n{}", host.log()));
    let checked = program::run(["check", "--url", client.base()]);
    assert_eq!(checked.code(), Some(0), "{checked:#?}");
    assert!(client.orders().len() < ledger.sales.len(), "nothing went");
    let mut units: BTreeMap<String, i64> = client.counters("inventory", "stock/").into_iter().collect();
    for entry in client.entries("inventory", "taken/") {
        let taken = entry["value"].as_str().expect("text");
        let taken: BTreeMap<String, i64> = serde_json::from_str(taken).expect("units by SKU");
        taken.into_iter().for_each(|(sku, taken)| *units.entry(format!("stock/{sku}")).or_default() += taken);
    }
    let received = ledger.received.iter().map(|(sku, received)| (format!("stock/{sku}"), *received)).collect();
    assert_eq!(units, received, "what is in stock, with what orders hold");
}

/// Begins to make a consumer's state anew, unless that is under way already.
pub fn rebuild(client: &Client, consumer: &str) {
    let asked = json!({"from": "beginning", "rebuild": true, "rate": "100000/s"});
    post(client, &format!("{consumer}/backfill"), &asked);
}

/// Waits until no rebuild is under way, for as long as they go on.
///
/// # Panics
/// If one stands still.
pub fn retelling_ends(client: &Client) {
    let under_way = || {
        let rebuilds = client.consumers().into_iter().filter_map(|consumer| consumer.get("backfill").cloned());
        rebuilds.collect::<Vec<_>>()
    };
    let mut left = under_way();
    while !left.is_empty() {
        left = within(SETTLED_WITHIN, "a rebuild goes on, or has ended", || {
            let now = under_way();
            if now == left { Err(format!("{left:#?}")) } else { Ok(now) }
        });
    }
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
