//! Orders and events on their way in.

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::commit::{Commit, NewBody, NewEvent};
use super::queue::{Job, Reply};
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
        let order = match self.decide(id, change, reply)? {
            Changed::Done(order) => order,
            // Nothing was written, and what it was decided on was durable or decided in the same order.
            refused => return Ok(Durable::assert(refused)),
        };
        let durable = answer.await.map_err(|_| gone())??;
        let () = durable.into_inner();
        Ok(Durable::assert(Changed::Done(order)))
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

    /// Decides on the order as it stands and sends the change off, under the lock of the orders.
    fn decide(&self, id: OrderId, change: Change, reply: Reply<()>) -> Result<Changed> {
        let mut orders = self.store.orders.lock();
        let found = orders.get(&self.store.readers.disk(), id).map_err(|error| failed(&error))?;
        let Some((number, order)) = found else { return Ok(Changed::UnknownOrder) };
        let order = match order.after(&change) {
            Ok(order) => order,
            Err(illegal) => return Ok(Changed::Illegal(illegal)),
        };
        let event = NewEvent {
            id: EventId::generate(),
            time: Timestamp::now(),
            cause: None,
            by: None,
            depth: 0,
            body: NewBody::OrderChanged { number, order: order.clone(), change },
        };
        let commit = Box::new(Commit { consumer: None, events: vec![event] });
        let job = self.store.queue.push(Job::Commit { commit, reply: Some(reply) })?;
        orders.set(number, order.clone(), job, self.store.queue.durable());
        Ok(Changed::Done(order))
    }
}

/// The writer dropped the question: it is closing.
fn gone() -> Error {
    Error::Unavailable("the host is shutting down".into())
}
