//! The router over the embedded store: what is answered after a commit.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::backend::embedded;

/// An API over a store of its own, without consumers.
struct Host {
    api: Api,
    router: Router,
    _data: TempDir,
}

impl Host {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let store = embedded::open(&embedded::Settings { data_dir: data.path().to_owned() }).unwrap();
        let api = Api {
            intake: store.intake,
            journal: store.journal,
            timelines: store.timelines,
            consumers: store.consumers,
            dead_letters: store.dead_letters,
            ..full_store()
        };
        Self { router: router(api.clone()), api, _data: data }
    }

    async fn answer(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> (u16, HeaderMap, Bytes) {
        let (parts, body) = self.answer(request).await.into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
    }

    /// Sends and reads the JSON of the answer, which has this status.
    async fn json(&self, status: u16, request: Request<Body>) -> Value {
        let (answered, _, body) = self.send(request).await;
        let body = serde_json::from_slice(&body).unwrap();
        assert_eq!(answered, status, "{body}");
        body
    }

    async fn lines(&self, request: Request<Body>) -> Vec<Value> {
        let (status, _, body) = self.send(request).await;
        assert_eq!(status, 200);
        body.split(|byte| *byte == b'\n').flat_map(serde_json::from_slice).collect()
    }

    /// Places an order and returns its id.
    async fn placed(&self, order: &str) -> String {
        self.json(201, post("/v1/orders", JSON, order.to_owned())).await["id"].as_str().unwrap().to_owned()
    }
}

