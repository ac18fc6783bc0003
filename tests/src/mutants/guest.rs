//! The smallest plugin there is, in parts that can be replaced one by one.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The contract that hosts serve.
pub const CONTRACT: &str = include_str!("../../../wit/consumer.wit");
/// A world with the contract and nothing else.
pub const WORLD: &str = "package test:guest; world extra { include fanfare:consumer/consumer@0.1.0; }";

/// What a plugin is made of. Texts lie where [`Parts::describe`] looks for them.
pub struct Parts {
    pub contract: String,
    pub world: String,
    /// Core functions that are imported.
    pub imports: String,
    pub version: String,
    pub summary: String,
    pub kind: String,
    pub subscriptions: u32,
    /// Instructions before the description is put together.
    pub describe: String,
    pub handle: String,
    /// Further fields of the core module.
    pub more: String,
}

const VERSION_AT: u32 = 2048;
const SUMMARY_AT: u32 = 4096;
const KIND_AT: u32 = 8192;

impl Default for Parts {
    fn default() -> Self {
        Self {
            contract: CONTRACT.to_owned(),
            world: WORLD.to_owned(),
            imports: String::new(),
            version: "1.2.0".to_owned(),
            summary: "Does nothing".to_owned(),
            kind: "order.placed".to_owned(),
            subscriptions: 1,
            describe: String::new(),
            handle: String::new(),
            more: String::new(),
        }
    }
}

/// A good one.
#[must_use]
pub fn guest() -> Vec<u8> {
    Parts::default().build()
}

impl Parts {
    /// # Panics
    /// If the parts do not fit together.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        resolve.push_str("consumer.wit", &self.contract).expect("a contract");
        let package = resolve.push_str("extra.wit", &self.world).expect("a world");
        let world = resolve.select_world(&[package], Some("extra")).expect("the world");
        let mut module = wat::parse_str(self.module()).expect("a module");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("a world that fits");
        let mut encoder = ComponentEncoder::default().validate(true).module(&module).expect("a module that fits");
        encoder.encode().expect("a component")
    }

    fn module(&self) -> String {
        let Self { imports, version, summary, kind, subscriptions, describe, handle, more, .. } = self;
        let texts: String = [(VERSION_AT, version), (SUMMARY_AT, summary), (KIND_AT, kind)]
            .map(|(at, text)| format!("(data (i32.const {at}) {})", literal(text)))
            .concat();
        let store = |at: u32, value: u32| format!("(i32.store (i32.const {at}) (i32.const {value}))");
        let length = |text: &str| u32::try_from(text.len()).expect("a text");
        let fields = [
            store(512, VERSION_AT),
            store(516, length(version)),
            store(520, 1),
            store(524, SUMMARY_AT),
            store(528, length(summary)),
            store(532, 576),
            store(536, *subscriptions),
            store(576, KIND_AT),
            store(580, length(kind)),
        ]
        .concat();
        format!(
            r#"(module
                {imports}
                (memory (export "memory") 2)
                (global $heap (mut i32) (i32.const 16384))
                {texts} {more}
                (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
                    (global.set $heap (i32.add (local.get $at) (local.get $size)))
                    (local.get $at))
                (func (export "fanfare:consumer/handler@0.1.0#describe") (result i32) {describe} {fields} (i32.const 512))
                (func (export "fanfare:consumer/handler@0.1.0#handle") (param i32) (result i32)
                    (global.set $heap (i32.const 16384)) {handle}
                    (i32.store8 (i32.const 1024) (i32.const 0)) (i32.const 1024)))"#
        )
    }
}

/// `text` as WebAssembly's text format has it.
fn literal(text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!("\"{bytes}\"")
}
