//! Guests of every temper, each ending as an outcome of its own event.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{self, DONE, Guest, REJECT, RETRY, SPIN, TRAP, guest, importing, remembering, version};
use super::{DescribeFailed, Handled, LoadError, NotAComponent, Outcome, Settings, Version};
use crate::backend::{self, Generation, Origin};
use crate::capability::fixture::{Memory, everything, order, placed};
use crate::capability::http::Gate;
use crate::policy::{Grant, Isolation, Limits, Policy};
use crate::version::Binary;

const SET: &str = r#"(import "fanfare:consumer/state@0.1.0" "set" (func $set (param i32 i32 i32 i32)))"#;
const GET: &str = r#"(import "fanfare:consumer/state@0.1.0" "get" (func $get (param i32 i32 i32)))"#;
const PUBLISH: &str = r#"(import "fanfare:consumer/outbox@0.1.0" "publish"
    (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;
const SET_KEY: &str = "(call $set (i32.const 160) (i32.const 3) (i32.const 176) (i32.const 5))";
const GET_KEY: &str = "(call $get (i32.const 160) (i32.const 3) (i32.const 2048))";
const PUBLISH_LOW: &str = "(call $publish (i32.const 192) (i32.const 15) (i32.const 160) (i32.const 3)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 224) (i32.const 2))";

async fn handle(version: &Version, memory: Memory) -> Handled {
    version.handle_event(&placed(&order()), 1, Origin::Live, Arc::new(memory)).await
}

/// Handles one event with a fresh instance of a guest.
async fn handle_with(bytes: Binary, policy: &Policy, memory: Memory) -> Handled {
    handle(&*version(bytes, policy).await, memory).await
}

fn trap(handled: &Handled) -> (&str, &str) {
    assert!(handled.instance.is_none(), "no instance outlives a trap");
    match &handled.outcome {
        Outcome::Trap { kind, message, .. } => (kind, message),
        other => panic!("expected a trap, got {other:?}"),
    }
}

#[tokio::test]
async fn what_a_guest_staged_is_there_once_it_is_done() {
    let bytes = importing(SET, &format!("{SET_KEY} {DONE}"));
    let handled = handle_with(bytes, &Policy::default(), Memory::default()).await;
    assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
    assert_eq!(handled.effects.entries, [("key".into(), Some(b"value".as_slice().into()))]);
    assert!(handled.instance.is_some());
}

#[tokio::test]
async fn retry_and_reject_carry_their_reason_and_show_what_was_staged_in_vain() {
    let bytes = importing(SET, &format!("{SET_KEY} {RETRY}"));
    let handled = handle_with(bytes, &Policy::default(), Memory::default()).await;
    let Outcome::Retry { after, reason } = &handled.outcome else { panic!("{:?}", handled.outcome) };
    assert_eq!((*after, &**reason), (Some(Duration::from_millis(1500)), "later"));
    assert_eq!(handled.effects.entries, [("key".into(), Some(b"value".as_slice().into()))]);
    assert!(handled.instance.is_none());

    let handled = handle_with(guest(REJECT), &Policy::default(), Memory::default()).await;
    assert!(matches!(&handled.outcome, Outcome::Reject { reason } if reason == "never"), "{:?}", handled.outcome);
}

#[tokio::test]
async fn a_trap_names_its_kind_and_where_it_happened() {
    let handled = handle_with(guest(TRAP), &Policy::default(), Memory::default()).await;
    assert_eq!(trap(&handled).0, "unreachable-code-reached");
    let Outcome::Trap { backtrace: Some(backtrace), .. } = &handled.outcome else { panic!("no backtrace") };
    assert!(backtrace.contains("handle_of_test"), "{backtrace}");
}

#[tokio::test]
async fn what_a_guest_was_told_is_reported_whatever_the_outcome() {
    let bytes = importing(GET, &format!("{GET_KEY} {TRAP}"));
    let memory = Memory { entries: [("key".to_owned(), b"1".to_vec())].into(), ..Memory::default() };
    let handled = handle_with(bytes, &Policy::default(), memory).await;
    assert_eq!(trap(&handled).0, "unreachable-code-reached");
    assert_eq!(handled.reads.entries, [("key".into(), Some(b"1".as_slice().into()))]);
}

#[tokio::test]
async fn a_guest_that_never_ends_is_stopped_by_its_cpu_budget() {
    let limits = Limits { cpu: Duration::from_millis(20), ..Limits::default() };
    let handled = handle_with(guest(SPIN), &Policy { limits, ..Policy::default() }, Memory::default()).await;
    let Outcome::Timeout { what, limit, backtrace } = handled.outcome else { panic!("{:?}", handled.outcome) };
    assert_eq!((what, limit), ("cpu", limits.cpu));
    let backtrace = backtrace.expect("where it was");
    assert!(backtrace.contains("handle_of_test"), "{backtrace}");
}

#[tokio::test]
async fn a_guest_that_computes_lets_other_tasks_run() {
    let limits = Limits { cpu: Duration::from_millis(50), ..Limits::default() };
    let version = version(guest(SPIN), &Policy { limits, ..Policy::default() }).await;
    let turns = std::cell::Cell::new(0);
    let others = async {
        loop {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = handle(&version, Memory::default()) => {}
        () = others => {}
    }
    assert!(turns.get() > 5, "{} turns", turns.get());
}

#[tokio::test]
async fn a_guest_that_computes_is_stopped_by_the_clock_too() {
    let limits = Limits { cpu: Duration::from_secs(60), time: Duration::from_millis(50), ..Limits::default() };
    let policy = Policy { limits, ..Policy::default() };
    let spinning = handle_with(guest(SPIN), &policy, Memory::default());
    let handled = tokio::time::timeout(Duration::from_secs(30), spinning).await.expect("an end");
    let Outcome::Timeout { what, limit, .. } = handled.outcome else { panic!("{:?}", handled.outcome) };
    assert_eq!((what, limit), ("time", limits.time));
}

pub const TIMER: &str = "
    package test:guest;
    world extra { include fanfare:consumer/consumer@0.1.0; import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0; }
    package wasi:io@0.2.0 { interface poll { resource pollable { block: func(); } } }
    package wasi:clocks@0.2.0 {
        interface monotonic-clock {
            use wasi:io/poll@0.2.0.{pollable};
            subscribe-duration: func(when: u64) -> pollable;
        }
    }";

/// What becomes of a guest that reads its state, which takes so long, and then waits for half a second by a clock.
async fn waits(time: Duration, read_takes: Duration) -> Handled {
    let imports = format!(
        r#"{GET}
        (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#
    );
    let handle = format!("{GET_KEY} (call $block (call $subscribe (i64.const 500_000_000))) {DONE}");
    let bytes = Guest { world: TIMER, imports: &imports, handle: &handle, ..Guest::default() }.build();
    let limits = Limits { time, ..Limits::default() };
    let memory = Memory { takes: Some(read_takes), ..Memory::default() };
    handle_with(bytes, &Policy { limits, ..Policy::default() }, memory).await
}

#[tokio::test]
async fn a_guest_that_waits_is_stopped_by_the_clock() {
    let handled = waits(Duration::from_millis(20), Duration::ZERO).await;
    let Outcome::Timeout { what, limit, .. } = handled.outcome else { panic!("{:?}", handled.outcome) };
    assert_eq!((what, limit), ("time", Duration::from_millis(20)));
    assert!(handled.instance.is_none());
}

#[tokio::test]
async fn what_a_store_is_slow_to_answer_is_not_the_guest_s_time() {
    let slow = Duration::from_secs(3);
    let handled = waits(Duration::from_millis(2_500), slow).await;
    assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
    let handled = waits(Duration::from_millis(300), slow).await;
    assert!(matches!(handled.outcome, Outcome::Timeout { what: "time", .. }), "{:?}", handled.outcome);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_a_trap_that_names_it() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let greedy = guest(&format!("(drop (memory.grow (i32.const 16))) {DONE}"));
    let handled = handle_with(greedy, &Policy { limits, ..Policy::default() }, Memory::default()).await;
    let (kind, message) = trap(&handled);
    assert_eq!(kind, "memory");
    assert!(message.contains("the limit is 1048576"), "{message}");
    let modest = guest(&format!("(drop (memory.grow (i32.const 8))) {DONE}"));
    let handled = handle_with(modest, &Policy { limits, ..Policy::default() }, Memory::default()).await;
    assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
}

#[tokio::test]
async fn too_little_memory_to_start_is_said_when_linking() {
    let plugin = fixture::plugin(guest(DONE)).await;
    let limits = Limits { memory_bytes: 64 << 10, ..Limits::default() };
    let refused = plugin.link(&"inventory".parse().unwrap(), &Policy { limits, ..Policy::default() }).err().unwrap();
    assert!(refused.to_string().contains("raise it in inventory.toml"), "{refused}");
}

#[tokio::test]
async fn going_beyond_a_grant_is_a_trap_of_its_own_kind() {
    let bytes = importing(PUBLISH, &format!("{PUBLISH_LOW} {DONE}"));
    let handled = handle_with(bytes.clone(), &Policy::default(), Memory::default()).await;
    let (kind, message) = trap(&handled);
    assert_eq!((kind, message.contains("grant.publish")), ("grant", true), "{message}");
    let policy = Policy { grant: everything(), ..Policy::default() };
    let handled = handle_with(bytes, &policy, Memory::default()).await;
    assert_eq!(handled.effects.events.len(), 1, "{:?}", handled.outcome);
}

#[tokio::test]
async fn a_store_that_cannot_answer_is_no_outcome_of_the_guest() {
    let broken = Some(backend::Error::Unavailable("disk full".into()));
    let bytes = importing(GET, &format!("{GET_KEY} {DONE}"));
    let handled = handle_with(bytes, &Policy::default(), Memory { broken, ..Memory::default() }).await;
    assert!(matches!(handled.outcome, Outcome::Store(_)), "{:?}", handled.outcome);
}

#[tokio::test]
async fn an_instance_given_back_handles_the_next_event() {
    let version = version(remembering(), &Policy::default()).await;
    let first = handle(&version, Memory::default()).await;
    // Not given back yet: the next event gets another.
    let second = handle(&version, Memory::default()).await;
    assert!(matches!((&first.outcome, &second.outcome), (Outcome::Done, Outcome::Done)));
    version.keep(first.instance.unwrap());
    let third = handle(&version, Memory::default()).await;
    assert!(matches!(third.outcome, Outcome::Reject { .. }), "{:?}", third.outcome);
    let fourth = handle(&version, Memory::default()).await;
    assert!(matches!(fourth.outcome, Outcome::Done), "an instance that did not end done is not used again");
}

#[tokio::test]
async fn with_isolation_by_event_every_event_gets_a_fresh_instance() {
    let policy = Policy { isolation: Isolation::Event, ..Policy::default() };
    let version = version(remembering(), &policy).await;
    for _ in 0..3 {
        let handled = handle(&version, Memory::default()).await;
        assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
        version.keep(handled.instance.unwrap());
    }
}

#[tokio::test]
async fn clearing_throws_away_idle_and_running_instances() {
    let version = version(remembering(), &Policy::default()).await;
    let (idle, running) = (handle(&version, Memory::default()).await, handle(&version, Memory::default()).await);
    version.keep(idle.instance.unwrap());
    version.clear();
    version.keep(running.instance.unwrap());
    let handled = handle(&version, Memory::default()).await;
    assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
}

#[tokio::test]
async fn more_events_than_places_wait_for_one_another() {
    let version = version(guest(DONE), &Policy::default()).await;
    let all = (0..20).map(|_| async { handle(&version, Memory::default()).await.outcome });
    let outcomes = futures::future::join_all(all).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done)), "{outcomes:?}");
}

