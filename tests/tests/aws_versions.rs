//! Hosts that share a store run the version that was decided on, wherever its file came from, and show where they differ.

use std::thread;

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, guests, json, program};

const ROLLOUT: &str = "[rollout]\npercent = 90\nmin_events = 5\nmax_failure_rate = 0.05\n";

fn host(prefix: &str, guest: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    host.consumers.put("reports", &guests::wasm(guest));
    host.start();
    host
}

fn upgrade(host: &TestHost) {
    host.consumers.put("reports", &guests::wasm("reports-two"));
    runs(&host.client(), "2.0.0");
}

/// The consumer, once a host runs this version.
fn runs(client: &Client, version: &str) -> Value {
    client.wait_for_consumer("reports", |reports| reports["version"] == version)
}

/// The consumer, once a host knows that all run this version.
fn all_run(client: &Client, version: &str, hosts: usize) {
    client.wait_for_consumer("reports", |reports| {
        let on = reports["hosts"].as_array().cloned().unwrap_or_default();
        reports["state"] == "running" && on.len() == hosts && on.iter().all(|host| host["version"] == version)
    });
}

fn step(client: &Client, step: &str) {
    let _ = client.post(&format!("/v1/consumers/reports/{step}"), &json!({})).expect(200);
}

#[test]
fn a_rollback_and_a_promotion_hold_on_hosts_that_never_had_the_file() {
    let prefix = prefix();
    let old = host(&prefix, "reports-one");
    upgrade(&old);
    // It never had the file of 1.0.0.
    let mut new = host(&prefix, "reports-two");
    all_run(&new.client(), "2.0.0", 2);

    step(&old.client(), "rollback");
    let shown = runs(&new.client(), "1.0.0");
    assert_eq!(shown["candidate"]["state"], "rolled-back", "{shown:#}");
    [&old, &new].iter().for_each(|host| all_run(&host.client(), "1.0.0", 2));
    new.kill();
    new.start();
    assert_eq!(runs(&new.client(), "1.0.0")["candidate"]["state"], "rolled-back");

    step(&new.client(), "promote");
    runs(&old.client(), "2.0.0");
    let client = new.client();
    let ids: Vec<_> = (0..5).map(|_| client.placed(&order(&[("TEA", 1)]))).collect();
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "by-version/2"), i64::try_from(ids.len()).expect("a count"));
    let checked = program::run(["check", "--json", "--rate", "10000/s", "--url", client.base()]).succeeded().json();
    let rows = &checked["rows"];
    assert_eq!(
        (&checked["count"], &rows["orders"], &rows["kept versions"]),
        (&0.into(), &5.into(), &2.into()),
        "{checked:#}"
    );
}

#[test]
fn hosts_that_differ_are_mixed_until_somebody_decides_for_all() {
    let prefix = prefix();
    let (changed, mut other) = (host(&prefix, "reports-one"), host(&prefix, "reports-one"));
    all_run(&other.client(), "1.0.0", 2);
    upgrade(&changed);
    for client in [changed.client(), other.client()] {
        let shown = client.wait_for_consumer("reports", |reports| reports["state"] == "mixed");
        let mut versions: Vec<_> = shown["hosts"].as_array().expect("hosts").iter().map(|it| &it["version"]).collect();
        versions.sort_by_key(|version| version.to_string());
        assert_eq!(versions, ["1.0.0", "2.0.0"], "{shown:#}");
        assert!(shown["reason"].to_string().contains("hosts run different versions: 1.0.0"), "{shown:#}");
    }
    // Nobody decided: a host that starts again has what is in its directory, and does not have it judged for all.
    other.consumers.set_policy("reports", ROLLOUT);
    other.kill();
    other.start();
    assert_eq!(runs(&other.client(), "1.0.0")["candidate"], Value::Null);
    other.consumers.set_policy("reports", "");

    step(&changed.client(), "promote");
    let shown = runs(&other.client(), "2.0.0");
    assert!(shown["reason"].to_string().contains("was decided on for all hosts"), "{shown:#}");
    // Its directory still has the file of before, and that is no news.
    other.kill();
    other.start();
    runs(&other.client(), "2.0.0");
    // Another file is: somebody put it there.
    other.consumers.put("reports", &guests::variant("reports-one", 1));
    runs(&other.client(), "1.0.0");
}

