//! Input that nobody would send, wherever bytes come in from outside: plugin files, side files, filter policies, orders and
//! CloudEvents. Made from good input by a seed, so that whatever is found can be found again.
//!
//! ```text
//! Target ── make(dice) ──► input ── the host's own reader ──► taken, or refused in few words ── else ──► Finding
//! ```
//!
//! It needs no nightly compiler and no coverage: what it lacks in guidance it has in grammar.
//!
//! **Invariant**: the readers are the host's own, and requests go to the real program.

mod filters;
mod plugins;
mod requests;
mod side_files;
mod text;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fanfare_tests::crash::goods::Dice;

pub use filters::Filters;
pub use plugins::{Plugins, Stage};
pub use requests::Requests;
pub use side_files::SideFiles;

/// What a refusal may be long: it is shown to people, and the input chose what it quotes.
pub const REFUSAL_BYTES_MAX: usize = 16 << 10;

/// A place where bytes come in.
pub trait Target {
    fn name(&self) -> &'static str;

    /// Makes one input.
    fn make(&mut self, dice: &mut Dice) -> Vec<u8>;

    /// Hands it in. The error says what a reader must not do: panic, hang, or answer at length.
    fn try_input(&mut self, input: &[u8]) -> Result<(), String>;
}

/// An input that the host does not stand.
pub struct Finding {
    pub target: &'static str,
    pub seed: u64,
    pub number: u64,
    pub what: String,
    pub input: Vec<u8>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, seed, number, what, input } = self;
        let shown = String::from_utf8_lossy(input);
        let shown: String = shown.chars().take(2_000).collect();
        write!(f, "{target}, --seed {seed}, input {number}: {what}\n{shown:?} ({} bytes)", input.len())
    }
}

/// Hands in so many inputs.
///
/// # Errors
/// The first that the host does not stand.
pub fn run(target: &mut dyn Target, runs: u64, seed: u64) -> Result<(), Box<Finding>> {
    let mut dice = Dice::new(seed);
    for number in 0..runs {
        let input = target.make(&mut dice);
        let tried = catch_unwind(AssertUnwindSafe(|| target.try_input(&input)));
        let what = match tried {
            Ok(Ok(())) => continue,
            Ok(Err(what)) => what,
            Err(panic) => format!("it panicked: {}", words(&*panic)),
        };
        return Err(Box::new(Finding { target: target.name(), seed, number, what, input }));
    }
    Ok(())
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no words").to_owned()
}

/// Refusals are for people: bounded, whatever the input was.
fn check_refusal(refusal: &str) -> Result<(), String> {
    if refusal.is_empty() || refusal.len() > REFUSAL_BYTES_MAX {
        return Err(format!("a refusal of {} bytes", refusal.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
