//! Components for tests, written as core modules in text and wrapped in the contract.

use std::sync::Arc;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{Plugin, Sandbox, Settings, Version};
use crate::policy::Policy;
use crate::version::Binary;

/// A guest in parts, each in instructions or fields of a core module; what is left out behaves well.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The world `extra`, which may include the contract's.
    pub world: &'a str,
    /// Functions that the world imports, as core functions.
    pub imports: &'a str,
    /// With `$old`, `$align` and `$size`, and a local `$at`; the result is where.
    pub realloc: &'a str,
    pub describe: &'a str,
    /// Its results are [`DONE`], [`RETRY`] and [`REJECT`]; it has locals `$n`, `$at` and `$end`. `$handled` is a number of its own, which lives as long as the
    /// instance.
    pub handle: &'a str,
    /// Further fields: functions, a start, tables.
    pub more: &'a str,
    pub encoding: StringEncoding,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            world: WORLD,
            imports: "",
            realloc: REALLOC,
            describe: DESCRIBE,
            handle: DONE,
            more: "",
            encoding: StringEncoding::UTF8,
        }
    }
}

impl Guest<'_> {
    pub fn build(&self) -> Binary {
        component(self.world, &module(self), self.encoding)
    }
}

/// A guest with this `handle`.
pub fn guest(handle: &str) -> Binary {
    Guest { handle, ..Guest::default() }.build()
}

/// Done for the first event of an instance, rejecting every later one.
pub fn remembering() -> Binary {
    guest(&format!(
        "(if (result i32) (global.get $handled) (then {REJECT}) (else (global.set $handled (i32.const 1)) {DONE}))"
    ))
}

/// A guest with imports of the contract.
pub fn importing(imports: &str, handle: &str) -> Binary {
    Guest { imports, handle, ..Guest::default() }.build()
}

/// A guest with this `describe`.
pub fn describing(imports: &str, describe: &str) -> Binary {
    Guest { imports, describe, ..Guest::default() }.build()
}

/// A guest of the world `extra` in `wit`, which may include the contract's.
pub fn of_world(wit: &str, imports: &str) -> Binary {
    Guest { world: wit, imports, ..Guest::default() }.build()
}

pub const DONE: &str = "(i32.store8 (i32.const 1024) (i32.const 0)) (i32.const 1024)";
/// In 1500 ms, because "later".
pub const RETRY: &str = "
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store8 (i32.const 1032) (i32.const 0))
    (i32.store8 (i32.const 1040) (i32.const 1))
    (i64.store (i32.const 1048) (i64.const 1500))
    (i32.store (i32.const 1056) (i32.const 80)) (i32.store (i32.const 1060) (i32.const 5))
    (i32.const 1024)";
/// Because "never".
pub const REJECT: &str = "
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store8 (i32.const 1032) (i32.const 1))
    (i32.store (i32.const 1040) (i32.const 96)) (i32.store (i32.const 1044) (i32.const 5))
    (i32.const 1024)";
pub const TRAP: &str = "unreachable";
pub const SPIN: &str = "(loop $for_ever (br $for_ever)) unreachable";
/// A description of version 1.2.0, the text at 64.
pub const DESCRIBE: &str = "
    (i32.store (i32.const 512) (i32.const 64)) (i32.store (i32.const 516) (i32.const 5))
    (i32.store (i32.const 520) (i32.const 7))
    (i32.store (i32.const 524) (i32.const 112)) (i32.store (i32.const 528) (i32.const 6))
    (i32.store (i32.const 532) (i32.const 576)) (i32.store (i32.const 536) (i32.const 1))
    (i32.store (i32.const 540) (i32.const 0)) (i32.store (i32.const 544) (i32.const 0))
    (i32.store (i32.const 576) (i32.const 128)) (i32.store (i32.const 580) (i32.const 12))
    (i32.const 512)";

/// [`DESCRIBE`] with the text at `at` and of `bytes` as its version.
pub fn describe_with_version(at: u32, bytes: u32) -> String {
    DESCRIBE.replacen("(i32.const 64)", &format!("(i32.const {at})"), 1).replacen(
        "(i32.const 5)",
        &format!("(i32.const {bytes})"),
        1,
    )
}

const WORLD: &str = "package test:guest; world extra { include fanfare:consumer/consumer@0.1.0; }";

/// Takes a little more each time, and starts again with every event.
const REALLOC: &str = "
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at)";

fn module(guest: &Guest<'_>) -> String {
    let Guest { imports, realloc, describe, handle, more, .. } = guest;
    format!(
        r#"(module
            {imports}
            (memory (export "memory") 2)
            (global $handled (mut i32) (i32.const 0))
            (global $heap (mut i32) (i32.const 4096))
            (data (i32.const 64) "1.2.0") (data (i32.const 80) "later") (data (i32.const 96) "never")
            (data (i32.const 112) "a test") (data (i32.const 128) "order.placed")
            (data (i32.const 160) "key") (data (i32.const 176) "value") (data (i32.const 192) "com.example.low")
            (data (i32.const 224) "{{}}")
            {more}
            (func (export "cabi_realloc") (param $old i32) (param i32) (param $align i32) (param $size i32) (result i32)
                (local $at i32) {realloc})
            (func (export "fanfare:consumer/handler@0.1.0#describe") (result i32) {describe})
            (func $handle_of_test (export "fanfare:consumer/handler@0.1.0#handle") (param i32) (result i32)
                (local $n i32) (local $at i32) (local $end i32)
                (global.set $heap (i32.const 4096))
                {handle}))"#
    )
}

/// The component of a core module, for the world `extra`.
pub fn component(world: &str, module: &str, encoding: StringEncoding) -> Binary {
    let mut resolve = Resolve::default();
    resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit")).unwrap();
    let package = resolve.push_str("extra.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("extra")).unwrap();
    let mut module = wat::parse_str(module).unwrap();
    embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap().into()
}

pub fn sandbox() -> Sandbox {
    Sandbox::new(Settings { instances_max: 4, ..Settings::default() }).unwrap()
}

pub async fn plugin(bytes: Binary) -> Arc<Plugin> {
    sandbox().load(bytes).await.unwrap()
}

pub async fn version(bytes: Binary, policy: &Policy) -> Arc<Version> {
    plugin(bytes).await.link(&"inventory".parse().unwrap(), policy).unwrap()
}
