//! Custom events as CloudEvents 1.0 carry them, checked. Pure.
//!
//! Attributes that the host knows are checked; other extension attributes (`traceparent`, …) are allowed, as
//! CloudEvents demands, and not kept. `time` must be a time and is not kept either: an event's time is when it was
//! recorded. Data is JSON; without `data` it is `null`. Without `subject` the lane is that of the `type`.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::limits::{DATA_DEPTH_MAX, EVENT_DATA_BYTES_MAX};
use crate::clock::Timestamp;
use crate::event::{Custom, check_data, check_kind};
use crate::order::OrderId;
use crate::order::draft::{Faults, FieldError};

const ID_CHARS_MAX: usize = 200;
const SOURCE_CHARS_MAX: usize = 200;
const SUBJECT_CHARS_MAX: usize = 256;

/// Kinds that only the host may use.
const RESERVED_KIND: &str = "order";

/// The source of the host and, below it, of the consumers.
const RESERVED_SOURCE: &str = "/fanfare";

/// One event as it was sent, in whichever mode.
#[derive(Debug, Default, Deserialize)]
pub struct Sent {
    pub specversion: Option<String>,
    pub id: Option<String>,
    pub source: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub subject: Option<String>,
    pub time: Option<String>,
    pub datacontenttype: Option<String>,
    pub orderid: Option<String>,
    pub data: Option<Box<RawValue>>,
    pub data_base64: Option<IgnoredAny>,
}

impl Sent {
    /// The event to record. `prefix` stands before the names of attributes in refusals: `[3].` in a batch.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(self, prefix: &str) -> Result<Custom, Vec<FieldError>> {
        let mut faults = Faults::default();
        if self.specversion.as_deref() != Some("1.0") {
            faults.add(format_args!("{prefix}specversion"), "must be \"1.0\"");
        }
        let origin_id = faults.required(format_args!("{prefix}id"), self.id, ID_CHARS_MAX);
        let source = faults.source(prefix, self.source);
        let kind = faults.kind(prefix, self.kind);
        let subject = self
            .subject
            .map(|subject| faults.required(format_args!("{prefix}subject"), Some(subject), SUBJECT_CHARS_MAX));
        if let Some(Err(err)) = self.time.map(|time| time.parse::<Timestamp>()) {
            faults.add(format_args!("{prefix}time"), err.to_string());
        }
        if self.datacontenttype.is_some_and(|media_type| !is_json(&media_type)) || self.data_base64.is_some() {
            faults.add(format_args!("{prefix}data"), "must be JSON, in the attribute `data`");
        }
        let order_id = self.orderid.and_then(|id| {
            let parsed = id.parse::<OrderId>().ok();
            if parsed.is_none() {
                faults.add(format_args!("{prefix}orderid"), "is not an order id, which is a UUID");
            }
            parsed
        });
        let data = faults.data(prefix, self.data);
        faults.none()?;

        let kind: Arc<str> = kind.into();
        Ok(Custom {
            subject: subject.map_or_else(|| Arc::clone(&kind), Arc::from),
            kind,
            source: source.into(),
            origin_id: Some(origin_id.into()),
            order_id,
            data: data.into(),
        })
    }
}

impl Faults {
    fn source(&mut self, prefix: &str, source: Option<String>) -> String {
        let field = format_args!("{prefix}source");
        let source = self.required(field, source, SOURCE_CHARS_MAX);
        if source.contains(char::is_whitespace) {
            self.add(field, "is not a URI reference: it holds a space");
        }
        let below = source.strip_prefix(RESERVED_SOURCE);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            self.add(field, "begins with /fanfare, which is the host's own");
        }
        source
    }

    fn kind(&mut self, prefix: &str, kind: Option<String>) -> String {
        let field = format_args!("{prefix}type");
        let Some(kind) = kind else {
            self.add(field, "is required");
            return String::new();
        };
        if check_kind(&kind).is_err() {
            self.add(field, "must be dotted words of letters, digits, '-' and '_', such as com.example.stock.received");
        } else if kind.split('.').next() == Some(RESERVED_KIND) {
            self.add(field, "is the host's own: only the host makes order events");
        }
        kind
    }

    fn data(&mut self, prefix: &str, data: Option<Box<RawValue>>) -> Box<RawValue> {
        let data = data.unwrap_or_else(|| RawValue::NULL.to_owned());
        let field = format_args!("{prefix}data");
        if data.get().len() > EVENT_DATA_BYTES_MAX {
            self.add(field, format!("is {} bytes long; at most {EVENT_DATA_BYTES_MAX} are taken", data.get().len()));
        } else if nesting(data.get()) > DATA_DEPTH_MAX {
            self.add(field, format!("nests deeper than {DATA_DEPTH_MAX} arrays and objects"));
        } else if let Err(error) = check_data(data.get()) {
            self.add(field, format!("holds what no consumer could read: {error}"));
        }
        data
    }
}

