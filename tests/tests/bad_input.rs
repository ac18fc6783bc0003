//! What bad input gets: a problem that names the field, and nothing stored.

use fanfare_tests::orders::{event, order, referenced};
use fanfare_tests::wire::Wire;
use fanfare_tests::{Client, TestHost, Value, json};

/// What is wrong, how it is done to a good order, the status, and what the problem must name.
type Case = (&'static str, fn(&mut Value), u16, &'static str);

const CASES: [Case; 22] = [
    ("no lines", |order| order["lines"] = json!([]), 422, "lines"),
    ("lines missing", |order| remove(order, "lines"), 422, "lines"),
    ("too many lines", |order| order["lines"] = vec![order["lines"][0].clone(); 501].into(), 422, "lines"),
    ("zero quantity", |order| order["lines"][1]["quantity"] = json!(0), 422, "lines[1].quantity"),
    ("negative quantity", |order| order["lines"][1]["quantity"] = json!(-1), 422, "lines[1].quantity"),
    ("fraction of a unit", |order| order["lines"][0]["quantity"] = json!(1.5), 422, "lines[0].quantity"),
    ("quantity in words", |order| order["lines"][0]["quantity"] = json!("two"), 422, "lines[0].quantity"),
    ("huge quantity", |order| order["lines"][0]["quantity"] = json!(5_000_000_000_u64), 422, "lines[0].quantity"),
    ("negative price", |order| order["lines"][0]["unit_amount"] = json!(-1), 422, "lines[0].unit_amount"),
    ("overflowing sum", |order| order["lines"][0]["unit_amount"] = json!(i64::MAX), 422, "lines[0]"),
    (
        "discount above the price",
        |order| order["lines"][0]["discount_amount"] = json!(1_u64 << 40),
        422,
        "lines[0].discount_amount",
    ),
    ("negative discount", |order| order["lines"][0]["discount_amount"] = json!(-1), 422, "lines[0].discount_amount"),
    ("empty sku", |order| order["lines"][0]["sku"] = json!(""), 422, "lines[0].sku"),
    ("endless sku", |order| order["lines"][0]["sku"] = json!("x".repeat(100_000)), 422, "lines[0].sku"),
    ("unknown currency", |order| order["currency"] = json!("XYZ"), 422, "currency"),
    ("currency in small letters", |order| order["currency"] = json!("usd"), 422, "currency"),
    ("another total", |order| order["total_amount"] = json!(1), 422, "total_amount"),
    ("no customer", |order| remove(order, "customer"), 422, "customer"),
    ("unknown field", |order| order["lines"][0]["quantitiy"] = json!(1), 422, "quantitiy"),
    ("a date of one's own", |order| order["placed_at"] = json!("1996-07-04T00:00:00Z"), 422, "placed_at"),
    (
        "a made-up country",
        |order| order["shipping_address"]["country"] = json!("Atlantis"),
        422,
        "shipping_address.country",
    ),
    ("an id of one's own", |order| order["id"] = json!("0190b5a0-0000-7000-8000-000000000000"), 422, "id"),
];

#[test]
fn what_a_page_of_another_site_makes_a_browser_send_changes_nothing() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let order = order(&[("TEA", 1)]).to_string();
    let own = format!("http://{}", client.address());
    let json = ("Content-Type", "application/json");
    for foreign in [
        &[json, ("Sec-Fetch-Site", "cross-site")][..],
        &[json, ("Sec-Fetch-Site", "same-site"), ("Origin", "http://localhost:3000")],
        &[json, ("Origin", "http://localhost:3000")],
        &[json, ("Origin", "null")],
        &[("Content-Type", "text/plain"), ("Origin", "http://evil.example")],
    ] {
        let answer = client.try_post("/v1/orders", foreign, order.as_bytes()).expect("an answer");
        assert_eq!(answer.problem(403)["type"], "/problems/foreign-page", "{foreign:?}");
    }
    let event = event("1", "com.example.a", "TEA", json!({})).to_string();
    let headers = [("Content-Type", "application/cloudevents+json"), ("Sec-Fetch-Site", "cross-site")];
    let answer = client.try_post("/v1/events", &headers, event.as_bytes()).expect("an answer");
    assert_eq!(answer.problem(403)["type"], "/problems/foreign-page");
    assert_nothing_is_stored(&client);

    for page in [&[json][..], &[json, ("Sec-Fetch-Site", "same-origin"), ("Origin", &own)], &[json, ("Origin", &own)]] {
        let answer = client.try_post("/v1/orders", page, order.as_bytes()).expect("an answer");
        assert_eq!(answer.status.as_u16(), 201, "{page:?}: {answer:#?}");
    }
}

