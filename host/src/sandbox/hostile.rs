//! Guests that mean harm and that no compiler makes, each with its claim: it ends inside its limits, its end says what it
//! did, and the sandbox goes on. What a guest can do in a language is told in `tests/tests/hostile.rs`, with the real program.

mod arguments;
mod floods;
mod memory;
mod returns;
mod traps;

use std::sync::Arc;
use std::time::Duration;

use super::cpu::thread_cpu;
use super::fixture::{self, DONE, Guest, guest};
use super::plugin::DESCRIBE_CPU_MAX;
use super::{DescribeFailed, Handled, LoadError, Outcome, Sandbox, Version};
use crate::backend::Origin;
use crate::capability::fixture::{Memory, everything, order, placed};
use crate::policy::{Limits, Policy};
use crate::version::Binary;

/// A guest that is stopped has run no longer than this past its limit.
const GRACE: Duration = Duration::from_millis(50);
/// The machine has other work too, which only ever makes a run longer: the shortest of several is the guest's own.
const RUNS: u32 = 4;

/// Lets a guest with every grant handle one event, and then a good one in the same sandbox.
async fn tried(bytes: Binary, limits: Limits) -> Handled {
    let sandbox = fixture::sandbox();
    let handled = handle(&*version(&sandbox, bytes, limits).await).await;
    goes_on(&sandbox).await;
    handled
}

/// As [`tried`], of a guest that the CPU budget is to stop.
async fn stopped_by_cpu(bytes: Binary, limits: Limits) -> Handled {
    stopped_by_cpu_within(GRACE, bytes, limits).await
}

/// As [`stopped_by_cpu`], where it may run on for longer.
async fn stopped_by_cpu_within(grace: Duration, bytes: Binary, limits: Limits) -> Handled {
    // Everything here runs on one thread, and its CPU time is the same whatever else the machine has to do.
    let sandbox = fixture::sandbox();
    let version = version(&sandbox, bytes, limits).await;
    let before = thread_cpu();
    let handled = handle(&version).await;
    let spent = thread_cpu() - before;
    assert!(spent <= limits.cpu + grace, "it used {spent:?}, and its limit is {:?} and {grace:?}", limits.cpu);
    goes_on(&sandbox).await;
    handled
}

/// As [`tried`], of a guest that the clock is to stop.
async fn stopped_by_the_clock(bytes: Binary, limits: Limits) -> Handled {
    let mut shortest = Duration::MAX;
    for _ in 0..RUNS {
        let handled = tried(bytes.clone(), limits).await;
        if handled.duration <= limits.time + GRACE {
            return handled;
        }
        shortest = shortest.min(handled.duration);
    }
    panic!("it ran for {shortest:?} and more, and its limit is {:?}", limits.time)
}

/// Why a file is refused; a good one is taken afterwards.
pub async fn refused(bytes: impl Into<Binary>) -> LoadError {
    let sandbox = fixture::sandbox();
    let refused = sandbox.load(bytes.into()).await.expect_err("a refusal");
    goes_on(&sandbox).await;
    refused
}

/// A file is refused because its guest computes without end in `describe`: by the CPU budget, or by the clock where a busy machine
/// did not let it have so much.
pub async fn refused_for_computing(bytes: impl Into<Binary>) {
    let before = thread_cpu();
    let refused = refused(bytes).await;
    let spent = thread_cpu() - before;
    match &refused {
        LoadError::DescribeFailed(DescribeFailed::Timeout { what: "cpu", limit }) => {
            assert!(spent <= *limit + 4 * GRACE, "it used {spent:?}");
        }
        LoadError::DescribeFailed(DescribeFailed::Timeout { what: "time", .. }) if spent <= DESCRIBE_CPU_MAX => {}
        other => panic!("{other}, after {spent:?}"),
    }
}

async fn version(sandbox: &Sandbox, bytes: Binary, limits: Limits) -> Arc<Version> {
    let policy = Policy { limits, grant: everything(), ..Policy::default() };
    sandbox.load(bytes).await.unwrap().link(&"hostile".parse().unwrap(), &policy).unwrap()
}

async fn handle(version: &Version) -> Handled {
    version.handle_event(&placed(&order()), 1, Origin::Live, Arc::new(Memory::default())).await
}

#[track_caller]
fn done(handled: &Handled) {
    assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
}

async fn goes_on(sandbox: &Sandbox) {
    done(&handle(&*version(sandbox, guest(DONE), Limits::default()).await).await);
}

/// The kind and the words of a trap, which are bounded whatever the guest did.
fn trap(handled: &Handled) -> (&str, &str) {
    assert!(handled.instance.is_none(), "no instance outlives a trap");
    match &handled.outcome {
        Outcome::Trap { kind, message, backtrace } => {
            assert!(
                kind.len() < 64 && message.len() < 5_000 && backtrace.as_ref().is_none_or(|text| text.len() < 5_000)
            );
            (kind, message)
        }
        other => panic!("expected a trap, got {other:?}"),
    }
}

/// Which limit stopped it.
fn timeout(handled: &Handled) -> &'static str {
    match &handled.outcome {
        Outcome::Timeout { what, .. } => what,
        other => panic!("expected a timeout, got {other:?}"),
    }
}

/// Tries each guest of a table: what it does, the guest, the kind of its trap and a word of it. All that differ are told.
async fn each_traps(table: &[(&str, Guest<'_>, &str, &str)]) {
    let mut wrong = Vec::new();
    for (what, guest, kind, word) in table {
        let handled = tried(guest.build(), Limits::default()).await;
        match &handled.outcome {
            Outcome::Trap { kind: found, message, .. } if found == kind && message.contains(word) => {}
            other => wrong.push(format!("{what}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
