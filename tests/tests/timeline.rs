//! What happened to an order, told in full and kept in little room.

use std::collections::BTreeSet;

use fanfare_tests::guests::{self, SHIPPED};
use fanfare_tests::orders::{ndjson, order, referenced};
use fanfare_tests::{Client, TestHost, Value, json, program};

fn timeline(client: &Client, order: &str) -> Vec<Value> {
    let page = client.get(&format!("/v1/orders/{order}/timeline")).expect(200).json();
    assert_eq!((&page["order_id"], &page["next"]), (&json!(order), &Value::Null));
    let moments = page["timeline"].as_array().expect("moments").clone();
    let times: Vec<_> = moments.iter().filter_map(|moment| moment["time"].as_str()).collect();
    assert!(times.is_sorted(), "{times:?}");
    moments
}

/// What this consumer made of events of this type, attempt by attempt.
fn attempts<'a>(moments: &'a [Value], consumer: &str, kind: &str) -> Vec<&'a Value> {
    let meant = |it: &&Value| it["what"] == "attempt" && it["consumer"] == consumer && it["type"] == kind;
    moments.iter().filter(meant).collect()
}

fn outcomes<'a>(moments: &'a [Value], consumer: &str, kind: &str) -> Vec<&'a str> {
    attempts(moments, consumer, kind).iter().filter_map(|attempt| attempt["outcome"].as_str()).collect()
}