#[tokio::test]
async fn a_plugin_says_what_it_is() {
    let plugin = fixture::plugin(guest(DONE)).await;
    let description = plugin.description();
    assert_eq!((description.version.to_string(), description.state_version), ("1.2.0".to_owned(), 7));
    assert_eq!(description.summary, "a test");
    assert_eq!(description.subscriptions[0].kind.to_string(), "order.placed");
    assert_eq!(plugin.hash().to_string().len(), 64);
    let version = plugin.link(&"inventory".parse().unwrap(), &Policy::default()).unwrap();
    assert_eq!(*version.label(), format!("1.2.0 ({})", plugin.hash().short()));
}

async fn refusal(bytes: impl Into<Binary>) -> LoadError {
    fixture::sandbox().load(bytes.into()).await.unwrap_err()
}

#[tokio::test]
async fn what_is_no_component_is_refused_each_in_its_own_words() {
    let whole = guest(DONE);
    let cut = refusal(&whole[..whole.len() - 9]).await;
    assert!(matches!(cut, LoadError::NotAComponent(NotAComponent::Truncated(_))), "{cut}");
    let mut torn = whole.to_vec();
    let middle = torn.len() / 2;
    torn[middle..middle + 64].fill(0xff);
    let torn = refusal(torn).await;
    assert!(matches!(torn, LoadError::NotAComponent(_)), "{torn}");
    let core = refusal(wat::parse_str("(module)").unwrap()).await;
    assert!(matches!(core, LoadError::NotAComponent(NotAComponent::CoreModule)), "{core}");
    let wide = refusal(wat::parse_str("(component (core func (canon task.cancel)))").unwrap()).await;
    assert!(matches!(wide, LoadError::NotAComponent(NotAComponent::Unsupported(_))), "{wide}");
    let text = refusal(&b"(component)"[..]).await;
    assert!(matches!(text, LoadError::NotAComponent(NotAComponent::NotWasm)), "{text}");
    let none = refusal(Vec::new()).await;
    assert!(matches!(none, LoadError::NotAComponent(NotAComponent::Empty)), "{none}");
    let large = refusal(vec![0; super::PLUGIN_BYTES_MAX + 1]).await;
    assert!(matches!(large, LoadError::TooLarge { .. }), "{large}");
    let engine = super::engine::engine(1).unwrap();
    let compiled = refusal(engine.precompile_component(&whole).unwrap()).await;
    assert!(matches!(compiled, LoadError::NotAComponent(NotAComponent::Precompiled)), "{compiled}");
}

