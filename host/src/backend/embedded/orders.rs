//! Orders as they stand with every change on its way to the disk: what a step is decided on.

use super::commit::OrderNumber;
use super::readers::Disk;
use super::recent::Recent;
use super::rows;
use crate::order::{Order, OrderId};

/// Orders kept per generation, besides those whose change is on its way to the disk.
const ORDERS_MAX: usize = 16_384;

struct Slot {
    number: OrderNumber,
    order: Order,
    /// The job that changed it last; 0 if it is as it is on disk.
    job: u64,
}

/// Knows only orders that are durable: an id is told to nobody before.
pub struct Orders(Recent<OrderId, Slot>);

impl Default for Orders {
    fn default() -> Self {
        Self(Recent::new(ORDERS_MAX))
    }
}

impl Orders {
    pub fn get(&mut self, disk: &Disk<'_>, id: OrderId) -> rusqlite::Result<Option<(OrderNumber, Order)>> {
        if let Some(slot) = self.0.get(&id) {
            return Ok(Some((slot.number, slot.order.clone())));
        }
        let Some((number, order)) = rows::order_by_id(disk.connection()?, disk.contents(), id)? else {
            return Ok(None);
        };
        // What is as it is on disk pushes nothing out that is not.
        self.0.insert(id, Slot { number, order: order.clone(), job: 0 }, |slot| slot.job > 0);
        Ok(Some((number, order)))
    }

    /// Takes over an order as job number `job` leaves it.
    pub fn set(&mut self, number: OrderNumber, order: Order, job: u64, durable: u64) {
        self.0.insert(order.id, Slot { number, order, job }, |slot| slot.job > durable);
    }

    /// New orders, durable now: consumers are about to ask for them.
    pub fn placed(&mut self, orders: Vec<(OrderNumber, Order)>, durable: u64) {
        for (number, order) in orders {
            // A change decided meanwhile is newer.
            if self.0.get(&order.id).is_none() {
                self.0.insert(order.id, Slot { number, order, job: 0 }, |slot| slot.job > durable);
            }
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{ORDERS_MAX, Orders};
    use crate::clock::Timestamp;
    use crate::order::{Content, Customer, Order};

    #[test]
    fn orders_that_nobody_changes_do_not_gather() {
        const BATCH: usize = 1_000;
        let content = Arc::new(Content {
            reference: None,
            currency: "EUR".into(),
            customer: Customer { id: "c".into(), name: None, email: None, phone: None },
            lines: Vec::new(),
            total_amount: 0,
            shipping_address: None,
            metadata: std::collections::BTreeMap::new(),
        });
        let mut orders = Orders::default();
        for _ in 0..5 * ORDERS_MAX / BATCH {
            let placed = (0..BATCH).map(|_| (1, Order::place(Arc::clone(&content), Timestamp::now())));
            orders.placed(placed.collect(), 0);
        }
        assert!(orders.0.iter().count() <= 2 * ORDERS_MAX, "{}", orders.0.iter().count());
    }
}
