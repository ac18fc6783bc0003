//! Placing orders: what counts as the same order, and what as another.

use std::sync::Barrier;
use std::thread;

use fanfare_tests::orders::{UNIT_AMOUNT, order, referenced};
use fanfare_tests::{TestHost, json};

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

#[test]
fn two_hundred_identical_posts_at_once_make_one_order() {
    const POSTS: usize = 200;
    const TOGETHER: usize = 25;
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    client.stock(&["TEA"], 1_000);
    let order = referenced("R-1", &[("TEA", 1)]);
    let start = Barrier::new(TOGETHER);
    let ids: Vec<String> = thread::scope(|scope| {
        let shops: Vec<_> = (0..TOGETHER)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let post = |_| client.place_with_key("key-1", &order).expect(201).id();
                    (0..POSTS / TOGETHER).map(post).collect::<Vec<_>>()
                })
            })
            .collect();
        shops.into_iter().flat_map(|shop| shop.join().expect("a shop")).collect()
    });
    assert_eq!(ids.len(), POSTS);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    client.wait_until_idle();
    assert_eq!(client.orders().len(), 1);
    assert_eq!(client.counter("inventory", "stock/TEA"), 999);
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
