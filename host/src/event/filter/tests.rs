use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Filter, KEYS_MAX};

mod against_reference;
mod refusals;

/// Checks both ways of looking at a body.
#[track_caller]
fn matches(policy: &Value, body: &Value) -> bool {
    let filter = Filter::parse(&policy.to_string()).unwrap();
    let raw = RawValue::from_string(body.to_string()).unwrap();
    let matched = filter.matches(body);
    assert_eq!(filter.matches_json(&raw), matched, "{policy} on {body}");
    matched
}

/// A policy, bodies that it matches, and bodies that it does not.
type Vector = (Value, Vec<Value>, Vec<Value>);

#[track_caller]
fn check(vectors: Vec<Vector>) {
    for (policy, matching, others) in vectors {
        for body in matching {
            assert!(matches(&policy, &body), "{policy} should match {body}");
        }
        for body in others {
            assert!(!matches(&policy, &body), "{policy} should not match {body}");
        }
    }
}

/// The examples of the pages "String value matching", "Numeric value matching", "Key matching" and "AND/OR logic" of
/// the SNS developer guide.
#[test]
fn the_examples_of_the_documentation_hold() {
    let interest = |value: Value| json!({ "customer_interests": value });
    let price = |value: Value| json!({ "price": value });
    check(vec![
        (
            json!({"customer_interests": ["rugby", "tennis"]}),
            vec![interest(json!("rugby")), interest(json!("tennis")), interest(json!(["rugby", "tennis"]))],
            vec![interest(json!("baseball")), interest(json!(["baseball"]))],
        ),
        (
            json!({"customer_interests": [{"anything-but": ["rugby", "tennis"]}]}),
            vec![interest(json!("baseball")), interest(json!("football")), interest(json!(["rugby", "baseball"]))],
            vec![interest(json!("rugby")), interest(json!(["rugby"])), json!({})],
        ),
        (
            json!({"event": [{"anything-but": {"prefix": "order-"}}]}),
            vec![json!({"event": "data-entry"}), json!({"event": "order_number"})],
            vec![json!({"event": "order-cancelled"})],
        ),
        (
            json!({"customer_interests": [{"anything-but": {"wildcard": "*ball"}}]}),
            vec![interest(json!(["hockey", "rugby", "soccer"]))],
            vec![interest(json!(["baseball", "basketball"]))],
        ),
        (
            json!({"customer_interests": [{"anything-but": {"suffix": "ball"}}]}),
            vec![interest(json!(["hockey", "rugby", "soccer"]))],
            vec![interest(json!(["baseball", "basketball"]))],
        ),
        (
            json!({"customer_interests": [{"equals-ignore-case": "tennis"}]}),
            vec![interest(json!("TENNIS")), interest(json!("teNnis"))],
            vec![interest(json!("tennis "))],
        ),
        (
            json!({"source_ip": [{"cidr": "10.0.0.0/24"}]}),
            vec![json!({"source_ip": "10.0.0.0"}), json!({"source_ip": "10.0.0.255"})],
            vec![json!({"source_ip": "10.1.1.0"})],
        ),
        (
            json!({"customer_interests": [{"prefix": "bas"}]}),
            vec![interest(json!("baseball")), interest(json!("basketball"))],
            vec![interest(json!("rugby"))],
        ),
        (
            json!({"customer_interests": [{"suffix": "ball"}]}),
            vec![interest(json!("baseball")), interest(json!("basketball"))],
            vec![interest(json!("rugby"))],
        ),
        (
            json!({"customer_interests": [{"wildcard": "*ball"}]}),
            vec![interest(json!(["baseball", "basketball"]))],
            vec![interest(json!("balls"))],
        ),
        (
            json!({"price_usd": [{"numeric": ["=", 301.5]}]}),
            vec![json!({"price_usd": 301.5}), json!({"price_usd": 3.015e2})],
            vec![json!({"price_usd": 301}), json!({"price_usd": "301.5"})],
        ),
        (
            json!({"price": [{"anything-but": [100, 500]}]}),
            vec![price(json!(101)), price(json!(100.1)), price(json!([100, 50]))],
            vec![price(json!(100)), price(json!([100, 500]))],
        ),
        (
            json!({"price_usd": [{"numeric": ["<", 0]}]}),
            vec![json!({"price_usd": -0.1})],
            vec![json!({"price_usd": 0})],
        ),
        (
            json!({"price_usd": [{"numeric": [">", 0, "<=", 150]}]}),
            vec![json!({"price_usd": 0.00001}), json!({"price_usd": 150})],
            vec![json!({"price_usd": 0}), json!({"price_usd": 150.1})],
        ),
        (
            json!({"store": [{"exists": true}]}),
            vec![json!({"store": "fans"})],
            vec![json!({"customer_interests": ["baseball"]})],
        ),
        (
            json!({"store": [{"exists": false}]}),
            vec![json!({"customer_interests": ["baseball"]}), json!({})],
            vec![json!({"store": "fans"})],
        ),
        (
            json!({"customer_interests": ["rugby"], "price_usd": [{"numeric": [">", 100]}]}),
            vec![json!({"customer_interests": "rugby", "price_usd": 101})],
            vec![
                json!({"customer_interests": "rugby", "price_usd": 100}),
                json!({"customer_interests": "tennis", "price_usd": 101}),
                json!({"customer_interests": "rugby"}),
            ],
        ),
        (
            json!({"source": ["aws.cloudwatch"],
                   "$or": [{"metricName": ["CPUUtilization"]}, {"namespace": ["AWS/EC2"]}]}),
            vec![
                json!({"source": "aws.cloudwatch", "metricName": "CPUUtilization"}),
                json!({"source": "aws.cloudwatch", "namespace": "AWS/EC2"}),
            ],
            vec![json!({"source": "aws.cloudwatch"}), json!({"namespace": "AWS/EC2"})],
        ),
        (
            json!({"source": ["aws.cloudwatch"],
                   "$or": [{"metricName": ["CPUUtilization", "ReadLatency"]},
                           {"metricType": ["MetricType"],
                            "$or": [{"metricId": [1234, 4321]}, {"spaceId": [1000, 2000, 3000]}]}]}),
            vec![
                json!({"source": "aws.cloudwatch", "metricName": "ReadLatency"}),
                json!({"source": "aws.cloudwatch", "metricType": "MetricType", "spaceId": 3000}),
            ],
            vec![
                json!({"source": "aws.cloudwatch", "metricType": "MetricType"}),
                json!({"source": "aws.cloudwatch", "spaceId": 3000}),
            ],
        ),
        (
            json!({"$or": [{"metricName": ["CPUUtilization", "ReadLatency"]}, {"namespace": ["AWS/EC2", "AWS/ES"]}],
                   "detail": {"scope": ["Service"],
                              "$or": [{"source": ["aws.cloudwatch"]}, {"type": ["CloudWatch Alarm State Change"]}]}}),
            vec![json!({"namespace": "AWS/ES", "detail": {"scope": "Service", "source": "aws.cloudwatch"}})],
            vec![
                json!({"namespace": "AWS/ES", "detail": {"scope": "Service"}}),
                json!({"namespace": "AWS/ES", "source": "aws.cloudwatch", "detail": {"scope": "Service"}}),
            ],
        ),
    ]);
}

