//! The router over a store that accepts nothing: what is answered before, and instead of, a commit.
//! What a commit makes of it is told over a real store in [`stored`]; whole journeys are told in the tests crate.

use std::collections::BTreeSet;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::backend::*;
use crate::consumer::status::ConsumerStatus;
use crate::consumer::steer::{Refusal, Step};
use crate::event::{self, Custom, Event, EventId, Position};
use crate::order::{Change, Order, OrderId};
use crate::policy::{ConsumerName, Rate, Start};
use crate::version::Hash;

mod full;
mod late;
mod stored;

pub(super) use self::full::{Full, full_store};

const JSON: &str = "application/json";
const ORDER: &str = r#"{"currency":"USD","customer":{"id":"a"},"lines":[{"sku":"A","quantity":1,"unit_amount":5}]}"#;

async fn send(request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let response = router(full_store()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn post(path: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(Method::POST).uri(path);
    request.header("content-type", content_type).body(body.into()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

/// Sends and expects a problem: its status and the last part of its type.
async fn problem(request: Request<Body>) -> (u16, String, Value) {
    let (status, headers, body) = send(request).await;
    assert_eq!(headers["content-type"], "application/problem+json", "{body}");
    assert_eq!(body["status"], status.as_u16());
    let kind = body["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned();
    (status.as_u16(), kind, body)
}

async fn problem_kind(request: Request<Body>) -> (u16, String) {
    let (status, kind, _) = problem(request).await;
    (status, kind)
}

fn is(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    assert_eq!(problem_kind(get("/v1/nothing")).await, is(404, "not-found"));
    let request = Request::builder().method(Method::DELETE).uri("/v1/orders").body(Body::empty()).unwrap();
    let (status, headers, _) = send(request).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["allow"], "POST,GET,HEAD");
}

#[tokio::test]
async fn what_a_page_of_another_site_can_send_is_refused() {
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        for path in ["/v1/orders", "/v1/orders:import", "/v1/events"] {
            let refused = problem_kind(post(path, content_type, ORDER)).await;
            assert_eq!(refused, is(415, "unsupported-media-type"), "{path} as {content_type}");
        }
    }
    let id = OrderId::generate();
    for path in [
        format!("/v1/orders/{id}/cancel"),
        format!("/v1/orders/{id}/deliver"),
        "/v1/consumers/a/dead-letters/retry".into(),
        "/v1/backup".into(),
    ] {
        assert_eq!(problem_kind(post(&path, "text/plain", "")).await, is(415, "unsupported-media-type"), "{path}");
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_and_not_taken_for_text() {
    for (path, content_type) in
        [("/v1/orders", JSON), ("/v1/events", JSON), ("/v1/orders:import", "application/x-ndjson")]
    {
        for (coding, expected) in [("gzip", 415), ("identity", 0), ("identity, br", 415)] {
            let mut request = post(path, content_type, ORDER);
            request.headers_mut().insert("content-encoding", coding.parse().unwrap());
            let refused = send(request).await.2["type"] == "/problems/unsupported-encoding";
            assert_eq!(refused, expected == 415, "{coding} at {path}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_with_and_without_its_length() {
    let large = " ".repeat(10 << 20);
    let mut declared = post("/v1/orders", JSON, large.clone());
    declared.headers_mut().insert("content-length", large.len().into());
    assert_eq!(problem_kind(declared).await, is(413, "body-too-large"));

    let pieces = futures::stream::iter([Ok::<_, std::io::Error>(large)]);
    assert_eq!(problem_kind(post("/v1/orders", JSON, Body::from_stream(pieces))).await, is(413, "body-too-large"));
    let padded = format!("{ORDER}{}", " ".repeat(limits::ORDER_BYTES_MAX - ORDER.len()));
    assert_eq!(problem_kind(post("/v1/orders", JSON, padded)).await, is(503, "store-unavailable"));
}

#[tokio::test]
async fn a_store_that_does_not_accept_is_never_a_201() {
    let (status, headers, body) = send(post("/v1/orders", JSON, ORDER)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["retry-after"], "1");
    insta::assert_json_snapshot!(body);
    assert_eq!(problem_kind(get("/readyz")).await, is(503, "not-ready"));
    assert_eq!(send(get("/healthz")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_bad_order_names_its_fields() {
    let bad = r#"{"currency":"usd","customer":{"id":""},"lines":[{"sku":"A","quantity":-1,"unit_amount":5}]}"#;
    let (_, _, body) = problem(post("/v1/orders", JSON, bad)).await;
    insta::assert_json_snapshot!(body);
}

#[tokio::test]
async fn an_idempotency_key_is_visible_ascii_and_stands_once() {
    for key in ["", "a b", "\u{e4}", &"x".repeat(256)] {
        let mut request = post("/v1/orders", JSON, ORDER);
        request.headers_mut().insert("idempotency-key", key.as_bytes().try_into().unwrap());
        assert_eq!(problem_kind(request).await, is(400, "invalid-parameter"), "{key:?}");
    }
    let mut request = post("/v1/orders", JSON, ORDER);
    request.headers_mut().append("idempotency-key", "a".parse().unwrap());
    request.headers_mut().append("idempotency-key", "b".parse().unwrap());
    assert_eq!(problem_kind(request).await, is(400, "invalid-parameter"));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let id = OrderId::generate();
    for path in [format!("/v1/orders/{id}"), "/v1/orders/NW-10248".into(), "/v1/orders/%ff".into()] {
        let (status, _) = problem_kind(get(&path)).await;
        assert_eq!(status, 404, "{path}");
    }
    for path in ["/v1/consumers/none/dead-letters/%ff", "/v1/consumers/%ff/dead-letters/none"] {
        assert_eq!(problem_kind(get(path)).await, is(404, "not-found"), "{path}");
    }
    for path in ["/v1/consumers/none", "/v1/consumers/NONE", "/v1/consumers/none/state"] {
        assert_eq!(problem_kind(get(path)).await, is(404, "unknown-consumer"), "{path}");
    }
}

#[tokio::test]
async fn parameters_are_checked() {
    for path in [
        "/v1/orders?limit=0",
        "/v1/orders?limit=1001",
        "/v1/orders?limit=x",
        "/v1/orders?status=open",
        "/v1/orders?custmer=a",
        "/v1/orders?customer=%ff",
        "/v1/events?type=a..b",
        "/v1/check?rate=fast",
        "/v1/consumers?name=a",
        "/v1/consumers/a?limit=1",
        "/v1/consumers/a/shadow?x",
        "/v1/consumers/a/backfill?x=1",
        "/v1/consumers/a/dead-letters/b?x=1",
        "/v1/records/a?limit=1",
        "/v1/orders/0190b5a0-0000-7000-8000-000000000000?x=1",
    ] {
        assert_eq!(problem_kind(get(path)).await, is(400, "invalid-parameter"), "{path}");
    }
    for (path, field, detail) in [
        ("/v1/orders?limit=-1", "limit", "must be a whole number"),
        ("/v1/orders?limit=", "limit", "must be a whole number"),
        ("/v1/events?after=99999999999999999999", "after", "must be a whole number"),
        ("/v1/orders?limit=1&limit=2", "limit", "stands more than once"),
        ("/v1/orders?custmer=a", "custmer", "is not known here; there is `customer`, `status`"),
        ("/v1/check?rte=1", "rte", "is not known here; there is `rate`"),
        ("/v1/consumers?name=a", "name", "is not known here; there are no parameters"),
    ] {
        let (_, _, body) = problem(get(path)).await;
        assert_eq!(body["errors"][0]["field"], field, "{body}");
        assert!(body["errors"][0]["detail"].as_str().unwrap().contains(detail), "{body}");
    }
    for path in ["/v1/orders", "/v1/events", "/v1/consumers/a/dead-letters/retry", "/v1/backup"] {
        let refused = problem_kind(post(&format!("{path}?dry_run=true"), JSON, ORDER)).await;
        assert_eq!(refused, is(400, "invalid-parameter"), "{path}");
    }
    for path in
        ["/v1/orders?status=placed&limit=1000", "/v1/consumers?", "/healthz?from=lb", "/metrics?name[]=a", "/?x"]
    {
        assert_eq!(send(get(path)).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn an_import_answers_line_by_line_in_order() {
    let body = format!("{ORDER}\n\nnot json\n{{\"lines\":[]}}\n");
    let request = post("/v1/orders:import", "application/x-ndjson", body);
    let response = router(full_store()).oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let lines: Vec<Value> = bytes.split(|byte| *byte == b'\n').flat_map(serde_json::from_slice).collect();
    insta::assert_json_snapshot!(lines);
}

#[tokio::test]
async fn a_bad_event_names_its_attributes_in_every_mode() {
    let (_, _, body) = problem(post("/v1/events", "application/cloudevents+json", r#"{"id":"1"}"#)).await;
    insta::assert_json_snapshot!(body);
    let batch = r#"[{"specversion":"1.0","id":"1","source":"/w","type":"com.a"},{"type":"order.placed"}]"#;
    let (_, _, body) = problem(post("/v1/events", "application/cloudevents-batch+json", batch)).await;
    insta::assert_json_snapshot!(body);
    let mut binary = post("/v1/events", JSON, r#"{"sku":"A"}"#);
    for (name, value) in [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "com.a")] {
        binary.headers_mut().insert(name, value.parse().unwrap());
    }
    let (_, _, body) = problem(binary).await;
    insta::assert_json_snapshot!(body);
    let mut twice = post("/v1/events", JSON, "{}");
    for (name, value) in [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-id", "2")] {
        twice.headers_mut().append(name, value.parse().unwrap());
    }
    let (_, _, body) = problem(twice).await;
    assert_eq!(body["detail"], "ce-id stands more than once");
}

#[tokio::test]
async fn a_good_event_reaches_the_store_in_every_mode() {
    let event = r#"{"specversion":"1.0","id":"1","source":"/w","type":"com.a","data":{"sku":"A"}}"#;
    let unavailable = is(503, "store-unavailable");
    assert_eq!(problem_kind(post("/v1/events", JSON, event)).await, unavailable);
    assert_eq!(problem_kind(post("/v1/events", "application/cloudevents+json", event)).await, unavailable);
    let batch = format!("[{event}]");
    assert_eq!(problem_kind(post("/v1/events", "application/cloudevents-batch+json", batch)).await, unavailable);
    let mut binary = post("/v1/events", JSON, r#"{"sku":"A"}"#);
    for (name, value) in [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "com.a"), ("ce-source", "/w")] {
        binary.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(problem_kind(binary).await, unavailable);
}
