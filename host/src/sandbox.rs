//! The only code that knows wasmtime: loads plugins, runs them inside their limits.
//!
//! ```text
//! bytes ── Sandbox::load ──► Plugin ── Plugin::link ──► Version ── Version::handle ──► Handled
//!          (checked, compiled,          (a consumer's              (outcome, what was read,
//!           described)                   rights and limits)         what is to be committed)
//! ```
//!
//! **Invariants**
//! - A guest runs only with every limit in force: memory, CPU, wall clock, bytes per host call, what it stages, what it logs.
//! - An instance handles another event only after outcome done, and only if its effects were accepted.
//! - Whatever a guest does, it ends as an [`Outcome`] of its own event.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::Engine;

use crate::policy::ConsumerName;

mod cache;
mod code;
pub mod compiler;
pub(crate) mod contract;
pub(crate) mod cpu;
mod description;
mod engine;
mod error;
mod event;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod hostile;
mod http;
mod limiter;
mod marks;
mod nesting;
mod outcome;
mod places;
mod plugin;
mod share;
mod state;
#[cfg(test)]
mod tests;
mod trap;
mod version;
mod wasi;

pub use compiler::Compiler;
pub use description::{Column, ColumnType, Dataset, Description, Need};
pub use error::{DescribeFailed, Error, LoadError, NotAComponent};
pub use marks::{Amount, Gauge, Usage};
pub use outcome::{Handled, Outcome};
pub use plugin::{LoadReport, PLUGIN_BYTES_MAX, Plugin};
pub use version::{Version, Warm};

/// Plugins compiled at the same time; each compilation uses several threads already.
const COMPILING_MAX: usize = 2;
/// What waits warm for its next event is a convenience: it must not take the memory that others need.
const IDLE_MEMORY_MIB_MAX: usize = 1 << 10;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Where compiled plugins are kept from one start to the next; nowhere if absent. The host's alone.
    pub cache_dir: Option<PathBuf>,
    pub compiler: Compiler,
    /// Instances that may run at the same time, over all consumers. As many again may wait warm for their next event.
    pub instances_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cache_dir: None, compiler: Compiler::Here, instances_max: 128 }
    }
}

/// Runs plugins. One for the process: what it shares between them is what makes them cheap.
#[derive(Clone)]
pub struct Sandbox(Arc<Shared>);

struct Shared {
    // Dropped first: its thread holds the engine too.
    ticker: cpu::Ticker,
    engine: Engine,
    linkers: engine::Linkers,
    cache: Option<cache::Cache>,
    compiler: Compiler,
    /// Places for running and for idle instances; together they are the engine's pool.
    running: Arc<places::Places>,
    idle: Arc<Semaphore>,
    /// In MiB: what idle instances may hold of memory, all together.
    idle_memory: Arc<Semaphore>,
    marks: marks::AllMarks,
    everybody: Arc<share::Everybody>,
    compiling: Semaphore,
}

impl Sandbox {
    /// # Errors
    /// [`Error`] where the machine cannot run WebAssembly, or the cache folder is not usable.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let instances = settings.instances_max.clamp(1, 1 << 12);
        let engine = engine::engine(instances.saturating_mul(2))?;
        Ok(Self(Arc::new(Shared {
            ticker: cpu::Ticker::start(engine.clone()).map_err(|cause| Error::Engine(cause.to_string()))?,
            linkers: engine::Linkers::new(&engine)?,
            compiler: settings.compiler,
            cache: settings.cache_dir.map(|dir| cache::Cache::open(&dir, &engine)).transpose()?,
            running: places::Places::new(instances as usize),
            idle: Arc::new(Semaphore::new(instances as usize)),
            idle_memory: Arc::new(Semaphore::new(IDLE_MEMORY_MIB_MAX)),
            marks: marks::AllMarks::default(),
            everybody: Arc::default(),
            compiling: Semaphore::new(COMPILING_MAX),
            engine,
        })))
    }

    /// What the events of a consumer took of its limits since the host started; `None` if none of its versions was linked.
    #[must_use]
    pub fn usage(&self, name: &ConsumerName) -> Option<Usage> {
        self.0.marks.usage(name)
    }
}
