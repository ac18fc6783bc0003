//! One popular thing: what is there is sold, and nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fanfare_tests::orders::{event, order};
use fanfare_tests::{TestHost, Value, json, within};

/// In stock at first; the rest comes in small lots, so that the last unit is fought over again and again.
const STOCK: u32 = 5_000;
const LOTS: usize = 100;
const LOT: u32 = 50;
/// A lot comes with every so many orders, from half of them on; those behind the last lot want more than it has.
const ORDERS_A_LOT: usize = 80;
const ORDERS: usize = 20_000;
const SHOPS: usize = 64;
const HANDLERS: u32 = 16;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(240);

#[test]
fn twenty_thousand_orders_for_ten_thousand_units_confirm_exactly_those() {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    let policy =
        format!("concurrency = {HANDLERS}\n[grant]\nchange_order = true\npublish = [\"com.fanfare.stock.low\"]\n");
    host.consumers.set_policy("inventory", &policy);
    host.variable("FANFARE_LOG_LEVEL", "warn").start();
    let client = host.client();
    client.stock(&["TEA"], STOCK);

    let (one, placed) = (order(&[("TEA", 1)]), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..SHOPS {
            scope.spawn(|| {
                loop {
                    let number = placed.fetch_add(1, Ordering::Relaxed);
                    if number >= ORDERS {
                        break;
                    }
                    if let Some(lot) = lot(number) {
                        assert!(client.publish(&lot).status.is_success());
                    }
                    client.placed(&one);
                }
            });
        }
    });
    within(PATIENCE, "inventory has handled every order", || {
        let inventory = client.consumer("inventory").expect("inventory");
        if inventory["pending"] == 0 { Ok(()) } else { Err(inventory.to_string()) }
    });

    let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
    for order in client.orders() {
        *statuses.entry(order["status"].to_string()).or_default() += 1;
    }
    let half = ORDERS / 2;
    assert_eq!(statuses, BTreeMap::from([("\"confirmed\"".to_owned(), half), ("\"rejected\"".to_owned(), half)]));
    assert_eq!(client.counter("inventory", "stock/TEA"), 0);
    assert_eq!(client.entries("inventory", "taken/").len(), half);

    let overlapping = client.meter("fanfare_overlapping_max{consumer=\"inventory\"}");
    let floors = client.meter("fanfare_floor_conflicts_total");
    println!("at most {overlapping} handlers at once, {floors} floors that held no more");
    assert!(overlapping >= 8.0, "{overlapping} handlers at most overlapped");
    assert!(floors > 0.0, "no floor was ever contended");
}

/// The lot that comes with this order. Each is a subject of its own: lots of one subject would wait for each other.
fn lot(order: usize) -> Option<Value> {
    let since = order.checked_sub(ORDERS / 2)?;
    let lot = since / ORDERS_A_LOT;
    let data = json!({"sku": "TEA", "quantity": LOT});
    let event = || event(&format!("lot-{lot}"), "com.fanfare.stock.received", &format!("lot-{lot}"), data);
    (since.is_multiple_of(ORDERS_A_LOT) && lot < LOTS).then(event)
}
