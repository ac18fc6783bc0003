//! What a store carries besides the guest: everything the host needs when the guest calls.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::WasiHttpCtxView;

use super::cpu::CpuMeter;
use super::limiter::Limiter;
use super::share::Share;
use super::wasi::Wasi;
use crate::capability::v0_1::Imports;
use crate::capability::{GuestLog, Handling};

/// What a guest may hand over in one call of a host function, in bytes: the host copies it before it can check it.
const HOSTCALL_BYTES_MAX: usize = 8 << 20;

pub struct State {
    /// The event being handled; `None` while the guest starts, describes itself or waits for its next event.
    pub handling: Option<Handling>,
    pub log: Arc<GuestLog>,
    pub cpu: Arc<CpuMeter>,
    /// Of the consumer that it runs for; `None` while a plugin describes itself.
    pub share: Option<Arc<Share>>,
    limiter: Limiter,
    wasi: Wasi,
}

impl State {
    /// A store for one instance, with every limit in force.
    pub fn store(engine: &Engine, log: GuestLog, memory_bytes_max: usize) -> Store<Self> {
        let state = Self {
            handling: None,
            log: Arc::new(log),
            cpu: Arc::default(),
            share: None,
            limiter: Limiter::new(memory_bytes_max),
            wasi: Wasi::default(),
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.epoch_deadline_callback(|store| {
            let State { cpu, share, .. } = store.data();
            if cpu.is_spent() {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(give_way(Arc::clone(cpu), share.clone()))))
        });
        store
    }

    /// What the imports of the contract work on.
    pub fn imports(&mut self) -> Imports<'_> {
        Imports { handling: self.handling.as_mut(), log: &self.log }
    }

    /// What `wasi:http` works on.
    pub fn wasi_http(&mut self) -> WasiHttpCtxView<'_> {
        self.wasi.http(&self.log)
    }
}

/// At every tick, other tasks of this thread get their turn, and other consumers theirs.
async fn give_way(cpu: Arc<CpuMeter>, share: Option<Arc<Share>>) {
    tokio::task::yield_now().await;
    if let Some(share) = share {
        share.turn_of(&cpu).await;
    }
}

/// Starts counting CPU time for the next call into the guest.
pub fn begin(store: &mut Store<State>, cpu: Duration) -> Arc<CpuMeter> {
    store.set_epoch_deadline(1);
    let meter = &store.data().cpu;
    meter.begin(cpu);
    Arc::clone(meter)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.view(&self.log)
    }
}
