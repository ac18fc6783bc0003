//! The statements that put jobs on disk, inside the transaction of one batch.
//!
//! Within a batch, values of one key are written once (the last), and a consumer's position once: that is what
//! makes fan-out cheap.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::commit::{
    BackfillNumber, Commit, ConsumerCommit, ConsumerNumber, NewBody, NewEvent, NewMessage, OrderNumber, StateNumber,
};
use super::exceptions::{OpenRun, open_runs};
use super::generations::Filling;
use super::progress::Progress;
use super::statements::Statements;
use super::{backfills, generations, kinds, rows, size, state};
use crate::backend::{Origin, Placed, Placement, Published};
use crate::clock::Timestamp;
use crate::effects::Value;
use crate::event::{Body, Custom, Event, EventId, Position};
use crate::order::{Change, Order};

/// What the writer knows between batches; thrown away and read again when a batch fails.
pub struct Memory {
    /// Position of the last event.
    pub head: u64,
    /// Number of the last order.
    pub orders: OrderNumber,
    pub progress: HashMap<ConsumerNumber, Progress>,
    pub runs: HashMap<(ConsumerNumber, Origin), OpenRun>,
    pub backfills: HashMap<BackfillNumber, Progress>,
    pub rebuilds: HashMap<ConsumerNumber, Filling>,
}

impl Memory {
    pub fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let last = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
        let head = last("SELECT max(position) FROM events")?.unwrap_or(0);
        let orders = last("SELECT max(number) FROM orders")?.unwrap_or(0);
        let mut statement = connection.prepare("SELECT number, position, ahead FROM consumers")?;
        let progress = statement
            .query_map([], |row| Ok((row.get(0)?, rows::progress(row, 1)?)))?
            .collect::<rusqlite::Result<HashMap<_, _>>>()?;
        let (backfills, runs) = (backfills::progress(connection)?, open_runs(connection)?);
        let rebuilds = generations::under_way(connection)?;
        Ok(Self { head: rows::unsigned(head), orders, progress, backfills, runs, rebuilds })
    }
}

/// One batch.
pub struct Writer<'a> {
    pub connection: &'a Connection,
    statements: Statements<'a>,
    pub memory: &'a mut Memory,
    pub now: Timestamp,
    /// Events of this batch, in journal order, with the numbers of the orders they placed.
    pub events: Vec<Arc<Event>>,
    pub placed: Vec<(OrderNumber, Order)>,
    entries: HashMap<(StateNumber, Arc<str>), Value>,
    counters: HashMap<(StateNumber, Arc<str>), i64>,
    sizes: HashMap<StateNumber, u64>,
    /// Events done per consumer.
    consumers: HashMap<ConsumerNumber, u64>,
    pub(super) backfills: HashMap<BackfillNumber, backfills::Tally>,
}

impl<'a> Writer<'a> {
    pub fn new(connection: &'a Connection, memory: &'a mut Memory, now: Timestamp) -> Self {
        Self {
            connection,
            statements: Statements::new(connection),
            memory,
            now,
            events: Vec::new(),
            placed: Vec::new(),
            entries: HashMap::new(),
            counters: HashMap::new(),
            sizes: HashMap::new(),
            consumers: HashMap::new(),
            backfills: HashMap::new(),
        }
    }

