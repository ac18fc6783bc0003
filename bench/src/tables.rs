//! A store of one consumer, in memory: what a guest sees that is handled in process.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare::backend::{self, Lease, View};
use fanfare::effects::Effects;
use fanfare::order::{Order, OrderId};
use parking_lot::Mutex;

pub struct Tables(Mutex<Maps>);

#[derive(Default)]
struct Maps {
    entries: HashMap<Arc<str>, Arc<[u8]>>,
    counters: HashMap<Arc<str>, i64>,
    orders: HashMap<OrderId, Order>,
}

impl Tables {
    /// With this much stock of each of these SKUs.
    pub fn stocked<S: Display>(skus: impl IntoIterator<Item = S>, stock: i64) -> Self {
        let counters = skus.into_iter().map(|sku| (format!("stock/{sku}").into(), stock)).collect();
        Self(Mutex::new(Maps { counters, ..Maps::default() }))
    }

    pub fn know(&self, order: Order) {
        self.0.lock().orders.insert(order.id, order);
    }

    pub fn apply(&self, effects: Effects) {
        let mut maps = self.0.lock();
        for (key, value) in effects.entries {
            match value {
                Some(value) => maps.entries.insert(key, value),
                None => maps.entries.remove(&key),
            };
        }
        for adjustment in effects.adjustments {
            *maps.counters.entry(adjustment.key).or_default() += adjustment.by;
        }
        for (id, change) in effects.order_changes {
            if let Some(order) = maps.orders.get_mut(&id)
                && let Ok(after) = order.after(&change)
            {
                *order = after;
            }
        }
    }
}

#[async_trait]
impl View for Tables {
    async fn get(&self, key: &str) -> backend::Result<Option<Arc<[u8]>>> {
        Ok(self.0.lock().entries.get(key).cloned())
    }

    async fn count(&self, key: &str) -> backend::Result<i64> {
        Ok(self.0.lock().counters.get(key).copied().unwrap_or_default())
    }

    async fn scan(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> backend::Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        let maps = self.0.lock();
        let found = maps.entries.iter().map(|(key, value)| (Arc::clone(key), Arc::clone(value)));
        Ok(page(found.collect(), prefix, after, limit))
    }

    async fn scan_counts(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> backend::Result<Vec<(Arc<str>, i64)>> {
        let maps = self.0.lock();
        let found = maps.counters.iter().map(|(key, value)| (Arc::clone(key), *value));
        Ok(page(found.collect(), prefix, after, limit))
    }

    async fn order(&self, id: OrderId) -> backend::Result<Option<Order>> {
        Ok(self.0.lock().orders.get(&id).cloned())
    }

    async fn durable(&self, _: Lease) -> backend::Result<()> {
        Ok(())
    }
}

fn page<T>(mut all: Vec<(Arc<str>, T)>, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(Arc<str>, T)> {
    all.retain(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| &**key > after));
    all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    all.truncate(limit);
    all
}
