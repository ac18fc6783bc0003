//! A consumer may be written in any language that compiles to components: shown with Python and JavaScript.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fanfare_tests::orders::order;
use fanfare_tests::program::finish;
use fanfare_tests::{TestHost, Value, eventually, json};

/// A whole interpreter is compiled, beside all else that the machine does.
const COMPILED_WITHIN: Duration = Duration::from_secs(180);

#[test]
fn a_consumer_in_python_is_like_any_other() {
    let mut build = tool("componentize-py", "python");
    build.arg("--wit-path").arg(contract()).args(["--world", "consumer", "componentize", "zones", "--output"]);
    is_like_any_other(build, "JSONDecodeError: Expecting value: line 1 column 1 (char 0)");
}

#[test]
fn a_consumer_in_javascript_is_like_any_other() {
    let mut build = tool("componentize-js", "javascript");
    build.args(["zones.js", "--world-name", "consumer", "--wit"]).arg(contract()).arg("--out");
    is_like_any_other(build, "SyntaxError: JSON.parse: unexpected keyword at line 1 column 1 of the JSON data");
}

/// Builds the example, and sees it wait for what it needs, do its work, put off, refuse, and fail with `exception`.
#[track_caller]
fn is_like_any_other(mut build: Command, exception: &str) {
    let mut host = TestHost::new();
    let file = host.folder().join("zones.wasm");
    let _ = finish(build.arg(&file)).succeeded();
    host.leave_deliveries().start();
    host.consumers.set_policy("zones", "[retry]\nmax_attempts = 3\nbase = \"100ms\"\n");
    host.consumers.put("zones", &fs::read(&file).expect("a component"));
    let client = host.client();
    let loads = client.wait_for_consumer("zones", |zones| zones["reason"] != "waiting until its file is complete");
    let compiles = json!(["loading", "its file is checked and compiled"]);
    assert_eq!(json!([loads["state"], loads["reason"]]), compiles, "{loads:#}");
    let waits = client.wait_for_consumer_within(COMPILED_WITHIN, "zones", |zones| zones["state"] == "awaiting-grant");
    assert!(waits["reason"].as_str().is_some_and(|reason| reason.contains("zones")), "{waits:#}");

    set(&host, 101, r#"{"GB": 2, "FR": 1}"#, "");
    let first = client.placed(&order(&[("TEA", 1)]));
    let homeless = client.placed(&changed(|order| order["shipping_address"] = Value::Null));
    let elsewhere = client.placed(&changed(|order| order["shipping_address"]["country"] = json!("US")));
    client.wait_for_consumer("zones", |zones| zones["dead"] == 2 && zones["done"] == 1);
    assert_eq!(client.counters("zones", "orders/"), [("orders/2".to_owned(), 1)]);
    assert_eq!(client.entries("zones", "zone/")[0]["key"], format!("zone/{first}"));
    let died_of = |order: &str, outcome: &str, cause: &str, attempts: u32| {
        let letters = client.dead_letters("zones");
        let letter = letters.iter().find(|letter| letter["order_id"] == order).expect("a letter");
        assert_eq!((&letter["outcome"], &letter["attempts"]), (&json!(outcome), &json!(attempts)), "{letter:#}");
        let told = letter["cause"].as_str().expect("a cause");
        assert!(told.contains(cause), "{told}");
    };
    died_of(&homeless, "reject", &format!("order {homeless} has no address"), 1);
    died_of(&elsewhere, "retry", "US is in no zone", 3);

    // Alike where each event has an instance of its own, and where the host starts with what it compiled before.
    set(&host, 102, "no JSON", "isolation = \"event\"\n");
    let failed = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("zones", |zones| zones["dead"] == 3);
    died_of(&failed, "trap", exception, 3);
    host.kill();
    host.start();
    let client = host.client();
    set(&host, 103, r#"{"GB": 2, "US": 3}"#, "isolation = \"event\"\n");
    for order in [&elsewhere, &failed] {
        let letters = client.dead_letters("zones");
        let letter = letters.iter().find(|letter| letter["order_id"] == **order).expect("a letter");
        let retry = json!({"event_id": letter["event_id"]});
        assert_eq!(client.post("/v1/consumers/zones/dead-letters/retry", &retry).expect(200).json()["count"], 1);
    }
    client.wait_for_consumer("zones", |zones| zones["dead"] == 1 && zones["done"] == 3);
    let counted = [("orders/2".to_owned(), 2), ("orders/3".to_owned(), 1)];
    assert_eq!(client.counters("zones", "orders/"), counted);
}

/// Sets what the example needs, and waits until the host has taken the side file: `reads` tells it from the one before.
#[track_caller]
fn set(host: &TestHost, reads: u32, zones: &str, more: &str) {
    let limits = format!("[limits]\ncpu = \"1s\"\nreads = {reads}\n");
    let policy = format!("{more}[settings]\nzones = '{zones}'\n[retry]\nmax_attempts = 3\nbase = \"100ms\"\n{limits}");
    host.consumers.set_policy("zones", &policy);
    eventually("the side file is taken", || match host.client().get("/v1/consumers/zones").json() {
        zones if zones["state"] == "running" && zones["limits"]["reads"]["limit"] == reads => Ok(()),
        zones => Err(zones.to_string()),
    });
}

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut order = order(&[("TEA", 1)]);
    change(&mut order);
    order
}

fn contract() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/consumer.wit")
}

/// The program that makes a component of a language, in the folder of the example.
fn tool(name: &str, language: &str) -> Command {
    let folders = env::var_os("FANFARE_LANGUAGES")
        .expect("FANFARE_LANGUAGES, which `cargo xtask emulators` prints and `cargo xtask test` sets");
    let path =
        env::join_paths(env::split_paths(&folders).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())));
    let program = env::split_paths(&folders).map(|folder| folder.join(name)).find(|program| program.is_file());
    let mut command = Command::new(program.unwrap_or_else(|| panic!("no {name} in {}", folders.display())));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/examples").join(language));
    command.env("PATH", path.expect("folders without a colon")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