#[test]
fn a_connection_goes_on_behind_a_request_that_is_refused_before_its_body_was_read() {
    let host = TestHost::with(&[]);
    let address = host.client().address().to_owned();
    let key = format!("Idempotency-Key: {}\r\n", "k".repeat(2_000));
    for (request, more, status) in [
        ("POST /v1/orders", "Origin: null\r\n", 403),
        ("POST /v1/orders", "Content-Type: text/plain\r\n", 415),
        ("POST /v1/orders", "Content-Encoding: gzip\r\n", 415),
        ("POST /v1/orders", &key, 400),
        ("POST /v1/nothing", "", 404),
        ("PUT /v1/orders", "", 405),
        ("POST /v1/consumers?name=a", "", 405),
        ("POST /v1/consumers/nobody/pause?why=", "", 400),
        ("DELETE /v1/consumers/nobody", "", 404),
    ] {
        let json = if more.contains("Content-Type") { "" } else { "Content-Type: application/json\r\n" };
        let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\n{json}{more}Content-Length: 2\r\n\r\n");
        let mut wire = Wire::connect(&address);
        assert!(wire.send(head.as_bytes()));
        // As of a client that sends the body by itself.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let next = format!("GET /v1/orders HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        assert!(wire.send(format!("{{}}{next}").as_bytes()));
        let answers = wire.read_to_end();
        let is_both = answers.starts_with(&format!("HTTP/1.1 {status}")) && answers.contains("HTTP/1.1 200");
        assert!(is_both, "{request} {more}: {answers}");
    }
}

#[test]
fn each_bad_order_gets_a_problem_that_names_the_field_and_is_not_stored() {
    let host = TestHost::with(&[]);
    let client = host.client();
    for (what, spoil, status, names) in CASES {
        let mut order = referenced("R-1", &[("TEA", 1), ("CUP", 2)]);
        spoil(&mut order);
        let answer = client.place(&order);
        assert_eq!(answer.status.as_u16(), status, "{what}: {answer:#?}");
        let problem = answer.problem(status);
        assert!(problem.to_string().contains(names), "{what}: the problem does not name {names}: {problem:#}");
    }
    assert_nothing_is_stored(&client);
    // Not even the reference: the good order has it still.
    client.placed(&referenced("R-1", &[("TEA", 1), ("CUP", 2)]));
}

#[test]
fn overflow_across_lines_is_found() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let mut order = order(&[("TEA", 1), ("CUP", 1)]);
    for line in 0..2 {
        order["lines"][line]["unit_amount"] = json!(i64::MAX / 2 + 1);
    }
    let _ = client.place(&order).problem(422);
    assert_nothing_is_stored(&client);
}

#[test]
fn what_is_no_json_gets_a_problem_that_says_where() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let good = order(&[("TEA", 1)]).to_string();
    let cut = &good[..good.len() - 1];
    let deep = "[".repeat(100_000);
    for body in ["", "{", cut, "null", "[]", "\"order\"", "{\"currency\": \"USD\",}", &deep, "\u{feff}{}", "{} {}"] {
        let answer = client.try_post("/v1/orders", &[], body.as_bytes()).expect("an answer");
        assert!([400, 422].contains(&answer.status.as_u16()), "{:.40}: {answer:#?}", body);
        let status = answer.status.as_u16();
        let _ = answer.problem(status);
    }
    let answer = client.try_post("/v1/orders", &[], b"{\"currency\": \"\xff\"}").expect("an answer");
    assert!([400, 422].contains(&answer.status.as_u16()), "{answer:#?}");
    let answer = client.try_post("/v1/orders", &[("Content-Type", "text/plain")], good.as_bytes()).expect("an answer");
    let _ = answer.problem(415);
    assert_nothing_is_stored(&client);
}

#[test]
fn a_body_of_ten_megabytes_is_refused() {
    const BODY_BYTES: usize = 10 << 20;
    let host = TestHost::with(&[]);
    let client = host.client();
    let mut wire = Wire::connect(client.address());
    let head = format!(
        "POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {BODY_BYTES}\r\nConnection: close\r\n\r\n"
    );
    assert!(wire.send(head.as_bytes()));
    // The host need not read what it refuses: it may hang up at any point.
    let part = vec![b' '; 64 << 10];
    let _hung_up = (0..BODY_BYTES / part.len()).any(|_| !wire.send(&part));
    let answer = wire.read_to_end();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");

    // Asked first, as a polite client does, it always says so.
    let mut wire = Wire::connect(client.address());
    assert!(wire.send(head.replace("Connection", "Expect: 100-continue\r\nConnection").as_bytes()));
    let answer = wire.read_to_end();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert_nothing_is_stored(&client);
}

#[test]
fn a_body_that_never_comes_ends_in_a_time_out_and_nobody_else_waits_for_it() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let slow: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = Wire::connect(client.address());
            assert!(wire.send(
                b"POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{\"cur"
            ));
            wire
        })
        .collect();
    let mut silent = Wire::connect(client.address());
    assert!(silent.send(b"POST /v1/ord"));

    client.placed(&order(&[("TEA", 1)]));
    for wire in slow {
        let answer = wire.read_to_end();
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(client.orders().len(), 1);
}

#[test]
fn what_is_not_there_gets_a_problem_too() {
    let host = TestHost::with(&[]);
    let client = host.client();
    for path in [
        "/v1/orders/0190b5a0-0000-7000-8000-000000000000",
        "/v1/orders/not-an-id",
        "/v1/consumers/nobody",
        "/v1/consumers/nobody/state",
        "/v1/nothing",
    ] {
        let _ = client.get(path).problem(404);
    }
    let _ = client.post("/v1/consumers", &json!({})).problem(405);
}

fn remove(order: &mut Value, field: &str) {
    order.as_object_mut().expect("an order").remove(field);
}

#[track_caller]
fn assert_nothing_is_stored(client: &Client) {
    assert_eq!(client.orders(), Vec::<Value>::new());
    assert_eq!(client.get("/healthz").status, 200);
}
