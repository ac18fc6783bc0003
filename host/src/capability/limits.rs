//! How much one handling may ask of the host. Exceeding any of these traps the guest with words that name it.

use super::Stop;

/// A key is an index entry in every backend; DynamoDB's sort keys end here too.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Entries are read and written whole.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Everything staged becomes one transaction.
pub const STAGED_BYTES_MAX: usize = 16 << 20;
pub const ENTRIES_MAX: usize = 10_000;
pub const ADJUSTMENTS_MAX: usize = 10_000;
pub const ORDER_CHANGES_MAX: usize = 1_000;
pub const EVENTS_MAX: usize = 1_000;
pub const MESSAGES_MAX: usize = 100;
pub const RECORDS_MAX: usize = 10_000;
/// What was read is kept until the commit has checked it.
pub const READS_MAX: usize = 20_000;
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
#[derive(Debug, Default)]
pub struct Budget {
    staged_bytes: usize,
    reads: usize,
    read_bytes: usize,
}

impl Budget {
    pub fn stage(&mut self, bytes: usize) -> Result<(), Stop> {
        self.staged_bytes = self.staged_bytes.saturating_add(bytes);
        within("bytes staged for one event", self.staged_bytes, STAGED_BYTES_MAX)
    }

    pub fn read(&mut self, bytes: usize) -> Result<(), Stop> {
        self.reads = self.reads.saturating_add(1);
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        within("reads for one event", self.reads, READS_MAX)?;
        within("bytes read for one event", self.read_bytes, READ_BYTES_MAX)
    }
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