    pub fn place(&mut self, placement: &Placement, content: &str) -> rusqlite::Result<Placed> {
        if let Some(key) = &placement.idempotency_key
            && let Some((fingerprint, number)) = self.idempotency_record(key)?
        {
            if fingerprint != placement.fingerprint {
                return Ok(Placed::KeyReused);
            }
            // Retention lets no key outlive its order; if one did, it would stand for nothing.
            if let Some(order) = rows::order_as_placed(self.connection, number)? {
                return Ok(Placed::Repeated(order));
            }
        }
        let order = &placement.order;
        if let Some(reference) = &order.content.reference
            && let Some((by, fingerprint)) = rows::order_by_reference(self.connection, reference)?
        {
            return Ok(Placed::ReferenceTaken { by, same_content: fingerprint == placement.fingerprint });
        }
        let number = self.memory.orders + 1;
        self.statements.execute(
            "INSERT INTO orders (number, id, reference, status, revision, placed_at, customer_id, content, fingerprint)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                number,
                rows::id(&order.id),
                order.content.reference,
                order.status.as_str(),
                rows::signed(order.revision),
                rows::millis(order.placed_at),
                order.content.customer.id,
                content,
                placement.fingerprint.as_slice(),
            ],
        )?;
        self.memory.orders = number;
        if let Some(key) = &placement.idempotency_key {
            self.statements.execute(
                "INSERT OR REPLACE INTO idempotency (key, fingerprint, order_number, time) VALUES (?1, ?2, ?3, ?4)",
                params![key, placement.fingerprint.as_slice(), number, rows::millis(self.now)],
            )?;
        }
        self.placed.push((number, order.clone()));
        self.event(NewEvent {
            id: EventId::generate(),
            time: self.now,
            cause: None,
            by: None,
            depth: 0,
            body: NewBody::OrderChanged { number, order: order.clone(), change: Change::Placed {} },
        })?;
        Ok(Placed::New(order.clone()))
    }

    fn idempotency_record(&mut self, key: &str) -> rusqlite::Result<Option<([u8; 32], OrderNumber)>> {
        self.statements
            .statement("SELECT fingerprint, order_number FROM idempotency WHERE key = ?1")?
            .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    }

    pub fn publish(&mut self, events: Vec<Custom>) -> rusqlite::Result<Vec<Published>> {
        events.into_iter().map(|event| self.publish_one(event)).collect()
    }

    fn publish_one(&mut self, custom: Custom) -> rusqlite::Result<Published> {
        let id = EventId::generate();
        if let Some(origin_id) = &custom.origin_id {
            let first: Option<String> = self
                .connection
                .prepare_cached("SELECT event_id FROM origins WHERE source = ?1 AND origin_id = ?2")?
                .query_row([&*custom.source, origin_id], |row| row.get(0))
                .optional()?;
            if let Some(first) = first {
                return Ok(Published { id: rows::parse(&first)?, repeated: true });
            }
            self.connection
                .prepare_cached("INSERT INTO origins (source, origin_id, event_id) VALUES (?1, ?2, ?3)")?
                .execute(params![&*custom.source, &**origin_id, rows::id(&id)])?;
        }
        self.event(NewEvent { id, time: self.now, cause: None, by: None, depth: 0, body: NewBody::Custom(custom) })?;
        Ok(Published { id, repeated: false })
    }

    pub fn commit(&mut self, commit: Commit) -> rusqlite::Result<()> {
        for event in commit.events {
            self.event(event)?;
        }
        if let Some(consumer) = commit.consumer {
            self.consumer(consumer)?;
        }
        Ok(())
    }

    /// Appends one event to the journal, and moves its order on.
    pub fn event(&mut self, event: NewEvent) -> rusqlite::Result<()> {
        self.memory.head += 1;
        let position = self.memory.head;
        match &event.body {
            NewBody::OrderChanged { number, order, change } => {
                self.order_changed(position, &event, *number, order, change)?;
            }
            NewBody::Custom(custom) => self.custom(position, &event, custom)?,
        }
        let NewEvent { id, time, cause, depth, body, .. } = event;
        let body = match body {
            NewBody::OrderChanged { order, change, .. } => Body::OrderChanged { order, change },
            NewBody::Custom(custom) => Body::Custom(custom),
        };
        kinds::close(self.connection, position)?;
        if let Some(position) = Position::new(position) {
            self.events.push(Arc::new(Event { id, position, time, cause, depth, body }));
        }
        Ok(())
    }

    fn order_changed(
        &mut self,
        position: u64,
        event: &NewEvent,
        number: OrderNumber,
        order: &Order,
        change: &Change,
    ) -> rusqlite::Result<()> {
        if order.revision > 1 {
            self.statements.execute(
                "UPDATE orders SET status = ?1, revision = ?2 WHERE number = ?3",
                params![order.status.as_str(), rows::signed(order.revision), number],
            )?;
        }
        self.statements.execute(
"INSERT INTO events (position, id, time, kind, order_number, revision, cause, depth, data, consumer, astray)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
params![
                rows::signed(position),
                rows::id(&event.id),
                rows::millis(event.time),
                order.status.event_kind(),
                number,
                rows::signed(order.revision),
                event.cause.map(|cause| rows::id(&cause)),
                event.depth,
                rows::json(change)?,
                event.by.map(|by| by.consumer),
                event.astray(),
            ],
)?;
        Ok(())
    }

    fn custom(&mut self, position: u64, event: &NewEvent, custom: &Custom) -> rusqlite::Result<()> {
        let order_id = custom.order_id.map(|order_id| rows::id(&order_id));
        let number = match &order_id {
            Some(order_id) => rows::order_number(self.connection, order_id)?,
            None => None,
        };
        self.statements.execute(
            "INSERT INTO events (position, id, time, kind, order_number, cause, depth, order_id, source, origin_id,
                                     subject, data, consumer, astray)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            params![
                rows::signed(position),
                rows::id(&event.id),
                rows::millis(event.time),
                &*custom.kind,
                number,
                event.cause.map(|cause| rows::id(&cause)),
                event.depth,
                order_id,
                &*custom.source,
                custom.origin_id.as_deref(),
                &*custom.subject,
                custom.data.get(),
                event.by.map(|by| by.consumer),
                event.astray(),
            ],
        )?;
        Ok(())
    }

    fn consumer(&mut self, commit: ConsumerCommit) -> rusqlite::Result<()> {
        let ConsumerCommit { consumer, state, position, .. } = commit;
        let progress = self.memory.progress.entry(consumer).or_default();
        for (first, last) in commit.through {
            progress.add(first, last);
        }
        *self.consumers.entry(consumer).or_default() += commit.done;
        for exception in &commit.exceptions {
            self.exception(consumer, exception)?;
        }
        if let Some(handled) = &commit.handled {
            self.handled(consumer, handled)?;
        }
        for attempt in commit.tried.iter().chain(&commit.attempt) {
            self.attempt(consumer, attempt)?;
        }
        commit.backfills.into_iter().for_each(|backfill| self.backfill(backfill));
        self.state_written(state, commit.entries, commit.counters, commit.bytes);
        for message in &commit.messages {
            self.message(consumer, position, message)?;
        }
        let now = rows::millis(self.now);
        for record in &commit.records {
            self.statements.execute(
                "INSERT INTO records (dataset, consumer, position, row, time) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![&*record.dataset, consumer, rows::signed(position), record.row, now],
            )?;
        }
        Ok(())
    }

    pub(super) fn state_written(
        &mut self,
        state: StateNumber,
        entries: Vec<(Arc<str>, Value)>,
        counters: Vec<(Arc<str>, i64)>,
        bytes: Option<u64>,
    ) {
        self.entries.extend(entries.into_iter().map(|(key, value)| ((state, key), value)));
        self.counters.extend(counters.into_iter().map(|(key, value)| ((state, key), value)));
        self.sizes.extend(bytes.map(|bytes| (state, bytes)));
    }

    fn message(&mut self, consumer: ConsumerNumber, position: u64, new: &NewMessage) -> rusqlite::Result<()> {
        self.statements.execute(
            "INSERT INTO messages (message_id, consumer, position, state, due, time, message)
                 VALUES (?1, ?2, ?3, 'pending', ?4, ?4, ?5)",
            params![
                new.message_id,
                consumer,
                rows::signed(position),
                rows::millis(new.time),
                rows::json(&new.message)?,
            ],
        )?;
        Ok(())
    }

    /// Writes what was held back until the end of the batch.
    pub fn flush(&mut self) -> rusqlite::Result<()> {
        let mut set = self.connection.prepare_cached(state::SET_ENTRY)?;
        let mut delete = self.connection.prepare_cached(state::DELETE_ENTRY)?;
        for ((state, key), value) in self.entries.drain() {
            match value {
                Some(value) => set.execute(params![state, &*key, &*value])?,
                None => delete.execute(params![state, &*key])?,
            };
        }
        let mut count = self.connection.prepare_cached(state::SET_COUNTER)?;
        for ((state, key), value) in self.counters.drain() {
            count.execute(params![state, &*key, value])?;
        }
        size::write(self.connection, &mut self.sizes)?;
        let mut advance = self
            .connection
            .prepare_cached("UPDATE consumers SET position = ?2, ahead = ?3, done = done + ?4 WHERE number = ?1")?;
        for (consumer, done) in self.consumers.drain() {
            if let Some(progress) = self.memory.progress.get(&consumer) {
                let base = rows::signed(progress.base());
                advance.execute(params![consumer, base, progress.ahead().to_string(), rows::signed(done)])?;
            }
        }
        self.flush_backfills()?;
        self.flush_runs()
    }
}
