//! Deliveries on a host that AWS Lambda invokes. Lambda receives the consumer's messages and deletes them; the host is handed
//! some of them, brings them into the same lanes as messages that it receives itself, and says of each whether all that it
//! says is in the table. What is due, what the queue has not told of, and what a backfill brings is looked for when somebody
//! asks.
//!
//! **Invariants**
//! - Between two invocations nothing is in memory, and no delivery begins: the process may stand still for hours.
//! - A message is done only when the table says all that it says.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_sqs::types::{Message as Received, MessageAttributeValue};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::AwsInbox;
use super::desk::Receipt;
use super::dues::DUE_BATCH;
use crate::backend::aws::due::{self, CLAIM};
use crate::backend::aws::{backfills, catch_up};
use crate::clock::Timestamp;

/// Between two looks at what became of messages.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A message that has been in no lane for so long, and of which nobody said what became of it, is lost sight of.
const UNSEEN_MAX: Duration = Duration::from_secs(2);
/// How often it is said that what is due is not for others.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// What is due later than this is left to the next invocation: it may be in another host's hands, too.
const SOON: Duration = Duration::from_secs(10);
/// Between two looks at what is due while a backfill goes on, where nothing rang.
const LOOK_BESIDE_EVERY: Duration = Duration::from_secs(1);
/// Lanes in memory beyond which no more are taken up.
const HELD_MAX: usize = 256;

/// A message of a consumer's queue, as Lambda hands it on.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: String,
    /// Of a FIFO queue.
    pub group: Option<String>,
    pub body: String,
    /// Those that are text.
    pub attributes: BTreeMap<String, String>,
}

/// Until when what may be done in an invocation.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// Deliveries begin.
    pub begin: Instant,
    /// Deliveries end, or are given up.
    pub end: Instant,
}

/// What became of the messages of one invocation, by their ids.
#[derive(Default)]
pub struct Handed {
    open: Mutex<HashMap<Receipt, Fate>>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Done,
    NotDone,
}

impl Handed {
    pub fn done(&self, ids: Vec<Receipt>) {
        self.end(ids, Fate::Done);
    }

    pub fn not_done(&self, ids: Vec<Receipt>) {
        self.end(ids, Fate::NotDone);
    }

    fn end(&self, ids: Vec<Receipt>, fate: Fate) {
        let mut open = self.open.lock();
        for id in ids {
            // Of an invocation before, nobody asks any more.
            if let Some(was) = open.get_mut(&id).filter(|was| **was == Fate::Open) {
                *was = fate;
            }
        }
        drop(open);
        self.changed.notify_one();
    }

    fn begin(&self, ids: impl Iterator<Item = Receipt>) {
        *self.open.lock() = ids.map(|id| (id, Fate::Open)).collect();
    }

    fn are_open(&self) -> Vec<Receipt> {
        let open = self.open.lock();
        open.iter().filter(|(_, fate)| **fate == Fate::Open).map(|(id, _)| id.clone()).collect()
    }

    /// The ids of what is done.
    fn take(&self) -> HashSet<Receipt> {
        let fates = std::mem::take(&mut *self.open.lock());
        fates.into_iter().filter(|(_, fate)| *fate == Fate::Done).map(|(id, _)| id).collect()
    }
}

impl AwsInbox {
    /// Handles these messages, and says of each, in their order, whether it is done: handled, passed by, a repeat, or kept in
    /// the table with an exception.
    pub async fn hand_in(self: &Arc<Self>, messages: &[Message], until: Until) -> Vec<bool> {
        let Some(handed) = &self.handed else { return vec![false; messages.len()] };
        if !self.is_open() {
            return vec![false; messages.len()];
        }
        handed.begin(messages.iter().map(|message| message.id.clone()));
        self.rest(false);
        let received = messages.iter().map(Message::received).collect();
        let handled = Box::pin(async {
            if timeout_at(until.end, self.take_in(received)).await.is_ok() {
                self.settled(handed, until).await;
            }
        });
        tokio::select! {
            () = handled => {}
            () = self.follow_rebuild() => {}
        }
        self.put_down().await;
        let done = handed.take();
        let mut failed = HashSet::new();
        let tell = |message: &Message| {
            let is_behind = message.group.as_ref().is_some_and(|group| failed.contains(group));
            let is_done = done.contains(&message.id) && !is_behind;
            if !is_done {
                failed.extend(message.group.clone());
            }
            is_done
        };
        messages.iter().map(tell).collect()
    }

