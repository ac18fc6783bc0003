use fanfare_sdk::events::Shipment;
use fanfare_sdk::json::json;
use fanfare_sdk::testing::{self, Host, OrderBuilder};

use super::*;

fn order(id: &str) -> OrderBuilder {
    testing::order(id).discounted_line("A", 12, 1_400, 100).line("B", 1, 980).line("A", 1, 1_400)
}

#[test]
fn a_placed_order_is_counted_by_day_country_and_sku() {
    let mut host = Host::<Analytics>::default();
    host.handle(testing::placed(order("o-1").country("FR").build())).unwrap();
    assert_eq!(
        host.counts(),
        [
            ("orders/country/FR", 1),
            ("orders/day/2026-11-22", 1),
            ("revenue/USD/country/FR", 19_080),
            ("revenue/USD/day/2026-11-22", 19_080),
            ("revenue/USD/sku/A", 18_100),
            ("revenue/USD/sku/B", 980),
            ("status/placed", 1),
            ("units/sku/A", 13),
            ("units/sku/B", 1),
        ]
    );
}

#[test]
fn currencies_are_never_added_up() {
    let mut host = Host::<Analytics>::default();
    host.handle(testing::placed(order("o-1").build())).unwrap();
    host.handle(testing::placed(order("o-2").currency("JPY").build())).unwrap();
    assert_eq!(host.count("revenue/USD/sku/B"), 980);
    assert_eq!(host.count("revenue/JPY/sku/B"), 980);
    assert_eq!(host.count("units/sku/B"), 2);
    assert_eq!(host.count("orders/country/ZZ"), 2);
}

#[test]
fn later_changes_are_counted_by_kind_alone() {
    let mut host = Host::<Analytics>::default();
    for change in [Change::Confirmed, Change::Cancelled("late".to_owned()), Change::Confirmed] {
        host.handle(testing::changed(order("o-1").build(), change)).unwrap();
    }
    assert_eq!(host.counts(), [("status/cancelled", 1), ("status/confirmed", 2)]);
    assert!(host.rows("orders").is_empty() && host.rows("lines").is_empty());
}

#[test]
fn rows_of_a_placed_order_say_what_was_sold() {
    let mut host = Host::<Analytics>::default();
    host.handle(testing::placed(order("o-1").reference("NW-10248").country("FR").build())).unwrap();
    let row = json!({
        "order_id": "o-1", "reference": "NW-10248", "placed_at": "2026-11-22T10:00:00.000Z", "customer_id": "VINET",
        "country": "FR", "currency": "USD", "total_amount": 19_080, "line_count": 3, "unit_count": 14,
    });
    assert_eq!(host.rows("orders"), [&row]);
    let row = json!({
        "order_id": "o-1", "line_number": 1, "placed_at": "2026-11-22T10:00:00.000Z", "sku": "A", "title": "Title of A",
        "currency": "USD", "quantity": 12, "unit_amount": 1_400, "discount_amount": 100, "total_amount": 16_700,
    });
    assert_eq!(host.rows("lines")[0], &row);
    assert_eq!(host.rows("lines").len(), 3);
}

#[test]
fn every_change_is_a_row_with_its_particulars() {
    let mut host = Host::<Analytics>::default();
    let parcel = Shipment { carrier: "local".to_owned(), tracking_number: "FF1".to_owned(), tracking_url: None };
    for change in [Change::Placed, Change::Rejected("short".to_owned()), Change::Shipped(parcel), Change::Delivered] {
        host.handle(testing::changed(order("o-1").build(), change)).unwrap();
    }
    let particulars: Vec<_> = host
        .rows("changes")
        .iter()
        .map(|row| [&row["kind"], &row["reason"], &row["carrier"], &row["tracking_number"]].map(|value| value.clone()))
        .collect();
    assert_eq!(
        json!(particulars),
        json!([
            ["placed", null, null, null],
            ["rejected", "short", null, null],
            ["shipped", null, "local", "FF1"],
            ["delivered", null, null, null],
        ])
    );
    assert_eq!(host.rows("changes")[0]["event_id"], "o-1/placed");
}
