use std::collections::BTreeMap;

use super::*;
use crate::backend::{Kept, StateCopy as _};
use crate::effects::{Adjustment, Effects};
use crate::event::Position;

/// Order 4 of the store: placed, confirmed, shipped and delivered at these positions.
const ORDER: &str = "01a207ee-de2d-70dc-b5c3-75b38cf8502d";
const CHANGED_AT: [u64; 4] = [12, 13, 14, 15];

/// A store with 15 events, as a host of format 1 left it.
fn old() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = Connection::open(directory.path().join(FILE)).unwrap();
    store.execute_batch(include_str!("../schema/fixtures/1.sql")).unwrap();
    directory
}

/// The same, brought up to today's format, and changed by `sql`.
fn store(sql: &str) -> tempfile::TempDir {
    // A name that means something in a URI.
    let directory = tempfile::Builder::new().prefix("50%25?mode=rw#").tempdir().unwrap();
    let file = directory.path().join(FILE);
    fs::copy(old().path().join(FILE), &file).unwrap();
    schema::open_writer(&file).unwrap().execute_batch(sql).unwrap();
    directory
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn at(position: u64) -> Position {
    Position::new(position).unwrap()
}

fn resolved(past: &Past, range: &str) -> Result<(u64, u64), String> {
    past.resolve(&range.parse().unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_range_is_found_by_position_id_and_time() {
    let directory = store("");
    let past = Past::open(directory.path()).unwrap();
    for (range, expected) in [
        ("..", (1, 15)),
        ("3..9", (3, 9)),
        ("9..1000", (9, 15)),
        ("01a207ee-de09-7486-af18-3be21d024e90..01a207ee-de0c-7643-9c74-e087d10de50b", (3, 4)),
        ("01a207ee-de09-7486-af18-3be21d024e90", (3, 3)),
        // Two events of one millisecond, both included.
        ("..2026-11-23T10:23:44.652Z", (1, 5)),
        ("2026-11-23T10:23:44.652Z..2026-11-23T10:23:44.652Z", (4, 5)),
        ("2026-11-23T10:23:44.653Z..7", (6, 7)),
        ("2000-01-01T00:00:00Z..", (1, 15)),
    ] {
        assert_eq!(resolved(&past, range), Ok(expected), "{range}");
    }
    for (range, told) in [
        ("16..", "there is no position 16 yet: the journal ends with position 15"),
        ("9..3", "begins with position 9 and ends with 3"),
        ("2030-01-01T00:00:00Z..", "begins with position 16 and ends with 15"),
        (
            "01a207ee-0000-7000-8000-000000000000..",
            "there is no event 01a207ee-0000-7000-8000-000000000000: the journal has positions 1 to 15",
        ),
    ] {
        assert!(
            resolved(&past, range).is_err_and(|error| error.contains(told)),
            "{range}: {:?}",
            resolved(&past, range)
        );
    }
}

#[test]
fn what_retention_removed_is_said_and_the_rest_is_read() {
    let directory = store("DELETE FROM events WHERE position < 13");
    let past = Past::open(directory.path()).unwrap();
    assert_eq!(resolved(&past, "..14"), Ok((13, 14)));
    assert!(
        resolved(&past, "12..")
            .is_err_and(|error| error.contains("there is no position 12 any more: the journal begins with position 13"))
    );
    let told = resolved(&past, "16..").unwrap_err();
    assert!(told.ends_with("there is no position 16 yet: the journal ends with position 15"), "{told}");
    let told = resolved(&past, "01a207ee-0000-7000-8000-000000000000..").unwrap_err();
    assert!(told.ends_with("has positions 13 to 15; what is older was removed by retention"), "{told}");
    let aged = resolved(&past, "2026-11-23T10:23:44.652Z..");
    assert!(aged.is_err_and(|error| error.contains("begins with position 13") && error.contains("Begin there: 13..")));
    let read: Vec<u64> = past.events(13, 14).unwrap().iter().map(|event| event.position.get()).collect();
    assert_eq!(read, [13, 14]);
    assert!(matches!(past.events(12, 14), Err(PastError::Removed(12))));
}

#[test]
fn a_consumer_was_offered_what_came_after_it_and_what_a_backfill_was_about() {
    let backfill = "UPDATE consumers SET began = 9; DELETE FROM events WHERE position < 3;
        INSERT INTO backfills (consumer, state, rate, effects, first, last, position, events, started_at)
        VALUES (4, 'done', 1, 'all', 2, 9, 9, 5, 0), (6, 'cancelled', 1, 'all', 2, 9, 4, 5, 0)";
    let directory = store(backfill);
    let past = Past::open(directory.path()).unwrap();
    let known = |name: &str| past.consumer(&name.parse().unwrap()).unwrap().map(|known| (known.first, known.oldest));
    assert_eq!([known("loyalty"), known("inventory"), known("nobody")], [Some((2, 3)), Some((10, 3)), None]);
}

#[test]
fn an_order_is_as_it_stood_at_the_event_though_retention_removed_what_was_before() {
    let id: OrderId = ORDER.parse().unwrap();
    let stood =
        |past: &Past, position| past.order_at(id, position).unwrap().map(|order| (order.revision, order.status));
    let steps = [(1, Status::Placed), (2, Status::Confirmed), (3, Status::Shipped), (4, Status::Delivered)];
    for removed in [1, 13, 14, 15] {
        let directory = store(&format!("DELETE FROM events WHERE position < {removed}"));
        let past = Past::open(directory.path()).unwrap();
        for (position, step) in CHANGED_AT.into_iter().zip(steps).filter(|(position, _)| position + 1 >= removed) {
            assert_eq!(stood(&past, position), Some(step), "at {position}, where what is before {removed} has gone");
        }
    }
    assert_eq!(stood(&Past::open(store("").path()).unwrap(), 11), None, "it was not placed yet");
    let directory = store("DELETE FROM events WHERE order_number = 4");
    assert_eq!(stood(&Past::open(directory.path()).unwrap(), 11), Some(steps[3]), "it has left the journal");
}

#[test]
fn a_store_is_only_read_and_nothing_is_made_beside_it() {
    let directory = store("");
    // As a host leaves it.
    drop(super::super::lock(directory.path()).unwrap());
    let before = files(directory.path());
    let past = Arc::new(Past::open(directory.path()).unwrap());
    let mut copies = Copies::new(Arc::clone(&past)).unwrap();
    copies.current(&"loyalty".parse().unwrap()).unwrap().unwrap();
    past.events(1, 15).unwrap();
    assert_eq!(files(directory.path()), before);
    assert!(matches!(super::super::lock(directory.path()), Err(super::super::OpenError::InUse { .. })));
    drop((past, copies));
    assert_eq!(files(directory.path()), before);
    super::super::lock(directory.path()).unwrap();
}

#[tokio::test]
async fn what_a_host_has_not_folded_in_yet_is_read_while_it_runs() {
    let directory = store("");
    let held = super::super::lock(directory.path()).unwrap();
    let writer = schema::open_writer(&directory.path().join(FILE)).unwrap();
    writer.execute_batch("UPDATE counters SET value = 77 WHERE key = 'points/C-1'").unwrap();
    let past = Arc::new(Past::open(directory.path()).unwrap());
    let copy = Copies::new(past).unwrap().current(&"loyalty".parse().unwrap()).unwrap().unwrap();
    let count = copy.view_at(at(15)).count("points/C-1").await;
    assert_eq!(count.unwrap(), 77);
    drop((writer, held));
}

#[test]
fn what_is_no_store_or_one_of_another_format_is_said() {
    let told = |directory: &Path| Past::open(directory).err().map(|error| error.to_string()).unwrap_or_default();
    let nothing = tempfile::tempdir().unwrap();
    assert!(told(nothing.path()).contains("fanfare.sqlite: cannot be read"), "{}", told(nothing.path()));
    fs::write(nothing.path().join(FILE), "no database at all, but long enough to look like one ".repeat(20)).unwrap();
    assert!(told(nothing.path()).contains("is not a store of fanfare"), "{}", told(nothing.path()));
    assert!(told(old().path()).contains("has the format of an older fanfare"), "{}", told(old().path()));
    let newer = store("PRAGMA user_version = 99");
    assert!(told(newer.path()).contains("it has format 99"), "{}", told(newer.path()));
}

#[tokio::test]
async fn each_copy_goes_its_own_way_from_what_the_consumer_keeps() {
    let directory = store("");
    let mut copies = Copies::new(Arc::new(Past::open(directory.path()).unwrap())).unwrap();
    assert!(copies.current(&"nobody".parse().unwrap()).unwrap().is_none());
    let one = copies.current(&"loyalty".parse().unwrap()).unwrap().unwrap();
    let other = copies.copy(&one).unwrap();
    let adjust = |by| Adjustment { key: "points/C-1".into(), by, floor: None };
    let ledger = "ledger/C-1/01a207ee-de08-7272-9971-ec1c59b4dcef";
    let effects = Effects {
        entries: vec![("ledger/new".into(), Some(b"x".as_slice().into())), (ledger.into(), None)],
        adjustments: vec![adjust(5), adjust(-2)],
        ..Effects::default()
    };
    let bytes = |copy: &Arc<copies::Copy>| match copy.keep(&large(), 0).unwrap() {
        Kept::Full { bytes } => bytes - (3 + 100),
        Kept::Yes => panic!("there is no room"),
    };
    let before = bytes(&one);
    assert_eq!(one.keep(&effects, 1 << 20).unwrap(), Kept::Yes);
    let seen = async |copy: &Arc<copies::Copy>| {
        let view = Arc::clone(copy).view_at(at(15));
        let keys = view.scan("ledger/", None, 10).await.unwrap().len();
        (view.count("points/C-1").await.unwrap(), keys, view.get(ledger).await.unwrap().is_some())
    };
    assert_eq!((seen(&one).await, seen(&other).await), ((12, 3, false), (9, 3, true)));
    let value = r#"{"points":9,"currency":"EUR","total_amount":900,"reversed":false}"#;
    assert_eq!(bytes(&one) + (ledger.len() + value.len()) as u64, before + "ledger/new".len() as u64 + 1);
    assert_eq!(bytes(&other), before, "what found no room changed nothing");
    let counters = one.view_at(at(15)).scan_counts("points/", Some("points/C-1"), 1).await;
    assert_eq!(counters.unwrap(), [("points/C-2".into(), 13)]);
}

/// An entry of 103 bytes.
fn large() -> Effects {
    Effects { entries: vec![("big".into(), Some([0; 100].as_slice().into()))], ..Effects::default() }
}
