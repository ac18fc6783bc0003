//! What a consumer tells the world: custom events and messages, staged.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::limits::{self, within};
use super::{Handling, Stop};
use crate::effects::Message;
use crate::event::{Custom, DEPTH_MAX, check_kind};

/// A custom event as a guest wants it published.
#[derive(Debug)]
pub struct Draft {
    pub kind: String,
    pub subject: String,
    pub order_id: Option<String>,
    pub data: String,
}

impl Handling {
    /// Stages a custom event.
    pub fn publish(&mut self, draft: Draft) -> Result<(), Stop> {
        let Draft { kind, subject, order_id, data } = draft;
        check_kind(&kind).map_err(|error| Stop::bad_argument(format!("publish: {error}")))?;
        self.check_publish(&kind)?;
        within("events published for one event", self.events.len() + 1, limits::EVENTS_MAX)?;
        within("bytes of subject", subject.len(), limits::SUBJECT_BYTES_MAX)?;
        within("bytes of event data", data.len(), limits::EVENT_DATA_BYTES_MAX)?;
        self.budget.stage(kind.len() + subject.len() + data.len())?;
        if subject.is_empty() {
            return Err(Stop::bad_argument(format!("publish: {kind} has no subject: name what it is about")));
        }
        let order_id = match order_id {
            Some(id) => Some(id.parse().map_err(|_| Stop::bad_argument(format!("publish: {id:?} is no order id")))?),
            None => None,
        };
        self.events.push(Custom {
            data: json(&kind, data)?,
            kind: kind.into(),
            source: Arc::clone(&self.rights.source),
            origin_id: None,
            subject: subject.into(),
            order_id,
        });
        Ok(())
    }

    fn check_publish(&self, kind: &str) -> Result<(), Stop> {
        let consumer = &self.rights.consumer;
        if kind.starts_with("order.") {
            return Err(Stop::grant(format!("{kind} is the host's own: move an order with change-order")));
        }
        if !self.rights.grant.publish.iter().any(|granted| granted.matches(kind)) {
            return Err(Stop::grant(format!(
                "publishing {kind} is not granted: add it to grant.publish in {consumer}.toml"
            )));
        }
        if self.event.depth >= DEPTH_MAX {
            return Err(Stop::event_loop(format!(
                "event loop: {} events already caused one another before {kind}; \
                 let {consumer} not publish what leads back to itself",
                self.event.depth
            )));
        }
        Ok(())
    }

    /// Stages a message.
    pub fn send(&mut self, message: Message) -> Result<(), Stop> {
        let granted = match message {
            Message::Email { .. } => self.rights.grant.email,
            Message::Sms { .. } => self.rights.grant.sms,
        };
        if !granted {
            let (kind, consumer) = (message.kind(), &self.rights.consumer);
            return Err(Stop::grant(format!("{kind} is not granted: set grant.{kind} = true in {consumer}.toml")));
        }
        within("messages for one event", self.messages.len() + 1, limits::MESSAGES_MAX)?;
        within("bytes of address", message.to().len(), limits::ADDRESS_BYTES_MAX)?;
        if message.to().is_empty() {
            return Err(Stop::bad_argument(format!("send: the {} has no address", message.kind())));
        }
        let bytes = match &message {
            Message::Email { subject, text, html, .. } => {
                within("bytes of mail subject", subject.len(), limits::MAIL_SUBJECT_BYTES_MAX)?;
                let body = text.len() + html.as_ref().map_or(0, String::len);
                within("bytes of e-mail", body, limits::MESSAGE_BYTES_MAX)?;
                subject.len() + body
            }
            Message::Sms { text, .. } => {
                within("bytes of SMS", text.len(), limits::SMS_BYTES_MAX)?;
                text.len()
            }
        };
        self.budget.stage(bytes)?;
        self.messages.push(message);
        Ok(())
    }
}

/// Checked by a full parse, which refuses what nests too deep for every later reader as well.
fn json(kind: &str, data: String) -> Result<Arc<RawValue>, Stop> {
    serde_json::from_str::<Value>(&data)
        .and_then(|_| RawValue::from_string(data))
        .map(Arc::from)
        .map_err(|error| Stop::bad_argument(format!("publish: the data of {kind} is not JSON: {error}")))
}
