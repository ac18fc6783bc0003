//! What the shops sell: the order of each number, the same whenever it is sent.

use std::collections::BTreeMap;

use crate::orders::UNIT_AMOUNT;
use crate::{Value, json};

const SKUS: [&str; 4] = ["CUP", "POT", "TEA", "TIN"];
const CUSTOMERS: u64 = 7;
/// More than there ever is.
const TOO_MANY: u64 = 1_000_000_000;

/// One order that a shop places.
#[derive(Clone, Debug)]
pub struct Sold {
    pub reference: String,
    pub customer: String,
    pub email: bool,
    /// Units of each SKU.
    pub units: BTreeMap<&'static str, i64>,
    pub total_amount: i64,
}

/// What is scarce: one unit in each of its orders, none of which is cancelled, so that whatever there is gets sold.
pub const SCARCE: &str = "HOT";

/// An order of this number for one unit of [`SCARCE`], as it is sent.
#[must_use]
pub fn scarce_order(number: u64) -> (Sold, Value) {
    let (mut sold, mut body) = order(number);
    sold.units = BTreeMap::from([(SCARCE, 1)]);
    sold.total_amount = UNIT_AMOUNT;
    body["lines"] = json!([{"sku": SCARCE, "quantity": 1, "unit_amount": UNIT_AMOUNT}]);
    body["total_amount"] = json!(UNIT_AMOUNT);
    (sold, body)
}

/// The order of this number, as it is sent.
#[must_use]
pub fn order(number: u64) -> (Sold, Value) {
    let mut dice = Dice::new(number);
    let sold = Sold {
        reference: format!("K-{number}"),
        customer: format!("C-{}", dice.below(CUSTOMERS)),
        email: dice.below(6) > 0,
        units: (0..=dice.below(2)).map(|_| (dice.sku(), dice.quantity())).collect(),
        total_amount: 0,
    };
    let total_amount = sold.units.values().sum::<i64>() * UNIT_AMOUNT;
    let line = |(sku, units): (&&str, &i64)| json!({"sku": sku, "quantity": units, "unit_amount": UNIT_AMOUNT});
    let mut body = json!({
        "reference": sold.reference,
        "currency": "USD",
        "customer": {"id": sold.customer},
        "lines": sold.units.iter().map(line).collect::<Vec<_>>(),
        "total_amount": total_amount,
    });
    if sold.email {
        body["customer"]["email"] = json!(format!("{}@customers.example", sold.customer));
    }
    (Sold { total_amount, ..sold }, body)
}

/// Goods that arrive while the shops sell: some for every [`RECEIVED_EVERY`] orders.
#[must_use]
pub fn received(number: u64) -> (&'static str, i64) {
    (Dice::new(number).sku(), 40)
}

pub const RECEIVED_EVERY: u64 = 15;

/// Numbers that look random and are the same every time.
pub struct Dice(u64);

impl Dice {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to `bound`, without it. (SplitMix64.)
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn sku(&mut self) -> &'static str {
        SKUS[usize::try_from(self.below(SKUS.len() as u64)).unwrap_or_default()]
    }

    fn quantity(&mut self) -> i64 {
        let units = if self.below(20) == 0 { TOO_MANY } else { 1 + self.below(4) };
        i64::try_from(units).unwrap_or(i64::MAX)
    }
}
