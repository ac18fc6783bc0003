//! Traps and loops in every place where a guest runs: start, `describe`, realloc, `handle`, and what is called after it.

use std::time::Duration;

use super::{
    DONE, GRACE, Guest, each_traps, handle, refused, refused_for_computing, stopped_by_cpu, stopped_by_cpu_within,
    stopped_by_the_clock, timeout, trap, tried, version,
};
use crate::policy::Limits;
use crate::sandbox::cpu::thread_cpu;
use crate::sandbox::fixture::{self, REJECT, SPIN, TRAP};
use crate::sandbox::tests::TIMER;
use crate::sandbox::{DescribeFailed, LoadError, Outcome};

const GET: &str = r#"(import "fanfare:consumer/state@0.1.0" "get" (func $get (param i32 i32 i32)))"#;
const GET_KEY: &str = "(call $get (i32.const 160) (i32.const 3) (i32.const 2048))";
const HANDLE: &str = "fanfare:consumer/handler@0.1.0#handle";

const CPU: Duration = Duration::from_millis(20);

fn starting(start: &str) -> String {
    format!("(start $begin) (func $begin {start})")
}

fn afterwards(after: &str) -> String {
    format!(r#"(func (export "cabi_post_{HANDLE}") (param i32) {after})"#)
}

#[tokio::test]
async fn a_trap_anywhere_is_the_outcome_of_its_event() {
    let after = afterwards(TRAP);
    let calls_after = afterwards(GET_KEY);
    let realloc_calls = format!("{GET_KEY} unreachable");
    let deep = "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))";
    let divides = format!("(drop (i32.div_s (i32.const 1) (i32.const 0))) {DONE}");
    let reads = format!("(drop (i32.load (i32.const 0x01000000))) {DONE}");
    let fills = format!("(memory.fill (i32.const 0) (i32.const 1) (i32.const 0x01000000)) {DONE}");
    let good = Guest::default();
    each_traps(&[
        ("in handle", Guest { handle: TRAP, ..good }, "unreachable-code-reached", "unreachable"),
        ("in realloc", Guest { realloc: TRAP, ..good }, "unreachable-code-reached", "unreachable"),
        ("after a handler that was done", Guest { more: &after, ..good }, "unreachable-code-reached", "unreachable"),
        ("after one that rejected", Guest { more: &after, handle: REJECT, ..good }, "unreachable-code-reached", ""),
        ("calls out of realloc", Guest { imports: GET, realloc: &realloc_calls, ..good }, "cannot-leave-component", ""),
        ("calls out afterwards", Guest { imports: GET, more: &calls_after, ..good }, "cannot-leave-component", ""),
        (
            "recursion without end",
            Guest { more: deep, handle: "(drop (call $deep (i32.const 1))) unreachable", ..good },
            "stack-overflow",
            "call stack exhausted",
        ),
        ("division by nothing", Guest { handle: &divides, ..good }, "integer-division-by-zero", ""),
        ("reading beyond its memory", Guest { handle: &reads, ..good }, "memory-out-of-bounds", ""),
        ("writing beyond its memory", Guest { handle: &fills, ..good }, "memory-out-of-bounds", ""),
    ])
    .await;
}

#[tokio::test]
async fn a_trap_or_a_call_while_it_starts_is_why_it_is_refused() {
    let trapping = refused(Guest { more: &starting(TRAP), ..Guest::default() }.build()).await;
    assert!(matches!(&trapping, LoadError::DescribeFailed(DescribeFailed::Trap { .. })), "{trapping}");
    // Calls out of a start go through a table that is not filled yet; nothing is answered.
    let calling = refused(Guest { imports: GET, more: &starting(GET_KEY), ..Guest::default() }.build()).await;
    assert!(matches!(&calling, LoadError::DescribeFailed(DescribeFailed::Trap { .. })), "{calling}");
    let after = r#"(func (export "cabi_post_fanfare:consumer/handler@0.1.0#describe") (param i32) unreachable)"#;
    let after = refused(Guest { more: after, ..Guest::default() }.build()).await;
    assert!(matches!(&after, LoadError::DescribeFailed(DescribeFailed::Trap { .. })), "{after}");
}

#[tokio::test]
async fn a_loop_while_it_starts_or_describes_itself_is_why_it_is_refused() {
    let spinning = starting("(loop $for_ever (br $for_ever))");
    for guest in [Guest { more: &spinning, ..Guest::default() }, Guest { describe: SPIN, ..Guest::default() }] {
        refused_for_computing(guest.build()).await;
    }
}

#[tokio::test]
async fn a_loop_anywhere_else_ends_with_the_cpu_budget() {
    let limits = Limits { cpu: CPU, ..Limits::default() };
    let after = afterwards("(loop $for_ever (br $for_ever))");
    // Short enough for `describe`, and too long for an event.
    let slow = starting(
        "(local $n i32) (local.set $n (i32.const 400000000))
         (loop $more (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $more (local.get $n)))",
    );
    for (what, guest) in [
        ("in handle", Guest { handle: SPIN, ..Guest::default() }),
        ("in realloc", Guest { realloc: SPIN, ..Guest::default() }),
        ("afterwards", Guest { more: &after, ..Guest::default() }),
        ("while it starts for an event", Guest { more: &slow, ..Guest::default() }),
    ] {
        let handled = stopped_by_cpu(guest.build(), limits).await;
        assert_eq!(timeout(&handled), "cpu", "{what}");
        assert!(handled.instance.is_none(), "{what}");
    }
}

#[tokio::test]
async fn a_loop_ends_with_the_clock_where_the_cpu_budget_is_large() {
    let limits = Limits { cpu: Duration::from_secs(3600), time: Duration::from_millis(60), ..Limits::default() };
    let handled = stopped_by_the_clock(fixture::guest(SPIN), limits).await;
    assert_eq!(timeout(&handled), "time");
}

#[tokio::test]
async fn of_instructions_that_take_long_the_first_beyond_the_budget_is_the_last() {
    // Nothing looks at the clock within one bulk instruction: the memory limit bounds what it can take.
    let bytes = Limits::default().memory_bytes;
    let pages = bytes / 65_536 - 2;
    let handle = format!(
        "(drop (memory.grow (i32.const {pages})))
         (loop $for_ever
            (memory.fill (i32.const 8192) (i32.const 1)
                (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8192)))
            (br $for_ever)) unreachable"
    );
    // What this machine takes to get so much memory, fill it and give it back, now.
    let before = thread_cpu();
    drop(std::hint::black_box(vec![1_u8; bytes]));
    let natively = thread_cpu() - before;
    let limits = Limits { cpu: CPU, ..Limits::default() };
    let handled = stopped_by_cpu_within(GRACE + 3 * natively, fixture::guest(&handle), limits).await;
    assert_eq!(timeout(&handled), "cpu");
}

