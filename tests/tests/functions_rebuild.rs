//! A host makes the state of a consumer anew whose events functions handle: before, meanwhile and afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_tests::aws::{self, Fault, FaultProxy};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::lambda::shop::{handled, place};
use fanfare_tests::lambda::{Source, TestFunction};
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, guests, json, within};

const REBUILT: &str = "analytics";
/// The same plugin under another name, which the host alone handles, and whose state is never made anew.
const ALONE: &str = "alone";
/// Orders before the rebuild, meanwhile, and when the host is gone.
const BEFORE: usize = 4;
const MEANWHILE: usize = 3;
const AFTER: usize = 2;
/// Longer than a host waits for functions that have not heard of a rebuild, than a minute in which it leaves to the queue what
/// that has not told, and than a busy machine takes for the rest.
const WITHIN: Duration = Duration::from_secs(300);

/// A host that gets no messages of the consumer that functions handle.
fn host(prefix: &str, sqs: &FaultProxy) -> TestHost {
    let queue = format!("{prefix}-{REBUILT}.");
    sqs.choose(move |call| {
        let is_theirs = call.operation == "ReceiveMessage" && call.body.contains(&queue);
        if is_theirs { Fault::Fail(503) } else { Fault::Pass }
    });
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    host.variable("AWS_ENDPOINT_URL_SQS", &sqs.url());
    host.consumers.add(REBUILT);
    let policy = guests::side_file(REBUILT).expect("a side file");
    host.consumers.set_policy(ALONE, &format!("start = \"beginning\"\n{policy}"));
    host.consumers.put(ALONE, &guests::wasm(REBUILT));
    host
}

/// Has the function handle messages of its queue, until it is done with so many.
#[track_caller]
fn all_handled(consumer: &mut TestFunction, queue: &Source, count: usize) {
    let event = queue.event(count);
    within(WITHIN, "the function is done with all", || {
        // Lambda would bring those alone that come back; the others are repeats.
        let back = queue.settle(&event, &consumer.invoke(&event));
        if back == BTreeSet::new() { Ok(()) } else { Err(format!("{back:?}\n{}", consumer.log())) }
    });
}

fn report(client: &Client) -> Value {
    client.get(&format!("/v1/consumers/{REBUILT}/backfill")).expect(200).json()
}

fn steer(client: &Client, step: &str) -> Value {
    client.post(&format!("/v1/consumers/{REBUILT}/backfill/{step}"), &json!({})).expect(200).json()
}

/// Once nothing is pending, the rebuilt one holds what the one that was left alone does.
#[track_caller]
fn holds_the_same(client: &Client, orders: usize) {
    let orders = i64::try_from(orders).expect("a count");
    within(WITHIN, "both have seen all orders, and the same of them", || {
        let consumers = client.look("/v1/consumers")?["consumers"].take();
        let [rebuilt, alone] = [REBUILT, ALONE].map(|name| client.counters(name, ""));
        let is_idle = |consumer: &Value| consumer["pending"] == 0 && consumer["dead"] == 0;
        let idle = consumers.as_array().is_some_and(|consumers| consumers.iter().all(is_idle));
        let placed = rebuilt.iter().any(|(key, count)| key == "status/placed" && *count == orders);
        let is_so = idle && placed && rebuilt == alone;
        if is_so { Ok(()) } else { Err(format!("{consumers:#?}\n{rebuilt:#?}\n{alone:#?}")) }
    });
    assert_eq!(client.entries(REBUILT, ""), client.entries(ALONE, ""));
}

#[test]
fn a_state_that_a_host_makes_anew_counts_for_the_functions_that_handle_its_consumer() {
    let prefix = prefix();
    let mut analytics = TestFunction::with("consumer.analytics", &prefix, &[REBUILT]);
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, REBUILT);
    (0..BEFORE).for_each(|_| drop(place(&mut api, &[("TEA", 1)])));
    handled(&mut analytics, &queue, BEFORE);

    let sqs = FaultProxy::before(&aws::endpoint("SQS"));
    let mut host = host(&prefix, &sqs);
    host.start();
    let client = host.client();
    for name in [REBUILT, ALONE] {
        client.wait_for_consumer(name, |consumer| consumer["state"] == "running");
    }
    let asked = json!({"from": "beginning", "rebuild": true, "rate": "2/s"});
    let started = client.post(&format!("/v1/consumers/{REBUILT}/backfill"), &asked).expect(202).json();
    assert_eq!(started["events"], json!(BEFORE), "{started:#}");
    assert_eq!(steer(&client, "pause")["state"], "paused");
    // The rebuild has them before it, and the function handles them on the state of before.
    for _ in 0..MEANWHILE {
        let _ = client.placed(&order(&[("TEA", 1)]));
        all_handled(&mut analytics, &queue, 1);
    }
    assert_eq!(steer(&client, "resume")["state"], "running");
    let done = within(WITHIN, "the rebuild is done", || {
        let report = report(&client);
        if report["state"] == "done" { Ok(report) } else { Err(format!("{report:#}\n{}", host.log())) }
    });
    assert_eq!(done["delivered"], json!(BEFORE + MEANWHILE), "{done:#}");
    holds_the_same(&client, BEFORE + MEANWHILE);

    // The function stood still when the new state came into use, and nobody else is there.
    host.ask_to_end();
    assert!(host.ended().success(), "{}", host.log());
    (0..AFTER).for_each(|_| drop(place(&mut api, &[("TEA", 1)])));
    all_handled(&mut analytics, &queue, AFTER);
    host.start();
    holds_the_same(&host.client(), BEFORE + MEANWHILE + AFTER);
}
