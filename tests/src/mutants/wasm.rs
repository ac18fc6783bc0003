//! WebAssembly, valid from end to end, that is no plugin or a bad one.

use std::iter::repeat_n;

use wasm_encoder::{ComponentExportKind, ComponentExportSection, ComponentSection as _, Encode as _};
use wasmparser::{ComponentExternalKind, Parser, Payload};

use super::guest::{CONTRACT, Parts};
use crate::crash::goods::Dice;

const HANDLER: &str = "fanfare:consumer/handler@0.1.0";

pub fn core_module(dice: &mut Dice) -> Vec<u8> {
    let functions: String = (0..dice.below(20)).map(|n| format!("(func (export \"f{n}\") unreachable)")).collect();
    parse(&format!("(module (memory {}) {functions})", dice.below(10)))
}

pub fn other_world(dice: &mut Dice) -> Vec<u8> {
    let exports: String = (0..dice.below(6))
        .map(|n| format!(r#"(export "acme:jobs/worker{n}@1.{}.0" (instance $i))"#, dice.below(100)))
        .collect();
    parse(&format!("(component (instance $i) {exports})"))
}

/// As [`other_world`] is to no contract, this is to one that the host does not serve.
pub fn other_contract(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let version = match dice.below(3) {
        0 => format!("{}.{}.{}", 1 + dice.below(9), dice.below(10), dice.below(10)),
        1 => format!("0.{}.{}", 2 + dice.below(8), dice.below(10)),
        _ => format!("0.0.{}", dice.below(10)),
    };
    of_contract(good, &version)
}

/// The same component, but for the version of the contract in all its names.
///
/// # Panics
/// Unless `version` has as many digits as `0.1.0`.
#[must_use]
pub fn of_contract(component: &[u8], version: &str) -> Vec<u8> {
    const NAME: &[u8] = b"fanfare:consumer/";
    assert_eq!(version.len(), "0.1.0".len());
    let mut bytes = component.to_vec();
    let names: Vec<usize> =
        component.windows(NAME.len()).enumerate().filter(|(_, at)| *at == NAME).map(|(at, _)| at).collect();
    for name in names {
        let at = bytes[name..].iter().position(|byte| *byte == b'@').map(|at| name + at + 1);
        if let Some(at) = at.filter(|at| bytes[*at..].starts_with(b"0.1.0")) {
            bytes[at..at + version.len()].copy_from_slice(version.as_bytes());
        }
    }
    bytes
}

/// The handler under two names of one compatible series.
pub fn two_contracts(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let mut exports = ComponentExportSection::new();
    exports.export(
        format!("fanfare:consumer/handler@0.1.{}", 1 + dice.below(99)),
        ComponentExportKind::Instance,
        handler(good),
        None,
    );
    exports.append_to_component(&mut bytes);
    bytes
}

/// The number of the instance that is exported as the handler.
fn handler(component: &[u8]) -> u32 {
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("a good component") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                let export = section.into_iter().map(|export| export.expect("an export"));
                let handler = |kind| matches!(kind, ComponentExternalKind::Instance);
                if let Some(found) =
                    export.filter(|export| handler(export.kind)).find(|export| export.name.name == HANDLER)
                {
                    return found.index;
                }
            }
            _ => {}
        }
    }
    panic!("a component without a handler")
}

pub fn hollow_handler(dice: &mut Dice) -> Vec<u8> {
    let functions: &[&str] = match dice.below(4) {
        0 => &[],
        1 => &["describe"],
        2 => &["handle"],
        _ => &["describes", "handles"],
    };
    handler_of(functions, "", "", dice)
}

