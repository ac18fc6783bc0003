//! Machine code on its way from a file into the process, copied once and checked as it passes.
//!
//! ```text
//! file ── piece by piece ──┬──► digest ──► is its MAC right? ──► mapped by wasmtime
//!                          └──► memory, sealed ──────────────────┘
//! ```
//! **Invariant:** what runs is what was checked. A piece is read once, and goes from there into the digest and into memory that
//! nobody can write to any more when the MAC is looked at. To map the file itself would save the copy; but a map follows whoever
//! writes to the file afterwards.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};

use wasmtime::Engine;
use wasmtime::component::Component;

const PIECE_BYTES: usize = 64 << 10;

pub enum Code {
    /// A file that lies in memory, has no name, and is sealed: mapped rather than copied, and what an instance's memory begins with
    /// is mapped from it too.
    Sealed(fs::File),
    /// Copied by wasmtime, where there are no such files.
    Plain(Vec<u8>),
}

impl Code {
    /// All that is left of `from`; `see` is shown the very bytes that are kept.
    pub fn read(from: impl Read, mut see: impl FnMut(&[u8])) -> io::Result<Self> {
        let mut code = nameless().map_or(Self::Plain(Vec::new()), Self::Sealed);
        let mut from = BufReader::with_capacity(PIECE_BYTES, from);
        loop {
            let piece = from.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            see(piece);
            match &mut code {
                Self::Sealed(file) => file.write_all(piece)?,
                Self::Plain(bytes) => bytes.extend_from_slice(piece),
            }
            let bytes = piece.len();
            from.consume(bytes);
        }
        if let Self::Sealed(file) = &code {
            seal(file)?;
        }
        Ok(code)
    }

    /// Only of code that has the MAC which it was kept with.
    #[allow(unsafe_code, reason = "only code that this host compiled and kept where nobody else can write")]
    pub fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        match self {
            Self::Plain(bytes) => deserialize(engine, bytes),
            // SAFETY: by its MAC it is what `Engine::precompile_component` gave to this program, and nobody can change a sealed file.
            Self::Sealed(file) => unsafe { Component::deserialize_file(engine, path(file)) },
        }
    }
}

/// Only of code that this host compiled.
#[allow(unsafe_code, reason = "only code that this host compiled, and may have kept where nobody else can write")]
pub fn deserialize(engine: &Engine, compiled: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `compiled` is what `Engine::precompile_component` gave to this program, or came back with the MAC that it got then.
    unsafe { Component::deserialize(engine, compiled) }
}

#[cfg(target_os = "linux")]
const OPEN_FILES: &str = "/proc/self/fd";

/// A file without a name, in memory; where it could not be opened again, none.
#[cfg(target_os = "linux")]
fn nameless() -> Option<fs::File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let file = memfd_create("compiled-plugin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
    std::path::Path::new(OPEN_FILES).exists().then(|| file.into())
}

#[cfg(target_os = "linux")]
fn seal(file: &fs::File) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    Ok(fcntl_add_seals(file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?)
}

#[cfg(target_os = "linux")]
fn path(file: &fs::File) -> String {
    use std::os::fd::AsRawFd as _;
    format!("{OPEN_FILES}/{}", file.as_raw_fd())
}

#[cfg(not(target_os = "linux"))]
fn nameless() -> Option<fs::File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn seal(_: &fs::File) -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn path(_: &fs::File) -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_seen_and_nobody_can_change_it() {
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES / 2).map(|at| at.to_le_bytes()[0]).collect();
        let mut seen = Vec::new();
        let code = Code::read(&bytes[..], |piece| seen.extend_from_slice(piece)).unwrap();
        assert!(seen == bytes);
        match code {
            Code::Plain(kept) => assert!(kept == bytes),
            Code::Sealed(mut file) => {
                assert!(fs::read(path(&file)).unwrap() == bytes);
                assert!(file.write_all(b"longer").is_err());
                let again = fs::File::options().write(true).open(path(&file));
                assert!(again.and_then(|mut file| file.write_all(b"other")).is_err());
                assert!(file.set_len(0).is_err());
            }
        }
    }
}
