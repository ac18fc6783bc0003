//! The command line: what it prints for programs, and how it ends.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use fanfare_tests::guests::{self, SHIPPED};
use fanfare_tests::orders::{event, ndjson, order, received, referenced};
use fanfare_tests::program::{self, Run};
use fanfare_tests::wire::Wire;
use fanfare_tests::{TestHost, Value, eventually, json};

/// What the exit codes mean.
const REFUSED: Option<i32> = Some(3);
const UNREACHABLE: Option<i32> = Some(4);
const USAGE: Option<i32> = Some(2);

#[test]
fn orders_are_submitted_shown_listed_and_cancelled() {
    let host = TestHost::with(&["inventory"]);
    let file = write(&host, "order.json", &referenced("R-1", &[("TEA", 1)]).to_string());
    let submit = || fanfare(&host, &["orders", "submit", &file, "--idempotency-key", "key-1"]).succeeded().json();
    let placed = submit();
    let id = placed["id"].as_str().expect("an id");
    assert_eq!(submit()["id"], id);

    host.client().wait_for_status(id, "rejected");
    let shown = fanfare(&host, &["orders", "get", id]).succeeded().json();
    assert_eq!((&shown["status"], &shown["deliveries"][0]["consumer"]), (&json!("rejected"), &json!("inventory")));
    let listed = fanfare(&host, &["orders", "list", "--status", "rejected"]).succeeded().json();
    assert_eq!(listed["orders"][0]["id"], id);

    let refused = fanfare(&host, &["orders", "cancel", id]);
    assert_eq!(refused.code(), REFUSED, "{refused:#?}");
    let problem: Value = serde_json::from_str(&refused.stderr).unwrap_or_else(|error| panic!("{error}: {refused:#?}"));
    assert_eq!(problem["status"], 409);
    host.client().wait_until_idle();
}

#[test]
fn what_was_recorded_before_the_answer_was_lost_is_told_how_to_be_repeated_once() {
    let mut host = TestHost::new();
    host.die_at(Some("order.durable:1")).start();
    let file = write(&host, "order.json", &order(&[("TEA", 1)]).to_string());
    let lost = fanfare(&host, &["orders", "submit", &file]);
    assert_eq!(lost.code(), UNREACHABLE, "{lost:#?}");
    let (_, key) = lost.stderr.split_once("--idempotency-key ").unwrap_or_else(|| panic!("{lost:#?}"));
    let key = key.split(['`', ' ', '"']).next().expect("a key");
    let _ = host.ended();
    host.die_at(None).start();
    let _ = fanfare(&host, &["orders", "submit", &file, "--idempotency-key", key]).succeeded();
    assert_eq!(host.client().orders().len(), 1);

    let url = host.client().base().to_owned();
    host.kill();
    let lost = program::run(["events", "publish", "--type", "com.example.a", "--subject", "s", "--url", &url]);
    assert!(lost.code() == UNREACHABLE && lost.stderr.contains("--id "), "{lost:#?}");
}

#[test]
fn a_bad_order_is_refused_with_the_field_for_people_and_for_programs() {
    let host = TestHost::with(&[]);
    let file = write(&host, "order.json", &order(&[("TEA", 0)]).to_string());
    let run = fanfare(&host, &["orders", "submit", &file]);
    assert_eq!(run.code(), REFUSED, "{run:#?}");
    assert!(run.stderr.contains("\"lines[0].quantity\""), "{run:#?}");
    let run = program::run(["orders", "submit", &file, "--url", host.client().base()]);
    assert_eq!(run.code(), REFUSED, "{run:#?}");
    assert!(run.stderr.contains("lines[0].quantity must be at least 1"), "{run:#?}");
}

#[test]
fn an_import_tells_how_many_and_fails_for_a_bad_line() {
    let host = TestHost::with(&[]);
    let orders: Vec<Value> = (0..450).map(|n| referenced(&format!("R-{n}"), &[("TEA", 1)])).collect();
    let file = write(&host, "orders.jsonl", &ndjson(&orders));
    let tally = fanfare(&host, &["orders", "import", &file]).succeeded().json();
    assert_eq!((&tally["created"], &tally["errors"]), (&json!(450), &json!(0)));

    let file = write(&host, "more.jsonl", &format!("{}{}\n", ndjson(&orders), order(&[("TEA", 0)])));
    let run = fanfare(&host, &["orders", "import", &file]);
    assert_eq!(run.code(), Some(1), "{run:#?}");
    let tally = run.json();
    assert_eq!((&tally["created"], &tally["exists"], &tally["errors"]), (&json!(0), &json!(450), &json!(1)));
    assert_eq!(tally["first_errors"][0]["line"], 451);
}

