//! One version of one consumer: handles events, one instance per event or warm ones again and again.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;

use super::contract::{Contract, v0_1};
use super::cpu::{CpuMeter, TICK};
use super::event::Parts;
use super::marks::{Marks, Spent};
use super::outcome::{Handled, Outcome};
use super::places::{Member, Place};
use super::plugin::Plugin;
use super::share::Share;
use super::state::{self, State};
use super::trap::{self, bounded};
use crate::backend::{Delivery, Generation, Origin, View};
use crate::capability::http::{Calls, Gate, Http};
use crate::capability::{GuestLog, Handling, Rights, Stop, Taken};
use crate::event::Event;
use crate::policy::{ConsumerName, Isolation, Limits, Policy};

/// An instance is replaced after so many events: what a guest leaks stays bounded, and a fresh one costs next to nothing
/// when shared by so many.
const EVENTS_PER_INSTANCE_MAX: u32 = 10_000;

/// What idle instances of one consumer may hold of memory, in MiB: a fresh one costs little beside that. One may stay
/// whatever it holds.
const IDLE_MEMORY_MIB_MAX: u32 = 128;

/// One exact plugin as one consumer, under one policy.
pub struct Version {
    plugin: Arc<Plugin>,
    /// Linked for what is granted.
    contract: Contract,
    http: Option<Arc<Http>>,
    label: Arc<str>,
    rights: Arc<Rights>,
    limits: Limits,
    isolation: Isolation,
    idle: Mutex<Idle>,
    idle_max: AtomicUsize,
    /// What gives its instances places to run.
    member: Arc<Member>,
    share: Arc<Share>,
    marks: Arc<Marks>,
    /// Raised by [`Version::clear`]: instances of earlier generations are not kept.
    generation: AtomicU64,
}

/// Instances that wait for their next event.
#[derive(Default)]
struct Idle {
    /// The one used last on top: its memory is the likeliest in the CPU's caches.
    instances: Vec<Warm>,
    memory_mib: u32,
}

/// An instance between two events.
pub struct Warm {
    store: Store<State>,
    instance: Instance,
    handled: u32,
    generation: u64,
    /// What its guest may remember something of.
    state: Option<Generation>,
    /// Its place among the running or the idle instances of the process.
    _slot: Slot,
}

