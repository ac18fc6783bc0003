//! What a handler staged, as people are shown it when it was not committed: JSON of bounded size.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::{Effects, Message};

/// Of all effects of one attempt: enough to see what it was about, little enough to keep for every failed attempt.
pub const BYTES_MAX: usize = 8 << 10;
/// Of one text or value.
const TEXT_BYTES_MAX: usize = 1 << 10;

#[derive(Serialize)]
struct Sketch {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entries: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adjustments: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    order_changes: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<Box<RawValue>>,
    /// Effects that found no room here.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: usize,
}

impl Effects {
    /// A JSON object with one list per kind of effect, about `BYTES_MAX` long at most; longer texts are cut, and what
    /// finds no room is counted in `left_out`. `None` where nothing was staged.
    #[must_use]
    pub fn sketch(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut room = Room { bytes: BYTES_MAX, left_out: 0 };
        // What moves an order or reaches a person comes first: it must not be crowded out by state.
        let order_changes =
            room.fit(self.order_changes.iter().map(|(id, change)| json!({"order_id": id, "change": change})));
        let events = room.fit(self.events.iter().map(|event| {
            json!({"type": *event.kind, "subject": *event.subject, "order_id": event.order_id, "data": document(event.data.get())})
        }));
        let messages = room.fit(self.messages.iter().map(message));
        let adjustments =
            room.fit(self.adjustments.iter().map(|it| json!({"key": clip(&it.key), "by": it.by, "floor": it.floor})));
        let entries = room
            .fit(self.entries.iter().map(|(key, value)| json!({"key": clip(key), "value": entry(value.as_deref())})));
        let records = room
            .fit(self.records.iter().map(|record| json!({"dataset": *record.dataset, "row": document(&record.row)})));
        let left_out = room.left_out;
        let sketch = Sketch { entries, adjustments, order_changes, events, messages, records, left_out };
        // Texts and numbers are always JSON.
        serde_json::to_string(&sketch).ok()
    }
}

/// What may still be written.
struct Room {
    bytes: usize,
    left_out: usize,
}

impl Room {
    fn fit(&mut self, effects: impl Iterator<Item = serde_json::Value>) -> Vec<Box<RawValue>> {
        let mut fitting = Vec::new();
        for effect in effects {
            match to_raw_value(&effect) {
                Ok(json) if json.get().len() <= self.bytes => {
                    self.bytes -= json.get().len();
                    fitting.push(json);
                }
                _ => self.left_out += 1,
            }
        }
        fitting
    }
}

fn message(message: &Message) -> serde_json::Value {
    match message {
        Message::Email { to, subject, text, html: _ } => {
            json!({"kind": "email", "to": clip(to), "subject": clip(subject), "text": clip(text)})
        }
        Message::Sms { to, text } => json!({"kind": "sms", "to": clip(to), "text": clip(text)}),
    }
}

/// Text as text, anything else in base64, a deleted entry as null.
fn entry(value: Option<&[u8]>) -> serde_json::Value {
    match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => serde_json::Value::Null,
        Some((_, Ok(text))) => clip(text).into(),
        Some((bytes, Err(_))) => {
            let shown = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
            json!({"base64": BASE64.encode(shown), "bytes": bytes.len()})
        }
    }
}

/// A JSON document as it is where it is short, and as a text that breaks off where it is long.
fn document(json: &str) -> serde_json::Value {
    match serde_json::from_str(json) {
        Ok(value) if json.len() <= TEXT_BYTES_MAX => value,
        _ => clip(json).into(),
    }
}

/// At most [`TEXT_BYTES_MAX`] of `text`, cut between characters.
fn clip(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return text.into();
    }
    format!("{}…", text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()).into()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::effects::{Adjustment, Record};
    use crate::event::Custom;
    use crate::order::{Change, OrderId};

    fn shown(effects: &Effects) -> Value {
        serde_json::from_str(&effects.sketch().unwrap()).unwrap()
    }

    #[test]
    fn every_kind_of_effect_is_shown() {
        let order = OrderId::generate();
        let data: Box<RawValue> = serde_json::from_str(r#"{"sku":"TEA"}"#).unwrap();
        let effects = Effects {
            entries: vec![
                ("text".into(), Some(b"one".as_slice().into())),
                ("bytes".into(), Some([0xff, 0].as_slice().into())),
                ("gone".into(), None),
            ],
            adjustments: vec![Adjustment { key: "stock/TEA".into(), by: -2, floor: Some(0) }],
            order_changes: vec![(order, Change::Confirmed {})],
            events: vec![Custom {
                kind: "com.example.low".into(),
                source: "/fanfare/consumers/a".into(),
                origin_id: None,
                subject: "TEA".into(),
                order_id: None,
                data: data.into(),
            }],
            messages: vec![Message::Sms { to: "+49".into(), text: "hello".into() }],
            records: vec![Record { dataset: "rows".into(), row: r#"{"a":1}"#.into() }],
        };
        let shown = shown(&effects);
        assert_eq!(
            shown,
            json!({
                "entries": [
                    {"key": "text", "value": "one"},
                    {"key": "bytes", "value": {"base64": "/wA=", "bytes": 2}},
                    {"key": "gone", "value": null},
                ],
                "adjustments": [{"key": "stock/TEA", "by": -2, "floor": 0}],
                "order_changes": [{"order_id": order, "change": {"confirmed": {}}}],
                "events": [{"type": "com.example.low", "subject": "TEA", "order_id": null, "data": {"sku": "TEA"}}],
                "messages": [{"kind": "sms", "to": "+49", "text": "hello"}],
                "records": [{"dataset": "rows", "row": {"a": 1}}],
            })
        );
    }

    #[test]
    fn what_was_not_staged_is_not_shown() {
        assert_eq!(Effects::default().sketch(), None);
    }

    #[test]
    fn much_is_cut_and_what_finds_no_room_is_counted() {
        let long = "ü".repeat(TEXT_BYTES_MAX);
        let entries = (0..100).map(|n| (format!("k/{n}").into(), Some(long.as_bytes().into()))).collect();
        let changes = vec![(OrderId::generate(), Change::Confirmed {})];
        let effects = Effects { entries, order_changes: changes, ..Effects::default() };
        let text = effects.sketch().unwrap();
        assert!(text.len() <= BYTES_MAX + 200, "{}", text.len());
        let shown = shown(&effects);
        let kept = shown["entries"].as_array().unwrap().len();
        assert!(kept > 0);
        assert_eq!(shown["left_out"], 100 - kept);
        assert_eq!(shown["order_changes"].as_array().unwrap().len(), 1, "what moves an order comes first");
    }
}
