//! Messages on their way out.

use std::time::Duration;

use async_trait::async_trait;

use super::Aws;
use super::item::{Item, Key, MESSAGES, json, number, text};
use super::table::{Change, Indexed};
use crate::backend::{MessageReport, MessageState, Outgoing, Parcel, ParcelId, Result, Sending};
use crate::clock::Timestamp;
use crate::effects::Message;
use crate::event::Event;
use crate::policy::ConsumerName;

/// Partition of the index that has the messages which are to be sent, by when.
const DUE: &str = "due#mail#";
/// Between two looks when nothing rang: another host may have written one, and retries become due without a bell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the host that took a message up has it for itself.
const CLAIM: Duration = Duration::from_secs(60);

pub fn item(
    key: &Key,
    name: &ConsumerName,
    event: &Event,
    id: &str,
    message: &Message,
    now: Timestamp,
) -> Result<Item> {
    Ok(Item::at(key)
        .with("id", text(id))
        .with("by", text(name.as_str()))
        .with("e", text(event.id.to_string()))
        .with_some("o", event.order_id().map(|id| text(id.to_string())))
        .with("m", json(message)?)
        .with("t", number(now.as_millis()))
        .with("ms", text("pending"))
        .with("att", number(0))
        .with("lp", text(DUE))
        .with("ls", number(now.as_millis())))
}

pub fn state(item: &Item) -> Result<MessageState> {
    Ok(match item.text("ms")? {
        "sent" => MessageState::Sent,
        "failed" => MessageState::Failed,
        "unknown" => MessageState::Unknown,
        _ => MessageState::Pending,
    })
}

pub fn report(item: &Item) -> Result<MessageReport> {
    Ok(MessageReport {
        id: item.text("id")?.to_owned(),
        consumer: item.parse("by")?,
        order_id: item.parse_or_none("o")?,
        state: state(item)?,
        attempts: item.number("att")?,
        last_error: item.text_or_none("err").map(str::to_owned),
        time: item.time("t")?,
        message: item.json("m")?,
    })
}

#[async_trait]
impl Outgoing for Aws {
    async fn due(&self, limit: usize) -> Result<Vec<Parcel>> {
        loop {
            let parcels = self.take(limit).await?;
            if !parcels.is_empty() {
                return Ok(parcels);
            }
            tokio::select! {
                () = self.store.outgoing.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> Result<()> {
        for (id, sending) in sent {
            let key = Key { pk: MESSAGES.into(), sk: id.to_string() };
            let (state, due, error) = match sending {
                Sending::Sent => ("sent", None, None),
                Sending::Again { at, error } => ("pending", Some(at), Some(error)),
                Sending::Failed { error } => ("failed", None, Some(error)),
                Sending::Unknown { error } => ("unknown", None, Some(error)),
            };
            let mut set = "SET ms = :ms, att = att + :one".to_owned();
            let mut change = Change::default().value(":ms", text(state)).value(":one", number(1));
            if let Some(due) = due {
                set += ", ls = :due";
                change = change.value(":due", number(due.as_millis()));
            }
            if let Some(error) = error {
                set += ", err = :err";
                change = change.value(":err", text(error));
            }
            if due.is_none() {
                // What is not pending leaves the index, and may go by age.
                if let Some(expires) = self.message_expires() {
                    set += ", #ttl = :ttl";
                    change = change.name("#ttl", "ttl");
                    change = change.value(":ttl", number(expires));
                }
                set += " REMOVE lp, ls";
            }
            let change = change.update(set).only_if("attribute_exists(pk)");
            self.store.table.update(&key, change).await?;
        }
        Ok(())
    }
}

impl Aws {
    /// Takes up messages that are due: two hosts never send the same one at the same time.
    async fn take(&self, limit: usize) -> Result<Vec<Parcel>> {
        let now = Timestamp::now();
        let due = Indexed { partition: DUE.into(), from: 0, to: now.as_millis(), newest_first: false, limit };
        let mut parcels = Vec::new();
        for (key, _) in self.store.table.indexed(due).await? {
            let change = Change::of("SET ls = :until").only_if("ls <= :now");
            let change =
                change.value(":until", number(now.plus(CLAIM).as_millis())).value(":now", number(now.as_millis()));
            let Some(item) = self.store.table.update(&key, change).await? else { continue };
            parcels.push(Parcel {
                id: key.sk.as_str().into(),
                message_id: item.text("id")?.to_owned(),
                message: item.json("m")?,
                attempts: item.number("att")?,
                time: item.time("t")?,
            });
        }
        Ok(parcels)
    }

    fn message_expires(&self) -> Option<u64> {
        match self.store.retention.lock().messages {
            crate::backend::Keep::For(time) => Some(Timestamp::now().plus(time).as_millis() / 1_000),
            crate::backend::Keep::Forever => None,
        }
    }
}
