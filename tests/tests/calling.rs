//! A consumer calls what it was granted and nobody else, however it tries.

use std::fs;
use std::path::Path;

use fanfare_tests::carrier::{Carrier, Reply};
use fanfare_tests::orders::event;
use fanfare_tests::{Client, TestHost, Value, eventually, json, program};

const SECRET: &str = "sec-91b2e6d40f";

/// A host whose guest calls what it is told to, with `http` of `[grant]` and what else its side file says.
fn host(http: &str, more: &str) -> TestHost {
    let mut host = TestHost::new();
    host.consumers.add("calls-out");
    let policy =
        format!("[grant]\nhttp = [{http}]\nsecrets = {{ TOKEN = \"env:TOKEN\" }}\n[retry]\nmax_attempts = 1\n{more}");
    host.consumers.set_policy("calls-out", &policy);
    host.variable("TOKEN", SECRET).variable("FANFARE_LOG_LEVEL", "debug").leave_deliveries();
    host.start();
    host
}

/// A grant for everything that the carrier's server has.
fn all_of(carrier: &Carrier) -> String {
    format!("{{ url_prefix = \"{}\", methods = [\"GET\", \"POST\"], private = true }}", carrier.url())
}

/// Tells the guest to make these calls; the event's number.
fn tell(client: &Client, number: usize, told: Value) {
    let answer = client.publish(&event(&format!("call-{number}"), "com.example.call", &format!("s{number}"), told));
    assert!(answer.status.is_success(), "{answer:#?}");
}

fn get(url: &str) -> Value {
    json!({"calls": [{"method": "GET", "url": url}]})
}

/// The only dead letter, with its history.
fn letter(client: &Client) -> Value {
    client.wait_for_consumer("calls-out", |consumer| consumer["dead"] == 1);
    let letter = client.dead_letters("calls-out").remove(0);
    let event = letter["event_id"].as_str().expect("an event");
    client.get(&format!("/v1/consumers/calls-out/dead-letters/{event}")).expect(200).json()
}

fn cause(letter: &Value) -> &str {
    letter["cause"].as_str().expect("a cause")
}

#[test]
fn what_is_not_granted_is_refused_in_whatever_form() {
    let carrier = Carrier::start();
    let host = host(&all_of(&carrier), "");
    let client = host.client();
    let port = carrier.port();
    let urls = [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        format!("http://localhost:{port}/v1/"),
        format!("http://2130706433:{port}/v1/"),
        format!("http://0x7f000001:{port}/v1/"),
        format!("http://0177.0.0.1:{port}/v1/"),
        format!("http://127.1:{port}/v1/"),
        format!("http://[::ffff:127.0.0.1]:{port}/v1/"),
        format!("http://[::ffff:7f00:1]:{port}/v1/"),
        format!("http://[64:ff9b::7f00:1]:{port}/v1/"),
        format!("http://127.0.0.1:{port}/v2/"),
        format!("http://127.0.0.1:{port}/v1/../admin"),
        format!("http://127.0.0.1:{port}/v1/%2e%2e/admin"),
        format!("http://127.0.0.1:{port}/v1/..%2fadmin"),
        format!("http://carrier.example@127.0.0.1:{port}/v1/"),
        format!("https://127.0.0.1:{port}/v1/"),
        "http://127.0.0.1/v1/".to_owned(),
    ];
    for (number, url) in urls.iter().enumerate() {
        tell(&client, number, json!({"careless": true, "calls": [{"method": "GET", "url": url}]}));
    }
    tell(&client, urls.len(), json!({"calls": [{"method": "DELETE", "url": carrier.url()}]}));
    client.wait_for_consumer("calls-out", |consumer| consumer["dead"] == urls.len() + 1);
    for letter in client.dead_letters("calls-out") {
        assert!(cause(&letter).starts_with("grant: ") && letter["outcome"] == "trap", "{letter:#}");
    }
    assert!(carrier.requests().is_empty());
    assert_eq!(client.counter("calls-out", "handled"), 0, "effects are discarded with it");
}

#[test]
fn a_server_of_this_machine_takes_a_grant_that_says_so() {
    let carrier = Carrier::start();
    let not_private = all_of(&carrier).replace(", private = true", "");
    let host = host(&not_private, "");
    let client = host.client();
    tell(&client, 1, json!({"careless": true, "calls": [{"method": "GET", "url": carrier.url()}]}));
    let letter = letter(&client);
    assert!(cause(&letter).starts_with("grant: GET is refused: 127.0.0.1 is at 127.0.0.1"), "{}", cause(&letter));
    assert!(
        cause(&letter).contains("private = true") && letter["history"][0]["calls"][0]["error"].is_string(),
        "{letter:#}"
    );
    assert!(carrier.requests().is_empty());
}

