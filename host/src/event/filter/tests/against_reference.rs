//! Against an implementation that is as simple as it can be, over the JSON as it stands.

use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::Filter;
use super::matches;

fn reference(policy: &Map<String, Value>, places: &[&Value]) -> bool {
    policy.iter().all(|(key, asked)| match asked {
        Value::Array(objects) if key == "$or" && objects.len() >= 2 && objects.iter().all(|it| !is_operator(it)) => {
            objects.iter().any(|object| reference(object.as_object().unwrap(), places))
        }
        asked => {
            let below: Vec<&Value> =
                places.iter().flat_map(|place| elements(place)).filter_map(|it| it.get(key)).collect();
            match asked {
                Value::Object(object) => reference(object, &below),
                Value::Array(values) => values.iter().any(|value| holds(value, &below)),
                other => panic!("{other}"),
            }
        }
    })
}

fn is_operator(value: &Value) -> bool {
    let names = ["prefix", "suffix", "equals-ignore-case", "wildcard", "anything-but", "numeric", "cidr", "exists"];
    value.as_object().is_none_or(|object| object.keys().any(|key| names.contains(&key.as_str())))
}

/// Lists, and lists in lists, as what stands in them.
fn elements(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().flat_map(elements).collect(),
        other => vec![other],
    }
}

fn holds(asked: &Value, places: &[&Value]) -> bool {
    let leaves: Vec<&Value> = places.iter().flat_map(|place| elements(place)).filter(|it| !it.is_object()).collect();
    match asked.get("exists") {
        Some(wanted) => *wanted == json!(!leaves.is_empty()),
        None => leaves.iter().any(|leaf| fits(asked, leaf)),
    }
}

fn fits(asked: &Value, leaf: &Value) -> bool {
    let Value::Object(operator) = asked else { return equal(asked, leaf) };
    let (name, operand) = operator.iter().next().unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    match (name.as_str(), operand, leaf) {
        ("anything-but", Value::Object(inner), leaf) => {
            let (name, operand) = inner.iter().next().unwrap();
            !list(operand).iter().any(|operand| fits(&json!({ name: operand }), leaf))
        }
        ("anything-but", values, leaf) => !list(values).iter().any(|value| equal(value, leaf)),
        ("prefix", Value::String(operand), Value::String(leaf)) => leaf.starts_with(operand),
        ("suffix", Value::String(operand), Value::String(leaf)) => leaf.ends_with(operand),
        ("equals-ignore-case", Value::String(operand), Value::String(leaf)) => {
            leaf.to_lowercase() == operand.to_lowercase()
        }
        ("wildcard", Value::String(operand), Value::String(leaf)) => glob(operand.as_bytes(), leaf.as_bytes()),
        ("cidr", Value::String(operand), Value::String(leaf)) => {
            let (network, length) = operand.split_once('/').unwrap();
            let bits = |address: &str| match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) => format!("{:032b}", address.to_bits()),
                Ok(IpAddr::V6(address)) => format!("{:0128b}", address.to_bits()),
                Err(_) => String::new(),
            };
            let (network, leaf) = (bits(network), bits(leaf));
            network.len() == leaf.len() && leaf.starts_with(&network[..length.parse().unwrap()])
        }
        ("numeric", Value::Array(bounds), Value::Number(_)) => bounds.chunks(2).all(|bound| {
            let (value, against) = (fixed(leaf), fixed(&bound[1]));
            match bound[0].as_str().unwrap() {
                "=" => value == against,
                "<" => value < against,
                "<=" => value <= against,
                ">" => value > against,
                _ => value >= against,
            }
        }),
        _ => false,
    }
}

fn equal(asked: &Value, leaf: &Value) -> bool {
    if asked.is_number() && leaf.is_number() { fixed(asked) == fixed(leaf) } else { asked == leaf }
}

fn fixed(number: &Value) -> i128 {
    (number.as_f64().unwrap() * 100_000.0).round() as i128
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        Some((letter, rest)) => text.first() == Some(letter) && glob(rest, &text[1..]),
    }
}

fn word() -> impl Strategy<Value = String> {
    "[abA]{0,3}"
}

fn number() -> impl Strategy<Value = Value> {
    (-4_i32..5).prop_map(|halves| if halves % 2 == 0 { json!(halves / 2) } else { json!(f64::from(halves) / 2.0) })
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        (0_u8..4).prop_map(|last| format!("10.0.0.{last}")),
        (0_u8..4).prop_map(|last| format!("2001:db8::{last}"))
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        word().prop_map(Value::from),
        address().prop_map(Value::from),
    ]
}

