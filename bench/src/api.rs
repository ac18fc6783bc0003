//! The part of the HTTP interface that an operator uses.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::wire::Connection;

/// The most that the host takes in one request, and shows in one page.
const EVENTS_PER_BATCH: usize = 100;
const COUNTERS_PER_PAGE: usize = 500;

/// Every request has a connection of its own: the host closes those that are idle for longer than some loads last.
#[derive(Clone, Copy)]
pub struct Api {
    address: SocketAddr,
}

/// One consumer in the list of consumers.
#[derive(Debug, Deserialize)]
pub struct Consumer {
    pub name: String,
    pub state: String,
    pub reason: Option<String>,
    pub pending: u64,
    pub dead: u64,
    pub done: u64,
}

#[derive(Deserialize)]
struct Consumers {
    consumers: Vec<Consumer>,
}

#[derive(Deserialize)]
struct StatePage {
    #[serde(default)]
    counters: Vec<Counter>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Counter {
    key: String,
    value: i64,
}

impl Api {
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Whether the host says that it is ready.
    pub async fn is_ready(self) -> Result<bool> {
        let (status, _) = self.ask("GET", "/readyz", "", &[]).await?;
        Ok(status == 200)
    }

    pub async fn consumers(self) -> Result<Vec<Consumer>> {
        let consumers: Consumers = self.read("/v1/consumers").await?;
        Ok(consumers.consumers)
    }

    /// All counters of a consumer whose keys begin with `prefix`, in key order.
    pub async fn counters(self, consumer: &str, prefix: &str) -> Result<Vec<(String, i64)>> {
        let mut counters = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut path = format!("/v1/consumers/{consumer}/state?prefix={}", encoded(prefix));
            path.push_str(&format!("&limit={COUNTERS_PER_PAGE}"));
            if let Some(after) = &after {
                path.push_str(&format!("&after={}", encoded(after)));
            }
            let page: StatePage = self.read(&path).await?;
            counters.extend(page.counters.into_iter().map(|counter| (counter.key, counter.value)));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(counters),
            }
        }
    }

    /// Publishes that `quantity` units of each SKU came in.
    pub async fn receive_stock(self, skus: &[String], quantity: i64) -> Result<()> {
        let event = |sku: &String| {
            let data = json!({ "sku": sku, "quantity": quantity });
            event(&format!("received-{sku}"), "com.fanfare.stock.received", sku, data)
        };
        for batch in skus.chunks(EVENTS_PER_BATCH) {
            self.publish(&batch.iter().map(event).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Publishes CloudEvents, at most [`EVENTS_PER_BATCH`].
    pub async fn publish(self, events: &[Value]) -> Result<()> {
        let body = serde_json::to_vec(events)?;
        let (status, body) = self.ask("POST", "/v1/events", "application/cloudevents-batch+json", &body).await?;
        ensure!(status == 202, "POST /v1/events was answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    async fn read<T: DeserializeOwned>(self, path: &str) -> Result<T> {
        let (status, body) = self.ask("GET", path, "", &[]).await?;
        ensure!(status == 200, "GET {path} was answered {status}: {}", String::from_utf8_lossy(&body));
        let unexpected = || format!("GET {path} was answered what nobody expects: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).with_context(unexpected)
    }

    /// Status and body of the answer.
    async fn ask(self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if !content_type.is_empty() {
            request.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.exchange(&request).await.with_context(|| format!("{method} {path}"))?;
        Ok((answer.status, answer.body.to_vec()))
    }
}

/// A CloudEvent about `subject`.
pub fn event(id: &str, kind: &str, subject: &str, data: Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "/bench",
        "type": kind,
        "subject": subject,
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// Percent-encoded for a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn what_means_something_in_a_query_is_encoded() {
        assert_eq!(encoded("stock/A&b=ü"), "stock%2FA%26b%3D%C3%BC");
    }
}