fn keyed(key: &str, order: &str) -> Request<Body> {
    let mut request = post("/v1/orders", JSON, order.to_owned());
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

fn event(id: &str) -> Request<Body> {
    let event = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/w","type":"com.a","data":{{"n":1}}}}"#);
    post("/v1/events", "application/cloudevents+json", event)
}

const REFERENCED: &str =
    r#"{"reference":"R-1","currency":"USD","customer":{"id":"a"},"lines":[{"sku":"A","quantity":2,"unit_amount":5}]}"#;

#[tokio::test]
async fn a_placed_order_is_answered_and_then_found_where_the_answer_said() {
    let host = Host::start();
    let (status, headers, body) = host.send(post("/v1/orders", JSON, REFERENCED)).await;
    let order: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 201);
    assert_eq!(
        (&order["status"], &order["revision"], &order["total_amount"]),
        (&"placed".into(), &1.into(), &10.into())
    );
    let location = headers["location"].to_str().unwrap();
    assert_eq!(location, format!("/v1/orders/{}", order["id"].as_str().unwrap()));

    let shown = host.json(200, get(location)).await;
    assert_eq!(shown["reference"], "R-1");
    assert_eq!(shown["changes"][0]["type"], "order.placed");
    assert_eq!(shown["changes"][0]["change"], serde_json::json!({"placed": {}}));
    assert_eq!(shown["deliveries"], serde_json::json!([]));
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_byte_for_byte() {
    let host = Host::start();
    let (_, headers, first) = host.send(keyed("k", REFERENCED)).await;
    assert!(!headers.contains_key("idempotency-replayed"));
    let id = serde_json::from_slice::<Value>(&first).unwrap()["id"].as_str().unwrap().to_owned();
    // What happens to the order since does not change the answer.
    host.json(200, post(&format!("/v1/orders/{id}/cancel"), JSON, r#"{"reason":"changed my mind"}"#)).await;

    let (status, headers, again) = host.send(keyed("k", REFERENCED)).await;
    assert_eq!((status, &again), (201, &first));
    assert_eq!(headers["idempotency-replayed"], "true");
    assert_eq!(headers["location"], format!("/v1/orders/{id}"));

    let other = host.json(422, keyed("k", ORDER)).await;
    assert_eq!(other["type"], "/problems/idempotency-key-reused");
}

#[tokio::test]
async fn a_reference_that_exists_names_the_order_that_has_it() {
    let host = Host::start();
    let id = host.placed(REFERENCED).await;
    let problem = host.json(409, post("/v1/orders", JSON, REFERENCED)).await;
    assert_eq!((&problem["type"], &problem["order_id"]), (&"/problems/reference-exists".into(), &id.into()));
}

#[tokio::test]
async fn a_change_that_is_not_allowed_names_the_status() {
    let host = Host::start();
    let id = host.placed(ORDER).await;
    let deliver = || post(&format!("/v1/orders/{id}/deliver"), JSON, "");
    let cancel = || post(&format!("/v1/orders/{id}/cancel"), JSON, r#"{"reason":"x"}"#);
    assert_eq!(host.json(409, deliver()).await["order_status"], "placed");
    assert_eq!(host.json(200, cancel()).await["status"], "cancelled");
    let problem = host.json(409, cancel()).await;
    assert_eq!((&problem["type"], &problem["order_status"]), (&"/problems/illegal-change".into(), &"cancelled".into()));
    let nobody = post(&format!("/v1/orders/{}/deliver", OrderId::generate()), JSON, "{}");
    assert_eq!(host.json(404, nobody).await["type"], "/problems/unknown-order");
    for body in ["{}", r#"{"reason":" "}"#, r#"{"reason":"a\nb"}"#] {
        let problem = host.json(422, post(&format!("/v1/orders/{id}/cancel"), JSON, body)).await;
        assert_eq!(problem["errors"][0]["field"], "reason", "{body}");
    }
}

#[tokio::test]
async fn a_page_goes_on_where_the_one_before_ended() {
    let host = Host::start();
    let mut placed = Vec::new();
    for _ in 0..3 {
        placed.insert(0, host.placed(ORDER).await);
    }
    let first = host.json(200, get("/v1/orders?limit=2")).await;
    let second = host.json(200, get(&format!("/v1/orders?limit=2&after={}", first["next"].as_str().unwrap()))).await;
    let orders = first["orders"].as_array().unwrap().iter().chain(second["orders"].as_array().unwrap());
    assert_eq!(orders.map(|order| order["id"].as_str().unwrap()).collect::<Vec<_>>(), placed);
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn a_cursor_that_is_none_is_the_callers_fault() {
    let host = Host::start();
    for path in ["/v1/orders?after=x", "/v1/messages?after=x", "/v1/messages?after=99999999999999999999"] {
        assert_eq!(host.json(400, get(path)).await["type"], "/problems/invalid-parameter", "{path}");
    }
}

#[tokio::test]
async fn an_import_can_be_sent_again() {
    let host = Host::start();
    let import = |orders: &str| post("/v1/orders:import", "application/x-ndjson", orders.to_owned());
    let dated = |at: &str| REFERENCED.replacen('{', &format!(r#"{{"placed_at":"{at}","#), 1);
    let first = host.lines(import(&dated("1996-07-04T00:00:00Z"))).await;
    assert_eq!((&first[0]["line"], &first[0]["result"]), (&1.into(), &"created".into()));
    let again = host.lines(import(&dated("1996-07-04T00:00:00Z"))).await;
    assert_eq!((&again[0]["result"], &again[0]["id"]), (&"exists".into(), &first[0]["id"]));
    let other = host.lines(import(&dated("1996-07-05T00:00:00Z"))).await;
    assert_eq!((&other[0]["result"], &other[0]["problem"]["order_id"]), (&"error".into(), &first[0]["id"]));
    let shown = host.json(200, get(&format!("/v1/orders/{}", first[0]["id"].as_str().unwrap()))).await;
    assert_eq!(shown["placed_at"], "1996-07-04T00:00:00.000Z");
}

#[tokio::test]
async fn many_imported_lines_are_answered_in_their_order() {
    let host = Host::start();
    let body: String = (0..1000).map(|n| REFERENCED.replace("R-1", &format!("R-{n}")) + "\n").collect();
    let results = host.lines(post("/v1/orders:import", "application/x-ndjson", body)).await;
    let lines: Vec<_> = results.iter().map(|result| result["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, (1..=1000).collect::<Vec<_>>());
    assert!(results.iter().all(|result| result["result"] == "created"));
}

#[tokio::test]
async fn an_event_that_is_sent_twice_is_recorded_once() {
    let host = Host::start();
    let first = host.json(202, event("1")).await;
    let again = host.json(202, event("1")).await;
    assert_eq!((&first["events"][0]["repeated"], &again["events"][0]["repeated"]), (&false.into(), &true.into()));
    assert_eq!(first["events"][0]["id"], again["events"][0]["id"]);
    let none = host.json(202, post("/v1/events", "application/cloudevents-batch+json", "[]")).await;
    assert_eq!(none["events"], serde_json::json!([]));
}

/// The next events that a stream tells: their ids and types.
async fn told(body: &mut Body, count: usize) -> Vec<(u64, String)> {
    let mut events = Vec::new();
    while events.len() < count {
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("an event in time");
        let text = String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
        for event in text.split("\n\n") {
            let Some((id, data)) = event.split_once('\n') else { continue };
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            let id = id.strip_prefix("id: ").unwrap().parse().unwrap();
            events.push((id, data["type"].as_str().unwrap().to_owned()));
        }
    }
    events
}

#[tokio::test]
async fn a_stream_begins_where_it_is_told_to() {
    let host = Host::start();
    host.placed(ORDER).await;
    for id in 2..=6 {
        host.json(202, event(&id.to_string())).await;
    }
    let custom = |id| (id, "com.a".to_owned());

    let mut all = host.answer(get("/v1/events?after=0")).await.into_body();
    assert_eq!(told(&mut all, 6).await[0], (1, "order.placed".to_owned()));
    let mut orders = host.answer(get("/v1/events?after=0&type=com.*")).await.into_body();
    assert_eq!(told(&mut orders, 5).await[0], custom(2));
    let mut resumed = get("/v1/events?after=0");
    resumed.headers_mut().insert("last-event-id", "4".parse().unwrap());
    let mut resumed = host.answer(resumed).await.into_body();
    assert_eq!(told(&mut resumed, 2).await, [custom(5), custom(6)]);

    let mut new = host.answer(get("/v1/events")).await.into_body();
    host.json(202, event("7")).await;
    assert_eq!(told(&mut new, 1).await, [custom(7)]);
    assert_eq!(told(&mut resumed, 1).await, [custom(7)]);
}

/// The id of the next piece, which tells of no event.
async fn place(body: &mut Body) -> String {
    loop {
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("where it stands");
        let text = String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
        assert!(!text.contains("data: "), "{text}");
        if let Some((_, id)) = text.split_once("id: ") {
            return id.trim_end().to_owned();
        }
    }
}

#[tokio::test]
async fn a_stream_that_goes_by_events_of_other_kinds_alone_says_where_it_stands() {
    let host = Host::start();
    for id in 1..=3 {
        host.json(202, event(&id.to_string())).await;
    }
    let mut none = host.answer(get("/v1/events?after=0&type=org.none")).await.into_body();
    assert_eq!(place(&mut none).await, "3");
    host.json(202, event("4")).await;
    assert_eq!(place(&mut none).await, "4");
}

#[tokio::test]
async fn a_stream_of_new_events_that_breaks_off_before_the_first_misses_none() {
    let host = Host::start();
    host.json(202, event("1")).await;
    let id = place(&mut host.answer(get("/v1/events")).await.into_body()).await;
    host.json(202, event("2")).await;
    let mut resumed = get("/v1/events");
    resumed.headers_mut().insert("last-event-id", id.parse().unwrap());
    let mut resumed = host.answer(resumed).await.into_body();
    assert_eq!(told(&mut resumed, 1).await, [(2, "com.a".to_owned())]);
}

#[tokio::test]
async fn a_stream_that_was_told_more_than_a_restored_store_holds_goes_on_behind_a_gap() {
    let host = Host::start();
    for id in 1..=3 {
        host.json(202, event(&id.to_string())).await;
    }
    let mut resumed = get("/v1/events");
    resumed.headers_mut().insert("last-event-id", "5".parse().unwrap());
    let mut resumed = host.answer(resumed).await.into_body();
    let opening = resumed.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(opening, ": fanfare\n\nevent: gap\ndata: {\"after\":0,\"before\":4}\n\n");
    host.json(202, event("4")).await;
    assert_eq!(told(&mut resumed, 1).await, [(4, "com.a".to_owned())]);
}

#[tokio::test]
async fn streams_are_bounded_and_end_when_the_host_stops() {
    let host = Host::start();
    let mut open = Vec::new();
    for _ in 0..limits::STREAMS_MAX {
        open.push(host.answer(get("/v1/events")).await.into_body());
    }
    assert_eq!(host.json(503, get("/v1/events")).await["type"], "/problems/too-many");
    drop(open.pop());
    let last = host.answer(get("/v1/events")).await.into_body();
    host.api.stopping.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), last.collect()).await;
    assert!(ended.expect("an end in time").is_ok());
    assert_eq!(host.json(503, get("/readyz")).await["type"], "/problems/not-ready");
}

#[tokio::test]
async fn what_is_empty_is_an_empty_list() {
    let host = Host::start();
    assert_eq!(host.json(200, get("/v1/consumers")).await, serde_json::json!({"consumers": []}));
    assert_eq!(host.json(200, get("/v1/messages")).await, serde_json::json!({"messages": [], "next": null}));
    assert_eq!(host.json(200, get("/readyz")).await["status"], "ready");
}

#[tokio::test]
async fn a_data_set_that_nobody_declares_and_that_has_no_rows_is_unknown() {
    let host = Host::start();
    let unknown = host.json(404, get("/v1/records/ordres")).await;
    assert_eq!(unknown["type"], "/problems/unknown-dataset");
    assert!(unknown["detail"].as_str().unwrap().contains("no plugin"), "{unknown}");
}
