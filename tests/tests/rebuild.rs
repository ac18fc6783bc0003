//! A consumer's state is made anew from the journal, while it goes on with the old one: whatever happens meanwhile, it ends
//! with the state of one that was always there, and nothing else happens twice.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use fanfare_tests::crash::shops::Shops;
use fanfare_tests::crash::{self, books};
use fanfare_tests::load::Load;
use fanfare_tests::orders::order;
use fanfare_tests::program::{self, Run};
use fanfare_tests::{Client, TestHost, Value, eventually, guests, json, within};

const SETTLED_WITHIN: Duration = Duration::from_secs(120);

fn rebuild(client: &Client, consumer: &str) {
    let asked = json!({"from": "beginning", "rebuild": true, "rate": "100000/s"});
    let answer = client.post(&format!("/v1/consumers/{consumer}/backfill"), &asked);
    // One from before the host was killed may be under way.
    assert!(matches!(answer.status.as_u16(), 202 | 409), "{answer:#?}");
}

fn report(client: &Client, consumer: &str) -> Value {
    client.get(&format!("/v1/consumers/{consumer}/backfill")).expect(200).json()
}

#[track_caller]
fn wait_for_state(client: &Client, consumer: &str, state: &str) -> Value {
    within(SETTLED_WITHIN, &format!("the backfill of {consumer} is {state}"), || {
        let report = report(client, consumer);
        if report["state"] == state { Ok(report) } else { Err(report.to_string()) }
    })
}

#[test]
fn consumers_rebuilt_under_load_and_killed_again_and_again_keep_their_books() {
    const KILLS: usize = 6;
    let mut host = crash::host();
    let shops = Shops::open(4);
    host.start();
    shops.serve_by(host.client());
    shops.allow(300);
    let placed = |host: &TestHost| host.client().counter("analytics", "status/placed");
    eventually("there is history", || if placed(&host) >= 250 { Ok(()) } else { Err(placed(&host).to_string()) });
    for _ in 0..KILLS {
        let client = host.client();
        crash::REBUILT.iter().for_each(|consumer| rebuild(&client, consumer));
        shops.allow(60);
        eventually("one is in its middle", || {
            let reports: Vec<_> = crash::REBUILT.iter().map(|consumer| report(&client, consumer)).collect();
            let is_in_the_middle =
                |report: &Value| report["delivered"].as_u64() >= Some(50) && report["state"] == "running";
            let begun = reports.iter().any(is_in_the_middle) || reports.iter().all(|report| report["state"] == "done");
            if begun { Ok(()) } else { Err(format!("{reports:#?}")) }
        });
        host.kill();
        host.start();
        shops.serve_by(host.client());
    }
    let client = host.client();
    crash::REBUILT.iter().for_each(|consumer| rebuild(&client, consumer));
    shops.allow(150);
    for consumer in crash::REBUILT {
        let report = wait_for_state(&client, consumer, "done");
        assert_eq!((&report["rebuild"], &report["delivered"]), (&json!(true), &report["events"]), "{report:#}");
    }
    let ledger = shops.close();
    books::settled(&client, SETTLED_WITHIN).unwrap_or_else(|left| panic!("{left}\n{}", host.log()));
    let faults = books::faults(&client, &ledger);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let checked = program::run(["check", "--url", client.base()]);
    assert_eq!(checked.code(), Some(0), "{checked:#?}");
}

#[test]
fn a_rebuilt_state_is_that_of_a_new_consumer_and_no_row_comes_twice() {
    let host = TestHost::with(&["analytics", "inventory"]);
    let client = host.client();
    client.stock(&["TEA"], 50);
    let load = Load::begin(&client, 2);
    let placed = || client.counter("analytics", "status/placed");
    eventually("there is history", || if placed() >= 100 { Ok(()) } else { Err(placed().to_string()) });
    let asked = ["consumers", "backfill", "analytics", "--from", "beginning", "--rebuild"];
    let counted = fanfare(&host, &[&asked[..], &["--dry-run"]].concat()).succeeded().json();
    assert!(counted["events"].as_u64() >= Some(100), "{counted}");
    let _ = fanfare(&host, &[&asked[..], &["--rate", "100000/s", "--detach"]].concat()).succeeded();
    eventually("some of it is done beside live events", || match report(&client, "analytics") {
        report if report["delivered"].as_u64() > Some(0) => Ok(()),
        report => Err(report.to_string()),
    });
    // Shops that order without end may be quicker than what is handled one by one.
    let _ = load.end();
    let report = wait_for_state(&client, "analytics", "done");
    assert_eq!(report["effects"], "state-only");
    client.wait_until_idle();
    host.consumers
        .set_policy("new", &format!("start = \"beginning\"\n{}", guests::side_file("analytics").expect("one")));
    host.consumers.put("new", &guests::wasm("analytics"));
    client.wait_for_consumer("new", |consumer| consumer["state"] == "running");
    let rows = |dataset: &str| client.get(&format!("/v1/records/{dataset}")).expect(200).lines().len();
    let before = rows("orders");
    client.wait_until_idle();
    assert_eq!(client.counters("new", ""), client.counters("analytics", ""));
    assert_eq!(client.entries("new", ""), client.entries("analytics", ""));
    let orders = client.orders().len();
    assert!(before >= orders && rows("orders") == 2 * orders, "a row for each order, by analytics and by the new one");
}