#[tokio::test]
async fn a_component_of_another_contract_is_refused_with_what_it_exports() {
    let other = wat::parse_str(r#"(component (instance $i) (export "acme:jobs/worker@1.0.0" (instance $i)))"#).unwrap();
    let refused = refusal(other).await;
    assert!(refused.to_string().contains("acme:jobs/worker@1.0.0"), "{refused}");
    assert!(matches!(refused, LoadError::UnknownContract { .. }));
    let future = r#"(component (instance $i) (export "fanfare:consumer/handler@0.3.0" (instance $i)))"#;
    assert!(matches!(refusal(wat::parse_str(future).unwrap()).await, LoadError::UnknownContract { .. }));
    let hollow = r#"(component (instance $i) (export "fanfare:consumer/handler@0.1.0" (instance $i)))"#;
    let told = refusal(wat::parse_str(hollow).unwrap()).await;
    assert!(matches!(told, LoadError::OtherContents(_)), "{told}");
    let told = told.to_string();
    assert!(told.contains("describe") && told.contains("build it against wit/consumer.wit as it is"), "{told}");
}

#[tokio::test]
async fn an_import_that_the_host_does_not_have_is_named() {
    let world = "package test:guest;
        interface rockets { launch: func(); }
        world extra { include fanfare:consumer/consumer@0.1.0; import rockets; }";
    let refused = refusal(fixture::of_world(world, r#"(import "test:guest/rockets" "launch" (func))"#)).await;
    assert!(
        matches!(&refused, LoadError::UnlinkedImport(missing) if missing.contains("test:guest/rockets")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_describe_that_fails_is_told_from_one_that_says_nonsense() {
    let trapped = refusal(fixture::describing("", TRAP)).await;
    assert!(matches!(trapped, LoadError::DescribeFailed(DescribeFailed::Trap { .. })), "{trapped}");
    super::hostile::refused_for_computing(fixture::describing("", SPIN)).await;
    let nonsense = refusal(fixture::describing("", &fixture::describe_with_version(112, 6))).await;
    assert!(nonsense.to_string().contains(r#""a test" is not a semantic version"#), "{nonsense}");
    let capable = fixture::describing(SET, &format!("{SET_KEY} {}", fixture::DESCRIBE));
    let capable = refusal(capable).await;
    assert!(capable.to_string().contains("in `handle` only"), "{capable}");
}

#[tokio::test]
async fn a_compiled_plugin_is_read_back_and_a_damaged_one_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache_dir = dir.path().join("compiled");
    let load = async || {
        let settings = Settings { cache_dir: Some(cache_dir.clone()), instances_max: 1, ..Settings::default() };
        let plugin = super::Sandbox::new(settings).unwrap().load(guest(DONE)).await.unwrap();
        let version = plugin.link(&"inventory".parse().unwrap(), &Policy::default()).unwrap();
        let handled = handle(&version, Memory::default()).await;
        assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
        plugin.load_report().from_cache
    };
    assert!(!load().await);
    assert!(load().await);
    let kept = std::fs::read_dir(&cache_dir).unwrap().map(|file| file.unwrap().path());
    let (key, kept): (Vec<_>, Vec<_>) = kept.partition(|path| path.ends_with("key"));
    assert_eq!((key.len(), kept.len()), (1, 1), "{kept:?}");
    let whole = std::fs::read(&kept[0]).unwrap();
    let mut forged = whole.clone();
    *forged.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], &forged, b""] {
        std::fs::write(&kept[0], damaged).unwrap();
        assert!(!load().await, "{} bytes", damaged.len());
        assert!(load().await);
    }
    // Somebody who does not know the key cannot make one up.
    std::fs::write(&key[0], [7; 32]).unwrap();
    assert!(!load().await);
    std::fs::write(&key[0], b"half").unwrap();
    assert!(!load().await && load().await, "half a key is none");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key[0]).unwrap()) & 0o777, 0o600);
}

#[cfg(unix)]
#[tokio::test]
async fn code_that_was_loaded_stays_as_it_was_checked_whoever_writes_to_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache_dir = dir.path().join("compiled");
    let load = async || {
        let settings = Settings { cache_dir: Some(cache_dir.clone()), instances_max: 1, ..Settings::default() };
        super::Sandbox::new(settings).unwrap().load(guest(DONE)).await.unwrap()
    };
    drop(load().await);
    let plugin = load().await;
    assert!(plugin.load_report().from_cache);
    for file in std::fs::read_dir(&cache_dir).unwrap() {
        let path = file.unwrap().path();
        let zeros = vec![0; std::fs::read(&path).unwrap().len()];
        // Into the same file: another one under its name would leave a map as it is.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &zeros, 0).unwrap();
    }
    let version = plugin.link(&"inventory".parse().unwrap(), &Policy::default()).unwrap();
    assert!(matches!(handle(&version, Memory::default()).await.outcome, Outcome::Done));
}

#[cfg(unix)]
#[test]
fn a_cache_where_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = super::Sandbox::new(Settings {
        cache_dir: Some(dir.path().to_owned()),
        instances_max: 1,
        ..Settings::default()
    })
    .err();
    assert!(refused.unwrap().to_string().contains("others may write"));
}

