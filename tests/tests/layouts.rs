//! Versions that lay their state out differently never share one: not side by side, and not by going back.

use std::time::Duration;

use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, guests, json, program, within};

const ROLLOUT: &str = "[rollout]\npercent = 50\nmin_events = 40\nmax_failure_rate = 0.05\n";
const REBUILT_WITHIN: Duration = Duration::from_secs(120);

fn with_reports(policy: &str) -> TestHost {
    let mut host = TestHost::new();
    host.consumers.set_policy("reports", policy);
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    host
}

fn place(client: &Client, orders: usize) {
    (0..orders).for_each(|_| drop(client.placed(&order(&[("TEA", 1)]))));
    client.wait_until_idle();
}

/// Events that each version handled, by the state as it is.
fn by_version(client: &Client) -> [i64; 2] {
    ["by-version/1", "by-version/4"].map(|key| client.counter("reports", key))
}

fn runs(client: &Client, version: &str) -> Value {
    client.wait_for_consumer("reports", |reports| reports["version"] == version && reports["state"] == "running")
}

/// The consumer, once its newest file is refused for its layout.
fn is_refused(client: &Client) -> Value {
    client.wait_for_consumer("reports", |reports| {
        reports["candidate"]["state"] == "failed" && reports["candidate"]["reason"].to_string().contains("layout")
    })
}

fn rebuild(client: &Client) {
    let asked = json!({"from": "beginning", "rebuild": true});
    let _ = client.post("/v1/consumers/reports/backfill", &asked).expect(202);
    within(REBUILT_WITHIN, "the state is made anew", || {
        let report = client.get("/v1/consumers/reports/backfill").expect(200).json();
        if report["state"] == "done" { Ok(()) } else { Err(report.to_string()) }
    });
}

#[test]
fn a_version_with_another_layout_of_state_is_no_canary_and_takes_over_only_for_all() {
    let mut host = with_reports(ROLLOUT);
    host.consumers.put("reports", &guests::wasm("reports-relaid"));
    let shown = is_refused(&host.client());
    assert_eq!((&shown["state"], &shown["version"]), (&json!("running"), &json!("1.0.0")), "{shown:#}");
    let why = "it keeps state of layout 2 and the version that runs of layout 1";
    let reason = shown["candidate"]["reason"].as_str().expect("a reason");
    assert!(reason.contains(why) && reason.contains("`fanfare consumers promote reports`"), "{reason}");
    let cli =
        |command| program::run(["consumers", command, "reports", "--url", host.client().base()]).succeeded().stdout;
    let (shown, history) = (cli("show"), cli("history"));
    assert!(shown.contains(why) && shown.contains("promote reports"), "{shown}");
    assert!(history.contains("refused") && history.contains("it keeps state of layout 2"), "{history}");
    place(&host.client(), 20);
    assert_eq!(by_version(&host.client()), [20, 0], "no order is its share");
    host.kill();
    host.start();
    assert_eq!(is_refused(&host.client())["version"], "1.0.0");

    let told = program::run(["consumers", "promote", "reports", "--url", host.client().base()]).succeeded();
    assert!(told.stdout.contains("4.0.0"), "{told:#?}");
    let shown = runs(&host.client(), "4.0.0");
    assert_eq!(shown["candidate"], Value::Null, "{shown:#}");
    place(&host.client(), 3);
    assert_eq!(by_version(&host.client()), [20, 3]);
    // Nor is the former one tried beside it.
    host.consumers.put("reports", &guests::wasm("reports-one"));
    let shown = is_refused(&host.client());
    assert_eq!(shown["version"], "4.0.0", "{shown:#}");
}

#[test]
fn there_is_no_way_back_across_layouts_but_with_a_state_that_is_made_anew() {
    let mut host = with_reports("");
    let client = host.client();
    place(&client, 2);
    let one = runs(&client, "1.0.0")["hash"].as_str().expect("a hash").to_owned();
    host.consumers.put("reports", &guests::wasm("reports-relaid"));
    runs(&client, "4.0.0");
    place(&client, 3);
    assert_eq!(by_version(&client), [2, 3]);

    let refuses = |client: &Client| {
        for to in [json!({}), json!({"version": one})] {
            let refused = client.post("/v1/consumers/reports/rollback", &to).problem(409);
            assert_eq!(refused["type"], "/problems/step-refused");
            let detail = refused["detail"].as_str().expect("a detail");
            assert!(detail.contains("keeps state of layout 1 and the one that runs of layout 2"), "{detail}");
            assert!(detail.contains("put a version with state-version 2") && detail.contains("--rebuild"), "{detail}");
        }
        let told = program::run(["consumers", "rollback", "reports", "--url", client.base()]);
        assert!(told.code() == Some(3) && told.stderr.contains("there is no way back"), "{told:#?}");
        assert_eq!(runs(client, "4.0.0")["candidate"], Value::Null);
    };
    refuses(&client);
    // What was made anew is of the version that runs, and the state from before is gone with it.
    rebuild(&client);
    assert_eq!(by_version(&client), [0, 5]);
    refuses(&client);
    host.kill();
    host.start();
    let client = host.client();
    refuses(&client);

    // As the refusal says.
    host.consumers.put("reports", &guests::wasm("reports-one"));
    runs(&client, "1.0.0");
    rebuild(&client);
    place(&client, 1);
    assert_eq!(by_version(&client), [6, 0]);
}

#[test]
fn a_shadow_with_another_layout_of_state_compares_nothing_and_says_why() {
    let host = with_reports("shadow = \"next.wasm\"\n");
    let client = host.client();
    let folder = host.consumers.folder().join("shadow");
    let put = |guest: &str| {
        std::fs::create_dir_all(&folder).expect("a folder for shadows");
        std::fs::write(folder.join("unfinished"), guests::wasm(guest)).expect("a new file");
        std::fs::rename(folder.join("unfinished"), folder.join("next.wasm")).expect("a new file in place");
    };
    put("reports-relaid");
    let shown = client.wait_for_consumer("reports", |reports| reports["shadow"]["version"] == "4.0.0");
    let reason = shown["shadow"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("layout 2 and the version that runs of layout 1"), "{shown:#}");
    assert!(reason.contains("`fanfare plugin run` with `--state empty`"), "{reason}");
    let told = program::run(["consumers", "show", "reports", "--url", client.base()]).succeeded().stdout;
    assert!(told.contains("layout 2 and the version"), "{told}");
    place(&client, 2);
    assert_eq!(by_version(&client), [2, 0]);
    let report = client.get("/v1/consumers/reports/shadow").expect(200).json();
    assert_eq!((&report["compared"], report["reason"].as_str()), (&Value::Null, Some(reason)), "{report:#}");
    // One that can read the state takes its place.
    put("reports-two");
    client.wait_for_consumer("reports", |reports| {
        reports["shadow"]["version"] == "2.0.0" && reports["shadow"]["reason"].is_null()
    });
}
