//! Orders as they stand with every change on its way to the disk: what a step is decided on.

use std::collections::HashMap;

use super::commit::OrderNumber;
use super::readers::Disk;
use super::rows;
use crate::backend::recent::Recent;
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
pub struct Orders {
    slots: Recent<OrderId, Slot>,
    /// Orders that job number … deletes, until it is durable: nobody may decide on what is still on disk.
    leaving: HashMap<OrderId, u64>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { slots: Recent::new(ORDERS_MAX), leaving: HashMap::new() }
    }
}

impl Orders {
    pub fn get(&mut self, disk: &Disk<'_>, id: OrderId) -> rusqlite::Result<Option<(OrderNumber, Order)>> {
        if self.leaving.contains_key(&id) {
            return Ok(None);
        }
        if let Some(slot) = self.slots.get(&id) {
            return Ok(Some((slot.number, slot.order.clone())));
        }
        let Some((number, order)) = rows::order_by_id(disk.connection()?, disk.contents(), id)? else {
            return Ok(None);
        };
        // What is as it is on disk pushes nothing out that is not.
        self.slots.insert(id, Slot { number, order: order.clone(), job: 0 }, |slot| slot.job > 0);
        Ok(Some((number, order)))
    }

    /// Takes over an order as job number `job` leaves it.
    pub fn set(&mut self, number: OrderNumber, order: Order, job: u64, durable: u64) {
        self.slots.insert(order.id, Slot { number, order, job }, |slot| slot.job > durable);
    }

    /// New orders, durable now: consumers are about to ask for them.
    pub fn placed(&mut self, orders: Vec<(OrderNumber, Order)>, durable: u64) {
        for (number, order) in orders {
            // A change decided meanwhile is newer.
            if self.slots.get(&order.id).is_none() {
                self.slots.insert(order.id, Slot { number, order, job: 0 }, |slot| slot.job > durable);
            }
        }
    }

    /// Whether a change is on its way to the disk.
    pub fn is_changing(&mut self, id: OrderId, durable: u64) -> bool {
        self.slots.get(&id).is_some_and(|slot| slot.job > durable)
    }

    /// Job number `job` deletes these orders.
    pub fn let_go(&mut self, ids: impl Iterator<Item = OrderId>, job: u64) {
        for id in ids {
            self.slots.remove(&id);
            self.leaving.insert(id, job);
        }
    }

    /// The deletions up to this job are durable: the disk says what is left.
    pub fn gone(&mut self, durable: u64) {
        self.leaving.retain(|_, job| *job > durable);
    }

    pub fn clear(&mut self) {
        self.slots.clear();
        self.leaving.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{ORDERS_MAX, Orders};
    use crate::clock::Timestamp;
    use crate::order::{Change, Content, Customer, Order};

    fn content() -> Arc<Content> {
        Arc::new(Content {
            reference: None,
            currency: "EUR".into(),
            customer: Customer { id: "c".into(), name: None, email: None, phone: None },
            lines: Vec::new(),
            total_amount: 0,
            shipping_address: None,
            metadata: std::collections::BTreeMap::new(),
        })
    }

    #[test]
    fn changes_that_are_not_durable_are_never_forgotten() {
        let (content, mut orders) = (content(), Orders::default());
        let changed: Vec<_> =
            (0..3 * ORDERS_MAX).map(|_| Order::place(Arc::clone(&content), Timestamp::now())).collect();
        for order in &changed {
            orders.set(1, order.clone(), 7, 6);
        }
        assert!(changed.iter().all(|order| orders.is_changing(order.id, 6)));
    }

    /// It is on disk a moment before it is told here, and whoever lists orders may change it then.
    #[test]
    fn an_order_that_was_changed_before_it_is_told_of_stays_changed() {
        let mut orders = Orders::default();
        let order = Order::place(content(), Timestamp::now());
        let changed = order.after(&Change::Confirmed {}).unwrap();
        orders.set(1, changed.clone(), 7, 6);
        orders.placed(vec![(1, order)], 6);
        assert_eq!(orders.slots.get(&changed.id).unwrap().order.revision, changed.revision);
    }

    #[test]
    fn orders_that_nobody_changes_do_not_gather() {
        const BATCH: usize = 1_000;
        let content = content();
        let mut orders = Orders::default();
        for _ in 0..5 * ORDERS_MAX / BATCH {
            let placed = (0..BATCH).map(|_| (1, Order::place(Arc::clone(&content), Timestamp::now())));
            orders.placed(placed.collect(), 0);
        }
        assert!(orders.slots.iter().count() <= 2 * ORDERS_MAX, "{}", orders.slots.iter().count());
    }
}
