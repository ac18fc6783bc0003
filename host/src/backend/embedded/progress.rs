//! Which positions of the journal a consumer is through with.
//!
//! ```text
//! positions   1 2 3 4 5 6 7 8 9 10 11
//! done        x x x x . x x . . x  .      base = 4, ahead = 6-7,10-10
//! ```
//!
//! A position counts as done when its event was handled, does not match the consumer's subscriptions, or has
//! a row of its own among the exceptions (retrying, waiting, dead). In the store this is one row per consumer:
//! the base as a number and the ranges ahead of it as text.
//!
//! **Invariant**: the ranges are disjoint, do not touch each other or the base, and lie above it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    base: u64,
    /// First → last position of each range, both included.
    ahead: BTreeMap<u64, u64>,
}

impl Progress {
    /// Through with everything up to and including `base`.
    pub fn up_to(base: u64) -> Self {
        Self { base, ahead: BTreeMap::new() }
    }

    /// # Errors
    /// What the text of the ranges lacks.
    pub fn restore(base: u64, ahead: &str) -> Result<Self, NotRanges> {
        let mut progress = Self::up_to(base);
        for range in ahead.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').ok_or_else(|| NotRanges(ahead.to_owned()))?;
            let number = |text: &str| u64::from_str(text).map_err(|_| NotRanges(ahead.to_owned()));
            progress.add(number(first)?, number(last)?);
        }
        Ok(progress)
    }

    /// Everything up to and including this position is done.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The last position that is done.
    pub fn newest(&self) -> u64 {
        self.ahead.last_key_value().map_or(self.base, |(_, last)| *last)
    }

    pub fn contains(&self, position: u64) -> bool {
        position <= self.base || self.ahead.range(..=position).next_back().is_some_and(|(_, last)| position <= *last)
    }

    /// Adds `first..=last`.
    pub fn add(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first.max(self.base + 1), last);
        if first > last {
            return;
        }
        // Swallow every range that touches this one.
        while let Some((&start, &end)) = self.ahead.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.ahead.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        if first == self.base + 1 {
            self.base = last;
        } else {
            self.ahead.insert(first, last);
        }
    }

    /// The ranges that lie behind `position`, or what of them does.
    pub fn ranges_after(&self, position: u64) -> impl Iterator<Item = (u64, u64)> {
        let behind = self.ahead.iter().filter(move |(_, last)| **last > position);
        behind.map(move |(first, last)| (*first.max(&(position + 1)), *last))
    }

    /// The first positions in a row that `other` is through with and this is not.
    pub fn first_missing_of(&self, other: &Self) -> Option<(u64, u64)> {
        let ranges = std::iter::once((1, other.base)).chain(other.ahead.iter().map(|(first, last)| (*first, *last)));
        ranges.filter_map(|(first, last)| self.gap(first, last)).next()
    }

    /// The first part of `first..=last` that is not done.
    fn gap(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let mut first = first.max(self.base + 1);
        if let Some((_, end)) = self.ahead.range(..=first).next_back() {
            // Ranges do not touch: what follows one is not done.
            first = first.max(end + 1);
        }
        let next = self.ahead.range(first..).next().map_or(last, |(start, _)| last.min(start - 1));
        (first <= last).then_some((first, next))
    }

    /// The ranges ahead of the base, as the store keeps them.
    pub fn ahead(&self) -> Ahead<'_> {
        Ahead(self)
    }
}

/// Writes `6-7,10-10`.
pub struct Ahead<'a>(&'a Progress);

impl fmt::Display for Ahead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.ahead.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{first}-{last}")?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} are not ranges such as 6-7,10-10")]
pub struct NotRanges(String);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Progress;

    proptest! {
        #[test]
        fn it_is_a_set_of_positions(base in 0_u64..20, ranges in prop::collection::vec((1_u64..60, 0_u64..8), 0..40)) {
            let mut progress = Progress::up_to(base);
            let mut model: BTreeSet<u64> = (1..=base).collect();
            for (first, length) in ranges {
                progress.add(first, first + length);
                model.extend(first..=first + length);
                for position in 1..80 {
                    prop_assert_eq!(progress.contains(position), model.contains(&position));
                }
                let restored = Progress::restore(progress.base(), &progress.ahead().to_string()).unwrap();
                prop_assert_eq!(&restored, &progress);
                let first_gap = (1..).find(|position| !model.contains(position)).unwrap();
                prop_assert_eq!(progress.base(), first_gap - 1);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_missing_is_found_piece_by_piece(
            base in 0_u64..20, other_base in 0_u64..20,
            ranges in prop::collection::vec((1_u64..60, 0_u64..8), 0..12),
            other in prop::collection::vec((1_u64..60, 0_u64..8), 0..12),
        ) {
            let of = |base, ranges: Vec<(u64, u64)>| {
                let mut progress = Progress::up_to(base);
                ranges.into_iter().for_each(|(first, length)| progress.add(first, first + length));
                progress
            };
            let (mut ours, theirs) = (of(base, ranges), of(other_base, other));
            let before = ours.clone();
            while let Some((first, last)) = ours.first_missing_of(&theirs) {
                prop_assert!((first..=last).all(|it| theirs.contains(it) && !before.contains(it)));
                prop_assert!((1..first).all(|it| !theirs.contains(it) || ours.contains(it)), "the first comes first");
                ours.add(first, last);
            }
            prop_assert!((1..80).all(|it| ours.contains(it) == (before.contains(it) || theirs.contains(it))));
        }
    }

    #[test]
    fn ranges_are_written_as_people_write_them() {
        let mut progress = Progress::up_to(4);
        progress.add(6, 7);
        progress.add(10, 10);
        assert_eq!(progress.ahead().to_string(), "6-7,10-10");
        progress.add(5, 5);
        assert_eq!((progress.base(), progress.ahead().to_string()), (7, "10-10".to_owned()));
    }

    #[test]
    fn text_that_is_no_ranges_is_refused() {
        for text in ["6", "6-", "x-y"] {
            assert!(Progress::restore(0, text).is_err(), "{text}");
        }
    }
}