#[test]
fn a_rebuild_that_a_plugin_fails_waits_for_a_better_one() {
    const NAME: &str = "counts";
    let host = TestHost::with(&[]);
    let client = host.client();
    host.consumers.put(NAME, &guests::wasm("reports-one"));
    client.wait_for_consumer(NAME, |consumer| consumer["state"] == "running");
    for _ in 0..3 {
        let _ = client.placed(&order(&[("TEA", 1)]));
    }
    client.wait_until_idle();
    host.consumers.put(NAME, &guests::wasm("always-reject"));
    let version = client.consumer(NAME).expect("it is there")["version"].clone();
    client.wait_for_consumer(NAME, |consumer| consumer["version"] != version && consumer["state"] == "running");

    let asked = ["consumers", "backfill", NAME, "--from", "beginning", "--rebuild", "--url", client.base()];
    let mut waiting =
        program::fanfare().args(asked).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut said = String::new();
    BufReader::new(waiting.stderr.take().expect("its errors")).read_line(&mut said).expect("a line");
    assert!(said.contains("paused") && said.contains("ended reject: "), "whoever waits is told why: {said}");
    let paused = wait_for_state(&client, NAME, "paused");
    assert_eq!(paused["events"], 3);
    assert_eq!((&paused["failure"]["outcome"], &paused["failure"]["position"]), (&json!("reject"), &json!(1)));
    let status = program::run(["consumers", "backfill", NAME, "--status", "--url", client.base()]).succeeded();
    assert!(status.stdout.starts_with("rebuild paused: 0 of 3 events"), "{status:#?}");
    assert!(status.stdout.contains("ended reject: ") && status.stdout.contains("Resume it"), "{status:#?}");
    let consumer = client.consumer(NAME).expect("it is there");
    assert_eq!((&consumer["dead"], client.counter(NAME, "handled")), (&json!(0), 3), "the state in use is what it was");

    host.consumers.put(NAME, &guests::wasm("reports-two"));
    client.wait_for_consumer(NAME, |consumer| consumer["version"].to_string().contains("2.0.0"));
    let _ = fanfare(&host, &["consumers", "backfill", NAME, "--resume"]).succeeded();
    let done = wait_for_state(&client, NAME, "done");
    assert_eq!((&done["delivered"], done.get("failure")), (&json!(3), None));
    assert!(waiting.wait().expect("an end").success());
    assert_eq!(client.counter(NAME, "handled"), 3);
}

#[test]
fn what_goes_with_no_rebuild_is_refused() {
    let host = TestHost::with(&["analytics"]);
    let client = host.client();
    let ask = |body: Value| client.post("/v1/consumers/analytics/backfill", &body).problem(422)["errors"][0].clone();
    assert_eq!(ask(json!({"from": "beginning", "rebuild": true, "effects": "all"}))["field"], "effects");
    let filter = json!({"from": "beginning", "rebuild": true, "filter": {"order": {"currency": ["EUR"]}}});
    assert_eq!(ask(filter)["field"], "filter");
    // A state that is made of the newest events alone would take the place of the whole one.
    let late = ["consumers", "backfill", "analytics", "--from", "2026-11-01T00:00:00Z", "--rebuild"];
    let refused = fanfare(&host, &late);
    assert_eq!(refused.code(), Some(3), "{refused:#?}");
    assert!(refused.stderr.contains("must be \\\"beginning\\\" with a rebuild"), "{refused:#?}");
    let asked = ["consumers", "backfill", "analytics", "--from", "beginning", "--rebuild"];
    assert_eq!(fanfare(&host, &[&asked[..], &["--filter", "{}"]].concat()).code(), Some(2));
    assert_eq!(fanfare(&host, &[&asked[..], &["--effects", "all"]].concat()).code(), Some(3));
    let report = fanfare(&host, &asked).succeeded().json();
    assert_eq!((&report["state"], &report["events"]), (&json!("done"), &json!(0)), "a new state of nothing");
}

fn fanfare(host: &TestHost, arguments: &[&str]) -> Run {
    let client = host.client();
    program::run(arguments.iter().copied().chain(["--json", "--url", client.base()]))
}
