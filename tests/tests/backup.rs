//! A copy of the store, made while the host runs under load, and a host that goes on from it.

use std::fs;
use std::path::{Path, PathBuf};

use fanfare_tests::disk::SmallDisk;
use fanfare_tests::load::Load;
use fanfare_tests::orders::order;
use fanfare_tests::program::{self, Run};
use fanfare_tests::{Client, TestHost};

const STOCK: u32 = 100_000;

fn backup(client: &Client, file: &Path) -> Run {
    let arguments = ["backup", "--json", "--url", client.base()];
    program::finish(program::fanfare().args(arguments).arg(file))
}

fn restore(file: &Path, data: &Path) -> Run {
    program::finish(program::fanfare().args(["restore", "--json"]).arg(file).arg("--data-dir").arg(data))
}

fn copies_left(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data).expect("a data folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.to_string_lossy().contains("backup-")).collect()
}

/// Units that confirmed orders took, by the orders; and what inventory has left.
fn books(client: &Client) -> (i64, i64) {
    let taken = client.orders().iter().filter(|order| order["status"] != "rejected").count();
    (i64::try_from(taken).expect("a number"), client.counter("inventory", "stock/TEA"))
}

#[test]
fn a_backup_under_load_has_every_order_that_was_answered_before_it_began() {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.leave_deliveries().start();
    let client = host.client();
    client.stock(&["TEA"], STOCK);
    let load = Load::begin(&client, 4);
    let ids: Vec<_> = (0..50).map(|_| client.placed(&order(&[("TEA", 1)]))).collect();
    let file = host.folder().join("copy.sqlite");
    let run = backup(&client, &file).succeeded();
    let after = client.placed(&order(&[("TEA", 1)]));
    assert!(load.end() > 0);
    let told = run.json();
    assert_eq!(told["bytes"].as_u64(), Some(fs::metadata(&file).expect("the copy").len()), "{told}");
    let pages = told["copied"]["pages"].as_u64().expect("a count");
    assert!(pages > 0 && told["copied"]["of"] == pages, "{told}");
    assert!(told["copied"]["wal_bytes_max"].as_u64().is_some_and(|bytes| bytes < 128 << 20), "{told}");
    assert!(copies_left(host.data()).is_empty());

    let mut second = TestHost::new();
    let data = second.folder().join("restored");
    let _ = restore(&file, &data).succeeded();
    second.keep_data_in(&data);
    second.consumers.add("inventory");
    second.start();
    let restored = second.client();
    for id in &ids {
        assert!(restored.get(&format!("/v1/orders/{id}")).status.is_success(), "order {id} was answered before");
    }
    restored.wait_until_idle();
    let (taken, left) = books(&restored);
    assert_eq!(taken + left, i64::from(STOCK), "what orders took is what stock lacks");
    let _ = restored.get(&format!("/v1/orders/{after}")).problem(404);
    restored.wait_for_status(&restored.placed(&order(&[("TEA", 1)])), "confirmed");
    let checked = program::run(["check", "--url", restored.base()]).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked:?}");
}

#[test]
fn a_copy_that_is_not_whole_and_a_folder_that_is_not_empty_are_refused() {
    let mut host = TestHost::with(&[]);
    let client = host.client();
    for _ in 0..50 {
        client.placed(&order(&[("TEA", 1)]));
    }
    let folder = host.folder().to_owned();
    let file = folder.join("copy.sqlite");
    let _ = backup(&client, &file).succeeded();
    let again = backup(&client, &file);
    assert_eq!(again.code(), Some(2));
    assert!(again.stderr.contains("is there already"), "{again:?}");

    let refused = |file: &Path, data: &Path, code: i32, why: &str| {
        let run = restore(file, data);
        assert_eq!(run.code(), Some(code), "{run:?}");
        assert!(run.stderr.contains(why), "{run:?}");
    };
    let bytes = fs::read(&file).expect("the copy");
    let (torn, text) = (folder.join("torn"), folder.join("text"));
    fs::write(&torn, &bytes[..bytes.len() - 8192]).expect("a torn copy");
    fs::write(&text, "not a store at all, but long enough").expect("a text");
    let empty = folder.join("empty");
    refused(&torn, &empty, 1, "is damaged");
    refused(&text, &empty, 1, "is not a store of fanfare");
    refused(&folder.join("nothing"), &empty, 1, "cannot be read");
    assert!(!empty.exists(), "nothing is made of what is no copy");
    refused(&file, host.data(), 1, "another fanfare runs");
    host.kill();
    refused(&file, host.data(), 2, "holds");

    // The file of a host that was killed lacks what is in the log beside it.
    let dead = host.data().join("fanfare.sqlite");
    refused(&dead, &empty, 1, "write-ahead log");
    assert!(!empty.exists(), "nothing is made of what is no copy");

    let lost = folder.join("lost.sqlite");
    let unreachable = program::finish(program::fanfare().args(["backup", "--url", "http://127.0.0.1:1"]).arg(&lost));
    assert_eq!(unreachable.code(), Some(4), "{unreachable:?}");
    assert!(!lost.exists());
    let offline = folder.join("offline.sqlite");
    let run = program::finish(program::fanfare().arg("backup").arg(&offline).arg("--data-dir").arg(host.data()));
    let _ = run.succeeded();
    let _ = restore(&offline, &empty).succeeded();
    let checked =
        program::finish(program::fanfare().args(["check", "--json", "--data-dir"]).arg(&empty)).succeeded().json();
    assert_eq!((&checked["rows"]["orders"], &checked["count"]), (&50.into(), &0.into()), "{checked}");
}

#[test]
fn a_backup_without_room_for_it_says_where_that_is_missing_and_leaves_nothing() {
    let mut host = TestHost::new();
    let disk = SmallDisk::under(&mut host);
    host.start();
    disk.fill(&host);
    let file = host.folder().join("copy.sqlite");
    let run = backup(&host.client(), &file);
    assert_eq!(run.code(), Some(4), "{run:#?}");
    assert!(run.stderr.contains(&host.data().display().to_string()), "{run:#?}");
    assert!(copies_left(host.data()).is_empty() && !file.exists());
    disk.free(&host);
    let _ = backup(&host.client(), &file).succeeded();
}
