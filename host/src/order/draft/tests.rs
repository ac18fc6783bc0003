use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "reference": "NW-10248",
        "currency": "USD",
        "customer": {"id": "VINET", "name": "Vins et alcools", "email": "vinet@example.com", "phone": "26.47.15.10"},
        "lines": [
            {"sku": "NW-11", "title": "Queso Cabrales", "quantity": 12, "unit_amount": 1400},
            {"sku": "NW-42", "quantity": 10, "unit_amount": 980, "discount_amount": 300}
        ],
        "shipping_address": {"name": "Vins et alcools", "line1": "59 rue de l'Abbaye", "city": "Reims",
                             "postal_code": "51100", "country": "FR"},
        "metadata": {"channel": "web"}
    })
}

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn check(order: &Value, mode: Mode) -> Result<CheckedOrder, Vec<FieldError>> {
    serde_json::from_value::<Draft>(order.clone()).unwrap().check(now(), mode)
}

/// The good order with the value at `pointer` replaced, or taken out for `null`.
fn with(pointer: &str, value: Value) -> Value {
    let mut order = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = order.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(fields), Value::Null) => drop(fields.remove(key)),
        (Value::Object(fields), value) => drop(fields.insert(key.to_owned(), value)),
        (Value::Array(items), value) => items[key.parse::<usize>().unwrap()] = value,
        _ => unreachable!("{pointer} has no parent"),
    }
    order
}

#[test]
fn a_good_order_is_summed_by_the_host() {
    let checked = check(&good(), Mode::Submit).unwrap();
    assert_eq!(checked.content.total_amount, 12 * 1400 + 10 * 980 - 300);
    assert_eq!(checked.content.lines[0].discount_amount, 0);
    assert_eq!(checked.placed_at, None);
}

#[test]
fn every_fault_names_its_field() {
    let line = json!({"sku": "A", "quantity": 1, "unit_amount": 1});
    let cases = [
        ("/reference", json!(""), "reference"),
        ("/reference", json!("x".repeat(129)), "reference"),
        ("/placed_at", json!("2026-01-01T00:00:00Z"), "placed_at"),
        ("/currency", Value::Null, "currency"),
        ("/currency", json!("usd"), "currency"),
        ("/currency", json!("XYZ"), "currency"),
        ("/customer", Value::Null, "customer"),
        ("/customer/id", Value::Null, "customer.id"),
        ("/customer/id", json!("  "), "customer.id"),
        ("/customer/name", json!("a\nBcc: everyone@example.com"), "customer.name"),
        ("/customer/email", json!("nobody"), "customer.email"),
        ("/customer/email", json!("a b@example.com"), "customer.email"),
        ("/customer/phone", json!("1".repeat(41)), "customer.phone"),
        ("/lines", Value::Null, "lines"),
        ("/lines", json!([]), "lines"),
        ("/lines", json!(vec![line; 501]), "lines"),
        ("/lines/0/sku", Value::Null, "lines[0].sku"),
        ("/lines/1/sku", json!(""), "lines[1].sku"),
        ("/lines/0/quantity", Value::Null, "lines[0].quantity"),
        ("/lines/0/quantity", json!(0), "lines[0].quantity"),
        ("/lines/0/quantity", json!(-1), "lines[0].quantity"),
        ("/lines/0/quantity", json!(4_294_967_296_i64), "lines[0].quantity"),
        ("/lines/0/unit_amount", Value::Null, "lines[0].unit_amount"),
        ("/lines/0/unit_amount", json!(-1), "lines[0].unit_amount"),
        ("/lines/0/unit_amount", json!(1_i64 << 53), "lines[0].unit_amount"),
        ("/lines/0/unit_amount", json!(AMOUNT_MAX), "lines[0]"),
        ("/lines/0/discount_amount", json!(-1), "lines[0].discount_amount"),
        ("/lines/0/discount_amount", json!(16_801), "lines[0].discount_amount"),
        ("/total_amount", json!(1), "total_amount"),
        ("/shipping_address/name", Value::Null, "shipping_address.name"),
        ("/shipping_address/line1", json!(""), "shipping_address.line1"),
        ("/shipping_address/city", Value::Null, "shipping_address.city"),
        ("/shipping_address/country", json!("fr"), "shipping_address.country"),
        ("/shipping_address/country", Value::Null, "shipping_address.country"),
        ("/metadata/channel", json!("x".repeat(501)), "metadata.channel"),
        ("/metadata/channel", json!("a\u{0}b"), "metadata.channel"),
        ("/metadata", json!({"": "x"}), "metadata"),
        ("/metadata", json!((0..51).map(|n| (n.to_string(), "x")).collect::<BTreeMap<_, _>>()), "metadata"),
    ];
    for (pointer, value, field) in cases {
        let faults = check(&with(pointer, value.clone()), Mode::Submit).unwrap_err();
        assert_eq!(faults.iter().map(|fault| &*fault.field).collect::<Vec<_>>(), [field], "{pointer} = {value}");
    }
}

