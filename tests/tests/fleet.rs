//! Hosts that share one store on AWS.

use fanfare_tests::crash::fleet::{Run, host, prefix};
use fanfare_tests::orders::order;

#[test]
fn hosts_on_one_store_are_killed_and_nothing_is_lost_repeated_or_out_of_turn() {
    let run = Run { hosts: 3, kills: 3, seed: 3 };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0, "{report:#?}");
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
