//! A client of the HTTP interface: a shop, an operator, a dashboard.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use crate::{eventually, within};

/// Longer than anything the host may take over one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Largest answer that is read: no list is longer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone)]
pub struct Client {
    base: String,
    agent: Agent,
}

/// What the host answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

/// Where the API lists many of something: `(path, name of the list)`.
type Listing<'a> = (&'a str, &'a str);

impl Client {
    #[must_use]
    pub fn new(base: &str) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_TIMEOUT));
        Self { base: base.trim_end_matches('/').to_owned(), agent: config.build().into() }
    }

    /// `http://127.0.0.1:8080`
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `127.0.0.1:8080`
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).expect("an answer")
    }

    /// # Errors
    /// Where the connection ends before the answer does.
    pub fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        Answer::read(self.agent.get(self.url(path)).call())
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.try_delete(path).expect("an answer")
    }

    /// # Errors
    /// Where the connection ends before the answer does.
    pub fn try_delete(&self, path: &str) -> Result<Answer, ureq::Error> {
        Answer::read(self.agent.delete(self.url(path)).call())
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, &[], body.to_string().as_bytes()).expect("an answer")
    }

    /// The error is that no answer came, or half of one: the host may have done it or not.
    ///
    /// # Errors
    /// Where the connection ends before the answer does.
    pub fn try_post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.post(self.url(path));
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request = request.content_type("application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(request.send(body))
    }

    // ------------------------------------------------------------------------------------------- orders

    #[track_caller]
    pub fn place(&self, order: &Value) -> Answer {
        self.post("/v1/orders", order)
    }

    #[track_caller]
    pub fn place_with_key(&self, key: &str, order: &Value) -> Answer {
        let headers = [("Idempotency-Key", key)];
        self.try_post("/v1/orders", &headers, order.to_string().as_bytes()).expect("an answer")
    }

    /// Places an order that is good, and returns its id.
    #[track_caller]
    pub fn placed(&self, order: &Value) -> String {
        self.place(order).expect(201).id()
    }

    /// [`Client::placed`] by a shop that asks again, with a key, where the answer takes longer than the host waits for it: at
    /// AWS's stand-ins on a busy machine.
    #[track_caller]
    pub fn placed_at_last(&self, order: &Value) -> String {
        let key = format!("k-{:016x}", RandomState::new().hash_one(order.to_string()));
        eventually("the order is placed", || {
            let answer = self.place_with_key(&key, order);
            let is_late = answer.is_late() || answer.status == StatusCode::CONFLICT;
            if is_late { Err(format!("{answer:#?}")) } else { Ok(answer.expect(201).id()) }
        })
    }

    #[track_caller]
    pub fn order(&self, id: &str) -> Value {
        self.get(&format!("/v1/orders/{id}")).expect(200).json()
    }

    /// Every order there is, newest first.
    #[track_caller]
    pub fn orders(&self) -> Vec<Value> {
        self.all(("/v1/orders?limit=500", "orders"))
    }

    #[track_caller]
    pub fn cancel(&self, id: &str, reason: &str) -> Answer {
        self.post(&format!("/v1/orders/{id}/cancel"), &json!({"reason": reason}))
    }

    #[track_caller]
    pub fn deliver(&self, id: &str) -> Answer {
        self.post(&format!("/v1/orders/{id}/deliver"), &json!({}))
    }

    /// The results, one a line.
    #[track_caller]
    pub fn import(&self, ndjson: &str) -> Vec<Value> {
        self.try_import(ndjson).expect("an answer").expect(200).lines()
    }

    /// # Errors
    /// Where the connection ends before the answer does.
    pub fn try_import(&self, ndjson: &str) -> Result<Answer, ureq::Error> {
        self.try_post("/v1/orders:import", &[("Content-Type", "application/x-ndjson")], ndjson.as_bytes())
    }

    /// The order, once it has this status.
    #[track_caller]
    pub fn wait_for_status(&self, id: &str, status: &str) -> Value {
        eventually(&format!("order {id} is {status}"), || {
            let order = self.look(&format!("/v1/orders/{id}"))?;
            if order["status"] == status { Ok(order) } else { Err(order.to_string()) }
        })
    }

    // ------------------------------------------------------------------------------------------- events

    #[track_caller]
    pub fn publish(&self, event: &Value) -> Answer {
        let headers = [("Content-Type", "application/cloudevents+json")];
        self.try_post("/v1/events", &headers, event.to_string().as_bytes()).expect("an answer")
    }

    /// Brings `quantity` units of each SKU into stock, and waits until inventory has them.
    #[track_caller]
    pub fn stock(&self, skus: &[&str], quantity: u32) {
        for sku in skus {
            let received = crate::orders::received(&format!("stock-{sku}"), sku, quantity);
            eventually("it is known that goods have come", || {
                // Published twice, it is one event.
                let answer = self.publish(&received);
                assert!(answer.is_late() || answer.status.is_success(), "{answer:#?}");
                if answer.is_late() { Err(format!("{answer:#?}")) } else { Ok(()) }
            });
        }
        self.wait_until_idle();
    }

    // ---------------------------------------------------------------------------------------- consumers

    #[track_caller]
    pub fn consumers(&self) -> Vec<Value> {
        listed(self.get("/v1/consumers").expect(200).json())
    }

    /// The consumer, as the list has it.
    #[must_use]
    #[track_caller]
    pub fn consumer(&self, name: &str) -> Option<Value> {
        self.consumers().into_iter().find(|consumer| consumer["name"] == name)
    }

    /// The consumer, once it is as `wanted`.
    #[track_caller]
    pub fn wait_for_consumer(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_consumer_within(crate::PATIENCE, name, wanted)
    }

    /// [`Client::wait_for_consumer`], with a deadline of its own.
    #[track_caller]
    pub fn wait_for_consumer_within(&self, patience: Duration, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        within(patience, &format!("consumer {name} is as wanted"), || {
            let consumers = listed(self.look("/v1/consumers")?);
            match consumers.into_iter().find(|consumer| consumer["name"] == name) {
                Some(consumer) if wanted(&consumer) => Ok(consumer),
                other => Err(other.unwrap_or_default().to_string()),
            }
        })
    }

    /// Waits until every consumer has done all its deliveries.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        // A consumer that was looked at first may have got an event from one that was looked at last: only what two
        // looks see alike is the state of all at one moment.
        let mut before = None;
        eventually("every consumer has done all its deliveries", || {
            let consumers = listed(self.look("/v1/consumers")?);
            let idle = consumers.iter().all(|consumer| consumer["pending"] == 0);
            let steady = before.replace(consumers.clone()).is_some_and(|before| before == consumers);
            if idle && steady { Ok(()) } else { Err(format!("{consumers:#?}")) }
        });
    }

    #[must_use]
    #[track_caller]
    pub fn counter(&self, consumer: &str, key: &str) -> i64 {
        let counters = self.counters(consumer, key);
        counters.into_iter().find(|(name, _)| name == key).map_or(0, |(_, value)| value)
    }

    /// Waits until a counter of the consumer has this value, whatever else there is still to do.
    #[track_caller]
    pub fn wait_for_counter(&self, consumer: &str, key: &str, wanted: i64) {
        eventually(&format!("{key} of {consumer} is {wanted}"), || match self.counter(consumer, key) {
            value if value == wanted => Ok(()),
            value => Err(format!("it is {value}")),
        });
    }

    /// Counters whose key starts with `prefix`.
    #[must_use]
    #[track_caller]
    pub fn counters(&self, consumer: &str, prefix: &str) -> Vec<(String, i64)> {
        let counters = self.all((&format!("/v1/consumers/{consumer}/state?prefix={prefix}&limit=500"), "counters"));
        let pair = |counter: &Value| Some((counter["key"].as_str()?.to_owned(), counter["value"].as_i64()?));
        counters.iter().map(|counter| pair(counter).expect("a counter")).collect()
    }

    /// Entries whose key starts with `prefix`, as the API shows them.
    #[must_use]
    #[track_caller]
    pub fn entries(&self, consumer: &str, prefix: &str) -> Vec<Value> {
        self.all((&format!("/v1/consumers/{consumer}/state?prefix={prefix}&limit=500"), "entries"))
    }

    #[must_use]
    #[track_caller]
    pub fn dead_letters(&self, consumer: &str) -> Vec<Value> {
        self.all((&format!("/v1/consumers/{consumer}/dead-letters?limit=500"), "dead_letters"))
    }

    #[must_use]
    #[track_caller]
    pub fn messages(&self) -> Vec<Value> {
        self.all(("/v1/messages?limit=500", "messages"))
    }

    /// The value of the meter that stands as `name`, labels and all, in the list; 0 where it does not.
    #[must_use]
    #[track_caller]
    pub fn meter(&self, name: &str) -> f64 {
        let meters = self.get("/metrics").expect(200).text;
        let value = meters.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap_or_else(|error| panic!("{name} is {value:?}: {error}")))
    }

    // --------------------------------------------------------------------------------------------- parts

    /// What is there now, for whoever looks again where the answer takes longer than the host waits for it.
    ///
    /// # Errors
    /// That it did.
    ///
    /// # Panics
    /// Where the answer is another one than 200.
    #[track_caller]
    pub fn look(&self, path: &str) -> Result<Value, String> {
        let answer = self.get(path);
        if answer.is_late() { Err(format!("{answer:#?}")) } else { Ok(answer.expect(200).json()) }
    }

    /// Every page of a list.
    #[track_caller]
    fn all(&self, (path, list): Listing<'_>) -> Vec<Value> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("{path}{after}")).expect(200).json();
            items.extend(page[list].as_array().unwrap_or_else(|| panic!("no {list} in {page}")).iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("{}after={next}", if path.contains('?') { "&" } else { "?" }),
                None => return items,
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

impl Answer {
    fn read(answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Self, ureq::Error> {
        let (parts, mut body) = answer?.into_parts();
        let text = body.with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
        Ok(Self { status: parts.status, headers: parts.headers, text })
    }

    /// # Panics
    /// Unless the status is this one.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:#?}");
        self
    }

    /// Whether the host did not hear in time of the store: it says so, and whoever asked may ask again.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The problem, checked to be one of RFC 9457 with this status.
    ///
    /// # Panics
    /// Unless it is.
    #[must_use]
    #[track_caller]
    pub fn problem(self, status: u16) -> Value {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:#?}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{answer:#?}");
        for member in ["type", "title"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {answer:#?}");
        }
        problem
    }

    /// # Panics
    /// Unless the body is JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }

    /// The body, one JSON value a line.
    ///
    /// # Panics
    /// Unless each line is JSON.
    #[must_use]
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        self.text.lines().map(line).collect()
    }

    /// The member `id` of the body.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[track_caller]
    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("no id: {self:#?}")).to_owned()
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn listed(mut consumers: Value) -> Vec<Value> {
    serde_json::from_value(consumers["consumers"].take()).expect("a list of consumers")
}
