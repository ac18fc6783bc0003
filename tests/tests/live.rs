//! A side file that is saved counts from then on, on a consumer that runs on.

use std::time::{Duration, Instant};

use fanfare_tests::orders::{event, order};
use fanfare_tests::{Client, TestHost, Value, eventually, json};

#[test]
fn delivery_changes_at_once_without_losing_a_warm_instance() {
    let host = TestHost::with(&["choosy"]);
    let client = host.client();
    host.consumers.set_policy("choosy", "subscribe = [\"order.placed\"]\nconcurrency = 1\n");
    client.wait_for_consumer("choosy", |consumer| consumer["subscriptions"] == json!(["order.placed"]));
    place(&client, 3);
    client.wait_until_idle();
    let loaded_at = client.consumer("choosy").expect("choosy")["loaded_at"].clone();
    assert_eq!(in_this_instance(&client), 3);
    // Each save is told by its subscriptions; none of them asks anything of the plugin.
    for (saves, policy) in ["rate = \"1000/s\"", "on_dead = \"skip\"", "[retry]\nmax_attempts = 2"].iter().enumerate() {
        let kind = format!("com.example.save-{saves}");
        let toml = format!("concurrency = 1\nsubscribe = [\"order.placed\", \"{kind}\"]\n{policy}\n");
        host.consumers.set_policy("choosy", &toml);
        client.wait_for_consumer("choosy", |consumer| consumer["subscriptions"][1] == json!(kind));
        place(&client, 1);
        client.wait_until_idle();
    }
    assert_eq!(in_this_instance(&client), 6, "the instance that was warm before handles on");
    assert_eq!(client.consumer("choosy").expect("choosy")["loaded_at"], loaded_at);

    // What it was linked for takes a new instance, and no new start of the consumer.
    host.consumers
        .set_policy("choosy", "subscribe = [\"order.placed\", \"com.a\"]\nconcurrency = 1\n[limits]\ncpu = \"1s\"\n");
    client.wait_for_consumer("choosy", |consumer| consumer["subscriptions"][1] == json!("com.a"));
    place(&client, 1);
    client.wait_until_idle();
    assert_eq!((in_this_instance(&client), client.counter("choosy", "handled")), (1, 7));
}

#[test]
fn a_rate_that_is_lifted_lets_go_at_once() {
    const ORDERS: usize = 30;
    let mut host = TestHost::new();
    host.consumers.add("reports-one");
    host.consumers.set_policy("reports-one", "rate = \"1/s\"\n");
    host.start();
    let client = host.client();
    place(&client, ORDERS);
    let held = client.consumer("reports-one").expect("reports-one")["pending"].as_u64().expect("a number");
    assert!(held > 0, "one a second is not {ORDERS} at once");
    host.consumers.set_policy("reports-one", "");
    let saved = Instant::now();
    // A busy machine needs time for the thirty too; at one a second it would be half a minute.
    eventually("all are handled", || {
        let handled = client.counter("reports-one", "handled");
        if usize::try_from(handled) == Ok(ORDERS) { Ok(()) } else { Err(format!("{handled} handled")) }
    });
    assert!(saved.elapsed() < Duration::from_secs(25), "{:?}", saved.elapsed());
    client.wait_until_idle();
}

#[test]
fn another_bound_on_attempts_counts_at_once() {
    let mut host = TestHost::new();
    host.consumers.add("always-retry");
    host.consumers.set_policy("always-retry", "[retry]\nbase = \"50ms\"\ncap = \"50ms\"\nmax_attempts = 1000000\n");
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    eventually("it was tried more than twice", || {
        let delivery = client.order(&id)["deliveries"][0].clone();
        if delivery["attempts"].as_u64() > Some(2) { Ok(()) } else { Err(delivery.to_string()) }
    });
    host.consumers.set_policy("always-retry", "[retry]\nbase = \"50ms\"\ncap = \"50ms\"\nmax_attempts = 2\n");
    client.wait_for_consumer("always-retry", |consumer| consumer["dead"] == 1);
}

