//! A candidate handles recorded events, and says what it does otherwise than the version that ran, before anybody runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use fanfare_tests::orders::{event, order};
use fanfare_tests::program::{self, Run};
use fanfare_tests::{TestHost, Value, guests, json};

const DIFFERS: Option<i32> = Some(5);

/// Runs `guest` over events of `host`.
fn run(host: &TestHost, guest: &[u8], arguments: &[&str]) -> Run {
    let file = host.folder().join("next.wasm");
    fs::write(&file, guest).expect("a candidate");
    let mut command = program::fanfare();
    command.args(["plugin", "run", "--json", "--data-dir"]).arg(host.data());
    program::finish(command.arg("--consumers-dir").arg(host.consumers.folder()).arg(file).args(arguments))
}

/// Orders that the report names for a difference of this kind.
fn named(report: &Value, what: &str) -> BTreeSet<String> {
    let groups = report["differences"].as_array().expect("groups");
    let of_kind = groups.iter().filter(|group| group["what"] == what);
    let examples = of_kind.flat_map(|group| group["examples"].as_array().expect("examples"));
    examples.map(|example| example["order_id"].as_str().expect("an order").to_owned()).collect()
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

fn with_reports() -> (TestHost, Vec<(String, u32)>) {
    let mut host = TestHost::new();
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    let client = host.client();
    let orders = [1, 10, 3, 12, 9, 10].map(|units| (client.placed(&order(&[("TEA", units)])), units)).to_vec();
    client.wait_until_idle();
    (host, orders)
}

fn large(orders: &[(String, u32)]) -> BTreeSet<String> {
    orders.iter().filter(|(_, units)| *units >= 10).map(|(id, _)| id.clone()).collect()
}

#[test]
fn one_changed_rule_is_found_at_exactly_its_orders_whether_a_host_runs_or_not() {
    let (mut host, orders) = with_reports();
    let client = host.client();
    let all = ["--consumer", "reports", "--events", ".."];
    let compared = |host: &TestHost| {
        let ended = run(host, &guests::wasm("reports-twice"), &all);
        assert_eq!(ended.code(), DIFFERS, "{ended:#?}");
        let report = ended.json();
        assert_eq!((&report["compared"], &report["differing"]), (&json!(6), &json!(3)), "{report:#}");
        assert_eq!(report["differences"].as_array().map(Vec::len), Some(1), "{report:#}");
        assert_eq!(named(&report, "state"), large(&orders));
        let by = |side: &str| report["differences"][0]["examples"][0][side]["adjustments"][0]["by"].clone();
        assert_eq!((by("live"), by("shadow")), (json!(1), json!(2)), "{report:#}");
        assert_eq!((&report["live"]["version"], &report["candidate"]["version"]), (&json!("1.0.0"), &json!("1.1.0")));
    };
    compared(&host);
    assert_eq!(client.counter("reports", "handled"), 6, "nothing of it is committed");
    let same = run(&host, &guests::variant("reports-one", 1), &all);
    assert_eq!(same.succeeded().json()["differing"], 0);
    // The host goes on meanwhile, and after it.
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "handled"), 7);

    host.kill();
    let store = |host: &TestHost| {
        let mut files = files(host.data());
        // An index of the log that any reader may make anew.
        files.retain(|path, _| !path.to_string_lossy().ends_with("-shm"));
        files
    };
    let before = store(&host);
    let some = [&all[..3], &["..6"]].concat();
    let report = run(&host, &guests::wasm("reports-twice"), &some).json();
    assert_eq!(named(&report, "state"), large(&orders), "a host that was killed leaves its log");
    assert!(store(&host) == before, "a store is only read");
    host.start();
    host.ask_to_end();
    assert!(host.ended().success());
    let before = store(&host);
    let report = run(&host, &guests::wasm("reports-twice"), &some).json();
    assert_eq!(named(&report, "state"), large(&orders));
    assert!(store(&host) == before, "nothing is made beside a store that rests");
    host.start();
    assert_eq!(host.client().counter("reports", "handled"), 7);
}

