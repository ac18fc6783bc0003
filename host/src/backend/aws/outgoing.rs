//! Messages on their way out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Aws;
use super::item::{Item, Key, MESSAGES, json, number, text};
use super::store::Store;
use super::table::{Change, Indexed};
use crate::backend::{MessageReport, MessageState, Outgoing, Parcel, ParcelId, Result, Sending};
use crate::clock::Timestamp;
use crate::effects::Message;
use crate::event::Event;
use crate::policy::ConsumerName;

/// Partition of the index that has the messages which are to be sent, by when.
pub const DUE: &str = "due#mail#";
/// Between two looks when nothing rang: another host may have written one, and retries become due without a bell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the host that took a message up has it for itself.
const CLAIM: Duration = Duration::from_secs(60);
/// Messages that wait in memory for this host's sender.
const HANDED_MAX: usize = 4_096;
/// Messages whose fate is written down at once.
const SETTLED_AT_ONCE: usize = 16;

pub fn item(
    key: &Key,
    name: &ConsumerName,
    event: &Event,
    id: &str,
    message: &Message,
    now: Timestamp,
    due: Timestamp,
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
        .with("ls", number(due.as_millis())))
}

/// Messages that this host took up, for its sender. Its own are written as taken up already, so that nobody has to look for them.
#[derive(Debug, Default)]
pub struct Handed {
    /// Rung when messages may be due.
    pub bell: Notify,
    state: Mutex<HandedState>,
}

#[derive(Debug, Default)]
struct HandedState {
    /// When the table was last looked at for others; never, where nobody sends on this host.
    looked: Option<Instant>,
    /// Each with when it was taken up.
    parcels: VecDeque<(Parcel, Timestamp)>,
    /// Those that this host's sender has, and of which it has not said what became of them.
    sending: HashMap<ParcelId, Timestamp>,
}

impl Handed {
    /// When a message that is written now is due to everybody else.
    pub fn due_at(&self, now: Timestamp) -> Timestamp {
        let state = self.state.lock();
        if state.looked.is_some() && state.parcels.len() < HANDED_MAX { now.plus(CLAIM) } else { now }
    }

    /// They are in the table. Those that are due to everybody are found there.
    pub fn hand(&self, parcels: Vec<(Parcel, Timestamp)>) {
        let taken = parcels.into_iter().filter(|(parcel, due)| *due > parcel.time);
        self.state.lock().parcels.extend(taken.map(|(parcel, _)| {
            let time = parcel.time;
            (parcel, time)
        }));
        self.bell.notify_one();
    }

    fn found(&self, parcels: Vec<(Parcel, Timestamp)>) {
        if !parcels.is_empty() {
            self.state.lock().parcels.extend(parcels);
            self.bell.notify_one();
        }
    }

    /// Whether the table is to be looked at now.
    fn is_look_due(&self, limit: usize) -> bool {
        let mut state = self.state.lock();
        let due = state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) && state.parcels.len() < limit;
        if due {
            state.looked = Some(Instant::now());
        }
        due
    }

    /// What is there, as far as nobody else may have taken it up meanwhile.
    fn take(&self, limit: usize) -> Vec<Parcel> {
        let now = Timestamp::now();
        let state = &mut *self.state.lock();
        let count = limit.min(state.parcels.len());
        let parcels = state.parcels.drain(..count).filter(|(_, taken)| now.since(*taken) < CLAIM / 2);
        let parcels: Vec<(Parcel, Timestamp)> = parcels.collect();
        state.sending.retain(|_, taken| now.since(*taken) < CLAIM);
        state.sending.extend(parcels.iter().map(|(parcel, taken)| (parcel.id.clone(), *taken)));
        parcels.into_iter().map(|(parcel, _)| parcel).collect()
    }

    /// What nobody here gets to.
    fn give_up(&self) -> Vec<Parcel> {
        let left = self.take(usize::MAX);
        self.state.lock().sending.clear();
        left
    }

    fn settled(&self, id: &ParcelId) {
        self.state.lock().sending.remove(id);
    }

    /// Whether this host's sender has nothing to do.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.parcels.is_empty() && state.sending.is_empty()
    }
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