#[test]
fn a_redirect_leads_nowhere_by_itself_and_following_it_takes_a_grant() {
    let carrier = Carrier::start();
    let away = || Reply::Answer(302, Some(("location", "http://169.254.169.254/latest/".to_owned())), String::new());
    carrier.tell([away(), away()]);
    let host = host(&all_of(&carrier), "");
    let client = host.client();
    tell(&client, 1, get(&carrier.url()));
    client.wait_until_idle();
    assert!(client.entries("calls-out", "heard")[0]["value"].as_str().is_some_and(|heard| heard.starts_with("302")));
    tell(&client, 2, json!({"calls": [{"method": "GET", "url": carrier.url(), "follow": true}]}));
    let letter = letter(&client);
    assert!(
        cause(&letter).starts_with("grant: GET http://169.254.169.254/latest/ is not granted"),
        "{}",
        cause(&letter)
    );
    assert_eq!(letter["history"][0]["calls"][0]["status"], 302, "{letter:#}");
}

#[test]
fn a_body_that_drips_is_stopped_by_the_clock() {
    let carrier = Carrier::start();
    carrier.tell([Reply::Drip]);
    let host = host(&all_of(&carrier), "[limits]\ntime = \"300ms\"\n");
    let client = host.client();
    tell(&client, 1, get(&carrier.url()));
    let letter = letter(&client);
    assert_eq!((&letter["outcome"], cause(&letter)), (&json!("timeout"), "used up its time limit of 300ms"));
    assert_eq!(letter["history"][0]["calls"][0]["status"], 200);
    let took_us = letter["history"][0]["duration_us"].as_u64().expect("a duration");
    // The guest waits for the network and holds nothing up: the rest is this machine's load.
    assert!((300_000..5_000_000).contains(&took_us), "{took_us} µs");
}

#[test]
fn a_server_that_never_answers_is_told_as_under_way() {
    let carrier = Carrier::start();
    carrier.tell([Reply::Silence]);
    let host = host(&all_of(&carrier), "[limits]\ntime = \"300ms\"\n");
    let client = host.client();
    tell(&client, 1, get(&carrier.url()));
    let letter = letter(&client);
    let call = &letter["history"][0]["calls"][0];
    assert_eq!(
        (&letter["outcome"], &call["error"]),
        (&json!("timeout"), &json!("it was under way when the handling ended"))
    );
}

#[test]
fn a_body_without_end_is_stopped_by_its_limit() {
    let carrier = Carrier::start();
    carrier.tell([Reply::Flood]);
    let host = host(&all_of(&carrier), "[limits]\ncpu = \"10s\"\nhttp_bytes = \"1MiB\"\n");
    let client = host.client();
    tell(&client, 1, json!({"careless": true, "calls": [{"method": "GET", "url": carrier.url()}]}));
    let letter = letter(&client);
    assert!(
        cause(&letter).starts_with("limit: ") && cause(&letter).contains("limits.http_bytes in calls-out.toml"),
        "{}",
        cause(&letter)
    );
}

#[test]
fn what_is_sent_counts_too() {
    let carrier = Carrier::start();
    let host = host(&all_of(&carrier), "[limits]\ncpu = \"10s\"\nhttp_bytes = \"256KiB\"\n");
    let client = host.client();
    let large = json!({"method": "POST", "url": carrier.url(), "body_bytes": 1 << 20});
    tell(&client, 1, json!({"careless": true, "calls": [large]}));
    let letter = letter(&client);
    assert!(
        cause(&letter).starts_with("limit: ") && cause(&letter).contains("limits.http_bytes"),
        "{}",
        cause(&letter)
    );
    assert!(carrier.parcels().is_empty(), "half a request is none");
}

