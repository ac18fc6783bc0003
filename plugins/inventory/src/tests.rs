use fanfare_sdk::testing::{self, Host};

use super::*;

fn host(stock: &[(&str, i64)]) -> Host<Inventory> {
    let mut host = Host::default();
    for (sku, units) in stock {
        host.set_count(&stock::key(sku), *units);
    }
    host
}

fn order(id: &str, lines: &[(&str, u32)]) -> Order {
    lines.iter().fold(testing::order(id), |order, (sku, quantity)| order.line(sku, *quantity, 1_400)).build()
}

fn status<'a>(host: &'a Host<Inventory>, id: &str) -> &'a str {
    host.order(id).map(|order| order.status.name()).unwrap_or_default()
}

fn cancelled(id: &str) -> Event {
    testing::changed(order(id, &[]), Change::Cancelled("changed my mind".to_owned()))
}

#[test]
fn enough_stock_is_taken_and_the_order_confirmed() {
    let mut host = host(&[("A", 100), ("B", 50)]);
    host.handle(testing::placed(order("o-1", &[("A", 2), ("B", 3), ("A", 4)]))).unwrap();
    assert_eq!(host.counts(), [("stock/A", 94), ("stock/B", 47)]);
    assert_eq!(host.entry("taken/o-1"), Some(r#"{"A":6,"B":3}"#));
    assert_eq!(status(&host, "o-1"), "confirmed");
    assert!(host.published().is_empty());
}

#[test]
fn lines_of_one_sku_are_short_together() {
    let mut host = host(&[("A", 5), ("B", 50)]);
    host.handle(testing::placed(order("o-1", &[("A", 3), ("B", 1), ("A", 3)]))).unwrap();
    assert_eq!(host.counts(), [("stock/A", 5), ("stock/B", 50)]);
    assert_eq!(host.entry_keys(), [""; 0]);
    assert_eq!(
        host.changes(),
        [("o-1".to_owned(), Change::Rejected("Not enough stock of A (wanted 6, left 5)".to_owned()))]
    );
}

#[test]
fn a_rejection_of_very_many_says_how_many_it_leaves_out() {
    let skus: Vec<String> = (0..500).map(|index| format!("{index:0>128}")).collect();
    let lines: Vec<_> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
    let mut host = host(&[]);
    host.handle(testing::placed(order("o-1", &lines))).unwrap();
    let [(_, Change::Rejected(reason))] = host.changes() else { panic!("one change") };
    assert!(reason.len() <= 4 << 10, "{}", reason.len());
    let named = reason.matches("wanted 1").count();
    assert!(named > 10 && reason.ends_with(&format!(" and {} more", 500 - named)), "{reason}");
}

#[test]
fn a_rejection_names_every_short_sku() {
    let mut host = host(&[("A", 5), ("B", 50)]);
    host.handle(testing::placed(order("o-1", &[("A", 6), ("B", 1), ("C", 2)]))).unwrap();
    let reason = "Not enough stock of A (wanted 6, left 5), C (wanted 2, left 0)".to_owned();
    assert_eq!(host.changes(), [("o-1".to_owned(), Change::Rejected(reason))]);
    assert_eq!(host.counts(), [("stock/A", 5), ("stock/B", 50)]);
    assert!(host.published().is_empty());
}

#[test]
fn an_order_cancelled_meanwhile_takes_nothing() {
    for units in [100, 15, 1] {
        let mut host = host(&[("A", units)]);
        let placed = order("o-1", &[("A", 10)]);
        host.set_order(Order { status: Status::Cancelled, ..placed.clone() });
        host.handle(testing::placed(placed)).unwrap();
        assert_eq!(host.counts(), [("stock/A", units)]);
        assert_eq!(host.entry_keys(), [""; 0]);
        assert!(host.published().is_empty());
    }
}

#[test]
fn an_order_confirmed_by_somebody_else_takes_its_stock_once() {
    let mut host = host(&[("A", 100)]);
    let placed = order("o-1", &[("A", 10)]);
    host.set_order(Order { status: Status::Shipped, ..placed.clone() });
    for _repeat in 0..2 {
        host.handle(testing::placed(placed.clone())).unwrap();
        assert_eq!(host.count("stock/A"), 90);
    }
    assert_eq!(host.entry("taken/o-1"), Some(r#"{"A":10}"#));
}

#[test]
fn an_order_that_was_confirmed_takes_its_stock_before_history_tells_of_the_goods() {
    let mut host = host(&[("A", 4), ("B", 100)]);
    let placed = order("o-1", &[("A", 10), ("B", 1)]);
    host.set_order(Order { status: Status::Shipped, ..placed.clone() });
    for _repeat in 0..2 {
        host.handle(testing::placed(placed.clone())).unwrap();
        assert_eq!(host.counts(), [("stock/A", -6), ("stock/B", 99)]);
    }
    assert_eq!(host.entry("taken/o-1"), Some(r#"{"A":10,"B":1}"#));
    host.handle(testing::custom(custom::RECEIVED, "A", r#"{"sku": "A", "quantity": 20}"#)).unwrap();
    assert_eq!(host.counts(), [("stock/A", 14), ("stock/B", 99)]);
}

#[test]
fn cancelling_gives_back_what_was_taken_once() {
    let mut host = host(&[("A", 100), ("B", 100)]);
    host.handle(testing::placed(order("o-1", &[("A", 4), ("B", 1)]))).unwrap();
    for _repeat in 0..2 {
        host.handle(cancelled("o-1")).unwrap();
        assert_eq!(host.counts(), [("stock/A", 100), ("stock/B", 100)]);
    }
    assert_eq!(host.entry_keys(), [""; 0]);
}

#[test]
fn cancelling_an_order_that_took_nothing_gives_nothing_back() {
    let mut host = host(&[("A", 100)]);
    host.handle(cancelled("o-1")).unwrap();
    assert_eq!(host.counts(), [("stock/A", 100)]);
}

#[test]
fn low_stock_is_told_once_per_crossing() {
    let mut host = host(&[("A", 13)]);
    let buy = |host: &mut Host<Inventory>, id: &str, units| {
        host.handle(testing::placed(order(id, &[("A", units)]))).unwrap();
        host.published().len()
    };
    assert_eq!(buy(&mut host, "o-1", 3), 0, "10 left is not below 10");
    assert_eq!(buy(&mut host, "o-2", 1), 1);
    assert_eq!(host.published()[0].data, r#"{"left":9,"sku":"A","threshold":10}"#);
    assert_eq!(host.published()[0].subject, "A");
    assert_eq!(buy(&mut host, "o-3", 1), 1);
    host.handle(testing::custom(custom::RECEIVED, "A", r#"{"sku": "A", "quantity": 1}"#)).unwrap();
    assert_eq!(buy(&mut host, "o-4", 1), 1, "9 left: it never rose to 10");
    host.handle(cancelled("o-2")).unwrap();
    host.handle(cancelled("o-3")).unwrap();
    assert_eq!((host.count("stock/A"), host.entry("low/A")), (10, None));
    assert_eq!(buy(&mut host, "o-5", 1), 2);
}

#[test]
fn only_the_skus_that_became_low_are_told() {
    let mut host = host(&[("A", 12), ("B", 100), ("C", 10)]);
    host.handle(testing::placed(order("o-1", &[("A", 3), ("B", 3), ("C", 10)]))).unwrap();
    let subjects: Vec<_> = host.published().iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(subjects, ["A", "C"]);
    assert_eq!(host.counts(), [("stock/A", 9), ("stock/B", 97), ("stock/C", 0)]);
}

#[test]
fn the_threshold_is_a_setting() {
    let mut host = host(&[("A", 10)]);
    host.set_setting("low_stock", "0");
    host.handle(testing::placed(order("o-1", &[("A", 10)]))).unwrap();
    assert!(host.published().is_empty());
    host.set_setting("low_stock", "few");
    let failure = host.handle(testing::placed(order("o-2", &[("A", 1)]))).unwrap_err();
    assert_eq!(
        failure,
        Failure::retry(r#"settings.low_stock: must be a whole number from 0 to 4294967295, not "few""#)
    );
}

#[test]
fn a_lowered_threshold_is_crossed_anew() {
    let mut host = host(&[("A", 10)]);
    host.handle(testing::placed(order("o-1", &[("A", 1)]))).unwrap();
    host.set_setting("low_stock", "5");
    host.handle(testing::placed(order("o-2", &[("A", 1)]))).unwrap();
    assert_eq!(host.published().len(), 1);
    host.handle(testing::placed(order("o-3", &[("A", 4)]))).unwrap();
    assert_eq!(host.published().len(), 2);
    assert_eq!(host.entry("low/A"), Some("5"));
}

#[test]
fn counting_sets_the_stock_and_tells_if_it_is_low() {
    let mut host = host(&[("A", 3)]);
    let count = |host: &mut Host<Inventory>, quantity| {
        let data = format!(r#"{{"sku": "A", "quantity": {quantity}}}"#);
        host.handle(testing::custom(custom::COUNTED, "A", &data)).unwrap();
        assert_eq!(host.count("stock/A"), quantity);
        host.published().len()
    };
    assert_eq!(count(&mut host, 40), 0);
    assert_eq!(count(&mut host, 0), 1);
    assert_eq!(count(&mut host, 9), 1);
    assert_eq!(count(&mut host, 10), 1);
    assert_eq!(count(&mut host, 9), 2);
}

#[test]
fn bad_reports_are_rejected_by_field() {
    let mut host = host(&[]);
    for (kind, data, field) in [
        (custom::RECEIVED, r#"{"quantity": 1}"#, "data.sku"),
        (custom::RECEIVED, r#"{"sku": 7, "quantity": 1}"#, "data.sku"),
        (custom::RECEIVED, r#"{"sku": "A", "quantity": 0}"#, "data.quantity"),
        (custom::RECEIVED, r#"{"sku": "A", "quantity": 1.5}"#, "data.quantity"),
        (custom::COUNTED, r#"{"sku": "A", "quantity": -1}"#, "data.quantity"),
        (custom::COUNTED, r#"{"sku": "A", "quantity": 9223372036854775807}"#, "data.quantity"),
        (custom::COUNTED, r#"{"sku": "A"}"#, "data.quantity"),
        (custom::COUNTED, "[]", "data"),
        (custom::COUNTED, "{", "data"),
    ] {
        let Err(Failure::Reject(reason)) = host.handle(testing::custom(kind, "A", data)) else {
            panic!("{kind} with {data} was not rejected")
        };
        assert!(reason.starts_with(&format!("{field}: ")), "{data}: {reason}");
    }
    assert!(host.counts().is_empty());
}
