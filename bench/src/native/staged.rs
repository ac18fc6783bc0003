//! Everything that one order writes, worked out on the thread that took the order: what is left to the one thread that
//! writes is to add up and to write.

use fanfare::clock::Timestamp;
use fanfare::effects::Message;
use fanfare::event::EventId;
use fanfare::order::Change;

/// A consumer, by its place in the list of its mode.
pub type Consumer = usize;

#[derive(Default)]
pub struct Staged {
    pub events: Vec<Fact>,
    pub adjustments: Vec<Adjustment>,
    /// Keys of the adjustments, one behind the other: one allocation for all.
    keys: String,
    pub entries: Vec<Entry>,
    pub messages: Vec<MessageRow>,
    pub records: Vec<RecordRow>,
}

/// An event of the order, caused by the one before it.
pub struct Fact {
    pub id: EventId,
    pub change: Change,
    /// As they stand in the row.
    pub id_text: String,
    pub data: String,
}

pub struct Adjustment {
    pub consumer: Consumer,
    pub by: i64,
    pub rule: Rule,
    key_end: usize,
}

#[derive(Clone, Copy)]
pub enum Rule {
    Free,
    /// The sum must not be below.
    Floor(i64),
    /// The sum decides on the tier of this customer, whose name begins so far into the key.
    Tier(usize),
}

pub struct Entry {
    pub consumer: Consumer,
    pub key: String,
    pub value: Vec<u8>,
}

pub struct MessageRow {
    pub consumer: Consumer,
    /// Index of the event that it is about.
    pub event: usize,
    pub message_id: String,
    /// JSON.
    pub message: String,
}

pub struct RecordRow {
    pub consumer: Consumer,
    pub event: usize,
    pub dataset: &'static str,
    /// JSON.
    pub row: String,
}

impl Staged {
    /// Of an order that takes these steps, beginning with its placement.
    pub fn of(changes: impl IntoIterator<Item = Change>) -> serde_json::Result<Self> {
        let fact = |change| {
            let id = EventId::generate();
            Ok(Fact { id, id_text: id.to_string(), data: serde_json::to_string(&change)?, change })
        };
        let events = changes.into_iter().map(fact).collect::<serde_json::Result<_>>()?;
        Ok(Self { events, ..Self::default() })
    }

    /// The key is what `parts` make together.
    pub fn adjust(&mut self, consumer: Consumer, parts: &[&str], by: i64, rule: Rule) {
        parts.iter().for_each(|part| self.keys.push_str(part));
        self.adjustments.push(Adjustment { consumer, by, rule, key_end: self.keys.len() });
    }

    /// Adjustments with their keys.
    pub fn adjusted(&self) -> impl Iterator<Item = (&str, &Adjustment)> {
        self.adjustments.iter().scan(0, |start, adjustment| {
            let key = self.keys.get(*start..adjustment.key_end).unwrap_or_default();
            *start = adjustment.key_end;
            Some((key, adjustment))
        })
    }

    pub fn enter(&mut self, consumer: Consumer, key: String, value: impl Into<Vec<u8>>) {
        self.entries.push(Entry { consumer, key, value: value.into() });
    }

    pub fn send(&mut self, consumer: Consumer, name: &str, event: usize, message: &Message) -> serde_json::Result<()> {
        let id = self.events.get(event).map_or("", |fact| &fact.id_text);
        let row = MessageRow {
            consumer,
            event,
            message_id: format!("{id}.1.{name}"),
            message: serde_json::to_string(message)?,
        };
        self.messages.push(row);
        Ok(())
    }

    pub fn record(
        &mut self,
        consumer: Consumer,
        event: usize,
        dataset: &'static str,
        row: &impl serde::Serialize,
    ) -> serde_json::Result<()> {
        self.records.push(RecordRow { consumer, event, dataset, row: serde_json::to_string(row)? });
        Ok(())
    }
}

/// What a mode makes of an order that was placed at this time.
pub type Stage = fn(&fanfare::order::Order, Timestamp) -> serde_json::Result<Staged>;
