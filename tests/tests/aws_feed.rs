//! The stream of events of hosts that share a store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare_tests::aws::{Fault, Way};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::wire::Wire;
use fanfare_tests::{Client, TestHost, Value, eventually};

/// Longer than an event is young for who reads, and shorter than a request waits.
const SLOW: Duration = Duration::from_secs(4);

fn host(prefix: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    host
}

fn follow(client: &Client, last: Option<&str>) -> Wire {
    let mut wire = Wire::connect(client.address());
    let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    assert!(wire.send(format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{last}\r\n").as_bytes()));
    wire
}

/// How often a stream told of each order, and the last id.
fn told(stream: &str) -> (BTreeMap<String, usize>, Option<String>) {
    let mut orders = BTreeMap::new();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")) {
        // A piece may end in the middle.
        let Ok(event) = serde_json::from_str::<Value>(data) else { continue };
        *orders.entry(event["subject"].as_str().unwrap_or("a gap").to_owned()).or_default() += 1;
    }
    (orders, stream.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().map(str::to_owned))
}

#[test]
fn an_event_whose_write_took_long_is_told_once_by_a_stream_that_was_past_it_at_aws() {
    let prefix = prefix();
    let mut slow = host(&prefix);
    let way = Way::of(&mut slow);
    slow.start();
    let mut quick = host(&prefix);
    quick.start();
    let client = quick.client();
    let mut stream = follow(&client, None);
    let _ = stream.read_until(|told| told.contains(": fanfare"));

    let is_on_its_way = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_on_its_way);
    way.dynamodb.choose(move |call| {
        let is_first = call.operation == "TransactWriteItems" && !seen.swap(true, Ordering::SeqCst);
        if is_first { Fault::Delay(SLOW) } else { Fault::Pass }
    });
    let late = {
        let client = slow.client();
        std::thread::spawn(move || client.placed_at_last(&order(&[("TEA", 1)])))
    };
    eventually("its write is on its way", || {
        is_on_its_way.load(Ordering::SeqCst).then_some(()).ok_or_else(|| slow.log())
    });
    let early = client.placed(&order(&[("TEA", 1)]));
    let so_far = stream.read_until(|stream| told(stream).0.contains_key(&early));
    let (first, id) = told(&so_far);
    let late = late.join().expect("an order");
    let once = |id: &String| (id.clone(), 1);
    let both: BTreeMap<String, usize> = [&early, &late].map(once).into();

    // It is told a minute later; or the stream was not past it, where the machine was slow.
    let rest = match first.contains_key(&late) {
        true => String::new(),
        false => stream.read_until(|stream| told(stream).0.contains_key(&late)),
    };
    assert_eq!(told(&format!("{so_far}{rest}")).0, both, "{so_far}{rest}");

    // Whoever broke off before that is told that something may be missing.
    if !first.contains_key(&late) {
        let mut resumed = follow(&client, id.as_deref());
        let gap = resumed.read_until(|told| told.contains("data: "));
        assert!(gap.contains("event: gap"), "{gap}");
    }
    let (_, id) = told(&format!("{so_far}{rest}"));
    let mut resumed = follow(&client, id.as_deref());
    let _ = resumed.read_until(|told| told.contains(": fanfare"));
    let next = client.placed(&order(&[("TEA", 1)]));
    let resumed = resumed.read_until(|stream| told(stream).0.contains_key(&next));
    assert_eq!(told(&resumed).0, [once(&next)].into(), "{resumed}");
}
