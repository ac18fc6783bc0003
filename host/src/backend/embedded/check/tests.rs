use std::path::Path;

use rusqlite::Connection;

use super::{RULES, check_directory};
use crate::backend::Finding;
use crate::backend::embedded::{FILE, schema};

/// A directory with a store of several orders, consumers, dead letters and messages, brought up to today's format.
fn healthy() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    Connection::open(&file).unwrap().execute_batch(include_str!("../schema/fixtures/1.sql")).unwrap();
    schema::open_writer(&file).unwrap().execute_batch(VERSIONS).unwrap();
    directory
}

/// `loyalty` came as a…, b… was refused once and then tried, promoted, and rolled back; a row before all of it aged out.
const VERSIONS: &str = "
    CREATE TEMP TABLE h AS SELECT printf('%.*c', 64, 'a') AS a, printf('%.*c', 64, 'b') AS b, printf('%.*c', 64, 'c') AS c;
    INSERT INTO version_history (number, consumer, time, outcome, hash, path, live)
        SELECT 12, 'loyalty', 1, 'live', a, 'loyalty.wasm', a FROM h UNION ALL
        SELECT 13, 'loyalty', 2, 'refused', b, 'loyalty.wasm', a FROM h UNION ALL
        SELECT 14, 'loyalty', 3, 'refused', NULL, 'loyalty.wasm', a FROM h UNION ALL
        SELECT 15, 'loyalty', 4, 'canary', b, 'loyalty.wasm', a FROM h UNION ALL
        SELECT 16, 'loyalty', 5, 'promoted', b, 'loyalty.wasm', b FROM h UNION ALL
        SELECT 17, 'loyalty', 6, 'rolled-back', b, 'loyalty.wasm', a FROM h UNION ALL
        SELECT 18, 'never-ran', 7, 'refused', c, 'never-ran.wasm', NULL FROM h;
    INSERT INTO kept_versions SELECT 'loyalty', a, 17 FROM h UNION ALL SELECT 'loyalty', b, 16 FROM h
        UNION ALL SELECT 'loyalty', c, 3 FROM h;";

fn findings(directory: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_directory(directory, |step| findings.extend(step.findings)).unwrap();
    findings
}

#[test]
fn a_store_that_is_well_has_no_findings_and_every_rule_is_looked_at() {
    let directory = healthy();
    let mut rows = std::collections::BTreeMap::new();
    check_directory(directory.path(), |step| {
        assert_eq!(step.findings, []);
        *rows.entry(step.rule).or_insert(0) += step.rows;
    })
    .unwrap();
    assert_eq!(rows.len(), RULES.len());
    let (orders, events, deliveries, keys) =
        (rows["orders"], rows["events"], rows["deliveries"], rows["idempotency keys"]);
    assert_eq!((orders, events, deliveries, keys), (4, 15, 8, 4));
}

