//! Shipment asks a carrier over HTTP, and no order has two parcels, whatever breaks in between.

use fanfare_tests::carrier::{Carrier, Reply};
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, eventually, guests, json};

const TOKEN: &str = "tok-3f9c0b1a77";

/// A host with inventory and shipment, which may call the carrier; `more` goes into shipment's side file.
fn shop(carrier: &Carrier, more: &str) -> TestHost {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.consumers.add("shipment");
    host.consumers.set_policy("shipment", &granted(carrier, more));
    host.variable("CARRIER_TOKEN", TOKEN);
    host.start();
    host.client().stock(&["TEA"], 100);
    host
}

fn granted(carrier: &Carrier, more: &str) -> String {
    let url = carrier.url();
    format!(
        "[grant]\nchange_order = true\nhttp = [{{ url_prefix = \"{url}\", methods = [\"POST\"], private = true }}]\n\
         secrets = {{ CARRIER_TOKEN = \"env:CARRIER_TOKEN\" }}\n{}{more}",
        settings(carrier)
    )
}

fn settings(carrier: &Carrier) -> String {
    format!("[settings]\ncarriers = \"GB,IE {} CARRIER_TOKEN\"\n", carrier.url())
}

/// What shipment did with an order's confirmation, attempt by attempt.
fn attempts(client: &Client, order: &str) -> Vec<Value> {
    let mut timeline = client.get(&format!("/v1/orders/{order}/timeline")).expect(200).json();
    let moments: Vec<Value> = serde_json::from_value(timeline["timeline"].take()).expect("moments");
    moments.into_iter().filter(|it| it["what"] == "attempt" && it["consumer"] == "shipment").collect()
}

#[test]
fn a_carrier_is_asked_for_a_parcel_and_its_tracking_reaches_the_order() {
    let carrier = Carrier::start();
    let host = shop(&carrier, "");
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 2)]));
    client.wait_for_status(&id, "shipped");
    client.wait_until_idle();

    let [request] = &carrier.requests()[..] else { panic!("one request: {:#?}", carrier.requests()) };
    assert_eq!(request.line, "POST /v1/parcels HTTP/1.1");
    assert_eq!(request.header("authorization"), format!("Bearer {TOKEN}"));
    assert_eq!(request.header("host"), format!("127.0.0.1:{}", carrier.port()));
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(
        (&body["reference"], &body["items"]),
        (&json!(id), &json!([{"sku": "TEA", "title": null, "quantity": 2}]))
    );

    let [attempt] = &attempts(&client, &id)[..] else { panic!("one attempt") };
    assert_eq!((&attempt["outcome"], &attempt["run"]), (&json!("done"), &Value::Null), "{attempt:#}");
    let call = &attempt["calls"][0];
    assert_eq!((&call["method"], &call["status"]), (&json!("POST"), &json!(201)), "{call:#}");
    assert_eq!(call["url"], format!("{}parcels", carrier.url()));
    assert_eq!(call["idempotency_key"], request.header("idempotency-key"));
    let event = attempt["event_id"].as_str().expect("an event");
    assert_eq!(call["idempotency_key"], format!("shipment/{event}/1"));
    assert!(request.header("traceparent").starts_with(&format!("00-{}-", event.replace('-', ""))));
    let shown = fanfare_tests::program::run(["orders", "timeline", &id, "--url", client.base()]).succeeded().stdout;
    assert!(shown.contains("POST") && shown.contains("201"), "{shown}");
    let kept = client.entries("shipment", "consignment/")[0]["value"].to_string();
    assert!(kept.contains("AC1") && kept.contains("https://acme.example/AC1"), "{kept}");
}

#[test]
fn a_carrier_that_fails_is_asked_again_with_the_same_key_until_there_is_one_parcel() {
    let carrier = Carrier::start();
    let busy = Some(("retry-after", "0".to_owned()));
    carrier.tell([
        Reply::Answer(503, busy, String::new()),
        Reply::BookInSilence,
        Reply::HangUp,
        Reply::Answer(201, None, "parcel!".to_owned()),
    ]);
    let host = shop(&carrier, "[limits]\nhttp_connect = \"1s\"\nhttp_first_byte = \"2s\"\n[retry]\nbase = \"10ms\"\n");
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "shipped");
    client.wait_until_idle();

    let mut keys: Vec<_> = carrier.requests().iter().map(|it| it.header("idempotency-key").to_owned()).collect();
    assert!(keys.len() >= 5, "{keys:?}");
    keys.dedup();
    assert_eq!((keys.len(), carrier.parcels()), (1, vec!["AC1".to_owned()]));
    let attempts = attempts(&client, &id);
    let of = |attempt: usize| attempts[attempt]["calls"][0].clone();
    assert_eq!(of(0)["status"], 503);
    assert!(of(1)["error"].as_str().is_some_and(|error| error.contains("no response within")), "{:#}", of(1));
    assert!(attempts[1]["cause"].as_str().is_some_and(|cause| cause.contains("no response in time")));
    assert_eq!(attempts.last().expect("attempts")["outcome"], "done");
}

