//! A consumer has no capability that the operator did not grant.

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, Value, eventually, guests, json, program};

#[test]
fn a_plugin_without_its_grants_waits_and_says_what_to_add() {
    let mut host = TestHost::new();
    host.consumers.put("bare", &guests::wasm("bare"));
    host.start();
    let client = host.client();
    let waiting = client.wait_for_consumer("bare", |consumer| consumer["state"] == "awaiting-grant");
    let reason = waiting["reason"].as_str().expect("a reason");
    for line in ["change_order = true", "com.example.bare.done", "email = true", "sms = true", "\"bare\"", "bare.toml"]
    {
        assert!(reason.contains(line), "no {line}: {reason}");
    }
    let id = client.placed(&order(&[("TEA", 1)]));
    assert_eq!(client.order(&id)["status"], "placed");

    // What the reason said, saved, is enough, and the order waited for it.
    host.consumers.set_policy("bare", &guests::side_file("bare").expect("bare.toml"));
    client.wait_for_consumer("bare", |consumer| consumer["state"] == "running");
    client.wait_for_status(&id, "confirmed");
}

#[test]
fn every_import_answers_as_the_contract_says() {
    let host = TestHost::with(&["bare"]);
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "confirmed");
    client.wait_until_idle();

    let seen = client.entries("bare", "seen");
    let seen: Value = serde_json::from_str(seen[0]["value"].as_str().expect("a text")).expect("JSON");
    let expected = json!({
        "entry": "one", "entries": ["entry/c"], "count": 5, "counters": [["counter/a", 5]], "shortage": ["counter/a", 4],
        "statuses": ["placed", "confirmed"], "setting": "hello", "misfit": true,
    });
    assert_eq!(seen, expected);
    let rows = client.get("/v1/records/bare").expect(200).lines();
    assert_eq!((rows.len(), &rows[0]["text"], &rows[0]["int64"]), (1, &json!(id), &json!(-1)));
    let messages = client.messages();
    let kinds: Vec<_> = messages.iter().map(|message| message["kind"].as_str().unwrap_or_default()).collect();
    assert!(kinds.contains(&"email") && kinds.contains(&"sms"), "{messages:#?}");
    assert!(messages.iter().all(|message| message["order_id"] == id && message["consumer"] == "bare"), "{messages:#?}");
}

#[test]
fn a_plugin_that_needs_a_setting_waits_for_it() {
    let mut host = TestHost::new();
    host.consumers.put("needs-setting", &guests::wasm("needs-setting"));
    host.start();
    let client = host.client();
    let waiting = client.wait_for_consumer("needs-setting", |consumer| consumer["state"] == "awaiting-grant");
    assert!(waiting["reason"].as_str().is_some_and(|reason| reason.contains("region")), "{waiting:#}");

    host.consumers.set_policy("needs-setting", "[settings]\nregion = \"eu\"\n");
    client.wait_for_consumer("needs-setting", |consumer| consumer["state"] == "running");
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("needs-setting", "region/eu"), 1);
}

#[test]
fn a_rebuild_that_waits_for_a_grant_says_so_at_once_and_goes_on_when_it_is_there() {
    let mut host = TestHost::new();
    host.consumers.put("needs-setting", &guests::wasm("needs-setting"));
    host.start();
    let client = host.client();
    client.wait_for_consumer("needs-setting", |consumer| consumer["state"] == "awaiting-grant");
    client.placed(&order(&[("TEA", 1)]));
    let path = "/v1/consumers/needs-setting/backfill";
    let asked = client.post(path, &json!({"from": "beginning", "rebuild": true})).expect(202).json();
    let waits = asked["waits"].as_str().expect("why it waits").to_owned();
    assert!(waits.contains("needs-setting is awaiting-grant") && waits.contains("region"), "{waits}");
    assert_eq!(client.get(path).expect(200).json()["waits"], waits);
    let cli = |url: &str, more: &[&str]| {
        let arguments = ["consumers", "backfill", "needs-setting", "--url", url].into_iter();
        program::run(arguments.chain(more.iter().copied()))
    };
    let told = cli(client.base(), &["--status"]).succeeded().stdout;
    assert!(told.contains("it waits, because the consumer needs-setting is awaiting-grant"), "{told}");
    let cancelled = client.post(&format!("{path}/cancel"), &json!({})).expect(200).json();
    assert_eq!(cancelled["waits"], Value::Null, "{cancelled:#}");

    // One that is waited for says why, and ends once the setting is there.
    let url = client.base().to_owned();
    let waiting = std::thread::spawn(move || cli(&url, &["--from", "beginning", "--rebuild"]));
    eventually("it is under way", || match client.get(path).expect(200).json() {
        report if report["state"] == "running" => Ok(()),
        report => Err(report.to_string()),
    });
    host.consumers.set_policy("needs-setting", "[settings]\nregion = \"eu\"\n");
    let told = waiting.join().expect("it ran").succeeded();
    assert!(told.stderr.contains("it waits, because the consumer needs-setting is awaiting-grant"), "{told:#?}");
    assert!(told.stdout.contains("rebuild done") && !told.stdout.contains("waits"), "{told:#?}");
    client.wait_until_idle();
    assert_eq!(client.counter("needs-setting", "region/eu"), 1);
}

#[test]
fn what_a_plugin_was_not_granted_it_cannot_do_even_if_it_did_not_say_that_it_would() {
    let mut host = TestHost::new();
    host.consumers.add("ungranted");
    host.consumers.set_policy("ungranted", "[retry]\nmax_attempts = 1\n");
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("ungranted", |consumer| consumer["dead"] == 1);
    assert_eq!(client.order(&id)["status"], "placed");
    let letter = &client.dead_letters("ungranted")[0];
    assert!(letter["cause"].as_str().is_some_and(|cause| cause.contains("change-order")), "{letter:#}");
}

#[test]
fn grants_that_are_taken_away_stop_the_consumer() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    host.consumers.set_policy("inventory", "[grant]\nchange_order = false\n");
    client.wait_for_consumer("inventory", |consumer| consumer["state"] == "awaiting-grant");
    let id = client.placed(&order(&[("TEA", 1)]));
    host.consumers.add("inventory");
    client.wait_for_consumer("inventory", |consumer| consumer["state"] == "running");
    client.wait_for_status(&id, "rejected");
    // It hears of that, too.
    client.wait_until_idle();
    assert_eq!(client.consumer("inventory").expect("inventory")["dead"], json!(0));
}
