//! Reads orders and events.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use serde::Serialize;
use tokio::time::Instant;

use super::Aws;
use super::item::{Key, LaneKey, MESSAGES};
use super::lane::{LOG_SHARDS, Logged, OLD_ORDERS, log_partition};
use super::place::look;
use super::store::Store;
use super::table::{Indexed, Span};
use crate::backend::{
    DeliveryReport, DeliveryState, Error, Journal, MessageReport, OrderQuery, PAGE_BYTES_MAX, Page, Result,
};
use crate::clock::Timestamp;
use crate::event::{Event, Lane, Position};
use crate::order::{Order, OrderId};

/// Events younger than this may be missing from the index, or come to stand in front of younger ones there. A reader that
/// goes through the journal stays behind, so that it leaves nothing out.
pub const SETTLED: Duration = Duration::from_secs(1);
/// Nothing comes to stand any more where this has gone by: no write takes so long, and no host's clock is so far behind.
pub const LATE_MAX: Duration = Duration::from_secs(60);
/// Shards of the index that are read at once where much may be in each.
const SHARDS_AT_ONCE: u64 = 4;
/// Beyond every position.
pub const POSITION_MAX: u64 = (1 << 53) - 1;
/// A page that is not full by then is answered as it is: what is looked for may be rare.
const FILL_TIME: Duration = Duration::from_secs(2);
/// Entries of the log that are read for each order that is wanted: one that goes well has three.
const ENTRIES_PER_ORDER: usize = 4;
/// Events of a page that are read at once: each may be as large as an item.
const EVENTS_AT_ONCE: usize = 32;
/// Read at least and at most at once, of each shard.
const ENTRIES: std::ops::RangeInclusive<usize> = 16..=400;

#[async_trait]
impl Journal for Aws {
    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        Ok(self.store.order(id).await?.0)
    }

    async fn orders(&self, query: OrderQuery) -> Result<Page<Order>> {
        let OrderQuery { customer, status, mut after, limit } = query;
        let (began, mut items, mut bytes) = (Instant::now(), Vec::new(), 0);
        loop {
            let left = limit - items.len();
            let (found, next) = match &customer {
                Some(customer) => self.of_customer(customer, after.as_deref(), left).await?,
                None => self.placed(after.as_deref(), left).await?,
            };
            let (ids, mut cursors): (Vec<OrderId>, VecDeque<String>) = found.into_iter().unzip();
            let mut orders = self.store.orders(ids);
            while let Some((order, _)) = orders.try_next().await? {
                let cursor = cursors.pop_front();
                if let Some(order) = order.filter(|order| status.is_none_or(|status| order.status == status)) {
                    bytes += length(&order);
                    items.push(order);
                }
                if bytes >= PAGE_BYTES_MAX && !cursors.is_empty() {
                    return Ok(Page { items, next: cursor });
                }
            }
            let is_full = items.len() >= limit || bytes >= PAGE_BYTES_MAX;
            if next.is_none() || is_full || began.elapsed() > FILL_TIME {
                return Ok(Page { items, next });
            }
            after = next;
        }
    }

    async fn events_of(&self, id: OrderId) -> Result<Vec<Arc<Event>>> {
        let lane = LaneKey::of(&Lane::Order(id));
        let logged = self.store.logged_after(&lane, 0, usize::MAX).await?;
        Ok(logged.into_iter().map(|logged| logged.event).collect())
    }

    async fn deliveries_of(&self, id: OrderId) -> Result<Vec<DeliveryReport>> {
        let lane = LaneKey::of(&Lane::Order(id));
        let logged = self.store.logged_after(&lane, 0, usize::MAX).await?;
        let mut reports = Vec::new();
        for known in self.store.known().await? {
            let (place, past) = look(&self.store, &known.name, &lane).await?;
            let history = self.store.history(&known).await?;
            for logged in &logged {
                let past = past.get(&logged.seq);
                let wanted = self.store.wants(&known, logged);
                let Some(state) = place.state_of(logged, wanted, history.of(&place, logged), past) else { continue };
                let attempts = past.map(|past| past.attempts.as_slice()).unwrap_or_default();
                reports.push(DeliveryReport {
                    consumer: known.name.clone(),
                    event_id: logged.event.id,
                    kind: logged.event.kind().to_owned(),
                    attempts: match (state, attempts.last()) {
                        (_, Some(last)) => last.attempt,
                        (DeliveryState::Done, None) => 1,
                        (_, None) => 0,
                    },
                    last_error: attempts.iter().rev().find_map(|attempt| attempt.cause.clone()),
                    state,
                });
            }
        }
        let place_of = |event| logged.iter().position(|logged| logged.event.id == event);
        reports.sort_by_key(|report| place_of(report.event_id));
        Ok(reports)
    }

    async fn events_after(&self, after: Option<Position>, limit: usize) -> Result<Vec<Arc<Event>>> {
        let logged = self.store.after(after.map_or(0, Position::get), limit).await?;
        Ok(logged.into_iter().map(|logged| logged.event).collect())
    }

    async fn newest(&self) -> Result<Option<Position>> {
        let newest = self.store.log(0, POSITION_MAX, true, 1).await?;
        Ok(newest.first().and_then(|(_, position)| Position::new(*position)))
    }

    async fn positions(&self, after: Option<Position>, to: Position, limit: usize) -> Result<Vec<Position>> {
        self.store.positions(after.map_or(0, Position::get), to.get(), limit).await
    }

    fn settled(&self) -> Option<Position> {
        Position::new(super::clock::first_at(Timestamp::now().minus(LATE_MAX)).saturating_sub(1))
    }

    async fn messages(&self, after: Option<String>, limit: usize) -> Result<Page<MessageReport>> {
        let to = match after {
            Some(after) => below(&sort_of(&after).ok_or_else(|| Error::NotACursor(after.as_str().into()))?),
            None => "9".to_owned(),
        };
        let span = Span { partition: MESSAGES.into(), from: "0".into(), to, newest_first: true, limit };
        let (items, holds) = self.store.table.page(span).await?;
        let next = more(&items, holds).map(|item| item.text("sk").map(cursor_of)).transpose()?;
        let items = items.iter().take(holds).map(super::outgoing::report).collect::<Result<_>>()?;
        Ok(Page { items, next })
    }

    async fn records(&self, dataset: &str, after: Option<String>, limit: usize) -> Result<Page<String>> {
        super::records::page(&self.store, dataset, after.as_deref(), limit).await
    }

    async fn ready(&self) -> Result<()> {
        self.store.check_room()?;
        self.store.table.get(&Key::host(0)).await.map(drop)
    }
}