#[allow(dead_code, reason = "held for what it takes up")]
enum Slot {
    Running(Place),
    /// A place, and memory.
    Idle(OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Warm {
    fn memory_mib(&self) -> u32 {
        u32::try_from(self.store.data().memory_bytes().div_ceil(1 << 20)).unwrap_or(u32::MAX)
    }
}

impl Idle {
    /// The one used last of those that are `wanted`.
    fn take(&mut self, wanted: impl Fn(&Warm) -> bool) -> Option<Warm> {
        let index = self.instances.iter().rposition(wanted)?;
        let warm = self.instances.remove(index);
        self.memory_mib -= warm.memory_mib();
        Some(warm)
    }

    fn push(&mut self, warm: Warm) {
        self.memory_mib += warm.memory_mib();
        self.instances.push(warm);
    }

    /// Whether there is room for another that holds so much, among at most `instances_max`.
    fn has_room(&self, memory_mib: u32, instances_max: usize) -> bool {
        let fits = self.instances.is_empty() || self.memory_mib.saturating_add(memory_mib) <= IDLE_MEMORY_MIB_MAX;
        fits && self.instances.len() < instances_max
    }
}

enum Instance {
    V0_1(v0_1::Consumer),
    #[cfg(test)]
    V0_2(super::contract::v0_2::Consumer),
}

/// How a call of `handle` went.
enum Ended {
    Called(wasmtime::Result<Result<(), v0_1::handler::Failure>>),
    OutOfTime,
    /// By a call over HTTP that broke a grant or a limit.
    Stopped(Stop),
}

impl Version {
    pub(super) fn new(
        plugin: &Arc<Plugin>,
        contract: Contract,
        http: Option<Arc<Http>>,
        name: &ConsumerName,
        policy: &Policy,
    ) -> Self {
        let description = plugin.description();
        let concurrency = policy.concurrency.get() as usize;
        Self {
            marks: plugin.sandbox.0.marks.of(name, &policy.limits, concurrency),
            plugin: Arc::clone(plugin),
            contract,
            http,
            label: format!("{} ({})", description.version, plugin.hash().short()).into(),
            rights: Arc::new(Rights::new(name, description, policy)),
            limits: policy.limits,
            isolation: policy.isolation,
            idle: Mutex::default(),
            idle_max: AtomicUsize::new(concurrency),
            member: plugin.sandbox.0.running.join(),
            share: Arc::new(Share::new(Arc::clone(&plugin.sandbox.0.everybody), policy.limits.share_permille)),
            generation: AtomicU64::new(0),
        }
    }

    /// For people: `1.2.0 (ab12cd34)`.
    #[must_use]
    pub fn label(&self) -> Arc<str> {
        Arc::clone(&self.label)
    }

    #[must_use]
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Handles one event. Nothing is committed: that is for the caller to do, or not.
    pub async fn handle(&self, delivery: &Delivery, view: Arc<dyn View>) -> Handled {
        let gate = if delivery.is_state_only() { Gate::StateOnly } else { Gate::Open(delivery.lease()) };
        let Delivery { event, attempt, origin, generation, .. } = delivery;
        self.handle_on(Some(*generation), event, *attempt, *origin, view, gate).await
    }

    /// Handles `event` without a delivery, as a trial does: it calls nobody.
    pub async fn handle_event(&self, event: &Arc<Event>, attempt: u32, origin: Origin, view: Arc<dyn View>) -> Handled {
        self.handle_on(None, event, attempt, origin, view, Gate::Trial).await
    }

    pub(super) async fn handle_on(
        &self,
        state: Option<Generation>,
        event: &Arc<Event>,
        attempt: u32,
        origin: Origin,
        view: Arc<dyn View>,
        gate: Gate,
    ) -> Handled {
        let sandbox = &self.plugin.sandbox;
        // Waiting for a turn or a place is not the guest's time.
        self.share.turn().await;
        let slot = Slot::Running(self.member.place().await);
        // What a trial takes is nothing that the consumer's events took.
        let counts = !matches!(gate, Gate::Trial);
        let running = counts.then(|| self.marks.run());
        let started = Instant::now();
        let ticking = sandbox.0.ticker.run();
        let generation = self.generation.load(Ordering::Acquire);
        let warm = self.take_warm(state);
        let (mut store, mut instance, handled) = match warm {
            Some(Warm { store, instance, handled, .. }) => (store, Some(instance), handled),
            None => (self.store(), None, 0),
        };
        store.data().log.begin(event.id);
        let handling = Handling::new(Arc::clone(&self.rights), Arc::clone(event), view);
        let handling = handling.calling(self.http.as_ref(), gate);
        let calls = handling.calls().cloned();
        let ended = {
            let call = pin!(self.call(&mut store, &mut instance, handling, event, attempt, origin));
            match &calls {
                None => call.await,
                Some(calls) => unless_stopped(call, calls).await,
            }
        };
        drop((ticking, running));
        let log_bytes = store.data().log.end();
        let outcome = self.outcome(ended, store.data());
        let handling = store.data_mut().handling.take();
        let taken = handling.as_ref().map(Handling::taken).unwrap_or_default();
        let (reads, effects) = handling.map(Handling::finish).unwrap_or_default();
        let calls = calls.map(|calls| calls.told()).unwrap_or_default();
        let duration = started.elapsed();
        self.share.handled(&store.data().cpu, duration);
        if counts {
            self.note(store.data_mut(), duration, log_bytes, &taken);
        }
        match (outcome, instance) {
            (Outcome::Done, instance) => {
                // What a call left open, and who might answer it, is thrown away with the instance.
                let warm = instance.filter(|_| calls.is_empty()).map(|instance| Warm {
                    store,
                    instance,
                    handled: handled + 1,
                    generation,
                    state,
                    _slot: slot,
                });
                Handled { outcome: Outcome::Done, reads, effects, calls, log: Vec::new(), duration, instance: warm }
            }
            (outcome, _) => {
                let log = store.data().log.take_kept();
                Handled { outcome, reads, effects, calls, log, duration, instance: None }
            }
        }
    }

    /// Takes `price` out of the consumer's share of the CPU.
    pub fn charge(&self, price: Duration) {
        self.share.charge(price);
    }

    /// Gives back an instance whose effects were accepted.
    pub fn keep(&self, mut instance: Warm) {
        let current = self.generation.load(Ordering::Acquire) == instance.generation;
        if self.isolation == Isolation::Event || instance.handled >= EVENTS_PER_INSTANCE_MAX || !current {
            return;
        }
        // Idle instances have places of their own, so that they never keep others from running.
        let (sandbox, memory_mib) = (&self.plugin.sandbox.0, instance.memory_mib());
        let Ok(place) = Arc::clone(&sandbox.idle).try_acquire_owned() else { return };
        let Ok(memory) = Arc::clone(&sandbox.idle_memory).try_acquire_many_owned(memory_mib) else { return };
        instance._slot = Slot::Idle(place, memory);
        let mut idle = self.idle.lock();
        let max = self.idle_max.load(Ordering::Relaxed);
        if !idle.has_room(memory_mib, max) {
            // One that remembers another generation of state may never be used again.
            drop(idle.take(|other| other.state != instance.state));
        }
        if !idle.has_room(memory_mib, max) {
            return;
        }
        idle.push(instance);
    }

    /// One that handled events on the same generation of state, and no other.
    fn take_warm(&self, state: Option<Generation>) -> Option<Warm> {
        self.idle.lock().take(|warm| warm.state == state)
    }

    /// Instances that wait for their next event.
    #[cfg(test)]
    pub fn warm(&self) -> usize {
        self.idle.lock().instances.len()
    }

    /// It handles the consumer's events from now on, at most so many at once; as many instances wait for their next event.
    pub fn keep_at_most(&self, instances: usize) {
        self.idle_max.store(instances, Ordering::Relaxed);
        self.marks.run_under(&self.limits, instances);
        let mut idle = self.idle.lock();
        let surplus = idle.instances.len().saturating_sub(instances);
        let thrown_away: Vec<_> = idle.instances.drain(..surplus).collect();
        idle.memory_mib -= thrown_away.iter().map(Warm::memory_mib).sum::<u32>();
        drop((idle, thrown_away));
    }

    /// Throws away every warm instance, those that are handling an event as soon as they come back.
    pub fn clear(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let thrown_away = std::mem::take(&mut *self.idle.lock());
        drop(thrown_away);
    }

    fn note(&self, state: &mut State, time: Duration, log_bytes: usize, taken: &Taken) {
        // One that saw no tick was not measured, and took no more than its time.
        let cpu = if state.cpu.is_measuring() { state.cpu.spent() } else { time.min(TICK) };
        let spent = Spent { memory_bytes: state.memory_bytes(), cpu, time, log_bytes, handles: state.handles() };
        self.marks.note(&spent, taken);
    }

    fn store(&self) -> Store<State> {
        let log = GuestLog::new(Some(self.rights.consumer().clone()), self.limits.log_bytes);
        let mut store = State::store(&self.plugin.sandbox.0.engine, log, &self.limits);
        store.data_mut().share = Some(Arc::clone(&self.share));
        store
    }

    /// Calls the guest within its limits, in a fresh instance if there is none.
    async fn call(
        &self,
        store: &mut Store<State>,
        instance: &mut Option<Instance>,
        handling: Handling,
        event: &Event,
        attempt: u32,
        origin: Origin,
    ) -> Ended {
        let parts = Parts::of(event);
        let meter = state::begin(store, self.limits.cpu);
        let call = meter.measure(async {
            let instance = match instance {
                Some(instance) => instance,
                None => instance.insert(Instance::fresh(&self.contract, store).await?),
            };
            // Only now: while it starts, a guest has no capability, as when it described itself.
            store.data_mut().handling = Some(handling);
            match instance {
                Instance::V0_1(guest) => {
                    guest.fanfare_consumer_handler().call_handle(store, parts.event(attempt, origin)).await
                }
                #[cfg(test)]
                Instance::V0_2(guest) => {
                    let event = super::contract::v0_2::handler::Event { id: event.id.to_string(), attempt };
                    let handled = guest.fanfare_consumer_handler().call_handle(store, &event).await?;
                    Ok(handled.map_err(v0_1::handler::Failure::Reject))
                }
            }
        });
        let called = within(self.limits.time, &meter, call).await;
        called.map_or(Ended::OutOfTime, Ended::Called)
    }

    fn outcome(&self, ended: Ended, state: &State) -> Outcome {
        use v0_1::handler::{Failure, Later};
        match ended {
            Ended::Called(Ok(Ok(()))) => Outcome::Done,
            Ended::Called(Ok(Err(Failure::Retry(Later { after_ms, reason })))) => Outcome::Retry {
                after: after_ms.map(Duration::from_millis),
                reason: bounded(reason, trap::MESSAGE_BYTES_MAX),
            },
            Ended::Called(Ok(Err(Failure::Reject(reason)))) => {
                Outcome::Reject { reason: bounded(reason, trap::MESSAGE_BYTES_MAX) }
            }
            Ended::Called(Err(error)) => trap::outcome(&error, state),
            Ended::Stopped(stop) => trap::outcome(&stop.into(), state),
            Ended::OutOfTime => Outcome::Timeout { what: "time", limit: self.limits.time, backtrace: None },
        }
    }
}

/// How `call` ends, unless something that it does in the background must not go on.
async fn unless_stopped(call: Pin<&mut impl Future<Output = Ended>>, calls: &Calls) -> Ended {
    tokio::select! {
        biased;
        stop = calls.stopped() => Ended::Stopped(stop),
        // The guest may have been quicker than the news.
        ended = call => calls.stop().map_or(ended, Ended::Stopped),
    }
}

/// What `call` returns, unless it takes longer than `time`. What it waits for its consumer's share, or for
/// a store that is slow, is not its own time.
async fn within<T>(time: Duration, meter: &CpuMeter, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let (mut left, mut waited) = (time, Duration::ZERO);
    // Timers are no finer than a millisecond: less than that would be waited for again and again.
    while left >= Duration::from_millis(1) {
        if let Ok(called) = tokio::time::timeout(left, call.as_mut()).await {
            return Some(called);
        }
        left = meter.waited().saturating_sub(waited);
        waited += left;
    }
    None
}

impl Instance {
    async fn fresh(contract: &Contract, store: &mut Store<State>) -> wasmtime::Result<Self> {
        match contract {
            Contract::V0_1(linked) => linked.instantiate_async(store).await.map(Self::V0_1),
            #[cfg(test)]
            Contract::V0_2(linked) => linked.instantiate_async(store).await.map(Self::V0_2),
        }
    }
}