#[tokio::test]
async fn what_it_may_not_do_while_it_starts_it_may_not_do_when_it_starts_for_an_event() {
    // A start that asks only where it has memory to spare; `describe` has more of it than an event.
    let sandbox = fixture::sandbox();
    let grows = starting("(drop (memory.grow (i32.const 64)))");
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let version = version(&sandbox, Guest { more: &grows, ..Guest::default() }.build(), limits).await;
    for _ in 0..3 {
        assert_eq!(trap(&handle(&version).await).0, "memory");
    }
}

#[tokio::test]
async fn names_as_long_as_can_be_are_shown_in_part() {
    let name = "owned".repeat(10_000);
    let more = format!(r#"(func $named (@name "{name}") unreachable)"#);
    let guest = Guest { more: &more, handle: "(call $named) unreachable", ..Guest::default() };
    let handled = tried(guest.build(), Limits::default()).await;
    trap(&handled);
    let Outcome::Trap { backtrace: Some(backtrace), .. } = &handled.outcome else { panic!("no backtrace") };
    assert!(backtrace.contains("owned"), "{backtrace}");
}

#[tokio::test]
async fn a_describe_that_waits_is_stopped_by_the_clock() {
    let imports = r#"
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
    let describe = format!("(call $block (call $subscribe (i64.const 100_000_000_000))) {}", fixture::DESCRIBE);
    let guest = Guest { world: TIMER, imports, describe: &describe, ..Guest::default() }.build();
    let refused = refused(guest).await;
    let timeout = matches!(&refused, LoadError::DescribeFailed(DescribeFailed::Timeout { what: "time", .. }));
    assert!(timeout, "{refused}");
}