/// The item that a page of `limit` ends with, where there is more.
fn more<T>(items: &[T], limit: usize) -> Option<&T> {
    if items.len() > limit { items.get(limit.checked_sub(1)?) } else { None }
}

/// The cursor behind the message of a sort key. It goes into a URL as it is.
fn cursor_of(sort: &str) -> String {
    sort.replace('#', ".")
}

/// The sort key of the message that a page ended with.
fn sort_of(cursor: &str) -> Option<String> {
    let mut parts = cursor.splitn(3, '.');
    let (position, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let Key { sk, .. } = Key::message(position, number, &parts.next()?.parse().ok()?);
    (cursor_of(&sk) == cursor).then_some(sk)
}

/// A text that sorts right before `text`, which ends with a letter or a digit.
fn below(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last = last.saturating_sub(1);
    }
    String::from_utf8(bytes).unwrap_or_default() + "~"
}

impl Aws {
    async fn of_customer(
        &self,
        customer: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Placed>, Option<String>)> {
        if let Some(other) = after.filter(|after| after.parse::<OrderId>().is_err()) {
            return Err(Error::NotACursor(other.into()));
        }
        let ids = self.store.table.of_customer(customer, after, limit + 1).await?;
        let next = more(&ids, limit).cloned();
        let parsed = ids.iter().take(limit).filter_map(|id| Some((id.parse().ok()?, id.clone()))).collect();
        Ok((parsed, next))
    }

    /// Orders by when they were placed, newest first: from the log, of which they are the first events of their lanes, and
    /// from what is kept of those that went by age.
    async fn placed(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Placed>, Option<String>)> {
        let cursor = |text: &str| text.parse::<u64>().map_err(|_| Error::NotACursor(text.into()));
        let to = after.map(cursor).transpose()?.map_or(POSITION_MAX, |after| after.saturating_sub(1));
        let entries = limit.saturating_mul(ENTRIES_PER_ORDER).clamp(*ENTRIES.start(), *ENTRIES.end());
        let mut found = self.store.log(0, to, true, entries).await?;
        let old = Indexed { partition: OLD_ORDERS.into(), from: 0, to, newest_first: true, limit: entries };
        found.extend(self.store.table.indexed(old).await?);
        found.sort_by_key(|(_, position)| Reverse(*position));
        let may_be_more = found.len() >= entries;
        found.truncate(entries);
        let last = found.last().map(|(_, position)| *position).filter(|_| may_be_more);
        found.retain(|(key, _)| key.sk == super::item::event_sort(1));
        let mut orders: Vec<(OrderId, u64)> = found
            .iter()
            .filter_map(|(key, position)| Some((key.pk.strip_prefix("l#o#")?.parse().ok()?, *position)))
            .collect();
        let next = if orders.len() > limit { orders.get(limit.saturating_sub(1)).map(|(_, at)| *at) } else { last };
        orders.truncate(limit);
        let orders = orders.into_iter().map(|(id, at)| (id, at.to_string()));
        Ok((orders.collect(), next.map(|at| at.to_string())))
    }
}

