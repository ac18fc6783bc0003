//! A host dies, and nothing that it promised is lost, repeated or out of turn.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use fanfare_tests::crash::power::{Disk, Fsync};
use fanfare_tests::crash::random::Run;
use fanfare_tests::crash::{self, cloud, points, relaid};
use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, eventually, program};

/// The points by what they are called before the dot, in the order in which the tests below reach them.
const OPENING: [&str; 4] = ["migration", "store", "log", "close"];
const COMMITTING: [&str; 2] = ["order", "batch"];
const DELIVERING: [&str; 3] = ["delivery", "finish", "letters"];
const REPLACING: [&str; 3] = ["compiled", "kept", "version"];
const SENDING: [&str; 2] = ["message", "mail"];
const RETELLING: [&str; 2] = ["backfill", "rebuild"];
const RELAYING: [&str; 2] = ["layout", "return"];
const TENDING: [&str; 3] = ["pause", "forget", "backup"];
const AGEING: [&str; 1] = ["retention"];
const RESTORING: [&str; 1] = ["restore"];
const AT_AWS: [&str; 2] = ["cloud", "intent"];

fn of(groups: &[&str]) -> Vec<String> {
    let all = points::all();
    let of = |group: &&str| all.iter().filter(|point| point.split('.').next() == Some(group)).cloned().collect();
    groups.iter().flat_map(|group| -> Vec<String> { of(group) }).collect()
}

#[test]
fn every_point_at_which_a_host_can_die_is_reached_by_a_test() {
    let groups = [&OPENING[..], &COMMITTING, &DELIVERING, &REPLACING, &SENDING, &RETELLING, &TENDING, &AGEING];
    let reached = groups.into_iter().chain([&RELAYING[..], &RESTORING, &AT_AWS]).flat_map(of);
    assert_eq!(reached.collect::<BTreeSet<_>>(), points::all().into_iter().collect());
}

#[test]
fn a_crash_while_the_store_opens_folds_its_log_or_closes() {
    points::crash_at_each(&of(&OPENING));
}

#[test]
fn a_crash_at_any_step_of_a_commit() {
    points::crash_at_each(&of(&COMMITTING));
}

#[test]
fn a_crash_at_any_step_of_a_delivery() {
    points::crash_at_each(&of(&DELIVERING));
}

#[test]
fn a_crash_while_a_plugin_is_compiled_or_replaced() {
    points::crash_at_each(&of(&REPLACING));
}

#[test]
fn a_crash_at_any_step_of_sending() {
    points::crash_at_each(&of(&SENDING));
}

#[test]
fn a_crash_at_any_step_of_a_backfill_or_a_rebuild() {
    points::crash_at_each(&of(&RETELLING));
}

#[test]
fn a_crash_while_a_state_is_kept_for_another_layout_or_gone_back_to() {
    relaid::crash_at_each(&of(&RELAYING));
}

#[test]
fn a_crash_while_a_consumer_is_paused_or_forgotten_or_the_store_is_copied() {
    points::crash_at_each(&of(&TENDING));
}

#[test]
fn a_crash_at_any_step_of_letting_go_of_what_is_old() {
    points::crash_while_ageing(&of(&AGEING));
}

#[test]
fn a_crash_of_a_host_at_aws_is_made_good_by_another_one() {
    cloud::crash_at_each(&of(&AT_AWS[..1]));
}

#[test]
fn a_crash_at_any_step_of_a_large_commit_at_aws_is_made_good_by_another_host() {
    cloud::crash_at_each(&of(&AT_AWS[1..]));
}

#[test]
fn a_restore_that_dies_leaves_a_whole_store_or_none_and_is_done_again() {
    let host = TestHost::with(&[]);
    let id = host.client().placed(&order(&[("TEA", 1)]));
    let copy = host.folder().join("copy.sqlite");
    let backup = program::fanfare().args(["backup", "--url", host.client().base()]).arg(&copy).status();
    assert!(backup.expect("the program").success());
    for point in of(&RESTORING) {
        let mut second = TestHost::new();
        let data = second.folder().join("restored");
        let restore = |fault: Option<&str>| {
            let mut command = program::fanfare();
            command.envs(fault.map(|point| ("FANFARE_FAULT", point)));
            program::finish(command.arg("restore").arg(&copy).arg("--data-dir").arg(&data))
        };
        assert_eq!(restore(Some(&point)).status.signal(), Some(9), "it should die at {point}");
        let is_whole = data.join("fanfare.sqlite").exists();
        assert_eq!(is_whole, point == "restore.named");
        if !is_whole {
            let _ = restore(None).succeeded();
        }
        second.keep_data_in(&data);
        second.start();
        assert_eq!(second.client().order(&id)["status"], "placed", "{point}");
    }
}

