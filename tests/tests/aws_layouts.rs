//! Hosts that share a store go back together to a version that lays its state out otherwise, with the state from before.

use std::os::unix::process::ExitStatusExt as _;
use std::thread;
use std::time::Duration;

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, guests, json, program, within};

/// Longer than it takes until a host is held for dead, and nothing of it can be on its way.
const WITHIN: Duration = Duration::from_secs(240);

/// Orders that are placed meanwhile.
const BESIDE: usize = 120;

fn host(prefix: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    host
}

/// Once these hosts run this version, and are on their way nowhere.
fn run(hosts: &[&TestHost], version: &str) {
    for host in hosts {
        within(WITHIN, &format!("it is {version}"), || match host.client().look("/v1/consumers/reports")? {
            shown if shown["version"] == version && shown["way_back"].is_null() => Ok(()),
            other => Err(other.to_string()),
        });
    }
}

fn place(client: &Client, orders: usize) {
    (0..orders).for_each(|_| drop(client.placed(&order(&[("TEA", 1)]))));
    client.wait_until_idle();
}

/// Places orders one after another.
fn beside(client: &Client) -> impl FnOnce() + Send + 'static {
    let client = client.clone();
    move || (0..BESIDE).for_each(|_| drop(client.placed(&order(&[("TEA", 1)]))))
}

/// Events that each version handled, by the state as it is.
fn by_version(client: &Client) -> [i64; 2] {
    ["by-version/1", "by-version/4"].map(|key| client.counter("reports", key))
}

fn post(host: &TestHost, step: &str) -> Value {
    host.client().post(&format!("/v1/consumers/reports/{step}"), &json!({})).expect(202).json()
}

fn all_of(client: &Client) -> Value {
    client.get("/v1/consumers/reports").expect(200).json()
}

fn count(orders: usize) -> i64 {
    i64::try_from(orders).expect("a count")
}

#[test]
fn hosts_go_back_across_layouts_and_on_again_under_load_whoever_dies_on_the_way() {
    let prefix = prefix();
    let (mut one, other) = (host(&prefix), host(&prefix));
    place(&other.client(), 20);
    one.consumers.put("reports", &guests::wasm("reports-relaid"));
    run(&[&one], "4.0.0");
    other.consumers.put("reports", &guests::wasm("reports-relaid"));
    run(&[&other], "4.0.0");
    place(&other.client(), 60);
    assert_eq!(by_version(&other.client()), [20, 60]);
    let kept = &all_of(&other.client())["former_state"];
    assert_eq!((&kept["state_version"], kept["hash"].is_string()), (&json!(1), true), "{kept:#}");

    let client = other.client();
    let load = thread::spawn(beside(&client));
    let shown = post(&one, "rollback");
    assert_eq!((&shown["way_back"]["version"], &shown["version"]), (&json!("1.0.0"), &json!("4.0.0")), "{shown:#}");
    within(WITHIN, "it has begun", || match one.client().look("/v1/consumers/reports/backfill")? {
        report if report["delivered"].as_u64() > Some(0) => Ok(()),
        report => Err(report.to_string()),
    });
    one.kill();
    // Whoever shares the store goes on with it.
    run(&[&other], "1.0.0");
    load.join().expect("orders are taken");
    let placed = BESIDE + 80;
    client.wait_until_idle();
    assert_eq!(by_version(&client), [count(placed), 0]);
    one.start();
    run(&[&one], "1.0.0");
    assert_eq!(all_of(&one.client())["former_state"]["state_version"], 2);

    let load = thread::spawn(beside(&client));
    let _ = post(&other, "promote");
    run(&[&one, &other], "4.0.0");
    load.join().expect("orders are taken");
    let placed = placed + BESIDE;
    client.wait_until_idle();
    assert_eq!(by_version(&client), [20, count(placed) - 20]);
    let report = client.get("/v1/consumers/reports/backfill").expect(200).json();
    assert_eq!((&report["state"], report["back_to"].is_string()), (&json!("done"), true), "{report:#}");
    let history = client.get("/v1/consumers/reports/versions").expect(200).json();
    let outcomes: Vec<_> = history["versions"].as_array().expect("rows").iter().map(|row| &row["outcome"]).collect();
    assert_eq!(outcomes[..2], ["promoted", "rolled-back"], "{history:#}");
    let checked = program::run(["check", "--json", "--rate", "10000/s", "--url", client.base()]);
    assert_eq!(checked.succeeded().json()["count"], 0);
}

#[test]
fn a_host_that_is_killed_in_the_middle_of_a_copy_or_of_a_hand_over_ends_with_one_state_and_all_events_in_it() {
    let mut host = host(&prefix());
    place(&host.client(), 30);
    host.kill();
    host.die_at(Some("layout.copied:1")).start();
    host.consumers.put("reports", &guests::wasm("reports-relaid"));
    assert_eq!(host.ended().signal(), Some(9), "{}", host.log());
    host.die_at(Some("rebuild.handed-over:1")).start();
    run(&[&host], "4.0.0");
    place(&host.client(), 5);
    assert_eq!(by_version(&host.client()), [30, 5]);
    assert_eq!(all_of(&host.client())["former_state"]["state_version"], 1);

    let _ = post(&host, "rollback");
    assert_eq!(host.ended().signal(), Some(9), "{}", host.log());
    host.die_at(None).start();
    run(&[&host], "1.0.0");
    place(&host.client(), 5);
    assert_eq!(by_version(&host.client()), [40, 0]);
    assert_eq!(all_of(&host.client())["former_state"]["state_version"], 2);
    let checked = program::run(["check", "--json", "--rate", "10000/s", "--url", host.client().base()]);
    assert_eq!(checked.succeeded().json()["count"], 0);
}
