//! Reads and adjustments of one counter, as one write.

use super::Mark;
use crate::backend::aws::item::{Key, number};
use crate::backend::aws::table::{Change, Write};

/// What becomes of one counter: all adjustments of it as one, since a transaction names an item once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub seen: Option<i64>,
    pub adjusted: bool,
    pub by: i128,
    /// The value before must be at least this, so that no step goes below its floor.
    at_least: Option<i128>,
    /// The lowest and the highest sum on the way.
    low: i128,
    high: i128,
}

impl Counter {
    pub fn adjust(&mut self, by: i64, floor: Option<i64>) {
        self.adjusted = true;
        self.by += i128::from(by);
        self.low = self.low.min(self.by);
        self.high = self.high.max(self.by);
        if let Some(floor) = floor {
            let least = i128::from(floor) - self.by;
            self.at_least = Some(self.at_least.map_or(least, |other| other.max(least)));
        }
    }

    /// Both, one after the other, where nobody read either.
    #[must_use]
    pub fn then(self, other: Self) -> Self {
        let behind = |least: i128| least - self.by;
        Self {
            seen: None,
            adjusted: true,
            by: self.by + other.by,
            at_least: self.at_least.max(other.at_least.map(behind)),
            low: self.low.min(self.by + other.low),
            high: self.high.max(self.by + other.high),
        }
    }

    /// Whether it may be written together with others of the same counter.
    pub fn joins(&self) -> bool {
        self.adjusted && self.seen.is_none()
    }

    pub fn mark(&self) -> Mark {
        if self.seen.is_some() { Mark::Read } else { Mark::Floor }
    }

    /// Adjusts or checks the counter in one of the writes of a transaction.
    pub fn write(&self, key: Key) -> Write {
        let held = self.held();
        if !self.adjusted {
            return Write::Check(key, held);
        }
        let change = held.update("SET n = if_not_exists(n, :zero) + :by");
        Write::Update(key, change.value(":by", number(self.by)).value(":zero", number(0)))
    }

    /// The condition on the value before.
    fn held(&self) -> Change {
        // A counter that is not there stands at 0.
        let absent = |holds: bool| if holds { "attribute_not_exists(n) OR " } else { "attribute_exists(n) AND " };
        let (mut conditions, mut write) = (Vec::new(), Change::default());
        if let Some(seen) = self.seen {
            conditions.push(format!("{}n = :seen", absent(seen == 0)));
            write = write.value(":seen", number(seen));
        }
        if self.adjusted {
            // Within 64 bits all the way.
            let least = self.at_least.unwrap_or(i128::MIN).max(i128::from(i64::MIN) - self.low);
            if self.at_least.is_some() || self.low < 0 {
                conditions.push(format!("{}n >= :least", absent(least <= 0)));
                write = write.value(":least", number(least));
            }
            if self.high > 0 {
                let most = i128::from(i64::MAX) - self.high;
                conditions.push(format!("{}n <= :most", absent(most >= 0)));
                write = write.value(":most", number(most));
            }
        }
        let conditions = conditions.into_iter().map(|condition| Change::default().only_if(condition));
        conditions.fold(write, |write, condition| write.only_if_also(&condition)).only_if_also(&super::free())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether the condition lets a value pass, read as DynamoDB would.
    fn passes(counter: &Counter, value: Option<i64>) -> bool {
        let n = i128::from(value.unwrap_or(0));
        let seen = counter.seen.is_none_or(|seen| i128::from(seen) == n);
        let least = counter.at_least.unwrap_or(i128::MIN).max(i128::from(i64::MIN) - counter.low);
        let within = !counter.adjusted || (n >= least && n <= i128::from(i64::MAX) - counter.high.max(0));
        seen && within
    }

    proptest! {
        /// One merged write does what the adjustments would have done one by one.
        #[test]
        fn merged_adjustments_hold_where_each_would(
            start in prop::option::of(prop_oneof![-20_i64..20, Just(i64::MAX), Just(i64::MIN)]),
            steps in prop::collection::vec((-10_i64..10, prop::option::of(-10_i64..10)), 1..6),
            joined in any::<bool>(),
        ) {
            let mut counter = Counter::default();
            let (mut value, mut holds) = (start.unwrap_or(0), true);
            for (index, (by, floor)) in steps.iter().enumerate() {
                // Those of one delivery, or joined with those of another one.
                let mut next = Counter::default();
                next.adjust(*by, *floor);
                match joined && index > 0 {
                    true => counter = counter.then(next),
                    false => counter.adjust(*by, *floor),
                }
                match value.checked_add(*by) {
                    Some(sum) if floor.is_none_or(|floor| sum >= floor) => value = sum,
                    _ => holds = false,
                }
            }
            prop_assert_eq!(passes(&counter, start), holds, "{:?} {:?}", counter, start);
            if holds {
                prop_assert_eq!(i128::from(start.unwrap_or(0)) + counter.by, i128::from(value));
            }
        }
    }
}
