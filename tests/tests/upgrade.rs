//! A store that an older Fanfare left, opened by this one.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, program};
use rusqlite::Connection;

/// What the last program of format 1 left, as text.
const FORMAT_1: &str = include_str!("../../host/src/backend/embedded/schema/fixtures/1.sql");
const KILLED: i32 = 9;

fn format(host: &TestHost) -> u32 {
    let store = Connection::open(host.data().join("fanfare.sqlite")).expect("the store");
    store.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a format")
}

#[test]
fn a_store_of_format_1_goes_on_although_the_host_is_killed_while_it_brings_it_up() {
    let mut host = TestHost::new();
    fs::create_dir_all(host.data()).expect("a data folder");
    let store = Connection::open(host.data().join("fanfare.sqlite")).expect("a store");
    store.execute_batch(FORMAT_1).expect("a store of format 1");
    drop(store);
    for guest in ["always-reject", "inventory"] {
        host.consumers.add(guest);
    }
    for (fault, left) in [("migration.written:1", 1), ("migration.committed:1", 2)] {
        let status = host.die_at(Some(fault)).start_in_vain();
        assert_eq!(status.signal(), Some(KILLED), "{fault}: {}", host.log());
        assert_eq!(format(&host), left, "{fault} leaves all of it or nothing");
    }

    host.die_at(None).leave_deliveries().start();
    let client = host.client();
    let statuses: Vec<_> = client.orders().iter().map(|order| order["status"].clone()).collect();
    assert_eq!(statuses, ["delivered", "rejected", "shipped", "shipped"]);
    assert_eq!(client.dead_letters("always-reject").len(), 4);
    assert_eq!(client.counter("inventory", "stock/TEA"), 4);
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "confirmed");
    assert_eq!(client.counter("inventory", "stock/TEA"), 3);
    let checked = program::run(["check", "--url", client.base()]).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked:?}");
}