/// What follows from the documentation's rules without standing there as an example.
#[test]
fn the_rules_of_the_documentation_hold_at_their_edges() {
    check(vec![
        // The keywords without quotation marks, and no value for another.
        (
            json!({"a": [null, true, "1"]}),
            vec![json!({"a": null}), json!({"a": true}), json!({"a": "1"})],
            vec![json!({"a": 1}), json!({"a": false}), json!({"a": "null"}), json!({})],
        ),
        // Text is compared case by case.
        (json!({"a": ["Rugby"]}), vec![json!({"a": "Rugby"})], vec![json!({"a": "rugby"})]),
        // Keys nest, and what is not named does not matter.
        (
            json!({"a": {"b": ["x"]}}),
            vec![json!({"a": {"b": "x", "c": 1}, "d": []}), json!({"a": [{"b": "y"}, {"b": ["z", "x"]}]})],
            vec![json!({"a": "x"}), json!({"b": "x"}), json!({"a.b": "x"}), json!({"a": {"b": {"x": "x"}}})],
        ),
        // `exists` is about values: an object or an empty list is none, null is one.
        (
            json!({"a": [{"exists": true}]}),
            vec![json!({"a": null}), json!({"a": [1]})],
            vec![json!({"a": {}}), json!({"a": []}), json!({"a": {"b": 1}})],
        ),
        (
            json!({"a": [{"exists": false}, "x"]}),
            vec![json!({}), json!({"a": "x"}), json!({"a": []})],
            vec![json!({"a": "y"})],
        ),
        (
            json!({"a": [{"exists": false}, {"anything-but": "x"}]}),
            vec![json!({}), json!({"a": "y"}), json!({"a": 1})],
            vec![json!({"a": "x"})],
        ),
        // Both bounds, both ways.
        (
            json!({"n": [{"numeric": [">=", -1e9, "<", 1e9]}]}),
            vec![json!({"n": -1_000_000_000}), json!({"n": 999_999_999.999_99})],
            vec![
                json!({"n": 1_000_000_000}),
                json!({"n": -1_000_000_000.5}),
                json!({"n": u64::MAX}),
                json!({"n": 1e300}),
            ],
        ),
        // Beyond what a filter can name, numbers still stand in their order.
        (json!({"n": [{"numeric": [">", 1e9]}]}), vec![json!({"n": 5_000_000_000_u64}), json!({"n": 1e300})], vec![]),
        // Five decimals count.
        (
            json!({"n": [0.12345, {"numeric": ["=", -0.00001]}]}),
            vec![json!({"n": 0.12345}), json!({"n": 0.123_450_1}), json!({"n": -1e-5})],
            vec![json!({"n": 0.12346}), json!({"n": 0})],
        ),
        // One and the same number, however it is written.
        (json!({"n": [100]}), vec![json!({"n": 100.0}), json!({"n": 1e2})], vec![json!({"n": "100"})]),
        (
            json!({"w": [{"wildcard": "a*b*c"}, {"wildcard": "\\*\\\\*"}]}),
            vec![json!({"w": "abc"}), json!({"w": "a-b-b-c"}), json!({"w": "*\\"}), json!({"w": "*\\x"})],
            vec![json!({"w": "ac"}), json!({"w": "abcd"}), json!({"w": "x*\\"})],
        ),
        (json!({"w": [{"wildcard": "ab*ba"}]}), vec![json!({"w": "abba"})], vec![json!({"w": "aba"})]),
        (
            json!({"ip": [{"cidr": "2001:db8::/33"}, {"cidr": "0.0.0.0/0"}]}),
            vec![json!({"ip": "2001:db8:7fff::1"}), json!({"ip": "255.1.2.3"})],
            vec![json!({"ip": "2001:db8:8000::1"}), json!({"ip": "::ffff:1.2.3.4"}), json!({"ip": "localhost"})],
        ),
        (
            json!({"a": [{"anything-but": {"prefix": ["x", "y"]}}]}),
            vec![json!({"a": "z"}), json!({"a": 5}), json!({"a": null})],
            vec![json!({"a": "xa"}), json!({"a": ["x", "y"]})],
        ),
        (json!({"a": [{"equals-ignore-case": "ÄRGER"}]}), vec![json!({"a": "ärger"})], vec![json!({"a": "arger"})]),
        // A reserved word makes `$or` a key like any other; so does a single object.
        (
            json!({"$or": [{"prefix": "ab"}, {"numeric": ["=", 1]}]}),
            vec![json!({"$or": "abc"}), json!({"$or": 1})],
            vec![json!({"abc": 1}), json!({})],
        ),
        // An operator's name is a key where it is not in a list.
        (json!({"a": {"prefix": ["x"]}}), vec![json!({"a": {"prefix": "x"}})], vec![json!({"a": "x"})]),
        // The same key twice, on both sides of an `$or`.
        (
            json!({"$or": [{"a": ["x"], "b": [1]}, {"a": ["y"]}]}),
            vec![json!({"a": "x", "b": 1}), json!({"a": "y"})],
            vec![json!({"a": "x"}), json!({"b": 1})],
        ),
        (json!({}), vec![json!({}), json!({"a": 1})], vec![]),
    ]);
}

