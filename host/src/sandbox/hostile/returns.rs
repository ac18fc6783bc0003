//! Results that are none: the host reads what the guest returned, and believes nothing of it.

use super::{DONE, Guest, each_traps, fixture, guest, refused, tried};
use crate::policy::Limits;
use crate::sandbox::{LoadError, Outcome};

/// A rejection whose reason is `bytes` bytes at `at`.
fn rejecting(at: u32, bytes: u32) -> String {
    format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
         (i32.store (i32.const 1040) (i32.const {at})) (i32.store (i32.const 1044) (i32.const {bytes}))
         (i32.const 1024)"
    )
}

#[tokio::test]
async fn a_result_of_handle_that_is_none_is_a_trap() {
    let stores = |stores: &str| format!("{stores} (i32.const 1024)");
    let no_result = stores("(i32.store8 (i32.const 1024) (i32.const 2))");
    let no_failure = stores("(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 9))");
    let no_option = stores(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 0))
         (i32.store8 (i32.const 1040) (i32.const 7))",
    );
    let outside = rejecting(0x0100_0000, 5);
    let over_the_end = rejecting(0x0001_fff0, 0x11);
    let overflowing = rejecting(0xffff_fff0, 0x20);
    let endless = rejecting(0, u32::MAX);
    let no_text = format!("(i32.store (i32.const 96) (i32.const 0xfffefdfc)) {}", rejecting(96, 4));
    let surrogate = format!("(i32.store (i32.const 96) (i32.const 0x80a0ed)) {}", rejecting(96, 3));
    let returning = |handle| Guest { handle, ..Guest::default() };
    each_traps(&[
        ("discriminant of result", returning(&no_result), "bad-argument", "discriminant"),
        ("discriminant of failure", returning(&no_failure), "bad-argument", "discriminant"),
        ("discriminant of option", returning(&no_option), "bad-argument", "discriminant"),
        ("reason outside of memory", returning(&outside), "bad-argument", "out of bounds"),
        ("reason over the end", returning(&over_the_end), "bad-argument", "out of bounds"),
        ("reason whose end overflows", returning(&overflowing), "bad-argument", "out of bounds"),
        ("reason as long as can be", returning(&endless), "bad-argument", "out of bounds"),
        ("reason that is not UTF-8", returning(&no_text), "bad-argument", "utf-8"),
        ("reason with a surrogate", returning(&surrogate), "bad-argument", "utf-8"),
        ("misaligned", returning("(i32.const 1025)"), "bad-argument", "not aligned"),
        ("outside of memory", returning("(i32.const 0x01000000)"), "bad-argument", "out of bounds"),
        ("at the very end", returning("(i32.const 0xfffffff8)"), "bad-argument", "out of bounds"),
    ])
    .await;
}

#[tokio::test]
async fn a_delay_beyond_all_calendars_is_a_delay() {
    let for_ever = fixture::RETRY.replace("(i64.const 1500)", "(i64.const -1)");
    let handled = tried(guest(&for_ever), Limits::default()).await;
    assert!(matches!(handled.outcome, Outcome::Retry { after: Some(_), .. }), "{:?}", handled.outcome);
}