#[test]
fn a_range_is_of_events_positions_and_times_and_both_its_ends_count() {
    let (host, orders) = with_reports();
    let all = ["--consumer", "reports", "--events", "..", "--against", "nothing"];
    let all = run(&host, &guests::wasm("reports-one"), &all).succeeded().json();
    let examples = all["differences"][0]["examples"].as_array().expect("all that it does");
    let placed = |order: &(String, u32)| {
        let example = examples.iter().find(|example| example["order_id"] == order.0.as_str());
        example.unwrap_or_else(|| panic!("{all:#}"))["event_id"].as_str().expect("an id").to_owned()
    };
    let heard = |range: &str| {
        let report = run(&host, &guests::wasm("reports-twice"), &["--consumer", "reports", "--events", range]).json();
        (report["candidate"]["heard"].clone(), named(&report, "state").len())
    };
    let (second, fourth) = (placed(&orders[1]), placed(&orders[3]));
    assert_eq!(heard(&format!("{second}..{fourth}")), (json!(3), 2));
    assert_eq!(heard(&second), (json!(1), 1));
    assert_eq!(heard("5.."), (json!(2), 1));
    assert_eq!(heard("2000-01-01T00:00:00Z..2"), (json!(2), 1));
}

#[test]
fn both_begin_on_what_was_kept_before_the_first_event_or_on_what_is_asked_for() {
    let host = TestHost::with(&["inventory"]);
    let client = host.client();
    client.stock(&["TEA"], 5);
    for _ in 0..2 {
        client.placed(&order(&[("TEA", 3)]));
        client.wait_until_idle();
    }
    let arguments = |state| ["--consumer", "inventory", "--events", "2..", "--against", "nothing", "--state", state];
    let changes = |state| {
        let report = run(&host, &guests::wasm("inventory"), &arguments(state)).succeeded().json();
        let groups = report["differences"].as_array().expect("groups").clone();
        let of_orders = groups.into_iter().find(|group| group["what"] == "order_changes");
        let examples = of_orders.unwrap_or_else(|| panic!("{report:#}"))["examples"].as_array().cloned();
        let change = |example: Value| {
            let change = example["shadow"]["order_changes"][0]["change"].as_object().cloned().expect("a change");
            change.keys().next().cloned().expect("its name")
        };
        examples.expect("examples").into_iter().map(change).collect::<Vec<_>>()
    };
    assert_eq!(changes("before"), ["confirmed", "rejected"], "as it was: five units, then two");
    assert_eq!(changes("empty"), ["rejected", "rejected"], "nothing in stock");
    let compared = run(&host, &guests::variant("inventory", 1), &["--consumer", "inventory", "--events", ".."]);
    let report = compared.succeeded().json();
    assert_eq!((&report["compared"], &report["differing"]), (&json!(4), &json!(0)), "{report:#}");
    assert_eq!(report["live"]["effects"]["order_changes"], 2, "{report:#}");
    let current = run(&host, &guests::wasm("inventory"), &arguments("current")).succeeded().json();
    assert_eq!(current["candidate"]["effects"]["order_changes"], 2, "{current:#}");
    assert_eq!(client.counter("inventory", "stock/TEA"), 2);
}

