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
use crate::policy::Limits;

pub struct State {
    /// The event being handled; `None` while the guest starts, describes itself or waits for its next event.
    pub handling: Option<Handling>,
    pub log: Arc<GuestLog>,
    pub cpu: Arc<CpuMeter>,
    /// Of the consumer that it runs for; `None` while a plugin describes itself.
    pub share: Option<Arc<Share>>,
    pub limits: Limits,
    limiter: Limiter,
    wasi: Wasi,
}

impl State {
    /// A store for one instance, with every limit in force.
    pub fn store(engine: &Engine, log: GuestLog, limits: &Limits) -> Store<Self> {
        let cpu = Arc::new(CpuMeter::default());
        let state = Self {
            handling: None,
            log: Arc::new(log),
            limiter: Limiter::new(limits.memory_bytes, Arc::clone(&cpu)),
            cpu,
            share: None,
            limits: *limits,
            wasi: Wasi::default(),
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        store.epoch_deadline_callback(|store| {
            let State { cpu, share, .. } = store.data();
            if cpu.is_spent() {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(give_way(Arc::clone(cpu), share.clone()))))
        });
        store
    }

    /// What its memories and tables grew to.
    pub fn memory_bytes(&self) -> usize {
        self.limiter.bytes()
    }

    /// The most handles that the guest held at once.
    pub fn handles(&mut self) -> usize {
        self.wasi.handles()
    }

    /// What the imports of the contract work on.
    pub fn imports(&mut self) -> Imports<'_> {
        Imports { handling: self.handling.as_mut(), log: &self.log, meter: &self.cpu }
    }

    /// What `wasi:http` works on.
    pub fn wasi_http(&mut self) -> WasiHttpCtxView<'_> {
        self.wasi.http(&self.log, self.limits.handles)
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
    let State { cpu: meter, limiter, .. } = store.data();
    meter.begin(cpu);
    if !limiter.is_small() {
        meter.look();
    }
    Arc::clone(meter)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.view(&self.log, self.limits.handles)
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter as _;

    use super::*;

    #[test]
    fn an_instance_with_much_memory_is_measured_from_the_beginning_of_each_event() {
        let engine = Engine::new(&super::super::engine::config()).unwrap();
        let mut store = State::store(&engine, GuestLog::new(None, 0), &Limits::default());
        assert!(!begin(&mut store, Duration::from_millis(1)).is_measuring());
        let grown = store.data_mut().limiter.memory_growing(0, 32 << 20, None);
        assert!(grown.is_ok_and(|grown| grown));
        assert!(begin(&mut store, Duration::from_millis(1)).is_measuring());
    }
}
