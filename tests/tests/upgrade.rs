//! A store that an older Fanfare left, opened by this one.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, program};
use rusqlite::Connection;

/// Stores of every format, as text; the last is today's.
const FORMATS: [&str; 4] = [
    include_str!("../../host/src/backend/embedded/schema/fixtures/1.sql"),
    include_str!("../../host/src/backend/embedded/schema/fixtures/2.sql"),
    include_str!("../../host/src/backend/embedded/schema/fixtures/3.sql"),
    include_str!("../../host/src/backend/embedded/schema/fixtures/4.sql"),
];
const KILLED: i32 = 9;

fn format(host: &TestHost) -> u32 {
    let store = Connection::open(host.data().join("fanfare.sqlite")).expect("the store");
    store.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a format")
}

#[test]
fn a_store_of_any_format_goes_on_although_the_host_is_killed_while_it_brings_it_up() {
    for (before, store) in (1..).zip(FORMATS) {
        brought_up(before, store);
    }
}

fn brought_up(before: u32, fixture: &str) {
    let mut host = TestHost::new();
    fs::create_dir_all(host.data()).expect("a data folder");
    let store = Connection::open(host.data().join("fanfare.sqlite")).expect("a store");
    store.execute_batch(fixture).expect("a store of an older format");
    drop(store);
    for guest in ["always-reject", "inventory"] {
        host.consumers.add(guest);
    }
    let steps = if (before as usize) < FORMATS.len() {
        vec![("migration.written:1", before), ("migration.committed:1", before + 1)]
    } else {
        vec![]
    };
    for (fault, left) in steps {
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
