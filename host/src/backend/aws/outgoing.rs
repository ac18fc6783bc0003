//! Messages on their way out.

#[cfg(test)]
mod tests;

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
use super::table::{Change, Indexed, PUTS_MAX};
use crate::backend::{MessageReport, MessageState, Outgoing, Parcel, ParcelId, Result, Sending};
use crate::clock::Timestamp;
use crate::effects::Message;
use crate::event::Event;
use crate::policy::ConsumerName;

/// Partition of the index that has the messages which are to be sent, by when.
pub const DUE: &str = "due#mail#";
/// Between two looks when nothing rang: another host may have written one, and retries become due without a bell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the host that took a message up has it for itself, unless it says so again, and how often it does.
const CLAIM: Duration = Duration::from_secs(60);
const KEEP_EVERY: Duration = Duration::from_secs(15);
/// A sender that has said nothing of a message for so long has lost it.
const KEPT_MAX: Duration = Duration::from_secs(3_600);
/// Messages that wait in memory for this host's sender.
const HANDED_MAX: usize = 4_096;
/// What comes within this time is sent together, and written down together.
const GATHER: Duration = Duration::from_millis(100);
/// Messages whose fate is written down at once, each by itself.
const SETTLED_AT_ONCE: usize = 16;

/// A message, whatever becomes of it.
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
        .with("t", number(now.as_millis())))
}

/// One that is to be sent.
pub fn pending(item: Item, due: Timestamp) -> Item {
    let item = item.with("ms", text("pending")).with("att", number(0));
    item.with("lp", text(DUE)).with("ls", number(due.as_millis()))
}

/// One that was sent at the first try.
fn sent(item: Item, expires: Option<u64>) -> Item {
    item.with("ms", text("sent")).with("att", number(1)).with_some("ttl", expires.map(number))
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
    /// Those that nobody sends yet.
    waiting: VecDeque<Taken>,
    /// Those that this host's sender has, and of which it has not said what became of them.
    sending: HashMap<ParcelId, InHand>,
    /// Somebody says that they are not for others.
    keeps: bool,
}

/// A message that this host's sender has.
#[derive(Clone, Debug)]
struct InHand {
    taken_at: Timestamp,
    /// When that was last said.
    said_at: Timestamp,
    /// Tries before this one.
    attempts: u32,
    item: Option<Item>,
}

/// A message that this host took up.
#[derive(Debug)]
struct Taken {
    at: Timestamp,
    parcel: Parcel,
    /// What [`item`] made, where this host wrote it: nobody else has changed it since.
    item: Option<Item>,
}

/// A message that was written a moment ago.
#[derive(Debug)]
pub struct Staged {
    pub parcel: Parcel,
    /// When it is due to every host.
    pub due: Timestamp,
    /// What [`item`] made.
    pub item: Item,
}

impl Handed {
    /// When a message that is written now is due to everybody else.
    pub fn due_at(&self, now: Timestamp) -> Timestamp {
        let state = self.state.lock();
        if state.looked.is_some() && state.waiting.len() < HANDED_MAX { now.plus(CLAIM) } else { now }
    }

    /// They are in the table. Those that are due to everybody are found there.
    pub fn hand(&self, staged: Vec<Staged>) {
        let taken = staged.into_iter().filter(|one| one.due > one.parcel.time);
        self.take_up(taken.map(|Staged { parcel, item, .. }| Taken { at: parcel.time, parcel, item: Some(item) }));
    }

    fn take_up(&self, taken: impl IntoIterator<Item = Taken>) {
        self.state.lock().waiting.extend(taken);
        self.bell.notify_one();
    }

    /// Whether the table is to be looked at now.
    fn is_look_due(&self, limit: usize) -> bool {
        let mut state = self.state.lock();
        let due = state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) && state.waiting.len() < limit;
        if due {
            state.looked = Some(Instant::now());
        }
        due
    }

    /// Whether more may come that are written down in the same request.
    fn gathers(&self) -> bool {
        (1..PUTS_MAX).contains(&self.state.lock().waiting.len())
    }

    /// What is there, as far as nobody else may have taken it up meanwhile.
    fn take(&self, limit: usize) -> Vec<Parcel> {
        let now = Timestamp::now();
        let HandedState { waiting, sending, .. } = &mut *self.state.lock();
        sending.retain(|_, sent| now.since(sent.said_at) < CLAIM);
        let count = limit.min(waiting.len());
        let taken = waiting.drain(..count).filter(|taken| now.since(taken.at) < CLAIM / 2);
        let parcels = taken.map(|Taken { at, parcel, item }| {
            let sent = InHand { taken_at: at, said_at: at, attempts: parcel.attempts, item };
            sending.insert(parcel.id.clone(), sent);
            parcel
        });
        parcels.collect()
    }

    /// What nobody here gets to.
    fn give_up(&self) -> Vec<Parcel> {
        let left = self.take(usize::MAX);
        self.state.lock().sending.clear();
        left
    }

    /// As it was written here, as long as nobody else may have taken it up.
    fn written(&self, id: &ParcelId) -> Option<Item> {
        let now = Timestamp::now();
        let state = self.state.lock();
        let InHand { said_at, item, .. } = state.sending.get(id)?;
        item.clone().filter(|_| now.since(*said_at) < CLAIM / 2)
    }

    /// Tries of it that were noted, where this host's sender has it.
    fn attempts(&self, id: &ParcelId) -> Option<u32> {
        self.state.lock().sending.get(id).map(|sent| sent.attempts)
    }

    /// Whether somebody is to begin with [`keep`].
    fn begins_to_keep(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().keeps, true)
    }

    /// Whether there is anything to keep still.
    fn goes_on_keeping(&self) -> bool {
        let mut state = self.state.lock();
        state.keeps = !state.sending.is_empty();
        state.keeps
    }

    /// Messages of which it is to be said again that they are not for others, and when that was last said.
    fn to_be_kept(&self, now: Timestamp) -> Vec<(ParcelId, Timestamp)> {
        let mut state = self.state.lock();
        state.sending.retain(|_, sent| now.since(sent.taken_at) < KEPT_MAX);
        let old = state.sending.iter().filter(|(_, sent)| now.since(sent.said_at) >= KEEP_EVERY);
        old.map(|(id, sent)| (id.clone(), sent.said_at)).collect()
    }

    fn kept(&self, id: &ParcelId, now: Timestamp) {
        if let Some(sent) = self.state.lock().sending.get_mut(id) {
            sent.said_at = now;
        }
    }

    fn settled(&self, id: &ParcelId) {
        self.state.lock().sending.remove(id);
    }

    /// Whether this host's sender has nothing to do.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && state.sending.is_empty()
    }
}