#[test]
fn kills_at_random_moments() {
    let run = Run { kills: 8, seed: 1, power_loss: false, operator: false };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0, "{report:#?}");
}

#[test]
fn kills_while_consumers_are_paused_rebuilt_replaced_and_rolled_back() {
    let run = Run { kills: 12, seed: 5, power_loss: false, operator: true };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0 && report.acts.keys().any(|act| act.ends_with(", done")), "{report:#?}");
}

#[test]
fn power_cuts_at_random_moments() {
    let run = Run { kills: 8, seed: 2, power_loss: true, operator: false };
    let report = run.run(|_| {}).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(report.answered > 0 && report.lost > 0, "the disk lost nothing that was not synced: {report:#?}");
}

#[test]
fn a_disk_whose_fsync_does_nothing_is_found_out() {
    assert_eq!(lost_after_a_power_cut(Fsync::Works), 0);
    assert!(lost_after_a_power_cut(Fsync::Lies) > 0, "these tests would not see orders that were never synced");
}

/// Orders that were answered 201 and are not there after a power cut.
fn lost_after_a_power_cut(fsync: Fsync) -> usize {
    const ORDERS: usize = 30;
    let mut host = crash::host();
    let mut disk = Disk::under(&mut host);
    disk.fsync(fsync);
    host.start();
    let ids = place(&host, ORDERS);
    host.kill();
    disk.cut_power(3);
    if host.start_or_end().is_err() {
        // What is left is no store at all.
        return ORDERS;
    }
    ids.iter().filter(|id| host.client().get(&format!("/v1/orders/{id}")).status != 200).count()
}

#[test]
fn a_power_cut_does_not_take_a_new_data_folder() {
    for seed in 0..6 {
        let mut host = TestHost::new();
        let mut disk = Disk::under(&mut host);
        host.leave_deliveries().start();
        let ids = place(&host, 1);
        host.kill();
        disk.cut_power(seed);
        host.start();
        assert_eq!(host.client().order(&ids[0])["status"], "placed");
    }
}

fn place(host: &TestHost, orders: usize) -> Vec<String> {
    (0..orders).map(|_| host.client().placed(&order(&[("TEA", 1)]))).collect()
}

#[test]
fn a_failed_fsync_ends_the_host_and_the_next_one_reads_what_is_on_disk() {
    let mut host = crash::host();
    let mut disk = Disk::under(&mut host);
    host.start();
    let ids = place(&host, 10);
    let client = host.client();
    disk.fsync(Fsync::Fails);
    // Where what becomes of the ten is written first, the host may be gone before it can answer.
    if let Ok(refused) = client.try_post("/v1/orders", &[], order(&[("TEA", 1)]).to_string().as_bytes()) {
        let refused = refused.problem(503);
        assert!(refused.to_string().contains("disk I/O error"), "{refused}");
    }

    let status = host.ended();
    assert_eq!(status.code(), Some(1), "{}", host.log());
    let said = host.log();
    assert!(said.contains("leaves open what is on disk") && said.contains("start the host again"), "{said}");

    disk.fsync(Fsync::Works);
    disk.cut_power(4);
    host.start();
    let client = host.client();
    client.wait_until_idle();
    for id in &ids {
        assert_eq!(client.order(id)["status"], "rejected");
    }
    let there = client.orders().len();
    assert!(there == ids.len() || there == ids.len() + 1, "{there} orders of {} and one that was refused", ids.len());
    eventually("it takes orders", || match client.place(&order(&[("TEA", 1)])).status.as_u16() {
        201 => Ok(()),
        status => Err(status.to_string()),
    });
}