#[test]
fn the_verdict_on_a_canary_holds_for_all_hosts() {
    let prefix = prefix();
    let (trying, other) = (host(&prefix, "reports-one"), host(&prefix, "reports-one"));
    trying.consumers.set_policy("reports", ROLLOUT);
    trying.consumers.put("reports", &guests::wasm("reports-two"));
    let client = trying.client();
    client.wait_for_consumer("reports", |consumer| consumer["candidate"]["state"] == "canary");
    let mut placed = 0;
    while runs_now(&client) != "2.0.0" {
        assert!(placed < 400, "not judged: {:#}", client.consumer("reports").unwrap_or_default());
        client.placed(&order(&[("TEA", 1)]));
        placed += 1;
    }
    runs(&other.client(), "2.0.0");
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "handled"), placed);
}

fn runs_now(client: &Client) -> Value {
    client.consumer("reports").map(|mut reports| reports["version"].take()).unwrap_or_default()
}

/// Waits until a host handles nothing, since another one's version has laid the state out otherwise.
fn stands_aside(host: &TestHost) {
    host.client().wait_for_consumer("reports", |reports| {
        reports["reason"].to_string().contains("its state is of layout 2 by now, and the version here of layout 1")
    });
}

#[test]
fn a_host_whose_version_lays_the_state_out_otherwise_stands_aside_until_it_has_the_new_one() {
    let prefix = prefix();
    let (relaid, mut other) = (host(&prefix, "reports-one"), host(&prefix, "reports-one"));
    all_run(&other.client(), "1.0.0", 2);
    let by_version = |version: &str| relaid.client().counter("reports", &format!("by-version/{version}"));
    let place = |host: &TestHost, count: usize| {
        let client = host.client();
        for _ in 0..count {
            client.placed(&order(&[("TEA", 1)]));
        }
    };
    place(&relaid, 5);
    let before = thread::scope(|scope| {
        let load = scope.spawn(|| place(&other, 60));
        relaid.consumers.put("reports", &guests::wasm("reports-relaid"));
        runs(&relaid.client(), "4.0.0");
        stands_aside(&other);
        let before = by_version("1");
        load.join().expect("orders are taken");
        before
    });
    place(&other, 5);
    relaid.client().wait_until_idle();
    assert_eq!((by_version("1"), by_version("4")), (before, 70 - before), "none by the former version since");

    // Its file was there before.
    other.kill();
    other.start();
    stands_aside(&other);
    place(&other, 3);
    relaid.client().wait_until_idle();
    assert_eq!((by_version("1"), by_version("4")), (before, 73 - before));
    let checked = program::run(["check", "--json", "--rate", "10000/s", "--url", other.client().base()]);
    assert_eq!(checked.succeeded().json()["count"], 0);

    other.consumers.put("reports", &guests::wasm("reports-relaid"));
    all_run(&relaid.client(), "4.0.0", 2);
    drop(relaid);
    let client = other.client();
    let handled = client.counter("reports", "handled");
    place(&other, 3);
    client.wait_until_idle();
    assert_eq!((handled, client.counter("reports", "handled")), (73, 76));
    assert_eq!(client.consumer("reports").expect("it is known")["reason"], Value::Null);
}

#[test]
fn hosts_that_stand_aside_take_over_by_a_promotion_where_nobody_else_is_left() {
    let prefix = prefix();
    let (relaid, other) = (host(&prefix, "reports-one"), host(&prefix, "reports-one"));
    all_run(&other.client(), "1.0.0", 2);
    relaid.consumers.put("reports", &guests::wasm("reports-relaid"));
    runs(&relaid.client(), "4.0.0");
    stands_aside(&other);
    drop(relaid);
    let client = other.client();
    client.wait_for_consumer("reports", |reports| reports["hosts"].as_array().is_none_or(|hosts| hosts.len() == 1));
    client.placed(&order(&[("TEA", 1)]));
    step(&client, "promote");
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "by-version/1"), 1);
    assert_eq!(client.consumer("reports").expect("it is known")["reason"], Value::Null);
}
