//! The native side of the imports: each reaches into the world that `Host::run` has lent to this thread.

use std::cell::RefCell;
use std::mem;

use super::world::World;

thread_local! {
    static CURRENT: RefCell<Box<World>> = RefCell::default();
}

pub(super) fn swap(world: &mut Box<World>) {
    CURRENT.with_borrow_mut(|current| mem::swap(current, world));
}

fn with<T>(ask: impl FnOnce(&mut World) -> T) -> T {
    CURRENT.with_borrow_mut(|world| ask(world))
}

pub(crate) mod state {
    use super::with;
    use crate::state::{Adjustment, Counter, Entry, Shortage};

    pub fn get(key: &str) -> Option<Vec<u8>> {
        with(|world| world.entries.get(key).cloned())
    }

    pub fn set(key: &str, value: &[u8]) {
        with(|world| world.put_entry(key, Some(value.to_vec())));
    }

    pub fn delete(key: &str) {
        with(|world| world.put_entry(key, None));
    }

    pub fn scan(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        with(|world| {
            let found = world.entries.iter().map(|(key, value)| Entry { key: key.clone(), value: value.clone() });
            page(found.collect(), |entry| &entry.key, prefix, after, limit)
        })
    }

    pub fn count(key: &str) -> i64 {
        with(|world| world.counters.get(key).copied().unwrap_or(0))
    }

    pub fn scan_counts(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Counter> {
        with(|world| {
            let found = world.counters.iter().map(|(key, &value)| Counter { key: key.clone(), value });
            page(found.collect(), |counter| &counter.key, prefix, after, limit)
        })
    }

    pub fn adjust(adjustments: &[Adjustment]) -> Result<(), Shortage> {
        with(|world| world.adjust(adjustments))
    }

    fn page<T>(
        mut found: Vec<T>,
        key: impl Fn(&T) -> &String,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Vec<T> {
        found.retain(|item| key(item).starts_with(prefix) && after.is_none_or(|after| key(item).as_str() > after));
        found.sort_unstable_by(|one, other| key(one).cmp(key(other)));
        found.truncate(limit as usize);
        found
    }
}

pub(crate) mod journal {
    use super::with;
    use crate::order::Order;

    pub fn get_order(id: &str) -> Option<Order> {
        with(|world| world.orders.get(id).cloned())
    }
}

pub(crate) mod outbox {
    use super::with;
    use crate::events::{Change, Custom};
    use crate::outbox::{Message, Refusal};

    pub fn change_order(order_id: &str, change: &Change) -> Result<(), Refusal> {
        with(|world| world.change_order(order_id, change))
    }

    pub fn publish(event: &Custom) {
        with(|world| world.publish(event));
    }

    pub fn send(message: &Message) {
        with(|world| world.send(message));
    }
}

pub(crate) mod records {
    use super::with;

    pub fn append(dataset: &str, row: &str) -> Result<(), String> {
        with(|world| world.append(dataset, row))
    }
}

pub(crate) mod settings {
    use super::with;

    pub fn get(name: &str) -> Option<String> {
        with(|world| world.settings.get(name).cloned())
    }
}

pub(crate) mod http {
    use super::with;
    use crate::http::{Error, Request, Response};

    pub fn send(request: &Request) -> Result<Response, Error> {
        with(|world| world.call(request))
    }
}

pub(crate) mod log {
    use super::with;
    use crate::log::Level;

    pub fn write(level: Level, message: &str) {
        with(|world| world.logged.push((level, message.to_owned())));
    }
}
