//! Hosts that share one store on AWS.

use fanfare_tests::crash::fleet::{Run, host, prefix};
use fanfare_tests::orders::order;

#[test]
fn hosts_on_one_store_are_killed_and_nothing_is_lost_repeated_or_out_of_turn() {
    let run = Run { hosts: 3, kills: 3, standard: false, seed: 3 };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0 && report.network.disordered > 0, "{report:#?}");
}

#[test]
fn hosts_keep_lanes_where_messages_come_in_any_order_and_again() {
    let run = Run { hosts: 2, kills: 1, standard: true, seed: 4 };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    let network = report.network;
    assert!(report.answered > 0 && network.disordered > 0 && network.repeated > 0, "{report:#?}");
}

#[test]
fn an_order_walks_through_all_consumers_and_the_store_outlives_its_host() {
    let prefix = prefix();
    let mut first = host(&prefix);
    first.start();
    let client = first.client();
    client.stock(&["TEA"], 10);
    let id = client.placed(&order(&[("TEA", 2)]));
    client.wait_for_status(&id, "shipped");
    first.kill();
    let mut second = host(&prefix);
    second.start();
    assert_eq!(second.client().order(&id)["status"], "shipped");
}
