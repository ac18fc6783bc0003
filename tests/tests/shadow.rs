//! A candidate handles the same events as the version that runs, and nothing of it takes effect but a report.

use std::collections::BTreeSet;

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, Value, eventually, guests, json, program};

/// Puts a guest where the side file of `reports` names it.
fn put_shadow(host: &TestHost, bytes: &[u8]) {
    let folder = host.consumers.folder().join("shadow");
    std::fs::create_dir_all(&folder).expect("a folder for shadows");
    std::fs::write(folder.join("unfinished"), bytes).expect("a new file");
    std::fs::rename(folder.join("unfinished"), folder.join("next.wasm")).expect("a new file in place");
}

fn with_shadow(guest: &str) -> TestHost {
    let mut host = TestHost::new();
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.consumers.set_policy("reports", "shadow = \"next.wasm\"\n");
    put_shadow(&host, &guests::wasm(guest));
    host.start();
    host
}

#[test]
fn what_a_candidate_handles_is_told_as_not_seen_by_the_shadow() {
    let host = with_shadow("reports-twice");
    let client = host.client();
    host.consumers.set_policy(
        "reports",
        "shadow = \"next.wasm\"\n[rollout]\npercent = 50\nmin_events = 1000\nmax_failure_rate = 0.05\n",
    );
    host.consumers.put("reports", &guests::wasm("reports-two"));
    client.wait_for_consumer("reports", |reports| reports["candidate"]["state"] == "canary");
    for _ in 0..20 {
        client.placed(&order(&[("TEA", 1)]));
    }
    client.wait_until_idle();
    let report = client.get("/v1/consumers/reports/shadow").expect(200).json();
    let count = |name: &str| report[name].as_i64().expect("a count");
    let tried = client.counter("reports", "by-version/2");
    assert!(tried > 0 && count("passed_over") >= tried, "{tried} of {report:#}");
    assert_eq!(count("compared") + count("passed_over"), 20, "{report:#}");
}

#[test]
fn a_shadow_with_one_changed_rule_names_exactly_the_orders_that_differ() {
    let host = with_shadow("reports-twice");
    let client = host.client();
    assert_eq!(client.consumers().len(), 1, "a shadow is no consumer of its own");
    let shown = client.consumer("reports").expect("reports");
    assert_eq!((&shown["version"], &shown["shadow"]["version"]), (&json!("1.0.0"), &json!("1.1.0")), "{shown:#}");
    // A shadow may take a second at most; that is no limit of the consumer's.
    let limits = client.get("/v1/consumers/reports").expect(200).json()["limits"].clone();
    assert_eq!(limits["time"]["limit"], 5_000.0, "{limits:#}");
    let report = || client.get("/v1/consumers/reports/shadow").expect(200).json();
    let (mut large, mut placed) = (BTreeSet::new(), 0_i64);
    for units in [1, 10, 3, 12, 9, 10] {
        let before = report()["compared"].clone();
        // An event that finds the shadow at rest, since the one before took it long, is passed over.
        while report()["compared"] == before {
            let id = client.placed(&order(&[("TEA", units)]));
            placed += 1;
            client.wait_until_idle();
            if units >= 10 && report()["compared"] != before {
                large.insert(id);
            }
        }
    }
    assert_eq!(client.counter("reports", "handled"), placed, "nothing that the shadow did was committed");

    let report = report();
    assert_eq!(
        [&report["compared"], &report["differing"], &report["passed_over"]],
        [&json!(6), &json!(3), &json!(placed - 6)],
        "{report:#}"
    );
    let groups = report["differences"].as_array().expect("groups");
    assert_eq!(groups.len(), 1, "{report:#}");
    assert_eq!((&groups[0]["what"], &groups[0]["count"]), (&json!("state"), &json!(3)));
    let examples = groups[0]["examples"].as_array().expect("examples");
    let named: BTreeSet<String> =
        examples.iter().map(|it| it["order_id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(named, large);
    let by = |side: &str| examples[0][side]["adjustments"][0]["by"].clone();
    assert_eq!((by("live"), by("shadow")), (json!(1), json!(2)), "{report:#}");

    let told = program::run(["consumers", "shadow", "reports", "--url", client.base()]).succeeded().stdout;
    assert!(told.contains("next.wasm (1.1.0) did 3 of 6 events otherwise") && told.contains("state: 3"), "{told}");
}

#[test]
fn a_shadow_that_fails_slows_down_or_never_ends_changes_nothing_of_what_the_live_version_does() {
    let host = with_shadow("spin");
    let client = host.client();
    let mut seen = json!(null);
    for guest in ["spin", "trap-handle", "always-reject", "sleeps"] {
        put_shadow(&host, &guests::wasm(guest));
        let other = |shadow: &Value| shadow["hash"].is_string() && shadow["hash"] != seen;
        let shown = client.wait_for_consumer("reports", |consumer| other(&consumer["shadow"]));
        seen = shown["shadow"]["hash"].clone();
        let before = client.counter("reports", "handled");
        for _ in 0..3 {
            client.placed(&order(&[("TEA", 1)]));
        }
        client.wait_until_idle();
        assert_eq!(client.counter("reports", "handled"), before + 3, "beside {guest}");
    }
    // Its lane waited for no longer than that, whatever limits.time says.
    let told = eventually("the report tells of one that waits", || {
        let report = client.get("/v1/consumers/reports/shadow").expect(200).json();
        let detail = report["differences"][0]["examples"][0]["shadow"]["detail"].as_str().map(str::to_owned);
        detail.ok_or_else(|| report.to_string())
    });
    assert_eq!(told, "time: 1s");
    assert_eq!(client.consumer("reports").expect("reports")["dead"], 0);
}

#[test]
fn another_file_begins_another_report_and_one_that_is_not_there_is_said() {
    let host = with_shadow("reports-one");
    let client = host.client();
    client.placed(&order(&[("TEA", 20)]));
    client.wait_until_idle();
    let report = client.get("/v1/consumers/reports/shadow").expect(200).json();
    assert_eq!((&report["compared"], &report["differing"]), (&json!(1), &json!(0)), "{report:#}");

    put_shadow(&host, &guests::wasm("always-reject"));
    client.wait_for_consumer("reports", |consumer| consumer["shadow"]["version"] != "1.0.0");
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    let report = client.get("/v1/consumers/reports/shadow").expect(200).json();
    assert_eq!((&report["compared"], &report["differences"][0]["what"]), (&json!(1), &json!("outcome")), "{report:#}");
    let (live, shadow) =
        (&report["differences"][0]["examples"][0]["live"], &report["differences"][0]["examples"][0]["shadow"]);
    assert_eq!((&live["outcome"], &shadow["outcome"]), (&json!("done"), &json!("reject")));

    std::fs::remove_file(host.consumers.folder().join("shadow/next.wasm")).expect("it was there");
    let shown = client.wait_for_consumer("reports", |consumer| consumer["shadow"]["reason"].is_string());
    assert!(
        shown["shadow"]["reason"].to_string().contains("there is no file") && shown["state"] == "running",
        "{shown:#}"
    );
    host.consumers.set_policy("reports", "");
    client.wait_for_consumer("reports", |consumer| consumer["shadow"].is_null());
    assert_eq!(client.get("/v1/consumers/reports/shadow").problem(404)["type"], "/problems/no-shadow");
}
