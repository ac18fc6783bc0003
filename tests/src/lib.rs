//! What the stories in `tests/` are told with: the real program as a child process, and everybody around it.
//!
//! **Invariants**
//! - Nothing of the host is linked in here: what a story sees, a shop and an operator can see.
//! - Nobody waits for a time; everybody waits for a condition, with a deadline: [`eventually`].
//! - A host that is dropped has no delivery left, unless its story says so.

pub mod aws;
pub mod carrier;
pub mod client;
pub mod consumers;
pub mod cost;
pub mod crash;
pub mod disk;
pub mod guests;
pub mod host;
pub mod lambda;
pub mod load;
pub mod mail;
pub mod mutants;
pub mod orders;
pub mod program;
pub mod swaps;
pub mod wire;

use std::time::{Duration, Instant};

pub use carrier::Carrier;
pub use client::{Answer, Client};
pub use host::TestHost;
pub use serde_json::{Value, json};

/// How long a condition may take to come true: long enough for a busy machine that compiles at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks. Short beside everything that is waited for, long beside what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `look` finds what it looks for; its error says what there was instead.
///
/// # Panics
/// With the last error, when [`PATIENCE`] is over.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, look)
}

/// [`eventually`], with a deadline of its own.
///
/// # Panics
/// With the last error, when `patience` is over.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) if begin.elapsed() >= patience => {
                panic!("not within {patience:?}: {what}; instead: {instead}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
