//! A consumer that comes late gets what it missed: once, in order, behind live traffic, whatever happens meanwhile.

use fanfare_tests::load::Load;
use fanfare_tests::orders::order;
use fanfare_tests::program::{self, Run};
use fanfare_tests::{Answer, Client, TestHost, Value, eventually, guests, json};

/// The shipped analytics under another name: its state says whether it has seen exactly what analytics has.
const LATE: &str = "late";

fn add_late(host: &TestHost) {
    host.consumers.set_policy(LATE, &guests::side_file("analytics").expect("a side file"));
    host.consumers.put(LATE, &guests::wasm("analytics"));
    host.client().wait_for_consumer(LATE, |consumer| consumer["state"] == "running");
}

fn start(client: &Client, body: &Value) -> Value {
    client.post(&format!("/v1/consumers/{LATE}/backfill"), body).expect(202).json()
}

fn backfill(client: &Client) -> Value {
    client.get(&format!("/v1/consumers/{LATE}/backfill")).expect(200).json()
}

fn steer(client: &Client, step: &str) -> Answer {
    client.post(&format!("/v1/consumers/{LATE}/backfill/{step}"), &json!({}))
}

#[track_caller]
fn wait_for_state(client: &Client, state: &str) -> Value {
    eventually(&format!("the backfill is {state}"), || {
        let report = backfill(client);
        if report["state"] == state { Ok(report) } else { Err(report.to_string()) }
    })
}

#[track_caller]
fn assert_the_same_state(client: &Client) {
    client.wait_until_idle();
    assert_eq!(client.counters(LATE, ""), client.counters("analytics", ""));
    assert_eq!(client.entries(LATE, ""), client.entries("analytics", ""));
}

#[test]
fn a_late_consumer_that_is_killed_in_its_backfill_under_load_ends_like_one_that_was_always_there() {
    let mut host = TestHost::with(&["analytics", "inventory"]);
    host.client().stock(&["TEA"], 150);
    let load = Load::begin(&host.client(), 4);
    let placed = |host: &TestHost| host.client().counter("analytics", "status/placed");
    eventually("there is history", || if placed(&host) >= 300 { Ok(()) } else { Err(placed(&host).to_string()) });
    add_late(&host);
    start(&host.client(), &json!({"from": "beginning", "rate": "300/s"}));
    eventually("it is in the middle", || {
        let report = backfill(&host.client());
        if report["delivered"].as_u64() >= Some(100) { Ok(()) } else { Err(report.to_string()) }
    });
    assert_eq!(backfill(&host.client())["state"], "running");
    host.kill();
    drop(load);

    host.start();
    let client = host.client();
    let load = Load::begin(&client, 2);
    let report = wait_for_state(&client, "done");
    let _ = load.end();
    assert_eq!(report["delivered"], report["events"], "{report:#}");
    assert_the_same_state(&client);
}

