//! How a consumer's state is laid out, and the state from before the last change of that: kept to go back to.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{BackfillReport, Durable, Result, Turn};
use crate::clock::Timestamp;
use crate::event::Subscriptions;
use crate::policy::{ConsumerName, Rate};
use crate::version::Hash;

/// What a way back runs at: its consumer waits for it, so quicker than a backfill, and still behind live traffic.
pub const WAY_BACK_RATE: Rate = Rate { per_second: const { std::num::NonZeroU32::new(5_000).unwrap() } };

/// Why a state is not kept, or not any more.
pub(in crate::backend) const IS_FILLED: &str = "past events are being delivered to it, and nobody can say which of them are in it; \
                                                a state is kept while no backfill is under way";
pub(in crate::backend) const BROUGHT_MORE: &str =
    "a backfill or a rebuild has brought events from before the consumer began, which are not in it";
pub(in crate::backend) const AGED: &str =
    "events that it lacks have left the journal; `[retention] events` says how long they stay";

/// The same, of one that weighs more than its side file allows.
pub(in crate::backend) fn weighs(bytes: u64, bytes_max: u64) -> String {
    match bytes_max {
        0 => "`keep_state` is \"0\" in its side file".to_owned(),
        _ => format!("it weighs {bytes} bytes, and `keep_state` allows {bytes_max} in its side file"),
    }
}

/// The layouts (a plugin's `state-version`) of consumers' states.
///
/// A version of another layout takes the state over as it is, and what it was before is *kept*: a copy, with the positions
/// that the consumer was through with. A way back brings the copy up to date with the version that is to run on it, as a
/// rebuild that begins where the copy is: one event after another, its state alone, while live events go on with the state
/// in use. When nothing is left, one transaction makes the copy the consumer's state, writes down the turn that makes the
/// version live, and keeps what was in use until then in its place. So a version and a state of another layout are never in
/// use together, whatever crashes.
///
/// One state is kept for each consumer. It goes where it cannot be brought up to date any more: an event that it lacks has
/// left the journal, or a backfill or a rebuild brought events from before the consumer began.
#[async_trait]
pub trait Layouts: Send + Sync {
    /// Says that a version with this layout handles the consumer's events from now on: none is handled until this returns. Where
    /// the state is of another layout, it is kept first if it weighs at most `bytes_max`. A rebuild that is under way is of the
    /// layout before, and cancelled.
    ///
    /// Where hosts share the state, versions of one layout alone handle events, on whatever host. Who brings the `last_word`, the
    /// version that the history names last, takes over from hosts with another one; who does not, stands aside: nothing is
    /// leased there until the state is of its layout.
    async fn lay_out(
        &self,
        name: &ConsumerName,
        layout: u32,
        bytes_max: u64,
        last_word: bool,
    ) -> Result<Durable<LaidOut>>;

    /// Whether a version of this layout would stand aside, since the state is of another one by now.
    async fn is_elsewhere(&self, _name: &ConsumerName, _layout: u32) -> Result<bool> {
        Ok(false)
    }

    /// The state of the layout before; `None` where the layout never changed.
    async fn former(&self, name: &ConsumerName) -> Result<Option<Former>>;

    /// Sets out for the version that `way` makes live, whose layout is that of the state that is kept, and which `hears` this.
    async fn set_out(&self, name: &ConsumerName, way: WayBack, hears: Subscriptions) -> Result<Durable<SetOut>>;

    /// The way back that is under way. It ends like a backfill, or with the next turn of the consumer that is no refusal; then
    /// the state that it brought along is kept as far as it came.
    async fn way_back(&self, name: &ConsumerName) -> Result<Option<WayBack>>;

    /// Consumers of which another host may have set out on a way back.
    fn returning(&self) -> Vec<ConsumerName> {
        Vec::new()
    }

    /// Rung when one was handed over: no delivery of its consumer starts until its version is there.
    fn handed_over(&self) -> Arc<Notify>;
}

/// What became of a state when a version came to run on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaidOut {
    /// It is of this layout already, or was never of another one.
    AsBefore,
    Kept(KeptState),
    /// It is taken over, and what it was is not kept, for this reason.
    NotKept(String),
    /// It is of this layout, and stays so: that is the last word, and of another host.
    Elsewhere(u32),
}

/// A consumer's state of the layout before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Former {
    Kept(KeptState),
    Gone { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptState {
    #[serde(rename = "state_version")]
    pub layout: u32,
    /// The version that ran on it last, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    pub bytes: u64,
    pub since: Timestamp,
}

/// A way to the state that is kept, and to a version of its layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayBack {
    /// The row of the history that its end writes.
    pub turn: Turn,
    /// Versions that are kept then.
    pub keep: usize,
    pub layout: u32,
    pub to: Hash,
}

#[derive(Clone, Debug)]
pub enum SetOut {
    Yes(BackfillReport),
    /// A backfill or another way back is under way.
    Runs,
    /// No state of this layout is kept.
    NotKept,
}
