//! Points at which the host can be made to die, as SIGKILL would: before and after each step that makes something durable.
//!
//! `FANFARE_FAULT=batch.committed:17` ends the process when it passes that point for the 17th time. The points are part of
//! every build, so that what tests crash is what people run. Nothing sets them off but that variable, which is read once, at
//! the start, and told in the log; unarmed, a point is one load of a byte that nobody writes.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The variable that arms one point.
pub const VARIABLE: &str = "FANFARE_FAULT";

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// Where the host may die; the tests reach every one of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Point { $($(#[$doc])* $point,)* }

        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point),*];

            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name),* }
            }
        }
    };
}

points! {
    /// The file is open and has today's tables; nothing runs yet.
    StoreOpened = "store.opened",
    /// A migration's statements are done, its transaction is open.
    MigrationWritten = "migration.written",
    MigrationCommitted = "migration.committed",

    /// An order was decided on and is not in the queue.
    OrderDecided = "order.decided",
    /// An order is durable and its 201 was not sent.
    OrderDurable = "order.durable",

    BatchTaken = "batch.taken",
    BatchBegun = "batch.begun",
    BatchPlaced = "batch.placed",
    BatchPublished = "batch.published",
    /// A delivery's commit, or an order change of the API, is written.
    BatchHandled = "batch.handled",
    /// A task (a consumer attached, a letter redriven, a message settled) is written.
    BatchTasked = "batch.tasked",
    BatchFlushed = "batch.flushed",
    BatchCommitted = "batch.committed",
    BatchSettled = "batch.settled",
    BatchAnswered = "batch.answered",
    /// A batch failed and was rolled back.
    BatchRefused = "batch.refused",
    /// After a failed batch, memory is what is durable again.
    BatchReloaded = "batch.reloaded",

    LogFolding = "log.folding",
    LogFolded = "log.folded",
    /// The committer is about to fold in the rest.
    LogFinishing = "log.finishing",
    LogFinished = "log.finished",
    CloseDrained = "close.drained",
    CloseTruncated = "close.truncated",

    DeliveryLeased = "delivery.leased",
    /// The guest has returned; nothing is decided.
    DeliveryHandled = "delivery.handled",
    /// What was read holds; the commit is not in the queue.
    FinishDecided = "finish.decided",
    FinishPushed = "finish.pushed",
    /// Dead letters are durably retried or discarded; their lanes do not know.
    LettersRedriven = "letters.redriven",

    /// A backfill is durable, and its consumer's lanes do not know.
    BackfillStarted = "backfill.started",
    /// A backfill is durably paused, resumed or cancelled; the lanes do not know.
    BackfillSteered = "backfill.steered",
    /// How far a batch brings a backfill is written.
    BackfillProgressed = "backfill.progressed",

    /// A rebuild's look at past events is written.
    RebuildLooked = "rebuild.looked",
    /// An event that a rebuild handled is written.
    RebuildHandled = "rebuild.handled",
    /// A rebuild is written down as done, and the consumer still has its old state.
    RebuildEnded = "rebuild.ended",
    /// The consumer has its new state, in a transaction that is open.
    RebuildSwapped = "rebuild.swapped",
    /// The new state is durable, and handlers do not know.
    RebuildHandedOver = "rebuild.handed-over",

    /// A piece of a state that is to be kept is copied.
    LayoutCopied = "layout.copied",
    /// What is an exception and in no state that is kept is noted, and it is not kept yet.
    LayoutNoted = "layout.noted",
    /// A state is kept, and its consumer's of another layout from now on, in a transaction that is open.
    LayoutWritten = "layout.written",
    /// That is durable, and no version of the new layout has handled anything.
    LayoutDurable = "layout.durable",
    /// A way back is durable, and its consumer's lanes do not know.
    ReturnBegun = "return.begun",
    /// The consumer has the state that was kept, and the history the version that runs on it, in a transaction that is open.
    ReturnWritten = "return.written",
    /// That is durable, and neither handlers nor the directory know.
    ReturnDurable = "return.durable",
    /// The exceptions of the state that was in use are noted, and it is not kept yet.
    ReturnNoted = "return.noted",

    /// A pause is durable, or that it is over, and the consumer's lanes do not know.
    PauseDurable = "pause.durable",
    /// A consumer's row is gone, in a transaction that is open.
    ForgetWritten = "forget.written",
    /// What a forgotten consumer left is gone in part.
    ForgetCleared = "forget.cleared",

    /// The oldest events are deleted, in a transaction that is open.
    RetentionTrimmed = "retention.trimmed",
    /// Old events are durably gone, and still in memory.
    RetentionLetGo = "retention.let-go",
    /// Orders are told to be gone, and are on disk.
    RetentionForgets = "retention.forgets",
    /// Some rows that had aged are durably gone.
    RetentionAged = "retention.aged",

    /// A copy of the store is complete in part.
    BackupStepped = "backup.stepped",
    /// A copy is complete, and not on disk.
    BackupCopied = "backup.copied",
    /// A copy is on disk, and nobody has fetched it.
    BackupSealed = "backup.sealed",

    /// A restored store is copied, and has no name.
    RestoreCopied = "restore.copied",
    RestoreSynced = "restore.synced",
    RestoreNamed = "restore.named",

    /// A plugin file that ran is copied and not synced; then synced and without its name; then kept.
    KeptDrafted = "kept.drafted",
    KeptSynced = "kept.synced",
    KeptNamed = "kept.named",
    /// The history says which version is live; the worker does not know.
    VersionRecorded = "version.recorded",
    VersionSwapping = "version.swapping",
    VersionSwapped = "version.swapped",
    CompiledDrafted = "compiled.drafted",
    CompiledSynced = "compiled.synced",
    CompiledKept = "compiled.kept",

    /// An event is in the table of AWS, and nobody was told.
    CloudAppended = "cloud.appended",
    /// SNS has a batch of events, and the host does not know.
    CloudPublished = "cloud.published",
    /// Messages were taken from a queue, and no lane has them.
    CloudReceived = "cloud.received",
    /// Ends of deliveries are in the table; their messages are in the queue, and nobody was told of their events.
    CloudSettled = "cloud.settled",
    /// Messages are deleted, and the host does not know.
    CloudDeleted = "cloud.deleted",

    /// An intent is in the table, and locks nothing.
    IntentOpened = "intent.opened",
    /// Part of what an intent is about is locked.
    IntentLocking = "intent.locking",
    /// All is locked, and nothing is decided.
    IntentLocked = "intent.locked",
    /// An intent is decided, and nothing of it is written.
    IntentDecided = "intent.decided",
    /// Part of an intent is written, and unlocked.
    IntentWritten = "intent.written",
    /// All of an intent is written, and it is still there.
    IntentUnlocked = "intent.unlocked",

    MessageDue = "message.due",
    /// An e-mail has no name in its folder yet.
    MailDrafted = "mail.drafted",
    MessageSent = "message.sent",
    MessageSettled = "message.settled",
}

