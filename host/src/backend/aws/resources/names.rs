//! What the resources are called. All names come from the prefix, and all of these are fixed: a host finds what another
//! one made.

use super::super::settings::{Prefix, TopicKind};
use crate::policy::ConsumerName;
use crate::version::Hash;

/// Keys of the table: both are texts.
pub const PARTITION_KEY: &str = "pk";
pub const SORT_KEY: &str = "sk";
/// Attribute of items that go by themselves: seconds since 1970.
pub const TTL: &str = "ttl";
/// Index of events by position and of what is due by time: a text and a number.
pub const LOG_INDEX: &str = "log";
pub const LOG_PARTITION: &str = "lp";
pub const LOG_SORT: &str = "ls";
/// Index of orders by customer: two texts.
pub const CUSTOMER_INDEX: &str = "customer";
pub const CUSTOMER_PARTITION: &str = "cp";
pub const CUSTOMER_SORT: &str = "cs";
/// Message attribute with the event's kind: on every message, since SNS filters by it.
pub const KIND_ATTRIBUTE: &str = "kind";

pub const PREFIX_TAG: &str = "fanfare:prefix";
pub const CONSUMER_TAG: &str = "fanfare:consumer";

/// The most that SQS takes, `.fifo` included.
const QUEUE_BYTES_MAX: usize = 80;
const DEAD: &str = "-dead";
const FIFO: &str = ".fifo";
/// Of a hash: enough that no two names ever share one.
const HASH_DIGITS: usize = 12;

pub fn table(prefix: &Prefix) -> String {
    prefix.to_string()
}

pub fn topic(prefix: &Prefix, kind: TopicKind) -> String {
    format!("{prefix}{}", ending(kind))
}

/// Queue and dead-letter queue of one consumer.
pub fn queues(prefix: &Prefix, consumer: &ConsumerName, kind: TopicKind) -> [String; 2] {
    let (stem, ending) = (stem(prefix, consumer), ending(kind));
    [format!("{stem}{ending}"), format!("{stem}{DEAD}{ending}")]
}

/// `PREFIX-CONSUMER`. A name that is too long, or reads as another consumer's dead-letter queue, ends in a hash instead.
fn stem(prefix: &Prefix, consumer: &ConsumerName) -> String {
    let room = QUEUE_BYTES_MAX - FIFO.len() - DEAD.len() - prefix.as_str().len() - 1;
    let name = consumer.as_str();
    if name.len() <= room && !name.ends_with(DEAD) {
        return format!("{prefix}-{name}");
    }
    let mut hash = Hash::of(name.as_bytes()).to_string();
    hash.truncate(HASH_DIGITS);
    let kept = name.get(..room - HASH_DIGITS - 1).unwrap_or(name);
    format!("{prefix}-{kept}-{hash}")
}

fn ending(kind: TopicKind) -> &'static str {
    match kind {
        TopicKind::Fifo => FIFO,
        TopicKind::Standard => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn queues_of(prefix: &str, consumer: &str) -> [String; 2] {
        queues(&prefix.parse().unwrap(), &consumer.parse().unwrap(), TopicKind::Fifo)
    }

    #[test]
    fn names_say_whose_they_are() {
        let shop: Prefix = "shop".parse().unwrap();
        assert_eq!(table(&shop), "shop");
        assert_eq!([TopicKind::Fifo, TopicKind::Standard].map(|kind| topic(&shop, kind)), ["shop.fifo", "shop"]);
        assert_eq!(queues_of("shop", "inventory"), ["shop-inventory.fifo", "shop-inventory-dead.fifo"]);
        let standard = queues(&shop, &"inventory".parse().unwrap(), TopicKind::Standard);
        assert_eq!(standard, ["shop-inventory", "shop-inventory-dead"]);
    }

    #[test]
    fn every_name_fits_and_no_two_consumers_share_one() {
        let long = "n".repeat(63);
        let consumers = ["a", "a-dead", "a-dead-dead", &format!("{long}a"), &format!("{long}b"), "b"];
        for prefix in ["abc", &"p".repeat(40)] {
            let names: Vec<_> = consumers.iter().flat_map(|consumer| queues_of(prefix, consumer)).collect();
            assert!(names.iter().all(|name| name.len() <= QUEUE_BYTES_MAX), "{names:?}");
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        }
    }
}
