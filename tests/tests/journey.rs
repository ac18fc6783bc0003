//! What an order lives through, with the five consumers that ship with Fanfare.

use fanfare_tests::guests::SHIPPED;
use fanfare_tests::orders::{UNIT_AMOUNT, event, order, received, referenced};
use fanfare_tests::{TestHost, json, mail};

#[test]
fn an_order_goes_from_placed_to_shipped_and_every_consumer_has_its_part() {
    let host = TestHost::with(&SHIPPED);
    let client = host.client();
    client.stock(&["CUP", "TEA"], 100);

    let answer = client.place(&referenced("R-1", &[("TEA", 3), ("CUP", 1)])).expect(201);
    let id = answer.id();
    assert_eq!(answer.header("location"), Some(format!("/v1/orders/{id}").as_str()));
    assert_eq!(answer.json()["status"], "placed");
    assert_eq!(answer.json()["total_amount"], 4 * UNIT_AMOUNT);

    let shipped = client.wait_for_status(&id, "shipped");
    assert_eq!(shipped["revision"], 3);
    client.wait_until_idle();

    assert_eq!(client.counters("inventory", "stock/"), [("stock/CUP".into(), 99), ("stock/TEA".into(), 97)]);
    assert_eq!(client.entries("inventory", "taken/").len(), 1);
    assert_eq!(client.counter("loyalty", "points/C-1"), 40);
    assert_eq!(client.entries("shipment", &format!("consignment/{id}")).len(), 1);
    let statuses = client.counters("analytics", "status/");
    assert_eq!(statuses, [("status/confirmed".into(), 1), ("status/placed".into(), 1), ("status/shipped".into(), 1)]);
    assert_eq!(client.counter("analytics", "revenue/USD/country/GB"), 4 * UNIT_AMOUNT);

    let subjects: Vec<_> = client.messages().iter().map(|message| message["subject"].clone()).collect();
    assert_eq!(subjects.len(), 3, "{subjects:?}");
    assert!(subjects.iter().all(|subject| subject.as_str().is_some_and(|subject| subject.contains("R-1"))));
}

#[test]
fn an_order_tells_what_became_of_it_at_each_consumer() {
    let host = TestHost::with(&["inventory", "loyalty"]);
    let client = host.client();
    client.stock(&["TEA"], 5);
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "confirmed");
    client.wait_until_idle();

    let order = client.order(&id);
    let deliveries = order["deliveries"].as_array().expect("deliveries");
    let of = |consumer: &str, kind: &str| {
        let found = deliveries.iter().find(|delivery| delivery["consumer"] == consumer && delivery["type"] == kind);
        found.unwrap_or_else(|| panic!("no delivery of {kind} to {consumer}: {order:#}"))
    };
    for (consumer, kind) in [("inventory", "order.placed"), ("loyalty", "order.confirmed")] {
        assert_eq!(of(consumer, kind)["state"], "done");
    }
    assert_eq!(deliveries.len(), 2, "nobody else listens: {order:#}");
}

#[test]
fn an_order_that_is_short_is_rejected_naming_the_sku_and_takes_nothing() {
    let host = TestHost::with(&["inventory", "notification"]);
    let client = host.client();
    client.stock(&["CUP", "TEA"], 2);
    let id = client.placed(&order(&[("TEA", 2), ("CUP", 3)]));
    client.wait_for_status(&id, "rejected");
    client.wait_until_idle();

    assert_eq!(client.counters("inventory", "stock/"), [("stock/CUP".into(), 2), ("stock/TEA".into(), 2)]);
    let told = client.messages();
    let text =
        told.iter().find_map(|message| message["text"].as_str().filter(|text| text.contains("Not enough stock")));
    let text = text.unwrap_or_else(|| panic!("nobody was told why: {told:#?}"));
    assert!(text.contains("CUP (wanted 3, left 2)") && !text.contains("TEA"), "{text}");
}