#[test]
fn an_import_that_the_host_does_not_take_now_is_to_be_resumed() {
    let host = TestHost::with(&[]);
    let (store, away) = (host.data().join("fanfare.sqlite"), host.folder().join("away"));
    fs::rename(&store, &away).expect("moved");
    eventually("orders are refused", || match host.client().place(&order(&[("TEA", 1)])).status.as_u16() {
        201 => Err("one is taken".to_owned()),
        _ => Ok(()),
    });
    let file = write(&host, "orders.jsonl", &ndjson(&[referenced("R-1", &[("TEA", 1)])]));
    let run = fanfare(&host, &["orders", "import", &file]);
    assert_eq!(run.code(), UNREACHABLE, "{run:#?}");
    assert!(run.stderr.contains("run the same command again"), "{run:#?}");

    fs::rename(&away, &store).expect("moved back");
    eventually("the same command succeeds", || match fanfare(&host, &["orders", "import", &file]) {
        run if run.code() == Some(0) => Ok(()),
        run => Err(format!("{run:#?}")),
    });
}

#[test]
fn events_are_published_once_for_one_id() {
    let host = TestHost::with(&["inventory"]);
    let file = write(&host, "events.jsonl", &ndjson(&[received("1", "TEA", 5), received("2", "TEA", 5)]));
    for repeated in [false, true] {
        let answer = fanfare(&host, &["events", "publish", &file]).succeeded().json();
        assert_eq!(answer["events"][0]["repeated"], repeated, "{answer:#}");
    }
    let data = r#"{"sku":"TEA","quantity":1}"#;
    let arguments = ["events", "publish", "--type", "com.fanfare.stock.received", "--subject", "TEA", "--data", data];
    let _ = fanfare(&host, &arguments).succeeded();
    host.client().wait_until_idle();
    let state = fanfare(&host, &["consumers", "state", "inventory", "--prefix", "stock/"]).succeeded().json();
    assert_eq!(state["counters"], json!([{"key": "stock/TEA", "value": 11}]));
}