/// What breaks a store, and what is found then.
const BROKEN: [(&str, &str, &str); 46] = [
    ("DELETE FROM events WHERE position = 5", "events", "event 6: the event before it is missing"),
    ("UPDATE events SET order_number = 77 WHERE position = 3", "events", "event 3: its order is missing"),
    ("UPDATE events SET data = '{' WHERE position = 3", "events", "event 3: its data is no JSON"),
    ("UPDATE orders SET revision = 9 WHERE number = 1", "orders", "its revision is 9, that of its last change 3"),
    (
        "UPDATE orders SET status = 'delivered' WHERE number = 1",
        "orders",
        "it is delivered, and its last change is order.shipped",
    ),
    (
        "DELETE FROM events WHERE order_number = 4 AND revision = 2",
        "orders",
        "a change between its revisions 1 and 4 is missing",
    ),
    (
        "DELETE FROM events WHERE order_number = 4 AND revision = 1",
        "orders",
        "its changes before revision 2 are missing",
    ),
    ("DELETE FROM events WHERE order_number = 4", "orders", "it has no event, and none that left the journal"),
    ("UPDATE orders SET content = '{' WHERE number = 2", "orders", "its content is no JSON"),
    ("INSERT INTO idle_orders VALUES (99, 1)", "idle orders", "order number 99: it is to age out, and is missing"),
    (
        "UPDATE consumers SET position = 999 WHERE name = 'loyalty'",
        "consumers",
        "consumer loyalty: it is at position 999, and the newest event is 15",
    ),
    (
        "UPDATE consumers SET ahead = 'x' WHERE name = 'loyalty'",
        "consumers",
        "consumer loyalty: what is done ahead of its position cannot be read",
    ),
    (
        "UPDATE deliveries SET consumer = 99 WHERE position = 3 AND state = 'dead'",
        "deliveries",
        "delivery of event 3 to 99: its consumer is not known",
    ),
    (
        "UPDATE deliveries SET position = 99 WHERE position = 3 AND state = 'dead'",
        "deliveries",
        "delivery of event 99 to always-reject: its event is missing",
    ),
    (
        "UPDATE deliveries SET lane = 'order:x' WHERE position = 3 AND state = 'dead'",
        "deliveries",
        "it is in the lane order:x, which is not its event's",
    ),
    ("UPDATE deliveries SET due = NULL WHERE state = 'retrying'", "deliveries", "it is to be retried, and never due"),
    ("UPDATE deliveries SET state = 'lost' WHERE state = 'dead'", "deliveries", "its state lost is not known"),
    ("UPDATE attempts SET consumer = 99", "attempts", "its consumer 99 is not known"),
    ("UPDATE attempts SET position = 99", "attempts", "its event is missing"),
    ("UPDATE messages SET state = 'lost'", "messages", "its state lost is not known"),
    ("UPDATE records SET consumer = 99 WHERE number = 1", "records", "its consumer 99 is not known"),
    ("UPDATE counters SET state = 99 WHERE key = 'stock/TEA'", "state", "state 99: no consumer has it"),
    (
        "UPDATE idempotency SET order_number = 99 WHERE key = 'S-1'",
        "idempotency keys",
        "idempotency key S-1: its order is missing",
    ),
    (
        "INSERT INTO backfills (consumer, state, rate, effects, first, last, position, events, started_at)
         VALUES (1, 'running', 1, 'all', 1, 99, 0, 1, 1)",
        "backfills",
        "backfill 1: it ends after the newest event",
    ),
    (
        "INSERT INTO backfills (consumer, state, rate, effects, first, last, position, events, started_at, generation)
         VALUES (1, 'running', 1, 'state-only', 1, 9, 0, 1, 1, 99)",
        "backfills",
        "backfill 1: what it fills is missing",
    ),
    ("INSERT INTO generations (state, consumer, standing) VALUES (99, 1, 'lost')", "generations", "generation 99: its standing lost is not known"),
    ("INSERT INTO generations (state, consumer, standing) VALUES (99, 1, 'filling')", "generations", "generation 99: no rebuild fills it"),
    (
        "INSERT INTO generations (state, consumer, standing) VALUES (99, 77, 'copying')",
        "generations",
        "generation 99: its consumer 77 is not known",
    ),
    (
        "INSERT INTO generations (state, consumer, standing) VALUES (99, 1, 'kept')",
        "generations",
        "generation 99: it does not say of which layout it is",
    ),
    (
        "INSERT INTO generations (state, consumer, standing, layout, position, ahead) VALUES (99, 1, 'kept', 1, 999, '')",
        "generations",
        "generation 99: it is ahead of the newest event",
    ),
    (
        "INSERT INTO generations (state, consumer, standing, layout, position, ahead)
         VALUES (98, 1, 'kept', 1, 1, ''), (99, 1, 'kept', 1, 1, '')",
        "generations",
        "generation 98: another one of its consumer is kept, too",
    ),
    (
        "INSERT INTO generations (state, consumer, standing) SELECT state, number, 'past' FROM consumers WHERE name = 'loyalty'",
        "generations",
        "it is past, and a consumer has it",
    ),
    (
        "INSERT INTO backfills (consumer, state, rate, effects, first, last, position, events, started_at, generation)
         VALUES (1, 'running', 1, 'state-only', 1, 9, 0, 1, 1, 99);
         INSERT INTO generations (state, consumer, standing) VALUES (99, 1, 'filling'); INSERT INTO deferred VALUES (99, 999, 0);",
        "deferred deliveries",
        "deferred event 999 of generation 99: its event is missing",
    ),
    (
        "INSERT INTO backfills (consumer, state, rate, effects, first, last, position, events, started_at, generation)
         VALUES (1, 'running', 1, 'state-only', 1, 9, 0, 1, 1, 99);
         INSERT INTO generations (state, consumer, standing) VALUES (99, 77, 'filling'); INSERT INTO deferred VALUES (99, 2, 0);",
        "deferred deliveries",
        "deferred event 2 of generation 99: its delivery is over, and its rebuild does not know",
    ),
    (
        "INSERT INTO runs VALUES (1, 'live', 3, 99, '1', 1, 1, 1, 1, 1)",
        "runs",
        "run 3-99 (live): it ends after the newest event",
    ),
    (
        "UPDATE version_history SET outcome = 'lost' WHERE number = 13",
        "version history",
        "row 13 of the versions of loyalty: its outcome lost is not known",
    ),
    (
        "UPDATE version_history SET live = NULL WHERE number = 17",
        "version history",
        "row 17 of the versions of loyalty: it does not say which version is live",
    ),
    ("UPDATE version_history SET hash = 'AB' WHERE number = 13", "version history", "a version in it is no SHA-256"),
    (
        "UPDATE version_history SET live = hash, hash = live WHERE number = 15;
         UPDATE version_history SET hash = replace(hash, 'b', 'a') WHERE number = 16",
        "version history",
        "row 16 of the versions of loyalty: its file came live, and another version is",
    ),
    (
        "UPDATE version_history SET live = hash WHERE number = 17",
        "version history",
        "row 17 of the versions of loyalty: the file beside or behind the live version is that version",
    ),
    (
        "UPDATE version_history SET number = 99 WHERE number = 13;
         UPDATE version_history SET live = replace(live, 'a', 'b') WHERE number = 99",
        "version history",
        "row 99 of the versions of loyalty: it left live what was live before, and names another version",
    ),
    (
        "UPDATE version_history SET number = number + 100 WHERE number = 15;
         UPDATE version_history SET number = 15 WHERE number = 16; UPDATE version_history SET number = 16 WHERE number = 115",
        "version history",
        "row 16 of the versions of loyalty: it left live what was live before, and names another version",
    ),
    (
        "DELETE FROM kept_versions WHERE number = 17",
        "version history",
        "row 17 of the versions of loyalty: the version that is live is not kept",
    ),
    (
        "UPDATE kept_versions SET consumer = 'nobody' WHERE number = 3",
        "kept versions",
        "of nobody: its consumer has no history",
    ),
    ("UPDATE kept_versions SET number = 99 WHERE number = 3", "kept versions", "row 99 of the history does not speak of it"),
    ("UPDATE kept_versions SET number = 13 WHERE number = 16", "kept versions", "row 13 of the history does not speak of it"),
];

