//! Filter policies of Amazon SNS over an event's `data`, as SNS documents them for the scope `MessageBody`
//! (docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html). Pure: no async, no IO.
//!
//! ```text
//! {"order": {"currency": ["EUR", "USD"],                     either of the two
//!            "total_amount": [{"numeric": [">=", 10000]}],   and this
//!            "lines": {"sku": [{"prefix": "NW-"}]}}}         and this, for any line
//! ```
//!
//! Keys are joined by AND, the values of a key by OR, the objects of an `$or` by OR. A value of the event is a text, a
//! number, `true`, `false` or `null`; of a list each element counts, and one that matches is enough. `exists` asks
//! whether there is such a value: an object, or an empty list, is none.
//!
//! Where SNS leaves it open: elements of a list of objects are looked at key by key, so two keys may be matched by two
//! elements; numbers of an event are compared with five decimals, and those beyond ±10⁹ still stand in their order.
//!
//! A filter is compiled once. Matching an event allocates a few bytes at most: the order is walked as it would be
//! serialized, and only keys that the filter names are gone into.

mod distinct;
mod parse;
mod rule;
mod walk;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use self::rule::Rule;
pub use parse::{EXAMPLE, Error};

/// What SNS allows.
pub const BYTES_MAX: usize = 256 << 10;
/// Keys that hold values, not those on the way to them; as SNS counts.
pub const KEYS_MAX: usize = 5;
/// Values of a key × its depth, multiplied over all keys, and summed over the objects of an `$or`.
pub const COMBINATIONS_MAX: u64 = 150;

/// A filter policy, compiled. Cheap to clone.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    text: String,
    keys: Keys,
    tests: Vec<Test>,
    condition: Condition,
}

/// One list of values in the filter: one that matches is enough.
struct Test {
    rules: Vec<Rule>,
    /// What `exists` asks for, where the list does.
    exists: Option<bool>,
}

/// How the lists of values are joined.
enum Condition {
    Test(usize),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

/// Where in an event the filter looks.
#[derive(Default)]
struct Keys {
    below: Vec<(Box<str>, Keys)>,
    /// What is asked of the values here, by index.
    tests: Vec<usize>,
}

impl Filter {
    /// Reads the JSON of a filter policy.
    ///
    /// # Errors
    /// [`Error`]: which key is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::compile(text).map(|compiled| Self(Arc::new(compiled)))
    }

    /// Whether `data` matches, as JSON would show it.
    pub fn matches(&self, data: &impl Serialize) -> bool {
        self.judge(|walk| walk::serialized(data, walk))
    }

    /// Whether the JSON `data` matches.
    #[must_use]
    pub fn matches_json(&self, data: &RawValue) -> bool {
        self.judge(|walk| walk::parsed(data.get(), walk))
    }

    fn judge(&self, look: impl FnOnce(walk::Walk<'_, '_>)) -> bool {
        let Compiled { keys, tests, condition, .. } = &*self.0;
        let mut found = walk::Found::new(tests);
        look(walk::Walk::new(keys, &mut found));
        condition.holds(&|test| found.passes(test))
    }
}

impl Condition {
    fn holds(&self, passes: &impl Fn(usize) -> bool) -> bool {
        match self {
            Self::Test(test) => passes(*test),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(passes)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(passes)),
        }
    }
}

impl Keys {
    fn below(&self, key: &str) -> Option<&Self> {
        self.below.iter().find(|(name, _)| **name == *key).map(|(_, keys)| keys)
    }
}

/// The policy as it was written, on one line.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.0.text)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Filter {}

#[cfg(test)]
mod tests;
