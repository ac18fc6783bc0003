use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::{MIGRATIONS, migrate, open_writer};
use crate::backend::embedded::check::check_directory;
use crate::backend::embedded::{FILE, OpenError, Settings, open};
use crate::backend::{
    Backend, BackfillState, CauseKey, CauseKind, Former, LetterQuery, LetterShown, OrderQuery, Placed, Placement,
    StateQuery, Which,
};
use crate::clock::Timestamp;
use crate::order::{Content, Customer, Line, Order};

/// A store of every format, as text: what `.dump` of the sqlite3 shell wrote of a file that the program left, and of that file as
/// each migration made it, with rows in what the migration added.
const FIXTURES: [(usize, &str); 4] = [
    (1, include_str!("fixtures/1.sql")),
    (2, include_str!("fixtures/2.sql")),
    (3, include_str!("fixtures/3.sql")),
    (4, include_str!("fixtures/4.sql")),
];

/// Every row of every table that the file has, by table.
fn rows(file: &Path, tables: &[String]) -> BTreeMap<String, Vec<String>> {
    let connection = Connection::open(file).unwrap();
    let read = |table: &String| {
        // Columns that a later format added are not looked at.
        let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let columns = statement.column_count();
        let row =
            |row: &rusqlite::Row<'_>| (0..columns).map(|index| row.get::<_, rusqlite::types::Value>(index)).collect();
        let rows = statement.query_map([], row).unwrap();
        let rows: Vec<Vec<_>> = rows.map(Result::unwrap).collect();
        (table.clone(), rows.iter().map(|row| format!("{row:?}")).collect())
    };
    tables.iter().map(read).collect()
}

fn tables(file: &Path) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A data directory with the store of the fixture.
fn stored(fixture: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    Connection::open(directory.path().join(FILE)).unwrap().execute_batch(fixture).unwrap();
    directory
}

fn opened(directory: &Path) -> Backend {
    open(&Settings { data_dir: directory.to_owned() }).unwrap()
}

#[tokio::test]
async fn every_released_format_opens_with_all_that_it_held_and_goes_on() {
    for (format, fixture) in FIXTURES {
        let directory = stored(fixture);
        let file = directory.path().join(FILE);
        let tables = tables(&file);
        let before = rows(&file, &tables);
        drop(open_writer(&file).unwrap());
        for (table, rows) in rows(&file, &tables) {
            let kept: Vec<_> =
                rows.iter().zip(&before[&table]).map(|(now, before)| starts_with_row(now, before)).collect();
            assert_eq!((rows.len(), kept.contains(&false)), (before[&table].len(), false), "format {format}: {table}");
        }
        check_directory(directory.path(), |checked| assert_eq!(checked.findings, [], "format {format}")).unwrap();
        let backend = opened(directory.path());
        if format >= 2 {
            assert_what_format_2_added(&backend).await;
        }
        if format >= 3 {
            let calls = first_letter(&backend).await.attempts.remove(0).calls;
            assert_eq!((calls.len(), calls[0].status), (1, Some(503)));
        }
        if format >= 4 {
            assert_what_format_4_added(&backend).await;
        }

        let orders = backend.journal.orders(OrderQuery { limit: 10, ..OrderQuery::default() }).await.unwrap().items;
        let statuses: Vec<_> = orders.iter().map(|order| (order.status.as_str(), order.revision)).collect();
        assert_eq!(statuses, [("delivered", 4), ("rejected", 2), ("shipped", 3), ("shipped", 3)], "format {format}");
        let known = backend.consumers.known().await.unwrap();
        let known: Vec<_> = known.iter().map(|it| (it.name.as_str(), it.dead, it.done)).collect();
        let expected = [
            ("always-reject", 4, 0),
            ("always-retry", 0, 0),
            ("analytics", 0, 12),
            ("inventory", 0, 7),
            ("loyalty", 0, 3),
        ];
        assert_eq!(known[..5], expected, "format {format}");
        let stock = StateQuery { prefix: "stock/".into(), after: None, limit: 10 };
        let stock = backend.consumers.state(&"inventory".parse().unwrap(), stock).await.unwrap();
        assert_eq!(stock.counters, [("stock/MUG".to_owned(), 1), ("stock/TEA".to_owned(), 4)]);
        let reject = "always-reject".parse().unwrap();
        let query = LetterQuery { limit: 10, ..LetterQuery::default() };
        let letters = backend.dead_letters.list(&reject, query).await.unwrap().items;
        assert_eq!(letters.len(), 4);
        assert!(letters.iter().all(|letter| letter.cause.contains("told to reject")), "{letters:#?}");
        let causes = backend.dead_letters.causes(&reject, 10).await.unwrap();
        assert!(matches!(&causes[..], [it] if it.count == 4 && it.outcome == CauseKind::Reject), "{causes:#?}");
        let cause = Which::Cause(CauseKey { outcome: None, text: causes[0].cause.clone() });
        assert_eq!(backend.dead_letters.retry(&reject, cause.first(10)).await.unwrap().into_inner().count, 4);

        let head = backend.journal.events_after(None, 100).await.unwrap().last().unwrap().position;
        let placed = backend.intake.place(order("S-5")).await.unwrap().into_inner();
        assert!(matches!(placed, Placed::New(_)), "{placed:?}");
        let again = backend.intake.place(order("S-1")).await.unwrap().into_inner();
        assert!(matches!(again, Placed::ReferenceTaken { .. }), "a reference still stands for its order: {again:?}");
        let next = backend.journal.events_after(Some(head), 100).await.unwrap();
        assert_eq!(next.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [head.get() + 1]);
        backend.lifecycle.close().await;
    }
}

