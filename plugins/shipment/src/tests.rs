use fanfare_sdk::testing::{self, Host};

use super::*;

fn confirmed(id: &str) -> Event {
    testing::changed(order(id, Status::Confirmed), Change::Confirmed)
}

fn cancelled(id: &str) -> Event {
    testing::changed(order(id, Status::Cancelled), Change::Cancelled("changed my mind".to_owned()))
}

fn order(id: &str, status: Status) -> Order {
    testing::order(id).line("A", 1, 100).country("FR").status(status).build()
}

#[test]
fn a_confirmed_order_is_shipped_with_its_consignment_number() {
    let mut host = Host::<Shipment>::default();
    host.handle(confirmed("o-1")).unwrap();
    let [(id, Change::Shipped(parcel))] = host.changes() else { panic!("one parcel: {:?}", host.changes()) };
    assert_eq!((id.as_str(), parcel.carrier.as_str(), &parcel.tracking_url), ("o-1", "local", &None));
    let entry = format!(r#"{{"carrier":"local","tracking_number":"{}","country":"FR"}}"#, parcel.tracking_number);
    assert_eq!(host.entry("consignment/o-1"), Some(entry.as_str()));
}

#[test]
fn a_repeat_makes_no_second_parcel() {
    let mut host = Host::<Shipment>::default();
    host.handle(confirmed("o-1")).unwrap();
    host.handle(confirmed("o-1")).unwrap();
    assert_eq!(host.changes().len(), 1);
}

#[test]
fn different_orders_have_different_numbers() {
    let number = |id| Consignment::local(&order(id, Status::Confirmed)).tracking_number;
    assert_ne!(number("o-1"), number("o-2"));
    assert_eq!(number("o-1"), number("o-1"));
}

#[test]
fn an_order_cancelled_meanwhile_is_not_shipped() {
    let mut host = Host::<Shipment>::default();
    host.set_order(order("o-1", Status::Cancelled));
    host.handle(confirmed("o-1")).unwrap();
    assert!(host.changes().is_empty() && host.entry_keys().is_empty());
}

#[test]
fn a_late_confirmation_of_a_cancelled_order_does_nothing() {
    let mut host = Host::<Shipment>::default();
    host.handle(cancelled("o-1")).unwrap();
    assert_eq!(host.entry_keys(), ["cancelled/o-1"]);
    // Even if the journal would let it.
    host.set_order(order("o-1", Status::Confirmed));
    host.handle(confirmed("o-1")).unwrap();
    assert!(host.changes().is_empty());
    assert_eq!(host.entry_keys(), ["cancelled/o-1"]);
}

#[test]
fn an_order_without_an_address_has_no_country() {
    let order = testing::order("o-1").status(Status::Confirmed).build();
    assert_eq!(Consignment::local(&order).country, None);
}
