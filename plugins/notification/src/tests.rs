use fanfare_sdk::events::Shipment;
use fanfare_sdk::testing::{self, Host, OrderBuilder};

use super::*;

fn order() -> OrderBuilder {
    testing::order("o-1")
        .reference("NW-10248")
        .customer("VINET", Some("Paul Henriot"), Some("paul@vinet.example"))
        .line("A", 12, 10_400)
        .discounted_line("B", 1, 980, 80)
}

fn sent(order: OrderBuilder, change: Change) -> Email {
    let mut host = Host::<Notification>::default();
    host.handle(testing::changed(order.build(), change)).unwrap();
    let emails = host.emails();
    assert_eq!(emails.len(), 1);
    emails[0].clone()
}

fn parcel(tracking_url: Option<&str>) -> Change {
    let tracking_url = tracking_url.map(str::to_owned);
    Change::Shipped(Shipment { carrier: "local".to_owned(), tracking_number: "FF1".to_owned(), tracking_url })
}

#[test]
fn a_new_order_is_answered_with_its_lines_and_total() {
    let email = sent(order(), Change::Placed);
    assert_eq!(email.to, "paul@vinet.example");
    assert_eq!(email.subject, "We have your order NW-10248");
    assert_eq!(
        email.text,
        "Hello Paul Henriot,\n\n\
         Thank you for your order NW-10248. We are checking our stock for:\n\n  \
         12 × Title of A: USD\u{a0}1,248.00\n  \
         1 × Title of B: USD\u{a0}9.00\n  \
         Total: USD\u{a0}1,257.00\n\n\
         Kind regards, your shop\n"
    );
}

#[test]
fn each_step_is_one_letter_of_its_own() {
    let changes = [
        (Change::Placed, "We have your order NW-10248"),
        (Change::Confirmed, "Your order NW-10248 is confirmed"),
        (Change::Rejected("No A".to_owned()), "We cannot fulfil your order NW-10248"),
        (parcel(None), "Your order NW-10248 is on its way"),
        (Change::Delivered, "Your order NW-10248 has arrived"),
        (Change::Cancelled(String::new()), "Your order NW-10248 is cancelled"),
    ];
    for (change, subject) in changes {
        let email = sent(order(), change);
        assert_eq!(email.subject, subject);
        assert!(email.text.contains("NW-10248") && email.html.unwrap_or_default().contains("NW-10248"));
    }
}

#[test]
fn letters_are_in_the_customers_language() {
    for (locale, subject, total) in [
        ("de", "Ihre Bestellung NW-10248 ist eingegangen", "Gesamtbetrag: 1.257,00\u{a0}EUR"),
        ("de_AT", "Ihre Bestellung NW-10248 ist eingegangen", "Gesamtbetrag: 1.257,00\u{a0}EUR"),
        ("FR-be", "Nous avons reçu votre commande NW-10248", "Total: 1\u{202f}257,00\u{a0}EUR"),
        ("es-MX", "Hemos recibido su pedido NW-10248", "Total: 1.257,00\u{a0}EUR"),
        ("en-GB", "We have your order NW-10248", "Total: EUR\u{a0}1,257.00"),
        ("tlh", "We have your order NW-10248", "Total: EUR\u{a0}1,257.00"),
        ("", "We have your order NW-10248", "Total: EUR\u{a0}1,257.00"),
    ] {
        let email = sent(order().currency("EUR").metadata("locale", locale), Change::Placed);
        assert_eq!(email.subject, subject, "{locale}");
        assert!(email.text.contains(total), "{locale}: {}", email.text);
    }
}

#[test]
fn money_has_the_decimals_of_its_currency() {
    assert!(sent(order().currency("JPY"), Change::Placed).text.contains("Total: JPY\u{a0}125,700\n"));
    assert!(sent(order().currency("KWD"), Change::Placed).text.contains("Total: KWD\u{a0}125.700\n"));
}

#[test]
fn reasons_and_tracking_are_told() {
    let email = sent(order(), Change::Rejected("Not enough stock of A <3".to_owned()));
    assert!(email.text.contains("\n\nReason: Not enough stock of A <3\n\n"));
    assert!(email.html.unwrap_or_default().contains("<p>Reason: Not enough stock of A &lt;3</p>"));
    let email = sent(order(), parcel(Some("https://track.example/FF1")));
    assert!(email.text.contains("Carrier: local. Tracking number: FF1.\n\nhttps://track.example/FF1\n"));
}

#[test]
fn an_order_without_names_is_called_by_its_id() {
    let order = testing::order("o-1").customer("VINET", None, Some("paul@vinet.example"));
    let email = sent(order, Change::Confirmed);
    assert_eq!(email.subject, "Your order o-1 is confirmed");
    assert!(email.text.starts_with("Hello,\n"));
}

#[test]
fn names_cannot_break_out_of_their_place() {
    let order = order().reference("1\r\nBcc: x").customer("V", Some("<script>{order}"), Some("paul@vinet.example"));
    let email = sent(order, Change::Confirmed);
    assert_eq!(email.subject, "Your order 1  Bcc: x is confirmed");
    assert!(email.html.unwrap_or_default().contains("<p>Hello &lt;script&gt;{order},</p>"));
}

#[test]
fn customers_without_a_usable_address_are_skipped() {
    for email in
        [None, Some(""), Some("  "), Some("a@b,c@d"), Some("paul"), Some("a@b\nBcc: c@d"), Some("@b"), Some("a@")]
    {
        let mut host = Host::<Notification>::default();
        let order = order().customer("VINET", None, email).build();
        host.handle(testing::changed(order, Change::Confirmed)).unwrap();
        assert!(host.emails().is_empty(), "{email:?}");
        assert_eq!(host.logged().len(), 1, "{email:?}");
    }
}

#[test]
fn low_stock_is_told_to_whom_the_operator_names() {
    let low = || testing::custom(stock::LOW, "A", r#"{"sku": "A", "left": 9, "threshold": 10}"#);
    let mut host = Host::<Notification>::default();
    host.handle(low()).unwrap();
    assert!(host.emails().is_empty());
    host.set_setting("stock_alert_to", "purchasing@shop.example");
    host.handle(low()).unwrap();
    let emails = host.emails();
    assert_eq!(emails[0].to, "purchasing@shop.example");
    assert_eq!(emails[0].subject, "Stock of A is low: 9 left");
    let failure = host.handle(testing::custom(stock::LOW, "A", r#"{"sku": "A"}"#)).unwrap_err();
    assert!(failure.reason().starts_with("data.left: is missing"), "{failure:?}");
}
