//! What cannot be handled: shown with everything that led to it, and retried, edited or given up by a person.

use std::fs;
use std::time::Instant;

use fanfare_tests::orders::{event, order};
use fanfare_tests::program::{self, Run};
use fanfare_tests::{Client, TestHost, Value, eventually, json};

const ONE_ATTEMPT: &str = "[grant]\npublish = [\"com.example.obedient.*\"]\nemail = true\n[retry]\nmax_attempts = 1\n";
const LETTERS: &str = "/v1/consumers/obedient/dead-letters";

/// A host with a consumer that ends as it is told, at its only attempt.
fn host() -> TestHost {
    let mut host = TestHost::new();
    host.consumers.add("obedient");
    host.consumers.set_policy("obedient", ONE_ATTEMPT);
    host.start();
    host
}

fn told(id: &str, end: &str) -> Value {
    event(id, "com.example.told", id, json!({"end": end}))
}

/// An event that ends as told, once it is dead.
fn dead(client: &Client, id: &str, end: &str) -> Value {
    assert!(client.publish(&told(id, end)).status.is_success());
    eventually("the letter is dead", || {
        let letters = client.dead_letters("obedient");
        let found = letters.iter().find(|letter| client.get(&path(letter)).json()["event"]["originid"] == id);
        found.cloned().ok_or_else(|| format!("{letters:#?}"))
    })
}

fn path(letter: &Value) -> String {
    format!("{LETTERS}/{}", letter["event_id"].as_str().expect("an id"))
}

fn fanfare(host: &TestHost, arguments: &[&str]) -> Run {
    program::finish(program::fanfare().args(arguments).args(["--url", host.client().base()]))
}

