//! Too much of everything that a host function takes: calls, bytes, handles.

use std::sync::Arc;
use std::time::Duration;

use super::{DONE, Guest, done, handle, stopped_by_cpu, timeout, trap, tried, version};
use crate::backend::{Lease, Origin};
use crate::capability::fixture::{Memory, order, placed};
use crate::capability::http::Gate;
use crate::policy::Limits;
use crate::sandbox::fixture::{self, REJECT};
use crate::sandbox::{Amount, Outcome};
use crate::version::Binary;

/// Where it is not the CPU budget that is to end it.
const AMPLE: Duration = Duration::from_secs(60);

const LOG: &str = r#"(import "fanfare:consumer/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
const SET: &str = r#"(import "fanfare:consumer/state@0.1.0" "set" (func $set (param i32 i32 i32 i32)))"#;
const SCAN: &str = r#"(import "fanfare:consumer/state@0.1.0" "scan"
    (func $scan (param i32 i32 i32 i32 i32 i32 i32)))"#;
const PUBLISH: &str = r#"(import "fanfare:consumer/outbox@0.1.0" "publish"
    (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;
const SETTING: &str = r#"(import "fanfare:consumer/settings@0.1.0" "get" (func $setting (param i32 i32 i32)))"#;

/// Does it so many times, with `$n` counting down, and is done.
fn times(times: u32, what: &str) -> String {
    format!(
        "(local.set $n (i32.const {times}))
         (loop $more {what} (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) {DONE}"
    )
}

fn calling(imports: &str, handle: &str) -> Binary {
    Guest { imports, handle, ..Guest::default() }.build()
}

#[tokio::test]
async fn a_million_calls_of_the_host_are_the_guest_s_own_time() {
    let ask = "(call $setting (i32.const 160) (i32.const 3) (i32.const 2048))";
    let limits = Limits { cpu: Duration::from_millis(20), ..Limits::default() };
    let handled = stopped_by_cpu(calling(SETTING, &times(1_000_000_000, ask)), limits).await;
    assert_eq!(timeout(&handled), "cpu");
    assert!(handled.effects.is_empty());
}

#[tokio::test]
async fn scans_that_find_nothing_are_counted_too() {
    // The host's store works for each of them, on a thread that is not the guest's.
    let scan = "(call $scan (i32.const 160) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9)
        (i32.const 2048))";
    let limits = Limits { cpu: AMPLE, ..Limits::default() };
    let handled = tried(calling(SCAN, &times(1_000_000, scan)), limits).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("reads for one event")), ("limit", true), "{message}");
}

#[tokio::test]
async fn a_flood_of_the_log_is_cut_and_the_event_done() {
    let limits = Limits { cpu: AMPLE, ..Limits::default() };
    let long = "(call $log (i32.const 1) (i32.const 65536) (i32.const 65535))";
    let handle = format!("(memory.fill (i32.const 65536) (i32.const 97) (i32.const 65535)) {}", times(32, long));
    done(&tried(calling(LOG, &handle), limits).await);
    let short = "(call $log (i32.const 1) (i32.const 64) (i32.const 5))";
    let handled = tried(calling(LOG, &times(50_000, short).replace(DONE, REJECT)), limits).await;
    assert!(matches!(handled.outcome, Outcome::Reject { .. }), "{:?}", handled.outcome);
    assert!(handled.log.len() <= 101 && handled.log.iter().map(|line| line.text.len()).sum::<usize>() < 10_000);
}

#[tokio::test]
async fn a_flood_of_state_ends_at_its_bytes_and_at_its_entries() {
    let limits = Limits { cpu: AMPLE, ..Limits::default() };
    let large = times(
        100,
        "(i32.store8 (i32.const 160) (local.get $n)) (call $set (i32.const 160) (i32.const 3)
        (i32.const 8192) (i32.const 100000))",
    );
    let handled = tried(calling(SET, &large), Limits { effects_bytes: 1 << 20, ..limits }).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("limits.effects")), ("limit", true), "{message}");
    let many = times(
        100_000,
        "(i32.store8 (i32.const 160) (i32.and (local.get $n) (i32.const 127)))
        (i32.store8 (i32.const 161) (i32.and (i32.shr_u (local.get $n) (i32.const 7)) (i32.const 127)))
        (i32.store8 (i32.const 162) (i32.and (i32.shr_u (local.get $n) (i32.const 14)) (i32.const 127)))
        (call $set (i32.const 160) (i32.const 3) (i32.const 176) (i32.const 5))",
    );
    let handled = tried(calling(SET, &many), limits).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("10001")), ("limit", true), "{message}");
}

#[tokio::test]
async fn a_flood_of_the_outbox_ends_at_its_number() {
    let publish = "(call $publish (i32.const 192) (i32.const 15) (i32.const 160) (i32.const 3)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 224) (i32.const 2))";
    let limits = Limits { cpu: AMPLE, events: 20, ..Limits::default() };
    done(&tried(calling(PUBLISH, &times(20, publish)), limits).await);
    let handled = tried(calling(PUBLISH, &times(21, publish)), limits).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("limits.events")), ("limit", true), "{message}");
}