#[test]
fn who_waits_for_the_end_of_a_backfill_is_told_that_it_goes_on_where_the_host_ends() {
    let mut host = TestHost::with(&["analytics"]);
    let client = host.client();
    for _ in 0..5 {
        client.placed(&order(&[("TEA", 1)]));
    }
    add_late(&host);
    let url = client.base().to_owned();
    let waits = std::thread::spawn(move || {
        program::run(["consumers", "backfill", LATE, "--from", "beginning", "--rate", "1/s", "--url", &url])
    });
    eventually("it runs", || match client.get(&format!("/v1/consumers/{LATE}/backfill")).status.as_u16() {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    host.kill();
    let run = waits.join().expect("a run");
    assert_eq!(run.code(), Some(4), "{run:#?}");
    assert!(run.stderr.contains(&format!("`fanfare consumers backfill {LATE} --status`")), "{run:#?}");
    host.start();
    let _ = wait_for_state(&host.client(), "done");
}

#[test]
fn a_backfill_is_counted_started_paused_resumed_and_cancelled() {
    let host = TestHost::with(&["analytics"]);
    let client = host.client();
    for _ in 0..40 {
        client.placed(&order(&[("TEA", 1)]));
    }
    add_late(&host);
    let _ = client.get(&format!("/v1/consumers/{LATE}/backfill")).problem(404);
    assert_eq!(steer(&client, "pause").problem(409)["type"], "/problems/no-backfill-under-way");
    let dry_run =
        fanfare(&host, &["consumers", "backfill", LATE, "--from", "beginning", "--dry-run"]).succeeded().json();
    assert_eq!(dry_run, json!({"dry_run": true, "events": 40}));

    let slow = ["consumers", "backfill", LATE, "--from", "beginning", "--rate", "1/s", "--detach"];
    let started = fanfare(&host, &slow).succeeded().json();
    assert_eq!((&started["state"], &started["events"]), (&json!("running"), &json!(40)));
    assert_eq!(client.consumer(LATE).expect("it is there")["backfill"]["events"], 40);
    assert_eq!(fanfare(&host, &slow).code(), Some(3), "there is one already");
    let paused = fanfare(&host, &["consumers", "backfill", LATE, "--pause"]).succeeded().json();
    assert_eq!(paused["state"], "paused");
    assert_eq!(steer(&client, "resume").expect(200).json()["state"], "running");
    let cancelled = fanfare(&host, &["consumers", "backfill", LATE, "--cancel"]).succeeded().json();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(client.consumer(LATE).expect("it is there").get("backfill"), None);

    let mut other = order(&[("SALT", 1)]);
    other["currency"] = json!("EUR");
    let _ = client.placed(&other);
    let none = r#"{"order": {"currency": ["EUR"]}}"#;
    let euros = ["consumers", "backfill", LATE, "--from", "beginning", "--filter", none];
    let filtered = fanfare(&host, &euros).succeeded().json();
    assert_eq!((&filtered["state"], &filtered["events"]), (&json!("done"), &json!(0)), "what is live is no history");
    let rest = fanfare(&host, &["consumers", "backfill", LATE, "--from", "beginning"]).succeeded().json();
    assert_eq!((&rest["state"], &rest["delivered"]), (&json!("done"), &rest["events"]));
    assert_the_same_state(&client);
    let again = fanfare(&host, &["consumers", "backfill", LATE, "--from", "beginning"]).succeeded().json();
    assert_eq!((&again["state"], &again["events"]), (&json!("done"), &json!(0)), "nothing comes twice");
    let status = program::run(["consumers", "backfill", LATE, "--status", "--url", client.base()]).succeeded();
    assert!(status.stdout.contains("done: 0 of 0 events"), "{status:#?}");
}

#[test]
fn state_only_fills_the_state_and_sends_nothing() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    host.consumers.add("bare");
    client.wait_for_consumer("bare", |consumer| consumer["state"] == "running");
    let run = fanfare(&host, &["consumers", "backfill", "bare", "--from", "beginning", "--effects", "state-only"]);
    let report = run.succeeded().json();
    assert_eq!((&report["delivered"], &report["dropped"]), (&json!(1), &json!(4)), "{report:#}");
    client.wait_until_idle();
    assert_eq!(client.order(&id)["status"], "placed");
    assert_eq!(client.messages(), Vec::<Value>::new());
    assert_eq!(client.entries("bare", "seen").len(), 1);
}

#[test]
fn a_bad_backfill_is_refused_by_its_field() {
    let host = TestHost::with(&["analytics"]);
    let client = host.client();
    let ask = |body: Value| client.post("/v1/consumers/analytics/backfill", &body).problem(422)["errors"][0].clone();
    assert_eq!(ask(json!({}))["field"], "from");
    assert_eq!(ask(json!({"from": "yesterday"}))["field"], "from");
    assert_eq!(ask(json!({"from": "beginning", "rate": "fast"}))["field"], "rate");
    assert_eq!(ask(json!({"from": "beginning", "effects": "some"}))["field"], "effects");
    assert_eq!(ask(json!({"from": "beginning", "filter": {"order": 1}}))["field"], "filter");
    assert_eq!(ask(json!({"from": "beginning", "since": 1}))["field"], "since");
    let _ = client.post("/v1/consumers/nobody/backfill", &json!({"from": "beginning"})).problem(404);
    assert_eq!(fanfare(&host, &["consumers", "backfill", "analytics"]).code(), Some(2));
    assert_eq!(fanfare(&host, &["consumers", "backfill", "analytics", "--pause", "--rate", "1/s"]).code(), Some(2));
    assert_eq!(fanfare(&host, &["consumers", "backfill", "nobody", "--from", "beginning"]).code(), Some(3));
}

fn fanfare(host: &TestHost, arguments: &[&str]) -> Run {
    let client = host.client();
    program::run(arguments.iter().copied().chain(["--json", "--url", client.base()]))
}
