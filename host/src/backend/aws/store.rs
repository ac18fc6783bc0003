//! What all ports of this backend share: the table, the lanes in it, and who is to hear of what was written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catch_up;
use super::clients::Clients;
use super::clock::Positions;
use super::dead_letters::Counted;
use super::fleet;
use super::inbox::AwsInbox;
use super::item::{Item, Key, LaneKey, event_sort};
use super::lane::{Logged, Standing, Tail, content_of, place_of, tail_of};
use super::outgoing::Handed;
use super::publisher::Publisher;
use super::repeats::Repeats;
use super::resources::Shared;
use super::seat::Seat;
use super::settings::Settings;
use super::table::{Freshness, Span, Table};
use crate::backend::damaged::Told;
use crate::backend::recent::Recent;
use crate::backend::{Result, Retention};
use crate::clock::Timestamp;
use crate::event::{Lane, Position};
use crate::order::{Content, Order, OrderId};
use crate::policy::ConsumerName;

/// Contents of orders in memory, in each of two generations.
const CONTENTS_MAX: usize = 8_192;
/// Orders that are known to have gone on, in each of two generations.
const GONE_ON_MAX: usize = 1_024;
/// Orders of one list that are read at the same time.
const ORDERS_AT_ONCE: usize = 16;
/// The last number of a lane that a key can hold.
pub const SEQ_MAX: u64 = 9_999_999_999;

pub struct Store {
    pub clients: Clients,
    pub settings: Settings,
    pub shared: Shared,
    pub table: Table,
    pub positions: Positions,
    pub seat: Seat,
    pub publisher: Publisher,
    pub fleet: fleet::Known,
    pub inboxes: Mutex<BTreeMap<ConsumerName, Arc<AwsInbox>>>,
    /// Held while a consumer of this name is attached or forgotten.
    turns: Mutex<BTreeMap<ConsumerName, Arc<tokio::sync::Mutex<()>>>>,
    /// Rebuilds of consumers that are not here, of which that was said.
    pub aside: tokio::sync::Mutex<HashSet<(ConsumerName, i64)>>,
    pub retention: Mutex<Retention>,
    /// Rung when it is another.
    pub retained: tokio::sync::Notify,
    pub outgoing: Handed,
    /// Rung when this host has handed a way back over.
    pub handed_over: Arc<tokio::sync::Notify>,
    pub window: catch_up::Window,
    pub failed: watch::Sender<Option<Arc<str>>>,
    pub stopping: CancellationToken,
    pub tasks: TaskTracker,
    /// What must have ended before the process may stand still.
    pub in_flight: TaskTracker,
    pub letters: Counted,
    /// What orders are about never changes, so it is read once.
    contents: Mutex<Recent<OrderId, Arc<Content>>>,
    /// Orders that stood otherwise than an event had told its handler.
    gone_on: Mutex<Recent<OrderId, ()>>,
    damaged: Told,
    /// What was said of what fails again and again.
    pub repeats: Repeats,
}

impl Store {
    pub fn new(clients: Clients, settings: Settings, shared: Shared, seat: Seat) -> Self {
        let table = Table::new(clients.dynamodb.clone(), shared.table.clone());
        let publisher = Publisher::new(clients.sns.clone(), &shared);
        let positions = Positions::new(0);
        if let Some(slot) = seat.kept() {
            positions.move_to(slot.number, slot.drawn);
        }
        let in_flight = TaskTracker::new();
        // Whoever waits for it waits for what is there then.
        in_flight.close();
        Self {
            clients,
            settings,
            shared,
            table,
            positions,
            fleet: fleet::Known::of(seat.kept()),
            seat,
            publisher,
            inboxes: Mutex::default(),
            turns: Mutex::default(),
            aside: tokio::sync::Mutex::default(),
            retention: Mutex::default(),
            retained: tokio::sync::Notify::new(),
            outgoing: Handed::default(),
            handed_over: Arc::default(),
            window: catch_up::Window::default(),
            failed: watch::Sender::new(None),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            in_flight,
            letters: Counted::default(),
            contents: Mutex::new(Recent::new(CONTENTS_MAX)),
            gone_on: Mutex::new(Recent::new(GONE_ON_MAX)),
            damaged: Told::default(),
            repeats: Repeats::default(),
        }
    }

