//! A person stops a consumer for a while: nothing starts, nothing is missed, and a crash changes nothing of it.

use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, eventually, json, program};

#[test]
fn a_paused_consumer_stands_still_through_a_crash_and_then_catches_up() {
    let mut host = TestHost::with(&["reports-one"]);
    let client = host.client();
    place(&client, 2);
    client.wait_until_idle();
    let paused = client.post("/v1/consumers/reports-one/pause", &json!({"reason": "stocktaking"})).expect(200).json();
    assert_eq!((&paused["state"], &paused["paused"]["reason"]), (&json!("paused"), &json!("stocktaking")));
    assert!(paused["reason"].as_str().is_some_and(|reason| reason.contains("stocktaking")), "{paused:#}");
    place(&client, 3);
    assert_eq!(client.consumer("reports-one").expect("reports-one")["pending"], 3);

    host.kill();
    host.start();
    let client = host.client();
    place(&client, 1);
    let found = client.consumer("reports-one").expect("reports-one");
    assert_eq!((&found["state"], &found["pending"]), (&json!("paused"), &json!(4)), "{found:#}");
    assert_eq!(client.counter("reports-one", "handled"), 2, "nothing started meanwhile");

    let resumed = client.post("/v1/consumers/reports-one/resume", &json!({})).expect(200).json();
    assert_eq!((&resumed["state"], &resumed["paused"]), (&json!("running"), &json!(null)));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 6);
}

#[test]
fn pausing_works_from_the_command_line_and_without_the_plugin() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    place(&client, 1);
    client.wait_until_idle();
    host.consumers.remove("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "removed");
    let arguments = ["consumers", "pause", "reports-one", "--reason", "moving", "--url", client.base()];
    let told = program::run(arguments).succeeded();
    assert!(told.stdout.contains("reports-one is paused"), "{told:#?}");
    let removed = client.consumer("reports-one").expect("reports-one");
    assert_eq!((&removed["state"], &removed["paused"]["reason"]), (&json!("removed"), &json!("moving")));

    host.consumers.add("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "paused");
    place(&client, 1);
    assert_eq!(client.counter("reports-one", "handled"), 1);
    let told = program::run(["consumers", "resume", "reports-one", "--url", client.base()]).succeeded();
    assert!(told.stdout.contains("goes on"), "{told:#?}");
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 2);
}

#[test]
fn a_backfill_of_a_paused_consumer_says_that_it_waits_and_how_it_goes_on() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    place(&client, 1);
    client.wait_until_idle();
    let paused = client.post("/v1/consumers/reports-one/pause", &json!({"reason": "stocktaking"}));
    drop(paused.expect(200));
    let path = "/v1/consumers/reports-one/backfill";
    let asked = client.post(path, &json!({"from": "beginning", "rebuild": true})).expect(202).json();
    let waits = asked["waits"].as_str().expect("why it waits");
    assert!(waits.contains("reports-one is paused, since") && waits.contains("stocktaking"), "{waits}");
    let told = program::run(["consumers", "backfill", "reports-one", "--status", "--url", client.base()]).succeeded();
    assert!(told.stdout.contains("`fanfare consumers resume reports-one` lets it go on"), "{told:#?}");
    drop(client.post("/v1/consumers/reports-one/resume", &json!({})).expect(200));
    eventually("it is done", || match client.get(path).expect(200).json() {
        done if done["state"] == "done" && done["waits"].is_null() => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_pause_that_makes_no_sense_is_refused_with_what_is_wrong() {
    let mut host = TestHost::new();
    host.consumers.put("broken", b"no component");
    host.start();
    let client = host.client();
    let pause = |name: &str, body| client.post(&format!("/v1/consumers/{name}/pause"), &body);
    assert_eq!(pause("nobody", json!({})).problem(404)["type"], "/problems/unknown-consumer");
    assert_eq!(pause("broken", json!({})).problem(409)["type"], "/problems/consumer-never-ran");
    let wrong = pause("broken", json!({"reason": "two\nlines"})).problem(422);
    assert_eq!(wrong["errors"][0]["field"], "reason", "{wrong:#}");
    assert_eq!(pause("broken", json!({"why": "?"})).problem(422)["type"], "/problems/invalid-body");
    let told = program::run(["consumers", "resume", "nobody", "--url", client.base()]);
    assert_eq!(told.code(), Some(3), "{told:#?}");
}

#[track_caller]
fn place(client: &Client, orders: usize) {
    for _ in 0..orders {
        client.placed(&order(&[("TEA", 1)]));
    }
}
