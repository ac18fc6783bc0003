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

/// Longer than a host stands still that others take for dead.
const CUT_OFF_FOR: Duration = Duration::from_secs(20);
/// Looks at the other hosts: one follows each time that a host says that it lives.
const LOOKS: usize = 3;

#[test]
fn hosts_that_cannot_reach_aws_for_a_while_do_not_take_each_other_for_dead() {
    let prefix = prefix();
    let mut hosts = [(); 2].map(|()| host(&prefix));
    let ways = hosts.each_mut().map(Way::of);
    for host in &mut hosts {
        host.start();
    }
    let all_look = |what: &str| {
        let beats = ways.each_ref().map(|way| {
            let beats = Arc::new(AtomicUsize::new(0));
            let said = Arc::clone(&beats);
            way.dynamodb.choose(move |call| {
                let says = call.operation == "UpdateItem" && call.body.contains("beat = :beat");
                said.fetch_add(usize::from(says), Ordering::Relaxed);
                Fault::Pass
            });
            beats
        });
        within(Duration::from_secs(120), what, || {
            let beats = beats.each_ref().map(|beats| beats.load(Ordering::Relaxed));
            if beats.iter().all(|beats| *beats > LOOKS) { Ok(()) } else { Err(format!("{beats:?}")) }
        });
    };
    all_look("they have seen each other");
    ways.iter().for_each(|way| way.tell(&Fault::Throttle));
    thread::sleep(CUT_OFF_FOR);
    ways.iter().for_each(|way| way.tell(&Fault::Pass));
    all_look("they see each other again");
    for host in &mut hosts {
        assert!(host.ended_by_now().is_none(), "{}", host.log());
        assert!(!host.log().contains("a host has died"), "{}", host.log());
    }
}