/// One point and the passing at which it is fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub point: Point,
    pub passing: NonZeroU32,
}

const UNARMED: u8 = u8::MAX;
static ARMED: AtomicU8 = AtomicU8::new(UNARMED);
static PASSINGS_LEFT: AtomicU32 = AtomicU32::new(0);

/// Makes `fault` happen; before anything runs that passes a point.
pub fn arm(fault: Fault) {
    tracing::warn!(%fault, "this host is going to kill itself, because {VARIABLE} says so");
    PASSINGS_LEFT.store(fault.passing.get(), Ordering::Relaxed);
    ARMED.store(fault.point as u8, Ordering::Relaxed);
}

/// The host is at `point`.
#[inline]
pub fn pass(point: Point) {
    if ARMED.load(Ordering::Relaxed) == point as u8 {
        count_down();
    }
}

#[cold]
fn count_down() {
    if PASSINGS_LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        die();
    }
}

/// No destructor, no buffer, no other thread gets to do anything.
fn die() -> ! {
    #[cfg(unix)]
    if rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).is_ok() {
        loop {
            std::thread::park();
        }
    }
    std::process::abort()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point.name(), self.passing)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, passing) = text.split_once(':').unwrap_or((text, "1"));
        let point = Point::ALL.iter().copied().find(|point| point.name() == name);
        match (point, passing.parse()) {
            (Some(point), Ok(passing)) => Ok(Self { point, passing }),
            _ => Err(format!("{text:?} is no point:passing such as batch.committed:17; points are {}", names())),
        }
    }
}

fn names() -> String {
    Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_point_and_a_passing() {
        let fault: Fault = "batch.committed:17".parse().unwrap();
        assert_eq!((fault.point, fault.passing.get()), (Point::BatchCommitted, 17));
        assert_eq!("store.opened".parse::<Fault>().unwrap().passing.get(), 1);
        for wrong in ["", "batch", "batch.committed:0", "batch.committed:-1", "batch.committed:one"] {
            let told = wrong.parse::<Fault>().unwrap_err();
            assert!(told.contains("points are store.opened migration.written "), "{told}");
        }
    }

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }

    #[test]
    fn what_is_not_armed_is_passed() {
        Point::ALL.iter().for_each(|point| pass(*point));
    }
}