#[test]
fn each_rule_finds_what_breaks_it() {
    for (sql, rule, said) in BROKEN {
        let directory = healthy();
        Connection::open(directory.path().join(FILE)).unwrap().execute_batch(sql).unwrap();
        let findings = findings(directory.path());
        let told = |finding: &Finding| format!("{}: {}", finding.place, finding.fault);
        assert!(
            findings.iter().any(|finding| finding.rule == rule && told(finding).contains(said)),
            "{sql}: no {rule}: {said} in {findings:#?}"
        );
    }
}

#[test]
fn a_page_that_is_not_what_it_was_is_found_and_the_rest_is_looked_at_all_the_same() {
    let directory = healthy();
    let file = directory.path().join(FILE);
    let root: u64 = {
        let store = Connection::open(&file).unwrap();
        store
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE); UPDATE orders SET revision = 9 WHERE number = 1;")
            .unwrap();
        store.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        store.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'", [], |row| row.get(0)).unwrap()
    };
    let mut bytes = std::fs::read(&file).unwrap();
    let page = usize::try_from((root - 1) * 4096).unwrap();
    bytes[page..page + 4096].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let findings = findings(directory.path());
    let rules: std::collections::BTreeSet<_> = findings.iter().map(|finding| finding.rule).collect();
    assert!(rules.contains("pages") && rules.contains("orders"), "{findings:#?}");
}