#[tokio::test]
async fn a_grant_is_nothing_without_the_operator() {
    let bytes = importing(PUBLISH, &format!("{PUBLISH_LOW} {DONE}"));
    let grant = Grant { publish: vec!["com.other.*".parse().unwrap()], ..Grant::default() };
    let handled = handle_with(bytes, &Policy { grant, ..Policy::default() }, Memory::default()).await;
    assert_eq!(trap(&handled).0, "grant");
}

#[tokio::test]
async fn an_instance_that_remembers_one_generation_of_state_sees_no_other() {
    let version = version(remembering(), &Policy { concurrency: 1.try_into().unwrap(), ..Policy::default() }).await;
    let on = async |generation| {
        let view = Arc::new(Memory::default());
        let state = Some(Generation::of(generation));
        version.handle_on(state, &placed(&order()), 1, Origin::Live, view, Gate::Trial).await
    };
    version.keep(on(1).await.instance.unwrap());
    let other = on(2).await;
    assert!(matches!(other.outcome, Outcome::Done), "{:?}", other.outcome);
    version.keep(other.instance.unwrap());
    let again = on(2).await;
    assert!(
        matches!(again.outcome, Outcome::Reject { .. }),
        "what is of no use any more makes room: {:?}",
        again.outcome
    );
}

