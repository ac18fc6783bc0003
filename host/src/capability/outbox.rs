//! What a consumer tells the world: custom events and messages, staged.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::limits::{self, settable, within};
use super::{Handling, Stop};
use crate::effects::Message;
use crate::event::{Custom, DEPTH_MAX, check_data, check_kind};

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
        settable("events", "events published for one event", self.events.len() + 1, self.budget.limits.events)?;
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
        settable("messages", "messages for one event", self.messages.len() + 1, self.budget.limits.messages)?;
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

fn json(kind: &str, data: String) -> Result<Arc<RawValue>, Stop> {
    check_data(&data)
        .and_then(|()| RawValue::from_string(data))
        .map(Arc::from)
        .map_err(|error| Stop::bad_argument(format!("publish: the data of {kind} is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Memory, custom, everything, handling, overstep};
    use super::*;
    use crate::order::OrderId;
    use crate::policy::{Grant, Limits};

    fn draft(kind: &str, data: &str) -> Draft {
        Draft { kind: kind.to_owned(), subject: "NW-11".to_owned(), order_id: None, data: data.to_owned() }
    }

    fn email(to: &str) -> Message {
        Message::Email { to: to.to_owned(), subject: "Hello".to_owned(), text: "there".to_owned(), html: None }
    }

    #[test]
    fn a_published_event_carries_the_consumer_as_its_source() {
        let mut handling = handling(Memory::default());
        let order_id = OrderId::generate();
        let wanted = Draft { order_id: Some(order_id.to_string()), ..draft("com.example.low", r#"{"left":3}"#) };
        handling.publish(wanted).unwrap();
        let (_, effects) = handling.finish();
        let published = &effects.events[0];
        assert_eq!((&*published.kind, &*published.source), ("com.example.low", "/fanfare/consumers/inventory"));
        assert_eq!((published.order_id, published.data.get()), (Some(order_id), r#"{"left":3}"#));
    }

    #[test]
    fn only_granted_kinds_are_published_and_never_the_hosts_own() {
        let grant = Grant { publish: vec!["*".parse().unwrap()], ..Grant::default() };
        let mut all = Handling::new(fixture::rights(grant), custom("a", 0), std::sync::Arc::new(Memory::default()));
        assert_eq!(overstep(all.publish(draft("order.placed", "{}"))).0, "grant");
        let mut some = handling(Memory::default());
        let (kind, message) = overstep(some.publish(draft("com.other.low", "{}")));
        assert_eq!(kind, "grant");
        assert!(message.contains("add it to grant.publish in inventory.toml"), "{message}");
    }

    #[test]
    fn what_is_no_event_stops_the_guest() {
        let mut handling = handling(Memory::default());
        for wrong in [
            draft("com.example.low", "{"),
            draft("com.example.low", &"[".repeat(10_000)),
            draft("com example", "{}"),
            Draft { subject: String::new(), ..draft("com.example.low", "{}") },
            Draft { order_id: Some("7".to_owned()), ..draft("com.example.low", "{}") },
        ] {
            let shown = format!("{wrong:?}");
            assert_eq!(overstep(handling.publish(wrong)).0, "bad-argument", "{shown}");
        }
        let long = format!("{:?}", "x".repeat(limits::EVENT_DATA_BYTES_MAX));
        assert_eq!(overstep(handling.publish(draft("com.example.low", &long))).0, "limit");
        assert!(handling.finish().1.is_empty());
    }

    #[test]
    fn a_chain_of_causes_ends_at_the_deepest_allowed() {
        let at = |depth| {
            let view = std::sync::Arc::new(Memory::default());
            Handling::new(fixture::rights(everything()), custom("com.example.ping", depth), view)
        };
        at(DEPTH_MAX - 1).publish(draft("com.example.pong", "1")).unwrap();
        let (kind, message) = overstep(at(DEPTH_MAX).publish(draft("com.example.pong", "1")));
        assert_eq!(kind, "event-loop");
        assert!(message.starts_with("event loop: 16 events"), "{message}");
    }

    #[test]
    fn messages_take_a_grant_each_kind_its_own() {
        let grant = Grant { email: true, ..Grant::default() };
        let view = std::sync::Arc::new(Memory::default());
        let mut handling = Handling::new(fixture::rights(grant), custom("a", 0), view);
        handling.send(email("a@example.com")).unwrap();
        let sms = Message::Sms { to: "+4930123456".to_owned(), text: "Hello".to_owned() };
        let (kind, message) = overstep(handling.send(sms));
        assert_eq!((kind, &*message), ("grant", "sms is not granted: set grant.sms = true in inventory.toml"));
        assert_eq!(handling.finish().1.messages, [email("a@example.com")]);
    }

    #[test]
    fn messages_are_bounded() {
        let mut handling = handling(Memory::default());
        assert_eq!(overstep(handling.send(email(""))).0, "bad-argument");
        let long = Message::Sms { to: "+1".to_owned(), text: "x".repeat(limits::SMS_BYTES_MAX + 1) };
        assert_eq!(overstep(handling.send(long)).1, "1601 bytes of SMS: the limit is 1600");
        let stopped =
            (0..=Limits::default().messages).map(|_| handling.send(email("a@b"))).find(Result::is_err).unwrap();
        assert_eq!(
            overstep(stopped).1,
            "101 messages for one event: the limit is 100; raise limits.messages in the side file if the plugin needs it"
        );
    }
}
