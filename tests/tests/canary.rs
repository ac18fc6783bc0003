//! A new version gets a share of the orders, and becomes the one for all or goes, by what it shows.

use std::collections::BTreeSet;

use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, eventually, guests, json, program};

/// Three failures end it.
const ROLLOUT: &str = "[rollout]\npercent = 50\nmin_events = 40\nmax_failure_rate = 0.05\n";
/// More than it takes to show 40 events of a half, or three failures of a fifth of them.
const ORDERS_MAX: usize = 600;

fn with_rollout() -> TestHost {
    let mut host = TestHost::new();
    host.consumers.set_policy("reports", ROLLOUT);
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    host
}

/// Tries `guest` on a share of the orders, and places orders until it is judged; their ids.
fn tried(host: &TestHost, guest: &str, judged: impl Fn(&Value) -> bool) -> Vec<String> {
    let client = host.client();
    host.consumers.put("reports", &guests::wasm(guest));
    let shown = client.wait_for_consumer("reports", |consumer| consumer["candidate"]["state"] == "canary");
    assert_eq!((&shown["state"], &shown["version"]), (&json!("running"), &json!("1.0.0")), "{shown:#}");
    assert_eq!(shown["candidate"]["share"], "50%", "{shown:#}");
    let mut ids = Vec::new();
    while !judged(&client.consumer("reports").expect("reports")) {
        assert!(ids.len() < ORDERS_MAX, "not judged: {:#}", client.consumer("reports").expect("reports"));
        ids.push(client.placed(&order(&[("TEA", 1)])));
    }
    client.wait_until_idle();
    let checked = program::run(["check", "--url", client.base()]).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked:?}");
    ids
}

#[test]
fn a_version_that_fails_a_fifth_of_its_events_goes_by_itself_and_costs_no_event_and_no_attempt() {
    let mut host = with_rollout();
    let ids = tried(&host, "reports-flaky", |consumer| consumer["candidate"]["state"] == "rolled-back");
    let client = host.client();
    let shown = client.consumer("reports").expect("reports");
    assert_eq!((&shown["version"], &shown["dead"], &shown["pending"]), (&json!("1.0.0"), &json!(0), &json!(0)));
    assert!(shown["reason"].to_string().contains("it failed 3 of "), "{shown:#}");

    let mut failed = 0;
    let mut by_candidate = 0;
    for id in &ids {
        let delivery = client.order(id)["deliveries"][0].clone();
        assert_eq!((&delivery["state"], &delivery["attempts"]), (&json!("done"), &json!(1)), "{delivery:#}");
        match &attempts(&client, id)[..] {
            [(outcome, version, candidate)] => {
                assert_eq!((outcome.as_str(), version.starts_with("3.0.0")), ("done", *candidate));
                by_candidate += i64::from(*candidate);
            }
            [(outcome, version, true), (again, before, false)] => {
                assert!(["reject", "retry", "trap"].contains(&outcome.as_str()) && version.starts_with("3.0.0"));
                assert!(again == "done" && before.starts_with("1.0.0"), "{again} by {before}");
                failed += 1;
            }
            other => panic!("{other:#?}"),
        }
    }
    // What was under way when the third failed may have failed too.
    assert!((3..=10).contains(&failed) && by_candidate + failed <= 40, "{failed} failed, {by_candidate} done");
    let all = i64::try_from(ids.len()).expect("a count");
    let counted = ["handled", "by-version/1", "by-version/3"].map(|key| client.counter("reports", key));
    assert_eq!(counted, [all, all - by_candidate, by_candidate], "what it failed left nothing behind");
    assert_eq!(client.meter("fanfare_rollouts_total{consumer=\"reports\",outcome=\"rolled-back\"}"), 1.0);

    host.kill();
    host.start();
    let shown = host.client().consumer("reports").expect("reports");
    assert_eq!((&shown["version"], &shown["candidate"]["state"]), (&json!("1.0.0"), &json!("rolled-back")));
}

