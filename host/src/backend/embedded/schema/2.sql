-- Format 2.

-- Exceptions and the timeline -------------------------------------------------------------------------------------------

-- What an attempt that did not end done leaves for people to look at.
ALTER TABLE attempts ADD COLUMN effects TEXT;                          -- JSON: what it staged; nothing of it took effect
ALTER TABLE attempts ADD COLUMN log     TEXT;                          -- JSON: its last log lines
ALTER TABLE attempts ADD COLUMN origin  TEXT NOT NULL DEFAULT 'live';  -- live, backfill, replay
ALTER TABLE attempts ADD COLUMN edited  INTEGER NOT NULL DEFAULT 0;    -- of an edited copy of the event

-- Why deliveries died, without what differs from letter to letter: dead letters are grouped by it.
CREATE TABLE causes (
    number  INTEGER PRIMARY KEY,
    outcome TEXT NOT NULL,                   -- retry, reject, trap, timeout
    text    TEXT NOT NULL,
    UNIQUE (outcome, text)
);

-- Of dead letters alone.
ALTER TABLE deliveries ADD COLUMN cause    INTEGER;
ALTER TABLE deliveries ADD COLUMN event_id TEXT;
ALTER TABLE deliveries ADD COLUMN died_at  INTEGER;

-- Dead letters of format 1 are grouped by their very words.
INSERT OR IGNORE INTO causes (outcome, text)
    SELECT a.outcome, coalesce(a.cause, '') FROM deliveries AS d
    JOIN attempts AS a ON a.number = (SELECT max(number) FROM attempts WHERE consumer = d.consumer AND position = d.position)
    WHERE d.state IN ('dead', 'skipped');
UPDATE deliveries SET (cause, died_at) = (
        SELECT c.number, a.time FROM attempts AS a JOIN causes AS c ON c.outcome = a.outcome AND c.text = coalesce(a.cause, '')
        WHERE a.consumer = deliveries.consumer AND a.position = deliveries.position ORDER BY a.number DESC LIMIT 1),
    event_id = (SELECT id FROM events WHERE events.position = deliveries.position)
    WHERE state IN ('dead', 'skipped');

CREATE INDEX dead_letters ON deliveries (consumer, cause, position, died_at) WHERE state IN ('dead', 'skipped');
CREATE INDEX dead_letters_by_event ON deliveries (consumer, event_id) WHERE state IN ('dead', 'skipped');

-- What a person did with a dead letter, but for retrying it as it was.
CREATE TABLE interventions (
    consumer INTEGER NOT NULL,
    position INTEGER NOT NULL,
    what     TEXT    NOT NULL,               -- edited, discarded
    data     TEXT,                           -- JSON, of the copy that is delivered in place of the event: the data of a
                                             -- custom event, or the content of the order
    time     INTEGER NOT NULL,
    PRIMARY KEY (consumer, position, what)
) WITHOUT ROWID;
CREATE INDEX edited_copies ON interventions (consumer, position) WHERE what = 'edited';

-- Deliveries done at the first attempt: many in a row by one version are one row. A position done at the first attempt has
-- a row among the attempts, or lies in exactly one run of its consumer and origin.
CREATE TABLE runs (
    consumer     INTEGER NOT NULL,
    origin       TEXT    NOT NULL,           -- live, backfill
    first        INTEGER NOT NULL,           -- positions
    last         INTEGER NOT NULL,
    version      TEXT    NOT NULL,
    count        INTEGER NOT NULL,
    duration_sum INTEGER NOT NULL,           -- µs
    duration_max INTEGER NOT NULL,
    began        INTEGER NOT NULL,           -- when the first of them was done, and the last
    ended        INTEGER NOT NULL,
    PRIMARY KEY (consumer, origin, first)
) WITHOUT ROWID;

-- Which consumer an event was caused by, and whether it left the order of the event that caused it: only then it is not
-- found through that order.
ALTER TABLE events ADD COLUMN consumer INTEGER;
ALTER TABLE events ADD COLUMN astray   INTEGER;
UPDATE events SET astray = 1 WHERE cause IS NOT NULL AND order_number IS NULL;
CREATE INDEX events_by_cause ON events (cause) WHERE astray = 1;
CREATE INDEX messages_by_event ON messages (position);
CREATE INDEX records_by_event ON records (position);

-- Pause -----------------------------------------------------------------------------------------------------------------

-- When and why a person paused the consumer; no time where it is not paused.
ALTER TABLE consumers ADD COLUMN paused_at    INTEGER;
ALTER TABLE consumers ADD COLUMN pause_reason TEXT;

-- Versions ----------------------------------------------------------------------------------------------------------------

-- What became of each plugin file. By the consumer's name: a file may be refused before its consumer has ever run.
CREATE TABLE version_history (
    number        INTEGER PRIMARY KEY,
    consumer      TEXT    NOT NULL,
    time          INTEGER NOT NULL,
    outcome       TEXT    NOT NULL,          -- live, refused, canary, promoted, rolled-back
    reason        TEXT,
    hash          TEXT,                      -- SHA-256 of the file in the directory; NULL where it could not be read
    version       TEXT,                      -- what the plugin calls itself; NULL where it could not be loaded
    state_version INTEGER,
    path          TEXT    NOT NULL,
    owner         TEXT,
    live          TEXT                       -- SHA-256 of the version that handles events from then on
);
CREATE INDEX version_history_by_consumer ON version_history (consumer, number);
CREATE INDEX version_standings ON version_history (consumer, number) WHERE outcome <> 'refused';

-- Attempts by a version that was tried on a share of the orders.
ALTER TABLE attempts ADD COLUMN candidate INTEGER NOT NULL DEFAULT 0;

