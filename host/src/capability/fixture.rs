//! A view in memory and handlings on it, for tests of the capabilities and the sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Handling, Rights, Stop};
use crate::backend::{Error, Lease, Result, View};
use crate::clock::Timestamp;
use crate::event::{Body, Custom, Event, EventId, Position};
use crate::order::{Change, Content, Customer, Line, Order, OrderId};
use crate::policy::{Grant, Policy};
use crate::sandbox::{Column, ColumnType, Dataset, Description, Need};

/// State and orders as a store would answer.
#[derive(Default)]
pub struct Memory {
    pub entries: BTreeMap<String, Vec<u8>>,
    pub counters: BTreeMap<String, i64>,
    pub orders: Vec<Order>,
    /// What every read fails with.
    pub broken: Option<Error>,
    /// How long a read takes.
    pub takes: Option<std::time::Duration>,
}

impl Memory {
    async fn answer(&self) -> Result<()> {
        if let Some(takes) = self.takes {
            tokio::time::sleep(takes).await;
        }
        self.broken.clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl View for Memory {
    async fn get(&self, key: &str) -> Result<Option<Arc<[u8]>>> {
        self.answer().await?;
        Ok(self.entries.get(key).map(|value| value.as_slice().into()))
    }

    async fn count(&self, key: &str) -> Result<i64> {
        self.answer().await?;
        Ok(self.counters.get(key).copied().unwrap_or(0))
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        self.answer().await?;
        Ok(page(&self.entries, prefix, after, limit).map(|(key, value)| (key, value.as_slice().into())).collect())
    }

    async fn scan_counts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(Arc<str>, i64)>> {
        self.answer().await?;
        Ok(page(&self.counters, prefix, after, limit).map(|(key, value)| (key, *value)).collect())
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        self.answer().await?;
        Ok(self.orders.iter().find(|order| order.id == id).cloned())
    }

    async fn durable(&self, _: Lease) -> Result<()> {
        self.answer().await
    }
}

fn page<'a, V>(
    all: &'a BTreeMap<String, V>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> impl Iterator<Item = (Arc<str>, &'a V)> {
    all.iter()
        .filter(move |(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after))
        .take(limit)
        .map(|(key, value)| (key.as_str().into(), value))
}

/// An order of one line.
pub fn order() -> Order {
    let content = Content {
        reference: Some("NW-10248".to_owned()),
        currency: "USD".to_owned(),
        customer: Customer { id: "VINET".to_owned(), name: None, email: None, phone: None },
        lines: vec![Line {
            sku: "NW-11".to_owned(),
            title: Some("Queso Cabrales".to_owned()),
            quantity: 12,
            unit_amount: 1400,
            discount_amount: 0,
        }],
        total_amount: 16_800,
        shipping_address: None,
        metadata: [("channel".to_owned(), "web".to_owned())].into(),
    };
    Order::place(Arc::new(content), Timestamp::from_millis(1_795_341_600_000))
}

pub fn event(depth: u8, body: Body) -> Arc<Event> {
    Arc::new(Event {
        id: EventId::generate(),
        position: Position::FIRST,
        time: Timestamp::from_millis(1_795_341_600_000),
        cause: None,
        depth,
        body,
    })
}

pub fn placed(order: &Order) -> Arc<Event> {
    event(0, Body::OrderChanged { order: order.clone(), change: Change::Placed {} })
}

pub fn custom(kind: &str, depth: u8) -> Arc<Event> {
    let data = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
    let (kind, source) = (kind.into(), "/test".into());
    let custom = Custom { kind, source, origin_id: None, subject: "it".into(), order_id: None, data: data.into() };
    event(depth, Body::Custom(custom))
}

/// Grants everything.
pub fn everything() -> Grant {
    Grant {
        change_order: true,
        publish: vec!["com.example.*".parse().unwrap()],
        email: true,
        sms: true,
        records: vec!["orders".to_owned()],
        ..Grant::default()
    }
}

/// The data set `orders`, with a column of every type.
pub fn dataset() -> Dataset {
    use ColumnType::{Boolean, Date, Float64, Int64, Text, Timestamp};
    let column = |name: &str, of| Column { name: name.to_owned(), of, nullable: name != "id" };
    let columns = [("id", Text), ("n", Int64), ("x", Float64), ("ok", Boolean), ("at", Timestamp), ("day", Date)];
    let columns = columns.map(|(name, of)| column(name, of)).into();
    Dataset { name: "orders".to_owned(), columns }
}

pub fn rights(grant: Grant) -> Arc<Rights> {
    let description = Description {
        version: semver::Version::new(1, 0, 0),
        state_version: 1,
        summary: String::new(),
        subscriptions: Vec::new(),
        needs: vec![Need::Records(dataset())],
    };
    let settings = [("low_stock".to_owned(), "10".to_owned())].into();
    let policy = Policy { grant, settings, ..Policy::default() };
    Arc::new(Rights::new(&"inventory".parse().unwrap(), &description, &policy))
}

/// A handling with every grant.
pub fn handling(memory: Memory) -> Handling {
    Handling::new(rights(everything()), custom("com.example.test", 0), Arc::new(memory))
}

/// The kind and the words of an overstep.
pub fn overstep<T: std::fmt::Debug>(stopped: std::result::Result<T, Stop>) -> (&'static str, String) {
    match stopped {
        Err(Stop::Overstep { kind, message }) => (kind, message),
        other => panic!("expected an overstep, got {other:?}"),
    }
}
