//! Items of the table: their keys, and attributes as the types that they stand for.
//!
//! | item | `pk` | `sk` |
//! |---|---|---|
//! | event `n` of a lane; or what is kept of it, or of the lane, when it went by age | `l#<lane>` | `e#<n>` |
//! | idempotency key | `i#<key>` | `i` |
//! | reference of an order | `f#<reference>` | `f` |
//! | origin id of a custom event | `x#<source>#<origin id>` | `x` |
//! | consumer | `c` | `<name>` |
//! | name of a consumer that was forgotten | `z` | `<name>` |
//! | place of a consumer in a lane | `p#<consumer>#<lane>` | `p` |
//! | attempt that is remembered | `p#<consumer>#<lane>` | `a#<n>#<number>` |
//! | what a person did with a delivery | `p#<consumer>#<lane>` | `v#<n>` |
//! | dead letter | `d#<consumer>` | `<position>` |
//! | delivery that is due at a time | `q#<consumer>` | `<lane>` |
//! | entry of a consumer's state | `s#<consumer>#<generation>#k` | `<key>` |
//! | counter of a consumer's state | `s#<consumer>#<generation>#n` | `<key>` |
//! | backfill | `g#<consumer>` | `<number>` |
//! | how many of its deliveries were done, and effects dropped | `g#<consumer>` | `<number>#d`, `<number>#x` |
//! | event that a rebuild comes back to | `w#<consumer>` | `<number>#e#<position>` |
//! | gate of a host beside a rebuild | `w#<consumer>` | `<number>#g#<host>` |
//! | that a host has left the layout before a take-over | `w#<consumer>` | `l#<number>#<host>` |
//! | message | `m` | `<position>#<n>#<consumer>` |
//! | rows of a data set | `r#<data set>` | `<position>#<n>` |
//! | row of a consumer's history | `v#<consumer>` | `<number>` |
//! | version that a consumer keeps | `k` | `<consumer>#<hash>` |
//! | where a consumer stands | `y` | `s#<consumer>` |
//! | what a host runs | `y` | `h#<slot>` |
//! | plugin file | `b` | `<hash>` |
//! | piece of a plugin file | `b#<hash>` | `<n>` |
//! | host | `h` | `<slot>` |
//! | intent of a large commit | `t#<id>` | `t` |
//! | what it intends | `t#<id>` | `w#<n>` |
//! | who lets go of what is old, and what holds it up | `u` | `u` |
//!
//! Numbers in keys have leading zeros, so that keys sort as the numbers do.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::backend::{Error, Result};
use crate::clock::Timestamp;
use crate::event::Lane;
use crate::policy::ConsumerName;

/// A partition key may have 2,048 bytes, and other words stand before and behind this.
const KEY_BYTES_MAX: usize = 900;

/// Name and value of the partition of consumers.
pub const CONSUMERS: &str = "c";
pub const FORGOTTEN: &str = "z";
pub const HOSTS: &str = "h";
pub const MESSAGES: &str = "m";

/// A lane as keys name it: a subject is never taken for an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey(String);

impl LaneKey {
    pub fn of(lane: &Lane) -> Self {
        match lane {
            Lane::Order(id) => Self(format!("o#{id}")),
            Lane::Subject(subject) => Self(format!("s#{}", bounded(subject))),
        }
    }

