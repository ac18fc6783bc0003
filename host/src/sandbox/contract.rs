//! The contracts that the host serves, as Rust types, and how a component says which one it speaks.
//!
//! A contract is recognised by its exports. To serve another version beside this one: its own `bindgen!`, one more
//! variant of [`Contract`], and one more line in [`Contract::recognise`].

use wasmtime::component::{Component, InstancePre};

use super::state::State;

#[allow(
    unused_variables,
    dead_code,
    clippy::pedantic,
    unsafe_code,
    reason = "written by wasmtime's generator; its unsafe blocks call functions whose types it checked just before"
)]
pub mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "consumer",
        // Events are lowered straight from what the host holds, without a copy in between.
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: {
            // Those that never wait are called without a future.
            "fanfare:consumer/state.set": trappable,
            "fanfare:consumer/state.delete": trappable,
            "fanfare:consumer/outbox.publish": trappable,
            "fanfare:consumer/outbox.send": trappable,
            "fanfare:consumer/records": trappable,
            "fanfare:consumer/settings": trappable,
            "fanfare:consumer/log": trappable,
            default: async | trappable,
        },
        exports: { default: async },
    });

    pub use exports::fanfare::consumer::handler;
    pub use fanfare::consumer::{events, journal, log, orders, outbox, records, settings, state};
}

/// Whether `export`, by its name, is the handler of a contract that the host serves.
pub fn is_known(export: &str) -> bool {
    let version = export.strip_prefix("fanfare:consumer/handler@").and_then(|text| semver::Version::parse(text).ok());
    version.is_some_and(|version| (version.major, version.minor) == (0, 1))
}

/// A component linked against the contract that it speaks.
#[derive(Clone)]
pub enum Contract {
    V0_1(v0_1::ConsumerPre<State>),
}

impl Contract {
    /// Whether some contract of the host's own finds its exports in `component`.
    pub fn recognise(component: &Component) -> bool {
        component.get_export_index(None, "fanfare:consumer/handler@0.1.0").is_some()
    }

    pub fn component(&self) -> &Component {
        match self {
            Self::V0_1(linked) => linked.instance_pre().component(),
        }
    }

    /// # Errors
    /// Where the exports have the right names and wrong contents.
    pub fn bind(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        v0_1::ConsumerPre::new(linked).map(Self::V0_1)
    }
}