#[test]
fn a_candidate_that_calls_out_or_never_ends_is_counted_and_calls_nobody() {
    let mut host = TestHost::new();
    host.start();
    let client = host.client();
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address");
    let calls = json!({"calls": [{"method": "GET", "url": format!("http://{address}/")}]});
    assert!(client.publish(&event("1", "com.example.call", "it", calls)).status.is_success());
    client.placed(&order(&[("TEA", 1)]));
    let everything =
        |consumer: &'static str| ["--consumer", consumer, "--events", "..", "--against", "nothing", "--state", "empty"];
    host.consumers.set_policy(
        "calls-out",
        &format!(
            "[grant]\nhttp = [{{ url_prefix = \"http://{address}/\", methods = [\"GET\"], private = true }}]\n\
             secrets = {{ TOKEN = \"env:NOBODY_SET_THIS\" }}\n"
        ),
    );
    let report = run(&host, &guests::wasm("calls-out"), &everything("calls-out")).succeeded().json();
    assert_eq!(
        (&report["candidate"]["called_out"], &report["candidate"]["heard"]),
        (&json!(1), &json!(1)),
        "{report:#}"
    );
    let told = report["differences"][0]["examples"][0]["shadow"]["detail"].to_string();
    assert!(told.contains("outgoing HTTP is refused"), "{told}");
    server.set_nonblocking(true).expect("a socket");
    assert_eq!(server.accept().map_err(|error| error.kind()).err(), Some(ErrorKind::WouldBlock), "nobody was called");

    host.consumers.set_policy("spin", "[limits]\ncpu = \"20ms\"\n");
    let report = run(&host, &guests::wasm("spin"), &everything("spin")).succeeded().json();
    assert_eq!(report["candidate"]["outcomes"], json!({"timeout": 1}), "{report:#}");
}

#[test]
fn what_cannot_be_run_is_said_with_what_to_do() {
    let (host, _) = with_reports();
    let told = |guest: &[u8], arguments: &[&str], code: i32, why: &str| {
        let ended = run(&host, guest, arguments);
        assert_eq!(ended.code(), Some(code), "{ended:#?}");
        assert!(ended.stderr.contains(why), "{why}: {ended:#?}");
    };
    let good = guests::wasm("reports-two");
    let of_reports = |range: &'static str| ["--consumer", "reports", "--events", range];
    told(&good, &of_reports("yesterday.."), 2, "write FROM..TO");
    told(&good, &of_reports("7.."), 1, "the journal ends with position 6");
    told(&good, &of_reports("3..2"), 1, "no event lies in this range");
    told(&good, &["--events", ".."], 1, "say whose events these are with --consumer NAME");
    told(&good, &["--consumer", "Reports", "--events", ".."], 2, "is not a consumer name");
    told(&good, &[&of_reports("..")[..], &["--against", "abcdef"]].concat(), 1, "keeps no version abcdef");
    let hash = host.client().consumer("reports").expect("reports")["hash"].as_str().expect("a hash").to_owned();
    let [kept, other] = [&hash[..12], "abcdef"];
    let against = |hash: &str, code: i32, why: &str| {
        told(&good, &[&of_reports("..")[..], &["--against", hash]].concat(), code, why);
    };
    against(other, 1, &format!("it keeps {kept}"));
    for wrong in ["abc", "1.0.0", "Live"] {
        against(wrong, 2, "live, nothing, or the first 4 to 64 digits");
    }
    host.consumers.put("reports", b"no plugin");
    host.client().wait_for_consumer("reports", |reports| reports["candidate"]["state"] == "failed");
    let versions = host.data().join("versions");
    fs::rename(&versions, host.folder().join("away")).expect("the versions");
    against(kept, 1, "--against nothing");
    fs::rename(host.folder().join("away"), versions).expect("the versions");
    host.consumers.put("reports", &guests::wasm("reports-one"));
    told(b"no component", &of_reports(".."), 1, "next.wasm: ");
    let needs = [&of_reports("..")[..], &["--against", "nothing"]].concat();
    told(&guests::wasm("needs-setting"), &needs, 1, "reports.toml must say");
    let none = ["--data-dir", "nowhere", "--consumer", "reports", "--events", "..", "--against", "nothing"];
    let run = program::run([&["plugin", "run", "reports.wasm"], &none[..]].concat());
    assert_eq!(run.code(), Some(1), "{run:#?}");
    assert!(run.stderr.contains("nowhere/fanfare.sqlite: cannot be read"), "{run:#?}");
    host.consumers.set_policy("reports", "concurency = 2\n");
    told(&good, &of_reports(".."), 1, "reports.toml:1");
    host.consumers.set_policy("reports", "");
    host.client().wait_for_consumer("reports", |reports| reports["state"] == "running");
}
