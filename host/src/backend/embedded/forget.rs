//! A consumer that will not come back: nothing waits for it any more.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use tokio::sync::oneshot;

use super::commit::{ConsumerNumber, StateNumber};
use super::inbox::EmbeddedInbox;
use super::queue::Job;
use super::writer::Writer;
use super::{Embedded, Store, versions};
use crate::backend::{Durable, Error, Forgotten, Result};
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// Whoever looked at its inbox a moment ago lets go of it.
const TRIES_MAX: u32 = 50;
const TRY_EVERY: Duration = Duration::from_millis(20);

pub async fn forget(embedded: &Embedded, name: &ConsumerName) -> Result<Durable<Forgotten>> {
    for _ in 0..TRIES_MAX {
        if let Some(job) = job(&embedded.store, name) {
            let done = job?.await.map_err(|_| Error::Unavailable("the host is shutting down".into()))??;
            if let Some(upkeep) = &*embedded.upkeep.lock() {
                upkeep.ring();
            }
            return Ok(done);
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    Ok(Durable::assert(Forgotten::InUse))
}

type Answer = oneshot::Receiver<Result<Durable<Forgotten>>>;

/// Held while the inbox of a consumer is made: until it is there, the consumer is not forgotten.
#[must_use]
pub struct Attaching<'a>(&'a Store, ConsumerName);

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        let mut attaching = self.0.attaching.lock();
        if let Some(at) = attaching.iter().position(|name| *name == self.1) {
            attaching.swap_remove(at);
        }
    }
}

/// The inbox, where it is there already.
pub fn attach<'a>(store: &'a Store, name: &ConsumerName) -> Result<Arc<EmbeddedInbox>, Attaching<'a>> {
    let inboxes = store.inboxes.lock();
    inboxes.get(name).map(Arc::clone).ok_or_else(|| {
        store.attaching.lock().push(name.clone());
        Attaching(store, name.clone())
    })
}

/// Sends it off under the lock of the inboxes, so that whoever attaches from then on begins anew. `None` while somebody
/// holds the inbox, or makes it: he could commit for a consumer that is gone.
fn job(store: &Store, name: &ConsumerName) -> Option<Result<Answer>> {
    let mut inboxes = store.inboxes.lock();
    let is_held = inboxes.get(name).is_some_and(|inbox: &Arc<EmbeddedInbox>| Arc::strong_count(inbox) > 1);
    if is_held || store.attaching.lock().contains(name) {
        return None;
    }
    let (reply, answer) = oneshot::channel();
    let task = {
        let name = name.clone();
        move |writer: &mut Writer<'_>| write(writer, &name)
    };
    let pushed = store.queue.push(Job::task(task, reply));
    if pushed.is_ok() {
        inboxes.remove(name);
    }
    Some(pushed.map(|_| answer))
}

fn write(writer: &mut Writer<'_>, name: &ConsumerName) -> rusqlite::Result<Forgotten> {
    versions::forget(writer.connection, name)?;
    let known: Option<(ConsumerNumber, StateNumber)> = writer
        .connection
        .prepare_cached("SELECT number, state FROM consumers WHERE name = ?1")?
        .query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((number, state)) = known else { return Ok(Forgotten::Unknown) };
    writer.connection.execute("DELETE FROM consumers WHERE number = ?1", [number])?;
    writer.give_up_generation(number)?;
    let kept =
        "UPDATE generations SET standing = 'past' WHERE consumer = ?1 AND standing IN ('kept', 'keeping', 'copying')";
    writer.connection.execute(kept, [number])?;
    writer.connection.execute("DELETE FROM backfills WHERE consumer = ?1", [number])?;
    let forgotten = params![number, name.as_str(), state];
    writer.connection.execute("INSERT INTO forgotten (number, name, state) VALUES (?1, ?2, ?3)", forgotten)?;
    writer.memory.progress.remove(&number);
    writer.memory.runs.retain(|(consumer, _), _| *consumer != number);
    fault::pass(Point::ForgetWritten);
    Ok(Forgotten::Done)
}
