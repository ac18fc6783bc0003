//! Whether the baseline does what the guests do: the same orders through both, and every effect compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fanfare::backend::{Origin, View};
use fanfare::clock::Timestamp;
use fanfare::effects::Effects;
use fanfare::event::{Body, Event, Position};
use fanfare::order::{Change, Order};
use fanfare::policy::Policy;
use fanfare::sandbox::{Handled, Outcome, Sandbox, Settings, Version};

use super::counters::Counters;
use super::front;
use super::staged::Staged;
use crate::mode::{Mode, STOCK};
use crate::tables::Tables;
use crate::workload::{self, SKUS, Workload};

/// Orders compared: enough that some customers come back, and that some reach each tier.
const ORDERS: u64 = 200;

/// Runs orders of the load through the baseline and through the guests in `folder`.
///
/// # Errors
/// The first effect in which they differ.
pub async fn check(mode: &Mode, folder: &Path) -> Result<()> {
    let mut guests = Guests::load(mode, folder).await?;
    let mut counters = Counters::default();
    stock_up(mode, &mut counters)?;
    let workload = Workload::generate("agree.example")?;
    let now = Timestamp::now();
    for ticket in 0..ORDERS {
        let body = workload.body(ticket)?;
        let (order, _) = front::order(body, now).map_err(anyhow::Error::msg)?;
        let mut staged = super::stage(mode)(&order, now)?;
        counters.settle(&mut staged)?;
        let ours = of_baseline(&staged)?;
        let theirs = guests.handle(&order, &staged, now).await?;
        for ((name, _), (ours, theirs)) in mode.consumers.iter().zip(ours.into_iter().zip(theirs)) {
            ensure!(
                ours == theirs,
                "{name} does this with order {ticket}:\n{theirs:#?}\nand the baseline this:\n{ours:#?}"
            );
        }
    }
    Ok(())
}

/// What one consumer did with one order; of its adjustments, what they come to.
#[derive(Debug, Default, PartialEq)]
struct Done {
    adjusted: BTreeMap<String, i64>,
    entries: BTreeMap<String, String>,
    /// By the place of the event.
    messages: Vec<(usize, String)>,
    /// Sorted: the baseline writes one data set after the other.
    records: Vec<(usize, String, String)>,
}

struct Guests {
    /// In the order of the mode.
    all: Vec<Guest>,
}

struct Guest {
    version: Arc<Version>,
    tables: Arc<Tables>,
}

fn stock_up(mode: &Mode, counters: &mut Counters) -> Result<()> {
    let consumer = mode.consumers.iter().position(|(name, _)| *name == mode.stock).context("nobody holds stock")?;
    (0..SKUS).try_for_each(|index| counters.set(consumer, &format!("stock/{}", workload::sku(index)), STOCK))
}

fn of_baseline(staged: &Staged) -> Result<[Done; 5]> {
    let mut done: [Done; 5] = Default::default();
    let none = "an effect of no consumer";
    for (key, adjustment) in staged.adjusted() {
        let done = done.get_mut(adjustment.consumer).context(none)?;
        *done.adjusted.entry(key.to_owned()).or_default() += adjustment.by;
    }
    for entry in &staged.entries {
        let value = String::from_utf8(entry.value.clone())?;
        done.get_mut(entry.consumer).context(none)?.entries.insert(entry.key.clone(), value);
    }
    for row in &staged.messages {
        done.get_mut(row.consumer).context(none)?.messages.push((row.event, row.message.clone()));
    }
    for row in &staged.records {
        let record = (row.event, row.dataset.to_owned(), canonical(&row.row)?);
        done.get_mut(row.consumer).context(none)?.records.push(record);
    }
    done.iter_mut().for_each(|done| done.records.sort());
    Ok(done)
}

/// A row with its columns in the order of their names: which order they have in the store does not matter.
fn canonical(row: &str) -> Result<String> {
    Ok(serde_json::from_str::<serde_json::Value>(row)?.to_string())
}

