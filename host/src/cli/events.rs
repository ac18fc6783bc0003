//! `fanfare events`: custom events, as CloudEvents 1.0.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Payload};
use super::import::read_input;
use super::print::{Output, items, table, text};
use crate::api::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};

/// A file of events is sent in batches; all of it is read first, so that a mistake in it sends nothing.
const FILE_BYTES_MAX: u64 = 64 << 20;

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
    #[arg(long, conflicts_with = "file")]
    subject: Option<String>,
    /// A JSON value.
    #[arg(long, default_value = "null", conflicts_with = "file")]
    data: String,
    /// The order that it belongs to.
    #[arg(long, conflicts_with = "file")]
    order_id: Option<String>,
    /// Who says so. An event with the same source and id is recorded once.
    #[arg(long, default_value = "urn:fanfare:cli", conflicts_with = "file")]
    source: String,
    /// Made up if not given.
    #[arg(long, conflicts_with = "file")]
    id: Option<String>,
}

impl Events {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Self::Publish(publish) = self;
        let results = match &publish.file {
            Some(file) => publish_all(client, &parse_events(&read_input(file, FILE_BYTES_MAX)?)?)?,
            None => {
                let id = publish.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
                let advice = format!("it may be recorded all the same: with --id {id} it is recorded once");
                publish_all(client, &[publish.event(&id)?]).map_err(|failure| failure.with_advice(&advice))?
            }
        };
        output.show(&json!({ "events": results }), |answer| {
            let row = |event: &Value| ["/id", "/repeated"].map(|path| text(event, path));
            table(["id", "repeated"], items(answer, "/events").iter().map(row))
        });
        Ok(())
    }
}

/// An event of the command line.
#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'a Option<String>,
    subject: &'a Option<String>,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    orderid: &'a Option<String>,
    data: Box<RawValue>,
}

impl Publish {
    fn event(&self, id: &str) -> Result<Box<RawValue>, Failure> {
        // As it is written: numbers of any length stay what they are.
        let data: Box<RawValue> = serde_json::from_str(&self.data).map_err(|error| {
            Failure::Usage(format!("--data: this is no JSON: {error}; text needs quotes: '\"text\"'"))
        })?;
        let event = Event {
            specversion: "1.0",
            id,
            source: &self.source,
            r#type: &self.kind,
            subject: &self.subject,
            datacontenttype: "application/json",
            orderid: &self.order_id,
            data,
        };
        serde_json::value::to_raw_value(&event).map_err(|error| Failure::Failed(format!("no event: {error}")))
    }
}

/// Records `events`, which are JSON, in batches, in their order; what the host answered for each.
///
/// # Errors
/// Those of the first batch that fails; the batches before it are recorded, and the failure says so.
pub fn publish_all(client: &Client, events: &[impl ToString]) -> Result<Vec<Value>, Failure> {
    let events: Vec<String> = events.iter().map(ToString::to_string).collect();
    let mut results = Vec::with_capacity(events.len());
    let mut rest = events.as_slice();
    while !rest.is_empty() {
        let before = events.len() - rest.len();
        let (batch, behind) = rest.split_at(batch_len(rest));
        let body = format!("[{}]", batch.join(","));
        let media_type = "application/cloudevents-batch+json";
        let payload = Payload { media_type, bytes: body.as_bytes(), idempotency_key: None };
        let answer = client.post("/v1/events", payload).map_err(|failure| stopped(failure, before, events.len()))?;
        results.extend(items(&answer, "/events").iter().cloned());
        rest = behind;
    }
    Ok(results)
}

/// How many events the host takes at once: at least one, and what is too much of one it says itself.
fn batch_len(events: &[String]) -> usize {
    const AROUND: usize = 2;
    let mut bytes = AROUND;
    let fitting = events.iter().take(BATCH_EVENTS_MAX).take_while(|event| {
        bytes += event.len() + 1;
        bytes <= BATCH_BYTES_MAX
    });
    fitting.count().max(1)
}

/// The host counts the events of one batch; people count those of their file.
fn stopped(failure: Failure, before: usize, of: usize) -> Failure {
    let resume = match before {
        0 => String::new(),
        _ => format!("\nthe first {before} events are recorded: repeated with their ids, they count once"),
    };
    match failure {
        Failure::Refused(mut problem) => {
            for error in &mut problem.errors {
                error.field = renumbered(&error.field, before, of);
            }
            if let Some(detail) = &mut problem.detail {
                detail.push_str(&resume);
            }
            Failure::Refused(problem)
        }
        Failure::Unavailable(what) => Failure::Unavailable(what + &resume),
        Failure::Failed(what) => Failure::Failed(what + &resume),
        other => other,
    }
}

/// `[3].type` of a batch behind 100 events is `[103].type`; of the only event there is, it is `type`.
fn renumbered(field: &str, before: usize, of: usize) -> String {
    let parts = field.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let Some((index, rest)) = parts.and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest))) else {
        return field.to_owned();
    };
    match rest.strip_prefix('.') {
        Some(attribute) if of == 1 => attribute.to_owned(),
        _ => format!("[{}]{rest}", before + index),
    }
}

fn parse_events(bytes: &[u8]) -> Result<Vec<Box<RawValue>>, Failure> {
    let wrong = |error: serde_json::Error| Failure::Usage(format!("the file is no JSON: {error}"));
    let mut events = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Box<RawValue>>() {
        let value = value.map_err(wrong)?;
        if value.get().starts_with('[') {
            events.extend(serde_json::from_str::<Vec<Box<RawValue>>>(value.get()).map_err(wrong)?);
        } else {
            events.push(value);
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
        assert!(matches!(parse_events(b"{\"id\": \"\xff\"}"), Err(Failure::Usage(_))));
    }

    #[test]
    fn data_is_sent_as_it_was_written() {
        const DATA: &str = r#"{"z":123456789012345678901234567890,"a":1.10}"#;
        let publish = Publish {
            file: None,
            kind: Some("com.example.a".to_owned()),
            subject: Some("s".to_owned()),
            data: DATA.to_owned(),
            order_id: None,
            source: "urn:x".to_owned(),
            id: None,
        };
        assert!(publish.event("1").unwrap().get().ends_with(&format!("\"data\":{DATA}}}")));
        let line = format!("{{\"id\":\"1\",\"data\":{DATA}}}");
        assert_eq!(parse_events(format!("[{line},{line}]").as_bytes()).unwrap()[1].get(), line);
    }

    #[test]
    fn a_batch_is_no_larger_than_the_host_takes() {
        let event = |bytes: usize| "x".repeat(bytes);
        let small: Vec<_> = (0..250).map(|_| event(10)).collect();
        assert_eq!(batch_len(&small), BATCH_EVENTS_MAX);
        let large: Vec<_> = (0..30).map(|_| event(256 << 10)).collect();
        let taken = batch_len(&large);
        assert!((10..=15).contains(&taken), "{taken}");
        let joined: usize = large[..taken].iter().map(|event| event.len() + 1).sum();
        assert!(joined < BATCH_BYTES_MAX);
        assert_eq!(batch_len(&[event(BATCH_BYTES_MAX)]), 1);
    }

    #[test]
    fn faults_are_told_by_the_place_in_the_file() {
        assert_eq!(renumbered("[3].type", 100, 250), "[103].type");
        assert_eq!(renumbered("[0].type", 0, 1), "type");
        assert_eq!(renumbered("body", 0, 1), "body");
    }
}
