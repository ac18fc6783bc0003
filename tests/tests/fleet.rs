//! Hosts that share one store on AWS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_tests::aws::{Fault, Way};
use fanfare_tests::crash::fleet::{Run, host, prefix};
use fanfare_tests::orders::order;
use fanfare_tests::within;

#[test]
fn hosts_on_one_store_are_killed_and_nothing_is_lost_repeated_or_out_of_turn() {
    let run = Run { hosts: 3, kills: 3, standard: false, operator: false, seed: 3 };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0 && report.network.disordered > 0, "{report:#?}");
}

#[test]
fn hosts_keep_lanes_where_messages_come_in_any_order_and_again() {
    let run = Run { hosts: 2, kills: 1, standard: true, operator: false, seed: 4 };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    let network = report.network;
    assert!(report.answered > 0 && network.disordered > 0 && network.repeated > 0, "{report:#?}");
}

#[test]
fn hosts_are_killed_while_consumers_are_paused_rebuilt_replaced_and_rolled_back() {
    let run = Run { hosts: 2, kills: 3, standard: false, operator: true, seed: 5 };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0 && !report.acts.is_empty(), "{report:#?}");
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

/// Longer than a host stands still that others take for dead.
const CUT_OFF_FOR: Duration = Duration::from_secs(20);

/// Lets everything pass, and waits until each of these hosts has said so often that it lives. Each time it looks at the others.
fn wait_for_beats(ways: &[&Way], beats: usize) {
    let said: Vec<_> = ways.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
    for (way, said) in ways.iter().zip(&said) {
        let said = Arc::clone(said);
        way.tell(&Fault::Pass);
        way.dynamodb.choose(move |call| {
            let says = call.operation == "UpdateItem" && call.body.contains("beat = :beat");
            said.fetch_add(usize::from(says), Ordering::Relaxed);
            Fault::Pass
        });
    }
    within(Duration::from_secs(120), "hosts say that they live", || {
        let said: Vec<usize> = said.iter().map(|said| said.load(Ordering::Relaxed)).collect();
        if said.iter().all(|said| *said >= beats) { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

#[test]
fn a_host_that_reaches_aws_again_before_others_do_does_not_take_them_for_dead() {
    let prefix = prefix();
    let mut hosts = [(); 2].map(|()| host(&prefix));
    let [first, second] = hosts.each_mut().map(Way::of);
    for host in &mut hosts {
        host.start();
    }
    wait_for_beats(&[&first, &second], 4);
    second.tell(&Fault::Throttle);
    // It sees that the other one is silent.
    wait_for_beats(&[&first], 2);
    first.tell(&Fault::Throttle);
    thread::sleep(CUT_OFF_FOR);
    wait_for_beats(&[&first], 2);
    wait_for_beats(&[&first, &second], 3);
    for host in &mut hosts {
        assert!(host.ended_by_now().is_none(), "{}", host.log());
        assert!(!host.log().contains("a host has died"), "{}", host.log());
    }
}