impl Guests {
    async fn load(mode: &Mode, folder: &Path) -> Result<Self> {
        let sandbox = Sandbox::new(Settings::default())?;
        let mut all = Vec::with_capacity(mode.consumers.len());
        for (name, _) in mode.consumers {
            let plugin = folder.join(format!("{name}.wasm"));
            let plugin = fs::read(&plugin).with_context(|| {
                format!("cannot read {}: `cargo xtask plugins` makes it, in the target folder", plugin.display())
            })?;
            let side_file = folder.join(format!("{name}.toml"));
            let policy = Policy::parse(&side_file, &fs::read_to_string(&side_file)?)?;
            let version = sandbox.load(plugin.into()).await?.link(&name.parse()?, &policy)?;
            let skus: Vec<_> = if name == mode.stock { (0..SKUS).map(workload::sku).collect() } else { Vec::new() };
            all.push(Guest { version, tables: Arc::new(Tables::stocked(skus, STOCK)) });
        }
        Ok(Self { all })
    }

    /// Delivers the order's events to whoever subscribed to them. The guests must take the very steps that are staged.
    async fn handle(&mut self, order: &Order, staged: &Staged, time: Timestamp) -> Result<Vec<Done>> {
        let mut done: Vec<Done> = self.all.iter().map(|_| Done::default()).collect();
        let mut changes = vec![Change::Placed {}];
        let mut after = order.clone();
        for (place, fact) in staged.events.iter().enumerate() {
            if place > 0 {
                after = after.after(&fact.change)?;
            }
            let body = Body::OrderChanged { order: after.clone(), change: fact.change.clone() };
            let (position, cause, depth) = (Position::FIRST, None, u8::try_from(place)?);
            let event = Arc::new(Event { id: fact.id, position, time, cause, depth, body });
            for (guest, done) in self.all.iter().zip(&mut done) {
                guest.tables.know(after.clone());
                if guest.wants(&event) {
                    let effects = guest.handle(&event).await?;
                    changes.extend(effects.order_changes.iter().map(|(_, change)| change.clone()));
                    ensure!(effects.events.is_empty(), "an event is published: {:?}", effects.events);
                    done.add(place, &effects)?;
                    guest.tables.apply(effects);
                }
            }
        }
        let steps: Vec<_> = staged.events.iter().map(|fact| fact.change.clone()).collect();
        ensure!(changes == steps, "the guests take the steps {changes:?}, the baseline {steps:?}");
        Ok(done)
    }
}

impl Guest {
    fn wants(&self, event: &Event) -> bool {
        self.version.plugin().description().subscriptions.iter().any(|one| one.kind.matches(event.kind()))
    }

    async fn handle(&self, event: &Arc<Event>) -> Result<Effects> {
        let view: Arc<dyn View> = Arc::clone(&self.tables) as _;
        let Handled { outcome, effects, instance, .. } = self.version.handle_event(event, 1, Origin::Live, view).await;
        instance.into_iter().for_each(|instance| self.version.keep(instance));
        match outcome {
            Outcome::Done => Ok(effects),
            other => bail!("a guest does not handle an order: {other:?}"),
        }
    }
}

impl Done {
    fn add(&mut self, place: usize, effects: &Effects) -> Result<()> {
        for adjustment in &effects.adjustments {
            *self.adjusted.entry(adjustment.key.to_string()).or_default() += adjustment.by;
        }
        for (key, value) in &effects.entries {
            let value = value.as_deref().with_context(|| format!("{key} is deleted"))?;
            self.entries.insert(key.to_string(), String::from_utf8(value.to_vec())?);
        }
        for message in &effects.messages {
            self.messages.push((place, serde_json::to_string(message)?));
        }
        for record in &effects.records {
            self.records.push((place, record.dataset.to_string(), canonical(&record.row)?));
        }
        self.records.sort();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::check;
    use crate::mode;

    /// Where `cargo xtask plugins` left the guests.
    fn guests(folder: &str) -> PathBuf {
        let target = std::env::var_os("FANFARE_GUESTS").map(PathBuf::from);
        target.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into()).join(folder)
    }

    #[tokio::test]
    async fn the_baseline_of_fanout_does_what_its_guests_do() {
        check(&mode::FANOUT, &guests("bench-consumers")).await.unwrap();
    }

    #[tokio::test]
    async fn the_baseline_of_journey_does_what_its_guests_do() {
        check(&mode::JOURNEY, &guests("consumers")).await.unwrap();
    }
}
