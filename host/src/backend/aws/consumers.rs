//! The consumers that the table knows, and their inboxes.

mod hear;
mod known;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::QueueAttributeName;

pub use self::hear::{hear, heard_by, narrow};
pub use self::known::{CatchUp, Epoch, Known, catch_up, heard, said};
use super::Aws;
use super::backfills::{Fills, gate};
use super::inbox::{Asked, AwsInbox, page};
use super::item::{CONSUMERS, Item, Key, LaneKey, counters_partition, entries_partition, number, text};
use super::lane::Logged;
use super::place::Place;
use super::resources;
use super::store::Store;
use super::table::{Change, Span, Transaction, failed};
use super::weight;
use crate::backend::{
    ConsumerReport, Consumers, Durable, Error, Forgotten, Held, Inbox, Pause, Result, StatePage, StateQuery,
};
use crate::clock::Timestamp;
use crate::policy::{ConsumerName, Start};

/// From when a queue is subscribed until SNS surely sends to it.
const SUBSCRIBE_LAG: Duration = Duration::from_secs(10);
/// Other hosts' decisions are followed this soon.
pub const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Events that are looked at one by one to say how many are pending.
const COUNTED_MAX: usize = 2_000;
/// Exceptions that are counted with what waits behind them.
const EXCEPTIONS_MAX: usize = 1_000;
/// Consumers, and lanes of one, that are looked at at the same time.
const AT_ONCE: usize = 16;
/// For how long what is pending of one consumer is counted: whoever asks for all of them waits little longer.
const COUNTING_TIME_MAX: Duration = Duration::from_secs(3);

impl Store {
    /// Every consumer that the table knows, by name.
    pub async fn known(&self) -> Result<Vec<Known>> {
        let (partition, from, to) = (CONSUMERS.into(), "a".into(), "~".into());
        let items = self.table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await?;
        items.iter().map(Known::read).collect()
    }

    /// Whether an event concerns a consumer, by what it hears now, or heard when it was last there.
    pub fn wants(&self, known: &Known, logged: &Logged) -> bool {
        match self.inbox_of(known) {
            Some(inbox) if inbox.says_what_is_heard() => inbox.known().wants_by(&inbox.subscriptions(), logged),
            _ => known.last_heard().is_none_or(|heard| known.wants_by(heard, logged)),
        }
    }

    /// The inbox of this very consumer, and not of one of its name that was forgotten.
    pub fn inbox_of(&self, known: &Known) -> Option<Arc<AwsInbox>> {
        self.inbox(&known.name).filter(|inbox| inbox.is_of(known))
    }

    pub async fn known_as(&self, name: &ConsumerName) -> Result<Option<Known>> {
        self.table.get(&Key::consumer(name)).await?.as_ref().map(Known::read).transpose()
    }

    /// Writes down how much was done since that was last written, and what the states weigh now.
    pub async fn count_done(&self) {
        for inbox in self.inboxes() {
            let done = inbox.done.swap(0, Ordering::Relaxed);
            let written = inbox.weight.tell();
            if done == 0 && written.is_none() {
                continue;
            }
            let mut set = "SET dn = if_not_exists(dn, :zero) + :done".to_owned();
            let change = Change::default().value(":zero", number(0)).value(":done", number(done));
            let change = match &written {
                Some(written) => written.add_to(&mut set, change),
                None => change,
            };
            let change = change.update(set).only_if("attribute_exists(pk)");
            let told = self.table.update(&Key::consumer(&inbox.name), change).await;
            if let Some(written) = written {
                written.told(told.as_ref().ok().and_then(Option::as_ref));
            }
            if let Err(error) = told {
                inbox.done.fetch_add(done, Ordering::Relaxed);
                tracing::debug!(consumer = %inbox.name, %error, "what was done is counted later");
            }
        }
    }

