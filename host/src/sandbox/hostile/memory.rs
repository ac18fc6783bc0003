//! Memory: how much a guest can have in whatever form, what becomes of it, and that nobody finds what another left.

use std::sync::Arc;
use std::time::Duration;

use wasm_encoder::{ComponentSection as _, Encode as _};
use wasmtime::wasmparser::{Parser, Payload};

use super::{DONE, Guest, done, goes_on, guest, handle, refused, trap, tried, version};
use crate::backend::Origin;
use crate::capability::fixture::{Memory, order, placed};
use crate::policy::{Isolation, Limits, Policy};
use crate::sandbox::fixture::{self, REJECT};
use crate::sandbox::{DescribeFailed, LoadError, Outcome, Sandbox, Settings};
use crate::version::Binary;

const MIB: usize = 1 << 20;

/// `component` with one more core module, of which it has so many instances besides its own.
fn with_more(component: &[u8], module: &str, instances: u32) -> Binary {
    let (mut depth, mut modules) = (0_u32, 0_u32);
    for payload in Parser::new(0).parse_all(component) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } => {
                modules += u32::from(depth == 0);
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    let mut component = component.to_vec();
    let module = wat::parse_str(module).unwrap();
    component.push(wasm_encoder::ComponentSectionId::CoreModule as u8);
    module.len().encode(&mut component);
    component.extend(module);
    let mut section = wasm_encoder::InstanceSection::new();
    for _ in 0..instances {
        section.instantiate::<[(&str, wasm_encoder::ModuleArg); 0], &str>(modules, []);
    }
    section.append_to_component(&mut component);
    component.into()
}

fn limited(memory_bytes: usize) -> Limits {
    Limits { memory_bytes, ..Limits::default() }
}

#[tokio::test]
async fn memories_and_tables_are_counted_together() {
    // Three memories and as many tables beside the guest's own.
    let more = "(module (memory 16) (table 65536 funcref))";
    let bytes = with_more(&guest(DONE), more, 3);
    let sandbox = fixture::sandbox();
    let plugin = sandbox.load(bytes.clone()).await.unwrap();
    let link =
        |bytes| plugin.link(&"hostile".parse().unwrap(), &Policy { limits: limited(bytes), ..Policy::default() });
    let refused = link(MIB / 2).err().unwrap().to_string();
    assert!(refused.contains("limits.memory"), "{refused}");
    // Enough for any of the memories, for all of them, and for the tables of half a MiB each as well.
    for too_little in [2 * MIB, 4 * MIB] {
        let handled = handle(&*version(&sandbox, bytes.clone(), limited(too_little)).await).await;
        assert_eq!(trap(&handled).0, "memory");
    }
    done(&handle(&*version(&sandbox, bytes, limited(6 * MIB)).await).await);
}

#[tokio::test]
async fn more_memories_tables_or_instances_than_a_plugin_has_use_for_are_refused() {
    let memories = "(module (memory 1))";
    let tables = "(module (table 1 funcref))";
    let large = "(module (table 10000000 funcref))";
    let many_memories = format!("(module {})", "(memory 1)".repeat(90));
    let many_tables = format!("(module {})", "(table 1 funcref)".repeat(90));
    let wide = "(module (memory i64 0x100000))";
    for (what, module, instances) in [
        ("memories", memories, 60),
        ("tables", tables, 60),
        ("instances", "(module)", 900),
        ("a large table", large, 1),
        ("memories of one module", &many_memories, 1),
        ("tables of one module", &many_tables, 1),
        ("a memory of 64 GiB", wide, 1),
    ] {
        let refused = refused(with_more(&guest(DONE), module, instances)).await;
        assert!(matches!(refused, LoadError::Compile(_) | LoadError::NotAComponent(_)), "{what}: {refused}");
    }
}

#[tokio::test]
async fn memory_and_tables_grow_within_the_limit_alone() {
    let tables = r#"(table $t 1 funcref) (elem declare func $unused) (func $unused)"#;
    let growing = |what: &str| format!("(loop $more (br_if $more (i32.ne (i32.const -1) {what}))) {DONE}");
    let memory = growing("(memory.grow (i32.const 1))");
    let table = growing("(table.grow $t (ref.func $unused) (i32.const 1024))");
    let handled = tried(Guest { handle: &memory, ..Guest::default() }.build(), limited(MIB)).await;
    assert_eq!(trap(&handled).0, "memory");
    let handled = tried(Guest { more: tables, handle: &table, ..Guest::default() }.build(), limited(MIB / 2)).await;
    assert_eq!(trap(&handled).0, "memory");
    // A table ends earlier than that, and says so as WebAssembly does.
    done(&tried(Guest { more: tables, handle: &table, ..Guest::default() }.build(), limited(4 * MIB)).await);
}