#[test]
fn combinations_are_counted_as_the_documentation_counts_them() {
    let told = |policy: Value| Filter::parse(&policy.to_string()).map_err(|error| error.to_string());
    let values = |count: usize| (0..count).collect::<Vec<_>>();
    // 3 × 1 × 2, 4 × 3 × 3 × 2, 1 × 2 + 1 × 1 × 2 + 1 × 1 × 3, and 32 for the nested one: all of them fit.
    for policy in [
        json!({"key_a": ["1", "2", "3"], "key_b": ["1"], "key_c": ["1", "2"]}),
        json!({"key_a": {"key_b": {"key_c": ["1", "2", "3", "4"]}}, "key_d": {"key_e": ["1", "2", "3"]}}),
    ] {
        told(policy).unwrap();
    }
    assert!(told(json!({"a": values(150)})).is_ok());
    assert!(told(json!({"a": values(151)})).unwrap_err().contains("151 combinations"));
    // 4 × 3, by 5 × 3: the depth counts.
    let nested = json!({"a": {"b": {"c": values(4)}}, "d": {"e": {"f": values(5)}}});
    assert!(told(nested).unwrap_err().contains("180 combinations"));
    // 40 × (2 + 2).
    let alternatives = json!({"a": values(40), "$or": [{"b": values(2)}, {"c": values(2)}]});
    assert!(told(alternatives).unwrap_err().contains("160 combinations"));
}

#[test]
fn only_keys_that_hold_values_are_counted_and_each_once() {
    let policy = |keys: usize| {
        let leaves: serde_json::Map<String, Value> = (0..keys).map(|key| (format!("k{key}"), json!(["x"]))).collect();
        json!({ "a": leaves }).to_string()
    };
    assert!(Filter::parse(&policy(KEYS_MAX)).is_ok());
    let error = Filter::parse(&policy(KEYS_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("6 keys") && error.contains("a.k5"), "{error}");
    let often = json!({"$or": (0..8).map(|value| json!({"a": [value]})).collect::<Vec<_>>()});
    assert!(Filter::parse(&often.to_string()).is_ok());
}