    /// Follows what other hosts decide, and says what this one did, until the store is closed.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
                () = self.stopping.cancelled() => break,
            }
            self.count_done().await;
            self.follow_fleet().await;
            if let Err(error) = self.learn().await
                && self.repeats.is_news("learn", "", &error)
            {
                tracing::warn!(%error, "what other hosts decided is not known");
            }
        }
    }

    /// Follows what the table says of the consumers that are here.
    pub async fn learn(&self) -> Result<()> {
        let asked = Asked::now();
        for known in self.known().await? {
            let Some(inbox) = self.inbox_of(&known) else {
                self.stand_aside(&known).await?;
                self.leave_layout(&known).await?;
                continue;
            };
            let news = known.fills != inbox.fills().version;
            inbox.learn(known, asked);
            if news {
                inbox.refresh_fills().await?;
            }
            self.leave_layout(&inbox.known()).await?;
            inbox.follow_take_over().await;
        }
        Ok(())
    }

    /// A host that does not have the consumer commits nothing of it, so that a rebuild need not wait for it.
    async fn stand_aside(&self, known: &Known) -> Result<()> {
        let Some((rebuild, slot)) = known.rebuilding.zip(self.seat.kept()) else { return Ok(()) };
        let mut aside = self.aside.lock().await;
        let of = (known.name.clone(), rebuild);
        if self.inbox_of(known).is_none()
            && !aside.contains(&of)
            && gate::join(self, &known.name, rebuild, &slot.owner).await?
        {
            aside.insert(of);
        }
        Ok(())
    }
}

#[async_trait]
impl Consumers for Aws {
    async fn attach(&self, name: &ConsumerName, start: Start) -> Result<Arc<dyn Inbox>> {
        let _turn = self.store.turn_of(name).await;
        let known = self.store.known_as(name).await?;
        if let Some(inbox) = self.store.inbox(name) {
            if known.as_ref().is_some_and(|known| inbox.is_of(known)) {
                return Ok(inbox);
            }
            // Another host has forgotten the one that it is of.
            self.close_inbox(&inbox).await;
        }
        let (clients, settings, shared) = (&self.store.clients, &self.store.settings, &self.store.shared);
        // A filter that is in force stays; a new queue of a consumer that is new gets everything until it says what it wants.
        let hears = known.as_ref().and_then(Known::last_heard);
        let queue = resources::ensure_consumer(clients, settings, shared, name, hears).await.map_err(unready)?;
        if known.is_none() {
            self.begin(name, start).await?;
        }
        // Until the inbox is there, nobody says that this host does not have the consumer.
        let _aside = self.store.aside.lock().await;
        let asked = Asked::now();
        let known = self.store.known_as(name).await?;
        let known = known.ok_or_else(|| Error::Unavailable("the consumer was forgotten meanwhile".into()))?;
        if self.store.seat.kept().is_none() && !known.by_functions {
            let noted = Change::of("SET byf = :one").only_if("attribute_exists(pk)").value(":one", number(1));
            drop(self.store.table.update(&Key::consumer(name), noted).await?);
        }
        let fills = Fills::load(&self.store, name, known.fills).await?;
        let inbox = AwsInbox::start(&self.store, known, asked, fills, queue);
        self.store.inboxes.lock().insert(name.clone(), Arc::clone(&inbox));
        Ok(inbox)
    }

    async fn introduce(&self, name: &ConsumerName, start: Start) -> Result<()> {
        match self.store.known_as(name).await? {
            Some(_) => Ok(()),
            None => self.begin(name, start).await,
        }
    }

    async fn known(&self) -> Result<Vec<ConsumerReport>> {
        self.store.count_done().await;
        let held = super::upkeep::held(&self.store).await?;
        let mut reports = Vec::new();
        for known in self.store.known().await?.chunks(AT_ONCE) {
            let told = known.iter().map(|known| self.report(known, held.as_ref()));
            reports.extend(futures::future::try_join_all(told).await?);
        }
        Ok(reports)
    }

    async fn state(&self, name: &ConsumerName, query: StateQuery) -> Result<StatePage> {
        let Some(known) = self.store.known_as(name).await? else { return Ok(StatePage::default()) };
        let StateQuery { prefix, after, limit } = query;
        let (mut entries, mut counters) = (Vec::new(), Vec::new());
        let partition = entries_partition(name, known.generation);
        let (items, limit) = page(&self.store, partition, &prefix, after.as_deref(), limit).await?;
        for item in items {
            entries.push((item.text("sk")?.to_owned(), item.blob("v").unwrap_or_default().to_vec()));
        }
        let partition = counters_partition(name, known.generation);
        let (items, limit) = page(&self.store, partition, &prefix, after.as_deref(), limit).await?;
        for item in items {
            counters.push((item.text("sk")?.to_owned(), item.number("n")?));
        }
        Ok(StatePage::cut(entries, counters, limit))
    }

