use fanfare_sdk::testing::{self, Host, OrderBuilder};

use super::*;

fn order(id: &str, amount: i64) -> OrderBuilder {
    testing::order(id).line("A", 1, amount)
}

fn confirmed(order: OrderBuilder) -> Event {
    testing::changed(order.status(Status::Confirmed).build(), Change::Confirmed)
}

fn cancelled(order: OrderBuilder) -> Event {
    testing::changed(order.status(Status::Cancelled).build(), Change::Cancelled(String::new()))
}

#[test]
fn each_whole_unit_of_the_currency_earns_a_point() {
    let mut host = Host::<Loyalty>::default();
    host.handle(confirmed(order("o-1", 16_899))).unwrap();
    assert_eq!(host.count("points/VINET"), 168);
    host.handle(confirmed(order("o-2", 500).currency("JPY"))).unwrap();
    assert_eq!(host.count("points/VINET"), 668);
    host.handle(confirmed(order("o-3", 2_999).currency("KWD"))).unwrap();
    assert_eq!(host.count("points/VINET"), 670);
    assert_eq!(
        host.entry("ledger/VINET/o-1"),
        Some(r#"{"points":168,"currency":"USD","total_amount":16899,"reversed":false}"#)
    );
}

#[test]
fn points_are_never_granted_twice() {
    let mut host = Host::<Loyalty>::default();
    host.handle(confirmed(order("o-1", 1_000))).unwrap();
    host.handle(confirmed(order("o-1", 1_000))).unwrap();
    assert_eq!(host.counts(), [("points/VINET", 10)]);
}

#[test]
fn a_cancelled_order_gives_up_exactly_what_it_earned_once() {
    let mut host = Host::<Loyalty>::default();
    host.set_setting("points_per_unit", "3");
    host.handle(confirmed(order("o-1", 1_050))).unwrap();
    host.handle(confirmed(order("o-2", 200))).unwrap();
    assert_eq!(host.count("points/VINET"), 36);
    // The rate of today does not matter to what was earned yesterday.
    host.set_setting("points_per_unit", "1");
    for _repeat in 0..2 {
        host.handle(cancelled(order("o-1", 1_050))).unwrap();
        assert_eq!(host.count("points/VINET"), 6);
    }
    host.handle(confirmed(order("o-1", 1_050))).unwrap();
    assert_eq!(host.count("points/VINET"), 6);
}

#[test]
fn an_order_cancelled_before_it_was_confirmed_earns_nothing() {
    let mut host = Host::<Loyalty>::default();
    host.handle(cancelled(order("o-1", 1_000))).unwrap();
    host.handle(confirmed(order("o-1", 1_000))).unwrap();
    assert_eq!(host.count("points/VINET"), 0);
    assert_eq!(host.entry_keys(), ["ledger/VINET/o-1"]);
}

#[test]
fn the_tier_follows_the_points_up_and_down() {
    let mut host = Host::<Loyalty>::default();
    host.handle(confirmed(order("o-1", 99_900))).unwrap();
    assert_eq!(host.entry("tier/VINET"), None);
    host.handle(confirmed(order("o-2", 100))).unwrap();
    assert_eq!(host.entry("tier/VINET"), Some("silver"));
    host.handle(confirmed(order("o-3", 400_000))).unwrap();
    assert_eq!(host.entry("tier/VINET"), Some("gold"));
    host.handle(cancelled(order("o-2", 100))).unwrap();
    assert_eq!(host.entry("tier/VINET"), Some("silver"));
    host.handle(cancelled(order("o-3", 400_000))).unwrap();
    assert_eq!(host.entry("tier/VINET"), None);
}

#[test]
fn customers_have_accounts_of_their_own() {
    let mut host = Host::<Loyalty>::default();
    host.handle(confirmed(order("o-1", 1_000))).unwrap();
    host.handle(confirmed(order("o-2", 2_000).customer("HANAR", None, None))).unwrap();
    assert_eq!(host.counts(), [("points/HANAR", 20), ("points/VINET", 10)]);
}

#[test]
fn a_wrong_rate_waits_for_the_operator() {
    let mut host = Host::<Loyalty>::default();
    host.set_setting("points_per_unit", "1.5");
    let failure = host.handle(confirmed(order("o-1", 1_000))).unwrap_err();
    assert_eq!(
        failure,
        Failure::retry(r#"settings.points_per_unit: must be a whole number from 0 to 1000, not "1.5""#)
    );
    assert!(host.entry_keys().is_empty());
}