#[test]
fn a_good_version_is_promoted_by_itself_and_stays() {
    let mut host = with_rollout();
    let ids = tried(&host, "reports-two", |consumer| consumer["version"] == "2.0.0");
    let client = host.client();
    assert_eq!(client.consumer("reports").expect("reports")["candidate"], Value::Null);
    let all = i64::try_from(ids.len()).expect("a count");
    let counted = ["by-version/1", "by-version/2"].map(|key| client.counter("reports", key));
    assert!(counted[0] > 0 && counted[1] >= 40 && counted[0] + counted[1] == all, "{counted:?} of {all}");
    let told = program::run(["consumers", "history", "reports", "--url", client.base()]).succeeded().stdout;
    let outcomes: Vec<_> = ["promoted", "canary", "live "].map(|outcome| told.find(outcome)).into();
    assert!(outcomes.is_sorted() && outcomes.iter().all(Option::is_some), "{told}");
    host.kill();
    host.start();
    assert_eq!(host.client().consumer("reports").expect("reports")["version"], "2.0.0");
}

#[test]
fn what_a_rebuild_does_again_is_no_comparison_with_a_version_that_is_tried() {
    let host = with_rollout();
    let client = host.client();
    (0..20).for_each(|_| drop(client.placed(&order(&[("TEA", 1)]))));
    client.wait_until_idle();
    host.consumers.put("reports", &guests::wasm("reports-two"));
    client.wait_for_consumer("reports", |consumer| consumer["candidate"]["state"] == "canary");
    let path = "/v1/consumers/reports/backfill";
    let _ = client.post(path, &json!({"from": "beginning", "rebuild": true})).expect(202);
    eventually("the state is made anew", || match client.get(path).expect(200).json() {
        report if report["state"] == "done" => Ok(()),
        report => Err(report.to_string()),
    });
    let candidate = || client.consumer("reports").expect("reports")["candidate"].clone();
    let beside = candidate();
    assert_eq!((&beside["state"], &beside["events"]), (&json!("canary"), &json!(0)), "{beside:#}");
    assert_eq!(beside["live_duration_mean_us"], Value::Null, "{beside:#}");
    assert_eq!(["by-version/1", "by-version/2"].map(|key| client.counter("reports", key)), [20, 0]);
    // An event of its own share is one.
    for placed in 0.. {
        assert!(placed < 30, "{:#}", candidate());
        client.placed(&order(&[("TEA", 1)]));
        client.wait_until_idle();
        if candidate()["live_duration_mean_us"].as_u64().is_some() {
            break;
        }
    }
}

#[test]
fn all_events_of_an_order_are_handled_by_one_version() {
    let mut host = TestHost::new();
    host.consumers.set_policy("lanes", "[rollout]\npercent = 50\nmin_events = 1000\n");
    host.consumers.put("lanes", &guests::wasm("lanes"));
    host.start();
    let client = host.client();
    host.consumers.put("lanes", &guests::variant("lanes", 1));
    client.wait_for_consumer("lanes", |consumer| consumer["candidate"]["state"] == "canary");
    let ids: Vec<_> = (0..20).map(|_| client.placed(&order(&[("TEA", 1)]))).collect();
    for id in &ids {
        let _ = client.cancel(id, "changed my mind").expect(200);
    }
    client.wait_until_idle();
    let mut sides = BTreeSet::new();
    for id in &ids {
        let of = attempts(&client, id).into_iter().map(|(_, version, candidate)| (version, candidate));
        // What a candidate fails, the version before handles: that is the same side.
        let tried: Vec<_> = of.collect();
        let side = tried.iter().any(|(_, candidate)| *candidate);
        let first_tries = tried.iter().filter(|(_, candidate)| *candidate == side).count();
        assert!(first_tries >= 2, "both events of {id}: {tried:#?}");
        sides.insert(side);
    }
    assert_eq!(sides.len(), 2, "half of 20 orders each");
    for (id, entry) in ids.iter().zip(client.entries("lanes", "lane/")) {
        assert_eq!(entry["value"], "1 2", "{id}");
    }
}

/// Outcome, version, and whether it was the candidate's, of each attempt at the order's events.
fn attempts(client: &Client, id: &str) -> Vec<(String, String, bool)> {
    let timeline = client.get(&format!("/v1/orders/{id}/timeline")).expect(200).json();
    let moments = timeline["timeline"].as_array().expect("a timeline");
    let attempts = moments.iter().filter(|moment| moment["what"] == "attempt");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    attempts.map(|it| (text(&it["outcome"]), text(&it["version"]), it["candidate"] == true)).collect()
}