/// Looks through all its memory, a global and a table for what it left itself, rejecting if it finds anything, and leaves it
/// everywhere for whoever comes next.
fn secretive() -> Binary {
    let more =
        r#"(table $t 4 funcref) (elem declare func $unused) (func $unused) (global $secret (mut i64) (i64.const 0))"#;
    let handle = format!(
        "(drop (memory.grow (i32.const 30)))
         (local.set $end (i32.mul (memory.size) (i32.const 65536)))
         (local.set $at (i32.const 16384))
         (if (i32.eqz (ref.is_null (table.get $t (i32.const 3)))) (then {REJECT} (return)))
         (if (i64.ne (global.get $secret) (i64.const 0)) (then {REJECT} (return)))
         (loop $more
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then {REJECT} (return)))
            (i64.store (local.get $at) (i64.const 0x5ec2e75ec2e75ec2))
            (br_if $more (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
         (table.set $t (i32.const 3) (ref.func $unused))
         (global.set $secret (i64.const 1))
         {DONE}"
    );
    Guest { more, handle: &handle, ..Guest::default() }.build()
}

#[tokio::test]
async fn with_isolation_by_event_nothing_is_left_to_find() {
    // One place, so that every instance stands where the one before stood.
    let sandbox = Sandbox::new(Settings { instances_max: 1, ..Settings::default() }).unwrap();
    let plugin = sandbox.load(secretive()).await.unwrap();
    let look = async |isolation| {
        let policy = Policy { isolation, ..Policy::default() };
        let version = plugin.link(&"secretive".parse().unwrap(), &policy).unwrap();
        let mut found = 0;
        for _ in 0..50 {
            let memory = Arc::new(Memory::default());
            let handled = version.handle_event(&placed(&order()), 1, Origin::Live, memory).await;
            found += u32::from(matches!(handled.outcome, Outcome::Reject { .. }));
            if let Some(instance) = handled.instance {
                version.keep(instance);
            }
        }
        found
    };
    assert_eq!(look(Isolation::Event).await, 0);
    assert!(look(Isolation::Warm).await > 0, "an instance that stays warm does find it: the look is a look");
    assert_eq!(look(Isolation::Event).await, 0);
}

#[tokio::test]
async fn instances_that_grew_large_do_not_all_stay_warm() {
    let grows = format!("(drop (memory.grow (i32.const 800))) {DONE}");
    let sandbox = Sandbox::new(Settings { instances_max: 16, ..Settings::default() }).unwrap();
    let version = version(&sandbox, guest(&grows), Limits::default()).await;
    let mut handled = Vec::new();
    for _ in 0..8 {
        handled.push(handle(&version).await);
    }
    for handled in handled {
        done(&handled);
        version.keep(handled.instance.unwrap());
    }
    assert!((1..=2).contains(&version.warm()), "{} instances of 50 MiB", version.warm());
}

#[tokio::test]
async fn memory_beyond_its_limit_ends_a_describe_too() {
    let describe = format!("(drop (memory.grow (i32.const 4200))) {}", fixture::DESCRIBE);
    let refused = refused(Guest { describe: &describe, ..Guest::default() }.build()).await;
    let LoadError::DescribeFailed(DescribeFailed::Trap { kind, .. }) = &refused else { panic!("{refused}") };
    assert_eq!(kind, "memory");
}

#[tokio::test]
async fn instances_that_wait_take_no_place_from_those_that_run() {
    let sandbox = Sandbox::new(Settings { instances_max: 1, ..Settings::default() }).unwrap();
    let version = version(&sandbox, guest(DONE), Limits::default()).await;
    version.keep(handle(&version).await.instance.unwrap());
    assert_eq!(version.warm(), 1);
    let others = tokio::time::timeout(Duration::from_secs(60), goes_on(&sandbox)).await;
    others.expect("a place");
}

#[tokio::test]
async fn all_instances_that_wait_hold_no_more_together_than_a_gigabyte() {
    let grows = format!("(drop (memory.grow (i32.const 1600))) {DONE}");
    let sandbox = Sandbox::new(Settings { instances_max: 32, ..Settings::default() }).unwrap();
    let plugin = sandbox.load(guest(&grows)).await.unwrap();
    let mut versions = Vec::new();
    for number in 0..16 {
        let policy = Policy { limits: limited(128 * MIB), ..Policy::default() };
        let version = plugin.link(&format!("large-{number}").parse().unwrap(), &policy).unwrap();
        version.keep(handle(&version).await.instance.unwrap());
        versions.push(version);
    }
    // Of 100 MiB and a little each.
    let warm: usize = versions.iter().map(|version| version.warm()).sum();
    assert!((8..=10).contains(&warm), "{warm}");
}
