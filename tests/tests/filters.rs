//! A consumer hears what it asked for, and what its operator lets it hear, by filters over the event's data.

use fanfare_tests::orders::{event, order};
use fanfare_tests::{Client, TestHost, Value, guests, json};

#[test]
fn a_plugin_that_filters_hears_what_matches_alone() {
    let mut host = TestHost::with(&["choosy"]);
    let client = host.client();
    let consumer = client.consumer("choosy").expect("choosy");
    assert!(consumer["subscriptions"][0].as_str().is_some_and(|shown| shown.contains("EUR")), "{consumer:#}");
    let dollars = client.placed(&order(&[("TEA", 1)]));
    let euros = client.placed(&in_euros());
    client.wait_until_idle();
    assert_eq!(client.counter("choosy", "handled"), 1);
    assert_eq!(client.order(&dollars)["deliveries"], json!([]), "it does not concern the consumer");
    assert_eq!(client.order(&euros)["deliveries"][0]["state"], "done");

    // What a crash leaves to be looked at again is judged alike.
    host.kill();
    host.start();
    let client = host.client();
    client.placed(&in_euros());
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("choosy", "handled"), 2);
}

#[test]
fn an_operator_narrows_by_kind_and_filter_at_once() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 1);

    let heavy = r#"{"order":{"currency":["EUR"],"lines":{"quantity":[{"numeric":[">=",5]}]}}}"#;
    let stock = r#"{"sku":[{"prefix":"NW-"}],"$or":[{"quantity":[0]},{"urgent":[true]}]}"#;
    narrow(&host, heavy, stock);
    let mut large = in_euros();
    large["lines"][0]["quantity"] = json!(5);
    client.placed(&in_euros());
    client.placed(&large);
    for (id, data) in [
        ("1", json!({"sku": "NW-11", "quantity": 0})),
        ("2", json!({"sku": "NW-12", "quantity": 7, "urgent": true})),
        ("3", json!({"sku": "NW-13", "quantity": 7})),
        ("4", json!({"sku": "TEA", "quantity": 0})),
    ] {
        let _ = client.publish(&event(id, "com.example.stock", "stock", data)).expect(202);
    }
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 4, "one large order and two of the four custom events");

    // Wider again, it hears what comes, and nothing of what was passed by.
    host.consumers.set_policy("reports-one", "");
    wait_for_subscriptions(&client, &json!(["order.placed"]));
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 5);
}

#[test]
fn what_waits_behind_a_pause_is_judged_by_a_filter_changed_at_once() {
    let host = TestHost::with(&["choosy"]);
    let client = host.client();
    let _ = client.post("/v1/consumers/choosy/pause", &json!({})).expect(200);
    for _ in 0..3 {
        client.placed(&in_euros());
        client.placed(&order(&[("TEA", 1)]));
    }
    assert_eq!(client.consumer("choosy").expect("choosy")["pending"], 3);
    host.consumers.set_policy("choosy", "subscribe = [\"order.placed\"]\n");
    wait_for_subscriptions_of(&client, "choosy", &json!(["order.placed"]));
    assert_eq!(client.consumer("choosy").expect("choosy")["pending"], 6);
    let _ = client.post("/v1/consumers/choosy/resume", &json!({})).expect(200);
    client.wait_until_idle();
    assert_eq!(client.counter("choosy", "handled"), 6);
}

#[test]
fn a_bad_filter_is_refused_with_its_line_and_key_and_what_runs_goes_on() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    let bad =
        "subscribe = [\n\"com.a\",\n{ kind = \"order.placed\", filter = '{\"order\":{\"currency\":\"USD\"}}' },\n]\n";
    host.consumers.set_policy("reports-one", bad);
    let refused = client.wait_for_consumer("reports-one", |consumer| consumer["reason"].is_string());
    let reason = refused["reason"].as_str().expect("a reason");
    for word in ["reports-one.toml:3", "subscribe.filter", "order.currency", "[\"USD\"]"] {
        assert!(reason.contains(word), "no {word}: {reason}");
    }
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 1);
    assert!(guests::side_file("reports-one").is_none());
}

fn in_euros() -> Value {
    let mut order = order(&[("TEA", 1)]);
    order["currency"] = json!("EUR");
    order
}

#[track_caller]
fn narrow(host: &TestHost, orders: &str, stock: &str) {
    let toml = format!(
        "subscribe = [{{ kind = \"order.placed\", filter = '{orders}' }}, {{ kind = \"com.example.stock\", filter = '{stock}' }}]"
    );
    host.consumers.set_policy("reports-one", &toml);
    let shown = json!([
        format!("order.placed {orders}"),
        r#"com.example.stock {"$or":[{"quantity":[0]},{"urgent":[true]}],"sku":[{"prefix":"NW-"}]}"#
    ]);
    wait_for_subscriptions(&host.client(), &shown);
}

#[track_caller]
fn wait_for_subscriptions(client: &Client, wanted: &Value) {
    wait_for_subscriptions_of(client, "reports-one", wanted);
}

#[track_caller]
fn wait_for_subscriptions_of(client: &Client, name: &str, wanted: &Value) {
    client.wait_for_consumer(name, |consumer| consumer["subscriptions"] == *wanted);
}