#[test]
fn a_policy_that_skips_lets_lanes_go_on_at_once() {
    let mut host = TestHost::new();
    host.consumers.add("always-reject");
    host.consumers.set_policy("always-reject", "subscribe = [\"order.*\"]\n");
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 1);
    let _ = client.cancel(&id, "it takes too long").expect(200);
    assert_eq!(
        client.consumer("always-reject").expect("always-reject")["pending"],
        2,
        "behind the letter, the lane waits"
    );
    host.consumers.set_policy("always-reject", "subscribe = [\"order.*\"]\non_dead = \"skip\"\n");
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 2);
    assert_eq!(states(&client, &id), ["dead", "dead"]);
}

#[test]
fn a_state_that_is_full_ends_in_a_dead_letter_and_goes_on_where_there_is_room() {
    /// Five values of 1,000 bytes with their keys, and the counter.
    const ROOM: &str = "[retry]\nmax_attempts = 1\n[limits]\nstate = \"6KiB\"\n";
    let mut host = TestHost::new();
    host.consumers.add("hoarder");
    host.consumers.set_policy("hoarder", ROOM);
    host.leave_deliveries().start();
    let client = host.client();
    place(&client, 7);
    client.wait_for_consumer("hoarder", |consumer| consumer["dead"] == 2 && consumer["pending"] == 2);
    assert_eq!((client.counter("hoarder", "handled"), client.entries("hoarder", "kept/").len()), (5, 5));
    let cause = client.dead_letters("hoarder")[0]["cause"].to_string();
    for words in ["limits.state", "6144", "hoarder.toml"] {
        assert!(cause.contains(words), "no {words}: {cause}");
    }

    // A crash changes nothing of what is counted.
    host.kill();
    host.start();
    let client = host.client();
    place(&client, 1);
    client.wait_for_consumer("hoarder", |consumer| consumer["dead"] == 3);

    // More room, within a second; and the letters are done.
    host.consumers
        .set_policy("hoarder", "subscribe = [\"order.placed\", \"com.example.*\"]\n[limits]\nstate = \"1MiB\"\n");
    client.wait_for_consumer("hoarder", |consumer| consumer["subscriptions"][1] == "com.example.*");
    let _ = client.post("/v1/consumers/hoarder/dead-letters/retry", &json!({"all": true})).expect(200);
    client.wait_until_idle();
    assert_eq!(client.entries("hoarder", "kept/").len(), 8);

    // Less than it holds refuses what makes it more, and lets it let go.
    host.consumers.set_policy("hoarder", ROOM);
    eventually("the limit is lowered", || {
        place(&client, 1);
        let dead = client.consumer("hoarder").unwrap_or_default()["dead"].clone();
        if dead.as_u64() > Some(0) { Ok(()) } else { Err(format!("{dead} dead")) }
    });
    let _ = client.publish(&event("1", "com.example.let-go", "all", json!({}))).expect(202);
    eventually("it let go", || {
        let kept = client.entries("hoarder", "kept/").len();
        if kept == 0 { Ok(()) } else { Err(format!("{kept} kept")) }
    });
    let _ = client.post("/v1/consumers/hoarder/dead-letters/discard", &json!({"all": true})).expect(200);
}

#[track_caller]
fn place(client: &Client, orders: usize) {
    for _ in 0..orders {
        client.placed(&order(&[("TEA", 1)]));
    }
}

#[track_caller]
fn in_this_instance(client: &Client) -> i64 {
    let entries = client.entries("choosy", "in-this-instance");
    entries[0]["value"].as_str().and_then(|events| events.parse().ok()).expect("a number")
}

fn states(client: &Client, order: &str) -> Vec<Value> {
    let deliveries = client.order(order)["deliveries"].as_array().expect("deliveries").clone();
    deliveries.into_iter().map(|delivery| delivery["state"].clone()).collect()
}
