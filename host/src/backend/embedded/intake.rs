//! Orders and events on their way in.

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::commit::{NewBody, NewEvent};
use super::queue::{Job, Reply};
use super::writer::Writer;
use super::{Embedded, failed};
use crate::backend::{Changed, Durable, Error, Intake, Placed, Placement, Published, Result};
use crate::clock::Timestamp;
use crate::event::{Custom, EventId};
use crate::fault::{self, Point};
use crate::order::{Change, OrderId};

#[async_trait]
impl Intake for Embedded {
    async fn place(&self, placement: Placement) -> Result<Durable<Placed>> {
        let content = serde_json::to_string(&*placement.order.content)
            .map_err(|error| Error::Failed(error.to_string().into()))?;
        fault::pass(Point::OrderDecided);
        self.answer(|reply| Job::Place { placement: Box::new(placement), content, reply }).await
    }

    async fn change(&self, id: OrderId, change: Change) -> Result<Durable<Changed>> {
        let (reply, answer) = oneshot::channel();
        self.decide(id, change, reply)?;
        answer.await.map_err(|_| gone())?
    }

    async fn publish(&self, events: Vec<Custom>) -> Result<Durable<Vec<Published>>> {
        self.answer(|reply| Job::Publish { events, reply }).await
    }
}

impl Embedded {
    async fn answer<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<Durable<T>> {
        let (reply, answer) = oneshot::channel();
        self.store.queue.push(job(reply))?;
        answer.await.map_err(|_| gone())?
    }

    /// Decides on the order as it stands and sends the change off, under the lock of the orders. A refusal goes the same way:
    /// what it was decided on may be on its way to the disk, and may be undone.
    fn decide(&self, id: OrderId, change: Change, reply: Reply<Changed>) -> Result<()> {
        let mut orders = self.store.orders.lock();
        let found = orders.get(&self.store.readers.disk(), id).map_err(|error| failed(&error))?;
        let Some((number, order)) = found else { return self.refuse(Changed::UnknownOrder, reply) };
        let order = match order.after(&change) {
            Ok(order) => order,
            Err(illegal) => return self.refuse(Changed::Illegal(illegal), reply),
        };
        let event = NewEvent {
            id: EventId::generate(),
            time: Timestamp::now(),
            cause: None,
            by: None,
            depth: 0,
            body: NewBody::OrderChanged { number, order: order.clone(), change },
        };
        let changed = order.clone();
        let write = move |writer: &mut Writer<'_>| writer.event(event).map(|_| Changed::Done(changed));
        let job = self.store.queue.push(Job::task(write, reply))?;
        orders.set(number, order, job, self.store.queue.durable());
        Ok(())
    }

    fn refuse(&self, refusal: Changed, reply: Reply<Changed>) -> Result<()> {
        self.store.queue.push(Job::task(|_| Ok(refusal), reply)).map(drop)
    }
}

/// The writer dropped the question: it is closing.
fn gone() -> Error {
    Error::Unavailable("the host is shutting down".into())
}
