//! A host in memory, for tests and native benchmarks of consumers: same imports, same staging, no sandbox.
//!
//! It keeps the contract's promises that a handler can see: effects of a failed handler are gone, an `adjust` is all or
//! nothing, an order takes only legal steps, and what was not declared as a need traps (panics, here). It has no
//! concurrency, so no read is ever stale.

mod fixtures;
pub(crate) mod imports;
mod world;

use std::marker::PhantomData;

pub use fixtures::{OrderBuilder, changed, custom, order, placed};
use world::World;

use crate::events::{Change, Custom, Event};
use crate::http::{Request, Response};
use crate::order::Order;
use crate::outbox::{Email, Message};
use crate::{Consumer, Failure};

/// A host that runs one consumer, with exactly the needs that it declares granted.
///
/// ```
/// # use fanfare_sdk::{prelude::*, testing::{self, Host}};
/// # struct Counting;
/// # impl Consumer for Counting {
/// #     fn describe() -> Description { Description::new("1.0.0", "Counts") }
/// #     fn handle(_: Event) -> Result<(), Failure> { state::add("orders", 1); Ok(()) }
/// # }
/// let mut host = Host::<Counting>::default();
/// host.handle(testing::placed(testing::order("o-1").line("NW-11", 2, 1400).build()))?;
/// assert_eq!(host.count("orders"), 1);
/// # Ok::<(), fanfare_sdk::Failure>(())
/// ```
pub struct Host<C> {
    /// Boxed, so that lending it to the thread for the length of a handler moves a pointer.
    world: Box<World>,
    consumer: PhantomData<C>,
}

impl<C: Consumer> Default for Host<C> {
    fn default() -> Self {
        Self { world: Box::new(World::new(&C::describe())), consumer: PhantomData }
    }
}

impl<C: Consumer> Host<C> {
    /// Runs the handler. The order of an order change is put into the journal first if it is not there yet.
    pub fn handle(&mut self, event: Event) -> Result<(), Failure> {
        if let Some(changed) = event.as_order_changed() {
            self.world.know(&changed.order);
        }
        self.run(event)
    }

    /// Runs the handler and leaves the journal alone: for consumers that never ask for orders, and for benchmarks.
    pub fn run(&mut self, event: Event) -> Result<(), Failure> {
        let lent = Lent::new(&mut self.world);
        let outcome = C::handle(event);
        drop(lent);
        self.world.settle(outcome.is_ok());
        outcome
    }

    pub fn set_setting(&mut self, name: &str, value: &str) {
        self.world.settings.insert(name.to_owned(), value.to_owned());
    }

    pub fn set_count(&mut self, key: &str, value: i64) {
        self.world.counters.insert(key.to_owned(), value);
    }

    pub fn set_entry(&mut self, key: &str, value: &[u8]) {
        self.world.entries.insert(key.to_owned(), value.to_vec());
    }

    /// Puts an order into the journal as it is, over what was there.
    pub fn set_order(&mut self, order: Order) {
        self.world.orders.insert(order.id.clone(), order);
    }

    /// Answers the next call over HTTP that is not answered yet.
    pub fn answer(&mut self, response: Response) {
        self.world.answers.push_back(Ok(response));
    }

    /// As [`Host::answer`], with no response at all.
    pub fn answer_nothing(&mut self, cause: &str) {
        self.world.answers.push_back(Err(cause.to_owned()));
    }

    /// Everything that was called over HTTP, oldest first. Calls are not undone.
    pub fn requests(&self) -> &[Request] {
        &self.world.requests
    }

    pub fn count(&self, key: &str) -> i64 {
        self.world.counters.get(key).copied().unwrap_or(0)
    }

    /// All counters, in key order.
    pub fn counts(&self) -> Vec<(&str, i64)> {
        let mut counts: Vec<_> = self.world.counters.iter().map(|(key, &value)| (key.as_str(), value)).collect();
        counts.sort_unstable();
        counts
    }

    /// An entry that is text, as most are.
    pub fn entry(&self, key: &str) -> Option<&str> {
        self.world.entries.get(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Keys of all entries, in order.
    pub fn entry_keys(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.world.entries.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    pub fn order(&self, id: &str) -> Option<&Order> {
        self.world.orders.get(id)
    }

    /// Order changes that were committed, oldest first.
    pub fn changes(&self) -> &[(String, Change)] {
        &self.world.effects.changes
    }

    pub fn published(&self) -> &[Custom] {
        &self.world.effects.published
    }

    pub fn messages(&self) -> &[Message] {
        &self.world.effects.messages
    }

    pub fn emails(&self) -> Vec<&Email> {
        let emails = self.messages().iter().filter_map(|message| match message {
            Message::Email(email) => Some(email),
            Message::Sms(_) => None,
        });
        emails.collect()
    }

    /// Rows appended to a data set, oldest first.
    pub fn rows(&self, dataset: &str) -> Vec<&serde_json::Value> {
        self.world.effects.rows.iter().filter(|(name, _)| name == dataset).map(|(_, row)| row).collect()
    }

    /// What was logged, of failed handlers too.
    pub fn logged(&self) -> &[(crate::log::Level, String)] {
        &self.world.logged
    }

    /// Drops effects and log, and keeps the state: a benchmark's memory stays small.
    pub fn forget_effects(&mut self) {
        self.world.forget_effects();
    }
}

/// The world, lent to this thread's imports; dropping it gives the world back, also when the handler panics.
struct Lent<'a> {
    home: &'a mut Box<World>,
}

impl<'a> Lent<'a> {
    fn new(home: &'a mut Box<World>) -> Self {
        imports::swap(home);
        Self { home }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        imports::swap(self.home);
    }
}

#[cfg(test)]
mod tests;