#[test]
fn events_are_sent_as_they_are_written_in_batches_that_the_host_takes() {
    const DATA: &str = r#"{"z":123456789012345678901234567890,"a":1.10}"#;
    let host = TestHost::with(&[]);
    let arguments = ["events", "publish", "--type", "com.example.a", "--subject", "s", "--data", DATA];
    let _ = fanfare(&host, &arguments).succeeded();
    let mut wire = Wire::connect(host.client().address());
    assert!(wire.send(b"GET /v1/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let told = wire.read_until(|told| told.contains("com.example.a"));
    assert!(told.contains(DATA), "{told}");

    let large = |id: usize| event(&format!("large-{id}"), "com.example.b", "s", json!("x".repeat(100_000)));
    let mut events: Vec<Value> = (0..60).map(large).collect();
    let file = write(&host, "large.jsonl", &ndjson(&events));
    let answer = fanfare(&host, &["events", "publish", &file]).succeeded().json();
    assert_eq!(answer["events"].as_array().map(Vec::len), Some(60));

    // What is wrong is told by its place in the file, and what went before stands.
    events[55]["type"] = json!("not a kind");
    let file = write(&host, "wrong.jsonl", &ndjson(&events));
    let run = fanfare(&host, &["events", "publish", &file]);
    assert_eq!(run.code(), REFUSED, "{run:#?}");
    assert!(run.stderr.contains("[55].type") && run.stderr.contains("events are recorded"), "{run:#?}");
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let host = TestHost::with(&[]);
    let full = || fs::File::options().write(true).open("/dev/full").expect("a full device");
    let base = host.client().base().to_owned();
    let mut command = program::fanfare();
    let status = command.args(["orders", "list", "--json", "--url", &base]).stdout(full()).status().expect("a run");
    assert_eq!(status.code(), Some(1), "nobody read what it printed");
}

#[test]
fn consumers_are_listed_and_shown() {
    let host = TestHost::with(&["inventory", "loyalty"]);
    let list = fanfare(&host, &["consumers", "list"]).succeeded().json();
    let names: Vec<&Value> = list["consumers"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["inventory", "loyalty"]);
    let shown = fanfare(&host, &["consumers", "show", "inventory"]).succeeded().json();
    assert_eq!(shown["state"], "running");
    assert_eq!(fanfare(&host, &["consumers", "show", "nobody"]).code(), REFUSED);

    let table = program::run(["consumers", "list", "--url", host.client().base()]).succeeded().stdout;
    assert!(table.lines().count() == 3 && table.contains("loyalty"), "{table}");
}

#[test]
fn dead_letters_are_listed_and_retried() {
    let mut host = TestHost::new();
    host.consumers.add("always-reject");
    host.leave_deliveries().start();
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 1);
    let list = fanfare(&host, &["dead-letters", "list", "always-reject"]).succeeded().json();
    let letter = &list["dead_letters"][0];
    assert!(letter["cause"].as_str().is_some_and(|cause| cause.contains("told to reject")), "{list:#}");

    let event = letter["event_id"].as_str().expect("an id");
    let retried = fanfare(&host, &["dead-letters", "retry", "always-reject", "--event", event]).succeeded().json();
    assert_eq!(retried["count"], 1);
    client.wait_for_consumer("always-reject", |consumer| consumer["dead"] == 1);
    let discarded = fanfare(&host, &["dead-letters", "discard", "always-reject", "--all"]).succeeded().json();
    assert_eq!(discarded["count"], 1);
    client.wait_until_idle();
}

#[test]
fn data_of_a_dead_letter_and_of_its_copy_stay_as_they_were_written() {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.leave_deliveries().start();
    let data = |quantity: &str| format!(r#"{{"z":123456789012345678901234567890,"a":1.10,"quantity":"{quantity}"}}"#);
    let kind = ["events", "publish", "--type", "com.fanfare.stock.received", "--subject", "TEA", "--data"];
    let published = fanfare(&host, &[&kind[..], &[&data("many")]].concat()).succeeded().json();
    let event = published["events"][0]["id"].as_str().expect("an id");
    host.client().wait_for_consumer("inventory", |consumer| consumer["dead"] == 1);

    let file = write(&host, "data.json", &data("few"));
    let letter = ["inventory", "--event", event, "--data", &file];
    let _ = fanfare(&host, &[&["dead-letters", "retry"], &letter[..]].concat()).succeeded();
    host.client().wait_for_consumer("inventory", |consumer| consumer["dead"] == 1);
    let show = ["dead-letters", "show", "inventory", event];
    let for_people = program::run(show.into_iter().chain(["--url", host.client().base()])).succeeded().stdout;
    for shown in [fanfare(&host, &show).succeeded().stdout, for_people] {
        assert!(shown.contains(&data("many")) && shown.contains(&data("few")), "{shown}");
    }
}

#[test]
fn records_are_exported_as_json_lines() {
    let host = TestHost::with(&["analytics"]);
    let client = host.client();
    let none = fanfare(&host, &["records", "export", "orders"]).succeeded();
    assert_eq!(none.stdout, "", "it is declared, and has no rows yet");
    let unknown = fanfare(&host, &["records", "export", "ordres"]);
    assert_eq!(unknown.code(), REFUSED, "{unknown:#?}");
    assert!(unknown.stderr.contains("changes, lines, orders"), "{unknown:#?}");
    let mut placed = order(&[("TEA", 2), ("CUP", 1)]);
    placed["customer"]["id"] = json!("C\u{202e}1");
    let id = client.placed(&placed);
    client.wait_until_idle();
    let rows = |dataset: &str| -> Vec<Value> {
        let run = fanfare(&host, &["records", "export", dataset]).succeeded();
        assert!(!run.stdout.contains('\u{202e}'), "a terminal would obey it");
        run.stdout.lines().map(|row| serde_json::from_str(row).expect("a row")).collect()
    };
    let orders = rows("orders");
    assert_eq!(orders.len(), 1);
    assert_eq!((&orders[0]["order_id"], &orders[0]["unit_count"]), (&json!(id), &json!(3)));
    assert_eq!(orders[0]["customer_id"], placed["customer"]["id"]);
    let skus: Vec<Value> = rows("lines").iter().map(|row| row["sku"].clone()).collect();
    assert_eq!(skus, ["TEA", "CUP"]);

    let file = host.folder().join("changes.jsonl");
    let made = fanfare(&host, &["records", "export", "changes", "--output", &file.display().to_string()]).succeeded();
    assert_eq!((&made.json()["rows"], &made.json()["dataset"]), (&json!(1), &json!("changes")));
    assert_eq!(fs::read_to_string(file).expect("rows").lines().count(), 1);

    // What cannot be written leaves nothing behind, and what is no file is not replaced by one.
    let export = |to: &Path| fanfare(&host, &["records", "export", "orders", "--output", &to.display().to_string()]);
    let (folder, pipe) = (host.folder().join("exports"), host.folder().join("exports/pipe"));
    fs::create_dir(&folder).expect("a folder");
    assert_eq!(export(&folder).code(), USAGE);
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let reading = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read_to_string(pipe).expect("rows"))
    };
    let _ = export(&pipe).succeeded();
    assert_eq!(reading.join().expect("a reader").lines().count(), 1);
    let left: Vec<_> = fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(left, [pipe]);
}

