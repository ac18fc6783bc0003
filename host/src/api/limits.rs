//! Every bound of the HTTP interface, with its reason. All of them are per request unless they say otherwise.

use std::time::Duration;

/// Room for 500 full lines. More is not an order but an import.
pub const ORDER_BYTES_MAX: usize = 256 << 10;

/// Bodies of operations such as cancel or retry: one reason or one id.
pub const COMMAND_BYTES_MAX: usize = 16 << 10;

/// Data of one custom event: like an order, so that no event is larger than another.
pub const EVENT_DATA_BYTES_MAX: usize = 256 << 10;

/// Data and the attributes around it, in structured mode.
pub const EVENT_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX + (16 << 10);

/// One batch is one transaction.
pub const BATCH_EVENTS_MAX: usize = 100;

/// Bounds the memory that one batch takes; a hundred events of the usual kilobyte are far below.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// How deep the arrays and objects of an event's data may nest: half of what JSON readers commonly stand.
pub const DATA_DEPTH_MAX: usize = 64;

/// Bodies and answers of more than this are large. As many smaller ones as there may be connections are 256 MiB.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Large bodies at once, over all connections: 256 MiB of the largest, and what they are read into.
pub const LARGE_BODIES_MAX: usize = 64;

/// Large answers at once, over all connections, made or on their way to clients that take their time.
pub const LARGE_ANSWERS_MAX: usize = 64;

/// How long a large body or answer waits for its turn.
pub const TURN_TIME_MAX: Duration = Duration::from_secs(5);

/// While others wait for their turn, whoever takes nothing of a large answer for so long loses it, and whoever has it for so long;
/// the first is less than others wait.
pub const ANSWER_STALL_MAX: Duration = Duration::from_secs(3);
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Time to send a whole body (not of an import): a client that takes longer holds a connection for nothing.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Of a body that is too large, or that nobody asks for, this much is read and thrown away, for [`DISCARD_TIME_MAX`] at most: a client
/// that only reads after it has written would see a broken connection instead of the problem.
pub const DISCARD_BYTES_MAX: usize = 32 << 20;
pub const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a commit is waited for. It is also how long a concurrent repeat of an idempotency key waits.
pub const COMMIT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a read of the store may take.
pub const READ_TIME_MAX: Duration = Duration::from_secs(10);

/// What clients are told to wait before they ask again a store that does not accept now.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// Placements of one import that wait for their commit at once: enough to fill a group commit.
pub const IMPORT_IN_FLIGHT_MAX: usize = 256;

/// How long an import may pause between two pieces of its body.
pub const IMPORT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Imports at once, per host: each may keep [`IMPORT_IN_FLIGHT_MAX`] orders of the full size in memory.
pub const IMPORTS_MAX: usize = 8;

/// Backups at once, per host: each brings another copy of the store onto its disk.
pub const BACKUPS_MAX: usize = 1;

/// Exports of records at once, per host: each holds a page of rows that its client has not taken yet.
pub const EXPORTS_MAX: usize = 16;

/// Checks at once, per host: each reads the whole store.
pub const CHECKS_MAX: usize = 1;

/// Event streams at once, per host: each polls the journal.
pub const STREAMS_MAX: usize = 64;

/// How often an event stream with nothing to tell looks again.
pub const STREAM_POLL: Duration = Duration::from_millis(200);

/// How often an event stream looks for what came to stand in front of events that it has sent, where that can be: it reads the keys
/// of what was recorded meanwhile.
pub const STREAM_LOOK_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 30_000 });

/// A comment goes out after this silence, so that proxies keep the stream open.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(15);

/// How often a stream that goes by events of other kinds says where it stands; well within [`FUNCTION_STREAM_TIME`].
pub const STREAM_PLACE_EVERY: Duration = Duration::from_secs(1);

/// Events read from the journal at once for a stream.
pub const STREAM_BATCH: usize = 256;

/// A stream sends what it has once it is more than this: so much is in memory while its client does not take it.
pub const STREAM_PIECE_BYTES: usize = 1 << 20;

/// Rows read from the store at once for an export.
pub const EXPORT_BATCH: usize = 1000;

/// Dead letters that one transaction redrives: orders wait no longer than for this.
pub const REDRIVE_BATCH: usize = 500;

/// Under a rate, letters are redriven this often.
pub const REDRIVE_PACE: Duration = Duration::from_millis(100);

/// How long one request redrives before it says how to go on: well within what clients wait for.
pub const REDRIVE_TIME_MAX: Duration = Duration::from_secs(2);

/// Causes of dead letters in one answer.
pub const CAUSES_MAX: usize = 100;

/// Page sizes: what is answered without `limit`, and what `limit` may ask for.
pub const PAGE_DEFAULT: usize = 50;
pub const PAGE_MAX: usize = 1000;

/// Events of an order in one answer about its timeline, and how many there may be: around each, all attempts are told.
pub const TIMELINE_EVENTS_DEFAULT: usize = 50;
pub const TIMELINE_EVENTS_MAX: usize = 200;

/// Longest cursor, prefix or filter in a query.
pub const QUERY_TEXT_BYTES_MAX: usize = 1024;

/// RFC draft-ietf-httpapi-idempotency-key-header leaves the length to the server.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The head of a request: several times what browsers and proxies send. It is held for every connection that is slow to send it.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// Time to send the head of a request; also how long a kept-alive connection may be idle.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a client may take nothing of what the host writes to it.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// Connections at once, per host; further ones wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 4096;

/// No more than this part of the files that the process may hold open are connections: the store, plugins and mail need some, too.
pub const CONNECTIONS_SHARE: u64 = 2;

/// After the signal to stop, how long requests in flight may take to end.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// What a function of AWS Lambda may answer is 6 MB of JSON, in which the body is a text; what goes around it has room, too.
pub const FUNCTION_ANSWER_BYTES_MAX: usize = (6 << 20) - (64 << 10);

/// How long a function sends events before it answers with what there was: clients ask for more by themselves.
pub const FUNCTION_STREAM_TIME: Duration = Duration::from_secs(10);
