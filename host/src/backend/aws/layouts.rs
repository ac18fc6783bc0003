//! By which layout of its state a consumer's events are handled: one at a time, on all hosts.
//!
//! ```text
//!  laid ──► taken over, by the host whose version is the last word ──► left by all who handled by the layout before
//!   ▲                                                                                             │
//!   └──────────────────────────────── the state before is kept ([`keep`]) ◄───────────────────────┘
//! ```
//!
//! A take-over is a number in the consumer's item. From when a host hears of it, within a second, it begins nothing by another
//! layout, gives back what it has in memory, and says that it has *left* once nothing of it is on its way. Where all have, or are gone
//! for so long that nothing of theirs is, whoever sees that first says that the state is laid anew.
//!
//! **Invariants**
//! - What is committed was handled by the layout that the state is of, by what the table said less than ten seconds before.
//! - A take-over ends: whoever brings its layout goes on with it, however many hosts do, and whoever died.

pub mod back;
pub mod keep;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

pub use self::keep::Kept;
use super::Aws;
use super::backfills::{Fills, UNHEARD_MAX, gate};
use super::consumers::Known;
use super::hosts;
use super::inbox::{Asked, AwsInbox};
use super::item::{Item, Key, left_prefix, number, rebuilds_partition};
use super::store::Store;
use super::table::{Change, Span, Transaction};
use crate::backend::{BackfillStep, Backfills as _, Durable, Error, Former, LaidOut, Layouts, Result, SetOut, WayBack};
use crate::event::Subscriptions;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;

/// What is said of a state that a host of an earlier release took over.
const NONE_KEPT: &str = "a host of an earlier release took it over, which keeps none";
/// Between two looks whether all have left.
const AGAIN: Duration = Duration::from_millis(200);
/// Hosts that are asked to leave: what a transaction holds beside the rest. Those above it count by their slots alone.
const HOSTS_MAX: usize = 90;

/// The layout of a consumer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Laid {
    /// Take-overs until then.
    pub number: i64,
    /// All have left who handled by the layout before.
    pub is_ready: bool,
    pub layout: u32,
}

impl Laid {
    pub fn read(item: &Item) -> Result<Option<Self>> {
        let Some(layout) = item.number_or_none("lay")? else { return Ok(None) };
        let number = item.number_or_none::<i64>("lyn")?.unwrap_or_default();
        let ready = item.number_or_none::<i64>("lyr")?.unwrap_or_default();
        Ok(Some(Self { number, is_ready: ready == number, layout }))
    }

    /// Whether a version of this layout may handle events. One whose layout is not known is of any.
    pub fn lets(self, layout: Option<u32>) -> bool {
        self.is_ready && layout.is_none_or(|layout| layout == self.layout)
    }
}

#[async_trait]
impl Layouts for Aws {
    async fn lay_out(
        &self,
        name: &ConsumerName,
        layout: u32,
        bytes_max: u64,
        last_word: bool,
    ) -> Result<Durable<LaidOut>> {
        let mut taken_over = false;
        loop {
            let (known, laid) = self.store.laid(name).await?;
            match laid {
                Some(laid) if laid.layout == layout => {
                    if taken_over || !laid.is_ready {
                        let now = self.store.end_take_over(name, laid).await?;
                        if let Some(now) = now.filter(|now| now.layout != layout) {
                            // Of those who bring one at the same time, the last one has it.
                            return Ok(Durable::assert(LaidOut::Elsewhere(now.layout)));
                        }
                    }
                    let former = if taken_over { self.former(name).await? } else { None };
                    return Ok(Durable::assert(match former {
                        Some(Former::Kept(kept)) => LaidOut::Kept(kept),
                        Some(Former::Gone { reason }) => LaidOut::NotKept(reason),
                        // A function does not wait for the end of it.
                        None if taken_over => LaidOut::NotKept(keep::BY_FUNCTIONS.to_owned()),
                        None => LaidOut::AsBefore,
                    }));
                }
                Some(laid) if !last_word && !self.store.is_function_alone().await? => {
                    return Ok(Durable::assert(LaidOut::Elsewhere(laid.layout)));
                }
                Some(laid) => taken_over |= self.take_over(&known, laid, (layout, bytes_max)).await?,
                None => self.store.lay_first(name, layout).await?,
            }
        }
    }

    async fn is_elsewhere(&self, name: &ConsumerName, layout: u32) -> Result<bool> {
        let laid = self.store.known_as(name).await?.and_then(|known| known.laid);
        Ok(laid.is_some_and(|laid| laid.layout != layout))
    }

    async fn former(&self, name: &ConsumerName) -> Result<Option<Former>> {
        let Some(item) = self.store.table.get(&Key::consumer(name)).await? else { return Ok(None) };
        let known = Known::read(&item)?;
        if let Some(kept) = &known.kept {
            return Ok(Some(Former::Kept(kept.shown(&item)?)));
        }
        let relaid = known.laid.is_some_and(|laid| laid.number > 0 && laid.is_ready);
        let reason = item.text_or_none("kpw").unwrap_or(NONE_KEPT).to_owned();
        Ok(relaid.then_some(Former::Gone { reason }))
    }

