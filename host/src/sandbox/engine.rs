//! The one engine of the process and what is linked in it.

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::contract::v0_1;
use super::error::Error;
use super::state::State;
use super::{http, wasi};
use crate::capability::v0_1::HasImports;

/// Python and JavaScript components consist of dozens of core modules; memories they have one or two.
const CORE_INSTANCES_MAX: u32 = 64;
const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 16;
pub const TABLE_ELEMENTS_MAX: usize = 1 << 16;
/// Wasmtime's own default, named because people are shown it.
pub const STACK_BYTES_MAX: usize = 512 << 10;
/// What of an instance stays mapped for the next one: clearing it is cheaper than mapping it again, as long as all that a
/// guest touches lies within. Ours have stack, data and heap in the first 192 KiB; with less than that kept, or no tables, a
/// bare fresh instance costs more than half as much again. To ask the kernel what was touched (PAGEMAP_SCAN) is hardly
/// quicker, and wasmtime asks for pages that are present: what is swapped out, or being moved, the next event could find.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// An engine that can hold `instances` at once.
pub fn engine(instances: u32) -> Result<Engine, Error> {
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
    Engine::new(&config).or_else(|short| {
        // A pool reserves address space for every slot, which a container or a ulimit may not grant.
        tracing::warn!(cause = %format!("{short:#}"), "no address space for a pool of instances: fresh instances will be slower");
        let mut config = self::config();
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config).map_err(|cause| Error::Engine(format!("{cause:#}")))
    })
}

/// What machine code depends on; how instances are given their memory is not in it.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        // All exports of the contract are synchronous: calls need not pass through the machinery for concurrent tasks.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .generate_address_map(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32))
        .memory_init_cow(true);
    config
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .max_memories_per_component(MEMORIES_MAX)
        .total_tables(instances.saturating_mul(TABLES_MAX))
        .max_tables_per_component(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .total_stacks(instances)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(KEEP_RESIDENT_BYTES);
    pool
}

/// What plugins are linked against: one linker for each set of grants that makes a difference to it.
pub struct Linkers {
    /// No way out of the host.
    pub closed: Linker<State>,
    /// With outgoing HTTP.
    pub calling: Linker<State>,
}

impl Linkers {
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        let linkers = || {
            let mut common = Linker::new(engine);
            wasi::add_to_linker(&mut common)?;
            http::add_types_to_linker(&mut common)?;
            v0_1::Consumer::add_to_linker::<State, HasImports>(&mut common, State::imports)?;
            #[cfg(test)]
            super::contract::v0_2::Consumer::add_to_linker::<State, HasImports>(&mut common, State::imports)?;
            let (mut closed, mut calling) = (common.clone(), common);
            http::add_refusal_to_linker(&mut closed)?;
            http::add_handler_to_linker(&mut calling)?;
            Ok(Self { closed, calling })
        };
        linkers().map_err(|cause: wasmtime::Error| Error::Engine(format!("{cause:#}")))
    }
}