    async fn forget(&self, name: &ConsumerName) -> Result<Durable<Forgotten>> {
        let _turn = self.store.turn_of(name).await;
        let inbox = self.store.inbox(name);
        if inbox.as_ref().is_some_and(|inbox| inbox.is_in_use()) {
            return Ok(Durable::assert(Forgotten::InUse));
        }
        self.store.hear_others().await?;
        if self.store.fleet.runs_elsewhere(name) {
            return Ok(Durable::assert(Forgotten::InUse));
        }
        if self.store.known_as(name).await?.is_none() {
            // One that never ran may have a history all the same.
            self.forget_versions(name).await?;
            return Ok(Durable::assert(Forgotten::Unknown));
        }
        if let Some(inbox) = inbox {
            self.close_inbox(&inbox).await;
        }
        let (clients, settings, shared) = (&self.store.clients, &self.store.settings, &self.store.shared);
        let left = resources::remove_consumer(clients, settings, shared, name).await.map_err(unready)?;
        if !left.steps.is_empty() {
            tracing::warn!(consumer = %name, %left, "the consumer is forgotten; this is left for you to delete");
        }
        for prefix in [format!("p#{name}#"), format!("s#{name}#")] {
            self.store.table.clear(&prefix).await?;
        }
        for partition in [format!("d#{name}"), format!("q#{name}"), format!("g#{name}"), format!("w#{name}")] {
            self.store.table.clear_partition(&partition).await?;
        }
        self.forget_versions(name).await?;
        let mut transaction = Transaction::default();
        transaction.delete((), Key::consumer(name), Change::default());
        transaction.put((), Item::at(&Key::forgotten(name)));
        drop(self.store.table.transact(transaction).await?);
        // It may have held events back.
        self.store.retained.notify_one();
        Ok(Durable::assert(Forgotten::Done))
    }

    async fn set_pause(&self, name: &ConsumerName, pause: Option<Pause>) -> Result<Durable<bool>> {
        let change = match pause {
            Some(Pause { since, reason }) => {
                let since = number(since.as_millis());
                let change = Change::default().value(":since", since);
                let set = "SET psince = if_not_exists(psince, :since)";
                match reason {
                    Some(reason) => change.update(format!("{set}, preason = :reason")).value(":reason", text(reason)),
                    None => change.update(set),
                }
            }
            None => Change::of("REMOVE psince, preason"),
        };
        let change = change.only_if("attribute_exists(pk)");
        let asked = Asked::now();
        let item = self.store.table.update_once(&Key::consumer(name), change).await?;
        let Some(item) = item else { return Ok(Durable::assert(false)) };
        if let Some(inbox) = self.store.inbox(name) {
            inbox.learn(Known::read(&item)?, asked);
        }
        Ok(Durable::assert(true))
    }

    async fn pause(&self, name: &ConsumerName) -> Result<Option<Pause>> {
        Ok(self.store.known_as(name).await?.and_then(|known| known.paused))
    }
}

impl Aws {
    async fn close_inbox(&self, inbox: &AwsInbox) {
        inbox.close().await;
        self.store.inboxes.lock().remove(&inbox.name);
    }

    /// A consumer that was never seen before; another host may be introducing it, too.
    async fn begin(&self, name: &ConsumerName, start: Start) -> Result<()> {
        let now = Timestamp::now();
        let start = match start {
            Start::Beginning => 0,
            Start::Now => self.store.positions.newest(now) + 1,
            Start::At(time) => super::clock::first_at(time),
        };
        let until = super::clock::first_at(now.plus(SUBSCRIBE_LAG));
        let item = Item::at(&Key::consumer(name))
            .with("start", number(start))
            .with("id", text(uuid::Uuid::now_v7()))
            .with("cua", number(start.saturating_sub(1)))
            .with("cuu", number(until))
            .with(&weight::attribute(0), number(0));
        let mut transaction = Transaction::default();
        transaction.create((), item);
        // Refused where another host was quicker.
        drop(self.store.table.transact(transaction).await?);
        Ok(())
    }

    async fn report(&self, known: &Known, held: Option<&Held>) -> Result<ConsumerReport> {
        let dead = self.store.letters.letters(&self.store.table, &known.name).await?;
        let pending = match tokio::time::timeout(COUNTING_TIME_MAX, self.pending(known)).await {
            Ok(pending) => pending?,
            // Nobody may take it for idle.
            Err(_elapsed) => self.waiting(known).await?.max(1),
        };
        Ok(ConsumerReport {
            name: known.name.clone(),
            pending: pending.max(dead),
            dead,
            done: known.done,
            state_bytes: known.total.as_ref().map_or(0, |total| u64::try_from(total.bytes).unwrap_or_default()),
            paused: known.paused.clone(),
            held: held.filter(|held| held.by == known.name).cloned(),
            backfill: self.store.backfill(known).await?,
            cut_off: self.store.inbox_of(known).and_then(|inbox| inbox.cut_off()),
        })
    }

