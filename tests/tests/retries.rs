//! Attempts that fail: back-off, dead letters, parked lanes, and what of it a restart leaves alone.

use std::time::{Duration, Instant};

use fanfare_tests::orders::{order, received};
use fanfare_tests::{Client, TestHost, Value, eventually, json};

const QUICK: &str = "[retry]\nbase = \"20ms\"\ncap = \"100ms\"\nmax_attempts = 3\n";

#[test]
fn a_retry_that_succeeds_leaves_its_effects_once() {
    let mut host = TestHost::new();
    host.consumers.add("always-retry");
    host.consumers
        .set_policy("always-retry", "[retry]\nbase = \"20ms\"\ncap = \"100ms\"\n\n[settings]\nsucceed_at = \"4\"\n");
    host.start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("always-retry", "handled"), 1);
    let delivery = delivery(&client, &id, "always-retry");
    assert_eq!(delivery["state"], "done");
    assert_eq!(delivery["attempts"], 4);
}

#[test]
fn attempts_stop_at_the_policys_bound_and_the_cause_is_kept() {
    let mut host = TestHost::new();
    for guest in ["always-reject", "always-retry", "trap-handle"] {
        host.consumers.add(guest);
        host.consumers.set_policy(guest, QUICK);
    }
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));

    for (guest, attempts, cause) in [
        ("always-retry", 3, "attempt 3 was told to fail"),
        ("trap-handle", 3, "trap-handle was told to panic"),
        ("always-reject", 1, "always-reject was told to reject"),
    ] {
        client.wait_for_consumer(guest, |consumer| consumer["dead"] == 1);
        let letters = client.dead_letters(guest);
        assert_eq!(letters.len(), 1, "{letters:#?}");
        let letter = &letters[0];
        assert_eq!(letter["attempts"], attempts, "{letter:#}");
        assert_eq!(letter["order_id"], id, "{letter:#}");
        assert_eq!(letter["type"], "order.placed", "{letter:#}");
        assert!(letter["cause"].as_str().is_some_and(|text| text.contains(cause)), "{letter:#}");
        assert!(letter["version"].as_str().is_some_and(|text| !text.is_empty()), "{letter:#}");
        assert_eq!(client.counter(guest, "handled"), 0, "the effects of {guest} are discarded");
        assert_eq!(delivery(&client, &id, guest)["state"], "dead");
    }
    let trapped = &client.dead_letters("trap-handle")[0];
    assert!(trapped["backtrace"].as_str().is_some_and(|trace| trace.contains("handle")), "{trapped:#}");
}

#[test]
fn retries_go_on_after_a_restart_where_they_stood() {
    let mut host = TestHost::new();
    host.consumers.add("always-retry");
    // Long enough that the second attempt is still to come when the host dies.
    host.consumers.set_policy("always-retry", "[retry]\nmax_attempts = 2\n\n[settings]\nafter_ms = \"10000\"\n");
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    let attempted = Instant::now();
    eventually("the first attempt has failed", || {
        let delivery = delivery(&client, &id, "always-retry");
        if delivery["state"] == "retrying" { Ok(()) } else { Err(delivery.to_string()) }
    });

    host.kill();
    host.start();
    let client = host.client();
    let waiting = delivery(&client, &id, "always-retry");
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("retrying"), &json!(1)));
    client.wait_for_consumer("always-retry", |consumer| consumer["dead"] == 1);
    assert!(attempted.elapsed() >= Duration::from_millis(9_900), "the restart did not hurry it");
    assert_eq!(client.dead_letters("always-retry")[0]["attempts"], 2);

    host.kill();
    host.start();
    let letters = host.client().dead_letters("always-retry");
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert!(letters[0]["cause"].as_str().is_some_and(|cause| cause.contains("attempt 2")), "{letters:#?}");
}

