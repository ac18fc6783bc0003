//! How much memory one instance may hold: all its linear memories and tables together.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::cpu::CpuMeter;
use crate::capability::Stop;

/// What a component is composed of; far above what any toolchain makes.
const INSTANCES_MAX: usize = 128;
const MEMORIES_MAX: usize = 32;
const TABLES_MAX: usize = 64;
/// An element of a table is a pointer.
const ELEMENT_BYTES: usize = size_of::<usize>();
/// What one instruction can write in a few milliseconds, page faults included.
const SMALL_BYTES_MAX: usize = 8 << 20;

/// Sums what a store's memories and tables grew to. Memory never shrinks, so neither does the sum.
#[derive(Debug)]
pub struct Limiter {
    bytes: usize,
    bytes_max: usize,
    cpu: Arc<CpuMeter>,
}

impl Limiter {
    /// Growth beyond a small size has `cpu` look.
    pub fn new(bytes_max: usize, cpu: Arc<CpuMeter>) -> Self {
        Self { bytes: 0, bytes_max, cpu }
    }

    /// What it grew to.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_small(&self) -> bool {
        self.bytes <= SMALL_BYTES_MAX
    }

    /// Refused growth stops the guest: most would abort anyway, with less to say.
    fn grow(&mut self, by: usize) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(by);
        if bytes > self.bytes_max {
            let message = format!(
                "{bytes} bytes of memory: the limit is {}; raise limits.memory in the side file if the plugin needs it",
                self.bytes_max
            );
            return Err(Stop::Overstep { kind: "memory", message }.into());
        }
        self.bytes = bytes;
        if !self.is_small() {
            self.cpu.look();
        }
        Ok(true)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The guest's own maximum is no matter of the host's: growing beyond it fails as WebAssembly says.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current).saturating_mul(ELEMENT_BYTES))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
