//! Starting, ending and looking at a host.

use std::net::TcpListener;
use std::process::Command;

use fanfare_tests::load::Load;
use fanfare_tests::mail::MailServer;
use fanfare_tests::orders::order;
use fanfare_tests::wire::Wire;
use fanfare_tests::{TestHost, eventually, program};

#[test]
fn sigterm_drains_and_the_next_start_goes_on() {
    let mut host = TestHost::with(&["inventory", "reports-one"]);
    let client = host.client();
    for _ in 0..50 {
        client.placed(&order(&[("TEA", 1)]));
    }
    host.ask_to_end();
    let status = host.ended();
    assert_eq!(status.code(), Some(0), "{status}: {}", host.log());

    host.start();
    let client = host.client();
    client.wait_until_idle();
    assert_eq!(client.counter("reports-one", "handled"), 50);
    assert!(client.orders().iter().all(|order| order["status"] == "rejected"));
}

#[test]
fn sigterm_ends_a_host_in_order_that_still_starts() {
    // It accepts connections and answers nothing, so the host waits for its store.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_ENDPOINT_URL", &format!("http://{}", silent.local_addr().expect("an address")));
    for (name, value) in
        [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]
    {
        host.variable(name, value);
    }
    host.spawn();
    let connection = silent.accept().expect("the host calls");
    host.ask_to_end();
    let status = host.ended();
    drop(connection);
    assert_eq!(status.code(), Some(0), "{status}: {}", host.log());
    assert!(host.log().contains("SIGTERM"), "{}", host.log());

    // Here it may look at its consumers, or serve already.
    let mut host = TestHost::new();
    ["inventory", "loyalty", "reports-one", "reports-two"].iter().for_each(|guest| host.consumers.add(guest));
    host.spawn();
    eventually("the store is there", || match host.data().join("fanfare.sqlite").exists() {
        true => Ok(()),
        false => Err(host.log()),
    });
    host.ask_to_end();
    let status = host.ended();
    assert_eq!(status.code(), Some(0), "{status}: {}", host.log());
    host.start();
    host.client().placed(&order(&[("TEA", 1)]));
    host.client().wait_until_idle();
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    let mut host = TestHost::with(&[]);
    let mut wire = Wire::connect(host.client().address());
    let head = "POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
                Expect: 100-continue\r\n\r\n";
    assert!(wire.send(head.as_bytes()));
    let _ = wire.read_until(|told| told.contains("100 Continue"));
    host.ask_to_end();
    let pid = host.pid().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    eventually("it is stopping", || if host.log().contains("stopping;") { Ok(()) } else { Err(host.log()) });
    assert!(wire.send(b"{}"));
    let answer = wire.read_to_end();
    assert!(answer.contains("/problems/invalid-order"), "what runs is finished: {answer}");
    let status = host.ended();
    assert_eq!(status.code(), Some(0), "{status}: {}", host.log());
}

