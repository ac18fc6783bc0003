-- What the shop sells. The content never changes; an event of the order names it by number.
CREATE TABLE orders (
    number      INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    reference   TEXT,
    status      TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    placed_at   INTEGER NOT NULL,            -- ms since the epoch
    customer_id TEXT    NOT NULL,
    content     TEXT    NOT NULL,            -- JSON
    fingerprint BLOB    NOT NULL             -- SHA-256 of the content
);
CREATE UNIQUE INDEX orders_by_reference ON orders (reference) WHERE reference IS NOT NULL;
CREATE INDEX orders_by_customer ON orders (customer_id, number);

-- The journal: positions without gaps.
CREATE TABLE events (
    position     INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL,
    time         INTEGER NOT NULL,           -- ms since the epoch
    kind         TEXT    NOT NULL,
    order_number INTEGER,                    -- the order it changes or names
    revision     INTEGER,                    -- of an order change: the order's revision after it
    cause        TEXT,
    depth        INTEGER NOT NULL,
    order_id     TEXT,                       -- of a custom event, as given
    source       TEXT,
    origin_id    TEXT,
    subject      TEXT,
    data         TEXT    NOT NULL            -- JSON: the change, or the custom event's data
);
CREATE INDEX events_by_order ON events (order_number) WHERE order_number IS NOT NULL;

CREATE TABLE idempotency (
    key          TEXT    PRIMARY KEY,
    fingerprint  BLOB    NOT NULL,
    order_number INTEGER NOT NULL,
    time         INTEGER NOT NULL
) WITHOUT ROWID;

-- Custom events from outside that were accepted.
CREATE TABLE origins (
    source    TEXT NOT NULL,
    origin_id TEXT NOT NULL,
    event_id  TEXT NOT NULL,
    PRIMARY KEY (source, origin_id)
) WITHOUT ROWID;

-- A consumer is through with every position up to `position`, and with the ranges `ahead` of it.
CREATE TABLE consumers (
    number   INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    position INTEGER NOT NULL,
    ahead    TEXT    NOT NULL DEFAULT '',    -- 6-7,10-10
    done     INTEGER NOT NULL DEFAULT 0,     -- events handled to outcome done
    state    INTEGER NOT NULL                -- names its entries and counters
);

-- Deliveries that are the exception: retrying, waiting behind one of their lane, or dead.
CREATE TABLE deliveries (
    consumer INTEGER NOT NULL,
    position INTEGER NOT NULL,
    lane     TEXT    NOT NULL,
    state    TEXT    NOT NULL,               -- retrying, waiting, dead, skipped (dead, and its lane went on)
    attempts INTEGER NOT NULL,
    first_at INTEGER,
    due      INTEGER,
    replayed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, position)
) WITHOUT ROWID;

-- Attempts that did not end done, and those that did after one that had not.
CREATE TABLE attempts (
    consumer  INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    number    INTEGER PRIMARY KEY,
    attempt   INTEGER NOT NULL,
    outcome   TEXT    NOT NULL,              -- done, retry, reject, trap, timeout
    cause     TEXT,
    backtrace TEXT,
    version   TEXT    NOT NULL,
    duration  INTEGER NOT NULL,              -- µs
    time      INTEGER NOT NULL
);
CREATE INDEX attempts_by_delivery ON attempts (consumer, position);

CREATE TABLE entries (
    state INTEGER NOT NULL,
    key   TEXT    NOT NULL,
    value BLOB    NOT NULL,
    PRIMARY KEY (state, key)
) WITHOUT ROWID;

CREATE TABLE counters (
    state INTEGER NOT NULL,
    key   TEXT    NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (state, key)
) WITHOUT ROWID;

CREATE TABLE messages (
    number     INTEGER PRIMARY KEY,
    message_id TEXT    NOT NULL,
    consumer   INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    state      TEXT    NOT NULL,             -- pending, sent, failed, unknown
    attempts   INTEGER NOT NULL DEFAULT 0,
    due        INTEGER NOT NULL,
    error      TEXT,
    time       INTEGER NOT NULL,
    message    TEXT    NOT NULL              -- JSON
);
CREATE INDEX messages_pending ON messages (due, number) WHERE state = 'pending';

CREATE TABLE records (
    number   INTEGER PRIMARY KEY,
    dataset  TEXT    NOT NULL,
    consumer INTEGER NOT NULL,
    position INTEGER NOT NULL,
    row      TEXT    NOT NULL                -- JSON
);
CREATE INDEX records_by_dataset ON records (dataset, number);
