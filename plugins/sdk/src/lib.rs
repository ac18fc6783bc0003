//! Write Fanfare consumers in Rust.
//!
//! A consumer is one function from an event to effects. Implement [`Consumer`], name it in [`export!`], build for
//! `wasm32-wasip2`, and drop the file into the host's consumers directory:
//!
//! ```
//! use fanfare_sdk::prelude::*;
//!
//! pub struct Hello;
//!
//! impl Consumer for Hello {
//!     fn describe() -> Description {
//!         Description::new("1.0.0", "Counts orders").on("order.placed")
//!     }
//!
//!     fn handle(_event: Event) -> Result<(), Failure> {
//!         state::add("orders", 1);
//!         Ok(())
//!     }
//! }
//!
//! fanfare_sdk::export!(Hello);
//! ```
//!
//! The same code runs natively: away from wasm the imports ([`state`], [`journal`], [`outbox`], [`records`],
//! [`settings`], [`log`], [`http`]) are served by [`testing::Host`], so a handler is tested with plain `cargo test`.

// The macros below, and the generated code, name this crate from the inside and from the outside alike.
extern crate self as fanfare_sdk;

#[doc(hidden)]
pub mod bindings;
mod describe;
mod failure;
pub mod http;
mod imports;
pub mod json;
pub mod money;
mod orders;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod time;

pub use bindings::exports::fanfare::consumer::handler::{
    Column, ColumnType, Dataset, Description, Failure, Guest as Consumer, HttpNeed, Later, Need, Subscription,
};
pub use bindings::fanfare::consumer::{events, orders as order};
pub use imports::{journal, log, outbox, records, settings, state};

#[doc(hidden)]
pub use wit_bindgen::rt as __rt;

/// What nearly every consumer needs.
pub mod prelude {
    pub use crate::events::{Body, Change, Custom, Event, OrderChanged, Origin};
    pub use crate::order::{Address, Customer, Line, Order, Status};
    pub use crate::{Column, ColumnType, Consumer, Dataset, Description, Failure, Need};
    pub use crate::{journal, log, outbox, records, settings, state};
}

/// Makes a type that implements [`Consumer`] the consumer of this plugin file. Only in wasm: natively, several consumers
/// can be linked into one program.
#[macro_export]
macro_rules! export {
    ($consumer:ident) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "generated: the exported functions of the canonical ABI")]
        mod fanfare_export {
            use super::$consumer;
            $crate::bindings::export_component!($consumer with_types_in $crate::bindings);
        }
    };
}
