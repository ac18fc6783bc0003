//! What a handler sees: the table, read consistently.
//!
//! But for the order that its event is about: that mostly stands as the event told of it a moment before. So the event
//! answers, and the commit, which is refused where the order has gone on, looks. Then the handler is told what is in the table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::aws::item::{Item, Key, counters_partition, entries_partition};
use crate::backend::aws::settle::intent::{self, LOCK};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Span;
use crate::backend::{Delivery, Error, Lease, Origin, Result, View};
use crate::clock::Timestamp;
use crate::effects::Reads;
use crate::event::Body;
use crate::order::{Order, OrderId};
use crate::policy::ConsumerName;

/// Of an event that is older, the order may well have gone on.
const TOLD_FOR: Duration = Duration::from_secs(60);

pub struct AwsView {
    pub store: Arc<Store>,
    pub name: ConsumerName,
    pub generation: i64,
    /// The order as the event told of it.
    told: Option<Order>,
    /// The handler was answered that.
    relied: AtomicBool,
}

impl AwsView {
    pub fn new(store: &Arc<Store>, name: &ConsumerName, generation: i64) -> Self {
        let (store, name) = (Arc::clone(store), name.clone());
        Self { store, name, generation, told: None, relied: AtomicBool::new(false) }
    }

    pub fn of(store: &Arc<Store>, name: &ConsumerName, delivery: &Delivery) -> Self {
        let told = match &delivery.event.body {
            Body::OrderChanged { order, .. } if is_new(delivery) && !store.has_gone_on(order.id) => Some(order.clone()),
            _ => None,
        };
        Self { told, ..Self::new(store, name, delivery.generation.state) }
    }

    /// An item that no large commit is under way with.
    async fn free(&self, key: &Key) -> Result<Option<Item>> {
        loop {
            let item = self.store.table.get(key).await?;
            match item.as_ref().and_then(|item| item.text_or_none(LOCK)) {
                Some(intent) => intent::resolve(&self.store, intent).await?,
                None => return Ok(item),
            }
        }
    }

    pub async fn holds(&self, reads: &Reads) -> Result<bool> {
        for (key, seen) in &reads.entries {
            if self.get(key).await? != *seen {
                return Ok(false);
            }
        }
        for (key, seen) in &reads.counters {
            if self.count(key).await? != *seen {
                return Ok(false);
            }
        }
        for (id, seen) in &reads.orders {
            if self.order_now(*id).await?.map(|order| order.revision) != *seen {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn order_now(&self, id: OrderId) -> Result<Option<Order>> {
        Ok(self.store.order(id).await?.0)
    }
}

fn is_new(delivery: &Delivery) -> bool {
    let age = Timestamp::now().since(delivery.event.time);
    delivery.origin == Origin::Live && !delivery.is_of_rebuild() && age < TOLD_FOR
}

/// Items of a partition whose sort key begins with `prefix`, behind `after`: once no large commit is under way with any of them.
async fn scan(store: &Store, partition: String, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Item>> {
    let span = span(partition, prefix, after, limit);
    loop {
        let items = store.table.query(span.clone()).await?;
        match lock_in(&items) {
            Some(intent) => intent::resolve(store, intent).await?,
            None => return Ok(items),
        }
    }
}

/// [`scan`], as much as stands on a page: see [`Table::page`](crate::backend::aws::table::Table::page).
pub async fn page(
    store: &Store,
    partition: String,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<Item>, usize)> {
    let span = span(partition, prefix, after, limit);
    loop {
        let (items, holds) = store.table.page(span.clone()).await?;
        match lock_in(&items) {
            Some(intent) => intent::resolve(store, intent).await?,
            None => return Ok((items, holds)),
        }
    }
}

/// The intent of a large commit, where one is open in what was read.
fn lock_in(items: &[Item]) -> Option<&str> {
    items.iter().find_map(|item| item.text_or_none(LOCK))
}

fn span(partition: String, prefix: &str, after: Option<&str>, limit: usize) -> Span {
    // A space sorts first among what may stand in a key; a key itself is never empty.
    let behind = after.map_or_else(
        || if prefix.is_empty() { "\u{1}".to_owned() } else { prefix.to_owned() },
        |after| format!("{after}\0"),
    );
    let from = behind.max(prefix.to_owned());
    let to = format!("{prefix}\u{10ffff}");
    Span { partition, from, to, newest_first: false, limit }
}

#[async_trait]
impl View for AwsView {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>> {
        let item = self.free(&Key::entry(&self.name, self.generation, key)).await?;
        Ok(item.and_then(|item| item.blob("v").map(Arc::from)))
    }

    async fn count(&self, key: &str) -> Result<i64> {
        let item = self.free(&Key::counter(&self.name, self.generation, key)).await?;
        item.map_or(Ok(0), |item| Ok(item.number_or_none("n")?.unwrap_or_default()))
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        let partition = entries_partition(&self.name, self.generation);
        let items = scan(&self.store, partition, prefix, after, limit).await?;
        items.iter().map(|item| Ok((item.text("sk")?.into(), item.blob("v").unwrap_or_default().into()))).collect()
    }

    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>> {
        let partition = counters_partition(&self.name, self.generation);
        let items = scan(&self.store, partition, prefix, after, limit).await?;
        items.iter().map(|item| Ok((item.text("sk")?.into(), item.number("n")?))).collect()
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        match &self.told {
            Some(told) if told.id == id => {
                self.relied.store(true, Ordering::Relaxed);
                Ok(Some(told.clone()))
            }
            _ => self.order_now(id).await,
        }
    }

    /// Nothing else is answered that is not in the table; and what follows from this cannot be taken back by the commit.
    async fn durable(&self, _lease: Lease) -> Result<()> {
        let Some(told) = self.told.as_ref().filter(|_| self.relied.load(Ordering::Relaxed)) else { return Ok(()) };
        if self.order_now(told.id).await?.map(|order| order.revision) == Some(told.revision) {
            return Ok(());
        }
        self.store.goes_on(told.id);
        Err(Error::Unavailable(format!("order {} has gone on since the event", told.id).into()))
    }
}

#[cfg(test)]
mod tests;
