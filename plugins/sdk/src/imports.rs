//! The imports of the contract, one module each. On wasm they are the host's functions; natively, `testing` answers.

#[cfg(target_family = "wasm")]
use crate::bindings::fanfare::consumer as raw;
#[cfg(not(target_family = "wasm"))]
use crate::testing::imports as raw;

/// This consumer's own durable state: entries and counters, two separate spaces.
///
/// What [`get`](state::get) and [`count`](state::count) returned must still hold when the event is committed, or the
/// handler runs again; [`adjust`](state::adjust) requires only its floors. Prefer `adjust` where many events meet at one
/// counter.
pub mod state {
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::raw::state;
    pub use crate::bindings::fanfare::consumer::state::{Adjustment, Counter, Entry, Shortage};
    use crate::json;

    #[inline]
    pub fn get(key: &str) -> Option<Vec<u8>> {
        state::get(key)
    }

    #[inline]
    pub fn set(key: &str, value: &[u8]) {
        state::set(key, value);
    }

    #[inline]
    pub fn delete(key: &str) {
        state::delete(key);
    }

    /// Entries whose key starts with `prefix`, in key order, after `after` if given.
    #[inline]
    pub fn scan(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        state::scan(prefix, after, limit)
    }

    /// 0 where the counter is missing.
    #[inline]
    pub fn count(key: &str) -> i64 {
        state::count(key)
    }

    #[inline]
    pub fn scan_counts(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Counter> {
        state::scan_counts(prefix, after, limit)
    }

    /// All adjustments or none; the error is the first that would have crossed its floor.
    #[inline]
    pub fn adjust(adjustments: &[Adjustment]) -> Result<(), Shortage> {
        state::adjust(adjustments)
    }

    /// Adds `by` to one counter. Without a floor nothing can be short.
    pub fn add(key: &str, by: i64) {
        add_all(&[Adjustment::add(key, by)]);
    }

    /// Adds to many counters in one call to the host. None of them may have a floor: use [`adjust`] for those.
    pub fn add_all(adjustments: &[Adjustment]) {
        debug_assert!(
            adjustments.iter().all(|adjustment| adjustment.floor.is_none()),
            "a floor can refuse: use adjust"
        );
        let outcome = adjust(adjustments);
        debug_assert!(outcome.is_ok(), "refused without a floor: {outcome:?}");
    }

    /// An entry that [`set_json`] wrote. Anything else there is an error: another layout, or a damaged state.
    pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, json::Error> {
        let Some(bytes) = get(key) else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| json::Error::new(key, format!("unexpected entry: {error}")))
    }

    pub fn set_json(key: &str, value: &impl Serialize) {
        set(key, json::to_string(value).as_bytes());
    }

    impl Adjustment {
        /// Adds `by`, whatever the counter holds.
        pub fn add(key: impl Into<String>, by: i64) -> Self {
            Self { key: key.into(), by, floor: None }
        }

        /// Takes `units`, refusing to leave fewer than `floor`.
        pub fn take(key: impl Into<String>, units: i64, floor: i64) -> Self {
            Self { key: key.into(), by: -units, floor: Some(floor) }
        }
    }
}

/// Orders as the host holds them.
pub mod journal {
    use super::raw::journal;
    use crate::order::Order;

    /// The order now, this handler's own changes included. A condition of the commit, like `state::get`.
    #[inline]
    pub fn get_order(id: &str) -> Option<Order> {
        journal::get_order(id)
    }
}

/// What a consumer tells the world. Staged: it leaves only when the event is acknowledged.
pub mod outbox {
    use super::raw::outbox;
    pub use crate::bindings::fanfare::consumer::outbox::{Email, Message, Refusal, Sms};
    use crate::events::{Change, Custom};

    /// Moves an order one step on. Needs `change-order`.
    #[inline]
    pub fn change_order(order_id: &str, change: &Change) -> Result<(), Refusal> {
        outbox::change_order(order_id, change)
    }

    /// Needs `publish` of the kind. Data that is not JSON traps.
    #[inline]
    pub fn publish(event: &Custom) {
        outbox::publish(event);
    }

    /// Needs `email` or `sms`.
    #[inline]
    pub fn send(message: &Message) {
        outbox::send(message);
    }

    #[inline]
    pub fn send_email(email: Email) {
        send(&Message::Email(email));
    }
}

/// Rows for analysis, kept as columnar files.
pub mod records {
    use std::fmt;

    use serde::Serialize;

    use super::raw::records;
    use crate::json;

    /// Appends one row: a value that serialises to a JSON object with the columns declared for the data set.
    pub fn append(dataset: &str, row: &impl Serialize) -> Result<(), Misfit> {
        records::append(dataset, &json::to_string(row))
            .map_err(|problem| Misfit { dataset: dataset.to_owned(), problem })
    }

    /// A row that its data set refused.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Misfit {
        dataset: String,
        problem: String,
    }

    impl fmt::Display for Misfit {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "data set {}: {}", self.dataset, self.problem)
        }
    }

    impl std::error::Error for Misfit {}
}

/// What the operator wrote under `[settings]` in the side file.
pub mod settings {
    use std::fmt;
    use std::ops::RangeInclusive;

    use super::raw::settings;

    #[inline]
    pub fn get(name: &str) -> Option<String> {
        settings::get(name)
    }

    /// A whole number within `range`, or `default` where the setting is missing.
    pub fn integer(name: &str, default: i64, range: RangeInclusive<i64>) -> Result<i64, Error> {
        let Some(text) = get(name) else { return Ok(default) };
        match text.trim().parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(Error { name: name.to_owned(), range, found: text }),
        }
    }

    /// A setting that is not what the consumer can work with.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Error {
        name: String,
        range: RangeInclusive<i64>,
        found: String,
    }

    impl fmt::Display for Error {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self { name, range, found } = self;
            write!(
                f,
                "settings.{name}: must be a whole number from {} to {}, not {found:?}",
                range.start(),
                range.end()
            )
        }
    }

    impl std::error::Error for Error {}
}

/// The consumer's log.
pub mod log {
    use super::raw::log;
    pub use crate::bindings::fanfare::consumer::log::Level;

    #[inline]
    pub fn write(level: Level, message: &str) {
        log::write(level, message);
    }

    pub fn debug(message: &str) {
        write(Level::Debug, message);
    }

    pub fn info(message: &str) {
        write(Level::Info, message);
    }

    pub fn warn(message: &str) {
        write(Level::Warn, message);
    }

    pub fn error(message: &str) {
        write(Level::Error, message);
    }
}