#[test]
fn a_signal_in_the_middle_of_an_export_leaves_no_half_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let stalls = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", stalls.local_addr().expect("an address"));
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = program::fanfare();
        command.args(["records", "export", "rows", "--url", &url, "--output"]).arg(folder.path().join("rows"));
        let mut export = command.spawn().expect("fanfare");
        let (mut stream, _) = stalls.accept().expect("a connection");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}\n").expect("a part of the answer");
        let left = || fs::read_dir(folder.path()).expect("a folder").count();
        eventually("it is being written", || if left() == 1 { Ok(()) } else { Err("nothing is there".to_owned()) });
        assert!(Command::new("kill").args([signal, &export.id().to_string()]).status().expect("kill").success());
        assert_eq!(export.wait().expect("an end").code(), Some(code));
        assert_eq!(left(), 0, "{signal}");
    }
}

#[test]
fn a_plugin_is_checked_without_a_host() {
    let host = TestHost::new();
    host.consumers.add("inventory");
    host.consumers.put("broken", b"\0asm\x0d\0\x01\0");
    host.consumers.put("bare", &fanfare_tests::guests::wasm("bare"));
    let check = |name: &str| {
        let file = host.consumers.folder().join(format!("{name}.wasm"));
        program::run(["--json", "plugin", "check", &file.display().to_string()])
    };
    let good = check("inventory");
    assert_eq!(good.code(), Some(0), "{good:#?}");
    assert!(good.stdout.contains("order.placed"), "{good:#?}");
    let broken = check("broken");
    assert_eq!(broken.code(), Some(1), "{broken:#?}");
    let lacking = check("bare");
    assert!(format!("{}{}", lacking.stdout, lacking.stderr).contains("change_order = true"), "{lacking:#?}");
}

#[test]
fn a_check_of_a_plugin_says_what_its_side_file_makes_of_it() {
    let host = TestHost::new();
    host.consumers.add("reports-one");
    let check = || {
        let file = host.consumers.folder().join("reports-one.wasm");
        let mut command = program::fanfare();
        command.args(["--json", "plugin", "check"]).arg(file);
        command
    };
    assert_eq!(program::finish(&mut check()).succeeded().json()["hears"], json!(["order.placed"]));

    host.consumers.set_policy("reports-one", "subscribe = [\"com.a\"]\nshadow = \"next.wasm\"\n");
    let told = program::finish(&mut check()).succeeded().json();
    assert_eq!(told["hears"], json!(["com.a"]), "{told:#}");
    let reason = told["shadow"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("shadow/next.wasm: put the plugin there"), "{reason}");

    let shadows = host.consumers.folder().join("shadow");
    fs::create_dir(&shadows).expect("a folder");
    fs::write(shadows.join("next.wasm"), guests::wasm("reports-two")).expect("a shadow");
    let told = program::finish(&mut check()).succeeded().json();
    assert!(told["shadow"]["file"].is_string() && told["shadow"]["reason"].is_null(), "{told:#}");
    fs::write(shadows.join("next.wasm"), guests::wasm("reports-relaid")).expect("a shadow");
    let told = program::finish(&mut check()).succeeded().json();
    assert!(told["shadow"]["reason"].as_str().is_some_and(|reason| reason.contains("layout 2")), "{told:#}");

    host.consumers.set_policy("reports-one", "subscribe = [\"order.plcaed\"]\n");
    let refused = program::finish(&mut check());
    assert_eq!(refused.code(), Some(1), "{refused:#?}");
    for expected in ["reports-one.toml:1", "no event is ever", "order.plcaed", "order.placed"] {
        assert!(refused.stdout.contains(expected), "no {expected}: {refused:#?}");
    }

    let limits = program::finish(check().env("FANFARE_COMPILE_TIME", "never"));
    assert_eq!(limits.code(), USAGE, "{limits:#?}");
    for expected in ["FANFARE_COMPILE_TIME: ", "is not a time from 1s to 1h"] {
        assert!(limits.stderr.contains(expected), "no {expected}: {limits:#?}");
    }
}