fn key() -> impl Strategy<Value = String> {
    "[abc]"
}

fn body() -> impl Strategy<Value = Value> {
    let value = leaf().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(key(), value, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn asked() -> impl Strategy<Value = Value> {
    let negated = prop_oneof![
        word().prop_map(Value::from),
        number(),
        prop::collection::vec(number(), 1..3).prop_map(Value::from),
        ("prefix|suffix", "[ab]{1,2}").prop_map(|(name, text)| json!({ name: text })),
        prop::collection::vec("[ab]", 1..3).prop_map(|texts| json!({ "prefix": texts })),
        "a?\\*?b?".prop_filter("not empty", |text| !text.is_empty()).prop_map(|text| json!({ "wildcard": text })),
    ];
    prop_oneof![
        4 => leaf(),
        2 => ("prefix|suffix|equals-ignore-case", word()).prop_map(|(name, text)| json!({ name: text })),
        1 => "a?\\*?[ab]?\\*?b?".prop_filter("no two side by side", |text| !text.contains("**"))
            .prop_map(|text| json!({ "wildcard": text })),
        1 => negated.prop_map(|operand| json!({ "anything-but": operand })),
        1 => ("=|<|<=|>|>=", number()).prop_map(|(sign, number)| json!({ "numeric": [sign, number] })),
        1 => (">|>=", "<|<=", -4_i32..4, 1_i32..5)
            .prop_map(|(lower, upper, from, by)| json!({ "numeric": [lower, from, upper, from + by] })),
        1 => prop_oneof![Just("10.0.0.0/31"), Just("10.0.0.2/32"), Just("2001:db8::/127"), Just("0.0.0.0/0")]
            .prop_map(|network| json!({ "cidr": network })),
        1 => any::<bool>().prop_map(|wanted| json!({ "exists": wanted })),
    ]
}

fn policy() -> impl Strategy<Value = Map<String, Value>> {
    let values = prop::collection::vec(asked(), 1..3).prop_map(Value::from);
    let object = |inner: BoxedStrategy<Value>| {
        let keys = prop::collection::btree_map(key(), inner.clone(), 1..3);
        let alternatives = prop::collection::vec(prop::collection::btree_map(key(), inner, 1..3), 2..4);
        (keys, prop::option::weighted(0.3, alternatives)).prop_map(|(keys, alternatives)| {
            let mut object: Map<String, Value> = keys.into_iter().collect();
            if let Some(alternatives) = alternatives {
                object.insert("$or".to_owned(), json!(alternatives));
            }
            Value::Object(object)
        })
    };
    let value = values.prop_recursive(2, 8, 2, move |inner| prop_oneof![inner.clone(), object(inner)]);
    object(value.boxed()).prop_map(|value| value.as_object().unwrap().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 1_000_000, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn matching_agrees_with_the_reference(policy in policy(), body in body()) {
        let asked = Value::Object(policy.clone());
        // Some are too complex, and some ask for both of `exists`; every other is a policy.
        match Filter::parse(&asked.to_string()) {
            Ok(_) => prop_assert_eq!(matches(&asked, &body), reference(&policy, &[&body]), "{} on {}", asked, body),
            Err(error) => {
                let told = error.to_string();
                prop_assert!(told.contains("combinations") || told.contains("keys hold") || told.contains("together"), "{}", told);
                return Err(TestCaseError::reject("no policy"));
            }
        }
    }

    #[test]
    fn reading_never_panics(text in "\\PC{0,200}", json in body()) {
        let _ = Filter::parse(&text);
        let _ = Filter::parse(&json.to_string());
    }

    #[test]
    fn reading_something_like_a_policy_never_panics(name in "[a-z$-]{1,12}", operand in body(), letters in "[*\\\\a\"]{0,8}") {
        for operand in [operand, json!(letters)] {
            for policy in [json!({"a": [{ &name: &operand }]}), json!({ &name: [&operand] }), json!({"a": [{"anything-but": { &name: &operand }}]})] {
                let _ = Filter::parse(&policy.to_string());
            }
        }
        for operator in ["wildcard", "cidr", "prefix"] {
            let _ = Filter::parse(&json!({"a": [{ operator: &letters }]}).to_string());
        }
    }
}