-- Versions whose files are kept, and the row of the history that last spoke of each.
CREATE TABLE kept_versions (
    consumer TEXT    NOT NULL,
    hash     TEXT    NOT NULL,
    number   INTEGER NOT NULL,
    PRIMARY KEY (consumer, hash)
) WITHOUT ROWID;
CREATE INDEX kept_versions_by_hash ON kept_versions (hash);

-- Sizes -----------------------------------------------------------------------------------------------------------------

-- Bytes of all keys and values of a state; a counter's value counts for 8.
CREATE TABLE state_sizes (
    state INTEGER PRIMARY KEY,
    bytes INTEGER NOT NULL
);
INSERT INTO state_sizes (state, bytes)
    SELECT c.state,
           (SELECT coalesce(sum(octet_length(key) + octet_length(value)), 0) FROM entries WHERE entries.state = c.state) +
           (SELECT coalesce(sum(octet_length(key) + 8), 0) FROM counters WHERE counters.state = c.state)
    FROM consumers AS c GROUP BY c.state;

-- Retention ---------------------------------------------------------------------------------------------------------------

-- Orders whose events have all left the journal, and when the last of them was recorded.
CREATE TABLE idle_orders (
    number INTEGER PRIMARY KEY,
    since  INTEGER NOT NULL                  -- ms since the epoch
);

-- Consumers that were forgotten. Their numbers are given to no other, and their rows go piece by piece until `cleared`.
CREATE TABLE forgotten (
    number  INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL,
    state   INTEGER NOT NULL,
    cleared INTEGER NOT NULL DEFAULT 0
);

-- When a row was recorded; of those of format 1 it is not known, so they count from today.
ALTER TABLE records ADD COLUMN time INTEGER NOT NULL DEFAULT 0;
UPDATE records SET time = CAST(unixepoch('subsec') * 1000 AS INTEGER);

-- Cost of growth ----------------------------------------------------------------------------------------------------------

-- How many events of each kind a block of 4,096 positions of the journal has; block 0 is positions 1 to 4096. Blocks that
-- are full have theirs, but for the newest until the next event is recorded.
CREATE TABLE journal_kinds (
    block  INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (block, kind)
) WITHOUT ROWID;
INSERT INTO journal_kinds (block, kind, events)
    SELECT (position - 1) / 4096, kind, count(*) FROM events
    WHERE (position - 1) / 4096 < (SELECT (max(position) - 1) / 4096 FROM events) GROUP BY 1, 2;

-- Backfills ------------------------------------------------------------------------------------------------------------

-- One that runs or is paused is about the positions `first` to `last`, and is through with those up to
-- `position` and with the ranges `ahead` of it; journal and orders behind `position` are needed until it ends.
CREATE TABLE backfills (
    number     INTEGER PRIMARY KEY,
    consumer   INTEGER NOT NULL,
    state      TEXT    NOT NULL,             -- running, paused, done, cancelled
    since      INTEGER,                      -- as asked for, ms since the epoch; NULL is the beginning
    filter     TEXT,                         -- JSON
    rate       INTEGER NOT NULL,             -- deliveries per second
    effects    TEXT    NOT NULL,             -- all, state-only
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    ahead      TEXT    NOT NULL DEFAULT '',  -- 6-7,10-10
    events     INTEGER NOT NULL,             -- to deliver, as counted at the start
    delivered  INTEGER NOT NULL DEFAULT 0,   -- handled to outcome done
    dropped    INTEGER NOT NULL DEFAULT 0,   -- effects that were not to be committed
    started_at INTEGER NOT NULL,
    ended_at   INTEGER
);
CREATE UNIQUE INDEX backfills_under_way ON backfills (consumer) WHERE state IN ('running', 'paused');

-- Where a consumer began: what is before was never offered to it, unless by a backfill. Of a consumer of format 1 that
-- is not known, so it counts as offered everything.
ALTER TABLE consumers ADD COLUMN began INTEGER NOT NULL DEFAULT 0;

ALTER TABLE deliveries ADD COLUMN backfill INTEGER;  -- the backfill that it comes from; NULL is live
ALTER TABLE deliveries ADD COLUMN behind INTEGER;    -- of a live event: waits until the backfill is past this position

-- The lane of an event that is in no order's history: its order's id as given, or else its subject.
CREATE INDEX events_by_lane ON events (coalesce(order_id, subject)) WHERE order_number IS NULL;

-- Rebuilds -------------------------------------------------------------------------------------------------------------

-- States that no consumer has: one is filled by a rebuild that is under way, or past, and goes piece by piece until it is
-- cleared. A number is given once.
CREATE TABLE generations (
    state    INTEGER PRIMARY KEY,            -- names its entries and counters
    consumer INTEGER NOT NULL,
    standing TEXT    NOT NULL                -- filling, past, cleared
);

-- Of a rebuild: the state that it fills, how many events the consumer had done when it began, and what failed last.
-- `last` is where the consumer was then, and where it was in the end.
ALTER TABLE backfills ADD COLUMN generation  INTEGER;
ALTER TABLE backfills ADD COLUMN done_before INTEGER;
ALTER TABLE backfills ADD COLUMN failure     TEXT;     -- JSON

-- Positions that a rebuild passed by because their delivery was an exception. Once that is `over` (done or discarded), the
-- rebuild looks at it again.
CREATE TABLE deferred (
    state    INTEGER NOT NULL,               -- what the rebuild fills
    position INTEGER NOT NULL,
    over     INTEGER NOT NULL,
    PRIMARY KEY (state, position)
) WITHOUT ROWID;
CREATE INDEX deferred_over ON deferred (state, position) WHERE over = 1;