#[test]
fn a_file_name_that_is_no_text_is_a_file_name() {
    let host = TestHost::with(&[]);
    let at = |name: &[u8]| host.folder().join(OsStr::from_bytes(name));
    let (plugin, key, backup) = (at(b"caf\xe9.wasm"), at(b"caf\xe9"), at(b"caf\xe9.db"));
    fs::write(&plugin, guests::wasm("reports-one")).expect("a plugin");
    let run = |command: &[&str], file: &Path, more: &[&OsStr]| {
        let mut run = program::fanfare();
        program::finish(run.args(["--json", "--url", host.client().base()]).args(command).arg(file).args(more))
    };
    let made = run(&["plugin", "keygen"], &key, &[]).succeeded().json();
    assert!(made["secret_key"].as_str().is_some_and(|file| file.ends_with("caf\u{fffd}.key")), "{made:#}");
    let secret = at(b"caf\xe9.key");
    let _ = run(&["plugin", "sign"], &plugin, &["--key".as_ref(), secret.as_ref()]).succeeded().json();
    let refused = run(&["plugin", "check"], &plugin, &[]);
    assert_eq!(refused.code(), Some(1), "no consumer is called so: {refused:#?}");
    assert_eq!(refused.json()["stages"][0]["ok"], false);
    let _ = run(&["backup"], &backup, &[]).succeeded().json();
    assert!(backup.is_file());
}

#[test]
fn a_setting_that_would_be_passed_over_is_told() {
    let host = TestHost::new();
    let serve = |consumers: &Path| {
        let mut command = program::fanfare();
        command.args(["serve", "--data-dir"]).arg(host.data()).arg("--consumers-dir").arg(consumers);
        command
    };
    let typo = host.folder().join("consmers");
    let nowhere = program::finish(&mut serve(&typo));
    assert_eq!(nowhere.code(), USAGE, "{nowhere:#?}");
    assert!(
        nowhere.stderr.contains("--consumers-dir: ") && nowhere.stderr.contains("is not there: make it"),
        "{nowhere:#?}"
    );
    let file = write(&host, "a-file", "");
    let no_folder = program::finish(&mut serve(Path::new(&file)));
    assert!(no_folder.stderr.contains("is not a folder"), "{no_folder:#?}");

    let no_text = OsStr::from_bytes(b"/data/caf\xe9");
    let illegible = program::finish(serve(host.consumers.folder()).env("FANFARE_MAIL_FOLDER", no_text));
    assert_eq!(illegible.code(), USAGE, "{illegible:#?}");
    assert!(illegible.stderr.contains("FANFARE_MAIL_FOLDER: what it is set to is no UTF-8 text"), "{illegible:#?}");
    assert!(!typo.exists() && !host.data().exists(), "and touched nothing");
}

#[test]
fn a_variable_that_is_almost_a_settings_is_told_of() {
    let mut host = TestHost::new();
    host.variable("FANFARE_RETENTION_EVENT", "90d");
    host.start();
    fanfare_tests::eventually("the log says so", || {
        let log = host.log();
        let said = log.contains("FANFARE_RETENTION_EVENT") && log.contains("did you mean FANFARE_RETENTION_EVENTS?");
        if said { Ok(()) } else { Err(log) }
    });
}

