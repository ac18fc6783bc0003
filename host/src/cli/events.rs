//! `fanfare events`: custom events, as CloudEvents 1.0.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Payload};
use super::import::read_input;
use super::print::{Output, items, set, table, text};

/// A file of events is sent in batches; all of it is read first, so that a mistake in it sends nothing.
const FILE_BYTES_MAX: u64 = 64 << 20;
const EVENTS_PER_REQUEST: usize = 100;

#[derive(Debug, Subcommand)]
pub enum Events {
    /// Record one event, or those of a file.
    Publish(Publish),
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["kind", "file"])))]
pub struct Publish {
    /// A file of CloudEvents: one object, an array, or one object a line; - for standard input.
    file: Option<PathBuf>,
    /// Dotted, reverse-DNS: com.example.stock.received
    #[arg(long = "type", value_name = "KIND", requires = "subject")]
    kind: Option<String>,
    /// What it is about, for example a SKU.
    #[arg(long)]
    subject: Option<String>,
    /// A JSON value.
    #[arg(long, default_value = "null")]
    data: String,
    /// The order that it belongs to.
    #[arg(long)]
    order_id: Option<String>,
    /// Who says so. An event with the same source and id is recorded once.
    #[arg(long, default_value = "urn:fanfare:cli")]
    source: String,
    /// Made up if not given.
    #[arg(long)]
    id: Option<String>,
}

impl Events {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Self::Publish(publish) = self;
        let events = match &publish.file {
            Some(file) => parse_events(&read_input(file, FILE_BYTES_MAX)?)?,
            None => vec![publish.event()?],
        };
        let results = publish_all(client, &events)?;
        output.show(&json!({ "events": results }), |answer| {
            let row = |event: &Value| ["/id", "/repeated"].map(|path| text(event, path));
            table(["id", "repeated"], items(answer, "/events").iter().map(row))
        });
        Ok(())
    }
}

impl Publish {
    fn event(&self) -> Result<Value, Failure> {
        let data: Value = serde_json::from_str(&self.data).map_err(|error| {
            Failure::Usage(format!("--data: this is no JSON: {error}; text needs quotes: '\"text\"'"))
        })?;
        let mut event = json!({
            "specversion": "1.0",
            "id": self.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
            "source": self.source,
            "type": self.kind,
            "subject": self.subject,
            "datacontenttype": "application/json",
            "data": data,
        });
        if let Some(order_id) = &self.order_id {
            set(&mut event, "orderid", json!(order_id));
        }
        Ok(event)
    }
}

/// Records `events` in batches, in their order; what the host answered for each.
///
/// # Errors
/// Those of the first batch that fails; the batches before it are recorded.
pub fn publish_all(client: &Client, events: &[Value]) -> Result<Vec<Value>, Failure> {
    let mut results = Vec::with_capacity(events.len());
    for batch in events.chunks(EVENTS_PER_REQUEST) {
        let body = json!(batch).to_string();
        let media_type = "application/cloudevents-batch+json";
        let payload = Payload { media_type, bytes: body.as_bytes(), idempotency_key: None };
        let answer = client.post("/v1/events", payload)?;
        results.extend(items(&answer, "/events").iter().cloned());
    }
    Ok(results)
}

fn parse_events(bytes: &[u8]) -> Result<Vec<Value>, Failure> {
    let mut events = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
        match value.map_err(|error| Failure::Usage(format!("the file is no JSON: {error}")))? {
            Value::Array(several) => events.extend(several),
            one => events.push(one),
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_an_array_and_lines_are_all_read() {
        for (text, count) in
            [("{\"id\":1}", 1), ("[{\"id\":1},{\"id\":2}]", 2), ("{\"id\":1}\n{\"id\":2}\n", 2), ("", 0)]
        {
            assert_eq!(parse_events(text.as_bytes()).unwrap().len(), count, "{text}");
        }
        assert!(matches!(parse_events(b"{\"id\":"), Err(Failure::Usage(_))));
    }
}