#[test]
fn a_letter_of_each_outcome_shows_what_was_staged_and_logged() {
    let mut host = host();
    host.leave_deliveries();
    let client = host.client();
    for (end, outcome, cause) in [
        ("reject", "reject", "told to reject by"),
        ("retry", "retry", "told to retry by"),
        ("trap", "trap", "told to trap by"),
        ("spin", "timeout", "used up its cpu limit"),
    ] {
        let letter = dead(&client, end, end);
        let shown = client.get(&path(&letter)).expect(200).json();
        let attempt = &shown["history"][0];
        assert_eq!((&shown["outcome"], &attempt["outcome"]), (&json!(outcome), &json!(outcome)), "{shown:#}");
        assert!(attempt["cause"].as_str().is_some_and(|text| text.contains(cause)), "{shown:#}");
        assert_eq!(shown["event"]["data"], json!({"end": end}));

        let effects = &attempt["effects"];
        assert_eq!(effects["adjustments"], json!([{"key": "handled", "by": 1, "floor": null}]), "{shown:#}");
        assert_eq!(effects["entries"][0]["key"], "last");
        assert_eq!(effects["events"][0]["type"], "com.example.obedient.done");
        assert_eq!(effects["messages"][0]["to"], "obedient@shop.example");
        let logged: Vec<_> =
            attempt["log"].as_array().expect("a log").iter().map(|line| line["text"].clone()).collect();
        assert_eq!(logged[..2], [json!(format!("told to {end}")), json!("attempt 1")], "{shown:#}");
        let backtrace = attempt["backtrace"].as_str().unwrap_or_default();
        assert_eq!(backtrace.contains("obedient"), matches!(end, "trap" | "spin"), "{shown:#}");

        let text = fanfare(&host, &["dead-letters", "show", "obedient", letter["event_id"].as_str().expect("an id")]);
        let text = text.succeeded().stdout;
        for part in [outcome, cause, "told to", "com.example.obedient.done"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
    assert_eq!(client.counter("obedient", "handled"), 0, "nothing of it took effect");
    assert_eq!(client.messages(), Vec::<Value>::new());
}

#[test]
fn letters_are_grouped_by_cause_and_retried_by_group() {
    let mut host = host();
    host.leave_deliveries();
    let client = host.client();
    for n in 0..30 {
        assert!(client.publish(&told(&format!("reject-{n}"), "reject")).status.is_success());
        assert!(n >= 5 || client.publish(&told(&format!("trap-{n}"), "trap")).status.is_success());
    }
    client.wait_for_consumer("obedient", |consumer| consumer["dead"] == 35);
    let page = client.get(&format!("{LETTERS}?limit=3")).expect(200).json();
    let causes = page["causes"].as_array().expect("causes");
    assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(3));
    let counts: Vec<_> = causes.iter().map(|cause| (&cause["outcome"], &cause["count"])).collect();
    assert_eq!(counts, [(&json!("reject"), &json!(30)), (&json!("trap"), &json!(5))], "over all, and not this page");
    assert_eq!(causes[0]["cause"], "told to reject by #");

    // Told otherwise by nobody, they die again, and are counted once.
    let cause = causes[0]["cause"].as_str().expect("a cause");
    let began = Instant::now();
    let arguments = ["dead-letters", "retry", "obedient", "--cause", cause, "--rate", "50/s", "--json"];
    assert_eq!(fanfare(&host, &arguments).succeeded().json(), json!({"count": 30}));
    assert!(began.elapsed().as_millis() >= 590, "30 at 50 a second took {:?}", began.elapsed());
    let trapped = client.get(&format!("{LETTERS}?cause=told&outcome=nonsense")).problem(400);
    assert!(trapped.to_string().contains("outcome"), "{trapped}");
    client.wait_for_consumer("obedient", |consumer| consumer["dead"] == 35);

    let text = fanfare(&host, &["dead-letters", "discard", "obedient", "--all"]).succeeded().stdout;
    assert_eq!(text.trim(), "discarded: 35 dead letters");
    assert_eq!(client.dead_letters("obedient"), Vec::<Value>::new());
}

#[test]
fn a_letter_is_done_after_its_copy_was_edited() {
    let mut host = host();
    let client = host.client();
    let letter = dead(&client, "custom", "reject");
    let id = letter["event_id"].as_str().expect("an id");
    let file = host.folder().join("data.json");
    fs::write(&file, r#"{"end": "done"}"#).expect("a file");
    let arguments = ["dead-letters", "retry", "obedient", "--event", id, "--data", &file.to_string_lossy()];
    let _ = fanfare(&host, &arguments).succeeded();
    client.wait_until_idle();
    assert_eq!(client.counter("obedient", "handled"), 1);

    // Of an order, its content: not what happened to it.
    let mut rejected = order(&[("TEA", 2)]);
    rejected["metadata"] = json!({"end": "reject"});
    let order = client.placed(&rejected);
    client.wait_for_consumer("obedient", |consumer| consumer["dead"] == 1);
    let letter = client.dead_letters("obedient").remove(0);
    let mut data = client.get(&path(&letter)).json()["event"]["data"].take();
    data["order"]["status"] = json!("shipped");
    let retry =
        |data: &Value| client.post(&format!("{LETTERS}/retry"), &json!({"event_id": letter["event_id"], "data": data}));
    assert_eq!(retry(&data).problem(422)["errors"][0]["field"], "data.order.status");
    data["order"]["status"] = json!("placed");
    data["order"]["metadata"]["end"] = json!("retry");
    assert_eq!(retry(&data).expect(200).json()["count"], 1);
    client.wait_for_consumer("obedient", |consumer| consumer["dead"] == 1);

    // Dead again, and edited again after the host was killed.
    host.kill();
    host.start();
    let client = host.client();
    let shown = client.get(&path(&letter)).expect(200).json();
    assert_eq!(shown["edited"]["data"], data);
    assert_eq!((&shown["history"][1]["origin"], &shown["history"][1]["edited"]), (&json!("replay"), &json!(true)));
    // What is shown of the copy is what the next one is made of.
    let id = letter["event_id"].as_str().expect("an id");
    let text = fanfare(&host, &["dead-letters", "show", "obedient", id]).succeeded().stdout;
    let copy = text.lines().find_map(|line| line.strip_prefix("edited")).expect("the copy").trim();
    let file = host.folder().join("copy.json");
    fs::write(&file, copy.replace(r#""end":"retry""#, r#""end":"done""#)).expect("a file");
    let arguments = ["dead-letters", "retry", "obedient", "--event", id, "--data", &file.to_string_lossy()];
    assert!(fanfare(&host, &arguments).succeeded().stdout.contains("retried: 1"));
    client.wait_until_idle();
    assert_eq!(client.counter("obedient", "handled"), 2);
    assert_eq!(client.order(&order)["metadata"]["end"], "reject", "the order itself is as it was placed");
}

#[test]
fn a_discarded_letter_lets_its_lane_go_on() {
    let mut host = TestHost::new();
    host.consumers.add("obedient");
    host.consumers.set_policy("obedient", &format!("subscribe = [\"order.*\"]\n{ONE_ATTEMPT}"));
    host.start();
    let client = host.client();
    let mut rejected = order(&[("TEA", 2)]);
    rejected["metadata"] = json!({"end": "reject"});
    let id = client.placed(&rejected);
    client.wait_for_consumer("obedient", |consumer| consumer["dead"] == 1);
    let _ = client.cancel(&id, "it takes too long").expect(200);
    let states = || -> Vec<Value> {
        let order = client.order(&id);
        order["deliveries"].as_array().expect("deliveries").iter().map(|it| it["state"].clone()).collect()
    };
    assert_eq!(states()[0], "dead");
    assert!(matches!(states()[1].as_str(), Some("pending" | "waiting")), "{:?}", states());
    let event = client.dead_letters("obedient").remove(0)["event_id"].take();
    let path = format!("{LETTERS}/discard");
    assert_eq!(client.post(&path, &json!({"event_id": event})).expect(200).json()["count"], 1);
    eventually("the lane went on into the next dead letter", || {
        if states() == ["discarded", "dead"] { Ok(()) } else { Err(format!("{:?}", states())) }
    });
    assert_eq!(client.post(&path, &json!({"all": true})).expect(200).json()["count"], 1);
    client.wait_until_idle();
    assert_eq!(states(), ["discarded", "discarded"]);
}

#[test]
fn a_command_about_dead_letters_that_makes_no_sense_is_refused() {
    let host = host();
    let client = host.client();
    let id = "0198c2a4-7b1e-7c3d-8e4f-abcdefabcdef";
    for (body, field) in [
        (json!({}), "body"),
        (json!({"all": true, "event_id": id}), "body"),
        (json!({"all": true, "rate": "fast"}), "rate"),
        (json!({"all": true, "rate": "0/s"}), "rate"),
        (json!({"all": true, "data": {}}), "data"),
        (json!({"event_id": id, "outcome": "trap"}), "outcome"),
    ] {
        let problem = client.post(&format!("{LETTERS}/retry"), &body).problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem:#}");
    }
    let nobody = "/v1/consumers/nobody/dead-letters";
    for path in [nobody.to_owned(), format!("{nobody}/{id}"), format!("{LETTERS}/{id}"), format!("{LETTERS}/nonsense")]
    {
        let problem = client.get(&path).problem(404);
        assert!(problem["detail"].as_str().is_some_and(|text| !text.is_empty()), "{problem:#}");
    }
    let edited = client.post(&format!("{LETTERS}/retry"), &json!({"event_id": id, "data": {}})).problem(404);
    assert_eq!(edited["type"], "/problems/unknown-dead-letter");
    assert_eq!(client.post(&format!("{LETTERS}/retry"), &json!({"event_id": id})).expect(200).json()["count"], 0);
    let usage = fanfare(&host, &["dead-letters", "retry", "obedient", "--all", "--rate", "fast"]);
    assert_eq!(usage.code(), Some(2), "{usage:#?}");
    assert!(usage.stderr.contains("500/s"), "{usage:#?}");
}
