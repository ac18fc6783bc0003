//! A consumer that is stuck is stuck alone.

use fanfare_tests::orders::{order, received};
use fanfare_tests::{TestHost, eventually};

/// More than there are places for instances, and than a machine has cores.
const STUCK: &str = "concurrency = 300\n[limits]\ncpu = \"1h\"\ntime = \"1h\"\n[retry]\nmax_attempts = 1000000\n";
const AT_ONCE: &str = "base = \"1ms\"\ncap = \"1ms\"\n";
const ORDERS: usize = 300;

#[test]
fn consumers_that_wait_compute_or_try_again_for_ever_leave_the_others_at_work() {
    let mut host = TestHost::new();
    for name in ["inventory", "loyalty"] {
        host.consumers.add(name);
    }
    for name in ["always-retry", "sleeps", "spin"] {
        host.consumers.add(name);
        host.consumers.set_policy(name, &format!("{STUCK}{AT_ONCE}"));
    }
    host.variable("FANFARE_LOG_LEVEL", "warn").leave_deliveries().start();
    let client = host.client();
    assert!(client.publish(&received("received", "TEA", 1_000)).status.is_success());
    client.wait_for_counter("inventory", "stock/TEA", 1_000);
    let ids: Vec<_> = (0..ORDERS).map(|_| client.placed(&order(&[("TEA", 1)]))).collect();

    eventually("inventory and loyalty have done all", || {
        let consumers = client.consumers();
        let of = |name: &str| consumers.iter().find(|consumer| consumer["name"] == name).cloned().unwrap_or_default();
        let idle = ["inventory", "loyalty"].iter().all(|name| of(name)["pending"] == 0);
        if idle && of("loyalty")["done"] == ORDERS { Ok(()) } else { Err(format!("{consumers:#?}")) }
    });
    assert_eq!(client.counter("loyalty", "points/C-1"), 10 * i64::try_from(ORDERS).expect("a count"));
    assert_eq!(client.order(&ids[0])["status"], "confirmed");
    for name in ["always-retry", "sleeps", "spin"] {
        let consumer = client.consumer(name).expect("a consumer");
        assert_eq!((&consumer["pending"], &consumer["dead"]), (&ORDERS.into(), &0.into()), "{consumer:#}");
    }
}