#[tokio::test]
async fn a_description_that_is_none_is_refused() {
    /// A list at 516 bytes into [`fixture::DESCRIBE`]'s record: `field` is its pointer, the length follows.
    fn listing(field: u32, at: u32, items: u32) -> String {
        let describe = fixture::DESCRIBE.trim_end().trim_end_matches("(i32.const 512)");
        format!(
            "{describe} (i32.store (i32.const {field}) (i32.const {at}))
             (i32.store (i32.const {}) (i32.const {items})) (i32.const 512)",
            field + 4
        )
    }
    const SUBSCRIPTIONS: u32 = 532;
    const NEEDS: u32 = 540;
    let need = |stores: &str| format!("{stores} {}", listing(NEEDS, 2048, 1));
    // A data set `key` with one column, whose type and whose `nullable` are given.
    let column = |of: u32, nullable: u32| {
        need(&format!(
            "(i32.store8 (i32.const 2048) (i32.const 3))
             (i32.store (i32.const 2052) (i32.const 160)) (i32.store (i32.const 2056) (i32.const 3))
             (i32.store (i32.const 2060) (i32.const 2128)) (i32.store (i32.const 2064) (i32.const 1))
             (i32.store (i32.const 2128) (i32.const 160)) (i32.store (i32.const 2132) (i32.const 3))
             (i32.store8 (i32.const 2136) (i32.const {of})) (i32.store8 (i32.const 2137) (i32.const {nullable}))"
        ))
    };
    let mut wrong = Vec::new();
    for (what, describe, word) in [
        ("subscriptions outside of memory", listing(SUBSCRIPTIONS, 0x0100_0000, 3), "out of bounds"),
        ("subscriptions misaligned", listing(SUBSCRIPTIONS, 577, 1), "not aligned"),
        ("subscriptions whose length overflows", listing(SUBSCRIPTIONS, 576, 0x1000_0001), "out of bounds"),
        ("more subscriptions than memory", listing(SUBSCRIPTIONS, 576, 100_000), "out of bounds"),
        ("an unknown need", need("(i32.store8 (i32.const 2048) (i32.const 8))"), "discriminant"),
        ("a column of no type", column(6, 0), "discriminant"),
        ("a version that is not UTF-8", fixture::describe_with_version(4100, 1), "utf-8"),
    ] {
        let describe = format!("(i32.store8 (i32.const 4100) (i32.const 0xff)) {describe}");
        let refused = refused(Guest { describe: &describe, ..Guest::default() }.build()).await;
        if !matches!(&refused, LoadError::DescribeFailed(_)) || !refused.to_string().contains(word) {
            wrong.push(format!("{what}: {refused}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // Every byte but 0 is true, by the canonical ABI.
    let odd_boolean = column(5, 0x80);
    let plugin = fixture::plugin(Guest { describe: &odd_boolean, handle: DONE, ..Guest::default() }.build()).await;
    assert!(matches!(&*plugin.description().needs, [super::super::Need::Records(set)] if set.columns[0].nullable));
}

#[tokio::test]
async fn a_huge_description_is_refused_in_few_words() {
    // Everything below `end` is the text `a`, and the field at `field` holds all of it.
    let flooding = |field: u32| {
        let describe = fixture::DESCRIBE.trim_end().trim_end_matches("(i32.const 512)");
        format!(
            "(drop (memory.grow (i32.const 64))) (memory.fill (i32.const 65536) (i32.const 97) (i32.const 4000000))
             {describe}
             (i32.store (i32.const {field}) (i32.const 65536)) (i32.store (i32.const {}) (i32.const 4000000))
             (i32.const 512)",
            field + 4
        )
    };
    for (what, field) in [("version", 512), ("summary", 524), ("kind", 576)] {
        let refused = refused(Guest { describe: &flooding(field), ..Guest::default() }.build()).await;
        assert!(matches!(refused, LoadError::BadDescription(_)), "{what}: {refused}");
        assert!(refused.to_string().len() < 5_000, "{what}: {} bytes", refused.to_string().len());
    }
    // Many of them, each a subscription to everything.
    let many = format!(
        "(drop (memory.grow (i32.const 64)))
         {} (i32.store (i32.const 532) (i32.const 65536)) (i32.store (i32.const 536) (i32.const 100000)) (i32.const 512)",
        fixture::DESCRIBE.trim_end().trim_end_matches("(i32.const 512)")
    );
    let refused = refused(Guest { describe: &many, ..Guest::default() }.build()).await;
    assert!(refused.to_string().contains("subscriptions are too many"), "{refused}");
}

#[tokio::test]
async fn a_reason_as_long_as_a_book_is_kept_in_part() {
    let filled =
        "(drop (memory.grow (i32.const 16))) (memory.fill (i32.const 65536) (i32.const 97) (i32.const 1000000))";
    let text = |store: &str, at: u32| {
        let length = at + 4;
        store
            .replace(
                &format!("(i32.store (i32.const {at}) (i32.const 80))"),
                &format!("(i32.store (i32.const {at}) (i32.const 65536))"),
            )
            .replace(
                &format!("(i32.const {length}) (i32.const 5)"),
                &format!("(i32.const {length}) (i32.const 1000000)"),
            )
    };
    let retry = tried(guest(&format!("{filled} {}", text(fixture::RETRY, 1056))), Limits::default()).await;
    let reject = tried(guest(&format!("{filled} {}", rejecting(65_536, 1_000_000))), Limits::default()).await;
    let (Outcome::Retry { reason: later, .. }, Outcome::Reject { reason: never }) = (&retry.outcome, &reject.outcome)
    else {
        panic!("{:?}, {:?}", retry.outcome, reject.outcome)
    };
    for reason in [later, never] {
        assert!((1_000..5_000).contains(&reason.len()) && reason.starts_with("aaa"), "{} bytes", reason.len());
    }
}
