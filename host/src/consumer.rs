//! The directory of consumers: what is loaded, in which state, and why.
//!
//! A consumer is a plugin file `NAME.wasm` in one directory, with the operator's side file `NAME.toml` beside it.
//! [`directory`] follows what is there: [`scan`] looks, [`settle`] waits for copies to be complete, [`diff`] says what
//! changed, and one [`slot`] per consumer takes each change up through the stages of [`stage`].
//!
//! **Invariants**
//! - The directory is the truth, notifications of the file system are hints: one that is lost costs time only.
//! - A bad file never replaces a good one: what runs is touched only when the next version has passed every stage.
//! - What was refused is not tried again until it changes, unless the host or its store was to blame.
//! - What was decided about a file ([`history`]) holds for that very file, through restarts, and for no other.

pub mod archive;
pub mod board;
pub mod check;
pub mod diff;
pub mod directory;
pub mod elsewhere;
pub mod grants;
pub mod history;
pub mod host;
pub mod runtime;
pub mod scan;
pub mod settle;
pub mod slot;
pub mod stage;
pub mod status;
pub mod steer;
pub mod watch;

pub use check::check;
pub use directory::{Directory, Settings};
pub use host::Host;
