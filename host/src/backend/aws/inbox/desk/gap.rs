//! What of a lane is not in memory, though what comes behind it is: a standard queue gives messages in any order.

use super::LaneIn;

impl LaneIn {
    /// The last live event before `seq` that the lane is through with or has.
    pub fn last_before(&self, seq: u64) -> u64 {
        let live = self.queue.iter().filter(|work| work.from.is_none() && !work.stray);
        live.map(|work| work.logged.seq).filter(|other| *other < seq).fold(self.place.seq, u64::max)
    }
}
