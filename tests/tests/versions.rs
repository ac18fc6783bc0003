//! Back to a version that ran before: at once, for good, and whatever crashes.

use std::os::unix::process::ExitStatusExt;

use fanfare_tests::load::Load;
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, eventually, guests, json, program};

/// A host where `reports` came as version 1.0.0 and is 2.0.0 now.
fn upgraded() -> TestHost {
    let mut host = TestHost::new();
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    place(&host.client(), 1);
    host.client().wait_until_idle();
    host.consumers.put("reports", &guests::wasm("reports-two"));
    host.client().wait_for_consumer("reports", |consumer| consumer["version"] == "2.0.0");
    host
}

#[test]
fn a_rollback_from_the_command_line_holds_through_a_crash_until_another_file_comes() {
    let mut host = upgraded();
    let client = host.client();
    let told = program::run(["consumers", "rollback", "reports", "--reason", "too chatty", "--url", client.base()]);
    assert!(told.succeeded().stdout.contains("reports runs version 1.0.0"));
    place(&client, 2);
    client.wait_until_idle();
    assert_eq!((client.counter("reports", "by-version/1"), client.counter("reports", "by-version/2")), (3, 0));

    host.kill();
    host.start();
    let client = host.client();
    let shown = client.consumer("reports").expect("reports");
    assert_eq!((&shown["state"], &shown["version"]), (&json!("running"), &json!("1.0.0")), "{shown:#}");
    assert_eq!(
        (&shown["candidate"]["state"], &shown["candidate"]["version"]),
        (&json!("rolled-back"), &json!("2.0.0")),
        "{shown:#}"
    );
    assert!(shown["reason"].to_string().contains("too chatty"), "{shown:#}");

    host.consumers.put("reports", &guests::variant("reports-two", 1));
    client.wait_for_consumer("reports", |consumer| consumer["version"] == "2.0.0" && consumer["candidate"].is_null());
    place(&client, 1);
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "by-version/2"), 1);

    let history = client.get("/v1/consumers/reports/versions").expect(200).json();
    let rows = history["versions"].as_array().expect("versions");
    let outcomes: Vec<_> = rows.iter().map(|row| (row["outcome"].as_str(), row["version"].as_str())).collect();
    let expected = [("live", "2.0.0"), ("rolled-back", "2.0.0"), ("live", "2.0.0"), ("live", "1.0.0")];
    assert_eq!(outcomes, expected.map(|(outcome, version)| (Some(outcome), Some(version))));
    assert!(rows.iter().all(|row| row["kept"] == true && row["owner"].is_string() && row["path"].is_string()));
    let told = program::run(["consumers", "history", "reports", "--url", client.base()]).succeeded();
    assert!(told.stdout.contains("too chatty") && told.stdout.contains("rolled-back"), "{told:#?}");
    assert!(!told.stdout.contains("more:"), "{told:#?}");
    let page = |more: &[&str]| {
        let page = ["consumers", "history", "reports", "--limit", "3", "--url", client.base()];
        program::run(page.iter().chain(more)).succeeded().stdout
    };
    assert!(page(&[]).ends_with("\n\nmore: --after 1\n"), "{}", page(&[]));
    let last = page(&["--after", "1"]);
    assert!(last.contains("1.0.0") && !last.contains("2.0.0") && !last.contains("more:"), "{last}");
    let wrong = client.get("/v1/consumers/reports/versions?after=late").problem(400);
    assert_eq!(wrong["errors"][0]["field"], "after", "{wrong:#}");
    let checked = program::run(["check", "--url", client.base()]).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked:?}");
}

#[test]
fn a_host_that_dies_within_a_rollback_or_a_promotion_starts_with_what_was_decided() {
    for point in ["version.recorded", "version.swapping", "version.swapped"] {
        let mut host = upgraded();
        for (step, version) in [("rollback", "1.0.0"), ("promote", "2.0.0")] {
            host.kill();
            host.die_at(Some(point));
            host.start();
            // Its answer is lost with the host.
            drop(host.client().try_post(&format!("/v1/consumers/reports/{step}"), &[], b"{}"));
            let status = host.ended();
            assert_eq!(status.signal(), Some(9), "{step} dies at {point}: {}", host.log());
            host.die_at(None).start();
            let shown = host.client().consumer("reports").expect("reports");
            assert_eq!(shown["version"], version, "after a crash at {point}: {shown:#}");
            place(&host.client(), 1);
            host.client().wait_until_idle();
        }
        let handled = ["by-version/1", "by-version/2", "handled"].map(|key| host.client().counter("reports", key));
        assert_eq!(handled, [2, 1, 3], "{point}");
    }
}

#[test]
fn going_back_and_on_under_load_loses_and_repeats_nothing() {
    let host = upgraded();
    let client = host.client();
    let load = Load::begin(&client, 4);
    for (step, key) in [("rollback", "by-version/1"), ("promote", "by-version/2"), ("rollback", "by-version/1")] {
        let before = client.counter("reports", key);
        let _ = client.post(&format!("/v1/consumers/reports/{step}"), &json!({})).expect(200);
        eventually(&format!("{key} goes up"), || {
            let now = client.counter("reports", key);
            if now > before + 10 { Ok(()) } else { Err(format!("{key} is {now}")) }
        });
    }
    let placed = i64::try_from(load.end()).expect("a count") + 1;
    client.wait_until_idle();
    let by_version: i64 = client.counters("reports", "by-version/").iter().map(|(_, count)| count).sum();
    assert_eq!((client.counter("reports", "handled"), by_version), (placed, placed));
}

