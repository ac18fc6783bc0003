//! What the live version was told, told again: the same question gets the same answer, whatever was committed meanwhile. Another
//! question is answered by the store as it is.
//!
//! What is remembered is bounded by what one handling may read.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::backend::{Lease, Result, View};
use crate::order::{Order, OrderId};

type Scan = (String, Option<String>, usize);
type Entry = (Arc<str>, Arc<[u8]>);
type Told<K, V> = Mutex<HashMap<K, V>>;

pub struct Snapshot {
    view: Arc<dyn View>,
    entries: Told<String, Option<Arc<[u8]>>>,
    counters: Told<String, i64>,
    scans: Told<Scan, Vec<Entry>>,
    scans_of_counters: Told<Scan, Vec<(Arc<str>, i64)>>,
    orders: Told<OrderId, Option<Order>>,
}

impl Snapshot {
    #[must_use]
    pub fn new(view: Arc<dyn View>) -> Self {
        Self {
            view,
            entries: Told::default(),
            counters: Told::default(),
            scans: Told::default(),
            scans_of_counters: Told::default(),
            orders: Told::default(),
        }
    }
}

/// The answer of before, or the one that `ask` gets now.
async fn once<K: Hash + Eq, V: Clone>(told: &Told<K, V>, key: K, ask: impl Future<Output = Result<V>>) -> Result<V> {
    let before = told.lock().get(&key).cloned();
    if let Some(before) = before {
        return Ok(before);
    }
    let now = ask.await?;
    told.lock().insert(key, now.clone());
    Ok(now)
}

#[async_trait]
impl View for Snapshot {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>> {
        once(&self.entries, key.to_owned(), self.view.get(key)).await
    }

    async fn count(&self, key: &str) -> Result<i64> {
        once(&self.counters, key.to_owned(), self.view.count(key)).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        let scan = (prefix.to_owned(), after.map(str::to_owned), limit);
        once(&self.scans, scan, self.view.scan(prefix, after, limit)).await
    }

    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>> {
        let scan = (prefix.to_owned(), after.map(str::to_owned), limit);
        once(&self.scans_of_counters, scan, self.view.scan_counts(prefix, after, limit)).await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        once(&self.orders, id, self.view.order(id)).await
    }

    async fn durable(&self, lease: Lease) -> Result<()> {
        self.view.durable(lease).await
    }
}
