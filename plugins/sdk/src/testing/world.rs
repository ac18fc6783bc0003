//! What the host in memory holds. Writes go straight to the tables, with what they replaced kept aside until the handler
//! is done: reads need no overlay, and a handler that fails is undone.

// The contract says "traps" where a guest oversteps; natively that is a panic with the reason.
#![allow(clippy::panic, reason = "a panic is this host's trap")]

use std::collections::{HashMap, VecDeque};
use std::mem;

use serde_json::Value;

use crate::events::{Change, Custom};
use crate::http::{Error, Request, Response};
use crate::log::Level;
use crate::order::{Order, Status};
use crate::outbox::{Message, Refusal};
use crate::state::{Adjustment, Shortage};
use crate::{ColumnType, Dataset, Description, Need};

#[derive(Default)]
pub struct World {
    pub entries: HashMap<String, Vec<u8>>,
    pub counters: HashMap<String, i64>,
    pub orders: HashMap<String, Order>,
    pub settings: HashMap<String, String>,
    pub logged: Vec<(Level, String)>,
    pub effects: Effects,
    /// What was called, of failed handlers too, and what is yet to be answered.
    pub requests: Vec<Request>,
    pub answers: VecDeque<Result<Response, String>>,
    granted: Vec<Need>,
    replaced: Vec<Replaced>,
    committed: Lengths,
}

#[derive(Default)]
pub struct Effects {
    pub changes: Vec<(String, Change)>,
    pub published: Vec<Custom>,
    pub messages: Vec<Message>,
    pub rows: Vec<(String, Value)>,
}

/// How many effects of each sort are committed; those behind are staged.
#[derive(Default)]
struct Lengths {
    changes: usize,
    published: usize,
    messages: usize,
    rows: usize,
}

enum Replaced {
    Entry(String, Option<Vec<u8>>),
    Counter(String, Option<i64>),
    /// Id and status; the revision was one less.
    Order(String, Status),
}

impl World {
    pub fn new(description: &Description) -> Self {
        Self { granted: description.needs.clone(), ..Self::default() }
    }

    /// Keeps an order that the journal does not have.
    pub fn know(&mut self, order: &Order) {
        if !self.orders.contains_key(&order.id) {
            self.orders.insert(order.id.clone(), order.clone());
        }
    }

    /// Ends a handler: its effects stay, or all of them go.
    pub fn settle(&mut self, done: bool) {
        let mut replaced = mem::take(&mut self.replaced);
        if done {
            let Effects { changes, published, messages, rows } = &self.effects;
            self.committed = Lengths {
                changes: changes.len(),
                published: published.len(),
                messages: messages.len(),
                rows: rows.len(),
            };
            replaced.clear();
        } else {
            replaced.drain(..).rev().for_each(|one| self.restore(one));
            self.effects.changes.truncate(self.committed.changes);
            self.effects.published.truncate(self.committed.published);
            self.effects.messages.truncate(self.committed.messages);
            self.effects.rows.truncate(self.committed.rows);
        }
        // Kept for its capacity.
        self.replaced = replaced;
    }

    pub fn forget_effects(&mut self) {
        self.effects = Effects::default();
        self.committed = Lengths::default();
        self.logged.clear();
    }

    pub fn put_entry(&mut self, key: &str, value: Option<Vec<u8>>) {
        let before = match value {
            Some(value) => self.entries.insert(key.to_owned(), value),
            None => self.entries.remove(key),
        };
        self.replaced.push(Replaced::Entry(key.to_owned(), before));
    }

    pub fn adjust(&mut self, adjustments: &[Adjustment]) -> Result<(), Shortage> {
        let start = self.replaced.len();
        for Adjustment { key, by, floor } in adjustments {
            let held = self.counters.get(key).copied();
            let available = held.unwrap_or(0);
            let Some(after) = available.checked_add(*by) else { panic!("counter {key} overflows") };
            if floor.is_some_and(|floor| after < floor) {
                while self.replaced.len() > start {
                    self.replaced.pop().into_iter().for_each(|one| self.restore(one));
                }
                return Err(Shortage { key: key.clone(), available });
            }
            match self.counters.get_mut(key) {
                Some(counter) => *counter = after,
                None => {
                    self.counters.insert(key.clone(), after);
                }
            }
            self.replaced.push(Replaced::Counter(key.clone(), held));
        }
        Ok(())
    }