#[test]
fn the_demo_places_its_orders_and_every_consumer_agrees() {
    let host = TestHost::new();
    for guest in SHIPPED {
        host.consumers.add(guest);
    }
    let mut demo = program::fanfare();
    demo.args(["--json", "demo", "--orders", "60", "--exit", "--listen", "127.0.0.1:0", "--data-dir"]).arg(host.data());
    let told = program::finish(demo.arg("--consumers-dir").arg(host.consumers.folder())).succeeded().json();
    for consumer in told["consumers"].as_array().expect("consumers") {
        assert_eq!((&consumer["pending"], &consumer["dead"]), (&json!(0), &json!(0)), "{consumer:#}");
    }
    let (orders, changes) = (&told["orders"], &told["analytics"]["changes"]);
    let ended =
        ["cancelled", "delivered", "rejected", "shipped"].map(|status| orders[status].as_u64().expect("a count"));
    assert_eq!(ended.iter().sum::<u64>(), 60, "{orders:#}");
    assert_eq!(changes["placed"], 60, "{changes:#}");
    assert_eq!(told["shipment"]["consignments"], changes["shipped"], "{told:#}");
}

#[test]
fn exit_codes_tell_what_a_script_must_know() {
    let nobody = program::run(["orders", "list", "--url", "http://127.0.0.1:1"]);
    assert_eq!(nobody.code(), UNREACHABLE, "{nobody:#?}");
    assert!(nobody.stderr.contains("fanfare serve"), "it says what to do: {nobody:#?}");
    assert_eq!(program::run(["orders", "fly"]).code(), USAGE);
    assert_eq!(program::run(["orders", "submit", "/no/such/file"]).code(), USAGE);
    assert_eq!(program::run(["orders", "list", "--url", "nonsense"]).code(), USAGE);
    for wrong in [&["--json", "orders", "fly"][..], &["orders", "list", "--url", "nonsense", "--json"]] {
        let run = program::run(wrong);
        let told: Value = serde_json::from_str(&run.stderr).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
        assert!(run.code() == USAGE && told["error"].is_string(), "programs are told in JSON: {run:#?}");
    }
    let help = program::run(["--help"]).succeeded();
    assert!(help.stdout.contains("Exit codes:"), "{help:#?}");
}

#[test]
fn a_password_in_the_address_of_a_host_is_never_shown() {
    for (url, code) in [("http://shop:hunter2@127.0.0.1:1", UNREACHABLE), ("shop:hunter2@127.0.0.1:1", USAGE)] {
        for arguments in [&["orders", "list"][..], &["--json", "orders", "list"], &["consumers", "list", "--help"]] {
            let run = program::finish(program::fanfare().env("FANFARE_URL", url).args(arguments));
            let wanted = if arguments.contains(&"--help") { Some(0) } else { code };
            assert_eq!(run.code(), wanted, "{run:#?}");
            assert!(!format!("{}{}", run.stdout, run.stderr).contains("hunter2"), "{run:#?}");
        }
    }
}

#[test]
fn settings_are_read_from_a_file_and_from_nothing_that_may_never_end() {
    let host = TestHost::new();
    let pipe = host.folder().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let pipe = pipe.display().to_string();
    let settings =
        format!("plugin_keys = \"file:{pipe}\"\n[mail]\ntransport = \"smtp\"\nhost = \"localhost\"\nuser = \"a\"\n");
    let file = write(&host, "fanfare.toml", &format!("{settings}password = \"file:{pipe}\"\n"));
    let folder = host.folder().display().to_string();
    for (config, faults) in [(&pipe, 1), (&folder, 1), (&file, 2)] {
        let run = program::run(["serve", "--config", config]);
        assert_eq!(run.code(), USAGE, "{run:#?}");
        assert_eq!(run.stderr.matches("name").count(), faults, "it says what to do: {run:#?}");
    }
}

/// Runs a command against `host`, for programs.
fn fanfare(host: &TestHost, arguments: &[&str]) -> Run {
    program::finish(program::fanfare().args(["--json", "--url", host.client().base()]).args(arguments))
}

fn write(host: &TestHost, name: &str, text: &str) -> String {
    let path = host.folder().join(name);
    fs::write(&path, text).expect("a file");
    path.display().to_string()
}
