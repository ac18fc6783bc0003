//! Ends of deliveries that are more than one transaction holds.
//!
//! ```text
//!  open ──► every item locked, and what becomes of it written beside ──► decided, with the place ──► done, and unlocked
//!    └─────────────── given up, and unlocked: at a conflict, or where its host died ◄──┘
//! ```
//!
//! An item that is locked is written by nobody else; who reads it sees to the intent first. From the moment on in which the
//! place is written, in one transaction with the decision, everything that was intended is to be done, by whoever comes by:
//! the host that wrote it, who reads one of the items, or a host that finds it left behind ([`sweep`]).
//!
//! **Invariant**: an intent locks nothing more once it is decided or given up, and is deleted after its last lock.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::stream::{StreamExt, TryStreamExt};

use super::{Draft, Mark};
use crate::backend::aws::backfills::gate;
use crate::backend::aws::item::{Item, Key, number, text};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Indexed, Span, Transaction, WRITES_MAX, Write};
use crate::backend::{Error, Result};
use crate::clock::Timestamp;
use crate::fault::{self, Point};

/// Attribute of an item that is locked: by which intent.
pub const LOCK: &str = "lk";
/// Partition of the index that has all intents, by when they may be given up.
pub const OPEN: &str = "due#intents";
/// Events beside a place, a decision, and a gate.
const EVENTS_MAX: usize = WRITES_MAX - 3;
/// What DynamoDB takes of all of them.
const EVENTS_BYTES_MAX: usize = 4 << 20;
/// How long a host has to decide.
const UNDECIDED_MAX: Duration = Duration::from_secs(30);
/// After that, whoever finds one that was decided sees to it.
const UNDONE_MAX: Duration = Duration::from_secs(5);
/// Items in one transaction: each is two writes, beside that of the intent.
const CHUNK: usize = 48;
/// Of what a transaction writes.
const CHUNK_BYTES: usize = 3 << 20;
/// Items unlocked at once, where each is a request of its own.
const UNLOCKED_AT_ONCE: usize = 16;
/// Between two looks at one that is not decided.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two looks for those that were left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Intents that a host sees to in one sweep.
const SWEEP_MAX: usize = 20;

/// How a large commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All of it is in the table.
    Whole,
    /// It is decided, and will be.
    Decided,
}

/// One item that is intended to be written.
struct Step {
    write: Write,
    mark: Mark,
}

/// Commits a draft that is more than one transaction holds.
pub async fn commit(store: &Store, draft: Draft) -> Result<Result<Done, Vec<Mark>>> {
    let Draft { writes, counters, events, gate, .. } = draft;
    let id = uuid::Uuid::now_v7().to_string();
    let (mut last, mut steps, mut bytes) = (Transaction::default(), Vec::new(), 0);
    for (mark, write) in writes.into_writes() {
        match mark {
            Mark::Read | Mark::Floor | Mark::Plain => steps.push(Step { write, mark }),
            Mark::Place | Mark::Lane | Mark::Intent | Mark::Gate => {
                bytes += write.bytes();
                last.push(mark, write);
            }
        }
    }
    if last.len() + 1 + usize::from(gate.is_some()) > WRITES_MAX || bytes > EVENTS_BYTES_MAX {
        store.publisher.abandon(&events);
        return Err(too_many(events.len(), bytes));
    }
    steps.extend(counters.into_iter().map(|(key, counter)| Step { mark: counter.mark(), write: counter.write(key) }));
    let locked = lock(store, &id, &steps).await;
    if !matches!(locked, Ok(Ok(()))) {
        store.publisher.abandon(&events);
        give_up(store, &id).await?;
        return locked.map(|locked| locked.map(|()| Done::Whole));
    }
    fault::pass(Point::IntentLocked);
    last.update(Mark::Intent, Key::intent(&id), decided());
    if let Some(gate) = gate {
        last.check(Mark::Gate, gate, gate::is_open());
    }
    match store.append(last, events).await {
        Ok(Ok(())) => fault::pass(Point::IntentDecided),
        Ok(Err(refused)) => {
            give_up(store, &id).await?;
            return Ok(Err(refused));
        }
        // It may be decided. Who comes by looks.
        Err(error) => return Err(error),
    }
    match finish(store, &id).await {
        Ok(()) => Ok(Ok(Done::Whole)),
        Err(error) => {
            tracing::warn!(%error, intent = id, "a large commit is decided, and not all of it written; it will be");
            Ok(Ok(Done::Decided))
        }
    }
}

