//! Events from outside.

use fanfare_tests::orders::{event, order, received};
use fanfare_tests::wire::Wire;
use fanfare_tests::{Client, TestHost, Value, json};

/// What is wrong, how it is done to a good event, and what the problem must name.
type Case = (&'static str, fn(&mut Value), &'static str);

#[test]
fn an_event_with_an_id_that_was_accepted_before_counts_once() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    for _ in 0..3 {
        assert!(client.publish(&received("delivery-1", "TEA", 5)).status.is_success());
    }
    // Another sender's id of the same name is another event.
    let mut others = received("delivery-1", "TEA", 5);
    others["source"] = json!("/warehouse");
    assert!(client.publish(&others).status.is_success());
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 10);
}

#[test]
fn events_come_structured_binary_or_as_a_batch() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    assert!(client.publish(&received("structured", "TEA", 1)).status.is_success());

    let binary = [
        ("Content-Type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/shop"),
        ("ce-type", "com.fanfare.stock.received"),
        ("ce-subject", "TEA"),
    ];
    let data = json!({"sku": "TEA", "quantity": 10}).to_string();
    assert!(client.try_post("/v1/events", &binary, data.as_bytes()).expect("an answer").status.is_success());

    let batch = json!([received("batch-1", "TEA", 100), received("batch-2", "CUP", 100)]).to_string();
    let headers = [("Content-Type", "application/cloudevents-batch+json")];
    assert!(client.try_post("/v1/events", &headers, batch.as_bytes()).expect("an answer").status.is_success());

    client.wait_until_idle();
    assert_eq!(client.counters("inventory", "stock/"), [("stock/CUP".into(), 100), ("stock/TEA".into(), 111)]);
}

#[test]
fn a_batch_with_one_bad_event_records_none() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    let batch = json!([received("good", "TEA", 1), event("bad", "not a kind", "TEA", json!({}))]).to_string();
    let headers = [("Content-Type", "application/cloudevents-batch+json")];
    let answer = client.try_post("/v1/events", &headers, batch.as_bytes()).expect("an answer");
    assert!(answer.status.is_client_error(), "{answer:#?}");
    assert!(client.publish(&received("good", "TEA", 3)).status.is_success());
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 3);
}

#[test]
fn bad_events_get_a_problem_that_names_the_attribute() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    let cases: [Case; 7] = [
        ("a change of an order", |event| event["type"] = json!("order.confirmed"), "type"),
        ("another version", |event| event["specversion"] = json!("0.3"), "specversion"),
        ("no type", |event| remove(event, "type"), "type"),
        ("a type with spaces", |event| event["type"] = json!("stock received"), "type"),
        ("no id", |event| remove(event, "id"), "id"),
        ("no source", |event| remove(event, "source"), "source"),
        ("a source of the host's own", |event| event["source"] = json!("/fanfare/consumers/inventory"), "source"),
    ];
    for (what, spoil, names) in cases {
        let mut event = received("event-1", "TEA", 1);
        spoil(&mut event);
        let answer = client.publish(&event);
        assert!([400, 403, 422].contains(&answer.status.as_u16()), "{what}: {answer:#?}");
        let status = answer.status.as_u16();
        let problem = answer.problem(status).to_string();
        assert!(problem.contains(names), "{what}: the problem does not name {names}: {problem}");
    }
    client.wait_until_idle();
    assert!(client.counters("inventory", "").is_empty());
}

#[test]
fn a_stream_of_events_goes_on_where_it_broke_off() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    let mut stream = follow(&client, "?after=0");
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "rejected");
    let told = stream.read_until(|told| told.contains("order.rejected"));
    let (kinds, ids) = kinds_and_ids(&told);
    assert_eq!(kinds, ["order.placed", "order.rejected"]);
    drop(stream);

    client.placed(&order(&[("TEA", 1)]));
    let mut stream = follow(&client, &format!("?after={}", ids[0]));
    let told = stream.read_until(|told| told.matches("order.rejected").count() == 2);
    let (kinds, later) = kinds_and_ids(&told);
    assert_eq!(kinds, ["order.rejected", "order.placed", "order.rejected"]);
    assert_eq!(later[0], ids[1]);

    let mut narrow = follow(&client, "?after=0&type=order.placed");
    let told = narrow.read_until(|told| told.matches("order.placed").count() == 2);
    assert!(!told.contains("order.rejected"), "{told}");
    client.wait_until_idle();
}

#[test]
fn a_stream_from_a_position_that_is_yet_to_come_waits_for_it() {
    let host = TestHost::with(&[]);
    let client = host.client();
    for after in [1_u64 << 40, u64::MAX] {
        let mut stream = follow(&client, &format!("?after={after}"));
        let _ = stream.read_until(|told| told.contains(": fanfare"));
        client.placed(&order(&[("TEA", 1)]));
    }
    // A request that is answered after both streams have looked at the journal.
    let mut stream = follow(&client, "?after=0");
    let _ = stream.read_until(|told| told.matches("order.placed").count() == 2);
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

/// Opens a stream of events.
fn follow(client: &Client, query: &str) -> Wire {
    let mut wire = Wire::connect(client.address());
    assert!(wire.send(format!("GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()));
    wire
}

fn kinds_and_ids(stream: &str) -> (Vec<String>, Vec<String>) {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let kinds = data
        .map(|data| serde_json::from_str::<Value>(data).expect("JSON")["type"].as_str().expect("a kind").to_owned());
    let ids = stream.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned);
    (kinds.collect(), ids.collect())
}

fn remove(event: &mut Value, attribute: &str) {
    event.as_object_mut().expect("an event").remove(attribute);
}