#[test]
fn dead_letters_that_are_retried_with_better_settings_are_done() {
    let mut host = TestHost::new();
    host.consumers.add("always-retry");
    host.consumers.set_policy("always-retry", QUICK);
    host.start();
    let client = host.client();
    let ids = [(); 3].map(|()| client.placed(&order(&[("TEA", 1)])));
    client.wait_for_consumer("always-retry", |consumer| consumer["dead"] == 3);

    host.consumers.set_policy("always-retry", &format!("{QUICK}\n[settings]\nsucceed_at = \"1\"\n"));
    // The side file is in force once new events succeed.
    eventually("the new settings are in force", || {
        client.placed(&order(&[("TEA", 1)]));
        let handled = client.counter("always-retry", "handled");
        if handled > 0 { Ok(()) } else { Err(format!("{handled} handled")) }
    });
    // The last attempt of a delivery that began under the old settings may end after the first of these.
    eventually("no letter is dead any more", || {
        let answer = client.post("/v1/consumers/always-retry/dead-letters/retry", &json!({"all": true}));
        assert!(answer.status.is_success(), "{answer:#?}");
        let consumer = client.consumer("always-retry").expect("it is there");
        if consumer["pending"] == 0 && consumer["dead"] == 0 { Ok(()) } else { Err(consumer.to_string()) }
    });
    assert_eq!(client.dead_letters("always-retry"), Vec::<Value>::new());
    for id in ids {
        assert_eq!(delivery(&client, &id, "always-retry")["state"], "done");
    }
    assert_eq!(client.counter("always-retry", "handled"), i64::try_from(client.orders().len()).expect("few orders"));
}

#[test]
fn a_dead_letter_parks_its_lane_and_no_other() {
    let mut host = TestHost::new();
    host.consumers.add("always-reject");
    host.consumers.set_policy("always-reject", "subscribe = [\"order.*\"]\n");
    host.leave_deliveries().start();
    let client = host.client();
    let parked = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 1);
    let _ = client.cancel(&parked, "it takes too long").expect(200);
    client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 2);

    let states: Vec<Value> = deliveries(&client, &parked).iter().map(|delivery| delivery["state"].clone()).collect();
    assert_eq!(states, ["dead", "waiting"]);

    // Given up, the lane goes on behind it: straight into the next dead letter.
    let answer = client.post("/v1/consumers/always-reject/dead-letters/discard", &json!({"all": true}));
    assert!(answer.status.is_success(), "{answer:#?}");
    eventually("the lane went on", || {
        let letters = client.dead_letters("always-reject");
        if letters.len() == 1 && letters[0]["type"] == "order.cancelled" {
            Ok(())
        } else {
            Err(format!("{letters:#?}"))
        }
    });
}

#[test]
fn a_lane_that_skips_its_dead_letters_goes_on() {
    let mut host = TestHost::new();
    host.consumers.add("always-reject");
    host.consumers.set_policy("always-reject", "on_dead = \"skip\"\nsubscribe = [\"order.*\"]\n");
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 1);
    let _ = client.cancel(&id, "it takes too long").expect(200);
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 2);
}

#[test]
fn one_consumer_that_fails_holds_up_no_other() {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.consumers.add("trap-handle");
    host.leave_deliveries().start();
    let client = host.client();
    assert!(client.publish(&received("stock", "TEA", 10)).status.is_success());
    // Another lane: nothing holds the order up until the goods are there.
    client.wait_for_counter("inventory", "stock/TEA", 10);
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "confirmed");
    assert!(matches!(delivery(&client, &id, "trap-handle")["state"].as_str(), Some("pending" | "retrying")));
}

fn deliveries(client: &Client, order: &str) -> Vec<Value> {
    client.order(order)["deliveries"].as_array().expect("deliveries").clone()
}

fn delivery(client: &Client, order: &str, consumer: &str) -> Value {
    let found = deliveries(client, order).into_iter().find(|delivery| delivery["consumer"] == consumer);
    found.unwrap_or_else(|| panic!("no delivery to {consumer}"))
}