#[test]
fn a_store_of_an_older_format_that_is_checked_stays_as_it_is() {
    for (format, fixture) in FIXTURES {
        let directory = stored(fixture);
        let file = directory.path().join(FILE);
        let (tables_before, before) = (tables(&file), rows(&file, &tables(&file)));
        let mut looked = 0;
        check_directory(directory.path(), |checked| {
            looked += checked.rows;
            assert_eq!(checked.findings, [], "format {format}");
        })
        .unwrap();
        assert!(looked > 0);
        assert_eq!((tables(&file), rows(&file, &tables(&file))), (tables_before, before), "format {format}");
        let store = Connection::open(&file).unwrap();
        let now: usize = store.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(now, format);
    }
}

#[test]
fn every_format_has_a_fixture() {
    assert_eq!(FIXTURES.map(|(format, _)| format).to_vec(), (1..=MIGRATIONS.len()).collect::<Vec<_>>());
}

async fn first_letter(backend: &Backend) -> LetterShown {
    let reject = "always-reject".parse().unwrap();
    let query = LetterQuery { limit: 1, ..LetterQuery::default() };
    let first = backend.dead_letters.list(&reject, query).await.unwrap().items.remove(0);
    backend.dead_letters.show(&reject, first.event_id).await.unwrap().unwrap()
}

async fn assert_what_format_2_added(backend: &Backend) {
    let letter = first_letter(backend).await;
    assert!(letter.edited.is_some() && letter.attempts[0].effects.is_some(), "{letter:#?}");
    assert_eq!(letter.attempts[0].log[0].text, "about to reject");

    let inventory = "inventory".parse().unwrap();
    let history = backend.versions.history(&inventory, 10).await.unwrap();
    let outcomes: Vec<_> = history.iter().map(|entry| entry.turn.outcome.as_str()).collect();
    assert_eq!(outcomes, ["rolled-back", "canary", "refused", "live"]);
    let standing = backend.versions.standing(&inventory).await.unwrap().unwrap();
    assert_eq!(standing.live, history[3].turn.file.hash);
    assert_eq!(backend.versions.kept().await.unwrap().len(), 2);

    let rebuild = backend.backfills.latest(&"always-retry".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(rebuild.state, BackfillState::Paused);
    let known = backend.consumers.known().await.unwrap();
    let shipment = known.iter().find(|report| report.name.as_str() == "shipment").unwrap();
    assert!(shipment.paused.as_ref().is_some_and(|pause| pause.reason.as_deref() == Some("stocktaking")));
}

async fn assert_what_format_4_added(backend: &Backend) {
    let former = async |name: &str| backend.layouts.former(&name.parse().unwrap()).await.unwrap();
    let Some(Former::Kept(kept)) = former("inventory").await else { panic!("it is kept") };
    assert_eq!((kept.layout, kept.bytes, kept.hash.unwrap().short().as_str()), (2, 196, "bbbbbbbb"));
    assert!(matches!(former("loyalty").await, Some(Former::Gone { reason }) if reason.contains("392 bytes")));
    assert_eq!(former("analytics").await, None);
}

/// Whether the row still begins with what it held, whatever columns were added behind.
fn starts_with_row(now: &str, before: &str) -> bool {
    now.starts_with(before.trim_end_matches(']'))
}

fn order(reference: &str) -> Placement {
    let content = Content {
        reference: Some(reference.to_owned()),
        currency: "EUR".into(),
        customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
        lines: vec![Line { sku: "A".into(), title: None, quantity: 1, unit_amount: 100, discount_amount: 0 }],
        total_amount: 100,
        shipping_address: None,
        metadata: BTreeMap::default(),
    };
    let order = Order::place(content.into(), Timestamp::now());
    Placement { order, fingerprint: [7; 32], idempotency_key: None }
}

#[test]
fn a_migration_that_breaks_off_leaves_the_file_as_it_was() {
    let directory = stored(FIXTURES[0].1);
    let file = directory.path().join(FILE);
    let before = rows(&file, &tables(&file));
    let broken = [MIGRATIONS[0], "CREATE TABLE half (a); DELETE FROM orders; INSERT INTO nowhere VALUES (1);"];
    let error = migrate(&mut Connection::open(&file).unwrap(), &broken).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_eq!(rows(&file, &tables(&file)), before, "nothing of it is there");
    let seen: i64 = Connection::open(&file).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let directory = stored("CREATE TABLE later (a); PRAGMA user_version = 999;");
    let refused = open(&Settings { data_dir: directory.path().to_owned() }).err().unwrap();
    assert!(matches!(refused, OpenError::Database { .. }));
    assert!(refused.to_string().contains("format 999") && refused.to_string().contains("newer fanfare"), "{refused}");
    assert_eq!(tables(&directory.path().join(FILE)), ["later"]);
}

#[test]
fn a_file_of_another_program_is_refused_and_left_alone() {
    let directory = stored("CREATE TABLE diary (day TEXT);");
    let refused = open(&Settings { data_dir: directory.path().to_owned() }).err().unwrap();
    assert!(refused.to_string().contains("another program"), "{refused}");
    assert_eq!(tables(&directory.path().join(FILE)), ["diary"]);
}

#[test]
fn a_write_ahead_log_without_its_store_is_not_thrown_away() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join(format!("{FILE}-wal"));
    std::fs::write(&log, "frames").unwrap();
    let refused = open(&Settings { data_dir: directory.path().to_owned() }).err().unwrap();
    assert!(matches!(refused, OpenError::LogAlone { .. }), "{refused}");
    assert_eq!(std::fs::read(&log).unwrap(), b"frames");
    assert!(!directory.path().join(FILE).exists());
}