#[test]
fn a_host_that_is_killed_before_it_hears_the_answer_makes_no_second_parcel() {
    let carrier = Carrier::start();
    carrier.tell([Reply::BookInSilence]);
    let mut host = shop(&carrier, "[limits]\ntime = \"1m\"\nhttp_first_byte = \"1m\"\n");
    let id = host.client().placed(&order(&[("TEA", 1)]));
    eventually("the parcel is booked", || if carrier.parcels().is_empty() { Err(String::new()) } else { Ok(()) });
    host.kill();
    host.start();
    let client = host.client();
    client.wait_for_status(&id, "shipped");
    client.wait_until_idle();
    let keys: Vec<_> = carrier.requests().iter().map(|it| it.header("idempotency-key").to_owned()).collect();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
    assert_eq!(carrier.parcels(), ["AC1"]);
}

#[test]
fn what_a_carrier_does_not_want_is_a_dead_letter_in_its_words() {
    let carrier = Carrier::start();
    carrier.tell([Reply::Answer(422, None, r#"{"detail":"no such postal code"}"#.to_owned())]);
    let mut host = shop(&carrier, "");
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("shipment", |consumer| consumer["dead"] == 1);
    let letter = &client.dead_letters("shipment")[0];
    assert_eq!((&letter["outcome"], &letter["attempts"]), (&json!("reject"), &json!(1)));
    assert!(
        letter["cause"].as_str().is_some_and(|cause| cause.ends_with("answered 422: no such postal code")),
        "{letter:#}"
    );

    // Mended at the carrier, and retried by a person: the same key.
    let retry = client.post("/v1/consumers/shipment/dead-letters/retry", &json!({"all": true}));
    assert!(retry.status.is_success(), "{retry:#?}");
    client.wait_for_status(&id, "shipped");
    let requests = carrier.requests();
    assert_eq!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
    host.leave_deliveries();
}

#[test]
fn a_carrier_without_a_grant_is_not_called_and_the_cause_says_what_to_add() {
    let carrier = Carrier::start();
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.consumers.add("shipment");
    let ungranted = format!("[grant]\nchange_order = true\n[retry]\nmax_attempts = 1\n{}", settings(&carrier));
    host.consumers.set_policy("shipment", &ungranted);
    host.variable("CARRIER_TOKEN", TOKEN).start();
    let client = host.client();
    client.stock(&["TEA"], 100);
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("shipment", |consumer| consumer["dead"] == 1 && consumer["state"] == "running");
    let cause = client.dead_letters("shipment")[0]["cause"].as_str().expect("a cause").to_owned();
    assert!(cause.starts_with("grant: ") && cause.contains("grant.http in shipment.toml"), "{cause}");
    assert!(carrier.requests().is_empty());

    host.consumers.set_policy("shipment", &granted(&carrier, ""));
    eventually("the grant counts", || {
        // Retried before the side file is read, it dies again.
        let retry = client.post("/v1/consumers/shipment/dead-letters/retry", &json!({"all": true}));
        assert!(retry.status.is_success(), "{retry:#?}");
        let order = client.order(&id);
        if order["status"] == "shipped" { Ok(()) } else { Err(order.to_string()) }
    });
}

#[test]
fn a_secret_that_is_not_there_is_said_before_anything_runs() {
    let carrier = Carrier::start();
    let mut host = TestHost::new();
    host.consumers.put("shipment", &guests::wasm("shipment"));
    host.consumers.set_policy("shipment", &granted(&carrier, ""));
    host.start();
    let failed = host.client().wait_for_consumer("shipment", |consumer| consumer["state"] == "failed");
    let reason = failed["reason"].as_str().expect("a reason");
    for part in ["secret CARRIER_TOKEN", "no variable CARRIER_TOKEN", "grant.secrets in shipment.toml"] {
        assert!(reason.contains(part), "no {part}: {reason}");
    }
}