    pub fn change_order(&mut self, order_id: &str, change: &Change) -> Result<(), Refusal> {
        self.require(|need| matches!(need, Need::ChangeOrder), "change-order");
        let Some(order) = self.orders.get_mut(order_id) else { return Err(Refusal::UnknownOrder) };
        let Some(status) = after_step(&order.status, change) else {
            return Err(Refusal::Illegal(order.status.clone()));
        };
        let before = mem::replace(&mut order.status, status);
        self.replaced.push(Replaced::Order(order_id.to_owned(), before));
        order.revision += 1;
        self.effects.changes.push((order_id.to_owned(), change.clone()));
        Ok(())
    }

    pub fn publish(&mut self, event: &Custom) {
        let covers = |granted: &str| match granted.strip_suffix('*') {
            Some(prefix) => event.kind.starts_with(prefix),
            None => event.kind == granted,
        };
        self.require(|need| matches!(need, Need::Publish(kind) if covers(kind)), &event.kind);
        assert!(
            serde_json::from_str::<Value>(&event.data).is_ok(),
            "data of {} is not JSON: {}",
            event.kind,
            event.data
        );
        self.effects.published.push(event.clone());
    }

    pub fn send(&mut self, message: &Message) {
        match message {
            Message::Email(_) => self.require(|need| matches!(need, Need::Email), "email"),
            Message::Sms(_) => self.require(|need| matches!(need, Need::Sms), "sms"),
        }
        self.effects.messages.push(message.clone());
    }

    pub fn append(&mut self, dataset: &str, row: &str) -> Result<(), String> {
        let declared = self.granted.iter().find_map(|need| match need {
            Need::Records(declared) if declared.name == dataset => Some(declared),
            _ => None,
        });
        let Some(declared) = declared else { panic!("records {dataset}: not declared as a need") };
        let row: Value = serde_json::from_str(row).map_err(|error| format!("is not JSON: {error}"))?;
        fits(declared, &row)?;
        self.effects.rows.push((dataset.to_owned(), row));
        Ok(())
    }

    pub fn call(&mut self, request: &Request) -> Result<Response, Error> {
        self.requests.push(request.clone());
        let Some(answer) = self.answers.pop_front() else {
            panic!("{} {}: nobody answers; prepare it with `Host::answer`", request.method, request.url)
        };
        answer.map_err(|cause| request.error(cause))
    }

    fn require(&self, grants: impl Fn(&Need) -> bool, what: &str) {
        assert!(self.granted.iter().any(grants), "{what}: not declared as a need");
    }

    fn restore(&mut self, replaced: Replaced) {
        match replaced {
            Replaced::Entry(key, Some(value)) => drop(self.entries.insert(key, value)),
            Replaced::Entry(key, None) => drop(self.entries.remove(&key)),
            Replaced::Counter(key, Some(value)) => drop(self.counters.insert(key, value)),
            Replaced::Counter(key, None) => drop(self.counters.remove(&key)),
            Replaced::Order(id, status) => {
                if let Some(order) = self.orders.get_mut(&id) {
                    order.status = status;
                    order.revision -= 1;
                }
            }
        }
    }
}

/// The legal steps of an order's life, as the real host has them.
fn after_step(status: &Status, change: &Change) -> Option<Status> {
    match (status, change) {
        (Status::Placed, Change::Confirmed) => Some(Status::Confirmed),
        (Status::Placed, Change::Rejected(_)) => Some(Status::Rejected),
        (Status::Confirmed, Change::Shipped(_)) => Some(Status::Shipped),
        (Status::Shipped, Change::Delivered) => Some(Status::Delivered),
        (Status::Placed | Status::Confirmed, Change::Cancelled(_)) => Some(Status::Cancelled),
        _ => None,
    }
}

fn fits(declared: &Dataset, row: &Value) -> Result<(), String> {
    let Value::Object(row) = row else { return Err("is not a JSON object".to_owned()) };
    if let Some(unknown) = row.keys().find(|key| declared.columns.iter().all(|column| column.name != **key)) {
        return Err(format!("{unknown}: no such column"));
    }
    for column in &declared.columns {
        let value = row.get(&column.name).unwrap_or(&Value::Null);
        let fits = match column.of {
            _ if value.is_null() => column.nullable,
            ColumnType::Text | ColumnType::Timestamp | ColumnType::Date => value.is_string(),
            ColumnType::Int64 => value.is_i64(),
            ColumnType::Float64 => value.is_number(),
            ColumnType::Boolean => value.is_boolean(),
        };
        if !fits {
            return Err(format!("{}: {value} is not {:?}", column.name, column.of));
        }
    }
    Ok(())
}
