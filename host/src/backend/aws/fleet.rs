//! What the hosts of one table tell each other of versions.
//!
//! Where each consumer stands, and what each host runs, are items of one partition, which every host reads once a second.

pub mod files;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Aws;
use super::hosts::Slot;
use super::item::{Item, Key, json, text};
use super::store::Store;
use super::table::{Span, Transaction};
use crate::backend::{Error, Fleet, HostRuns, Result, Running, Standing, Standings, Turn};
use crate::policy::ConsumerName;
use crate::version::{Binary, Hash};

/// Partition of what every host follows.
const FOLLOWED: &str = "y";
const STANDING: &str = "s#";
const HOST: &str = "h#";
/// Where Linux has the name of the machine.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// What this host knows of the others, and says of itself.
pub struct Known {
    /// Of a host that runs all the time; no other one says what it runs.
    name: Option<String>,
    standings: watch::Sender<Standings>,
    others: Mutex<BTreeMap<u64, HostRuns>>,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    running: Running,
    /// What the table says of it.
    told: Option<Running>,
}

impl Known {
    /// Of the host that keeps this slot.
    pub fn of(slot: Option<&Slot>) -> Self {
        let machine = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
        let machine = Some(machine.trim()).filter(|name| !name.is_empty()).unwrap_or("host");
        Self {
            name: slot.map(|slot| format!("{machine}/{}", slot.number)),
            standings: watch::Sender::new(Standings::default()),
            others: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// Whether another host runs a version of the consumer, as of when that was last heard.
    pub fn runs_elsewhere(&self, name: &ConsumerName) -> bool {
        self.others.lock().values().any(|host| host.running.contains_key(name))
    }
}

impl Key {
    pub fn standing(name: &ConsumerName) -> Self {
        Self { pk: FOLLOWED.to_owned(), sk: format!("{STANDING}{name}") }
    }

    /// Of what the host in this slot runs.
    pub fn running(slot: u64) -> Self {
        Self { pk: FOLLOWED.to_owned(), sk: format!("{HOST}{slot:03}") }
    }
}

/// The item of where a turn leaves a consumer.
pub fn standing_item(name: &ConsumerName, turn: &Turn) -> Result<Item> {
    Ok(Item::at(&Key::standing(name)).with("turn", json(turn)?))
}

pub fn standing(item: &Item) -> Result<Standing> {
    let Turn { outcome, reason, file, live } = item.json("turn")?;
    Ok(Standing { outcome, file: file.hash, live, reason })
}

impl Store {
    /// Says what this host runs, and learns what others run and decided.
    pub async fn follow_fleet(&self) {
        if let Err(error) = self.say_running().await
            && self.repeats.is_news("say what runs", "", &error)
        {
            tracing::warn!(%error, "other hosts do not know which versions run here");
        }
        if let Err(error) = self.hear_others().await
            && self.repeats.is_news("hear of others", "", &error)
        {
            tracing::warn!(%error, "what other hosts decided about versions is not known");
        }
    }

    async fn say_running(&self) -> Result<()> {
        let Some((slot, name)) = self.seat.kept().zip(self.fleet.name.as_ref()) else { return Ok(()) };
        let running = {
            let own = self.fleet.own.lock();
            if own.told.as_ref() == Some(&own.running) {
                return Ok(());
            }
            own.running.clone()
        };
        let item = Item::at(&Key::running(slot.number));
        let mut transaction = Transaction::default();
        // A host that has left, or was taken for dead, runs nothing.
        transaction.check((), Key::host(slot.number), slot.is_own());
        transaction.put((), item.with("host", text(name)).with("runs", json(&running)?));
        if self.table.transact(transaction).await?.is_ok() {
            self.fleet.own.lock().told = Some(running);
        }
        Ok(())
    }

    /// Learns what others run and decided.
    pub async fn hear_others(&self) -> Result<()> {
        let (from, to) = (HOST.to_owned(), format!("{STANDING}~"));
        let span = Span { partition: FOLLOWED.to_owned(), from, to, newest_first: false, limit: usize::MAX };
        let (mut standings, mut others) = (BTreeMap::new(), BTreeMap::new());
        for item in self.table.query(span).await? {
            let sort = item.text("sk")?;
            if let Some(name) = sort.strip_prefix(STANDING) {
                let name = name.parse().map_err(|_| Error::Failed(format!("{sort} is no consumer").into()))?;
                standings.insert(name, standing(&item)?);
            } else if let Some(slot) = sort.strip_prefix(HOST).and_then(|slot| slot.parse().ok()) {
                others.insert(slot, HostRuns { host: item.text("host")?.to_owned(), running: item.json("runs")? });
            }
        }
        if let Some(own) = self.seat.kept() {
            others.remove(&own.number);
        }
        *self.fleet.others.lock() = others;
        self.fleet.standings.send_if_modified(|known| {
            let news = **known != standings;
            if news {
                *known = Arc::new(standings);
            }
            news
        });
        Ok(())
    }
}

#[async_trait]
impl Fleet for Aws {
    async fn has_file(&self, hash: &Hash) -> Result<bool> {
        files::has(&self.store.table, hash).await
    }

    async fn keep_file(&self, file: &Binary) -> Result<()> {
        files::keep(&self.store.table, file).await
    }

    async fn file(&self, hash: &Hash) -> Result<Option<Binary>> {
        files::read(&self.store.table, hash).await
    }

    fn standings(&self) -> Option<watch::Receiver<Standings>> {
        Some(self.store.fleet.standings.subscribe())
    }

    fn tell_running(&self, running: Running) {
        self.store.fleet.own.lock().running = running;
    }

    fn hosts(&self) -> Vec<HostRuns> {
        let fleet = &self.store.fleet;
        let own = fleet.name.clone().map(|host| HostRuns { host, running: fleet.own.lock().running.clone() });
        own.into_iter().chain(fleet.others.lock().values().cloned()).collect()
    }
}
