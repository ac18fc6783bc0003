//! Lanes whose head may run now, in the order in which they became so: those of live events, and beside them those of a
//! backfill, which would otherwise wait behind every live event of a consumer that is busy.

use std::collections::VecDeque;

use super::Item;
use crate::event::Lane;

/// One lease in so many goes to a backfill, if it has one to make: it runs behind live events, and comes to its end.
const BACKFILL_TURN_EVERY: u8 = 4;

#[derive(Default)]
pub struct Ready {
    live: VecDeque<Lane>,
    backfill: VecDeque<Lane>,
    turn: u8,
}

impl Ready {
    /// `head` is the lane's first item, which says among which it stands.
    pub fn push_back(&mut self, lane: Lane, head: &Item) {
        self.of(head).push_back(lane);
    }

    pub fn push_front(&mut self, lane: Lane, head: &Item) {
        self.of(head).push_front(lane);
    }

    /// Takes back the lane that was pushed last with a head of this kind.
    pub fn pop_back(&mut self, head: &Item) {
        self.of(head).pop_back();
    }

    pub fn next(&mut self) -> Option<Lane> {
        self.turn = (self.turn + 1) % BACKFILL_TURN_EVERY;
        if self.turn == 0 {
            self.backfill.pop_front().or_else(|| self.live.pop_front())
        } else {
            self.live.pop_front().or_else(|| self.backfill.pop_front())
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&Lane) -> bool) {
        self.live.retain(&keep);
        self.backfill.retain(&keep);
    }

    fn of(&mut self, head: &Item) -> &mut VecDeque<Lane> {
        if head.backfill.is_some() { &mut self.backfill } else { &mut self.live }
    }
}