#[test]
fn a_step_that_is_not_possible_is_refused_with_what_stands_against_it() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    let step = |name: &str, step: &str, body| client.post(&format!("/v1/consumers/{name}/{step}"), &body);
    assert_eq!(step("nobody", "rollback", json!({})).problem(404)["type"], "/problems/unknown-consumer");
    let refused = step("reports-one", "rollback", json!({})).problem(409);
    assert_eq!(refused["type"], "/problems/step-refused");
    assert!(refused["detail"].to_string().contains("no version ran before"), "{refused:#}");
    assert_eq!(step("reports-one", "promote", json!({})).problem(409)["type"], "/problems/step-refused");
    let unknown = step("reports-one", "rollback", json!({"version": "0000000"})).problem(404);
    assert_eq!(unknown["type"], "/problems/unknown-version", "{unknown:#}");
    let wrong = step("reports-one", "rollback", json!({"version": "latest"})).problem(422);
    assert_eq!(wrong["errors"][0]["field"], "version", "{wrong:#}");
    let told = program::run(["consumers", "rollback", "reports-one", "--url", client.base()]);
    assert_eq!(told.code(), Some(3), "{told:#?}");
}

#[test]
fn a_version_that_is_promoted_after_it_was_kept_out_is_kept() {
    let mut host = TestHost::new();
    host.consumers.set_policy("reports", "keep_versions = 1\n[rollout]\npercent = 50\nmin_events = 1000\n");
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    let client = host.client();
    host.consumers.put("reports", &guests::wasm("reports-two"));
    client.wait_for_consumer("reports", |consumer| consumer["candidate"]["state"] == "canary");
    for step in ["rollback", "promote"] {
        let _ = client.post(&format!("/v1/consumers/reports/{step}"), &json!({})).expect(200);
    }
    host.consumers.put("reports", b"no plugin");
    client.wait_for_consumer("reports", |consumer| consumer["candidate"]["state"] == "failed");
    host.kill();
    host.start();
    let shown = host.client().consumer("reports").expect("reports");
    assert_eq!((&shown["state"], &shown["version"]), (&json!("running"), &json!("2.0.0")), "{shown:#}");
}

#[test]
fn a_consumer_that_is_forgotten_leaves_neither_history_nor_files_of_its_versions() {
    let host = upgraded();
    let client = host.client();
    let kept = || std::fs::read_dir(host.data().join("versions")).expect("kept versions").count();
    assert_eq!(kept(), 2);
    client.wait_until_idle();
    host.consumers.remove("reports");
    client.wait_for_consumer("reports", |consumer| consumer["state"] == "removed");
    let _ = client.delete("/v1/consumers/reports").expect(204);
    assert_eq!(client.get("/v1/consumers/reports/versions").status, 404);
    eventually("the files are gone", || match kept() {
        0 => Ok(()),
        some => Err(format!("{some} are there")),
    });
}

#[test]
fn a_rollback_that_is_repeated_goes_back_once() {
    let mut host = upgraded();
    let client = host.client();
    let second = client.consumer("reports").expect("reports")["hash"].clone();
    host.consumers.put("reports", &guests::variant("reports-two", 1));
    let third = client.wait_for_consumer("reports", |consumer| consumer["hash"] != second);
    let third = third["hash"].as_str().expect("a hash");
    let back = |client: &Client, from: &str| client.post("/v1/consumers/reports/rollback", &json!({ "from": from }));
    let _ = back(&client, &third[..8]).expect(200);
    let refused = back(&client, third).problem(409);
    assert!(refused["detail"].to_string().contains("and not"), "{refused:#}");
    assert_eq!(client.consumer("reports").expect("reports")["hash"], second, "{refused:#}");
    assert_eq!(back(&client, "last").problem(422)["errors"][0]["field"], "from");
    let told = program::run(["consumers", "rollback", "reports", "--from", third, "--url", client.base()]);
    assert_eq!(told.code(), Some(3), "{told:#?}");

    // Its answer is lost with the host: whether it went back, nobody can tell.
    host.kill();
    host.die_at(Some("version.recorded"));
    host.start();
    let lost = program::run(["consumers", "rollback", "reports", "--url", host.client().base()]);
    assert_eq!(lost.code(), Some(1), "the same command is no way to repeat it: {lost:#?}");
    let from = second.as_str().expect("a hash");
    assert!(lost.stderr.contains(&format!("fanfare consumers rollback reports --from {}", &from[..12])), "{lost:#?}");
    let _ = host.ended();
    host.die_at(None).start();
    let again = program::run(["consumers", "rollback", "reports", "--from", from, "--url", host.client().base()]);
    assert_eq!(again.code(), Some(3), "{again:#?}");
    assert_eq!(host.client().consumer("reports").expect("reports")["version"], "1.0.0");
}

#[test]
fn a_rollback_of_a_version_that_is_tried_names_that_one_as_left() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    host.consumers.set_policy("reports-one", "[rollout]\npercent = 50\nmin_events = 1000\n");
    host.consumers.put("reports-one", &guests::wasm("reports-two"));
    let tried = client.wait_for_consumer("reports-one", |consumer| consumer["candidate"]["state"] == "canary");
    let back = |from: &Value| client.post("/v1/consumers/reports-one/rollback", &json!({ "from": from }));
    assert_eq!(back(&tried["hash"]).problem(409)["type"], "/problems/step-refused");
    let _ = back(&tried["candidate"]["hash"]).expect(200);
    assert_eq!(back(&tried["candidate"]["hash"]).problem(409)["type"], "/problems/step-refused");
    assert_eq!(client.consumer("reports-one").expect("reports")["candidate"]["state"], "rolled-back");
}

#[track_caller]
fn place(client: &Client, orders: usize) {
    for _ in 0..orders {
        client.placed(&order(&[("TEA", 1)]));
    }
}
