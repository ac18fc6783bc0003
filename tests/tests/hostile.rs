//! A guest that means harm ends inside its limits, its dead letter says what it did, and everybody else goes on.

use std::time::Duration;

use fanfare_tests::load::Load;
use fanfare_tests::orders::event;
use fanfare_tests::{Client, TestHost, Value, eventually, json};

/// A guest that is stopped has run no longer than this past its limit.
const GRACE_US: u64 = 50_000;
/// The machine has other work too, which only ever makes a run longer: the shortest of several is the guest's own.
const RUNS: usize = 5;

/// What `hostile` is told, its outcome and a word of its cause.
const FATES: [(&str, &str, &str); 24] = [
    ("spin", "timeout", "used up its cpu limit of 1s"),
    ("calls", "timeout", "used up its cpu limit of 1s"),
    ("sleep", "timeout", "used up its time limit of 5s"),
    ("recurse", "trap", "memory-out-of-bounds"),
    ("panic", "trap", "hostile was told to panic"),
    ("abort", "trap", "unreachable"),
    ("exit", "trap", "exit: the guest ended itself"),
    ("eat", "trap", "limits.memory"),
    ("values", "trap", "limits."),
    ("keys", "trap", "limits.writes"),
    ("counters", "trap", "limits."),
    ("scans", "trap", "limits.reads"),
    ("publish", "trap", "limits.events"),
    ("mail", "trap", "limits.messages"),
    ("rows", "trap", "limits.records"),
    ("text", "trap", "bytes of e-mail"),
    ("reason", "reject", "because"),
    ("change", "trap", "grant: change-order is not granted"),
    ("unkind", "trap", "grant: publishing com.example.ungranted is not granted"),
    ("order", "trap", "grant: order.placed is the host's own"),
    ("sms", "trap", "grant: sms is not granted"),
    ("log", "done", ""),
    ("print", "done", ""),
    ("hold", "done", ""),
];

/// A host with `hostile`, under the limits of its own side file and what is added to it.
fn host(policy: &str) -> TestHost {
    let mut host = TestHost::new();
    host.consumers.add("reports-one");
    host.consumers.add("hostile");
    let side_file = fanfare_tests::guests::side_file("hostile").expect("hostile.toml");
    host.consumers.set_policy("hostile", &format!("{policy}\n{side_file}"));
    host.variable("FANFARE_LOG_LEVEL", "info,fanfare::consumer=error").leave_deliveries().start();
    host
}

fn tell(client: &Client, id: &str, what: &str) {
    let told = event(id, "com.example.hostile", id, json!({"do": what}));
    assert!(client.publish(&told).status.is_success());
}

fn dead(client: &Client) -> u64 {
    client.consumer("hostile").expect("hostile")["dead"].as_u64().expect("a count")
}

/// Tells it, and waits until it has ended; the letter, if it is dead.
fn fate(client: &Client, id: &str, what: &str) -> Option<Value> {
    let before = dead(client);
    tell(client, id, what);
    let consumer = client.wait_for_consumer("hostile", |consumer| consumer["pending"] == consumer["dead"]);
    (consumer["dead"] != before).then(|| {
        let letters = client.dead_letters("hostile");
        let last = letters.last().expect("a letter");
        let path = format!("/v1/consumers/hostile/dead-letters/{}", last["event_id"].as_str().expect("an id"));
        client.get(&path).expect(200).json()
    })
}

#[test]
fn each_way_of_going_too_far_ends_inside_its_limit_in_a_letter_that_says_so_and_others_go_on() {
    let host = host("");
    let client = host.client();
    let load = Load::begin(&client, 1);
    for (what, outcome, word) in FATES {
        let handled = client.counter("reports-one", "handled");
        let letter = fate(&client, what, what);
        let ended = letter.as_ref().map_or("done", |letter| letter["outcome"].as_str().expect("an outcome"));
        assert_eq!(ended, outcome, "{what}: {letter:#?}");
        if let Some(letter) = letter {
            let cause = letter["history"][0]["cause"].as_str().expect("a cause");
            assert!(cause.contains(word) && cause.len() < 5_000, "{what}: no {word} in {cause}");
        }
        eventually("others go on", || match client.counter("reports-one", "handled") {
            now if now > handled => Ok(()),
            now => Err(format!("{now} events handled")),
        });
    }
    ends_with_the_clock(&client);
    assert!(load.end() > 0);
    eventually("every order was handled", || match client.consumer("reports-one").expect("reports-one") {
        consumer if consumer["pending"] == 0 => Ok(()),
        consumer => Err(consumer.to_string()),
    });
    let done = i64::try_from(FATES.iter().filter(|(_, outcome, _)| *outcome == "done").count()).expect("few");
    assert_eq!(client.counter("hostile", "handled"), done, "of the others nothing took effect");
    shows_what_was_taken(&client);
}

