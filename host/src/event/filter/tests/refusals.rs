//! Each refusal names the key and what would be right.

use serde_json::{Value, json};

use super::super::{BYTES_MAX, Filter};

#[test]
fn a_bad_filter_names_its_key_and_what_would_be_right() {
    let at = |value: Value| json!({"order": {"customer": {"id": value}}}).to_string();
    let bad = [
        "[]".to_owned(),
        "{\"a\": [1}".to_owned(),
        json!({"a": "x"}).to_string(),
        json!({"a": {}}).to_string(),
        json!({"a": {"prefix": "x"}}).to_string(),
        json!({"$or": [{"a": [1]}, {}]}).to_string(),
        json!({"$or": [{"a": ["x"]}]}).to_string(),
        at(json!([])),
        at(json!([["x"]])),
        at(json!([{}])),
        at(json!([{"prefix": "a", "suffix": "b"}])),
        at(json!([{"prefx": "a"}])),
        at(json!([{"prefix": 5}])),
        at(json!([{"exists": "yes"}])),
        at(json!([{"exists": true}, {"exists": false}])),
        at(json!([{"wildcard": "a**b"}])),
        at(json!([{"wildcard": "*a*b*c*"}])),
        at(json!([{"wildcard": "a\\b"}])),
        at(json!([{"anything-but": []}])),
        at(json!([{"anything-but": [1, "a"]}])),
        at(json!([{"anything-but": true}])),
        at(json!([{"anything-but": {"numeric": ["=", 1]}}])),
        at(json!([{"anything-but": {"prefix": ""}}])),
        at(json!([{"anything-but": {}}])),
        at(json!([{"numeric": 5}])),
        at(json!([{"numeric": [">"]}])),
        at(json!([{"numeric": ["==", 5]}])),
        at(json!([{"numeric": ["<", 5, ">", 1]}])),
        at(json!([{"numeric": [">", 5, "<", 1]}])),
        at(json!([{"numeric": ["<=", 1_000_000_000.5]}])),
        at(json!([0.123_456])),
        at(json!([{"cidr": "10.0.0.0"}])),
        at(json!([{"cidr": "10.0.0.1/24"}])),
        at(json!([{"cidr": "10.0.0.0/33"}])),
        at(json!([{"cidr": "10.0.0.0/+8"}])),
    ];
    let told: Vec<String> = bad
        .iter()
        .map(|policy| match Filter::parse(policy) {
            Ok(_) => format!("{policy}\n  was taken"),
            Err(error) => format!("{policy}\n  {error}"),
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_is_larger_than_a_filter_may_be_is_refused_unread() {
    let text = format!("{{\"a\":[\"{}\"]}}", "x".repeat(BYTES_MAX));
    assert!(Filter::parse(&text).unwrap_err().to_string().contains("bytes are too many"));
}

#[test]
fn of_two_values_of_one_key_none_is_taken() {
    for (filter, key) in [
        (r#"{"a": ["x"], "b": ["x"], "a": ["y"]}"#, "a"),
        (r#"{"order": {"id": [1], "id": [2]}}"#, "id"),
        (r#"{"a": [{"prefix": "x", "prefix": "y"}]}"#, "prefix"),
        (r#"{"$or": [{"a": [1], "a": [2]}, {"b": [null, true, 1.5]}]}"#, "a"),
    ] {
        let error = Filter::parse(filter).unwrap_err().to_string();
        assert!(error.contains(&format!("the key {key:?} stands twice")), "{error}");
    }
    assert!(Filter::parse(r#"{"$or": [{"a": [-1, 2, 1.5]}, {"a": [null, true, "x"]}], "b": {"a": ["x"]}}"#).is_ok());
}
