//! What a handler sees: the table, read consistently.

use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::aws::item::{Item, Key, counters_partition, entries_partition};
use crate::backend::aws::settle::intent::{self, LOCK};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Span;
use crate::backend::{Lease, Result, View};
use crate::effects::Reads;
use crate::order::{Order, OrderId};
use crate::policy::ConsumerName;

pub struct AwsView {
    pub store: Arc<Store>,
    pub name: ConsumerName,
    pub generation: i64,
}

impl AwsView {
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
            if self.order(*id).await?.map(|order| order.revision) != *seen {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Items of a partition whose sort key begins with `prefix`, behind `after`: once no large commit is under way with any of them.
pub async fn scan(
    store: &Store,
    partition: String,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Item>> {
    // A space sorts first among what may stand in a key; a key itself is never empty.
    let behind = after.map_or_else(
        || if prefix.is_empty() { "\u{1}".to_owned() } else { prefix.to_owned() },
        |after| format!("{after}\0"),
    );
    let from = behind.max(prefix.to_owned());
    let to = format!("{prefix}\u{10ffff}");
    let span = Span { partition, from, to, newest_first: false, limit };
    loop {
        let items = store.table.query(span.clone()).await?;
        match items.iter().find_map(|item| item.text_or_none(LOCK)) {
            Some(intent) => intent::resolve(store, intent).await?,
            None => return Ok(items),
        }
    }
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
        Ok(self.store.order(id).await?.0)
    }

    async fn durable(&self, _lease: Lease) -> Result<()> {
        // Nothing is answered that is not in the table.
        Ok(())
    }
}
