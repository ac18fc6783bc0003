//! Events: immutable facts with an id. Pure: no async, no IO.

pub mod edit;

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::order::{Change, Order, OrderId, Status};

pub mod filter;
mod range;
mod share;
mod subscription;

pub use range::{Bound, EventRange, NotARange};
pub use share::Share;
pub use subscription::{Subscription, Subscriptions};

/// What the kinds of the host's own events begin with.
const ORDER_KINDS: &str = "order.";

/// A chain of causes deeper than this is refused: consumers that answer each other would loop for ever.
pub const DEPTH_MAX: u8 = 16;

/// Names one event: a UUID version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// When it was made, by the clock of its host.
    #[must_use]
    pub fn made_at(self) -> Timestamp {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |time| time.to_unix());
        Timestamp::from_millis(seconds * 1_000 + u64::from(nanos) / 1_000_000)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Place of an event in the journal. No two events have the same, and what is recorded later has a larger one: always within a
/// lane, and as far as clocks agree where several hosts record. In one file, they are 1, 2, 3 and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub NonZeroU64);

impl Position {
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for 0, which is no position.
    #[must_use]
    pub fn new(position: u64) -> Option<Self> {
        NonZeroU64::new(position).map(Self)
    }

    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What keeps events in order for one consumer: those of one lane are delivered one after another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    Order(OrderId),
    Subject(Arc<str>),
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(id) => write!(f, "{id}"),
            Self::Subject(subject) => f.write_str(subject),
        }
    }
}

/// One fact, durable in the journal.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    pub position: Position,
    /// When it was recorded.
    pub time: Timestamp,
    /// The event whose handling produced this one.
    pub cause: Option<EventId>,
    /// How many causes stand behind this event; at most [`DEPTH_MAX`].
    pub depth: u8,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// The order as it stood right after the change.
    OrderChanged {
        order: Order,
        change: Change,
    },
    Custom(Custom),
}

/// An event that the host does not interpret: from a consumer or from outside.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Dotted, reverse-DNS: `com.example.stock.received`. Never `order.*`.
    pub kind: Arc<str>,
    /// CloudEvents `source`: `/fanfare/consumers/NAME` for a consumer's, the sender's own otherwise.
    pub source: Arc<str>,
    /// The sender's own id of it; `(source, origin_id)` is accepted once.
    pub origin_id: Option<Arc<str>>,
    pub subject: Arc<str>,
    pub order_id: Option<OrderId>,
    /// A JSON value.
    pub data: Arc<RawValue>,
}

impl Event {
    #[must_use]
    pub fn kind(&self) -> &str {
        match &self.body {
            Body::OrderChanged { change, .. } => change.status().event_kind(),
            Body::Custom(custom) => &custom.kind,
        }
    }

    #[must_use]
    pub fn lane(&self) -> Lane {
        match &self.body {
            Body::OrderChanged { order, .. } => Lane::Order(order.id),
            Body::Custom(custom) => custom.lane(),
        }
    }

    #[must_use]
    pub fn order_id(&self) -> Option<OrderId> {
        match &self.body {
            Body::OrderChanged { order, .. } => Some(order.id),
            Body::Custom(custom) => custom.order_id,
        }
    }
}

impl Custom {
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self.order_id {
            Some(order) => Lane::Order(order),
            None => Lane::Subject(Arc::clone(&self.subject)),
        }
    }
}

impl Body {
    /// `data` as the event shows it.
    ///
    /// # Errors
    /// Where it is no JSON, which is a bug.
    pub fn data(&self) -> serde_json::Result<Box<RawValue>> {
        match self {
            Self::OrderChanged { order, change } => serde_json::value::to_raw_value(&Changed { order, change }),
            Self::Custom(custom) => Ok((*custom.data).to_owned()),
        }
    }
}

/// The data of an order change.
#[derive(Serialize)]
struct Changed<'a> {
    order: &'a Order,
    change: &'a Change,
}

/// The one JSON shape of events everywhere, CloudEvents 1.0 structured mode (see DESIGN, section 7).
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        map.serialize_entry("id", &self.id)?;
        match &self.body {
            Body::OrderChanged { order, .. } => {
                map.serialize_entry("source", "/fanfare")?;
                map.serialize_entry("type", self.kind())?;
                map.serialize_entry("subject", &order.id)?;
            }
            Body::Custom(custom) => {
                map.serialize_entry("source", &*custom.source)?;
                map.serialize_entry("type", self.kind())?;
                map.serialize_entry("subject", &*custom.subject)?;
                if let Some(order_id) = &custom.order_id {
                    map.serialize_entry("orderid", order_id)?;
                }
                if let Some(origin_id) = &custom.origin_id {
                    map.serialize_entry("originid", &**origin_id)?;
                }
            }
        }
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("datacontenttype", "application/json")?;
        if let Some(cause) = &self.cause {
            map.serialize_entry("causationid", cause)?;
        }
        match &self.body {
            Body::OrderChanged { order, change } => map.serialize_entry("data", &Changed { order, change })?,
            Body::Custom(custom) => map.serialize_entry("data", &*custom.data)?,
        }
        map.end()
    }
}