/// Events are in lanes that anybody may add to, so that none of them is locked: all of them are in the transaction that decides.
fn too_many(events: usize, bytes: usize) -> Error {
    let why = format!(
        "it makes {events} events and order changes of {bytes} bytes, and what one event causes must fit into one transaction of \
         DynamoDB: at most {EVENTS_MAX} with {EVENTS_BYTES_MAX} bytes, fewer where it only reads orders; let the plugin go on in steps, \
         with an event that it publishes to itself"
    );
    Error::Failed(why.into())
}

/// Locks what is to be written, as far as its conditions hold.
async fn lock(store: &Store, id: &str, steps: &[Step]) -> Result<Result<(), Vec<Mark>>> {
    let until = Timestamp::now().plus(UNDECIDED_MAX);
    let intent = Item::at(&Key::intent(id)).with("st", text("open"));
    let mut first = Transaction::default();
    first.create((), intent.with("lp", text(OPEN)).with("ls", number(until.as_millis())));
    if store.table.transact(first).await?.is_err() {
        return Err(Error::Unavailable("an intent met another one".into()));
    }
    fault::pass(Point::IntentOpened);
    let mut number_of = 0;
    let mut rest = steps;
    while !rest.is_empty() {
        let (chunk, left) = rest.split_at(fitting(rest.iter().map(|step| 2 * step.write.bytes())));
        rest = left;
        let mut transaction = Transaction::default();
        let open = Change::default().only_if("st = :open").value(":open", text("open"));
        transaction.check(Mark::Intent, Key::intent(id), open);
        for Step { write, mark } in chunk {
            number_of += 1;
            transaction.create(Mark::Intent, written_down(id, number_of, write));
            if let Some((key, change)) = write.changes() {
                let lock = Change::of(format!("SET {LOCK} = :lock")).only_if_also(change).value(":lock", text(id));
                transaction.update(*mark, key.clone(), lock);
            }
        }
        if let Err(refused) = store.table.transact(transaction).await? {
            return Ok(Err(refused));
        }
        fault::pass(Point::IntentLocking);
    }
    Ok(Ok(()))
}

/// How many of what weighs so much go into one transaction; one at least.
fn fitting(weights: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |weight: &usize| {
        let first = bytes == 0;
        bytes += weight;
        first || bytes <= CHUNK_BYTES
    };
    weights.take(CHUNK).take_while(fits).count()
}

fn decided() -> Change {
    let at = Timestamp::now().plus(UNDONE_MAX);
    let change = Change::of("SET st = :decided, ls = :at").only_if("st = :open");
    change.value(":open", text("open")).value(":decided", text("decided")).value(":at", number(at.as_millis()))
}

/// What becomes of an item, as an item of its own.
fn written_down(id: &str, number_of: usize, write: &Write) -> Item {
    let item = Item::at(&Key::intended(id, number_of));
    let (pk, sk) = write.key();
    let item = item.with("tp", text(pk)).with("ts", text(sk));
    match write {
        Write::New(Item(new)) | Write::Put(Item(new)) => {
            item.with("do", text("put")).with("it", AttributeValue::M(new.clone()))
        }
        Write::Update(_, change) => {
            let (update, values) = change.unconditionally();
            item.with("do", text("update")).with("up", text(update)).with("va", AttributeValue::M(values))
        }
        Write::Check(..) => item.with("do", text("check")),
        Write::Delete(..) => item.with("do", text("delete")),
    }
}

/// All that an intent has written down.
async fn intended(store: &Store, id: &str) -> Result<Vec<Item>> {
    let (from, to) = ("w".to_owned(), "x".to_owned());
    store.table.query(Span { partition: Key::intent(id).pk, from, to, newest_first: false, limit: usize::MAX }).await
}

fn target(item: &Item) -> Result<Key> {
    Ok(Key { pk: item.text("tp")?.to_owned(), sk: item.text("ts")?.to_owned() })
}

