use super::*;
use crate::prelude::*;
use crate::state::Adjustment;

/// Does what the event's data says, so that each test reads as one short story.
struct Scripted;

impl Consumer for Scripted {
    fn describe() -> Description {
        let columns = vec![Column::new("n", ColumnType::Int64), Column::nullable("note", ColumnType::Text)];
        Description::new("1.0.0", "Follows a script")
            .needs(Need::ChangeOrder)
            .needs(Need::publish("com.example.*"))
            .needs(Need::records("numbers", columns))
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Body::Custom(script) = event.body else {
            outbox::change_order("o-1", &Change::Confirmed)
                .map_err(|refusal| Failure::reject(format!("{refusal:?}")))?;
            return Ok(());
        };
        match script.subject.as_str() {
            "everything, then fail" => {
                state::set("entry", b"new");
                outbox::change_order("o-1", &Change::Confirmed)
                    .map_err(|refusal| Failure::reject(format!("{refusal:?}")))?;
                state::delete("old");
                state::add("counter", 5);
                outbox::publish(&Custom { kind: "com.example.done".to_owned(), ..script });
                Err(Failure::retry("not yet"))
            }
            "publish" => {
                outbox::publish(&script);
                Ok(())
            }
            "row" => {
                let row: serde_json::Value = serde_json::from_str(&script.data).unwrap_or_default();
                records::append("numbers", &row).map_err(Failure::from)
            }
            subject => Err(Failure::reject(format!("no script called {subject}"))),
        }
    }
}

#[test]
fn effects_of_a_failed_handler_are_gone() {
    let mut host = Host::<Scripted>::default();
    host.set_order(order("o-1").build());
    host.set_entry("old", b"kept");
    host.set_count("counter", 1);
    assert_eq!(host.handle(custom("com.example.x", "everything, then fail", "{}")), Err(Failure::retry("not yet")));
    assert_eq!(host.entry_keys(), ["old"]);
    assert_eq!(host.entry("old"), Some("kept"));
    assert_eq!(host.counts(), [("counter", 1)]);
    assert!(host.published().is_empty() && host.changes().is_empty());
    assert_eq!(host.order("o-1"), Some(&order("o-1").build()));
}

#[test]
fn orders_take_only_legal_steps() {
    let mut host = Host::<Scripted>::default();
    let order = order("o-1").build();
    assert_eq!(host.handle(placed(order.clone())), Ok(()));
    assert_eq!(host.order("o-1").map(|order| (&order.status, order.revision)), Some((&Status::Confirmed, 2)));
    assert_eq!(host.handle(placed(order)), Err(Failure::reject("Refusal::Illegal(Status::Confirmed)")));
    assert_eq!(host.changes().len(), 1);
}

#[test]
fn an_adjustment_is_all_or_nothing() {
    let mut world = World::default();
    world.counters.insert("a".to_owned(), 5);
    let taken = [Adjustment::take("a", 2, 0), Adjustment::take("a", 2, 0), Adjustment::take("a", 2, 0)];
    let shortage = world.adjust(&taken).err().map(|shortage| (shortage.key, shortage.available));
    assert_eq!(shortage, Some(("a".to_owned(), 1)));
    assert_eq!(world.counters.get("a"), Some(&5));
}

#[test]
fn rows_must_fit_their_columns() {
    let mut host = Host::<Scripted>::default();
    for (row, fits) in [
        (r#"{"n": 1}"#, true),
        (r#"{"n": 1, "note": "x"}"#, true),
        (r#"{"n": 1.5}"#, false),
        (r#"{"n": null}"#, false),
        (r#"{"n": 1, "other": 2}"#, false),
    ] {
        assert_eq!(host.handle(custom("com.example.x", "row", row)).is_ok(), fits, "{row}");
    }
    assert_eq!(host.rows("numbers").len(), 2);
}

#[test]
#[should_panic(expected = "org.example.x: not declared as a need")]
fn publishing_an_undeclared_kind_traps() {
    let mut host = Host::<Scripted>::default();
    let _ = host.handle(custom("org.example.x", "publish", "{}"));
}

#[test]
fn a_panic_gives_the_world_back() {
    let mut host = Host::<Scripted>::default();
    host.set_count("counter", 7);
    let run = std::panic::AssertUnwindSafe(|| host.handle(custom("org.example.x", "publish", "{}")));
    assert!(std::panic::catch_unwind(run).is_err());
    assert_eq!(host.count("counter"), 7);
}
