//! What a stream has gone by while events may still come to stand in front of it.
//!
//! Where hosts share a journal, an event has its position before it is written, and one whose write takes long appears behind
//! those who read. So a stream keeps in mind which events it went by, looks once more when nothing can come there any more,
//! and tells then what it had not. Its ids say how many these were, so that one that broke off goes on with the same ones, or
//! knows that there are others.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::event::Position;

/// Events kept in mind: what is recorded in a minute and a half at 1,400 a second. A stream with more of them waits until some
/// have settled, which those that it would read next do meanwhile.
pub const PASSED_MAX: usize = 1 << 17;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Everything that stood up to here was told.
    pub position: u64,
    pub unsettled: Option<Unsettled>,
}

/// Where it had gone by events in front of which others could come to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Up to here, nothing could.
    pub through: u64,
    /// So many stood between there and the stream's position.
    pub count: usize,
}

/// As `id` of an event: `POSITION`, or `POSITION-THROUGH-COUNT`.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        match self.unsettled {
            Some(Unsettled { through, count }) => write!(f, "-{through}-{count}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let numbers: Result<Vec<u64>, _> = text.split('-').map(str::parse).collect();
        match *numbers.map_err(|_| NotACursor)? {
            [position] => Ok(Self { position, unsettled: None }),
            [position, through, count] if through <= position => {
                let count = usize::try_from(count).map_err(|_| NotACursor)?;
                Ok(Self { position, unsettled: Some(Unsettled { through, count }) })
            }
            _ => Err(NotACursor),
        }
    }
}

#[derive(Debug)]
pub struct NotACursor;

/// **Invariant**: no event comes to stand at or below `through`, and those that were gone by behind it are all in `positions`.
#[derive(Debug)]
pub struct Passed {
    through: u64,
    last: u64,
    positions: BTreeSet<u64>,
}

impl Passed {
    /// For a stream that stands at `last`, and has gone by the events at `positions`.
    pub fn new(through: u64, last: u64, positions: impl IntoIterator<Item = Position>) -> Self {
        let positions = positions.into_iter().map(Position::get).collect();
        Self { through: through.min(last), last, positions }
    }

    /// Goes by an event that was read when no other could come to stand at or below `settled`.
    pub fn go_by(&mut self, position: u64, settled: u64) {
        if self.through >= self.last && position <= settled {
            self.through = position.max(self.through);
        } else {
            self.positions.insert(position);
        }
        self.last = position.max(self.last);
    }

    pub fn cursor(&self) -> Cursor {
        let count = self.positions.len();
        let unsettled = (count > 0).then_some(Unsettled { through: self.through, count });
        Cursor { position: self.last, unsettled }
    }

    /// Whether no more can be kept in mind.
    pub fn is_full(&self) -> bool {
        self.positions.len() >= PASSED_MAX
    }

    /// The part that has settled since, behind one position and up to and with another; `None` where that is nothing.
    pub fn settled(&self, settled: u64) -> Option<(u64, u64)> {
        let to = settled.min(self.last);
        (to > self.through).then_some((self.through, to))
    }

    /// Of the events that stand in such a part, those that were not gone by, oldest first.
    pub fn missing(&self, found: &[Position]) -> Vec<Position> {
        let mut missing: Vec<Position> =
            found.iter().copied().filter(|position| !self.positions.contains(&position.get())).collect();
        missing.sort_unstable();
        missing
    }

    /// All that stands up to and with `to` was told, and nothing comes there any more.
    pub fn settle(&mut self, to: u64) {
        self.positions = self.positions.split_off(&to.saturating_add(1));
        self.through = to;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    fn at(position: u64) -> Position {
        Position::new(position).unwrap()
    }

    #[test]
    fn an_id_reads_back_and_one_of_before_is_a_position() {
        for text in ["0", "7", "18446744073709551615", "7-3-2", "7-7-0"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in ["", "x", "-7", "7-", "7-8-1", "7-3", "7-3-2-1", "7.5", "-", "7--2"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_settled_when_it_was_read_is_not_kept_in_mind() {
        let mut passed = Passed::new(0, 0, []);
        (1..=PASSED_MAX as u64 * 2).for_each(|position| passed.go_by(position, u64::MAX));
        assert!(!passed.is_full());
        assert_eq!(passed.cursor(), Cursor { position: PASSED_MAX as u64 * 2, unsettled: None });
        assert_eq!(passed.settled(u64::MAX), None);
    }

    proptest! {
        /// Events appear in any order, though none at or below what has settled; a stream reads from its position on, looks at
        /// what has settled now and then, and breaks off at any event.
        #[test]
        fn every_event_is_told_once_or_there_is_a_gap_whatever_order_they_appear_in(
            order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(),
            lag in 1..12_u64,
            steps in prop::collection::vec((any::<bool>(), any::<bool>()), 60),
        ) {
            // An event appears at most `lag` behind any that appeared before.
            let mut order = order;
            order.sort_by_key(|position| position + order_noise(*position, lag));
            let (mut there, mut told) = (BTreeSet::new(), Vec::new());
            let (mut passed, mut gap) = (Passed::new(0, 0, []), false);
            let mut coming = order.into_iter();
            for (looks, breaks) in steps.into_iter().chain([(true, false); 2]) {
                there.extend(coming.by_ref().take(3));
                let newest = there.last().copied().unwrap_or_default();
                let settled = if coming.len() == 0 { u64::MAX } else { newest.saturating_sub(2 * lag) };
                if looks && let Some((after, to)) = passed.settled(settled) {
                    let found: Vec<_> = there.range(after + 1..=to).map(|position| at(*position)).collect();
                    for late in passed.missing(&found) {
                        passed.go_by(late.get(), 0);
                        told.push(late.get());
                    }
                    passed.settle(to);
                }
                let new: Vec<u64> = there.range(passed.last + 1..).copied().collect();
                for position in new {
                    passed.go_by(position, settled);
                    told.push(position);
                }
                if breaks {
                    let cursor: Cursor = passed.cursor().to_string().parse().unwrap();
                    let through = cursor.unsettled.map_or(cursor.position, |unsettled| unsettled.through);
                    let found: Vec<_> = there.range((Bound::Excluded(through), Bound::Included(cursor.position))).map(|position| at(*position)).collect();
                    gap |= found.len() != cursor.unsettled.map_or(0, |unsettled| unsettled.count);
                    passed = Passed::new(through, cursor.position, found);
                }
            }
            told.sort_unstable();
            prop_assert!(told.is_sorted_by(|one, next| one < next), "{told:?}");
            prop_assert!(gap || told.len() == 40, "{told:?}");
        }
    }

    /// Below `lag`.
    fn order_noise(position: u64, lag: u64) -> u64 {
        (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % lag
    }
}
