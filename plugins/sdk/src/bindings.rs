//! What wit-bindgen makes of `wit/consumer.wit`: the types and, on wasm, the raw imports. Plugins see it through the rest
//! of the crate; only the `export!` macro names it.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "generated code, where the canonical ABI crosses linear memory"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "fanfare:consumer/consumer",
    generate_all,
    runtime_path: "::fanfare_sdk::__rt",
    default_bindings_module: "::fanfare_sdk::bindings",
    pub_export_macro: true,
    export_macro_name: "export_component",
    additional_derives: [PartialEq],
});
