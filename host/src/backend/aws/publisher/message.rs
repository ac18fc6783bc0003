//! An event as SNS is told of it.

use sha2::{Digest as _, Sha256};

use crate::backend::aws::item::LaneKey;
use crate::backend::aws::lane::{Envelope, Logged};
use crate::backend::aws::resources::names;

/// Of an event beyond this, only where it stands in the table is told.
pub const EVENT_BYTES_MAX: usize = 200 << 10;
/// Attribute that carries the [`Envelope`].
pub const ENVELOPE_ATTRIBUTE: &str = "fanfare";

/// Letters that are legal in JSON, and in no message: SQS refuses them, or puts another one in their place. Those below U+0020, JSON
/// itself has escaped.
const IN_NO_MESSAGE: [char; 2] = ['\u{fffe}', '\u{ffff}'];

/// Attributes and body of an event's message, where `table_id` is that of the table.
pub fn message(logged: &Logged, table_id: Option<&str>) -> serde_json::Result<([(&'static str, String); 2], String)> {
    let body = serde_json::to_string(&*logged.event)?;
    let by_reference = body.len() > EVENT_BYTES_MAX || body.contains(IN_NO_MESSAGE);
    let table = table_id.map(str::to_owned);
    let mut envelope = serde_json::to_string(&Envelope { by_reference, table, ..Envelope::of(logged) })?;
    for letter in IN_NO_MESSAGE {
        // They stand in texts alone.
        envelope = envelope.replace(letter, &format!("\\u{:04x}", u32::from(letter)));
    }
    let body = if by_reference { "{}".to_owned() } else { body };
    Ok(([(names::KIND_ATTRIBUTE, logged.event.kind().to_owned()), (ENVELOPE_ATTRIBUTE, envelope)], body))
}

/// Message group of a lane: at most 128 letters and digits.
pub fn group(lane: &LaneKey) -> String {
    Sha256::digest(lane.as_str()).iter().take(20).fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::RawValue;

    use super::*;
    use crate::backend::aws::lane::Tail;
    use crate::backend::contract::custom;
    use crate::clock::Timestamp;
    use crate::event::{Body, Custom, Event, EventId, Position};

    #[test]
    fn what_no_message_may_hold_is_in_none() {
        let data = RawValue::from_string("\"\u{fffe}\"".to_owned()).unwrap().into();
        let body = Body::Custom(Custom { data, ..custom("\u{ffff}") });
        let (id, position) = (EventId::generate(), Position::FIRST);
        let event = Event { id, position, time: Timestamp::now(), cause: None, depth: 0, body };
        let event = Tail::default().next(Arc::new(event), None, false);
        let ([kind, (_, envelope)], body) = message(&event, None).unwrap();
        assert!(![&kind.1, &envelope, &body].iter().any(|text| text.contains(IN_NO_MESSAGE)), "{envelope} {body}");
        let read: Envelope = serde_json::from_str(&envelope).unwrap();
        assert!(read.by_reference);
        assert_eq!(read.lane, event.key.as_str(), "it is the same text");
    }
}
