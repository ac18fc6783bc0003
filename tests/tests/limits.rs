//! A consumer cannot hurt the host or another consumer.

use std::time::Duration;

use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value};

#[test]
fn a_guest_that_never_ends_is_stopped_and_the_others_go_on() {
    let (host, letter) = dead_letter_of("spin", "cpu = \"20ms\"\n");
    assert!(mentions(&letter, "cpu") || mentions(&letter, "time"), "{letter:#}");
    assert_eq!(outcomes(&host.client(), "spin", "timeout"), 1);
    others_go_on(&host);
}

#[test]
fn a_guest_that_never_ends_is_stopped_by_the_clock_too() {
    let (host, letter) = dead_letter_of("spin", "cpu = \"1h\"\ntime = \"200ms\"\n");
    assert!(mentions(&letter, "time"), "{letter:#}");
    assert_eq!(outcomes(&host.client(), "spin", "timeout"), 1);
    others_go_on(&host);
}

#[test]
fn a_guest_that_eats_memory_is_stopped_and_the_others_go_on() {
    let (host, letter) = dead_letter_of("hungry", "memory = \"16MiB\"\n");
    assert!(mentions(&letter, "memory") || mentions(&letter, "alloc"), "{letter:#}");
    assert_eq!(outcomes(&host.client(), "hungry", "trap"), 1);
    others_go_on(&host);
}

#[test]
fn a_guest_that_never_stops_talking_is_done_and_cannot_forge_the_log() {
    /// Far less than what it says: four MiB and more.
    const LOG_BYTES_MAX: usize = 1 << 20;
    let mut host = TestHost::new();
    host.consumers.add("chatty");
    // It is the log that is bounded here: 4,000 lines may take a busy machine longer than the usual limit.
    host.consumers.set_policy("chatty", "[limits]\ncpu = \"5s\"\ntime = \"30s\"");
    host.start();
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("chatty", "handled"), 1);
    let log = host.log();
    assert!(log.len() < LOG_BYTES_MAX, "{} bytes", log.len());
    assert!(!log.contains('\u{1b}'), "what a terminal would obey");
    assert!(!log.lines().any(|line| line.starts_with("ERROR a line that chatty made up")));
}

/// A host with inventory and a guest that ends in a dead letter, and that letter.
fn dead_letter_of(guest: &str, limits: &str) -> (TestHost, Value) {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.consumers.add(guest);
    host.consumers.set_policy(guest, &format!("[retry]\nmax_attempts = 1\n\n[limits]\n{limits}"));
    host.leave_deliveries().start();
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer(guest, |consumer| consumer["dead"] == 1);
    let mut letters = client.dead_letters(guest);
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert_eq!(client.counter(guest, "handled"), 0, "its effects are discarded");
    (host, letters.remove(0))
}

#[track_caller]
fn others_go_on(host: &TestHost) {
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "rejected");
}

/// `fanfare_handled_total` of a consumer.
fn outcomes(client: &Client, consumer: &str, outcome: &str) -> u64 {
    let meter = format!("fanfare_handled_total{{consumer=\"{consumer}\",outcome=\"{outcome}\"}} ");
    // Attempts end before their meter moves.
    fanfare_tests::within(Duration::from_secs(10), &meter, || {
        let metrics = client.get("/metrics").expect(200).text;
        let value = metrics.lines().find_map(|line| line.strip_prefix(&meter)).and_then(|value| value.parse().ok());
        value.filter(|value| *value > 0).ok_or(metrics)
    })
}

fn mentions(letter: &Value, word: &str) -> bool {
    letter["cause"].as_str().is_some_and(|cause| cause.to_lowercase().contains(word))
}