fn key_of(id: &ParcelId) -> Key {
    Key { pk: MESSAGES.into(), sk: id.to_string() }
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
            if self.store.outgoing.gathers() {
                tokio::time::sleep(GATHER).await;
            }
            let parcels = self.store.outgoing.take(limit);
            if !parcels.is_empty() {
                if self.store.outgoing.begins_to_keep() {
                    self.store.tasks.spawn(keep(Arc::clone(&self.store)));
                }
                return Ok(parcels);
            }
            tokio::select! {
                () = self.store.outgoing.bell.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> Result<()> {
        let sent = self.note_sent(sent).await?;
        let written = futures::stream::iter(sent).map(|(id, sending)| self.note(id, sending));
        written.buffer_unordered(SETTLED_AT_ONCE).try_collect().await
    }
}

impl Aws {
    /// Those that were written here and sent, in as few requests as it takes. The rest comes back.
    async fn note_sent(&self, tried: Vec<(ParcelId, Sending)>) -> Result<Vec<(ParcelId, Sending)>> {
        let _in_flight = self.store.in_flight.token();
        let expires = self.message_expires();
        let (mut rest, mut ids, mut puts) = (Vec::new(), Vec::new(), Vec::new());
        for (id, sending) in tried {
            let written = matches!(sending, Sending::Sent).then(|| self.store.outgoing.written(&id)).flatten();
            match written {
                Some(item) => {
                    puts.push(sent(item, expires));
                    ids.push(id);
                }
                None => rest.push((id, sending)),
            }
        }
        self.store.table.put_all(puts).await?;
        ids.iter().for_each(|id| self.store.outgoing.settled(id));
        Ok(rest)
    }

    /// What became of one try.
    async fn note(&self, id: ParcelId, sending: Sending) -> Result<()> {
        let _in_flight = self.store.in_flight.token();
        let key = key_of(&id);
        let (state, due, error) = match sending {
            Sending::Sent => ("sent", None, None),
            Sending::Again { at, error } => ("pending", Some(at), Some(error)),
            Sending::Failed { error } => ("failed", None, Some(error)),
            Sending::Unknown { error } => ("unknown", None, Some(error)),
        };
        // Noted again after a lost answer, it is one try still.
        let (mut set, by) = match self.store.outgoing.attempts(&id) {
            Some(before) => ("SET ms = :ms, att = :att".to_owned(), before + 1),
            None => ("SET ms = :ms, att = att + :att".to_owned(), 1),
        };
        let mut change = Change::default().value(":ms", text(state)).value(":att", number(by));
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

/// Says over and over that messages which this host's sender has are not for others: it may be slow, or have many.
async fn keep(store: Arc<Store>) {
    while store.outgoing.goes_on_keeping() {
        tokio::select! {
            () = tokio::time::sleep(KEEP_EVERY) => {}
            () = store.stopping.cancelled() => return,
        }
        let _in_flight = store.in_flight.token();
        keep_once(&store, Timestamp::now()).await;
    }
}

async fn keep_once(store: &Store, now: Timestamp) {
    let say = |(id, said_at): (ParcelId, Timestamp)| async move {
        // Unless another host has taken it up since, or it is noted what became of it.
        let change = Change::of("SET ls = :until").only_if("ls = :before OR ls = :until");
        let change = change.value(":until", number(now.plus(CLAIM).as_millis()));
        let change = change.value(":before", number(said_at.plus(CLAIM).as_millis()));
        match store.table.update(&key_of(&id), change).await {
            Ok(Some(_)) => store.outgoing.kept(&id, now),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "another host may send a message that is being sent here"),
        }
    };
    let kept = futures::stream::iter(store.outgoing.to_be_kept(now)).map(say);
    kept.buffer_unordered(SETTLED_AT_ONCE).collect::<Vec<()>>().await;
}

/// What this host's sender did not get to is due to everybody.
pub async fn give_back(store: &Store) {
    for Parcel { id, .. } in store.outgoing.give_up() {
        let key = key_of(&id);
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
            taken.push(Taken { at: now, parcel, item: None });
        }
        Ok::<_, crate::backend::Error>(())
    };
    if let Err(error) = done.await
        && store.repeats.is_news("look for messages", "", &error)
    {
        tracing::warn!(%error, "messages cannot be looked for; they are looked for again");
    }
    if !taken.is_empty() {
        store.outgoing.take_up(taken);
    }
}