#[test]
fn a_client_that_never_stops_listening_does_not_hold_up_the_end() {
    let mut host = TestHost::with(&["inventory"]);
    let mut wire = Wire::connect(host.client().address());
    assert!(wire.send(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let _ = wire.read_until(|told| told.contains(": fanfare"));
    host.ask_to_end();
    assert!(host.ended().success(), "{}", host.log());
    assert!(!wire.read_to_end().contains("error"));
}

#[test]
fn a_page_of_another_name_cannot_reach_the_host() {
    let host = TestHost::with(&[]);
    for (name, expected) in [("shop.example", "421"), ("localhost", "200"), ("127.0.0.1", "200")] {
        let mut wire = Wire::connect(host.client().address());
        assert!(wire.send(format!("GET /v1/orders HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes()));
        let answer = wire.read_to_end();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{name}: {answer}");
    }
}

#[test]
fn kill_nine_under_load_loses_and_repeats_no_effect() {
    let mut host = TestHost::with(&["reports-one"]);
    for _ in 0..3 {
        let client = host.client();
        let handled = || client.counter("reports-one", "handled");
        let before = handled();
        let load = Load::begin(&client, 4);
        eventually("some are handled", || {
            let now = handled();
            if now > before + 20 { Ok(()) } else { Err(format!("{now} after {before}")) }
        });
        host.kill();
        // Its shops lost their connections, and do not know what became of their last orders: only the host does.
        drop(load);
        host.start();
    }
    let client = host.client();
    client.wait_until_idle();
    let orders = client.orders().len();
    assert_eq!(usize::try_from(client.counter("reports-one", "handled")), Ok(orders));
}

#[test]
fn an_address_that_others_reach_is_refused_unless_insisted_on() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let host = TestHost::new();
        let run = program::finish(
            program::fanfare()
                .args(["serve", "--listen", listen, "--data-dir"])
                .arg(host.data())
                .arg("--consumers-dir")
                .arg(host.consumers.folder()),
        );
        assert!(!run.status.success(), "{run:#?}");
        assert!(run.stderr.contains("--insecure"), "it says what to do: {run:#?}");
        assert!(!host.data().exists(), "and touched nothing");
    }
}

#[test]
fn a_wrong_setting_is_named_before_anything_starts() {
    let host = TestHost::new();
    let run = program::finish(
        program::fanfare()
            .args(["serve", "--data-dir"])
            .arg(host.data())
            .env("FANFARE_LISTEN", "not an address")
            .env("FANFARE_MAIL_TRANSPORT", "pigeon"),
    );
    assert!(!run.status.success(), "{run:#?}");
    for expected in ["FANFARE_LISTEN", "FANFARE_MAIL_TRANSPORT", "pigeon"] {
        assert!(run.stderr.contains(expected), "no {expected}: {run:#?}");
    }
    assert!(!host.data().exists());
}

#[test]
fn probes_and_meters_tell_how_the_host_is() {
    let host = TestHost::with(&["reports-one"]);
    let client = host.client();
    for probe in ["/healthz", "/readyz"] {
        let _ = client.get(probe).expect(200);
    }
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    let metrics = client.get("/metrics").expect(200).text;
    for line in [
        "fanfare_orders_placed_total 1",
        "fanfare_handled_total{consumer=\"reports-one\",outcome=\"done\"} 1",
        "fanfare_pending{consumer=\"reports-one\"} 0",
        "fanfare_dead{consumer=\"reports-one\"} 0",
        "fanfare_handle_seconds_bucket{consumer=\"reports-one\"",
        "fanfare_http_request_seconds_bucket",
    ] {
        assert!(metrics.lines().any(|found| found.starts_with(line)), "no {line}: {metrics}");
    }
}

#[test]
fn mail_goes_to_a_server_and_again_where_the_server_was_busy() {
    let server = MailServer::start(1);
    let mut host = TestHost::new();
    host.consumers.add("notification");
    host.variable("FANFARE_MAIL_TRANSPORT", "smtp")
        .variable("FANFARE_MAIL_HOST", &server.address().ip().to_string())
        .variable("FANFARE_MAIL_PORT", &server.address().port().to_string())
        .variable("FANFARE_MAIL_TLS", "off")
        .variable("FANFARE_MAIL_FROM", "Shop <shop@shop.example>")
        .start();
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    let mails = eventually("the letter arrives", || {
        let mails = server.mails();
        if mails.is_empty() { Err(format!("{:#?}", client.messages())) } else { Ok(mails) }
    });
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].header("to").as_deref(), Some("ada@customers.example"));
    assert!(mails[0].header("from").is_some_and(|from| from.contains("shop@shop.example")), "{mails:#?}");
    assert!(mails[0].contains("TEA"), "{mails:#?}");
    let message = eventually("it counts as sent", || {
        let messages = client.messages();
        if messages[0]["state"] == "sent" { Ok(messages[0].clone()) } else { Err(format!("{messages:#?}")) }
    });
    assert_eq!(message["attempts"], 2, "{message:#}");
}
