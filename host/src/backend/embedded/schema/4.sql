-- Format 4.

-- Layouts of state ------------------------------------------------------------------------------------------------------

-- The `state-version` of the versions whose state it is, and why that of the layout before is not kept. NULL where no version
-- is known to have run, and where the layout never changed or its state is kept.
ALTER TABLE consumers ADD COLUMN layout      INTEGER;
ALTER TABLE consumers ADD COLUMN former_gone TEXT;
UPDATE consumers SET layout = (
    SELECT h.state_version FROM version_history AS h
    WHERE h.consumer = consumers.name AND h.state_version IS NOT NULL
    AND h.hash = (SELECT s.live FROM version_history AS s
                  WHERE s.consumer = consumers.name AND s.outcome <> 'refused' ORDER BY s.number DESC LIMIT 1)
    ORDER BY h.number DESC LIMIT 1);

-- A generation may also be `copying`, from the state in use, and then `kept` with the positions that its consumer was through
-- with; a way back fills it from there.
ALTER TABLE generations ADD COLUMN layout   INTEGER;
ALTER TABLE generations ADD COLUMN version  TEXT;     -- SHA-256 of the version that ran on it last
ALTER TABLE generations ADD COLUMN position INTEGER;
ALTER TABLE generations ADD COLUMN ahead    TEXT;
ALTER TABLE generations ADD COLUMN since    INTEGER;  -- ms since the epoch

-- Of a way back, what its end makes live, as JSON.
ALTER TABLE backfills ADD COLUMN way_back TEXT;