/// Waiting ends no later than the limit says, and a little.
fn ends_with_the_clock(client: &Client) {
    let mut shortest = u64::MAX;
    for run in 0..RUNS {
        let letter = fate(client, &format!("sleep-{run}"), "sleep").expect("a letter");
        shortest = shortest.min(letter["history"][0]["duration_us"].as_u64().expect("a duration"));
        if shortest <= 5_000_000 + GRACE_US {
            return;
        }
    }
    panic!("{shortest} µs and more");
}

/// The limits and what was taken of them, as the API has them.
fn shows_what_was_taken(client: &Client) {
    let limits = &client.get("/v1/consumers/hostile").expect(200).json()["limits"];
    let [memory, cpu, messages] = ["memory", "cpu", "messages"].map(|name| &limits[name]);
    let high_water = |gauge: &Value| gauge["high_water"].as_f64().expect("a high-water mark");
    assert_eq!((&memory["limit"], &messages["limit"]), (&json!(32 << 20), &json!(100)), "{limits:#}");
    assert!((24e6..=33.6e6).contains(&high_water(memory)), "{limits:#}");
    // CPU time is the guest's own, whatever else the machine has to do; waiting for its share of it is no part of it.
    assert!((1000.0..=1050.0).contains(&high_water(cpu)), "{limits:#}");
    assert!((100.0 - high_water(messages)).abs() < 2.0, "{limits:#}");
    assert!(high_water(&limits["call"]) > 0.0 && limits["handles"]["high_water"].is_u64(), "{limits:#}");
    assert!(limits["state"]["now"].as_u64().is_some_and(|bytes| bytes > 0), "{limits:#}");
    let text = fanfare_tests::program::run(["consumers", "show", "hostile", "--url", client.base()]).succeeded().stdout;
    assert!(text.contains("MOST SO FAR") && text.contains("order_changes"), "{text}");
}

#[test]
fn a_chain_of_events_that_cause_one_another_ends_in_a_letter() {
    let host = host("");
    let client = host.client();
    tell(&client, "first", "loop");
    let consumer = client.wait_for_consumer("hostile", |consumer| consumer["dead"] == 1);
    assert_eq!(consumer["pending"], 1, "the letter itself: {consumer:#}");
    assert!(client.dead_letters("hostile")[0]["cause"].as_str().is_some_and(|cause| cause.contains("event loop")));
    assert_eq!(client.counter("hostile", "handled"), 16);
}

#[test]
fn around_itself_a_guest_finds_nothing() {
    let host = host("");
    let client = host.client();
    assert_eq!(fate(&client, "look", "ambient"), None);
}

#[test]
fn what_a_guest_keeps_in_memory_is_gone_with_its_event_where_that_is_asked_for() {
    for (isolation, found) in [("event", false), ("warm", true)] {
        let host = host(&format!("isolation = \"{isolation}\""));
        let client = host.client();
        for n in 0..8 {
            tell(&client, &format!("remember-{n}"), "remember");
        }
        client.wait_for_consumer("hostile", |consumer| consumer["pending"] == consumer["dead"]);
        assert_eq!(dead(&client) > 0, found, "{isolation}");
    }
}

/// What the memory of a host may grow by through all that: letters are kept in SQLite's and the host's own caches, which fill
/// at first. Every kind of flood and bomb by itself takes more, each time.
const MEMORY_KIB_MAX: u64 = 24 << 10;

#[test]
fn the_memory_of_the_host_returns_to_where_it_was() {
    let host = host("");
    let client = host.client();
    let all = |round: usize| {
        for (what, ..) in FATES.iter().filter(|(what, ..)| *what != "sleep") {
            tell(&client, &format!("{what}-{round}"), what);
        }
        client.wait_for_consumer("hostile", |consumer| consumer["pending"] == consumer["dead"]);
    };
    (0..2).for_each(all);
    let before = settled(&host);
    (2..6).for_each(all);
    let after = settled(&host);
    eprintln!("{before} KiB before, {after} KiB after");
    assert!(after <= before + MEMORY_KIB_MAX, "{before} KiB before, {after} KiB after");
}

/// Resident memory of the host, once it has given back what it gives back.
fn settled(host: &TestHost) -> u64 {
    // The allocator gives pages back a little after they were freed.
    let (mut least, mut looks) = (u64::MAX, 0);
    fanfare_tests::within(Duration::from_secs(30), "the memory of the host settles", || {
        let now = host.resident_kib();
        looks = if now + 256 < least { 0 } else { looks + 1 };
        least = least.min(now);
        if looks < 50 { Err(format!("{now} KiB")) } else { Ok(least) }
    })
}