#[test]
fn an_order_is_followed_from_placed_to_shipped_through_retries_versions_and_a_crash() {
    let mut host = TestHost::new();
    SHIPPED.iter().for_each(|guest| host.consumers.add(guest));
    host.consumers.add("always-retry");
    let policy = "[retry]\nbase = \"20ms\"\ncap = \"50ms\"\n\n[settings]\nsucceed_at = \"3\"\n";
    host.consumers.set_policy("always-retry", policy);
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    let client = host.client();
    client.stock(&["TEA"], 11);
    let id = client.placed(&referenced("R-1", &[("TEA", 2)]));
    client.wait_for_status(&id, "shipped");
    client.wait_until_idle();

    let moments = timeline(&client, &id);
    let events: Vec<_> = moments.iter().filter(|moment| moment["what"] == "event").collect();
    let of = |kind: &str| {
        *events.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {moments:#?}"))
    };
    let (placed, confirmed, shipped) = (of("order.placed"), of("order.confirmed"), of("order.shipped"));
    assert_eq!((&placed["consumer"], &placed["cause"]), (&Value::Null, &Value::Null));
    assert_eq!((&confirmed["consumer"], &confirmed["cause"]), (&json!("inventory"), &placed["event_id"]));
    assert_eq!((&shipped["consumer"], &shipped["cause"]), (&json!("shipment"), &confirmed["event_id"]));
    assert!(shipped["change"]["shipped"]["tracking_number"].is_string(), "{shipped:#}");
    let low = of("com.fanfare.stock.low");
    assert_eq!(
        (&low["consumer"], &low["cause"]),
        (&json!("inventory"), &placed["event_id"]),
        "of no order, but caused by it"
    );

    for (consumer, kind) in [
        ("inventory", "order.placed"),
        ("shipment", "order.confirmed"),
        ("loyalty", "order.confirmed"),
        ("notification", "order.shipped"),
        ("analytics", "order.shipped"),
        ("reports", "order.placed"),
    ] {
        let [attempt] = attempts(&moments, consumer, kind)[..] else { panic!("{consumer}, {kind}: {moments:#?}") };
        assert_eq!((&attempt["outcome"], &attempt["attempt"]), (&json!("done"), &json!(1)), "{attempt:#}");
        assert!(attempt["version"].as_str().is_some_and(|version| version.contains(" (")), "{attempt:#}");
        assert!(attempt["duration_us"].as_u64().is_some_and(|us| us > 0), "{attempt:#}");
        assert!(attempt["run"]["count"].as_u64().is_some_and(|count| count > 0), "{attempt:#}");
    }
    assert_eq!(outcomes(&moments, "always-retry", "order.placed"), ["retry", "retry", "done"]);
    let first = attempts(&moments, "always-retry", "order.placed")[0];
    assert_eq!(first["cause"], "attempt 1 was told to fail");
    assert_eq!(first["effects"]["adjustments"][0]["key"], "handled", "{first:#}");
    let told = moments.iter().filter(|moment| moment["what"] == "message" && moment["consumer"] == "notification");
    assert_eq!(told.count(), 3);
    let rows = |kind: &str| -> Vec<_> {
        let of = |it: &&Value| it["what"] == "records" && it["consumer"] == "analytics" && it["type"] == kind;
        moments.iter().filter(of).map(|it| (it["dataset"].clone(), it["count"].clone())).collect()
    };
    let all = ["changes", "orders", "lines"].map(|dataset| (json!(dataset), json!(1)));
    assert_eq!(rows("order.placed"), all);
    assert_eq!(rows("order.shipped"), all[..1]);
    let positions: Vec<_> = moments.iter().map(|moment| moment["what"].as_str().unwrap_or_default()).collect();
    assert_eq!(positions[0], "event", "the order was placed first: {positions:?}");

    host.consumers.put("reports", &guests::wasm("reports-two"));
    client.wait_for_consumer("reports", |consumer| consumer["version"] == "2.0.0" && consumer["state"] == "running");
    let second = client.placed(&referenced("R-2", &[("TEA", 1)]));
    client.wait_for_status(&second, "shipped");
    client.wait_until_idle();
    host.kill();
    host.start();
    let client = host.client();

    let by = |order: &str| {
        let moments = timeline(&client, order);
        attempts(&moments, "reports", "order.placed")[0]["version"].as_str().expect("a version").to_owned()
    };
    assert!(by(&id).starts_with("1.0.0 ("), "{}", by(&id));
    assert!(by(&second).starts_with("2.0.0 ("), "{}", by(&second));
    // What a run says of all its deliveries may have grown; what happened stays.
    let words = |moments: &[Value]| -> Vec<String> {
        let word = |it: &Value| format!("{} {} {} {}", it["what"], it["type"], it["consumer"], it["outcome"]);
        moments.iter().map(word).collect::<BTreeSet<_>>().into_iter().collect()
    };
    assert_eq!(words(&timeline(&client, &id)), words(&moments));

    let arguments = ["orders", "timeline", &id, "--url", client.base()];
    let text = program::run(arguments).succeeded().stdout;
    for part in ["order.placed", "shipment", "retry at attempt 1: attempt 1 was told to fail", "email to ada@customers"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn successes_in_a_row_are_told_by_a_handful_of_runs() {
    const ORDERS: usize = 1_000;
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    let orders: Vec<Value> = (0..ORDERS).map(|n| referenced(&format!("R-{n}"), &[("TEA", 1)])).collect();
    let results = client.import(&ndjson(&orders));
    client.wait_until_idle();
    let mut runs = BTreeSet::new();
    for result in results.iter().step_by(50) {
        let moments = timeline(&client, result["id"].as_str().expect("an id"));
        let [attempt] = attempts(&moments, "reports-one", "order.placed")[..] else { panic!("{moments:#?}") };
        let run = &attempt["run"];
        runs.insert((run["from"].to_string(), run["count"].as_u64().expect("a count")));
        let (mean, max) = (run["duration_mean_us"].as_u64(), run["duration_max_us"].as_u64());
        assert!(mean > Some(0) && mean <= max, "{attempt:#}");
    }
    let counted: u64 = runs.iter().map(|(_, count)| count).sum();
    assert!(runs.len() <= 5 && usize::try_from(counted) == Ok(ORDERS), "{runs:?}");
}

#[test]
fn an_open_delivery_is_told_last() {
    let mut host = TestHost::new();
    host.consumers.add("always-reject");
    host.leave_deliveries().start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 1);
    let moments = timeline(&client, &id);
    let last = moments.last().expect("moments");
    assert_eq!(
        (&last["what"], &last["state"], &last["consumer"]),
        (&json!("open"), &json!("dead"), &json!("always-reject"))
    );
    assert_eq!(outcomes(&moments, "always-reject", "order.placed"), ["reject"]);
}

#[test]
fn a_timeline_is_asked_for_by_an_order_that_is_there_and_a_page_that_makes_sense() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    let path = format!("/v1/orders/{id}/timeline");
    for (query, field) in
        [("limit=0", "limit"), ("limit=201", "limit"), ("after=x", "cursor"), ("colour=red", "colour")]
    {
        let problem = client.get(&format!("{path}?{query}")).problem(400);
        assert!(problem.to_string().contains(field), "{problem:#}");
    }
    for unknown in ["0198c2a4-7b1e-7c3d-8e4f-abcdefabcdef", "nonsense"] {
        let problem = client.get(&format!("/v1/orders/{unknown}/timeline")).problem(404);
        assert_eq!(problem["type"], "/problems/unknown-order");
    }
    let page = client.get(&format!("{path}?limit=1")).expect(200).json();
    assert_eq!((page["timeline"].as_array().map(Vec::len), &page["next"]), (Some(1), &Value::Null));
}