/// Does all that a decided intent says. Any number of hosts may do so at once.
async fn finish(store: &Store, id: &str) -> Result<()> {
    let steps = intended(store, id).await?;
    let mut rest = steps.as_slice();
    while !rest.is_empty() {
        let (chunk, left) = rest.split_at(fitting(rest.iter().map(Item::bytes)));
        rest = left;
        let mut open: Vec<&Item> = chunk.iter().collect();
        while !open.is_empty() {
            let mut transaction = Transaction::default();
            for (index, step) in open.iter().enumerate() {
                let key = target(step)?;
                let ours = |change: Change| change.only_if(format!("{LOCK} = :lock")).value(":lock", text(id));
                match step.text("do")? {
                    "put" => transaction.create(index, Item::from(step.map("it").cloned().unwrap_or_default())),
                    "update" => {
                        let change = Change::of(format!("{} REMOVE {LOCK}", step.text("up")?));
                        let values = step.map("va").cloned().unwrap_or_default().into_iter();
                        let change = values.fold(change, |change, (name, value)| change.value(&name, value));
                        transaction.update(index, key, ours(change));
                    }
                    "delete" => transaction.delete(index, key, ours(Change::default())),
                    _ => {}
                }
            }
            if transaction.len() == 0 {
                break;
            }
            // What is refused was done before.
            let Err(refused) = store.table.transact(transaction).await? else { break };
            open = open.iter().enumerate().filter(|(at, _)| !refused.contains(at)).map(|(_, step)| *step).collect();
        }
        fault::pass(Point::IntentWritten);
    }
    let checked = steps.iter().filter(|step| step.text_or_none("do") == Some("check"));
    unlock(store, id, checked).await?;
    fault::pass(Point::IntentUnlocked);
    forget(store, id, &steps).await
}

/// Ends an intent that is not to be decided any more.
async fn give_up(store: &Store, id: &str) -> Result<()> {
    let change = Change::of("SET st = :given").only_if("st = :open OR st = :given");
    let change = change.value(":open", text("open")).value(":given", text("given up"));
    if store.table.update(&Key::intent(id), change).await?.is_none() {
        return Ok(());
    }
    let steps = intended(store, id).await?;
    unlock(store, id, steps.iter().filter(|step| step.text_or_none("do") != Some("put"))).await?;
    forget(store, id, &steps).await
}

/// Leaves items as they were before they were locked: those that were not there, go.
async fn unlock(store: &Store, id: &str, steps: impl Iterator<Item = &Item>) -> Result<()> {
    let unlock = |key: Result<Key>| async move {
        let key = key?;
        let empty = Change::default();
        let empty = empty.only_if(format!("{LOCK} = :lock AND attribute_not_exists(v) AND attribute_not_exists(n)"));
        let mut transaction = Transaction::default();
        transaction.delete((), key.clone(), empty.value(":lock", text(id)));
        if store.table.transact(transaction).await?.is_ok() {
            return Ok(());
        }
        let ours = Change::of(format!("REMOVE {LOCK}")).only_if(format!("{LOCK} = :lock"));
        store.table.update(&key, ours.value(":lock", text(id))).await.map(drop)
    };
    let keys: Vec<Result<Key>> = steps.map(target).collect();
    futures::stream::iter(keys).map(unlock).buffer_unordered(UNLOCKED_AT_ONCE).try_collect().await
}

async fn forget(store: &Store, id: &str, steps: &[Item]) -> Result<()> {
    let mut keys = Vec::with_capacity(steps.len());
    for step in steps {
        keys.push(Key { pk: step.text("pk")?.to_owned(), sk: step.text("sk")?.to_owned() });
    }
    store.table.delete_all(keys).await?;
    store.table.delete(&Key::intent(id)).await
}

/// Sees to the intent that has locked an item; returns when the item is free, or locked anew.
///
/// # Errors
/// Where the table cannot be asked, or its host takes too long to decide.
pub async fn resolve(store: &Store, id: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + UNDECIDED_MAX;
    loop {
        let Some(intent) = store.table.get(&Key::intent(id)).await? else { return Ok(()) };
        let is_late = intent.time("ls")? < Timestamp::now();
        match intent.text("st")? {
            "decided" => return finish(store, id).await,
            "open" if !is_late => {}
            _ => {
                give_up(store, id).await?;
                continue;
            }
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Unavailable("a large commit of another delivery takes too long".into()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sees to intents that hosts left behind, until the store is closed.
pub async fn sweep(store: Arc<Store>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = store.stopping.cancelled() => return,
        }
        if let Err(error) = sweep_once(&store).await
            && store.repeats.is_news("see to large commits", "", &error)
        {
            tracing::warn!(%error, "large commits that were left behind cannot be seen to");
        }
    }
}

/// Sees to those that were left behind by now.
pub async fn sweep_once(store: &Store) -> Result<()> {
    let to = Timestamp::now().as_millis();
    let late = Indexed { partition: OPEN.into(), from: 0, to, newest_first: false, limit: SWEEP_MAX };
    for (key, _) in store.table.indexed(late).await? {
        if let Some(id) = key.pk.strip_prefix("t#") {
            tracing::info!(intent = id, "a large commit was left behind; it is seen to");
            resolve(store, id).await?;
        }
    }
    Ok(())
}
