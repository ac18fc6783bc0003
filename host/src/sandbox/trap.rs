//! What an error of a guest's call means.

use wasmtime::component::ResourceTableError;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::FieldMapError;

use super::outcome::Outcome;
use super::state::State;
use crate::capability::Stop;

/// A dead letter keeps both; the guest chooses what stands in them.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;
const BACKTRACE_BYTES_MAX: usize = 4 << 10;

/// The outcome behind `error`, which a call into the guest of `state` gave.
pub fn outcome(error: &wasmtime::Error, state: &State) -> Outcome {
    let (kind, message) = match (error.downcast_ref::<Stop>(), error.downcast_ref::<Trap>()) {
        (Some(Stop::Store(store)), _) => return Outcome::Store(store.clone()),
        (Some(Stop::Overstep { kind, message }), _) => ((*kind).to_owned(), message.clone()),
        (None, Some(Trap::Interrupt)) => {
            return Outcome::Timeout { what: "cpu", limit: state.cpu.limit(), backtrace: backtrace(error) };
        }
        (None, Some(trap)) => (kebab_case(&format!("{trap:?}")), words(trap, state)),
        (None, None) if error.is::<FieldMapError>() => ("limit".to_owned(), format!("the head of a request: {error}")),
        (None, None) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => ("exit".to_owned(), format!("the guest ended itself with exit status {}", exit.0)),
            None => host_call(error, state),
        },
    };
    Outcome::Trap { kind, message: bounded(message, MESSAGE_BYTES_MAX), backtrace: backtrace(error) }
}

/// What the host made of a call that was none. Some of wasmtime's errors have no type of their own: their words tell.
fn host_call(error: &wasmtime::Error, state: &State) -> (String, String) {
    let words = error.root_cause().to_string();
    let limit = |taken: &str, key: &str, max: usize| {
        let message =
            format!("{taken}: the limit is {max}; raise limits.{key} in the side file if the plugin needs it");
        ("limit".to_owned(), message)
    };
    let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    if full || words.contains("handle limit exceeded") {
        limit("too many handles at once", "handles", state.limits.handles)
    } else if words.contains("fuel allocated for hostcalls") {
        limit("too many bytes handed over in one call", "call", state.limits.call_bytes)
    } else {
        ("bad-argument".to_owned(), words)
    }
}

/// Where the guest was.
fn backtrace(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<WasmBacktrace>()?;
    Some(bounded(backtrace.to_string(), BACKTRACE_BYTES_MAX))
}

/// A panic is an `unreachable` for WebAssembly; what the guest said about it went to stderr.
fn words(trap: &Trap, state: &State) -> String {
    match state.log.last_words() {
        Some(last) => format!("{trap}; last on stderr: {last}"),
        None => trap.to_string(),
    }
}

/// `UnreachableCodeReached` → `unreachable-code-reached`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

/// At most `max` bytes of `text`, cut between characters.
pub fn bounded(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}
