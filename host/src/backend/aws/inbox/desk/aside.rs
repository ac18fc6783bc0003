//! A host that handles nothing of the consumer, while others may: it has none of its messages.

use super::{Desk, Receipt};
use crate::backend::BackPolicy;
use crate::backend::aws::due::Due;

impl Desk {
    pub fn is_open(&self) -> bool {
        !self.paused && self.is_here()
    }

    /// Whether its events are handled on this host, unless it is paused.
    pub fn is_here(&self) -> bool {
        self.concurrency() > 0 && !self.is_aside()
    }

    /// Whether they are handled by another layout of its state than that of the version here.
    pub fn is_aside(&self) -> bool {
        self.is_configured() && self.laid.is_some_and(|laid| !laid.lets(self.layout()))
    }

    /// Whether what is heard here counts: others say it where this host stands aside, or never handled anything.
    pub fn says_what_is_heard(&self) -> bool {
        self.is_configured() && !self.is_aside()
    }

    pub fn layout(&self) -> Option<u32> {
        self.policy.as_ref().and_then(|policy| policy.layout)
    }

    /// The version that a way back leads to, if it is here.
    pub fn back(&self) -> Option<&BackPolicy> {
        self.policy.as_ref().and_then(|policy| policy.back.as_ref())
    }

    /// Forgets what does not run, where nothing of it is handled here: the messages, and what stands in the table for lanes.
    pub fn give_up(&mut self) -> (Vec<Receipt>, Vec<Due>) {
        let (mut receipts, mut dues) = (Vec::new(), Vec::new());
        if !self.is_configured() || self.is_here() {
            return (receipts, dues);
        }
        self.lanes.retain(|_, lane| {
            let stays = lane.running.is_some() || lane.looking;
            if !stays {
                receipts.extend(lane.receipts().cloned());
                dues.extend(lane.due.take());
            }
            stays
        });
        (receipts, dues)
    }
}
