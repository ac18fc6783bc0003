//! Placing orders: what counts as the same order, and what as another.

use std::os::unix::process::ExitStatusExt;
use std::sync::{Barrier, Mutex};
use std::thread;

use fanfare_tests::orders::{UNIT_AMOUNT, order, referenced};
use fanfare_tests::{Answer, TestHost, Value, eventually, json};

#[test]
fn a_repeat_with_the_same_key_gets_the_first_answer() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let order = order(&[("TEA", 1)]);
    let first = client.place_with_key("key-1", &order).expect(201);
    let again = client.place_with_key("key-1", &order).expect(201);
    assert_eq!(again.id(), first.id());
    assert_eq!(again.json(), first.json());
    assert_eq!(client.orders().len(), 1);

    // Without a key, the same order twice is two orders.
    assert_ne!(client.placed(&order), client.placed(&order));
    assert_eq!(client.orders().len(), 3);
}

#[test]
fn a_key_cannot_be_used_for_another_order() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let _ = client.place_with_key("key-1", &order(&[("TEA", 1)])).expect(201);
    let problem = client.place_with_key("key-1", &order(&[("TEA", 2)])).problem(422);
    assert!(problem.to_string().to_lowercase().contains("idempotency"), "{problem}");
    assert_eq!(client.orders().len(), 1);
}

#[test]
fn a_key_outlives_the_host() {
    let mut host = TestHost::with(&[]);
    let first = host.client().place_with_key("key-1", &order(&[("TEA", 1)])).expect(201);
    host.kill();
    host.start();
    let client = host.client();
    assert_eq!(client.place_with_key("key-1", &order(&[("TEA", 1)])).expect(201).id(), first.id());
    assert_eq!(client.orders().len(), 1);
}

#[test]
fn a_reference_stands_for_one_order() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let first = client.placed(&referenced("R-1", &[("TEA", 1)]));
    for lines in [[("TEA", 1)], [("TEA", 2)]] {
        let problem = client.place(&referenced("R-1", &lines)).problem(409);
        assert!(problem.to_string().contains("R-1") && problem.to_string().contains(&first), "{problem}");
    }
    assert_eq!(client.orders().len(), 1);
}

const POSTS: usize = 1_000;
/// In flight at any time: as many connections as any machine lets a program open.
const TOGETHER: usize = 250;

#[test]
fn a_thousand_identical_posts_at_once_make_one_order_and_one_answer() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    client.stock(&["TEA"], 1_000);
    assert_one_answer(&post_together(|order| client.place_with_key("key-1", order)));
    client.wait_until_idle();
    assert_eq!(client.orders().len(), 1);
    assert_eq!(client.counter("inventory", "stock/TEA"), 999);
    let _ = client.place_with_key("key-1", &order(&[("TEA", 2)])).problem(422);
}

#[test]
fn a_thousand_identical_posts_get_one_answer_across_a_crash() {
    let mut host = TestHost::new();
    // Durable, answered to many, and not to the rest.
    host.die_at(Some("order.durable:300")).start();
    let serving = Mutex::new(host.client());
    let place = |order: &Value| {
        eventually("a host answers", || {
            let client = serving.lock().expect("a client").clone();
            let headers = [("Idempotency-Key", "key-1")];
            client.try_post("/v1/orders", &headers, order.to_string().as_bytes()).map_err(|error| error.to_string())
        })
    };
    let answers = thread::scope(|scope| {
        let answers = scope.spawn(|| post_together(place));
        assert_eq!(host.ended().signal(), Some(9), "{}", host.log());
        host.die_at(None).start();
        *serving.lock().expect("a client") = host.client();
        answers.join().expect("the shops")
    });
    assert_one_answer(&answers);
    assert_eq!(host.client().orders().len(), 1);
    let _ = host.client().place_with_key("key-1", &order(&[("TEA", 2)])).problem(422);
    host.leave_deliveries();
}

/// What [`POSTS`] posts of one order are answered, [`TOGETHER`] at a time.
fn post_together(place: impl Fn(&Value) -> Answer + Sync) -> Vec<Answer> {
    let order = referenced("R-1", &[("TEA", 1)]);
    let start = Barrier::new(TOGETHER);
    thread::scope(|scope| {
        let shop = || {
            start.wait();
            (0..POSTS / TOGETHER).map(|_| place(&order)).collect::<Vec<_>>()
        };
        let shops: Vec<_> = (0..TOGETHER).map(|_| scope.spawn(shop)).collect();
        shops.into_iter().flat_map(|shop| shop.join().expect("a shop")).collect()
    })
}

/// Byte for byte; only the header that tells a repeat may differ.
fn assert_one_answer(answers: &[Answer]) {
    assert_eq!(answers.len(), POSTS);
    let (first, location) = (&answers[0].text, answers[0].header("location"));
    assert!(location.is_some_and(|location| location.ends_with(&answers[0].id())), "{:?}", answers[0]);
    for answer in answers {
        assert_eq!(answer.status, 201, "{answer:#?}");
        assert_eq!((&answer.text, answer.header("location")), (first, location));
    }
}

#[test]
fn the_total_is_the_hosts_own_sum() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let mut discounted = order(&[("TEA", 3), ("CUP", 2)]);
    discounted["lines"][0]["discount_amount"] = json!(500);
    let total = 5 * UNIT_AMOUNT - 500;
    assert_eq!(client.place(&discounted).expect(201).json()["total_amount"], total);
    discounted["total_amount"] = json!(total);
    assert_eq!(client.place(&discounted).expect(201).json()["total_amount"], total);
}

#[test]
fn orders_are_listed_newest_first_by_customer_and_status() {
    let host = TestHost::with(&[]);
    let client = host.client();
    let place = |customer: &str| {
        let mut order = order(&[("TEA", 1)]);
        order["customer"]["id"] = json!(customer);
        client.placed(&order)
    };
    let ids: Vec<String> = ["A", "B", "A", "B", "A"].map(place).into();
    let _ = client.cancel(&ids[4], "no longer wanted").expect(200);

    let mut listed = Vec::new();
    let mut path = "/v1/orders?customer=A&limit=2".to_owned();
    loop {
        let page = client.get(&path).expect(200).json();
        let orders = page["orders"].as_array().expect("orders");
        assert!(orders.len() <= 2, "{page:#}");
        listed.extend(orders.iter().map(|order| order["id"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/orders?customer=A&limit=2&after={next}");
    }
    assert_eq!(listed, [ids[4].clone(), ids[2].clone(), ids[0].clone()]);

    let cancelled = client.get("/v1/orders?status=cancelled").expect(200).json();
    assert_eq!(cancelled["orders"].as_array().map(Vec::len), Some(1));
    assert_eq!(cancelled["orders"][0]["id"], ids[4]);
    let problem = client.get("/v1/orders?status=lost").problem(400);
    assert!(problem.to_string().contains("status"), "{problem}");
}
