//! What never changes of an order, by its number: parsed once, however many events, changes and consumers ask for it.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::commit::OrderNumber;
use super::rows;
use crate::backend::damaged::Told;
use crate::backend::recent::Recent;
use crate::clock::Timestamp;
use crate::order::{Content, Order, OrderId};

/// Orders kept per generation, at about 1.5 KiB each.
const ORDERS_MAX: usize = 16_384;

/// An order but for its status and revision.
#[derive(Clone)]
pub struct Fixed {
    pub id: OrderId,
    pub placed_at: Timestamp,
    pub content: Arc<Content>,
}

pub struct Contents {
    orders: Mutex<Recent<OrderNumber, Fixed>>,
    pub damaged: Told,
}

impl Contents {
    pub fn new() -> Self {
        Self { orders: Mutex::new(Recent::new(ORDERS_MAX)), damaged: Told::default() }
    }

    pub fn get(&self, number: OrderNumber) -> Option<Fixed> {
        self.orders.lock().get(&number).cloned()
    }

    pub fn get_or_read(&self, disk: &Connection, number: OrderNumber) -> rusqlite::Result<Fixed> {
        if let Some(fixed) = self.get(number) {
            return Ok(fixed);
        }
        let fixed = disk.prepare_cached("SELECT id, placed_at, content FROM orders WHERE number = ?1")?.query_row(
            [number],
            |row| {
                Ok(Fixed {
                    id: rows::parse(row.get_ref(0)?.as_str()?)?,
                    placed_at: rows::timestamp(row, 1)?,
                    content: Arc::new(rows::from_json(row.get_ref(2)?.as_str()?)?),
                })
            },
        )?;
        self.insert(number, fixed.clone());
        Ok(fixed)
    }

    /// Orders that are new: their events are about to be asked for.
    pub fn placed(&self, orders: &[(OrderNumber, Order)]) {
        let mut contents = self.orders.lock();
        for (number, order) in orders {
            let fixed = Fixed { id: order.id, placed_at: order.placed_at, content: Arc::clone(&order.content) };
            contents.insert(*number, fixed, |_| false);
        }
    }

    pub fn insert(&self, number: OrderNumber, fixed: Fixed) {
        self.orders.lock().insert(number, fixed, |_| false);
    }
}
