//! A consumer that comes late gets what it missed in a shop of functions alone: from one invocation of the worker to the next.

use std::time::Duration;

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::lambda::shop::{counter, get, handled, place};
use fanfare_tests::lambda::{Failed, Source, TIMEOUT, TestFunction, asked, request};
use fanfare_tests::{Value, json, within};

/// Past events, and how fast they are to come: for longer than the first invocation has.
const PAST: usize = 16;
const RATE: &str = "2/s";
const FIRST: Duration = Duration::from_secs(7);
/// Longer than a worker that was killed keeps a backfill from others.
const WITHIN: Duration = Duration::from_secs(300);

/// A function with the guest that writes down what it hears of each order, some of it at the second attempt.
fn with_lanes(handler: &str, prefix: &str) -> TestFunction {
    let function = TestFunction::new(handler, prefix);
    function.consumers.add("lanes");
    let policy = "concurrency = 8\n[retry]\nbase = \"5ms\"\ncap = \"20ms\"\n[limits]\ntime = \"1s\"\n";
    function.consumers.set_policy("lanes", policy);
    function
}

fn report(api: &mut TestFunction) -> Value {
    get(api, "/v1/consumers/lanes/backfill")
}

fn delivered(api: &mut TestFunction) -> u64 {
    report(api)["delivered"].as_u64().expect("a count")
}

/// What `lanes` heard of an order.
fn heard(api: &mut TestFunction, id: &str) -> Option<String> {
    let state = get(api, &format!("/v1/consumers/lanes/state?prefix=lane/{id}"));
    state["entries"][0]["value"].as_str().map(str::to_owned)
}

#[test]
fn workers_take_turns_with_a_backfill_whatever_kills_them_and_live_events_wait_for_their_history() {
    let prefix = prefix();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let ids: Vec<String> = (0..PAST).map(|_| place(&mut api, &[("TEA", 1)])).collect();
    let mut lanes = with_lanes("consumer.lanes", &prefix);
    lanes.start();
    let queue = Source::of(&prefix, "lanes");
    let mut ask = |path: &str, body: Value| {
        let (status, answer) = asked(&api.invoke(&request("POST", path, &json!({}), Some(&body))));
        assert!((200..300).contains(&status), "{answer:#}");
        answer
    };
    let started = ask("/v1/consumers/lanes/backfill", json!({"from": "beginning", "rate": RATE}));
    assert_eq!((&started["state"], &started["events"]), (&json!("running"), &json!(PAST)), "{started:#}");
    // What the queue tells of them is done with, and none is handled before what is ahead of it.
    let late = [&ids[PAST - 1], &ids[PAST - 2]];
    for id in late {
        ask(&format!("/v1/orders/{id}/cancel"), json!({"reason": "too late"}));
    }
    handled(&mut lanes, &queue, late.len());
    assert_eq!(late.map(|id| heard(&mut api, id)), [None, None]);

    let [mut first, mut killed, mut second] = [(); 3].map(|()| with_lanes("worker", &prefix));
    killed.die_at(Some("backfill.progressed:1"));
    [&mut first, &mut killed, &mut second].into_iter().for_each(TestFunction::start);
    within(WITHIN, "the first worker delivers some", || {
        first.try_invoke(&json!({}), FIRST).unwrap_or_else(|why| panic!("{why:?}\n{}", first.log()));
        if delivered(&mut api) > 0 { Ok(()) } else { Err(first.log()) }
    });
    let by_first = delivered(&mut api);
    assert!(by_first < PAST as u64, "it has no time for all: {by_first}");
    assert_eq!(late.map(|id| heard(&mut api, id)), [None, None]);
    // It has let the backfill go: another one goes on at once.
    let position = report(&mut api)["position"].as_u64();
    let died = killed.try_invoke(&json!({}), TIMEOUT).expect_err("it dies where the backfill goes on");
    assert!(matches!(died, Failed::Ended(_)), "{died:?}");
    assert!(report(&mut api)["position"].as_u64() > position, "{:#}", report(&mut api));

    // What was killed has it for a while, and then nobody.
    within(WITHIN, "the second worker delivers the rest", || {
        second.invoke(&json!({}));
        let of_late = late.map(|id| heard(&mut api, id));
        let report = report(&mut api);
        let is_done = report["state"] == "done" && report["delivered"] == json!(PAST);
        let is_all = is_done && of_late.iter().all(|heard| heard.as_deref() == Some("1 2"));
        if is_all { Ok(()) } else { Err(format!("{of_late:?} {report:#}\n{}", second.log())) }
    });
    for id in &ids[..PAST - 2] {
        assert_eq!(heard(&mut api, id).as_deref(), Some("1"), "{id}");
    }
    assert_eq!(
        counter(&mut api, "lanes", "handled"),
        i64::try_from(PAST + late.len()).expect("a count"),
        "nothing twice"
    );
    assert_eq!(report(&mut api)["held"], 0);
}
