//! Positions in the journal: unique over all hosts, in the order of time.
//!
//! ```text
//! 53 bits, so that every JSON reader keeps them whole:
//!   40  milliseconds since 2024-01-01 (34 years)
//!    7  slot of the host that wrote the event
//!    6  counter
//! ```
//!
//! A host's own positions only rise, and one that it gives an event is above that of the event before it in its lane,
//! whatever the clocks of other hosts say.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::event::Position;

/// 2024-01-01T00:00:00Z.
const EPOCH_MS: u64 = 1_704_067_200_000;
const COUNTER_BITS: u32 = 6;
const SLOT_BITS: u32 = 7;
/// Hosts at once.
pub const SLOTS: u64 = 1 << SLOT_BITS;

/// Makes positions for one host.
#[derive(Debug)]
pub struct Positions {
    slot: AtomicU64,
    /// Milliseconds and counter of the last one.
    last: AtomicU64,
}

impl Positions {
    pub fn new(slot: u64) -> Self {
        Self { slot: AtomicU64::new(slot % SLOTS), last: AtomicU64::new(0) }
    }

    /// The next position, above `after`.
    pub fn next(&self, now: Timestamp, after: u64) -> Position {
        // Within a millisecond, another host's counter says nothing beside its slot.
        let slot = self.slot();
        let behind = if slot_of(after) == slot { ticks_of(after) + 1 } else { ticks_of(after) + (1 << COUNTER_BITS) };
        let floor = ticks(now).max(if after == 0 { 0 } else { behind });
        let before = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(floor.max(last + 1)));
        let ticks = floor.max(before.unwrap_or_default() + 1);
        Position::new(position(ticks, slot)).unwrap_or(Position::FIRST)
    }

    /// From now on the host has another slot, and its positions are above `above`, which another host of that slot drew.
    pub fn move_to(&self, slot: u64, above: u64) {
        self.last.fetch_max(ticks_of(above), Ordering::Relaxed);
        self.slot.store(slot % SLOTS, Ordering::Relaxed);
    }

    fn slot(&self) -> u64 {
        self.slot.load(Ordering::Relaxed)
    }
}

impl Positions {
    /// No position that this host draws from now on is at or below this one, even where its clock is set back.
    pub fn newest(&self, now: Timestamp) -> u64 {
        let before = ticks(now).saturating_sub(1);
        let last = self.last.fetch_max(before, Ordering::Relaxed);
        position(last.max(before), self.slot())
    }
}

fn position(ticks: u64, slot: u64) -> u64 {
    let (millis, counter) = (ticks >> COUNTER_BITS, ticks & ((1 << COUNTER_BITS) - 1));
    (millis << SLOT_BITS | slot) << COUNTER_BITS | counter
}

/// The lowest position of an event that is recorded at `time` or later.
pub fn first_at(time: Timestamp) -> u64 {
    (time.as_millis().saturating_sub(EPOCH_MS)) << (SLOT_BITS + COUNTER_BITS)
}

/// When the event at `position` was recorded, by the clock of its host.
pub fn time_of(position: u64) -> Timestamp {
    Timestamp::from_millis((position >> (SLOT_BITS + COUNTER_BITS)) + EPOCH_MS)
}

/// Which host gave it.
pub fn slot_of(position: u64) -> u64 {
    position >> COUNTER_BITS & (SLOTS - 1)
}

/// Milliseconds and counter, without the slot.
fn ticks_of(position: u64) -> u64 {
    position >> (SLOT_BITS + COUNTER_BITS) << COUNTER_BITS | position & ((1 << COUNTER_BITS) - 1)
}

fn ticks(now: Timestamp) -> u64 {
    now.as_millis().saturating_sub(EPOCH_MS) << COUNTER_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn positions_rise_and_are_the_hosts_own(
            slots in prop::collection::vec(0..SLOTS, 2..4),
            steps in prop::collection::vec((0..4_usize, 0..3_u64, any::<bool>()), 1..300),
        ) {
            let hosts: Vec<Positions> = slots.iter().map(|slot| Positions::new(*slot)).collect();
            let (mut millis, mut lane, mut all) = (1_800_000_000_000, 0, Vec::new());
            for (host, passes, follows) in steps {
                millis += passes;
                let Some(host) = hosts.get(host) else { continue };
                let position = host.next(Timestamp::from_millis(millis), if follows { lane } else { 0 }).get();
                prop_assert!(!follows || position > lane);
                prop_assert_eq!(slot_of(position), host.slot());
                prop_assert!(position < 1 << 53);
                prop_assert!(time_of(position) >= Timestamp::from_millis(millis));
                lane = lane.max(position);
                all.push((host.slot(), position));
            }
            for slot in slots {
                let own: Vec<u64> = all.iter().filter(|(of, _)| *of == slot).map(|(_, position)| *position).collect();
                prop_assert!(hosts.iter().filter(|host| host.slot() == slot).count() > 1 || own.is_sorted_by(|a, b| a < b));
            }
        }
    }

    #[test]
    fn whoever_takes_a_slot_over_goes_on_above_what_was_drawn_there() {
        let now = Timestamp::from_millis(1_800_000_000_123);
        let (ahead, behind) = (Positions::new(5), Positions::new(9));
        let last = ahead.next(now.plus(std::time::Duration::from_millis(7)), 0).get();
        behind.move_to(5, last);
        let next = behind.next(now, 0).get();
        assert!(next > last && slot_of(next) == 5, "its clock is 7 ms behind");
    }

    #[test]
    fn nothing_is_drawn_below_what_was_called_the_newest_though_the_clock_is_set_back() {
        let (positions, now) = (Positions::new(5), Timestamp::from_millis(1_800_000_000_123));
        let newest = positions.newest(now);
        let next = positions.next(now.minus(std::time::Duration::from_secs(3_600)), 0).get();
        assert!(next > newest, "others look for what this host wrote from there on");
    }

    #[test]
    fn a_time_and_its_first_position_go_together() {
        let time = Timestamp::from_millis(1_800_000_000_123);
        assert_eq!(time_of(first_at(time)), time);
        let position = Positions::new(5).next(time, 0).get();
        assert!(position >= first_at(time) && position < first_at(time.plus(std::time::Duration::from_millis(1))));
    }
}
