//! What one delivery, or one change from outside, writes: decided already, only to be put on disk.

use std::sync::Arc;

use super::runs::Handled;
use crate::backend::{Cause, CauseKind, HttpCall, Origin};
use crate::clock::Timestamp;
use crate::effects::{Message, Record, Value};
use crate::event::{Custom, EventId};
use crate::order::{Change, Order};

/// Number of a consumer in the store.
pub type ConsumerNumber = i64;
/// Names the entries and counters of one consumer.
pub type StateNumber = i64;
/// Number of a backfill in the store.
pub type BackfillNumber = i64;
/// Number of an order in the store.
pub type OrderNumber = i64;

#[derive(Default)]
pub struct Commit {
    pub consumer: Option<ConsumerCommit>,
    pub events: Vec<NewEvent>,
}

/// The consumer's side of a commit.
pub struct ConsumerCommit {
    pub consumer: ConsumerNumber,
    pub state: StateNumber,
    /// Position of the event that was handled, if one was.
    pub position: u64,
    /// Events handled to outcome done: 1 or 0.
    pub done: u64,
    /// Ranges of positions that the consumer is through with.
    pub through: Vec<(u64, u64)>,
    pub exceptions: Vec<Exception>,
    pub attempt: Option<Attempt>,
    /// What a candidate failed before.
    pub tried: Option<Attempt>,
    /// In place of an attempt, where it was done at the first one.
    pub handled: Option<Handled>,
    /// Values as they stand after the commit.
    pub entries: Vec<(Arc<str>, Value)>,
    pub counters: Vec<(Arc<str>, i64)>,
    /// What all keys and values weigh after the commit, where that changed.
    pub bytes: Option<u64>,
    pub messages: Vec<NewMessage>,
    pub records: Vec<Record>,
    /// Nearly always none.
    pub backfills: Vec<BackfillCommit>,
}

impl ConsumerCommit {
    pub fn new(consumer: ConsumerNumber, state: StateNumber, position: u64) -> Self {
        Self {
            consumer,
            state,
            position,
            done: 0,
            through: Vec::new(),
            exceptions: Vec::new(),
            attempt: None,
            tried: None,
            handled: None,
            entries: Vec::new(),
            counters: Vec::new(),
            bytes: None,
            messages: Vec::new(),
            records: Vec::new(),
            backfills: Vec::new(),
        }
    }

    /// What this commit says of a backfill.
    pub fn backfill(&mut self, number: BackfillNumber) -> &mut BackfillCommit {
        let index = self.backfills.iter().position(|backfill| backfill.number == number).unwrap_or_else(|| {
            self.backfills.push(BackfillCommit { number, ..BackfillCommit::default() });
            self.backfills.len() - 1
        });
        #[allow(clippy::indexing_slicing, reason = "found or pushed above")]
        &mut self.backfills[index]
    }
}

/// How far a backfill has come.
#[derive(Default)]
pub struct BackfillCommit {
    pub number: BackfillNumber,
    /// Ranges of positions that it is through with.
    pub through: Vec<(u64, u64)>,
    /// Events handled to outcome done.
    pub delivered: u64,
    /// Effects that were not to be committed.
    pub dropped: u64,
}

/// What becomes of the row of a delivery that is an exception.
pub enum Exception {
    Store {
        position: u64,
        lane: String,
        standing: Standing,
        attempts: u32,
        first_at: Option<Timestamp>,
        replayed: bool,
        /// Of a dead letter.
        death: Option<Box<Death>>,
        /// The backfill that it comes from.
        backfill: Option<BackfillNumber>,
        /// The last position of its lane's history that it waits for.
        behind: Option<u64>,
    },
    /// Its lane goes on without this dead letter.
    LeaveBehind {
        position: u64,
    },
    Remove {
        position: u64,
    },
}

/// What a dead letter is found by.
pub struct Death {
    pub event: EventId,
    pub outcome: CauseKind,
    /// In general: [`cause::in_general`](crate::backend::cause::in_general).
    pub cause: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Retrying(Timestamp),
    Waiting,
    Dead,
    /// Dead, and its lane went on.
    Skipped,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retrying(_) => "retrying",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Skipped => "skipped",
        }
    }

    pub fn due(self) -> Option<Timestamp> {
        match self {
            Self::Retrying(due) => Some(due),
            Self::Waiting | Self::Dead | Self::Skipped => None,
        }
    }
}

/// One attempt worth remembering.
pub struct Attempt {
    pub position: u64,
    pub attempt: u32,
    /// `None` where it was done.
    pub cause: Option<Cause>,
    pub version: Arc<str>,
    pub duration_us: u64,
    pub time: Timestamp,
    pub origin: Origin,
    /// Of an edited copy of the event.
    pub edited: bool,
    pub calls: Vec<HttpCall>,
    /// By a version that is tried on a share of the orders.
    pub candidate: bool,
}

impl Attempt {
    /// The first one, which was done, where no run takes it.
    pub fn done_at_once(handled: &Handled, time: Timestamp) -> Self {
        let Handled { position, origin, version, duration_us } = handled;
        Self {
            position: *position,
            attempt: 1,
            cause: None,
            version: Arc::clone(version),
            duration_us: *duration_us,
            time,
            origin: *origin,
            edited: false,
            calls: Vec::new(),
            candidate: false,
        }
    }
}

pub struct NewEvent {
    pub id: EventId,
    pub time: Timestamp,
    pub cause: Option<EventId>,
    pub by: Option<Causer>,
    pub depth: u8,
    pub body: NewBody,
}

impl NewEvent {
    /// As the store marks it: 1 where it is astray, nothing where it is not.
    pub fn astray(&self) -> Option<bool> {
        self.by.filter(|by| by.astray).map(|_| true)
    }
}

/// The consumer that caused an event.
#[derive(Clone, Copy, Debug)]
pub struct Causer {
    pub consumer: ConsumerNumber,
    /// The event is not about the order that its cause is about.
    pub astray: bool,
}

pub enum NewBody {
    /// The order as it stands after the change.
    OrderChanged {
        number: OrderNumber,
        order: Order,
        change: Change,
    },
    Custom(Custom),
}

pub struct NewMessage {
    pub message_id: String,
    pub time: Timestamp,
    pub message: Message,
}