    async fn set_out(&self, name: &ConsumerName, way: WayBack, hears: Subscriptions) -> Result<Durable<SetOut>> {
        self.set_out_for(name, &way, &hears).await.map(Durable::assert)
    }

    async fn way_back(&self, name: &ConsumerName) -> Result<Option<WayBack>> {
        let known = self.store.known_as(name).await?;
        let Some(known) = known.filter(|known| known.rebuilding.is_some()) else { return Ok(None) };
        let fills = Fills::load(&self.store, name, known.fills).await?;
        Ok(fills.under_way().and_then(|fill| fill.back.as_ref()).map(|back| back.way.clone()))
    }

    fn returning(&self) -> Vec<ConsumerName> {
        let returns = |inbox: &Arc<AwsInbox>| inbox.fills().under_way().is_some_and(|fill| fill.back.is_some());
        self.store.inboxes().into_iter().filter(returns).map(|inbox| inbox.name.clone()).collect()
    }

    fn handed_over(&self) -> Arc<Notify> {
        Arc::clone(&self.store.handed_over)
    }
}

impl Aws {
    /// Takes the state over, unless something else became of it meanwhile. From then on nobody handles anything by the layout
    /// before.
    async fn take_over(&self, known: &Known, laid: Laid, (layout, bytes_max): (u32, u64)) -> Result<bool> {
        let name = &known.name;
        if known.rebuilding.is_some() {
            // It fills a state of the layout before.
            drop(self.steer(name, BackfillStep::Cancel).await?);
            return Ok(false);
        }
        self.store.shut_gates(known).await?;
        let next = laid.number + 1;
        // Where nobody has come to handle anything since, the state is of the layout before that.
        let set = "SET lay = :layout, lyn = :next, lym = :max";
        let set = if laid.is_ready { format!("{set}, lyb = :before") } else { set.to_owned() };
        let change = Change::of(set)
            .only_if("lay = :before AND (attribute_not_exists(lyn) OR lyn = :number) AND attribute_not_exists(bfr)")
            .value(":layout", number(layout))
            .value(":before", number(laid.layout))
            .value(":number", number(laid.number))
            .value(":next", number(next))
            .value(":max", number(bytes_max));
        let mut transaction = Transaction::default();
        transaction.update((), Key::consumer(name), change);
        for host in hosts::keepers(&self.store.table).await?.iter().take(HOSTS_MAX) {
            transaction.put((), Item::at(&Key::left(name, next, host)));
        }
        Ok(self.store.table.transact(transaction).await?.is_ok())
    }
}

impl Store {
    /// What the table says of the consumer, and of its layout. Its inbox goes by it from then on.
    async fn laid(&self, name: &ConsumerName) -> Result<(Known, Option<Laid>)> {
        let asked = Asked::now();
        let known = self.known_as(name).await?;
        let known = known.ok_or_else(|| Error::Unavailable("the consumer was forgotten meanwhile".into()))?;
        if let Some(inbox) = self.inbox(name) {
            inbox.learn(known.clone(), asked);
        }
        let laid = known.laid;
        Ok((known, laid))
    }

    /// What goes through a gate goes by nothing else, whatever its host knows, and though its rebuild is over.
    async fn shut_gates(&self, known: &Known) -> Result<()> {
        let fills = Fills::load(self, &known.name, known.fills).await?;
        for fill in fills.all.iter().filter(|fill| fill.is_rebuild()) {
            let gates = gate::all(self, &known.name, fill.number).await?;
            for (host, _) in gates.iter().filter(|(_, gate)| gate.open) {
                gate::shut(self, &known.name, fill.number, host).await?;
            }
        }
        Ok(())
    }

    /// Whether there are functions and no host. Of these the one that starts last has been deployed last, and nobody else can
    /// decide anything for them.
    async fn is_function_alone(&self) -> Result<bool> {
        Ok(self.seat.kept().is_none() && hosts::keepers(&self.table).await?.is_empty())
    }

    /// The state is of the layout of whoever comes first.
    async fn lay_first(&self, name: &ConsumerName, layout: u32) -> Result<()> {
        let change = Change::of("SET lay = :layout").only_if("attribute_exists(pk) AND attribute_not_exists(lay)");
        self.table.update_once(&Key::consumer(name), change.value(":layout", number(layout))).await.map(drop)
    }