#[tokio::test]
async fn an_instance_is_replaced_before_what_it_leaks_counts() {
    // Rejects from its 10,001st event on.
    let forgetful = format!(
        "(global.set $handled (i32.add (global.get $handled) (i32.const 1)))
         (if (result i32) (i32.gt_u (global.get $handled) (i32.const 10000)) (then {REJECT}) (else {DONE}))"
    );
    let version = version(guest(&forgetful), &Policy::default()).await;
    let (event, mut fresh) = (placed(&order()), 0);
    for _ in 0..10_001 {
        fresh += u32::from(version.warm() == 0);
        let handled = version.handle_event(&event, 1, Origin::Live, Arc::new(Memory::default())).await;
        assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
        version.keep(handled.instance.unwrap());
    }
    assert_eq!(fresh, 2);
}

#[cfg(unix)]
#[test]
fn a_cache_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // Who is not root finds one that is root's.
    let theirs = match std::os::unix::fs::chown(dir.path(), Some(1), None) {
        Ok(()) => dir.path(),
        Err(_) => std::path::Path::new("/usr"),
    };
    let settings = Settings { cache_dir: Some(theirs.to_owned()), instances_max: 1, ..Settings::default() };
    let refused = super::Sandbox::new(settings).err().unwrap().to_string();
    assert!(refused.contains("belongs to another user"), "{refused}");
}
