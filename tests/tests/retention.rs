//! What is old goes while the host runs, what somebody needs stays, and the file does not grow for ever.

use std::fs;

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::{ndjson, order};
use fanfare_tests::wire::Wire;
use fanfare_tests::{Client, TestHost, eventually, json, program};

const SHORT: &str =
    "[retention]\nevents = \"300ms\"\norders = \"300ms\"\nidempotency = \"300ms\"\nmessages = \"300ms\"\n";

fn host_with(guests: &[&str], settings: &str) -> TestHost {
    let mut host = TestHost::new();
    for guest in guests {
        host.consumers.add(guest);
    }
    let file = host.folder().join("fanfare.toml");
    fs::write(&file, settings).expect("a settings file");
    host.argument("--config").argument(file);
    host.start();
    host
}

/// The position of the oldest event that is kept, and what a stream from the first one on says of those before.
fn oldest(client: &Client) -> (u64, Option<String>) {
    let mut stream = Wire::connect(client.address());
    assert!(stream.send(b"GET /v1/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let told = stream.read_until(|told| told.split_once("\nid: ").is_some_and(|(_, rest)| rest.contains('\n')));
    let line = |start: &str| told.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    (line("id: ").expect("an event").parse().expect("a position"), line("data: {\"after\":0,"))
}

#[test]
fn orders_age_out_and_the_file_does_not_grow_for_ever() {
    let host = host_with(&["inventory"], SHORT);
    let client = host.client();
    let mut big = order(&[("TEA", 1)]);
    // Nothing is in stock: each is rejected, and at its end.
    let title = "x".repeat(150);
    big["lines"] = (0..40)
        .map(|line| json!({"sku": format!("S{line}"), "title": title, "quantity": 1, "unit_amount": 1}))
        .collect();
    let import = ndjson(&vec![big; 500]);
    let store = host.data().join("fanfare.sqlite");
    let mut sizes = Vec::new();
    for _ in 0..8 {
        assert!(client.import(&import).iter().all(|line| line["result"] == "created"));
        client.wait_until_idle();
        // The newest event stays with its order, which need not be the newest order.
        eventually("all but the newest orders are gone", || match client.orders().len() {
            1 | 2 => Ok(()),
            many => Err(format!("{many} orders")),
        });
        sizes.push(fs::metadata(&store).expect("the store").len());
    }
    assert_eq!(client.orders()[0]["status"], "rejected", "the newest stays");
    // Each round brings 4 MB: what is free is reused, and 4 MiB of it may stay free.
    assert!(sizes.iter().all(|size| *size < 12 << 20), "{sizes:?}");
    let metrics = client.get("/metrics").expect(200).text;
    assert!(metrics.contains("fanfare_retention_held{consumer=\"inventory\"} 0"), "{metrics}");
}

#[test]
fn a_removed_consumer_holds_events_back_until_it_is_forgotten() {
    let mut host = host_with(&["inventory", "reports-one"], SHORT);
    host.leave_deliveries();
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    let in_use = client.delete("/v1/consumers/reports-one").problem(409);
    assert!(in_use["detail"].as_str().is_some_and(|text| text.contains("remove reports-one.wasm")), "{in_use}");
    host.consumers.remove("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "removed");

    let first = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&first, "rejected");
    client.placed(&order(&[("TEA", 1)]));
    let held = client.wait_for_consumer("reports-one", |consumer| consumer["holds_back"]["events"] == 3);
    assert_eq!(held["holds_back"]["reason"], "position");
    let kept = oldest(&client).0;
    eventually(
        "the log says it",
        || if host.log().contains("stay for this consumer") { Ok(()) } else { Err(host.log()) },
    );
    let shown = program::run(["consumers", "show", "reports-one", "--url", client.base()]).succeeded();
    assert!(shown.stdout.contains("holds back") && shown.stdout.contains("3 events"), "{}", shown.stdout);
    host.kill();
    host.start();
    let client = host.client();
    client.wait_for_consumer("reports-one", |consumer| consumer["holds_back"]["events"] == 3);
    assert_eq!(oldest(&client).0, kept, "nothing of it went");
    assert_eq!(client.order(&first)["status"], "rejected");

    let asked = program::run(["consumers", "forget", "reports-one", "--url", client.base()]);
    assert_eq!(asked.code(), Some(2), "nobody is there to be asked: {asked:?}");
    assert!(asked.stderr.contains("--yes"), "{asked:?}");
    let _ = program::run(["consumers", "forget", "reports-one", "--yes", "--url", client.base()]).succeeded();
    assert!(client.consumer("reports-one").is_none());
    let _ = client.delete("/v1/consumers/reports-one").problem(404);
    eventually("the order goes", || match client.get(&format!("/v1/orders/{first}")).status.as_u16() {
        404 => Ok(()),
        other => Err(other.to_string()),
    });
    let (position, gap) = oldest(&client);
    assert_eq!(gap, Some(format!("\"before\":{position}}}")), "a stream from the first event on tells what is gone");

    host.consumers.add("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "running");
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 1, "it begins anew, with nothing");
}

#[test]
fn a_wrong_retention_is_refused_before_anything_starts() {
    let mut host = TestHost::new();
    host.variable("FANFARE_RETENTION_EVENTS", "3 days").variable("FANFARE_RETENTION_ORDERS", "1h");
    assert!(!host.start_in_vain().success());
    let said = host.log();
    assert!(said.contains("FANFARE_RETENTION_EVENTS: \"3 days\" is not a time such as 90d"), "{said}");
}

#[test]
fn on_aws_orders_age_out_and_a_consumer_that_comes_late_begins_with_what_is_left() {
    let mut host = host_on_aws(&["inventory"]);
    host.start();
    let client = host.client();
    let first = client.placed(&order(&[("TEA", 1)]));
    for _ in 0..5 {
        // Nothing is in stock: each is rejected, and at its end.
        client.placed(&order(&[("TEA", 1)]));
    }
    client.wait_until_idle();
    eventually("all but the newest orders are gone", || match client.orders().len() {
        1 | 2 => Ok(()),
        many => Err(format!("{many} orders")),
    });
    let _ = client.get(&format!("/v1/orders/{first}")).problem(404);
    let again = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&again, "rejected");

    host.consumers.set_policy("reports-one", "start = \"beginning\"\n");
    host.consumers.add("reports-one");
    client.wait_for_consumer("reports-one", |consumer| consumer["state"] == "running");
    let last = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&last, "rejected");
    client.wait_until_idle();
    let handled = client.counter("reports-one", "handled");
    assert!((1..=3).contains(&handled), "{handled}");
    assert_eq!(client.consumer("reports-one").expect("one")["dead"], 0);
    let log = host.log();
    assert!(!log.contains("what is old stays") && !log.contains("ERROR"), "{log}");
}

/// A host on AWS, with a store of its own.
fn host_on_aws(guests: &[&str]) -> TestHost {
    let mut host = TestHost::new();
    for guest in guests {
        host.consumers.add(guest);
    }
    let file = host.folder().join("fanfare.toml");
    fs::write(&file, SHORT.replace("300ms", "2s")).expect("a settings file");
    host.argument("--config").argument(file).argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", &prefix()).variable("FANFARE_AWS_PROVISION", "true");
    host
}
