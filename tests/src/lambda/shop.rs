//! A shop whose only program are functions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Source, TestFunction, asked, request};
use crate::aws::{self, Fault, FaultProxy};
use crate::orders::{order, received};

/// What the API answers with 200.
///
/// # Panics
/// Where it answers otherwise.
#[track_caller]
pub fn get(api: &mut TestFunction, path: &str) -> Value {
    let (status, body) = asked(&api.invoke(&request("GET", path, &json!({}), None)));
    assert_eq!(status, 200, "{body}");
    body
}

/// The event of somebody who places this order.
#[must_use]
pub fn placing(order: &Value) -> Value {
    request("POST", "/v1/orders", &json!({}), Some(order))
}

/// Places an order, and gives back its id.
///
/// # Panics
/// Where it is refused.
#[track_caller]
pub fn place(api: &mut TestFunction, lines: &[(&str, u32)]) -> String {
    let (status, placed) = asked(&api.invoke(&placing(&order(lines))));
    assert_eq!(status, 201, "{placed}");
    placed["id"].as_str().expect("an id").to_owned()
}

/// Brings stock in, through the function of inventory.
///
/// # Panics
/// Where that is refused.
#[track_caller]
pub fn stock(api: &mut TestFunction, inventory: &mut TestFunction, queue: &Source, sku: &str, quantity: u32) {
    let headers = json!({"content-type": "application/cloudevents+json"});
    let event = received(&format!("stock-{sku}"), sku, quantity);
    let (status, answer) = asked(&api.invoke(&request("POST", "/v1/events", &headers, Some(&event))));
    assert!((200..300).contains(&status), "{answer}");
    handled(inventory, queue, 1);
}

/// Invokes a consumer's function with the next messages of its queue, all of which it is done with.
///
/// # Panics
/// Where some come back.
#[track_caller]
pub fn handled(consumer: &mut TestFunction, queue: &Source, count: usize) {
    let event = queue.event(count);
    let answer = consumer.invoke(&event);
    assert_eq!(queue.settle(&event, &answer), BTreeSet::new(), "{}", consumer.log());
}

/// A counter of a consumer.
///
/// # Panics
/// Where the consumer is not known.
#[must_use]
#[track_caller]
pub fn counter(api: &mut TestFunction, consumer: &str, key: &str) -> i64 {
    let state = get(api, &format!("/v1/consumers/{consumer}/state?prefix={key}"));
    let counters = state["counters"].as_array().expect("counters");
    counters.iter().find(|one| one["key"] == key).map_or(0, |one| one["value"].as_i64().expect("a number"))
}

/// Which order a message is about.
///
/// # Panics
/// If it is about none.
#[must_use]
pub fn order_of(record: &Value) -> String {
    let event: Value = serde_json::from_str(record["body"].as_str().expect("a body")).expect("an event");
    event["subject"].as_str().expect("a subject").to_owned()
}

/// SNS, for a function whose events it does not take.
#[must_use]
pub fn deaf_sns() -> FaultProxy {
    let sns = FaultProxy::before(&aws::endpoint("SNS"));
    sns.choose(|call| if call.operation == "PublishBatch" { Fault::Fail(503) } else { Fault::Pass });
    sns
}
