//! A consumer that comes late gets what it missed from hosts that share a store: once, in order, whoever dies meanwhile.

use std::time::Duration;

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::{Answer, Client, TestHost, Value, guests, json, program, within};

/// The shipped analytics under another name: its state says whether it has seen exactly what analytics has.
const LATE: &str = "late";
/// Longer than a host has a backfill for itself after its death, and than hosts of a busy machine take for the rest.
const WITHIN: Duration = Duration::from_secs(300);

/// A host with analytics and inventory on the store of `prefix`.
fn host(prefix: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    ["analytics", "inventory"].iter().for_each(|name| host.consumers.add(name));
    host.start();
    host
}

fn add_late(host: &TestHost) {
    host.consumers.set_policy(LATE, &guests::side_file("analytics").expect("a side file"));
    host.consumers.put(LATE, &guests::wasm("analytics"));
    let client = host.client();
    within(WITHIN, "the late one runs", || {
        let late = client.look(&format!("/v1/consumers/{LATE}"))?;
        if late["state"] == "running" { Ok(()) } else { Err(late.to_string()) }
    });
}

fn ask(client: &Client, body: &Value) -> Answer {
    client.post(&format!("/v1/consumers/{LATE}/backfill"), body)
}

fn steer(client: &Client, step: &str) -> Answer {
    client.post(&format!("/v1/consumers/{LATE}/backfill/{step}"), &json!({}))
}

/// Begins a backfill: what the host says of it then, or soon after, where it could not say in time that it has begun.
#[track_caller]
fn begin(client: &Client, body: &Value) -> Value {
    let mut may_have_begun = false;
    within(WITHIN, "the backfill begins", || {
        let answer = ask(client, body);
        if answer.is_late() {
            may_have_begun = true;
            return Err(format!("{answer:#?}"));
        }
        match answer.status.as_u16() {
            409 if may_have_begun => client.look(&format!("/v1/consumers/{LATE}/backfill")),
            _ => Ok(answer.expect(202).json()),
        }
    })
}

/// How the backfill stands, once it stands like this.
#[track_caller]
fn stands(client: &Client, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    stands_under_load(client, 0, what, wanted)
}

/// As [`stands`], while so many orders are placed, one at a time.
#[track_caller]
fn stands_under_load(client: &Client, mut orders: u32, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    within(WITHIN, what, || {
        if orders > 0 {
            orders -= 1;
            let _ = client.placed_at_last(&order(&[("TEA", 1)]));
        }
        let report = client.look(&format!("/v1/consumers/{LATE}/backfill"))?;
        if wanted(&report) { Ok(report) } else { Err(report.to_string()) }
    })
}

#[track_caller]
fn is_done(client: &Client, orders: u32) {
    let report = stands_under_load(client, orders, "the backfill is done", |report| report["state"] == "done");
    assert_eq!(report["delivered"], report["events"], "{report:#}");
}

/// Waits until nothing is pending; then the late one holds what the one that was always there does.
#[track_caller]
fn holds_the_same(client: &Client) {
    within(WITHIN, "every consumer has done all its deliveries", || {
        let consumers = client.look("/v1/consumers")?["consumers"].take();
        let idle = |consumer: &Value| consumer["pending"] == 0 && consumer["dead"] == 0;
        let all_idle = consumers.as_array().is_some_and(|consumers| consumers.iter().all(idle));
        if all_idle { Ok(()) } else { Err(format!("{consumers:#?}")) }
    });
    within(WITHIN, "both have seen the same", || {
        let [late, always] = [LATE, "analytics"].map(|name| client.counters(name, ""));
        if late == always { Ok(()) } else { Err(format!("{late:#?}\n{always:#?}")) }
    });
    assert_eq!(client.entries(LATE, ""), client.entries("analytics", ""));
}

/// `fanfare check` finds nothing, whatever is under way.
#[track_caller]
fn agrees_with_itself(client: &Client) {
    within(WITHIN, "all of the store is looked through", || {
        let checked = program::run(["check", "--url", client.base()]);
        assert!(!checked.stdout.contains("something is wrong"), "{checked:#?}");
        let is_whole = checked.status.success() && checked.stdout.contains("backfills");
        if is_whole { Ok(()) } else { Err(format!("{checked:#?}")) }
    });
}

