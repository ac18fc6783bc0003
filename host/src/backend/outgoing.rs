//! Messages on their way out.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::clock::Timestamp;
use crate::effects::Message;

/// Messages on their way out. One sender at a time.
#[async_trait]
pub trait Outgoing: Send + Sync {
    /// Messages that are due, oldest first, at most `limit`; waits until there is one.
    async fn due(&self, limit: usize) -> Result<Vec<Parcel>>;

    /// Records what became of them, in one transaction.
    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> Result<()>;
}

/// Names a message within the store.
pub type ParcelId = std::sync::Arc<str>;

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub id: ParcelId,
    /// Stable over every try: `<event id>.<n>.<consumer>`.
    pub message_id: String,
    pub message: Message,
    /// Tries before this one.
    pub attempts: u32,
    pub time: Timestamp,
}

/// No try is put off for longer.
pub const AGAIN_MAX: Duration = Duration::from_secs(1_800);

/// What became of one try at sending.
#[derive(Clone, Debug)]
pub enum Sending {
    Sent,
    Again { at: Timestamp, error: String },
    Failed { error: String },
    Unknown { error: String },
}
