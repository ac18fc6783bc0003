//! Consumers come, change and go while the host runs, and no event is lost, repeated or reordered.

use fanfare_tests::load::Load;
use fanfare_tests::orders::order;
use fanfare_tests::swaps::Run;
use fanfare_tests::{Client, TestHost, eventually, guests};

#[test]
fn a_plugin_that_is_dropped_in_runs_without_a_restart() {
    let host = TestHost::with(&["analytics", "inventory", "notification", "shipment"]);
    let client = host.client();
    client.stock(&["TEA"], 10);
    let before = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&before, "shipped");

    host.consumers.add("loyalty");
    client.wait_for_consumer("loyalty", |consumer| consumer["state"] == "running");
    let after = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&after, "shipped");
    client.wait_until_idle();
    assert_eq!(client.counter("loyalty", "points/C-1"), 10, "it hears of what comes after it, and of nothing before");
}

#[test]
fn a_plugin_can_ask_for_everything_from_the_beginning() {
    let host = TestHost::with(&[]);
    let client = host.client();
    for _ in 0..5 {
        client.placed(&order(&[("TEA", 1)]));
    }
    host.consumers.set_policy("reports-one", "start = \"beginning\"\n");
    host.consumers.add("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "running");
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 6);
}

#[test]
fn replacing_a_plugin_under_load_fails_no_request_and_loses_and_repeats_no_event() {
    let mut host = TestHost::new();
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    let client = host.client();
    let load = Load::begin(&client, 4);
    let swaps = [("reports-two", "by-version/2"), ("reports-one", "by-version/1"), ("reports-two", "by-version/2")];
    for (guest, key) in swaps {
        let before = client.counter("reports", key);
        host.consumers.put("reports", &guests::wasm(guest));
        eventually(&format!("{guest} handles"), || {
            let now = client.counter("reports", key);
            if now > before + 10 { Ok(()) } else { Err(format!("{key} is {now}")) }
        });
    }
    let placed = load.end();
    client.wait_until_idle();
    assert_eq!(usize::try_from(client.counter("reports", "handled")), Ok(placed));
    let by_version: i64 = client.counters("reports", "by-version/").iter().map(|(_, count)| count).sum();
    assert_eq!(usize::try_from(by_version), Ok(placed));
}

#[test]
fn of_many_swaps_under_load_none_loses_repeats_or_reorders_an_event() {
    let report = Run { swaps: 24, seed: 1, warm_up: false }.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.hashes == 24 && report.orders > 24, "{report:#?}");
}

#[test]
fn a_plugin_that_is_removed_and_put_back_catches_up() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    place(&client, 3);
    client.wait_until_idle();
    host.consumers.remove("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "removed");
    place(&client, 4);
    assert_eq!(client.counter("reports-one", "handled"), 3);

    host.consumers.add("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "running");
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 7);
}

#[test]
fn what_was_removed_while_the_host_was_down_catches_up_too() {
    let mut host = TestHost::with(&["reports-one"]);
    place(&host.client(), 2);
    host.client().wait_until_idle();
    host.kill();
    host.consumers.remove("reports-one");
    host.start();
    place(&host.client(), 2);
    host.kill();
    host.consumers.add("reports-one");
    host.start();
    let client = host.client();
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 4);
}

#[test]
fn of_two_quick_saves_the_last_one_runs() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    for guest in ["reports-two", "reports-one", "reports-two", "reports-one", "reports-two"] {
        host.consumers.put("reports-one", &guests::wasm(guest));
    }
    client.wait_for_consumer("reports-one", |consumer| consumer["version"] == "2.0.0");
    place(&client, 1);
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "by-version/2"), 1);
}

#[test]
fn a_half_written_copy_leaves_the_old_version_running_until_it_is_whole() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    let new = guests::wasm("reports-two");
    let (first, rest) = new.split_at(new.len() / 2);
    let mut copy = host.consumers.begin_copy("reports-one");
    copy.write(first);
    place(&client, 2);
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "by-version/1"), 2);

    copy.write(rest);
    drop(copy);
    client
        .wait_for_consumer("reports-one", |consumer| consumer["version"] == "2.0.0" && consumer["state"] == "running");
    place(&client, 1);
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "by-version/2"), 1);
}

#[test]
fn the_example_of_the_readme_is_a_consumer() {
    let host = TestHost::with(&["hello"]);
    let client = host.client();
    place(&client, 2);
    client.wait_until_idle();
    assert_eq!(client.counter("hello", "orders/GB"), 2);
}

#[track_caller]
fn place(client: &Client, orders: usize) {
    for _ in 0..orders {
        client.placed(&order(&[("TEA", 1)]));
    }
}
