//! Versions that lay their state out differently never share one: not side by side, and not by going back, which takes the
//! state from before.

use std::time::Duration;

use fanfare_tests::load::Load;
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, eventually, guests, json, program, within};

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
fn without_the_state_from_before_there_is_no_way_back_but_with_one_that_is_made_anew() {
    let mut host = with_reports("keep_state = \"0\"\n");
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
            assert!(detail.contains("(`keep_state` is \"0\" in its side file)"), "{detail}");
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

/// A host whose `reports` is 4.0.0 in another layout, and handled so many events in either.
fn relaid(policy: &str, orders: usize) -> TestHost {
    let host = with_reports(policy);
    place(&host.client(), orders);
    host.consumers.put("reports", &guests::wasm("reports-relaid"));
    runs(&host.client(), "4.0.0");
    place(&host.client(), orders);
    let orders = i64::try_from(orders).expect("a count");
    assert_eq!(by_version(&host.client()), [orders, orders]);
    host
}

fn cli(client: &Client, arguments: &[&str]) -> program::Run {
    program::run(["consumers"].into_iter().chain(arguments.iter().copied()).chain(["--url", client.base()]))
}

/// With what only one that is asked for tells.
fn all_of(client: &Client) -> Value {
    client.get("/v1/consumers/reports").expect(200).json()
}

/// Once it has gone back to this version.
fn is_back(client: &Client, version: &str) {
    within(REBUILT_WITHIN, &format!("it is {version}"), || match client.consumer("reports") {
        Some(shown) if shown["version"] == version && shown["way_back"].is_null() => Ok(()),
        other => Err(format!("{other:#?}")),
    })
}

#[test]
fn going_back_across_layouts_and_on_again_under_load_loses_and_repeats_nothing() {
    let host = relaid("", 20);
    let client = host.client();
    let shown = cli(&client, &["show", "reports"]).succeeded().stdout;
    assert!(shown.contains("former state   layout 1 of version"), "{shown}");
    let load = Load::begin(&client, 2);
    let told = cli(&client, &["rollback", "reports", "--reason", "wrong totals"]).succeeded().stdout;
    assert!(told.contains("reports is on its way back to version 1.0.0") && told.contains("--status"), "{told}");
    is_back(&client, "1.0.0");
    let shown = all_of(&client);
    assert_eq!(
        (&shown["candidate"]["state"], &shown["former_state"]["state_version"]),
        (&json!("rolled-back"), &json!(2))
    );
    let before = client.counter("reports", "by-version/1");
    eventually("it goes on", || match client.counter("reports", "by-version/1") {
        now if now > before => Ok(()),
        now => Err(now.to_string()),
    });
    let mut placed = load.end() + 40;
    client.wait_until_idle();
    assert_eq!(by_version(&client), [i64::try_from(placed).expect("a count"), 0]);
    assert_eq!(client.counter("reports", "handled"), i64::try_from(placed).expect("a count"));

    let load = Load::begin(&client, 2);
    let told = cli(&client, &["promote", "reports", "--json"]).succeeded().json();
    assert_eq!((&told["way_back"]["version"], &told["version"]), (&json!("4.0.0"), &json!("1.0.0")), "{told:#}");
    is_back(&client, "4.0.0");
    placed += load.end();
    client.wait_until_idle();
    assert_eq!(by_version(&client), [20, i64::try_from(placed).expect("a count") - 20]);
    let status = cli(&client, &["backfill", "reports", "--status"]).succeeded().stdout;
    assert!(status.starts_with("way back to ") && status.contains(" done: "), "{status}");
    let history = client.get("/v1/consumers/reports/versions").expect(200).json();
    let outcomes: Vec<_> = history["versions"].as_array().expect("rows").iter().map(|row| &row["outcome"]).collect();
    assert_eq!(outcomes, ["promoted", "rolled-back", "live", "live"]);
    assert_eq!(history["versions"][1]["reason"], "wrong totals");
    let checked = program::run(["check", "--url", client.base()]).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked:?}");
}

