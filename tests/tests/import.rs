//! Importing orders, and doing it again.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_tests::guests::SHIPPED;
use fanfare_tests::orders::{UNIT_AMOUNT, ndjson, referenced};
use fanfare_tests::wire::Wire;
use fanfare_tests::{TestHost, Value, eventually, json};

#[test]
fn each_line_has_its_own_result_and_a_bad_one_stops_no_other() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let mut bad = referenced("R-2", &[("TEA", 1)]);
    bad["lines"][0]["quantity"] = json!(0);
    let good = [referenced("R-1", &[("TEA", 1)]), referenced("R-3", &[("TEA", 1)])];
    let body = format!("{}\n{bad}\n\nnot json\n{}\n", good[0], good[1]);

    let results = client.import(&body);
    let of = |line: u64| results.iter().find(|result| result["line"] == line).cloned().unwrap_or_default();
    assert_eq!(of(1)["result"], "created", "{results:#?}");
    assert_eq!(of(2)["result"], "error", "{results:#?}");
    assert!(of(2)["problem"].to_string().contains("lines[0].quantity"), "{results:#?}");
    assert_eq!(of(4)["result"], "error", "{results:#?}");
    assert_eq!(of(5)["result"], "created", "{results:#?}");
    assert_eq!(results.len(), 4, "an empty line is none: {results:#?}");
    assert_eq!(client.orders().len(), 2);
    assert_eq!(client.order(of(5)["id"].as_str().expect("an id"))["reference"], "R-3");
}

#[test]
fn the_same_import_again_creates_nothing_and_other_content_is_an_error() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    let mut orders: Vec<Value> = (0..20).map(|n| referenced(&format!("R-{n}"), &[("TEA", 1)])).collect();
    let first = client.import(&ndjson(&orders));
    assert!(first.iter().all(|result| result["result"] == "created"), "{first:#?}");

    orders[7] = referenced("R-7", &[("TEA", 2)]);
    let again = client.import(&ndjson(&orders));
    for (line, (first, again)) in first.iter().zip(&again).enumerate() {
        if line == 7 {
            assert_eq!(again["result"], "error", "{again:#}");
            assert!(again["problem"].to_string().contains("R-7"), "{again:#}");
        } else {
            assert_eq!((&again["result"], &again["id"]), (&json!("exists"), &first["id"]));
        }
    }
    client.wait_until_idle();
    assert_eq!(client.orders().len(), 20);
    assert_eq!(client.consumer("inventory").expect("inventory")["done"], 40, "placed and rejected, once each");
}

#[test]
fn an_import_keeps_the_date_of_the_order() {
    let host = TestHost::with(&["analytics"]);
    let client = host.client();
    let mut order = referenced("R-1", &[("TEA", 1)]);
    order["placed_at"] = json!("1996-07-04T00:00:00Z");
    let results = client.import(&ndjson(&[order.clone()]));
    let id = results[0]["id"].as_str().unwrap_or_else(|| panic!("{results:#?}"));
    assert_eq!(client.order(id)["placed_at"], "1996-07-04T00:00:00.000Z");
    client.wait_until_idle();
    assert_eq!(client.counter("analytics", "orders/day/1996-07-04"), 1);

    order["reference"] = json!("R-2");
    order["placed_at"] = json!("2996-07-04T00:00:00Z");
    let results = client.import(&ndjson(&[order]));
    assert!(results[0]["problem"].to_string().contains("placed_at"), "{results:#?}");
}

#[test]
fn kill_nine_during_an_import_leaves_no_order_twice_and_every_effect_once() {
    const ORDERS: usize = 600;
    let mut host = TestHost::with(&SHIPPED);
    let skus = ["CUP", "POT", "TEA"];
    // Short for the last orders: some are rejected.
    host.client().stock(&skus, 500);
    let orders: Vec<Value> = (0..ORDERS)
        .map(|n| referenced(&format!("R-{n}"), &[(skus[n % 3], 1 + u32::try_from(n % 5).expect("small"))]))
        .collect();
    let body = ndjson(&orders);

    // Half of it is sent and the end never comes: it is under way when the host dies.
    let client = host.client();
    let mut wire = Wire::connect(client.address());
    let head = "POST /v1/orders:import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
    assert!(wire.send(format!("{head}Content-Length: {}\r\n\r\n{}", body.len(), &body[..body.len() / 2]).as_bytes()));
    eventually("some of it is done", || {
        let placed = client.counter("analytics", "status/placed");
        if placed >= 50 { Ok(()) } else { Err(format!("{placed} orders are counted")) }
    });
    host.kill();
    host.start();
    let client = host.client();
    let results = client.import(&body);
    assert_eq!(results.len(), ORDERS);
    assert!(results.iter().all(|result| result["result"] == "created" || result["result"] == "exists"), "{results:#?}");
    client.wait_until_idle();

    let held = client.orders();
    assert_eq!(held.len(), ORDERS);
    let references: BTreeSet<&str> = held.iter().filter_map(|order| order["reference"].as_str()).collect();
    assert_eq!(references.len(), ORDERS);
    let shipped: Vec<&Value> = held.iter().filter(|order| order["status"] == "shipped").collect();
    let rejected = held.iter().filter(|order| order["status"] == "rejected").count();
    assert_eq!(shipped.len() + rejected, ORDERS);
    assert!(rejected > 0 && !shipped.is_empty(), "{rejected} of {ORDERS} rejected");

    for sku in skus {
        let taken: i64 = shipped
            .iter()
            .map(|order| &order["lines"][0])
            .filter(|line| line["sku"] == sku)
            .filter_map(|line| line["quantity"].as_i64())
            .sum();
        assert_eq!(client.counter("inventory", &format!("stock/{sku}")), 500 - taken);
    }
    let paid: i64 = shipped.iter().filter_map(|order| order["total_amount"].as_i64()).sum();
    assert_eq!(client.counter("loyalty", "points/C-1"), paid / UNIT_AMOUNT * 10);
    assert_eq!(client.entries("shipment", "consignment/").len(), shipped.len());
    let count = |number: usize| i64::try_from(number).expect("a small number");
    for (status, expected) in
        [("placed", ORDERS), ("confirmed", shipped.len()), ("shipped", shipped.len()), ("rejected", rejected)]
    {
        assert_eq!(client.counter("analytics", &format!("status/{status}")), count(expected), "{status}");
    }
    assert_eq!(client.messages().len(), 3 * shipped.len() + 2 * rejected);

    // One row for each step of each order, in the order of the steps.
    let mut revisions: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in client.get("/v1/records/changes").expect(200).lines() {
        let order = row["order_id"].as_str().expect("an order").to_owned();
        revisions.entry(order).or_default().push(row["revision"].as_u64().expect("a revision"));
    }
    assert_eq!(revisions.len(), ORDERS);
    for order in &held {
        let steps: Vec<u64> = (1..=order["revision"].as_u64().expect("a revision")).collect();
        assert_eq!(revisions[order["id"].as_str().expect("an id")], steps, "{order:#}");
    }
}