#[test]
fn cancelling_gives_stock_and_points_back_and_tells_the_customer() {
    // Without shipment, so that the order stays where it can be cancelled.
    let host = TestHost::with(&["inventory", "loyalty", "notification"]);
    let client = host.client();
    client.stock(&["TEA"], 10);
    let id = client.placed(&order(&[("TEA", 4)]));
    client.wait_for_status(&id, "confirmed");
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 6);
    assert_eq!(client.counter("loyalty", "points/C-1"), 40);

    assert_eq!(client.cancel(&id, "changed my mind").expect(200).json()["status"], "cancelled");
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 10);
    assert_eq!(client.counter("loyalty", "points/C-1"), 0);
    assert!(
        client
            .messages()
            .iter()
            .any(|message| message["text"].as_str().unwrap_or_default().contains("changed my mind"))
    );

    // The life of a cancelled order is over, and saying so twice changes nothing.
    for again in [client.cancel(&id, "again"), client.deliver(&id)] {
        let problem = again.problem(409);
        assert!(problem.to_string().contains("cancelled"), "{problem}");
    }
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 10);
    assert_eq!(client.order(&id)["status"], "cancelled");
}

#[test]
fn an_order_is_delivered_only_once_it_was_shipped() {
    let host = TestHost::with(&["inventory", "shipment", "analytics"]);
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "rejected");
    let _ = client.deliver(&id).problem(409);

    client.stock(&["TEA"], 1);
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "shipped");
    assert_eq!(client.deliver(&id).expect(200).json()["status"], "delivered");
    client.wait_until_idle();
    assert_eq!(client.counter("analytics", "status/delivered"), 1);
    let _ = client.cancel("0190b5a0-0000-7000-8000-000000000000", "nobody has it").problem(404);
}

#[test]
fn low_stock_is_told_once_a_crossing() {
    let mut host = TestHost::new();
    host.consumers.add("inventory");
    host.consumers.add("notification");
    host.consumers.set_policy(
        "notification",
        "[grant]\nemail = true\n\n[settings]\nstock_alert_to = \"purchasing@shop.example\"\n",
    );
    host.start();
    let client = host.client();
    client.stock(&["TEA"], 12);
    let alerts = || {
        client.wait_until_idle();
        client.messages().iter().filter(|message| message["to"] == "purchasing@shop.example").count()
    };
    for (order_of, expected) in [(2, 0), (1, 1), (1, 1)] {
        client.placed(&order(&[("TEA", order_of)]));
        assert_eq!(alerts(), expected);
    }
    assert!(client.publish(&received("more", "TEA", 10)).status.is_success());
    client.wait_until_idle();
    client.placed(&order(&[("TEA", 10)]));
    assert_eq!(alerts(), 2);
}

#[test]
fn letters_are_written_in_the_customers_language_into_the_mail_folder() {
    let mut host = TestHost::with(&["notification"]);
    let client = host.client();
    let mut german = referenced("R-7", &[("TEA", 1)]);
    german["metadata"] = json!({"locale": "de-AT"});
    client.placed(&german);
    client.wait_until_idle();

    let folder = host.data().join("mail");
    let mails = fanfare_tests::eventually("the letter is written", || {
        let mails = mail::in_folder(&folder);
        if mails.len() == 1 { Ok(mails) } else { Err(format!("{mails:?} in {}", folder.display())) }
    });
    assert_eq!(mails[0].header("to").as_deref(), Some("ada@customers.example"));
    assert_eq!(mails[0].header("subject").as_deref(), Some("Ihre Bestellung R-7 ist eingegangen"));
    let message_id = mails[0].header("message-id").expect("a Message-ID");
    assert!(message_id.contains("notification"), "stable over every try: {message_id}");

    // What was sent is not sent again.
    host.kill();
    host.start();
    host.client().wait_until_idle();
    assert_eq!(host.client().messages()[0]["state"], "sent");
    assert_eq!(mail::in_folder(&folder).len(), 1);
}

#[test]
fn events_of_others_reach_those_who_listen_and_nobody_else() {
    let host = TestHost::with(&["inventory", "loyalty"]);
    let client = host.client();
    let counted = event("count-1", "com.fanfare.stock.counted", "TEA", json!({"sku": "TEA", "quantity": 7}));
    assert!(client.publish(&counted).status.is_success());
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 7);
    assert_eq!(client.consumer("loyalty").expect("loyalty")["done"], 0);
}