#[test]
fn a_host_that_is_killed_on_the_way_back_goes_on_where_it_was() {
    let mut host = relaid("concurrency = 1\n", 300);
    let report = |client: &Client| client.get("/v1/consumers/reports/backfill").expect(200).json();
    let _ = host.client().post("/v1/consumers/reports/rollback", &json!({})).expect(202);
    let mut delivered = 0;
    for _ in 0..3 {
        let client = host.client();
        place(&client, 5);
        eventually("it comes on", || match report(&client) {
            now if now["state"] == "done" || now["delivered"].as_u64() > Some(delivered) => Ok(()),
            now => Err(now.to_string()),
        });
        host.kill();
        host.start();
        let now = report(&host.client());
        assert!(now["delivered"].as_u64() >= Some(delivered), "{now}");
        delivered = now["delivered"].as_u64().expect("a count");
    }
    let client = host.client();
    is_back(&client, "1.0.0");
    place(&client, 1);
    assert_eq!(by_version(&client), [616, 0]);
}

#[test]
fn a_way_back_is_shown_steered_and_refused_as_it_stands() {
    let mut host = relaid("[grant]\nrecords = [\"rows\"]\n", 5);
    let client = host.client();
    let post = |client: &Client, what: &str| client.post(&format!("/v1/consumers/reports/{what}"), &json!({}));
    let unknown = client.post("/v1/consumers/reports/rollback", &json!({"version": "0000000"})).problem(404);
    assert_eq!(unknown["type"], "/problems/unknown-version");
    // While it is paused, nothing goes on.
    let _ = post(&client, "pause").expect(200);
    let _ = post(&client, "rollback").expect(202);
    let refused = post(&client, "rollback").problem(409);
    assert!(refused["detail"].to_string().contains("a way back, is under way"), "{refused:#}");
    host.kill();
    host.start();
    let client = host.client();
    let shown = client.wait_for_consumer("reports", |reports| reports["way_back"]["version"] == "1.0.0");
    assert_eq!((&shown["version"], &shown["backfill"]["events"]), (&json!("4.0.0"), &json!(5)), "{shown:#}");
    let told = cli(&client, &["show", "reports"]).succeeded().stdout;
    assert!(told.contains("way back       version 1.0.0 (") && told.contains("with state of layout 1"), "{told}");
    assert!(told.contains("way back to ") && told.contains("0 of 5 events"), "{told}");

    let _ = cli(&client, &["backfill", "reports", "--cancel"]).succeeded();
    let _ = post(&client, "resume").expect(200);
    is_back(&client, "4.0.0");
    let shown = all_of(&client);
    assert_eq!((&shown["former_state"]["state_version"], &shown["candidate"]), (&json!(1), &Value::Null), "{shown:#}");
    place(&client, 1);
    assert_eq!(by_version(&client), [5, 6], "the version that runs goes on");
    // Another file is another decision.
    let _ = post(&client, "pause").expect(200);
    let _ = post(&client, "rollback").expect(202);
    host.consumers.put("reports", &guests::variant("reports-relaid", 1));
    let hash = shown["hash"].clone();
    client.wait_for_consumer("reports", |reports| reports["hash"] != hash && reports["way_back"].is_null());
    assert_eq!(client.get("/v1/consumers/reports/backfill").expect(200).json()["state"], "cancelled");
    let _ = post(&client, "resume").expect(200);
    place(&client, 1);
    assert_eq!(by_version(&client), [5, 7]);
    let _ = cli(&client, &["rollback", "reports", "--to", &first_of(&client)]).succeeded();
    is_back(&client, "1.0.0");
    assert_eq!(by_version(&client), [12, 0]);
}

/// A side file that grants what `needs-setting` needs or does not, and is seen to be in force by what the consumer hears.
fn with_region(consumers: &fanfare_tests::consumers::Consumers, client: &Client, granted: bool, mark: &str) {
    let settings = if granted { "[settings]\nregion = \"eu\"\n" } else { "" };
    consumers.set_policy("reports", &format!("subscribe = [\"order.placed\", \"com.example.{mark}\"]\n{settings}"));
    client.wait_for_consumer("reports", |reports| reports["subscriptions"].to_string().contains(mark));
}