/// A pattern over event kinds: a kind, or a prefix ending in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindPattern(Box<str>);

impl KindPattern {
    #[must_use]
    pub fn matches(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => kind.starts_with(prefix),
            None => &*self.0 == kind,
        }
    }

    /// This pattern, to be heard: what begins with `order.` are the host's own kinds, and there are no others of them.
    ///
    /// # Errors
    /// [`NeverHeard`] where no event will ever match.
    pub fn heard(self) -> Result<Self, NeverHeard> {
        let is_of_orders = &*self.0 == "order" || self.0.starts_with(ORDER_KINDS);
        let may_be = !is_of_orders || Status::ALL.into_iter().any(|status| self.matches(status.event_kind()));
        if may_be { Ok(self) } else { Err(NeverHeard { pattern: self.0.into() }) }
    }

    /// Whether every kind that `other` matches is matched by this pattern too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('*'), other.0.strip_suffix('*')) {
            (Some(prefix), Some(other)) => other.starts_with(prefix),
            (None, Some(_)) => false,
            (_, None) => self.matches(&other.0),
        }
    }
}

impl fmt::Display for KindPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not an event kind or a pattern over kinds.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not an event kind: use dotted words of letters, digits, '-' and '_', such as com.example.stock.received"
)]
pub struct NotAKind(String);

/// A pattern of kinds that only the host could make, and makes none of.
#[derive(Debug, thiserror::Error)]
#[error("no event is ever {pattern:?}: of orders there are {}", Status::ALL.map(Status::event_kind).join(", "))]
pub struct NeverHeard {
    pattern: String,
}

impl FromStr for KindPattern {
    type Err = NotAKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        let stem = stem.strip_suffix('.').filter(|_| stem.len() < text.len()).unwrap_or(stem);
        // A bare `*` is every event.
        if !(stem.is_empty() && text == "*") {
            check_kind(stem).map_err(|_| NotAKind(text.to_owned()))?;
        }
        Ok(Self(text.into()))
    }
}

/// Checks that `data`, which is JSON, can be read by whoever reads it later: each text in it is Unicode (`"\ud800"` is none), each
/// number has one of 64 bits near it (`1e999` has none), and nothing nests deeper than readers stand.
///
/// # Errors
/// What cannot be read, and where.
pub fn check_data(data: &str) -> serde_json::Result<()> {
    serde_json::from_str::<Value>(data).map(drop)
}

/// Checks that `kind` is dotted words, at most 200 bytes.
///
/// # Errors
/// [`NotAKind`] with the text as given.
pub fn check_kind(kind: &str) -> Result<(), NotAKind> {
    const KIND_BYTES_MAX: usize = 200;
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if kind.len() <= KIND_BYTES_MAX && kind.split('.').all(word) { Ok(()) } else { Err(NotAKind(kind.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> KindPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_matches_its_kind_or_its_prefix() {
        assert!(pattern("order.placed").matches("order.placed"));
        assert!(!pattern("order.placed").matches("order.placed2"));
        assert!(pattern("com.example.stock.*").matches("com.example.stock.low"));
        assert!(pattern("*").matches("order.placed"));
        assert!(!pattern("com.*").matches("order.placed"));
    }

    #[test]
    fn a_pattern_covers_narrower_ones_only() {
        assert!(pattern("com.*").covers(&pattern("com.example.*")));
        assert!(pattern("com.*").covers(&pattern("com.example")));
        assert!(!pattern("com.example").covers(&pattern("com.*")));
        assert!(!pattern("com.example.*").covers(&pattern("com.*")));
    }

    #[test]
    fn of_orders_only_what_happens_to_them_can_be_heard() {
        for text in
            ["order.placed", "order.*", "order.c*", "*", "orders.placed", "ord*", "com.example.order.paid", "order*"]
        {
            assert!(pattern(text).heard().is_ok(), "{text:?}");
        }
        for text in ["order", "order.plcaed", "order.placed.late", "order.x*", "order.placed.*"] {
            let told = pattern(text).heard().unwrap_err().to_string();
            assert!(
                told.starts_with(&format!("no event is ever {text:?}: of orders there are order.placed, ")),
                "{told}"
            );
        }
    }

    #[test]
    fn what_is_no_kind_is_refused() {
        for text in ["", ".", "a..b", "a b", "*a", "a.*.b"] {
            assert!(text.parse::<KindPattern>().is_err(), "{text:?}");
        }
    }
}
