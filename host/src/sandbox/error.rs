//! Why a plugin is not taken, in words that say what to do.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::trap::bounded;

/// The sandbox itself cannot be set up, or a plugin cannot be linked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this machine cannot run plugins: {0}")]
    Engine(String),
    #[error("cannot keep compiled plugins in {path}: {cause}")]
    Cache { path: PathBuf, cause: String },
    #[error("cannot link the plugin: {0}")]
    Link(String),
}

/// Of a text that quotes the file.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Of the names that a component exports, and of each.
const NAMES_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 128;

/// Why a file does not become a plugin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the file has {bytes} bytes, and a plugin at most {max}; build it in release mode and strip it")]
    TooLarge { bytes: usize, max: usize },
    #[error("{0}")]
    NotAComponent(NotAComponent),
    #[error(
        "not a consumer of a known contract: it exports {}; the host serves fanfare:consumer 0.1, build against that",
        list(exports)
    )]
    UnknownContract { exports: Vec<String> },
    #[error(
        "its handler is called like that of a known contract and is another one: {0}; build it against wit/consumer.wit as it is"
    )]
    OtherContents(String),
    #[error(
        "it asks for what the host does not offer: {0}; the host offers fanfare:consumer 0.1, WASI 0.2 and of wasi:http what calls out"
    )]
    UnlinkedImport(String),
    #[error("it cannot be compiled: {0}")]
    Compile(String),
    #[error(
        "compiling it takes more than {limit} of {what}; build it in release mode, and if a generator wrote it, in smaller functions; where it is to take more, raise compile.time or compile.memory"
    )]
    CompileLimit { what: &'static str, limit: String },
    #[error("`describe` failed: {0}")]
    DescribeFailed(DescribeFailed),
    #[error("`describe` returned what the host cannot take: {0}")]
    BadDescription(String),
    /// The host is short of something, or has a bug; the file may be good.
    #[error("the host could not load it: {0}")]
    Host(String),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum NotAComponent {
    #[error("the file is empty; a copy may still be under way")]
    Empty,
    #[error(
        "the file is not WebAssembly: it does not start with \\0asm; build a component, for Rust with --target wasm32-wasip2"
    )]
    NotWasm,
    #[error(
        "the file is a core module, not a component; build with --target wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    #[error(
        "the file was compiled ahead for some machine; the host takes portable components only, so bring the .wasm it was made from"
    )]
    Precompiled,
    #[error("the file ends too early: {0}; copy it again")]
    Truncated(String),
    #[error("it nests {what} more than {max} times; no toolchain does that, so build it again")]
    TooDeep { what: &'static str, max: usize },
    #[error(
        "the file uses what consumers are not run with: {0}; build it without that, for WASI 0.2 with synchronous functions"
    )]
    Unsupported(String),
    #[error("the file is not a valid component: {0}; build it again")]
    Invalid(String),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum DescribeFailed {
    #[error("it trapped ({kind}): {message}")]
    Trap { kind: String, message: String, backtrace: Option<String> },
    #[error("it used more than {limit:?} of {what}")]
    Timeout { what: &'static str, limit: Duration },
}

impl LoadError {
    /// The same, with every text cut whose length the file chose.
    pub(super) fn bounded(self) -> Self {
        let text = |text| bounded(text, TEXT_BYTES_MAX);
        match self {
            Self::NotAComponent(form) => Self::NotAComponent(match form {
                NotAComponent::Truncated(why) => NotAComponent::Truncated(text(why)),
                NotAComponent::Unsupported(why) => NotAComponent::Unsupported(text(why)),
                NotAComponent::Invalid(why) => NotAComponent::Invalid(text(why)),
                bounded => bounded,
            }),
            Self::UnknownContract { mut exports } => {
                let more = exports.len().saturating_sub(NAMES_MAX);
                exports.truncate(NAMES_MAX);
                let mut exports: Vec<_> = exports.into_iter().map(|name| bounded(name, NAME_BYTES_MAX)).collect();
                exports.extend((more > 0).then(|| format!("and {more} more")));
                Self::UnknownContract { exports }
            }
            Self::OtherContents(other) => Self::OtherContents(text(other)),
            Self::UnlinkedImport(missing) => Self::UnlinkedImport(text(missing)),
            Self::Compile(why) => Self::Compile(text(why)),
            Self::BadDescription(wrong) => Self::BadDescription(text(wrong)),
            Self::Host(why) => Self::Host(text(why)),
            bounded @ (Self::TooLarge { .. } | Self::CompileLimit { .. } | Self::DescribeFailed(_)) => bounded,
        }
    }
}

fn list(names: &[String]) -> impl fmt::Display {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