/// An order, and the cursor of a page that ends with it.
type Placed = (OrderId, String);

/// How long something is as JSON.
fn length(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Nothing is written anywhere, and what cannot be written later is no answer.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// Events below this position are all in the index.
pub fn settled_below(now: Timestamp) -> u64 {
    super::clock::first_at(now.minus(SETTLED))
}

impl Store {
    /// Keys of events whose positions are from `from` to `to`, in the order of the journal or against it.
    pub async fn log(&self, from: u64, to: u64, newest_first: bool, limit: usize) -> Result<Vec<(Key, u64)>> {
        let shards = (0..LOG_SHARDS).map(|shard| {
            let partition = log_partition(shard);
            self.table.indexed(Indexed { partition, from, to, newest_first, limit })
        });
        let mut found: Vec<(Key, u64)> = futures::future::try_join_all(shards).await?.into_iter().flatten().collect();
        if newest_first {
            found.sort_by_key(|(_, position)| Reverse(*position));
        } else {
            found.sort_by_key(|(_, position)| *position);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Where events stand behind a position, up to and with another, at most `limit`: in no order.
    async fn positions(&self, after: u64, to: u64, limit: usize) -> Result<Vec<Position>> {
        let mut found = Vec::new();
        for first in (0..LOG_SHARDS).step_by(usize::try_from(SHARDS_AT_ONCE).unwrap_or(1)) {
            let left = limit.saturating_sub(found.len());
            if left == 0 {
                break;
            }
            let shards = (first..LOG_SHARDS.min(first + SHARDS_AT_ONCE)).map(|shard| {
                let (partition, from) = (log_partition(shard), after.saturating_add(1));
                self.table.indexed(Indexed {
                    partition,
                    from,
                    to: to.min(POSITION_MAX),
                    newest_first: false,
                    limit: left,
                })
            });
            for (_, position) in futures::future::try_join_all(shards).await?.into_iter().flatten() {
                found.extend(Position::new(position));
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Events behind a position that have settled, in the order of the journal: at most `limit`, and as many as stand on a page.
    async fn after(&self, after: u64, limit: usize) -> Result<Vec<Logged>> {
        let to = settled_below(Timestamp::now()).saturating_sub(1);
        let (mut after, mut logged, mut bytes) = (after, Vec::new(), 0);
        loop {
            let left = limit - logged.len();
            let found = self.log(after.saturating_add(1), to, false, left).await?;
            let last = found.last().filter(|_| found.len() == left).map(|(_, position)| *position);
            let keys: Vec<Key> = found.into_iter().map(|(key, _)| key).collect();
            for keys in keys.chunks(EVENTS_AT_ONCE) {
                let events = self.logged_at(keys).await?;
                bytes += events.iter().map(|logged| length(&*logged.event)).sum::<usize>();
                logged.extend(events);
                if bytes >= PAGE_BYTES_MAX {
                    return Ok(logged);
                }
            }
            match last {
                // The index still named some that went by age.
                Some(last) if logged.len() < limit => after = last,
                _ => return Ok(logged),
            }
        }
    }

    /// Events behind a position, up to and with another, at most `limit`; all of them where there are fewer.
    pub async fn between(&self, after: u64, to: u64, limit: usize) -> Result<Vec<Logged>> {
        let (mut after, mut logged) = (after, Vec::new());
        loop {
            let left = limit - logged.len();
            let found = self.log(after.saturating_add(1), to, false, left).await?;
            let last = found.last().filter(|_| found.len() == left).map(|(_, position)| *position);
            let keys: Vec<Key> = found.into_iter().map(|(key, _)| key).collect();
            logged.extend(self.logged_at(&keys).await?);
            match last {
                // The index still named some that went by age.
                Some(last) if logged.len() < limit => after = last,
                _ => return Ok(logged),
            }
        }
    }
}