#[test]
fn a_way_back_is_refused_without_the_grants_of_its_version_and_waits_where_they_are_taken_away() {
    let mut host = TestHost::new();
    host.consumers.set_policy("reports", "[settings]\nregion = \"eu\"\n");
    host.consumers.put("reports", &guests::wasm("needs-setting"));
    host.start();
    let client = host.client();
    place(&client, 3);
    host.consumers.put("reports", &guests::wasm("reports-relaid"));
    runs(&client, "4.0.0");
    place(&client, 2);
    with_region(&host.consumers, &client, false, "first");
    let post = |what: &str| client.post(&format!("/v1/consumers/reports/{what}"), &json!({}));
    let refused = post("rollback").problem(409);
    assert!(refused["detail"].to_string().contains("region"), "{refused:#}");
    let shown = all_of(&client);
    assert_eq!((&shown["version"], &shown["way_back"]), (&json!("4.0.0"), &Value::Null), "{shown:#}");
    assert_eq!(shown["former_state"]["state_version"], 1, "{shown:#}");
    let _ = client.get("/v1/consumers/reports/backfill").problem(404);
    place(&client, 1);

    // Granted, it sets out; and without its grant it stands still, and the version that runs goes on.
    with_region(&host.consumers, &client, true, "second");
    let _ = post("pause").expect(200);
    let _ = post("rollback").expect(202);
    with_region(&host.consumers, &client, false, "third");
    let waits = |shown: &Value| shown["way_back"]["reason"].to_string().contains("region");
    client.wait_for_consumer("reports", waits);
    let report = client.get("/v1/consumers/reports/backfill").expect(200).json();
    assert!(report["waits"].to_string().contains("region"), "{report:#}");
    let told = cli(&client, &["backfill", "reports", "--status"]).succeeded().stdout;
    assert!(
        told.contains("it waits, because the version that it leads to does not run") && told.contains("region"),
        "{told}"
    );
    let _ = post("resume").expect(200);
    place(&client, 1);
    assert_eq!(client.counter("reports", "by-version/4"), 4);
    host.kill();
    host.start();
    let client = host.client();
    let shown = client.wait_for_consumer("reports", waits);
    assert_eq!(shown["version"], "4.0.0", "{shown:#}");

    with_region(&host.consumers, &client, true, "fourth");
    client.wait_for_consumer("reports", |reports| reports["version"] != "4.0.0" && reports["way_back"].is_null());
    place(&client, 1);
    assert_eq!((client.counter("reports", "region/eu"), client.counter("reports", "by-version/4")), (8, 0));
}

/// The version that ran first.
fn first_of(client: &Client) -> String {
    let history = client.get("/v1/consumers/reports/versions").expect(200).json();
    let rows = history["versions"].as_array().expect("rows");
    rows.last().and_then(|row| row["hash"].as_str()).expect("a hash").to_owned()
}

#[test]
fn a_state_that_is_too_large_to_keep_is_taken_over_and_that_is_said() {
    let host = relaid("keep_state = \"16B\"\n", 2);
    let client = host.client();
    let why = "`keep_state` allows 16 in its side file";
    let shown = all_of(&client);
    assert!(shown["former_state"]["reason"].to_string().contains(why), "{shown:#}");
    let told = cli(&client, &["show", "reports"]).succeeded().stdout;
    assert!(told.contains("former state   not kept: it weighs") && told.contains(why), "{told}");
    eventually("the log says it", || match host.log() {
        log if log.contains("what it was before is not kept") && log.contains(why) => Ok(()),
        log => Err(log),
    });
    let refused = client.post("/v1/consumers/reports/rollback", &json!({})).problem(409);
    assert!(refused["detail"].to_string().contains(why), "{refused:#}");
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
