//! The statements: the rows that the host writes for the same order, in its own tables.

use anyhow::{Context, Result, bail};
use fanfare::order::{Order, Status};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::counters::Counters;
use super::staged::Staged;
use super::store::{Job, Placed};
use crate::mode::Mode;

/// Prepared once.
pub struct Rows<'a> {
    connection: &'a Connection,
    order: Statement<'a>,
    idempotency: Statement<'a>,
    event: Statement<'a>,
    step: Statement<'a>,
    entry: Statement<'a>,
    counter: Statement<'a>,
    message: Statement<'a>,
    record: Statement<'a>,
    progress: Statement<'a>,
    /// Number of the last order, and position of the last event.
    orders: i64,
    head: i64,
}

impl<'a> Rows<'a> {
    pub fn prepare(connection: &'a Connection) -> Result<Self> {
        let last = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
        Ok(Self {
            connection,
            order: connection.prepare(
                "INSERT INTO orders (number, id, reference, status, revision, placed_at, customer_id, content, fingerprint)
                 VALUES (?1, ?2, ?3, 'placed', 1, ?4, ?5, ?6, ?7)",
            )?,
            idempotency: connection.prepare(
                "INSERT INTO idempotency (key, fingerprint, order_number, time) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO NOTHING",
            )?,
            event: connection.prepare(
                "INSERT INTO events (position, id, time, kind, order_number, revision, cause, depth, data)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?,
            step: connection.prepare("UPDATE orders SET status = ?1, revision = ?2 WHERE number = ?3")?,
            entry: connection.prepare(
                "INSERT INTO entries (state, key, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (state, key) DO UPDATE SET value = excluded.value",
            )?,
            counter: connection.prepare(
                "INSERT INTO counters (state, key, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (state, key) DO UPDATE SET value = excluded.value",
            )?,
            message: connection.prepare(
                "INSERT INTO messages (message_id, consumer, position, state, due, time, message)
                 VALUES (?1, ?2, ?3, 'pending', ?4, ?4, ?5)",
            )?,
            record: connection
                .prepare("INSERT INTO records (dataset, consumer, position, row) VALUES (?1, ?2, ?3, ?4)")?,
            progress: connection
                .prepare("UPDATE consumers SET position = ?2, ahead = '', done = done + ?3 WHERE number = ?1")?,
            orders: last("SELECT max(number) FROM orders")?.unwrap_or(0),
            head: last("SELECT max(position) FROM events")?.unwrap_or(0),
        })
    }

    /// Writes an order and all that becomes of it. A repeat of a key writes nothing.
    pub fn place(&mut self, job: &mut Job, counters: &mut Counters) -> Result<Placed> {
        let Job { order, id, key, fingerprint, content, staged, .. } = job;
        let (number, placed_at) = (self.orders + 1, millis(order));
        if let Some(key) = key
            && self.idempotency.execute(params![&*key, fingerprint.as_slice(), number, placed_at])? == 0
        {
            return self.repeat(key, fingerprint);
        }
        let reference = &order.content.reference;
        if let Some(reference) = reference
            && self.connection.prepare_cached("SELECT 1 FROM orders WHERE reference = ?1")?.exists([reference])?
        {
            bail!("reference {reference} is taken, which no order of the load meets");
        }
        let customer = &order.content.customer.id;
        self.order.execute(params![number, &*id, reference, placed_at, customer, &*content, fingerprint.as_slice()])?;
        self.orders = number;
        counters.settle(staged)?;
        self.effects(staged, number, placed_at)?;
        Ok(Placed::New)
    }

    fn effects(&mut self, staged: &Staged, number: i64, time: i64) -> Result<()> {
        let base = self.head + 1;
        let mut cause: Option<&str> = None;
        for (fact, depth) in staged.events.iter().zip(0_i64..) {
            self.head += 1;
            let (status, id) = (fact.change.status(), fact.id_text.as_str());
            if depth > 0 {
                self.step.execute(params![status.as_str(), depth + 1, number])?;
            }
            let kind = status.event_kind();
            self.event.execute(params![self.head, id, time, kind, number, depth + 1, cause, depth, fact.data])?;
            cause = Some(id);
        }
        let position = |event: usize| i64::try_from(event).map(|event| base + event);
        for entry in &staged.entries {
            self.entry.execute(params![number_of(entry.consumer)?, entry.key, entry.value])?;
        }
        for row in &staged.messages {
            let (consumer, position) = (number_of(row.consumer)?, position(row.event)?);
            self.message.execute(params![row.message_id, consumer, position, time, row.message])?;
        }
        for row in &staged.records {
            let (consumer, position) = (number_of(row.consumer)?, position(row.event)?);
            self.record.execute(params![row.dataset, consumer, position, row.row])?;
        }
        Ok(())
    }

    /// The answer that the first order with this key got.
    fn repeat(&self, key: &str, fingerprint: &[u8; 32]) -> Result<Placed> {
        let first = self
            .connection
            .prepare_cached(
                "SELECT i.fingerprint, o.id, o.placed_at, o.content FROM idempotency AS i
                 JOIN orders AS o ON o.number = i.order_number WHERE i.key = ?1",
            )?
            .query_row([key], |row| {
                let text = |index| row.get::<_, String>(index);
                Ok((row.get::<_, [u8; 32]>(0)?, text(1)?, row.get::<_, i64>(2)?, text(3)?))
            })
            .optional()?;
        let (stored, id, placed_at, content) = first.context("a key without an order")?;
        if stored != *fingerprint {
            return Ok(Placed::KeyReused);
        }
        Ok(Placed::Repeated(Order {
            id: id.parse()?,
            status: Status::Placed,
            revision: 1,
            placed_at: fanfare::clock::Timestamp::from_millis(u64::try_from(placed_at)?),
            content: std::sync::Arc::new(serde_json::from_str(&content)?),
        }))
    }

    /// What a batch writes once: the counters that it moved, and how far each consumer is.
    pub fn end_batch(&mut self, mode: &Mode, orders: u64, counters: &mut Counters) -> Result<()> {
        let counter = &mut self.counter;
        counters.drain(|moved| {
            let state = number_of(moved.consumer).unwrap_or_default();
            counter.execute(params![state, &*moved.key, moved.value]).map(drop)
        })?;
        for ((_, deliveries), number) in mode.consumers.into_iter().zip(1_i64..) {
            self.progress.execute(params![number, self.head, i64::try_from(orders * deliveries)?])?;
        }
        Ok(())
    }
}

/// A consumer's number in the store, which names its state too.
pub fn number_of(consumer: usize) -> Result<i64> {
    Ok(i64::try_from(consumer)? + 1)
}

fn millis(order: &Order) -> i64 {
    i64::try_from(order.placed_at.as_millis()).unwrap_or(i64::MAX)
}
