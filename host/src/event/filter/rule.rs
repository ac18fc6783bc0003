//! One value of a filter, and what it matches.

use std::net::IpAddr;

use super::walk::Leaf;

pub enum Rule {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    EqualsIgnoreCase(Box<str>),
    Wildcard(Wildcard),
    Cidr(Network),
    Numeric(Range),
    /// Any value that none of these matches.
    AnythingBut(Vec<Rule>),
}

impl Rule {
    pub fn matches(&self, leaf: &Leaf<'_>) -> bool {
        match (self, leaf) {
            (Self::Null, Leaf::Null) => true,
            (Self::Bool(rule), Leaf::Bool(value)) => rule == value,
            (Self::Number(rule), Leaf::Number(value)) => rule == value,
            (Self::Text(rule), Leaf::Text(text)) => **rule == **text,
            (Self::Prefix(prefix), Leaf::Text(text)) => text.starts_with(&**prefix),
            (Self::Suffix(suffix), Leaf::Text(text)) => text.ends_with(&**suffix),
            (Self::EqualsIgnoreCase(rule), Leaf::Text(text)) => lower(rule).eq(lower(text)),
            (Self::Wildcard(wildcard), Leaf::Text(text)) => wildcard.matches(text),
            (Self::Cidr(network), Leaf::Text(text)) => text.parse().is_ok_and(|address| network.contains(address)),
            (Self::Numeric(range), Leaf::Number(value)) => range.contains(*value),
            (Self::AnythingBut(rules), leaf) => !rules.iter().any(|rule| rule.matches(leaf)),
            _ => false,
        }
    }
}

fn lower(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

/// A number with five decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(i64);

/// Decimals that count.
const SCALE: i64 = 100_000;
/// What a number in a filter may be, either way.
const LIMIT: f64 = 1e9;

impl Decimal {
    /// A number of a filter; `None` where it is too large, or has more decimals than count.
    pub fn exact(number: f64) -> Option<Self> {
        let decimal = Self::from(number);
        #[allow(clippy::cast_precision_loss, reason = "at most 10^14, which an f64 holds")]
        let back = decimal.0 as f64 / SCALE as f64;
        #[allow(clippy::float_cmp, reason = "both are the number nearest to the same five decimals, or they differ")]
        let exact = number.abs() <= LIMIT && back == number;
        exact.then_some(decimal)
    }
}

impl From<f64> for Decimal {
    fn from(number: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "what does not fit is clamped")]
        let scaled = (number * SCALE as f64).round() as i64;
        Self(scaled)
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self(number.saturating_mul(SCALE))
    }
}

impl From<u64> for Decimal {
    fn from(number: u64) -> Self {
        Self::from(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Numbers from one bound to another.
#[derive(Default)]
pub struct Range {
    pub lower: Option<(Decimal, Bound)>,
    pub upper: Option<(Decimal, Bound)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Included,
    Excluded,
}

impl Range {
    fn contains(&self, value: Decimal) -> bool {
        let above = |(lower, bound)| value > lower || (bound == Bound::Included && value == lower);
        let below = |(upper, bound)| value < upper || (bound == Bound::Included && value == upper);
        self.lower.is_none_or(above) && self.upper.is_none_or(below)
    }
}

/// Texts that must stand in this order, the first at the beginning and the last at the end.
pub struct Wildcard {
    pub first: String,
    pub middle: Vec<String>,
    pub last: String,
}

impl Wildcard {
    fn matches(&self, text: &str) -> bool {
        let inner = text.strip_prefix(&*self.first).and_then(|rest| rest.strip_suffix(&*self.last));
        let Some(mut rest) = inner else { return false };
        self.middle.iter().all(|part| match rest.split_once(&**part) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    }
}

/// Addresses that begin with the same bits.
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// `None` where `bits` are more than the address has, or the address has bits behind them.
    pub fn new(address: IpAddr, bits: u32) -> Option<Self> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let network = Self { address, bits };
        (bits <= length && network.masked(address) == number(address)).then_some(network)
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == number(self.address)
    }

    fn masked(&self, address: IpAddr) -> u128 {
        let free = if address.is_ipv4() { 32_u32 } else { 128 }.saturating_sub(self.bits);
        number(address).checked_shr(free).and_then(|kept| kept.checked_shl(free)).unwrap_or(0)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}