    /// How many events match and are not done: exactly, up to [`COUNTED_MAX`] behind what is known to be done. Beyond that,
    /// what the queue holds, whether it matches or not.
    async fn pending(&self, known: &Known) -> Result<u64> {
        let mut pending = 0;
        let mut parked = HashSet::new();
        let history = self.store.history(known).await?;
        for some in self.exceptions(known).await?.chunks(AT_ONCE) {
            let counted = some.iter().map(|(lane, place)| self.pending_in(lane, place, &history, known));
            pending += futures::future::try_join_all(counted).await?.iter().sum::<u64>();
            parked.extend(some.iter().map(|(lane, _)| lane.clone()));
        }
        let from = known.catch_up.after + 1;
        let young = self.store.log(from, super::journal::POSITION_MAX, false, COUNTED_MAX + 1).await?;
        if young.len() > COUNTED_MAX {
            return Ok(pending + self.waiting(known).await?);
        }
        let keys: Vec<Key> = young.into_iter().map(|(key, _)| key).collect();
        let mut young = self.store.logged_at(&keys).await?;
        young.retain(|logged| !parked.contains(&logged.key) && self.store.wants(known, logged));
        let places = young.iter().map(|logged| Key::place(&known.name, &logged.key));
        let places = self.store.table.get_all(places).await?;
        for logged in young {
            let place = places.get(&Key::place(&known.name, &logged.key));
            let place = place.map_or_else(|| Ok(Place::default()), Place::read)?;
            pending += u64::from(place.seq < logged.seq && !place.is_parked());
        }
        Ok(pending)
    }

    /// How many are pending in a lane that stands at an exception, or waits for its history.
    async fn pending_in(
        &self,
        lane: &LaneKey,
        place: &Place,
        history: &super::backfills::History,
        known: &Known,
    ) -> Result<u64> {
        let first = if history.is_any() { 0 } else { place.seq };
        let behind = self.store.logged_after(lane, first, usize::MAX).await?;
        let counts = |logged: &&Logged| {
            place.head.is_some_and(|head| head.seq == logged.seq)
                || history.waits_in(place, logged)
                || (logged.seq > place.seq && self.store.wants(known, logged))
        };
        Ok(u64::try_from(behind.iter().filter(counts).count()).unwrap_or(u64::MAX))
    }

    /// What the queue holds.
    async fn waiting(&self, known: &Known) -> Result<u64> {
        let Some(inbox) = self.store.inbox(&known.name) else { return Ok(0) };
        let request = self.store.clients.sqs.get_queue_attributes().queue_url(&inbox.queue.url);
        let request = request
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed);
        let answer = request.send().await.map_err(|error| failed("GetQueueAttributes", &error))?;
        let counts = answer.attributes.unwrap_or_default();
        let waiting: u64 = counts.values().filter_map(|count| count.parse::<u64>().ok()).sum();
        // What was done and is still to be deleted.
        Ok(waiting.saturating_sub(inbox.to_be_deleted()))
    }

    /// Lanes that stand at an exception, or wait for their history.
    async fn exceptions(&self, known: &Known) -> Result<Vec<(LaneKey, Place)>> {
        let mut lanes = std::collections::BTreeMap::new();
        for partition in [format!("q#{}", known.name), format!("d#{}", known.name)] {
            let (from, to) = ("!".to_owned(), "~".to_owned());
            let span = Span { partition, from, to, newest_first: false, limit: EXCEPTIONS_MAX };
            for item in self.store.table.query(span).await? {
                *lanes.entry(LaneKey::known(item.text("l")?)).or_default() |= super::due::is_held(&item);
            }
        }
        let keys = lanes.keys().map(|lane| Key::place(&known.name, lane));
        let places = self.store.table.get_all(keys).await?;
        let mut exceptions = Vec::new();
        for (lane, is_held) in lanes {
            let place = places.get(&Key::place(&known.name, &lane));
            let place = place.map_or_else(|| Ok(Place::default()), Place::read)?;
            if is_held || place.is_parked() {
                exceptions.push((lane, place));
            }
        }
        Ok(exceptions)
    }
}

fn unready(error: resources::Error) -> Error {
    Error::Unavailable(error.to_string().into())
}