#[test]
fn a_late_consumer_whose_host_is_killed_in_its_backfill_under_load_ends_like_one_that_was_always_there() {
    let prefix = prefix();
    let (mut walker, other) = (host(&prefix), host(&prefix));
    walker.client().stock(&["TEA"], 40);
    let history: Vec<String> = (0..60).map(|_| walker.client().placed_at_last(&order(&[("TEA", 1)]))).collect();
    [&walker, &other].iter().for_each(|host| add_late(host));
    // Who is asked begins with it.
    let started = begin(&walker.client(), &json!({"from": "beginning", "rate": "8/s"}));
    assert!(started["events"].as_u64() >= Some(60), "{started:#}");
    // Their history is not through yet, so these wait for it.
    let cancelled: Vec<&String> = history.iter().rev().take(5).collect();
    cancelled.iter().for_each(|id| drop(walker.client().cancel(id, "too late")));
    let in_the_middle = |report: &Value| report["delivered"].as_u64() >= Some(20);
    let report = stands_under_load(&walker.client(), 50, "it is in the middle", in_the_middle);
    assert_eq!(report["state"], "running", "{report:#}");
    agrees_with_itself(&other.client());
    walker.kill();

    let client = other.client();
    is_done(&client, 50);
    walker.start();
    holds_the_same(&client);
    agrees_with_itself(&client);
}

#[test]
fn a_backfill_is_counted_paused_by_one_host_and_resumed_by_another_and_begins_again_after_a_cancel() {
    let prefix = prefix();
    let hosts = [host(&prefix), host(&prefix)];
    let clients = [&hosts[0], &hosts[1]].map(TestHost::client);
    let ids: Vec<String> = (0..20).map(|_| clients[0].placed_at_last(&order(&[("TEA", 1)]))).collect();
    // Rejected, since there is no tea: each order is two events.
    for id in &ids {
        clients[0].wait_for_status(id, "rejected");
    }
    hosts.iter().for_each(add_late);
    let counted = ask(&clients[1], &json!({"from": "beginning", "dry_run": true})).expect(200).json();
    assert_eq!(counted, json!({"dry_run": true, "events": 40}));
    let started = begin(&clients[0], &json!({"from": "beginning", "rate": "2/s"}));
    assert_eq!((&started["state"], &started["events"]), (&json!("running"), &json!(40)));
    let again = ask(&clients[1], &json!({"from": "beginning"})).problem(409);
    assert!(again["type"].to_string().contains("backfill"), "{again:#}");
    stands(&clients[1], "some are delivered", |report| report["delivered"].as_u64() >= Some(3));
    assert_eq!(steer(&clients[1], "pause").expect(200).json()["state"], "paused");
    let shown = clients[0].consumer(LATE).expect("it is there")["backfill"].clone();
    assert_eq!((&shown["state"], &shown["events"]), (&json!("paused"), &json!(40)), "{shown:#}");
    assert_eq!(steer(&clients[0], "resume").expect(200).json()["state"], "running");
    assert_eq!(steer(&clients[1], "cancel").expect(200).json()["state"], "cancelled");
    assert_eq!(steer(&clients[0], "resume").problem(409)["type"], "/problems/no-backfill-under-way");

    // Another host may be in the middle of the last delivery of the one that was cancelled.
    let delivered = within(WITHIN, "what was delivered is known", || {
        let (report, left) = (
            stands(&clients[0], "it is cancelled", |report| report["state"] == "cancelled"),
            ask(&clients[0], &json!({"from": "beginning", "dry_run": true})).expect(200).json(),
        );
        let delivered = report["delivered"].as_u64().unwrap_or_default();
        if left["events"] == 40 - delivered { Ok(delivered) } else { Err(format!("{report:#} {left:#}")) }
    });
    assert!(delivered < 40, "it was cancelled in the middle");
    let _ = begin(&clients[1], &json!({"from": "beginning"}));
    let ended = stands(&clients[0], "the second is done", |report| report["state"] == "done");
    // What another host had begun for the first one is the first one's.
    assert!(ended["delivered"].as_u64() <= ended["events"].as_u64(), "{ended:#}");
    holds_the_same(&clients[1]);
    assert_eq!(clients[0].counter(LATE, "status/placed"), 20);
}