    /// Closes the store for good: another host may have taken this one's place.
    pub fn fail(&self, why: &str) {
        tracing::error!(why, "the store is closed; start the host again");
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| why.into());
            first
        });
    }

    /// A position for the next event of a lane. It is open until the event was published, or was not written.
    pub fn position(&self, tail: &Tail) -> Position {
        self.publisher.open(|| self.positions.next(Timestamp::now(), tail.position))
    }

    pub fn inbox(&self, name: &ConsumerName) -> Option<Arc<AwsInbox>> {
        self.inboxes.lock().get(name).cloned()
    }

    /// For attaching and forgetting, of which neither may come in the middle of the other.
    pub async fn turn_of(&self, name: &ConsumerName) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = Arc::clone(self.turns.lock().entry(name.clone()).or_default());
        turn.lock_owned().await
    }

    pub fn inboxes(&self) -> Vec<Arc<AwsInbox>> {
        self.inboxes.lock().values().cloned().collect()
    }

    /// Where a lane ends; the default where it has no event.
    pub async fn tail(&self, lane: &LaneKey) -> Result<Tail> {
        let span = Span { newest_first: true, limit: 1, ..whole(lane) };
        self.table.query(span).await?.first().map_or_else(|| Ok(Tail::default()), tail_of)
    }

    /// Events of a lane from number `from` up to and with `to`, oldest first, at most `limit`; all of them where there are
    /// fewer.
    pub async fn logged(&self, lane: &LaneKey, from: u64, to: u64, limit: usize) -> Result<Vec<Logged>> {
        let (mut from, mut logged) = (from, Vec::new());
        loop {
            let left = limit - logged.len();
            let span = Span { from: event_sort(from), to: event_sort(to.min(SEQ_MAX)), limit: left, ..whole(lane) };
            let items = self.table.query(span).await?;
            logged.extend(self.read(&items).await?);
            let last = items.last().filter(|_| items.len() == left).map(place_of).transpose()?;
            match last {
                // Some were no events any more.
                Some((_, last)) if logged.len() < limit => from = last + 1,
                _ => return Ok(logged),
            }
        }
    }

    /// All events of a lane behind number `after`.
    pub async fn logged_after(&self, lane: &LaneKey, after: u64, limit: usize) -> Result<Vec<Logged>> {
        self.logged(lane, after + 1, SEQ_MAX, limit).await
    }

    /// Events by their keys, in the order in which they are asked for. What is not there is left out.
    pub async fn logged_at(&self, keys: &[Key]) -> Result<Vec<Logged>> {
        // All that changes of them is that they go by age, so an old copy will do; one that is very young may not be there yet.
        let mut found = self.table.get_all_as(Freshness::Eventual, keys.iter().cloned()).await?;
        let missing: Vec<Key> = keys.iter().filter(|key| !found.contains_key(key)).cloned().collect();
        found.extend(self.table.get_all(missing).await?);
        let items: Vec<Item> = keys.iter().filter_map(|key| found.remove(key)).collect();
        self.read(&items).await
    }

    /// Without those that went by age, and with others in place of those whose order is missing. What cannot be read otherwise may be
    /// of a newer host, which is not to be passed by.
    async fn read(&self, items: &[Item]) -> Result<Vec<Logged>> {
        let mut read = Vec::with_capacity(items.len());
        for item in items.iter().filter(|item| !item.is_gone()) {
            let content = match order_of(item) {
                Some(id) if item.text_or_none("ch").is_some() => match content_of(item)? {
                    Some(content) => Some(self.keep(id, content)),
                    None => match self.content(id).await? {
                        None if self.is_gone(item).await? => continue,
                        None => {
                            read.push(Logged::stand_in(item, id, "its order is missing", &self.damaged)?);
                            continue;
                        }
                        content => content,
                    },
                },
                _ => None,
            };
            read.push(Logged::read(item, content.as_ref())?);
        }
        Ok(read)
    }

    /// Whether an event has gone since its item was read.
    async fn is_gone(&self, item: &Item) -> Result<bool> {
        Ok(self.table.get(&item.key()?).await?.is_none_or(|item| item.is_gone()))
    }

    fn keep(&self, id: OrderId, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        self.contents.lock().insert(id, Arc::clone(&content), |_| false);
        content
    }

    /// What an order is about.
    pub async fn content(&self, id: OrderId) -> Result<Option<Arc<Content>>> {
        if let Some(content) = self.contents.lock().get(&id) {
            return Ok(Some(Arc::clone(content)));
        }
        let Some(item) = self.table.get(&Key::event(&LaneKey::of(&Lane::Order(id)), 1)).await? else { return Ok(None) };
        Ok(content_of(&item)?.map(|content| self.keep(id, content)))
    }

    /// An order as it was placed, whether that event is still there or not; `None` where the order is not.
    pub async fn placed(&self, id: OrderId) -> Result<Option<Order>> {
        let Some(item) = self.table.get(&Key::event(&LaneKey::of(&Lane::Order(id)), 1)).await? else { return Ok(None) };
        let (standing, content) = (item.json_or_none::<Standing>("st")?, content_of(&item)?);
        Ok(standing.zip(content).map(|(standing, content)| standing.order(id, self.keep(id, content))))
    }

    /// An order as it stands, and the end of its lane.
    pub async fn order(&self, id: OrderId) -> Result<(Option<Order>, Tail)> {
        let tail = self.tail(&LaneKey::of(&Lane::Order(id))).await?;
        let Some(standing) = tail.standing else { return Ok((None, tail)) };
        let content = self.content(id).await?;
        Ok((content.map(|content| standing.order(id, content)), tail))
    }

    /// Events of the order do not tell handlers any more how it stands.
    pub fn goes_on(&self, id: OrderId) {
        self.gone_on.lock().insert(id, (), |()| false);
    }

    pub fn has_gone_on(&self, id: OrderId) -> bool {
        self.gone_on.lock().get(&id).is_some()
    }

    /// Several orders as they stand, and the ends of their lanes, in the order in which they are asked for.
    pub fn orders(&self, ids: Vec<OrderId>) -> impl Stream<Item = Result<(Option<Order>, Tail)>> + Unpin {
        let asked: Vec<_> = ids.into_iter().map(|id| Box::pin(self.order(id))).collect();
        stream::iter(asked).buffered(ORDERS_AT_ONCE)
    }
}

fn whole(lane: &LaneKey) -> Span {
    let (from, to) = (event_sort(0), event_sort(SEQ_MAX));
    Span { partition: lane.partition(), from, to, newest_first: false, limit: usize::MAX }
}

/// The order whose lane the item is in.
fn order_of(item: &Item) -> Option<OrderId> {
    item.text_or_none("pk")?.strip_prefix("l#o#")?.parse().ok()
}