    /// Returns when something became of every message, or the time is over.
    async fn settled(&self, handed: &Handed, until: Until) {
        let mut seen: HashMap<Receipt, Instant> = HashMap::new();
        loop {
            let open = handed.are_open();
            if open.is_empty() {
                return;
            }
            let now = Instant::now();
            seen.extend(self.desk.lock().receipts().into_iter().map(|id| (id, now)));
            let lost = |id: &Receipt| now.duration_since(*seen.entry(id.clone()).or_insert(now)) > UNSEEN_MAX;
            let lost: Vec<Receipt> = open.into_iter().filter(lost).collect();
            if !lost.is_empty() {
                tracing::warn!(consumer = %self.name, messages = lost.len(), "it is not known what became of messages; they come again");
                handed.not_done(lost);
            }
            let is_late = Instant::now() >= until.begin;
            if is_late {
                self.rest(true);
                if self.desk.lock().running() == 0 {
                    return;
                }
            }
            tokio::select! {
                () = handed.changed.notified() => {}
                () = sleep(LOOK_EVERY) => {}
                () = sleep_until(until.end) => return,
            }
        }
    }

    /// Brings in what is due, what the queue has not told of, and what the backfill that is under way comes by, until nothing
    /// is left that could begin in time.
    pub async fn make_up(self: &Arc<Self>, owner: &str, until: Until) {
        if !self.is_open() {
            return;
        }
        self.rest(false);
        let fills = AtomicBool::new(true);
        let filling = async {
            let (inbox, store) = (Arc::clone(self), Arc::clone(&self.store));
            Box::pin(backfills::run_until(inbox, store, owner.to_owned(), until)).await;
            // What it has let go is due now.
            fills.store(false, Ordering::Release);
            self.rung.notify_one();
        };
        let all = async { tokio::join!(self.look_around(owner, until, &fills), filling) };
        tokio::select! {
            ((), ()) = all => {}
            () = self.renew_dues() => {}
            () = self.follow_rebuild() => {}
        }
        self.rest(true);
        let idle = async {
            while self.desk.lock().running() > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        drop(timeout_at(until.end, idle).await);
        self.put_down().await;
    }

    /// While a backfill `fills`, there may be more at any moment.
    async fn look_around(self: &Arc<Self>, owner: &str, until: Until, fills: &AtomicBool) {
        let (mut behind, mut ahead) = (true, 0);
        while Instant::now() < until.begin {
            let more_may_come = fills.load(Ordering::Acquire);
            let audited = catch_up::audited_to(Timestamp::now());
            if behind {
                let step = catch_up::step(self, &self.store, owner, audited, &mut ahead);
                behind = match timeout_at(until.begin, step).await {
                    Ok(Ok(more)) => more,
                    Ok(Err(error)) => {
                        tracing::warn!(consumer = %self.name, %error, "the journal cannot be followed; the next invocation tries again");
                        false
                    }
                    Err(_) => return,
                };
            }
            let room = self.desk.lock().len() < HELD_MAX;
            let taken = if room { self.take_due().await } else { 0 };
            if taken == DUE_BATCH || behind {
                continue;
            }
            if taken > 0 || self.desk.lock().len() > 0 {
                sleep(LOOK_EVERY).await;
                continue;
            }
            if more_may_come {
                let beside = self.rung.notified();
                drop(timeout_at(until.begin, timeout(LOOK_BESIDE_EVERY, beside)).await);
                continue;
            }
            match due::next(&self.store, &self.name).await {
                Ok(Some(at)) => {
                    let wait = at.since(Timestamp::now()).max(LOOK_EVERY);
                    if wait > SOON || Instant::now() + wait >= until.begin {
                        return;
                    }
                    sleep(wait).await;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(consumer = %self.name, %error, "what is due cannot be looked for");
                    return;
                }
            }
        }
    }

    /// Says over and over that what is due and in memory is not for others.
    async fn renew_dues(&self) {
        loop {
            sleep(RENEW_EVERY).await;
            let dues = self.desk.lock().dues();
            for due in dues {
                if let Err(error) = due::claim_until(&self.store, &due, Timestamp::now().plus(CLAIM)).await {
                    tracing::debug!(consumer = %self.name, lane = %due.lane, %error, "somebody else may take it up, too");
                }
            }
        }
    }

    /// Forgets what is in memory. What is due and was not settled is due at once.
    async fn put_down(&self) {
        self.rest(true);
        let dues = self.desk.lock().clear();
        for due in dues {
            if let Err(error) = due::claim_until(&self.store, &due, Timestamp::now()).await {
                tracing::debug!(consumer = %self.name, lane = %due.lane, %error, "it is due again when its claim runs out");
            }
        }
    }

    fn rest(&self, rests: bool) {
        self.resting.store(rests, Ordering::Relaxed);
        self.ring();
    }
}

impl Message {
    fn received(&self) -> Received {
        let attribute = |(name, value): (&String, &String)| {
            let value = MessageAttributeValue::builder().data_type("String").string_value(value).build().ok()?;
            Some((name.clone(), value))
        };
        Received::builder()
            .message_id(&self.id)
            .receipt_handle(&self.id)
            .body(&self.body)
            .set_message_attributes(Some(self.attributes.iter().filter_map(attribute).collect()))
            .build()
    }
}