/// Whether a media type says JSON: `application/json`, or any type with the suffix `+json`.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// How deep arrays and objects nest in a text that is JSON.
pub fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(event: &Value) -> Result<Custom, Vec<String>> {
        let sent: Sent = serde_json::from_str(&event.to_string()).unwrap();
        sent.check("").map_err(|faults| faults.into_iter().map(|fault| fault.field).collect())
    }

    fn good() -> Value {
        json!({"specversion": "1.0", "id": "1", "source": "/warehouse", "type": "com.fanfare.stock.received",
               "subject": "NW-11", "time": "2026-11-22T10:00:00Z", "datacontenttype": "application/json",
               "traceparent": "00-x", "data": {"sku": "NW-11", "quantity": 5}})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut event = good();
        event[key] = value;
        event
    }

    #[test]
    fn a_good_event_is_taken_as_it_is() {
        let custom = check(&good()).unwrap();
        assert_eq!((&*custom.kind, &*custom.subject), ("com.fanfare.stock.received", "NW-11"));
        assert_eq!(custom.origin_id.as_deref(), Some("1"));
        assert_eq!(custom.data.get(), r#"{"quantity":5,"sku":"NW-11"}"#);
    }

    #[test]
    fn without_subject_and_data_the_kind_is_the_subject_and_the_data_null() {
        let event = json!({"specversion": "1.0", "id": "1", "source": "/w", "type": "com.example.ping"});
        let custom = check(&event).unwrap();
        assert_eq!((&*custom.subject, custom.data.get()), ("com.example.ping", "null"));
    }

    #[test]
    fn every_fault_names_its_attribute() {
        let deep = serde_json::from_str::<Value>(&("[".repeat(65) + &"]".repeat(65))).unwrap();
        let cases = [
            ("specversion", json!("0.3")),
            ("id", json!("")),
            ("id", Value::Null),
            ("id", json!("a\nb")),
            ("source", Value::Null),
            ("source", json!("a b")),
            ("source", json!("/fanfare")),
            ("source", json!("/fanfare/consumers/inventory")),
            ("type", Value::Null),
            ("type", json!("a..b")),
            ("type", json!("order.placed")),
            ("type", json!("order")),
            ("subject", json!("")),
            ("time", json!("yesterday")),
            ("orderid", json!("NW-10248")),
            ("data", deep),
            ("data", json!("x".repeat(EVENT_DATA_BYTES_MAX))),
        ];
        for (key, value) in cases {
            assert_eq!(check(&with(key, value.clone())).unwrap_err(), [key], "{key} = {value}");
        }
        assert_eq!(check(&with("datacontenttype", json!("text/xml"))).unwrap_err(), ["data"]);
        assert_eq!(check(&with("data_base64", json!("AA=="))).unwrap_err(), ["data"]);
        assert!(check(&with("source", json!("/fanfares"))).is_ok());
    }

    #[test]
    fn data_that_no_consumer_could_read_is_refused() {
        for data in [r#"{"n":1e999}"#, r#"["\ud800"]"#, r#"{"\udc00":1}"#] {
            let sent = Sent {
                data: Some(serde_json::from_str(data).unwrap()),
                ..serde_json::from_str(&good().to_string()).unwrap()
            };
            let faults = sent.check("").unwrap_err();
            assert_eq!(faults.len(), 1, "{data}: {faults:?}");
            assert!(faults[0].field == "data" && faults[0].detail.contains("no consumer could read"), "{faults:?}");
        }
        let long = r#"{"n":123456789012345678901234567890,"s":"\ud83d\ude00"}"#;
        let sent = Sent {
            data: Some(serde_json::from_str(long).unwrap()),
            ..serde_json::from_str(&good().to_string()).unwrap()
        };
        assert_eq!(sent.check("").unwrap().data.get(), long, "it stays as it was written");
    }

    #[test]
    fn brackets_inside_strings_are_no_nesting() {
        assert_eq!(nesting(r#"["[[[\"[", {"a": "\\"}]"#), 2);
    }
}