    /// As it was read from a key.
    pub fn known(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn partition(&self) -> String {
        format!("l#{}", self.0)
    }
}

impl Display for LaneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` where it fits into a key, or what names it as surely.
fn bounded(text: &str) -> String {
    if text.len() <= KEY_BYTES_MAX {
        return text.to_owned();
    }
    let digest = Sha256::digest(text);
    digest.iter().fold("#".to_owned(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// Both keys of one item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub pk: String,
    pub sk: String,
}

impl Key {
    fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }

    pub fn event(lane: &LaneKey, seq: u64) -> Self {
        Self::new(lane.partition(), event_sort(seq))
    }

    pub fn idempotency(key: &str) -> Self {
        Self::new(format!("i#{}", bounded(key)), "i")
    }

    pub fn reference(reference: &str) -> Self {
        Self::new(format!("f#{}", bounded(reference)), "f")
    }

    pub fn origin(source: &str, id: &str) -> Self {
        // The source stands with its length, so that no two pairs read alike.
        Self::new(format!("x#{}", bounded(&format!("{}#{source}#{id}", source.len()))), "x")
    }

    pub fn consumer(name: &ConsumerName) -> Self {
        Self::new(CONSUMERS, name.as_str())
    }

    /// What it left belongs to it still.
    pub fn forgotten(name: &ConsumerName) -> Self {
        Self::new(FORGOTTEN, name.as_str())
    }

    pub fn place(name: &ConsumerName, lane: &LaneKey) -> Self {
        Self::new(place_partition(name, lane), "p")
    }

    pub fn attempt(name: &ConsumerName, lane: &LaneKey, seq: u64, number: u64) -> Self {
        Self::new(place_partition(name, lane), format!("{}{number:015}", attempts_prefix(seq)))
    }

    pub fn intervention(name: &ConsumerName, lane: &LaneKey, seq: u64) -> Self {
        Self::new(place_partition(name, lane), format!("v#{seq:010}"))
    }

    pub fn dead_letter(name: &ConsumerName, position: u64) -> Self {
        Self::new(format!("d#{name}"), position_sort(position))
    }

    pub fn due(name: &ConsumerName, lane: &LaneKey) -> Self {
        Self::new(format!("q#{name}"), lane.as_str())
    }

    pub fn backfill(name: &ConsumerName, number: i64) -> Self {
        Self::new(backfills_partition(name), format!("{number:010}"))
    }

    /// Of a sum that a backfill keeps.
    pub fn backfill_sum(name: &ConsumerName, number: i64, sum: &str) -> Self {
        let Self { pk, sk } = Self::backfill(name, number);
        Self { pk, sk: format!("{sk}#{sum}") }
    }

    /// Of an event that a rebuild comes back to.
    pub fn put_off(name: &ConsumerName, rebuild: i64, position: u64) -> Self {
        Self::new(rebuilds_partition(name), format!("{}{}", put_off_prefix(rebuild), position_sort(position)))
    }

    /// Of a host beside a rebuild.
    pub fn gate(name: &ConsumerName, rebuild: i64, host: &str) -> Self {
        Self::new(rebuilds_partition(name), format!("{}{host}", gates_prefix(rebuild)))
    }

    /// Of a host that is to leave the layout before a take-over.
    pub fn left(name: &ConsumerName, take_over: i64, host: &str) -> Self {
        Self::new(rebuilds_partition(name), format!("{}{host}", left_prefix(take_over)))
    }

    pub fn entry(name: &ConsumerName, generation: i64, key: &str) -> Self {
        Self::new(entries_partition(name, generation), key)
    }

    pub fn counter(name: &ConsumerName, generation: i64, key: &str) -> Self {
        Self::new(counters_partition(name, generation), key)
    }

    pub fn message(position: u64, number: usize, name: &ConsumerName) -> Self {
        Self::new(MESSAGES, format!("{}#{number:05}#{name}", position_sort(position)))
    }

    pub fn records(dataset: &str, position: u64, number: usize) -> Self {
        Self::new(format!("r#{dataset}"), format!("{}#{number:05}", position_sort(position)))
    }

    pub fn intent(id: &str) -> Self {
        Self::new(format!("t#{id}"), "t")
    }

    pub fn intended(id: &str, number: usize) -> Self {
        Self::new(format!("t#{id}"), format!("w#{number:05}"))
    }

    pub fn host(slot: u64) -> Self {
        Self::new(HOSTS, format!("{slot:03}"))
    }

    pub fn upkeep() -> Self {
        Self::new("u", "u")
    }

    pub fn attributes(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([("pk".to_owned(), text(&self.pk)), ("sk".to_owned(), text(&self.sk))])
    }
}

pub fn event_sort(seq: u64) -> String {
    format!("e#{seq:010}")
}

pub fn position_sort(position: u64) -> String {
    format!("{position:020}")
}

pub fn place_partition(name: &ConsumerName, lane: &LaneKey) -> String {
    format!("p#{name}#{lane}")
}

pub fn backfills_partition(name: &ConsumerName) -> String {
    format!("g#{name}")
}

/// Of what is kept of a consumer's rebuilds while they are under way.
pub fn rebuilds_partition(name: &ConsumerName) -> String {
    format!("w#{name}")
}

pub fn put_off_prefix(rebuild: i64) -> String {
    format!("{rebuild:010}#e#")
}

pub fn gates_prefix(rebuild: i64) -> String {
    format!("{rebuild:010}#g#")
}

pub fn left_prefix(take_over: i64) -> String {
    format!("l#{take_over:010}#")
}

/// Of the sort keys of what is remembered of one delivery.
pub fn attempts_prefix(seq: u64) -> String {
    format!("a#{seq:010}#")
}

pub fn entries_partition(name: &ConsumerName, generation: i64) -> String {
    format!("s#{name}#{generation}#k")
}

pub fn counters_partition(name: &ConsumerName, generation: i64) -> String {
    format!("s#{name}#{generation}#n")
}

pub fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub fn number(value: impl Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn weight(value: &AttributeValue) -> usize {
    const OTHER_BYTES: usize = 8;
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::M(values) => weights(values),
        AttributeValue::L(values) => values.iter().map(weight).sum(),
        _ => OTHER_BYTES,
    }
}

/// What values weigh, roughly, with their names.
pub fn weights(values: &HashMap<String, AttributeValue>) -> usize {
    values.iter().map(|(name, value)| name.len() + weight(value)).sum()
}

pub fn bytes(value: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

pub fn json(value: &impl Serialize) -> Result<AttributeValue> {
    serde_json::to_string(value).map(AttributeValue::S).map_err(|error| Error::Failed(error.to_string().into()))
}

/// Attributes of one item, as they are read and written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item(pub HashMap<String, AttributeValue>);

impl Item {
    pub fn at(key: &Key) -> Self {
        Self(key.attributes())
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub fn with_some(self, name: &str, value: Option<AttributeValue>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub fn text(&self, name: &str) -> Result<&str> {
        self.text_or_none(name).ok_or_else(|| self.without(name))
    }

    pub fn text_or_none(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_s().ok().map(String::as_str)
    }

    pub fn parse<T: FromStr>(&self, name: &str) -> Result<T> {
        self.text(name)?.parse().map_err(|_| self.without(name))
    }

    pub fn parse_or_none<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.text_or_none(name).map(|text| text.parse().map_err(|_| self.without(name))).transpose()
    }

    pub fn number<T: FromStr>(&self, name: &str) -> Result<T> {
        self.number_or_none(name)?.ok_or_else(|| self.without(name))
    }

    pub fn number_or_none<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.0.get(name).and_then(|value| value.as_n().ok()) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| self.without(name))
    }

    /// What it weighs, roughly.
    pub fn bytes(&self) -> usize {
        weights(&self.0)
    }

    pub fn key(&self) -> Result<Key> {
        Ok(Key { pk: self.text("pk")?.to_owned(), sk: self.text("sk")?.to_owned() })
    }

    pub fn time(&self, name: &str) -> Result<Timestamp> {
        self.number(name).map(Timestamp::from_millis)
    }

    pub fn time_or_none(&self, name: &str) -> Result<Option<Timestamp>> {
        Ok(self.number_or_none(name)?.map(Timestamp::from_millis))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(|value| value.as_bool().ok()).copied().unwrap_or_default()
    }

    pub fn map(&self, name: &str) -> Option<&HashMap<String, AttributeValue>> {
        self.0.get(name)?.as_m().ok()
    }

    /// The event that it was went by age, and this stays for the order or for the numbers of the lane.
    pub fn is_gone(&self) -> bool {
        self.0.contains_key("gone")
    }

    /// Nothing follows from it any more, whether DynamoDB has deleted it yet or not.
    pub fn is_expired(&self, now: Timestamp) -> Result<bool> {
        Ok(self.number_or_none::<u64>("ttl")?.is_some_and(|ttl| ttl < now.as_millis() / 1_000))
    }

    pub fn blob(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name)?.as_b().ok().map(AsRef::as_ref)
    }

    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(self.text(name)?).map_err(|_| self.without(name))
    }

    pub fn json_or_none<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.text_or_none(name).map(|text| serde_json::from_str(text).map_err(|_| self.without(name))).transpose()
    }

    /// The item was written by something else, or by a host that is newer.
    fn without(&self, name: &str) -> Error {
        let [pk, sk] = ["pk", "sk"].map(|key| self.text_or_none(key).unwrap_or("?"));
        Error::Failed(format!("the item {pk}, {sk} of the table has no {name} that can be read").into())
    }
}

impl From<HashMap<String, AttributeValue>> for Item {
    fn from(attributes: HashMap<String, AttributeValue>) -> Self {
        Self(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_name_items_that_differ() {
        let subject = |text: &str| LaneKey::of(&Lane::Subject(text.into()));
        let id = crate::order::OrderId::generate();
        assert_ne!(subject(&id.to_string()), LaneKey::of(&Lane::Order(id)));
        assert_ne!(subject(&"a".repeat(5_000)), subject(&"a".repeat(5_001)));
        assert_ne!(Key::origin("a#b", "c"), Key::origin("a", "b#c"));
        assert!(subject(&"a".repeat(5_000)).partition().len() < 1_024);
    }

    #[test]
    fn keys_sort_as_their_numbers_do() {
        assert!(event_sort(9) < event_sort(10));
        assert!(position_sort(99) < position_sort(1 << 53));
    }
}
