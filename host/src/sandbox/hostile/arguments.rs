//! Arguments that are none, and memory that is not the guest's: what a guest hands to a host function is checked before it
//! is used.

use wit_component::StringEncoding;

use super::{DONE, Guest, done, each_traps, tried};
use crate::policy::Limits;

const LOG: &str = r#"(import "fanfare:consumer/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
const ADJUST: &str = r#"(import "fanfare:consumer/state@0.1.0" "adjust" (func $adjust (param i32 i32 i32)))"#;
const SETTING: &str = r#"(import "fanfare:consumer/settings@0.1.0" "get" (func $setting (param i32 i32 i32)))"#;
const PUBLISH: &str = r#"(import "fanfare:consumer/outbox@0.1.0" "publish"
    (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;
const CHANGE: &str = r#"(import "fanfare:consumer/outbox@0.1.0" "change-order"
    (func $change (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;

fn calling<'a>(imports: &'a str, handle: &'a str) -> Guest<'a> {
    Guest { imports, handle, ..Guest::default() }
}

#[tokio::test]
async fn an_argument_that_is_none_is_a_trap() {
    let then_done = |call: &str| format!("{call} {DONE}");
    let level = then_done("(call $log (i32.const 4) (i32.const 64) (i32.const 5))");
    let outside = then_done("(call $log (i32.const 1) (i32.const 0x01000000) (i32.const 5))");
    let overflowing = then_done("(call $log (i32.const 1) (i32.const 0xfffffff0) (i32.const 0x20))");
    let no_text = then_done(
        "(i32.store8 (i32.const 64) (i32.const 0xc0)) (call $log (i32.const 1) (i32.const 64) (i32.const 5))",
    );
    let option = then_done(
        "(call $publish (i32.const 192) (i32.const 15) (i32.const 160) (i32.const 3)
            (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 224) (i32.const 2))",
    );
    let change = then_done(
        "(call $change (i32.const 160) (i32.const 3) (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048))",
    );
    let misaligned = then_done("(call $adjust (i32.const 2049) (i32.const 1) (i32.const 4096))");
    let too_many = then_done("(call $adjust (i32.const 2048) (i32.const 0x08000001) (i32.const 4096))");
    let beyond = then_done("(call $adjust (i32.const 2048) (i32.const 8192) (i32.const 4096))");
    let nowhere = then_done("(call $setting (i32.const 160) (i32.const 3) (i32.const 0x01000000))");
    let aslant = then_done("(call $setting (i32.const 160) (i32.const 3) (i32.const 2049))");
    each_traps(&[
        ("level of the log", calling(LOG, &level), "bad-argument", "discriminant"),
        ("text outside of memory", calling(LOG, &outside), "bad-argument", "out of bounds"),
        ("text whose end overflows", calling(LOG, &overflowing), "bad-argument", "out of bounds"),
        ("text that is not UTF-8", calling(LOG, &no_text), "bad-argument", "utf-8"),
        ("discriminant of option", calling(PUBLISH, &option), "bad-argument", "discriminant"),
        ("an unknown change", calling(CHANGE, &change), "bad-argument", "discriminant"),
        ("misaligned list", calling(ADJUST, &misaligned), "bad-argument", "not aligned"),
        ("list whose length overflows", calling(ADJUST, &too_many), "bad-argument", "out of bounds"),
        ("list longer than memory", calling(ADJUST, &beyond), "bad-argument", "out of bounds"),
        ("answer outside of memory", calling(SETTING, &nowhere), "bad-argument", "out of bounds"),
        ("answer misaligned", calling(SETTING, &aslant), "bad-argument", "not aligned"),
    ])
    .await;
}

#[tokio::test]
async fn a_text_of_two_gigabytes_is_not_copied() {
    // It is all there: zeros, which are text.
    let handle = format!(
        "(drop (memory.grow (i32.const 32768))) (call $log (i32.const 1) (i32.const 0) (i32.const 0x7fff0000)) {DONE}"
    );
    let limits = Limits { memory_bytes: 4 << 30, ..Limits::default() };
    let handled = tried(calling(LOG, &handle).build(), limits).await;
    let (kind, message) = super::trap(&handled);
    assert_eq!((kind, message.contains("limits.call")), ("limit", true), "{message}");
}

#[tokio::test]
async fn memory_that_realloc_gives_is_checked() {
    let wrong = |realloc| Guest { realloc, ..Guest::default() };
    each_traps(&[
        ("outside of memory", wrong("(i32.const 0x7fffff00)"), "bad-argument", "realloc return"),
        ("over the end", wrong("(i32.const 0xfffffff8)"), "bad-argument", "realloc return"),
        ("misaligned", wrong("(i32.or (global.get $heap) (i32.const 1))"), "bad-argument", "realloc return"),
    ])
    .await;
    // Whatever it writes over is the guest's own.
    done(&tried(wrong("(i32.const 8192)").build(), Limits::default()).await);
}

#[tokio::test]
async fn a_guest_that_speaks_utf_16_is_understood_and_checked() {
    // Version 1.2.0, which hears of everything, and a log line of two code units.
    let describe = "
        (i32.store (i32.const 2048) (i32.const 0x002e0031)) (i32.store (i32.const 2052) (i32.const 0x002e0032))
        (i32.store (i32.const 2056) (i32.const 0x30)) (i32.store (i32.const 2080) (i32.const 0x2a))
        (i32.store (i32.const 2064) (i32.const 2080)) (i32.store (i32.const 2068) (i32.const 1))
        (i32.store (i32.const 512) (i32.const 2048)) (i32.store (i32.const 516) (i32.const 5))
        (i32.store (i32.const 524) (i32.const 2048)) (i32.store (i32.const 532) (i32.const 2064))
        (i32.store (i32.const 536) (i32.const 1)) (i32.const 512)";
    let logging = |units: u32| {
        let handle = format!(
            "(i32.store (i32.const 2048) (i32.const {units}))
             (call $log (i32.const 1) (i32.const 2048) (i32.const 2)) {DONE}"
        );
        Guest { imports: LOG, describe, handle: &handle, encoding: StringEncoding::UTF16, ..Guest::default() }.build()
    };
    done(&tried(logging(0x0041_0041), Limits::default()).await);
    done(&tried(logging(0xdc00_d83d), Limits::default()).await);
    let lone = tried(logging(0x0041_d83d), Limits::default()).await;
    let (kind, message) = super::trap(&lone);
    assert_eq!((kind, message.contains("surrogate")), ("bad-argument", true), "a lone surrogate is no text: {message}");
}