    /// Waits until a take-over has ended: until all have left who handled by the layout before, or something else became of it.
    /// Of which layout the state is then. A host that AWS Lambda invokes waits in its invocations instead.
    async fn end_take_over(&self, name: &ConsumerName, laid: Laid) -> Result<Option<Laid>> {
        let began = Instant::now();
        loop {
            let (known, _) = self.laid(name).await?;
            self.leave_layout(&known).await?;
            let ended = self.look_at_take_over(name, laid.number, began).await?;
            let (_, now) = self.laid(name).await?;
            if !ended && now.is_some_and(|now| now.number == laid.number && now.is_ready) {
                // Whoever ended it may have died since.
                self.forget_left(name, laid.number).await?;
            }
            if ended || self.seat.kept().is_none() || now.is_none_or(|now| now.number != laid.number || now.is_ready) {
                return Ok(now);
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = self.stopping.cancelled() => return Err(Error::Unavailable("the host is stopping".into())),
            }
        }
    }

    /// Keeps the state before and says that it is laid anew, where all have left, who knows of the take-over `since` then.
    pub async fn look_at_take_over(&self, name: &ConsumerName, take_over: i64, since: Instant) -> Result<bool> {
        let Some(item) = self.table.get(&Key::consumer(name)).await? else { return Ok(false) };
        let known = Known::read(&item)?;
        let is_open = |laid: &Laid| laid.number == take_over && !laid.is_ready;
        let Some(laid) = known.laid.filter(is_open) else { return Ok(false) };
        let living = hosts::keepers(&self.table).await?;
        let (mut left, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let mut items = Vec::new();
        for item in self.left(name, 0, take_over).await? {
            let key = item.key()?;
            // Those of take-overs that others followed go with it.
            if let Some(host) = key.sk.strip_prefix(&left_prefix(take_over)) {
                let has_left = item.number_or_none::<u8>("ak")?.is_some();
                let _ = if has_left { left.insert(host.to_owned()) } else { missing.insert(host.to_owned()) };
            }
            items.push(key);
        }
        let is_waited_for = living.iter().any(|host| !left.contains(host));
        // Of those nobody will say it.
        let are_gone = !missing.is_empty() || known.by_functions;
        if is_waited_for || (are_gone && since.elapsed() <= UNHEARD_MAX) {
            return Ok(false);
        }
        let Some(change) = keep::end(self, &item, laid).await? else { return Ok(false) };
        let mut transaction = Transaction::default();
        transaction.update((), Key::consumer(name), change);
        items.into_iter().take(HOSTS_MAX).for_each(|item| transaction.delete((), item, Change::default()));
        let is_ready = self.table.transact(transaction).await?.is_ok();
        if is_ready {
            fault::pass(Point::LayoutDurable);
            self.forget_left(name, take_over).await?;
        }
        Ok(is_ready)
    }

    /// Deletes what hosts said of a take-over that has ended, some of them just before: from then on nobody says anything of it.
    async fn forget_left(&self, name: &ConsumerName, take_over: i64) -> Result<()> {
        let left = self.left(name, 0, take_over).await?;
        self.table.delete_all(left.iter().map(Item::key).collect::<Result<_>>()?).await
    }

    /// What hosts said of take-overs, from one number to another.
    async fn left(&self, name: &ConsumerName, from: i64, to: i64) -> Result<Vec<Item>> {
        let (partition, from) = (rebuilds_partition(name), left_prefix(from));
        let to = format!("{}~", left_prefix(to));
        self.table.query(Span { partition, from, to, newest_first: false, limit: usize::MAX }).await
    }

    /// Says that this host has left the layout before, once it has, where somebody waits for that.
    pub async fn leave_layout(&self, known: &Known) -> Result<()> {
        let Some((laid, slot)) = known.laid.filter(|laid| !laid.is_ready).zip(self.seat.kept()) else { return Ok(()) };
        match self.inbox_of(known) {
            Some(inbox) if !inbox.has_left(laid) => Ok(()),
            // Whoever does not have the consumer commits nothing of it.
            _ => self.say_left(&known.name, laid.number, &slot.owner).await,
        }
    }

    /// Says that this host has left, of whatever is taken over: it goes, and nobody is to wait for it.
    pub async fn leave_layouts(&self) -> Result<()> {
        let asked = Asked::now();
        for known in self.known().await? {
            if let Some(inbox) = self.inbox_of(&known).filter(|_| known.laid.is_some_and(|laid| !laid.is_ready)) {
                inbox.learn(known.clone(), asked);
            }
            self.leave_layout(&known).await?;
        }
        Ok(())
    }

    /// Says that nothing of this host is on its way that was handled by a layout before that of this take-over.
    async fn say_left(&self, name: &ConsumerName, take_over: i64, host: &str) -> Result<()> {
        let is_under_way = "lyn = :number AND (attribute_not_exists(lyr) OR lyr <> :number)";
        let mut transaction = Transaction::default();
        let check = Change::default().only_if(is_under_way).value(":number", number(take_over));
        transaction.check((), Key::consumer(name), check);
        transaction.update((), Key::left(name, take_over, host), Change::of("SET ak = :one").value(":one", number(1)));
        // Refused where it has ended, or another one has begun.
        self.table.transact(transaction).await.map(drop)
    }
}