/// When the next message is due.
pub async fn next(store: &Store) -> Result<Option<Timestamp>> {
    super::due::next_in(store, DUE.to_owned()).await
}

#[async_trait]
impl Outgoing for Aws {
    async fn due(&self, limit: usize) -> Result<Vec<Parcel>> {
        loop {
            if self.store.outgoing.is_look_due(limit) {
                // On its own, so that nothing that was taken up is lost where the caller waits no longer.
                let look = self.store.in_flight.track_future(look(Arc::clone(&self.store), limit));
                self.store.tasks.spawn(look);
            }
            let parcels = self.store.outgoing.take(limit);
            if !parcels.is_empty() {
                return Ok(parcels);
            }
            tokio::select! {
                () = self.store.outgoing.bell.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> Result<()> {
        let written = futures::stream::iter(sent).map(|(id, sending)| self.note(id, sending));
        written.buffer_unordered(SETTLED_AT_ONCE).try_collect().await
    }
}

impl Aws {
    /// What became of one try.
    async fn note(&self, id: ParcelId, sending: Sending) -> Result<()> {
        let _in_flight = self.store.in_flight.token();
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
        // What is not pending any more is not made so by a try that arrives late; that it was sent is true whatever else was said.
        let held = if state == "sent" { "attribute_exists(pk)" } else { "attribute_exists(ls)" };
        let change = change.update(set).only_if(held);
        self.store.table.update(&key, change).await?;
        self.store.outgoing.settled(&id);
        Ok(())
    }

    fn message_expires(&self) -> Option<u64> {
        match self.store.retention.lock().messages {
            crate::backend::Keep::For(time) => Some(Timestamp::now().plus(time).as_millis() / 1_000),
            crate::backend::Keep::Forever => None,
        }
    }
}

/// What this host's sender did not get to is due to everybody.
pub async fn give_back(store: &Store) {
    for Parcel { id, .. } in store.outgoing.give_up() {
        let key = Key { pk: MESSAGES.into(), sk: id.to_string() };
        let change = Change::of("SET ls = :now").only_if("attribute_exists(ls)");
        let change = change.value(":now", number(Timestamp::now().as_millis()));
        if let Err(error) = store.table.update(&key, change).await {
            tracing::debug!(%error, "messages wait for a while until somebody sends them");
            return;
        }
    }
}

/// Takes up messages that are due to everybody: two hosts never send the same one at the same time.
async fn look(store: Arc<Store>, limit: usize) {
    let now = Timestamp::now();
    let due = Indexed { partition: DUE.into(), from: 0, to: now.as_millis(), newest_first: false, limit };
    let mut taken = Vec::new();
    let done = async {
        for (key, _) in store.table.indexed(due).await? {
            let now = Timestamp::now();
            // Where the answer was lost, it is ours when it is asked for again.
            let change = Change::of("SET ls = :until, clm = :claim")
                .only_if("attribute_exists(ls) AND (ls <= :now OR clm = :claim)")
                .value(":until", number(now.plus(CLAIM).as_millis()))
                .value(":now", number(now.as_millis()))
                .value(":claim", number(fastrand::u64(..1 << 53)));
            let Some(item) = store.table.update(&key, change).await? else { continue };
            let parcel = Parcel {
                id: key.sk.as_str().into(),
                message_id: item.text("id")?.to_owned(),
                message: item.json("m")?,
                attempts: item.number("att")?,
                time: item.time("t")?,
            };
            taken.push((parcel, now));
        }
        Ok::<_, crate::backend::Error>(())
    };
    if let Err(error) = done.await {
        tracing::warn!(%error, "messages cannot be looked for; they are looked for again");
    }
    store.outgoing.found(taken);
}
