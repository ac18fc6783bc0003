//! An order that was answered with 201 is never lost, whatever becomes of the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fanfare_tests::disk::SmallDisk;
use fanfare_tests::orders::order;
use fanfare_tests::wire::Wire;
use fanfare_tests::{TestHost, eventually, json, program};

#[test]
fn a_second_host_on_one_data_folder_refuses_to_start() {
    let first = TestHost::with(&[]);
    let id = first.client().placed(&order(&[("TEA", 1)]));
    let mut second = TestHost::new();
    second.keep_data_in(first.data());
    assert!(!second.start_in_vain().success());
    assert_eq!(first.client().order(&id)["status"], "placed");

    let said = second.log();
    assert!(said.contains(&first.data().display().to_string()), "which folder? {said}");
    assert!(said.contains("another") || said.contains("in use"), "why? {said}");
}

#[test]
fn a_host_whose_data_folder_cannot_be_made_says_so_and_ends() {
    let mut host = TestHost::new();
    let file = host.folder().join("file");
    fs::write(&file, "in the way").expect("a file");
    host.keep_data_in(file.join("data"));
    assert!(!host.start_in_vain().success());
    let said = host.log();
    assert!(said.contains(&file.join("data").display().to_string()), "{said}");
}

#[test]
fn a_file_that_is_no_store_is_refused_with_what_to_do_and_stays_as_it_is() {
    let mut host = TestHost::new();
    let file = host.data().join("fanfare.sqlite");
    fs::create_dir_all(host.data()).expect("a data folder");
    fs::write(&file, "shopping list").expect("a file");
    assert!(!host.start_in_vain().success());
    let said = host.log();
    for part in [file.to_str().expect("a path"), "no store of fanfare", "--data-dir"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(fs::read_to_string(file).expect("the file"), "shopping list");
}

#[test]
fn a_host_whose_data_folder_cannot_be_written_says_so_and_ends() {
    let mut host = TestHost::new();
    let folder = host.folder().join("read-only");
    fs::create_dir(&folder).expect("a folder");
    if is_root(&folder) {
        // Permissions do not stop root; a folder of the kernel's does.
        host.keep_data_in("/proc/fanfare");
    } else {
        host.keep_data_in(folder.join("data"));
    }
    let status = host.start_in_vain();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("permissions");
    assert!(!status.success());
    let said = host.log();
    let folder = host.data().display().to_string();
    assert!(said.contains(&folder), "no {folder}: {said}");
}

#[test]
fn a_data_folder_that_the_host_makes_is_its_owners_alone() {
    let mode = |path: &std::path::Path| fs::metadata(path).expect("a folder").permissions().mode() & 0o777;
    let mut host = TestHost::new();
    host.keep_data_in(host.folder().join("new").join("data"));
    host.start();
    assert_eq!(mode(host.data()), 0o700);
    assert_ne!(mode(&host.folder().join("new")), 0o700, "what leads there is as others are");

    let mut host = TestHost::new();
    fs::create_dir(host.data()).expect("a folder");
    fs::set_permissions(host.data(), fs::Permissions::from_mode(0o750)).expect("permissions");
    host.start();
    assert_eq!(mode(host.data()), 0o750, "what is there stays as it is");
}

#[test]
fn orders_survive_kill_nine_the_moment_after_the_201() {
    let mut host = TestHost::with(&["inventory"]);
    let mut ids = Vec::new();
    for round in 0..5 {
        let client = host.client();
        ids.extend((0..=round).map(|_| client.placed(&order(&[("TEA", 1)]))));
        host.kill();
        host.start();
    }
    let client = host.client();
    client.wait_until_idle();
    assert_eq!(client.orders().len(), ids.len());
    for id in ids {
        assert_eq!(client.order(&id)["status"], "rejected");
    }
}

#[test]
fn a_full_disk_refuses_orders_and_loses_none_that_was_taken() {
    let mut host = TestHost::new();
    let disk = SmallDisk::under(&mut host);
    host.leave_deliveries().start();
    let client = host.client();
    let mut big = order(&[("TEA", 1)]);
    big["lines"] =
        (0..400).map(|line| json!({"sku": format!("SKU-{line}"), "quantity": 1, "unit_amount": 1})).collect();
    let mut taken = vec![client.placed(&big)];

    disk.fill(&host);
    let refused = eventually("the disk is full", || {
        let answer = client.place(&big);
        match answer.status.as_u16() {
            201 => {
                taken.push(answer.id());
                Err(format!("{} orders fit on it", taken.len()))
            }
            _ => Ok(answer),
        }
    });
    let _ = refused.problem(503);
    let _ = client.place(&big).problem(503);
    for id in &taken {
        assert_eq!(client.order(id)["status"], "placed", "reading goes on");
    }
    let _ = client.get("/readyz").expect(503);

    disk.free(&host);
    taken.push(eventually("orders are taken again", || {
        let answer = client.place(&big);
        if answer.status == 201 { Ok(answer.id()) } else { Err(format!("{answer:?}")) }
    }));

    host.kill();
    host.start();
    let client = host.client();
    for id in &taken {
        assert_eq!(client.order(id)["status"], "placed");
    }
    assert_eq!(client.orders().len(), taken.len(), "what was refused is not there");
}

#[test]
fn a_store_whose_file_is_moved_away_takes_no_order_until_it_is_back() {
    let mut host = TestHost::with(&["inventory"]);
    let client = host.client();
    let mut taken = vec![client.placed(&order(&[("TEA", 1)]))];
    client.wait_until_idle();
    let (file, away) = (host.data().join("fanfare.sqlite"), host.folder().join("away"));
    fs::rename(&file, &away).expect("moved");
    let refused = eventually("orders are refused", || {
        let answer = client.place(&order(&[("TEA", 1)]));
        match answer.status.as_u16() {
            201 => {
                taken.push(answer.id());
                Err(format!("{} orders are taken", taken.len()))
            }
            _ => Ok(answer),
        }
    });
    let problem = refused.problem(503);
    assert!(problem["detail"].as_str().is_some_and(|why| why.contains("fanfare.sqlite was deleted")), "{problem:#}");
    let _ = client.get("/readyz").expect(503);
    assert_eq!(client.order(&taken[0])["status"], "rejected", "reading goes on");
    let copy = host.folder().join("copy.sqlite");
    let _ = program::finish(program::fanfare().args(["backup", "--url", client.base()]).arg(&copy)).succeeded();

    fs::rename(&away, &file).expect("moved back");
    taken.push(eventually("orders are taken again", || {
        let answer = client.place(&order(&[("TEA", 1)]));
        if answer.status == 201 { Ok(answer.id()) } else { Err(format!("{answer:?}")) }
    }));
    host.kill();
    host.start();
    let client = host.client();
    client.wait_until_idle();
    assert_eq!(client.orders().len(), taken.len());

    // With the whole folder gone, the host has the only copy, and gives it.
    fs::remove_dir_all(host.data()).expect("removed");
    eventually("orders are refused", || match client.place(&order(&[("TEA", 1)])).status.as_u16() {
        503 => Ok(()),
        status => Err(format!("{status}")),
    });
    let (copy, restored) = (host.folder().join("last.sqlite"), host.folder().join("restored"));
    let _ = program::finish(program::fanfare().args(["backup", "--url", client.base()]).arg(&copy)).succeeded();
    host.kill();
    let restore = program::finish(program::fanfare().arg("restore").arg(&copy).arg("--data-dir").arg(&restored));
    let _ = restore.succeeded();
    host.keep_data_in(restored);
    host.start();
    host.client().wait_until_idle();
    for id in &taken {
        assert_eq!(host.client().order(id)["status"], "rejected");
    }
}

#[test]
fn connections_do_not_take_the_files_that_the_host_needs() {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    // What a shell commonly gives is too little, and the host may have more.
    host.prepare_process("ulimit -S -n 64; ulimit -H -n 400");
    host.start();
    let client = host.client();
    let held: Vec<Wire> = (0..150)
        .map(|_| {
            let mut wire = Wire::connect(client.address());
            assert!(wire.send(b"POST /v1/ord"));
            wire
        })
        .collect();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "rejected");
    let more: Vec<Wire> = (0..150).map(|_| Wire::connect(client.address())).collect();
    // Those that wait for their turn take none either.
    let copy = host.folder().join("copy.sqlite");
    drop(held);
    let _ = program::finish(program::fanfare().args(["backup", "--url", client.base()]).arg(&copy)).succeeded();
    drop(more);
    client.wait_until_idle();
    let log = host.log();
    assert!(!log.contains("Too many open files"), "{log}");
}

/// Makes `folder` read-only, and tells whether that stops nobody.
fn is_root(folder: &std::path::Path) -> bool {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).expect("permissions");
    fs::create_dir(folder.join("probe")).is_ok()
}