const TIMERS: &str = "
    package test:guest;
    world extra { include fanfare:consumer/consumer@0.1.0; import wasi:clocks/monotonic-clock@0.2.0; }
    package wasi:io@0.2.0 { interface poll { resource pollable; } }
    package wasi:clocks@0.2.0 {
        interface monotonic-clock {
            use wasi:io/poll@0.2.0.{pollable};
            subscribe-duration: func(when: u64) -> pollable;
        }
    }";
const SUBSCRIBE: &str =
    r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))"#;

#[tokio::test]
async fn handles_of_the_host_that_are_never_dropped_end_at_their_number() {
    let handle = times(100_000, "(drop (call $subscribe (i64.const 1)))");
    let bytes = Guest { world: TIMERS, imports: SUBSCRIBE, handle: &handle, ..Guest::default() }.build();
    let handled = tried(bytes, Limits::default()).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("limits.handles")), ("limit", true), "{message}");
}

const DROP: &str = r#"(import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop (param i32)))"#;

#[tokio::test]
async fn handles_stand_among_the_marks_by_the_most_that_were_held_at_once() {
    let most = async |handle: String| {
        let imports = format!("{SUBSCRIBE}{DROP}");
        let bytes = Guest { world: TIMERS, imports: &imports, handle: &handle, ..Guest::default() }.build();
        mark("handles", bytes).await
    };
    let take = "(call $subscribe (i64.const 1))";
    let one_by_one = most(times(3, &format!("(call $drop {take})"))).await;
    let at_once = most(format!("(call $drop {take} (call $drop {take} (call $drop {take}))) {DONE}")).await;
    assert!(one_by_one > 0);
    assert_eq!(at_once, 3 * one_by_one);
}

#[tokio::test]
async fn the_call_that_hands_over_most_stands_among_the_marks() {
    let set = "(call $set (i32.const 160) (i32.const 3) (i32.const 8192) (i32.const 90000))
        (call $set (i32.const 160) (i32.const 3) (i32.const 176) (i32.const 5))";
    assert_eq!(mark("call", calling(SET, &format!("{set} {DONE}"))).await, 90_003);
    let log = format!("(call $log (i32.const 1) (i32.const 65536) (i32.const 700)) {DONE}");
    assert_eq!(mark("call", calling(LOG, &log)).await, 700);
}

/// What one event took at most of a limit, as people are shown it.
async fn mark(limit: &str, bytes: Binary) -> u64 {
    let sandbox = fixture::sandbox();
    let version = version(&sandbox, bytes, Limits { cpu: AMPLE, ..Limits::default() }).await;
    // A trial is none of the consumer's events.
    done(&handle(&version).await);
    let high_water = || sandbox.usage(&"hostile".parse().unwrap()).unwrap()[limit].high_water;
    assert_eq!(high_water(), Some(Amount::Whole(0)));
    let (event, view) = (placed(&order()), Arc::new(Memory::default()));
    done(&version.handle_on(None, &event, 1, Origin::Live, view, Gate::Open(Lease::of_nothing())).await);
    match high_water() {
        Some(Amount::Whole(amount)) => amount,
        other => panic!("{limit}: {other:?}"),
    }
}

const THINGS: &str = "
    package test:guest;
    interface things { resource thing { constructor(); } }
    world extra { include fanfare:consumer/consumer@0.1.0; export things; }";
const NEW: &str = r#"(import "[export]test:guest/things" "[resource-new]thing" (func $new (param i32) (result i32)))"#;

#[tokio::test]
async fn handles_of_its_own_that_are_never_dropped_end_at_their_number() {
    let more = r#"(func (export "test:guest/things#[constructor]thing") (result i32) unreachable)"#;
    let handle = times(100_000_000, "(drop (call $new (i32.const 1)))");
    let bytes = Guest { world: THINGS, imports: NEW, more, handle: &handle, ..Guest::default() }.build();
    let handled = tried(bytes, Limits { cpu: AMPLE, ..Limits::default() }).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("limits.handles")), ("limit", true), "{message}");
}

const RANDOM: &str = "
    package test:guest;
    world extra { include fanfare:consumer/consumer@0.1.0; import wasi:random/random@0.2.0; }
    package wasi:random@0.2.0 { interface random { get-random-bytes: func(len: u64) -> list<u8>; } }";

#[tokio::test]
async fn randomness_comes_in_keys_and_not_in_bulk() {
    let imports = r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#;
    let asking = |bytes: u64| {
        let handle =
            format!("(drop (memory.grow (i32.const 64))) (call $random (i64.const {bytes}) (i32.const 2048)) {DONE}");
        Guest { world: RANDOM, imports, handle: &handle, ..Guest::default() }.build()
    };
    done(&tried(asking(64 << 10), Limits::default()).await);
    for bytes in [(64 << 10) + 1, 1 << 40, u64::MAX >> 1] {
        trap(&tried(asking(bytes), Limits::default()).await);
    }
}
