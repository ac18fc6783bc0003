//! The contracts that the host serves, as Rust types, and how a component says which one it speaks.
//!
//! A contract is recognised by its exports. To serve another version beside this one: its own `bindgen!`, one more
//! variant of [`Series`] and [`Contract`], and what the compiler asks for then. The tests serve two.

use wasmtime::component::{Component, InstancePre, Linker};

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

/// Breaks what a later contract may break, so that the tests serve two at once. No program serves it.
#[cfg(test)]
#[allow(
    unused_variables,
    dead_code,
    clippy::pedantic,
    unsafe_code,
    reason = "written by wasmtime's generator; its unsafe blocks call functions whose types it checked just before"
)]
pub mod v0_2 {
    wasmtime::component::bindgen!({
        path: "src/sandbox/contract/next.wit",
        world: "consumer",
        imports: { default: async | trappable },
        exports: { default: async },
    });

    pub use exports::fanfare::consumer::handler;
    pub use fanfare::consumer::state;
}

/// A compatible series of the contract: within it, each version understands what was built for an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    V0_1,
    #[cfg(test)]
    V0_2,
}

impl Series {
    /// The newest first: a plugin that speaks several is spoken to in the newest that the host serves.
    #[cfg(not(test))]
    const ALL: [Self; 1] = [Self::V0_1];
    #[cfg(test)]
    const ALL: [Self; 2] = [Self::V0_2, Self::V0_1];

    fn number(self) -> (u64, u64) {
        match self {
            Self::V0_1 => (0, 1),
            #[cfg(test)]
            Self::V0_2 => (0, 2),
        }
    }

    /// The series in which a component with these exports is spoken to. `None` where it exports no handler that the host
    /// serves, or two of one series: which of them is meant, nobody can tell.
    pub fn spoken<S: AsRef<str>>(exports: &[S]) -> Option<Self> {
        let exported: Vec<_> = exports.iter().filter_map(|name| handler(name.as_ref())).collect();
        let of = |series: Self| exported.iter().filter(|number| **number == series.number()).count();
        if Self::ALL.into_iter().any(|series| of(series) > 1) {
            return None;
        }
        Self::ALL.into_iter().find(|series| of(*series) == 1)
    }
}

/// The series of the handler that is exported by this name, if one is.
fn handler(export: &str) -> Option<(u64, u64)> {
    let version = export.strip_prefix("fanfare:consumer/handler@")?;
    let version = semver::Version::parse(version).ok()?;
    Some((version.major, version.minor))
}

/// A component linked against the contract that it speaks.
#[derive(Clone)]
pub enum Contract {
    V0_1(v0_1::ConsumerPre<State>),
    #[cfg(test)]
    V0_2(v0_2::ConsumerPre<State>),
}

impl Contract {
    pub fn component(&self) -> &Component {
        match self {
            Self::V0_1(linked) => linked.instance_pre().component(),
            #[cfg(test)]
            Self::V0_2(linked) => linked.instance_pre().component(),
        }
    }

    /// The same component, linked against something else.
    ///
    /// # Errors
    /// Where it imports what is not in `linker`.
    pub fn relinked(&self, linker: &Linker<State>) -> wasmtime::Result<Self> {
        let series = match self {
            Self::V0_1(_) => Series::V0_1,
            #[cfg(test)]
            Self::V0_2(_) => Series::V0_2,
        };
        linker.instantiate_pre(self.component()).and_then(|linked| Self::bind(linked, series))
    }

    /// # Errors
    /// Where the exports have the right names and wrong contents.
    pub fn bind(linked: InstancePre<State>, series: Series) -> wasmtime::Result<Self> {
        match series {
            Series::V0_1 => v0_1::ConsumerPre::new(linked).map(Self::V0_1),
            #[cfg(test)]
            Series::V0_2 => v0_2::ConsumerPre::new(linked).map(Self::V0_2),
        }
    }
}

#[cfg(test)]
mod tests;
