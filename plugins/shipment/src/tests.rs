use fanfare_sdk::http::Response;
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

fn with_carrier() -> Host<Shipment> {
    let mut host = Host::<Shipment>::default();
    host.set_setting("carriers", "* https://api.carrier.example/v1/ CARRIER_TOKEN");
    host
}

fn booked() -> Response {
    Response::new(201)
        .with_body(r#"{"carrier":"acme","tracking_number":"AC1","tracking_url":"https://acme.example/AC1"}"#)
}

#[test]
fn a_carrier_is_asked_for_a_parcel_and_names_its_tracking() {
    let mut host = with_carrier();
    host.answer(booked());
    host.handle(confirmed("o-1")).unwrap();
    let [request] = host.requests() else { panic!("one call: {:?}", host.requests()) };
    assert_eq!((&*request.method, &*request.url), ("POST", "https://api.carrier.example/v1/parcels"));
    let bearer = ("authorization".to_owned(), "Bearer {{secret:CARRIER_TOKEN}}".to_owned());
    assert!(request.headers.contains(&bearer), "{:?}", request.headers);
    let body = r#"{"reference":"o-1","order":"o-1","recipient":{"name":"Paul Henriot","line1":"59 rue de l'Abbaye","line2":null,"city":"Reims","region":null,"postal_code":"51100","country":"FR","phone":null},"items":[{"sku":"A","title":"Title of A","quantity":1}]}"#;
    assert_eq!(String::from_utf8_lossy(&request.body), body);
    let [(_, Change::Shipped(parcel))] = host.changes() else { panic!("one parcel: {:?}", host.changes()) };
    assert_eq!((&*parcel.carrier, &*parcel.tracking_number), ("acme", "AC1"));
    assert_eq!(parcel.tracking_url.as_deref(), Some("https://acme.example/AC1"));
    let entry =
        r#"{"carrier":"acme","tracking_number":"AC1","tracking_url":"https://acme.example/AC1","country":"FR"}"#;
    assert_eq!(host.entry("consignment/o-1"), Some(entry));
}

#[test]
fn what_a_carrier_does_not_want_is_rejected_and_what_it_cannot_now_is_tried_again() {
    let ends = |response: Response| {
        let mut host = with_carrier();
        host.answer(response);
        let failure = host.handle(confirmed("o-1")).unwrap_err();
        assert!(host.changes().is_empty() && host.entry_keys().is_empty());
        failure
    };
    let problem = ends(Response::new(422).with_body(r#"{"title":"No","detail":"Reims is not served"}"#));
    assert_eq!(problem, Failure::reject("https://api.carrier.example/v1/ answered 422: Reims is not served"));
    for status in [301, 400, 401, 404] {
        assert!(matches!(ends(Response::new(status)), Failure::Reject(_)), "{status}");
    }
    for status in [408, 425, 429, 500, 503] {
        assert!(matches!(ends(Response::new(status)), Failure::Retry(_)), "{status}");
    }
    let later = ends(Response::new(429).with_header("retry-after", "7"));
    assert_eq!(later, Failure::retry_after_ms(7_000, "https://api.carrier.example/v1/ answered 429: "));
    assert!(matches!(ends(Response::new(200).with_body("{}")), Failure::Retry(_)), "the parcel is booked: ask again");
}

#[test]
fn a_carrier_that_does_not_answer_is_asked_again() {
    let mut host = with_carrier();
    host.answer_nothing("no response in time");
    assert!(matches!(host.handle(confirmed("o-1")), Err(Failure::Retry(_))));
    host.answer(booked());
    host.handle(confirmed("o-1")).unwrap();
    assert_eq!((host.requests().len(), host.changes().len()), (2, 1));
}

#[test]
fn no_parcel_is_booked_for_an_order_that_cannot_have_one() {
    let mut host = with_carrier();
    host.set_order(order("o-1", Status::Cancelled));
    host.handle(confirmed("o-1")).unwrap();
    let nowhere = testing::order("o-2").status(Status::Confirmed).build();
    let refused = host.handle(testing::changed(nowhere, Change::Confirmed)).unwrap_err();
    assert_eq!(refused, Failure::reject("order o-2 has no shipping address"));
    assert!(host.requests().is_empty());
}
