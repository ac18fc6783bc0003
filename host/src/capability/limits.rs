//! How much one handling may ask of the host. Exceeding any of these traps the guest with words that name it. What an
//! operator may set stands in [`Limits`]; what other limits follow from (a mail's form, a queue's size) is fixed here.

use super::Stop;
use crate::policy::Limits;

/// A key is an index entry in every backend; DynamoDB's sort keys end here too.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Entries are read and written whole.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// What was read is kept until the commit has checked it.
pub const READ_BYTES_MAX: usize = 32 << 20;
/// Events travel through queues that take 256 KiB a message.
pub const EVENT_DATA_BYTES_MAX: usize = 192 << 10;
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Subjects become lanes.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// Reasons and tracking texts are shown to customers.
pub const REASON_BYTES_MAX: usize = 4 << 10;
/// RFC 5321 allows 254 bytes; a display name may stand before.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// RFC 5322, 2.1.1.
pub const MAIL_SUBJECT_BYTES_MAX: usize = 998;
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// An SMS is at most ten parts of 153 characters.
pub const SMS_BYTES_MAX: usize = 1_600;

/// Counts what one handling took of each limit.
#[derive(Debug)]
pub struct Budget {
    pub limits: Limits,
    pub staged_bytes: usize,
    pub reads: usize,
    read_bytes: usize,
    pub call_bytes: usize,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, staged_bytes: 0, reads: 0, read_bytes: 0, call_bytes: 0 }
    }

    /// What the guest handed over in one call, which the sandbox has bounded.
    pub fn called(&mut self, bytes: usize) {
        self.call_bytes = self.call_bytes.max(bytes);
    }

    pub fn stage(&mut self, bytes: usize) -> Result<(), Stop> {
        self.staged_bytes = self.staged_bytes.saturating_add(bytes);
        settable("effects", "bytes staged for one event", self.staged_bytes, self.limits.effects_bytes)
    }

    pub fn read(&mut self, bytes: usize) -> Result<(), Stop> {
        self.reads = self.reads.saturating_add(1);
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        settable("reads", "reads for one event", self.reads, self.limits.reads)?;
        within("bytes read for one event", self.read_bytes, READ_BYTES_MAX)
    }
}

/// As [`within`], of a limit that an operator may set as `key`.
pub fn settable(key: &str, what: &str, taken: usize, max: usize) -> Result<(), Stop> {
    if taken <= max {
        return Ok(());
    }
    Err(Stop::limit(format!(
        "{taken} {what}: the limit is {max}; raise limits.{key} in the side file if the plugin needs it"
    )))
}

/// Stops the guest if `taken` of something is more than `max`.
pub fn within(what: &str, taken: usize, max: usize) -> Result<(), Stop> {
    if taken <= max { Ok(()) } else { Err(Stop::limit(format!("{taken} {what}: the limit is {max}"))) }
}

/// Stops the guest if `key` is no key.
pub fn check_key(key: &str) -> Result<(), Stop> {
    if key.is_empty() {
        return Err(Stop::bad_argument("an empty key; a key has 1 to 1024 bytes".to_owned()));
    }
    within("bytes of key", key.len(), KEY_BYTES_MAX)
}
