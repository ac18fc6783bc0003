//! A share of the lanes: which orders meet a version that is tried on a few. Pure.

use std::fmt::{self, Write as _};

use super::Lane;
use crate::version::Hash;

/// A part of all lanes. Which ones is drawn by the version, so that it is not always the same orders that meet what is new;
/// a lane belongs to a share or does not, whenever and wherever that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    seed: u64,
    permille: u32,
}

impl Share {
    #[must_use]
    pub fn of(version: &Hash, permille: u32) -> Self {
        let (first, _) = version.as_bytes().split_at(8);
        Self { seed: first.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), permille }
    }

    #[must_use]
    pub fn has(&self, lane: &Lane) -> bool {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325 ^ self.seed);
        // Writing into a number cannot fail.
        let _ = write!(hash, "{lane}");
        mixed(hash.0) % 1_000 < u64::from(self.permille)
    }
}

/// FNV-1a: <http://www.isthe.com/chongo/tech/comp/fnv/>.
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// The last step of splitmix64: the lowest digits of FNV alone are not even enough.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::OrderId;

    fn lanes() -> impl Iterator<Item = Lane> {
        let subjects = (0..5_000).map(|number| Lane::Subject(format!("SKU-{number}").into()));
        (0..5_000).map(|_| Lane::Order(OrderId::generate())).chain(subjects)
    }

    #[test]
    fn a_share_has_about_its_part_of_the_lanes_and_always_the_same_ones() {
        for (permille, expected) in [(0, 0..=0), (100, 850..=1_150), (500, 4_700..=5_300), (1_000, 10_000..=10_000)] {
            let share = Share::of(&Hash::of(b"2"), permille);
            let has: Vec<Lane> = lanes().filter(|lane| share.has(lane)).collect();
            assert!(expected.contains(&has.len()), "{permille}: {}", has.len());
            assert!(has.iter().all(|lane| share.has(lane)));
        }
    }

    #[test]
    fn another_version_meets_other_orders() {
        let [one, two] = ["1", "2"].map(|version| Share::of(&Hash::of(version.as_bytes()), 100));
        let both = lanes().filter(|lane| one.has(lane) && two.has(lane)).count();
        assert!((50..=160).contains(&both), "{both} of 10,000 are in both tenths");
    }
}