#[test]
fn all_faults_are_reported_together_and_bounded() {
    let faults = check(&json!({"currency": "usd", "lines": [{"quantity": 0}]}), Mode::Submit).unwrap_err();
    insta::assert_json_snapshot!(faults);

    let bad_line = json!({"quantity": 0, "unit_amount": -1});
    let faults = check(&with("/lines", json!(vec![bad_line; 100])), Mode::Submit).unwrap_err();
    assert_eq!(faults.len(), FAULTS_MAX);
}

#[test]
fn a_total_that_agrees_is_accepted() {
    let total = 12 * 1400 + 10 * 980 - 300;
    assert_eq!(check(&with("/total_amount", json!(total)), Mode::Submit).unwrap().content.total_amount, total);
}

#[test]
fn an_empty_optional_text_counts_as_absent() {
    let checked = check(&with("/shipping_address/line2", json!("")), Mode::Submit).unwrap();
    assert_eq!(checked.content.shipping_address.unwrap().line2, None);
}

#[test]
fn a_time_in_the_past_is_taken_on_import_only() {
    let past = with("/placed_at", json!("1996-07-04T00:00:00Z"));
    let placed_at = check(&past, Mode::Import).unwrap().placed_at;
    assert_eq!(placed_at, Some("1996-07-04T00:00:00Z".parse().unwrap()));
    for bad in ["2026-11-22T10:00:00.001Z", "yesterday", "1969-07-04T00:00:00Z"] {
        let faults = check(&with("/placed_at", json!(bad)), Mode::Import).unwrap_err();
        assert_eq!(faults[0].field, "placed_at", "{bad}");
    }
}

#[test]
fn a_fingerprint_is_of_what_is_said_and_not_of_how() {
    let fingerprint = |order: &Value, mode| check(order, mode).unwrap().fingerprint;
    let plain = fingerprint(&good(), Mode::Submit);
    assert_eq!(plain, fingerprint(&with("/lines/0/discount_amount", json!(0)), Mode::Submit));
    assert_eq!(plain, fingerprint(&good(), Mode::Import));
    assert_ne!(plain, fingerprint(&with("/lines/0/quantity", json!(11)), Mode::Submit));
    let dated = |at: &str| fingerprint(&with("/placed_at", json!(at)), Mode::Import);
    assert_ne!(plain, dated("1996-07-04T00:00:00Z"));
    assert_ne!(dated("1996-07-05T00:00:00Z"), dated("1996-07-04T00:00:00Z"));
}

#[test]
fn two_values_under_one_name_are_refused() {
    for twice in [r#"{"metadata":{"a":"1","b":"2","a":"3"}}"#, r#"{"currency":"EUR","currency":"USD"}"#] {
        let error = serde_json::from_str::<Draft>(twice).unwrap_err();
        assert!(error.to_string().starts_with("duplicate field `"), "{error}");
    }
}

proptest! {
    #[test]
    fn a_sum_is_exact_or_refused(
        lines in prop::collection::vec((1_i64..=5_000_000_000, 0_i64..=AMOUNT_MAX, 0_i64..=AMOUNT_MAX), 1..8),
    ) {
        let drafts: Vec<_> = lines
            .iter()
            .map(|(q, u, d)| json!({"sku": "A", "quantity": q, "unit_amount": u, "discount_amount": d}))
            .collect();
        let exact: i128 = lines.iter().map(|(q, u, d)| i128::from(*q) * i128::from(*u) - i128::from(*d)).sum();
        let legal = lines.iter().all(|(q, u, d)| {
            let gross = i128::from(*q) * i128::from(*u);
            *q <= i64::from(u32::MAX) && gross <= i128::from(AMOUNT_MAX) && i128::from(*d) <= gross
        }) && exact <= i128::from(AMOUNT_MAX);
        match check(&with("/lines", json!(drafts)), Mode::Submit) {
            Ok(checked) => {
                prop_assert!(legal);
                prop_assert_eq!(i128::from(checked.content.total_amount), exact);
            }
            Err(_) => prop_assert!(!legal),
        }
    }

    #[test]
    fn small_sums_are_exact(
        lines in prop::collection::vec((1_i64..=1000, 0_i64..=1_000_000), 1..500),
    ) {
        let drafts: Vec<_> =
            lines.iter().map(|(q, u)| json!({"sku": "A", "quantity": q, "unit_amount": u})).collect();
        let exact: i64 = lines.iter().map(|(q, u)| q * u).sum();
        let checked = check(&with("/lines", json!(drafts)), Mode::Submit).unwrap();
        prop_assert_eq!(checked.content.total_amount, exact);
    }
}
