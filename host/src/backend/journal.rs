//! Orders and events, durable.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use super::Result;
use crate::clock::Timestamp;
use crate::effects::Message;
use crate::event::{Event, EventId, Position};
use crate::order::{Order, OrderId, Status};
use crate::policy::ConsumerName;

/// Reads orders and events. Sees what is durable and nothing else.
#[async_trait]
pub trait Journal: Send + Sync {
    async fn order(&self, id: OrderId) -> Result<Option<Order>>;

    /// Newest first. A page may hold fewer than `limit` orders while `next` says that there are more.
    async fn orders(&self, query: OrderQuery) -> Result<Page<Order>>;

    /// Every event of the order, oldest first: its changes and the custom events that name it.
    async fn events_of(&self, id: OrderId) -> Result<Vec<Arc<Event>>>;

    /// What became of each event of the order at each consumer, in journal order.
    async fn deliveries_of(&self, id: OrderId) -> Result<Vec<DeliveryReport>>;

    /// Events after `after` (from the first if `None`), oldest first, at most `limit`; fewer where they are large.
    async fn events_after(&self, after: Option<Position>, limit: usize) -> Result<Vec<Arc<Event>>>;

    /// Position of the newest event; `None` where there never was one.
    async fn newest(&self) -> Result<Option<Position>>;

    /// Where events stand behind `after`, up to and with `to`: in no order, at most `limit`. An event may be told that has left
    /// the journal by age.
    async fn positions(&self, after: Option<Position>, to: Position, limit: usize) -> Result<Vec<Position>>;

    /// No event comes to stand at or below this position any more: behind it one still may, in front of others that were read
    /// already. `None` where positions are given out as events become durable, without gaps, so that one that is not there says
    /// that its event went by age.
    fn settled(&self) -> Option<Position>;

    /// Messages, newest first.
    async fn messages(&self, after: Option<String>, limit: usize) -> Result<Page<MessageReport>>;

    /// Rows of a data set, oldest first.
    async fn records(&self, dataset: &str, after: Option<String>, limit: usize) -> Result<Page<String>>;

    /// Fails if the store could not take an order now.
    async fn ready(&self) -> Result<()>;
}

#[derive(Clone, Debug, Default)]
pub struct OrderQuery {
    pub customer: Option<String>,
    pub status: Option<Status>,
    /// `next` of the page before.
    pub after: Option<String>,
    pub limit: usize,
}

/// Bytes of rows on one page, if it is more than one: an answer is made in one go, and is in memory as rows, values and JSON.
pub(in crate::backend) const PAGE_BYTES_MAX: usize = 2 << 20;

#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Hand it in as `after` to go on; `None` at the end.
    pub next: Option<String>,
}

/// What became of one event at one consumer.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryReport {
    pub consumer: ConsumerName,
    pub event_id: EventId,
    #[serde(rename = "type")]
    pub kind: String,
    pub state: DeliveryState,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Not tried yet, or being tried.
    Pending,
    /// Tried in vain, and to be tried again.
    Retrying,
    /// Behind a dead letter or a retry of its lane.
    Waiting,
    Dead,
    /// It was a dead letter, and a person gave it up.
    Discarded,
    Done,
}

#[derive(Clone, Debug, Serialize)]
pub struct MessageReport {
    pub id: String,
    pub consumer: ConsumerName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    pub state: MessageState,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub time: Timestamp,
    #[serde(flatten)]
    pub message: Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    Pending,
    Sent,
    Failed,
    /// It may or may not have gone out.
    Unknown,
}
