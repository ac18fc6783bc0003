//! A copy of a consumer's state, on which past events are handled.

use std::sync::Arc;

use super::{Result, View};
use crate::effects::Effects;
use crate::event::Position;

/// A copy of a consumer's state that nobody runs on. What is kept in it is gone with it.
pub trait StateCopy: Send + Sync {
    /// The copy as it is now, and orders as they stood right after the event at `position`: what became of them later was not
    /// known then. Nothing of it waits for a disk.
    fn view_at(self: Arc<Self>, position: Position) -> Arc<dyn View>;

    /// Writes the entries and counters that a handler on the newest view staged; its other effects are nothing to a state.
    /// With more than `bytes_max` in it, and more than it holds, nothing is kept.
    fn keep(&self, effects: &Effects, bytes_max: u64) -> Result<Kept>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Kept {
    Yes,
    /// What all keys and values would weigh.
    Full {
        bytes: u64,
    },
}