pub fn handler_of_other_types(dice: &mut Dice) -> Vec<u8> {
    let (of_core, of_component) = match dice.below(4) {
        0 => ("", ""),
        1 => ("(param i32) (result i32)", r#"(param "event" u32) (result u32)"#),
        2 => ("(param i64)", r#"(param "event" s64)"#),
        _ => ("(result f64)", "(result f64)"),
    };
    handler_of(&["describe", "handle"], of_core, of_component, dice)
}

/// A handler with these functions, all of one type.
fn handler_of(functions: &[&str], of_core: &str, of_component: &str, dice: &mut Dice) -> Vec<u8> {
    let exports: String = functions.iter().map(|name| format!("(export \"{name}\" (func $f))")).collect();
    parse(&format!(
        r#"(component
            (core module $m (memory {}) (func (export "f") {of_core} unreachable))
            (core instance $c (instantiate $m))
            (func $f {of_component} (canon lift (core func $c "f")))
            (instance $i {exports})
            (export "{HANDLER}" (instance $i)))"#,
        dice.below(10)
    ))
}

pub fn unknown_import(dice: &mut Dice) -> Vec<u8> {
    let number = dice.below(1_000);
    let (interface, import) = match dice.below(3) {
        0 => ("", format!("import launch{number}: func();")),
        1 => ("interface rockets { launch: func(); }", "import rockets;".to_owned()),
        _ => ("", "import wasi:io/poll@0.2.0;".to_owned()),
    };
    let module = match import.as_str() {
        "import rockets;" => "test:guest/rockets".to_owned(),
        "import wasi:io/poll@0.2.0;" => "wasi:io/poll@0.2.0".to_owned(),
        _ => "$root".to_owned(),
    };
    let function = if module == "$root" { format!("launch{number}") } else { "launch".to_owned() };
    let package = "package wasi:io@0.2.0 { interface poll { launch: func(); } }";
    let world = format!(
        "package test:guest; {interface} world extra {{ include fanfare:consumer/consumer@0.1.0; {import} }} {}",
        if module.starts_with("wasi") { package } else { "" }
    );
    let imports = format!("(import \"{module}\" \"{function}\" (func))");
    Parts { world, imports, summary: format!("Launches {number}"), ..Parts::default() }.build()
}

pub fn import_of_other_types(dice: &mut Dice) -> Vec<u8> {
    let (right, wrong, module, function, of_core) = match dice.below(4) {
        0 => (
            "get: func(name: string) -> option<string>;",
            "get: func(name: u32) -> option<string>;",
            "settings",
            "get",
            "(param i32 i32)",
        ),
        1 => (
            "count: func(key: string) -> s64;",
            "count: func(key: string) -> u32;",
            "state",
            "count",
            "(param i32 i32) (result i32)",
        ),
        2 => (
            "write: func(level: level, message: string);",
            "write: func(message: string);",
            "log",
            "write",
            "(param i32 i32)",
        ),
        _ => ("delete: func(key: string);", "forget: func(key: string);", "state", "forget", "(param i32 i32)"),
    };
    assert!(CONTRACT.contains(right), "the contract has no {right}");
    let imports = format!("(import \"fanfare:consumer/{module}@0.1.0\" \"{function}\" (func {of_core}))");
    let summary = format!("Asks otherwise {}", dice.below(1_000));
    Parts { contract: CONTRACT.replacen(right, wrong, 1), imports, summary, ..Parts::default() }.build()
}

pub fn bad_description(dice: &mut Dice) -> Vec<u8> {
    let mut parts = Parts { summary: format!("Says nonsense {}", dice.below(1_000)), ..Parts::default() };
    match dice.below(8) {
        0 => parts.version = format!("version {}", dice.below(100)),
        1 => parts.version = String::new(),
        2 => parts.summary.push_str("\nERROR a line that it made up"),
        3 => parts.summary = repeat_n('s', 501 + usize::try_from(dice.below(1_000)).unwrap_or(0)).collect(),
        4 => parts.kind = "order..placed".to_owned(),
        5 => parts.kind = repeat_n('k', 300 + usize::try_from(dice.below(1_000)).unwrap_or(0)).collect(),
        6 => parts.subscriptions = 0,
        _ => parts.subscriptions = 65 + u32::try_from(dice.below(500)).unwrap_or(0),
    }
    parts.build()
}

pub fn traps_at_once(dice: &mut Dice) -> Vec<u8> {
    let far = 0x10_0000 + 8 * dice.below(1_000);
    let (describe, more) = match dice.below(5) {
        0 => ("unreachable".to_owned(), ""),
        1 => (format!("(drop (i32.load (i32.const {far})))"), ""),
        2 => (format!("(return (i32.const {far}))"), ""),
        3 => (
            "(drop (call $deep (i32.const 1)))".to_owned(),
            "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))",
        ),
        _ => (String::new(), "(start $begin) (func $begin unreachable)"),
    };
    let summary = format!("Traps {}", dice.below(1_000));
    Parts { describe, more: more.to_owned(), summary, ..Parts::default() }.build()
}

/// Memories, tables or instances that no plugin has use for.
pub fn too_many_parts(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let more = u32::try_from(dice.below(200)).unwrap_or(0);
    let (module, instances) = match dice.below(4) {
        0 => ("(module (memory 1))".to_owned(), 10 + more),
        1 => ("(module (table 1 funcref))".to_owned(), 20 + more),
        2 => ("(module)".to_owned(), 70 + more),
        _ => (format!("(module (memory {}))", 5_000 + more), 1),
    };
    let mut bytes = good.to_vec();
    push_instances(&mut bytes, &module, instances);
    bytes
}

fn push_instances(component: &mut Vec<u8>, module: &str, instances: u32) {
    let (mut depth, mut modules) = (0_u32, 0_u32);
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("a good component") {
            Payload::ModuleSection { .. } => {
                modules += u32::from(depth == 0);
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    push_section(component, wasm_encoder::ComponentSectionId::CoreModule as u8, &parse(module));
    let mut section = wasm_encoder::InstanceSection::new();
    for _ in 0..instances {
        section.instantiate::<[(&str, wasm_encoder::ModuleArg); 0], &str>(modules, []);
    }
    section.append_to_component(component);
}

pub fn deeply_nested(dice: &mut Dice) -> Vec<u8> {
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    let mut component = EMPTY.to_vec();
    for _ in 0..1 + dice.below(900) {
        let inner = std::mem::replace(&mut component, EMPTY.to_vec());
        push_section(&mut component, wasm_encoder::ComponentSectionId::Component as u8, &inner);
    }
    component
}

/// Types of components in one another, deeper than any reader goes along: a file of a few KiB could take a stack with it.
pub fn types_in_types(dice: &mut Dice) -> Vec<u8> {
    let form = if dice.below(2) == 0 { 0x41 } else { 0x42 };
    let depth = usize::try_from(dice.below(100_000)).unwrap_or(0);
    let types: Vec<u8> = std::iter::once(1).chain([form, 1, 1].repeat(depth)).chain([form, 0]).collect();
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    push_section(&mut component, wasm_encoder::ComponentSectionId::Type as u8, &types);
    component
}

pub fn long_names(dice: &mut Dice) -> Vec<u8> {
    let length = usize::try_from(dice.below(4_000)).unwrap_or(0);
    let exports: String =
        (0..1 + dice.below(200)).map(|n| format!(r#"(export "n{}{n}" (instance $i))"#, "a".repeat(length))).collect();
    parse(&format!("(component (instance $i) {exports})"))
}

pub fn push_custom(component: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut section = Vec::new();
    name.encode(&mut section);
    section.extend(data);
    push_section(component, wasm_encoder::ComponentSectionId::CoreCustom as u8, &section);
}

fn push_section(component: &mut Vec<u8>, id: u8, content: &[u8]) {
    component.push(id);
    content.len().encode(component);
    component.extend(content);
}

fn parse(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}