#[test]
fn calls_are_counted_for_each_event() {
    let carrier = Carrier::start();
    let host = host(&all_of(&carrier), "[limits]\nhttp_calls = 3\n");
    let client = host.client();
    let calls =
        |times: u32| json!({"careless": true, "calls": [{"method": "POST", "url": carrier.url(), "times": times}]});
    tell(&client, 1, calls(3));
    client.wait_until_idle();
    let keys: Vec<_> = carrier.requests().iter().map(|it| it.header("idempotency-key").to_owned()).collect();
    let ends: Vec<_> = keys.iter().filter_map(|key| key.rsplit('/').next()).collect();
    assert_eq!(ends, ["1", "2", "3"]);
    tell(&client, 2, calls(4));
    let letter = letter(&client);
    assert!(cause(&letter).starts_with("limit: 4 calls over HTTP for one event: the limit is 3"), "{}", cause(&letter));
    assert_eq!(letter["history"][0]["calls"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_secret_that_is_echoed_is_nowhere_to_be_found() {
    let carrier = Carrier::start();
    carrier.tell([Reply::Echo, Reply::Echo]);
    let mut host = host(&all_of(&carrier), "");
    let client = host.client();
    let headers = json!([["authorization", "Bearer {{secret:TOKEN}}"]]);
    let calls = json!([{"method": "POST", "url": carrier.url(), "headers": headers}]);
    tell(&client, 1, json!({"calls": calls}));
    client.wait_until_idle();
    tell(&client, 2, json!({"calls": calls, "reject": true}));
    let letter = letter(&client);
    for request in carrier.requests() {
        assert_eq!(request.header("authorization"), format!("Bearer {SECRET}"));
    }
    assert!(cause(&letter).contains("you said Bearer ***"), "{}", cause(&letter));
    assert!(!letter.to_string().contains(SECRET) && !host.log().contains(SECRET));
    host.kill();
    for file in files(host.data()) {
        let bytes = fs::read(&file).expect("a file of the host's");
        assert!(!bytes.windows(SECRET.len()).any(|it| it == SECRET.as_bytes()), "it is in {}", file.display());
    }
}

#[test]
fn a_secret_that_was_changed_is_sent_once_its_side_file_is_saved() {
    let carrier = Carrier::start();
    let mut host = TestHost::new();
    let file = host.folder().join("token");
    let grant = all_of(&carrier);
    let policy = format!("[grant]\nhttp = [{grant}]\nsecrets = {{ TOKEN = \"file:{}\" }}\n", file.display());
    fs::write(&file, "the-first\n").expect("a file");
    host.consumers.add("calls-out");
    host.consumers.set_policy("calls-out", &policy);
    host.start();
    let client = host.client();
    let sent = |number: usize| {
        let headers = json!([["x-token", "{{secret:TOKEN}}"]]);
        tell(&client, number, json!({"calls": [{"method": "GET", "url": carrier.url(), "headers": headers}]}));
        client.wait_until_idle();
        carrier.requests().last().map(|request| request.header("x-token").to_owned())
    };
    assert_eq!(sent(0).as_deref(), Some("the-first"));
    fs::write(&file, "the-second\n").expect("a file");
    assert_eq!(sent(1).as_deref(), Some("the-first"), "nobody looks at the file by itself");
    host.consumers.set_policy("calls-out", &policy);
    let mut number = 1;
    eventually("the other one is sent", || {
        number += 1;
        let sent = sent(number);
        if sent.as_deref() == Some("the-second") { Ok(()) } else { Err(format!("{sent:?}")) }
    });
}

#[test]
fn a_secret_that_was_not_granted_is_not_sent() {
    let carrier = Carrier::start();
    let host = host(&all_of(&carrier), "");
    let client = host.client();
    let headers = json!([["x-token", "{{secret:OTHER}}"]]);
    tell(&client, 1, json!({"calls": [{"method": "GET", "url": carrier.url(), "headers": headers}]}));
    let letter = letter(&client);
    assert!(cause(&letter).starts_with("grant: secret OTHER is not granted"), "{}", cause(&letter));
    assert!(carrier.requests().is_empty());
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_a_guest_says_steers_no_terminal_whatever_shows_it() {
    const STEERING: &str = "\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\r";
    let carrier = Carrier::start();
    let says = || Reply::Answer(200, None, STEERING.to_owned());
    carrier.tell([says(), says()]);
    let host = host(&all_of(&carrier), "");
    let client = host.client();
    tell(&client, 1, get(&carrier.url()));
    client.wait_until_idle();
    tell(&client, 2, json!({"reject": true, "calls": [{"method": "GET", "url": carrier.url()}]}));
    let letter = letter(&client);
    let event = letter["event_id"].as_str().expect("an event");
    let (heard, said) = (&client.entries("calls-out", "heard")[0]["value"], STEERING);
    assert!(heard.as_str().is_some_and(|heard| heard.contains(said)) && cause(&letter).contains(said), "{letter:#}");
    for command in [
        &["consumers", "state", "calls-out"][..],
        &["dead-letters", "list", "calls-out"],
        &["dead-letters", "show", "calls-out", event],
    ] {
        for format in [&[][..], &["--json"]] {
            let run = program::run([command, format, &["--url", client.base()]].concat()).succeeded();
            let obeyed = |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
            assert!(!run.stdout.contains(obeyed), "{command:?} {format:?}: {:?}", run.stdout);
        }
    }
    assert!(!host.log().contains(|letter: char| letter.is_control() && letter != '\n'), "nor does the log");
}
