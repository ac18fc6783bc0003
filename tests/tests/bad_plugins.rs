//! A bad plugin file never replaces a good one, and says what is wrong with it.

use fanfare_tests::crash::goods::Dice;
use fanfare_tests::load::Load;
use fanfare_tests::mutants::{self, Way};
use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, Value, guests, json};

/// Name of the case, the file, and a word that the reason must contain.
fn bad_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = guests::wasm("reports-two");
    let truncated = good[..good.len() / 2].to_vec();
    let cut_short = good[..good.len() - 1].to_vec();
    vec![
        ("no WebAssembly at all", b"#!/bin/sh\nrm -rf /\n".to_vec(), "WebAssembly"),
        ("an empty file", Vec::new(), "empty"),
        ("a truncated component", truncated, "end"),
        ("a component without its last byte", cut_short, "end"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "core module"),
        ("a component of no contract", b"\0asm\x0d\0\x01\0".to_vec(), "contract"),
        ("a component of a later contract", mutants::of_contract(&good, "0.9.0"), "contract"),
        ("one that traps when asked what it is", guests::wasm("trap-describe"), "describe"),
        ("compiled code for this machine", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(), "WebAssembly"),
    ]
}

#[test]
fn a_bad_file_is_refused_with_its_reason_while_the_old_version_keeps_running() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    let mut handled = 0;
    for (what, bytes, reason) in bad_files() {
        host.consumers.put("reports-one", &bytes);
        let refused = client.wait_for_consumer("reports-one", |consumer| {
            consumer["candidate"]["state"] == "failed" && mentions(&consumer["candidate"], reason)
        });
        assert_eq!(
            (&refused["state"], &refused["version"]),
            (&json!("running"), &json!("1.0.0")),
            "{what}: {refused:#}"
        );

        client.placed(&order(&[("TEA", 1)]));
        client.wait_until_idle();
        handled += 1;
        assert_eq!(client.counter("reports-one", "by-version/1"), handled, "{what}");

        // Back to a good file, so that each case begins alike.
        host.consumers.put("reports-one", &guests::wasm("reports-one"));
        client.wait_for_consumer("reports-one", |consumer| consumer["candidate"].is_null());
    }
}

#[test]
fn a_bad_file_of_any_kind_leaves_the_old_version_at_work_under_load() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    let (small, good, mut dice) = (mutants::guest(), guests::wasm("reports-one"), Dice::new(7));
    let load = Load::begin(&client, 2);
    for way in Way::ALL {
        // What happened to bytes may have done no harm; that is no bad file.
        let bad = std::iter::repeat_with(|| mutants::make(way, &small, &mut dice));
        let bad =
            bad.take(200).find(|bytes| way.is_valid_wasm() || way == Way::TypesInTypes || !mutants::is_valid(bytes));
        host.consumers.put("reports-one", &bad.unwrap_or_else(|| panic!("{way:?} does no harm")));
        let refused = client.wait_for_consumer("reports-one", |consumer| consumer["candidate"]["state"] == "failed");
        let reason = refused["candidate"]["reason"].as_str().expect("a reason");
        assert!((1..5_000).contains(&reason.len()), "{way:?}: {reason}");
        assert_eq!(
            (&refused["state"], &refused["version"]),
            (&json!("running"), &json!("1.0.0")),
            "{way:?}: {refused:#}"
        );
        host.consumers.put("reports-one", &good);
        client.wait_for_consumer("reports-one", |consumer| consumer["candidate"].is_null());
    }
    let placed = load.end();
    client.wait_until_idle();
    assert_eq!(usize::try_from(client.counter("reports-one", "by-version/1")), Ok(placed));
}

#[test]
fn a_bad_file_that_comes_while_the_host_is_down_does_not_replace_what_ran_either() {
    let mut host = TestHost::with(&["reports-one"]);
    host.kill();
    host.consumers.put("reports-one", b"no plugin at all");
    host.start();
    let client = host.client();
    let refused = client.wait_for_consumer("reports-one", |consumer| consumer["candidate"]["state"] == "failed");
    assert_eq!((&refused["state"], &refused["version"]), (&json!("running"), &json!("1.0.0")), "{refused:#}");
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "by-version/1"), 1);
}

#[test]
fn a_bad_file_with_nothing_before_it_is_listed_with_its_reason_and_hurts_nobody() {
    let mut host = TestHost::new();
    host.consumers.add("reports-one");
    for (case, (_, bytes, _)) in bad_files().into_iter().enumerate() {
        host.consumers.put(&format!("bad-{case}"), &bytes);
    }
    host.consumers.make_folder("bad-folder");
    host.start();
    let client = host.client();
    for (case, (what, _, reason)) in bad_files().into_iter().enumerate() {
        let consumer = client.wait_for_consumer(&format!("bad-{case}"), |consumer| consumer["state"] == "failed");
        assert!(mentions(&consumer, reason), "{what}: {consumer:#}");
    }
    let folder = client.wait_for_consumer("bad-folder", |consumer| consumer["state"] == "failed");
    assert!(mentions(&folder, "folder") || mentions(&folder, "directory"), "{folder:#}");

    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 1);

    // A good file takes the place of the bad one.
    host.consumers.put("bad-0", &guests::wasm("reports-two"));
    client.wait_for_consumer("bad-0", |consumer| consumer["state"] == "running");
}

#[test]
fn a_file_whose_name_is_no_consumer_name_is_not_loaded_and_said() {
    let mut host = TestHost::new();
    host.consumers.add("reports-one");
    host.start();
    host.consumers.put("Reports_Two", &guests::wasm("reports-two"));
    fanfare_tests::eventually("the log says so", || {
        let log = host.log();
        if log.contains("Reports_Two") { Ok(()) } else { Err(log) }
    });
    assert_eq!(host.client().consumers().len(), 1);
}

#[test]
fn a_bad_side_file_leaves_the_old_policy_in_force_and_names_its_line() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    host.consumers.set_policy("reports-one", "isolation = \"event\"\nconcurency = 4\n");
    let refused = client.wait_for_consumer("reports-one", |consumer| consumer["reason"].is_string());
    for expected in ["keeps running under the side file from before", "reports-one.toml:2", "concurency", "concurrency"]
    {
        assert!(mentions(&refused, expected), "no {expected}: {refused:#}");
    }
    assert!(refused["state"] == "running" && refused["candidate"].is_null(), "the plugin is right: {refused:#}");
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 1);

    host.consumers.set_policy("reports-one", "concurrency = 4\n");
    client.wait_for_consumer("reports-one", |consumer| consumer["reason"].is_null());
}

fn mentions(consumer: &Value, word: &str) -> bool {
    consumer["reason"].as_str().is_some_and(|reason| reason.to_lowercase().contains(&word.to_lowercase()))
}
