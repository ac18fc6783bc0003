//! Which deliveries were done at the first attempt, by which version and how fast: many in a row are one row. Pure, but for
//! the rows.
//!
//! ```text
//! positions  …  41 42 43 44 45 46 47 48 49 …
//! runs          ├── 1.0.0 ──┤ ├── 2.0.0 ─────  (open)
//! apart                  42 (done late, by 1.0.0)
//! ```
//! A consumer has one open run per origin. What is done behind its start extends it; what falls before it gets a row of its
//! own among the attempts. So a position is found there first, and otherwise in at most one run. A backfill that begins
//! before the last one ended begins a run of its own there.
//!
//! **Invariant**: the live runs of one consumer do not overlap; the open one is the last.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::commit::ConsumerNumber;
use super::rows;
use crate::backend::Origin;
use crate::clock::Timestamp;

/// Deliveries in one run, and how long it may last: what is said of a run is said of each of them, and retention lets go of
/// whole runs.
const COUNT_MAX: u64 = 10_000;
const LASTS_MS_MAX: u64 = 60_000;

/// A delivery that was done at its first attempt.
pub struct Handled {
    pub position: u64,
    pub origin: Origin,
    pub version: Arc<str>,
    pub duration_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: u64,
    pub last: u64,
    pub version: Arc<str>,
    pub count: u64,
    pub duration_sum_us: u64,
    pub duration_max_us: u64,
    pub began: Timestamp,
    pub ended: Timestamp,
}

/// What becomes of a delivery that was done at its first attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Into the open run.
    In,
    /// The run is closed, and this one is open now.
    Begins(Run),
    /// It lies before the open run, or inside it by another version: it gets a row of its own.
    Apart,
}

impl Run {
    /// The first run of a consumer that is through with everything up to `base`.
    pub fn begin(base: u64, handled: &Handled, now: Timestamp) -> Self {
        Self {
            first: handled.position.min(base + 1),
            last: handled.position,
            version: Arc::clone(&handled.version),
            count: 1,
            duration_sum_us: handled.duration_us,
            duration_max_us: handled.duration_us,
            began: now,
            ended: now,
        }
    }

    pub fn take(&mut self, handled: &Handled, now: Timestamp) -> Taken {
        let same = self.version == handled.version;
        let full = self.count >= COUNT_MAX || now.as_millis() > self.began.as_millis() + LASTS_MS_MAX;
        if handled.position < self.first && handled.origin == Origin::Backfill {
            return Taken::Begins(Self::begin(handled.position - 1, handled, now));
        }
        if handled.position < self.first || (!same && handled.position <= self.last) {
            return Taken::Apart;
        }
        if handled.position > self.last && (!same || full) {
            return Taken::Begins(Self::begin(self.last, handled, now));
        }
        self.last = self.last.max(handled.position);
        self.count += 1;
        self.duration_sum_us = self.duration_sum_us.saturating_add(handled.duration_us);
        self.duration_max_us = self.duration_max_us.max(handled.duration_us);
        self.ended = now;
        Taken::In
    }

    pub fn write(&self, disk: &Connection, consumer: ConsumerNumber, origin: Origin) -> rusqlite::Result<()> {
        disk.prepare_cached(
            "INSERT INTO runs (consumer, origin, first, last, version, count, duration_sum, duration_max, began, ended)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (consumer, origin, first) DO UPDATE SET
                 last = excluded.last, version = excluded.version, count = excluded.count,
                 duration_sum = excluded.duration_sum, duration_max = excluded.duration_max,
                 began = excluded.began, ended = excluded.ended",
        )?
        .execute(params![
            consumer,
            origin.as_str(),
            rows::signed(self.first),
            rows::signed(self.last),
            &*self.version,
            rows::signed(self.count),
            rows::signed(self.duration_sum_us),
            rows::signed(self.duration_max_us),
            rows::millis(self.began),
            rows::millis(self.ended),
        ])?;
        Ok(())
    }

    /// From the columns `first, last, version, count, duration_sum, duration_max, began, ended`, from `index` on.
    pub fn read(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<Self> {
        let number = |at: usize| row.get(index + at).map(rows::unsigned);
        Ok(Self {
            first: number(0)?,
            last: number(1)?,
            version: row.get_ref(index + 2)?.as_str()?.into(),
            count: number(3)?,
            duration_sum_us: number(4)?,
            duration_max_us: number(5)?,
            began: rows::timestamp(row, index + 6)?,
            ended: rows::timestamp(row, index + 7)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn handled(position: u64, version: &str) -> Handled {
        Handled { position, origin: Origin::Live, version: version.into(), duration_us: position }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_thousand_in_a_row_are_one_run() {
        let mut run = Run::begin(0, &handled(1, "1"), at(0));
        for position in 2..=1_000 {
            assert_eq!(run.take(&handled(position, "1"), at(position)), Taken::In);
        }
        let whole = Run {
            first: 1,
            last: 1_000,
            version: "1".into(),
            count: 1_000,
            duration_sum_us: 500_500,
            duration_max_us: 1_000,
            began: at(0),
            ended: at(1_000),
        };
        assert_eq!(run, whole);
    }

    #[test]
    fn a_run_ends_when_it_is_long_or_old() {
        let mut old = Run::begin(0, &handled(1, "1"), at(0));
        assert_eq!(old.take(&handled(2, "1"), at(LASTS_MS_MAX)), Taken::In);
        let next = handled(5, "1");
        let begun = Run::begin(2, &next, at(LASTS_MS_MAX + 1));
        assert_eq!(old.take(&next, at(LASTS_MS_MAX + 1)), Taken::Begins(begun));

        let mut long = Run::begin(0, &handled(1, "1"), at(0));
        for position in 2..=COUNT_MAX {
            assert_eq!(long.take(&handled(position, "1"), at(0)), Taken::In);
        }
        assert!(matches!(long.take(&handled(COUNT_MAX + 1, "1"), at(0)), Taken::Begins(_)));
    }

    proptest! {
        #[test]
        fn each_position_is_apart_or_in_the_one_run_that_tells_its_version(
            base in 0_u64..20,
            steps in prop::collection::vec((1_u64..200, 0_u8..3, 0_u64..20_000), 1..150),
        ) {
            let (mut runs, mut apart, mut told): (Vec<Run>, BTreeSet<u64>, BTreeMap<u64, u8>) = Default::default();
            let mut now = 0;
            for (ahead, version, later) in steps {
                let position = base + ahead;
                // A position is done once.
                if told.contains_key(&position) {
                    continue;
                }
                told.insert(position, version);
                now += later;
                let handled = handled(position, &version.to_string());
                match runs.last_mut().map(|run| run.take(&handled, at(now))) {
                    None => runs.push(Run::begin(base, &handled, at(now))),
                    Some(Taken::In) => {}
                    Some(Taken::Begins(run)) => runs.push(run),
                    Some(Taken::Apart) => assert!(apart.insert(position)),
                }
            }
            for pair in runs.windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
            }
            for (position, version) in &told {
                let around: Vec<&Run> = runs.iter().filter(|run| (run.first..=run.last).contains(position)).collect();
                if !apart.contains(position) {
                    prop_assert_eq!(around.len(), 1);
                    prop_assert_eq!(&*around[0].version, &version.to_string());
                }
            }
            let counted: u64 = runs.iter().map(|run| run.count).sum();
            prop_assert_eq!(counted, (told.len() - apart.len()) as u64);
        }
    }
}
