//! The least that wasmtime can do to hand one event to inventory: what the sandbox costs beside it, is the host's own.
//!
//! The same component, compiled without interruptions, on a pool of instances as the host's, called without futures and without
//! limits. The host's functions answer what a store with enough of everything answers, and keep nothing; those that inventory
//! does not call, WASI's among them, trap. The event is made beforehand, once.

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store, ensure};

use fanfare::policy::Isolation;
use wit::fanfare::consumer::{events, orders, outbox, settings, state};

#[allow(
    unused_variables,
    dead_code,
    clippy::pedantic,
    unsafe_code,
    reason = "written by wasmtime's generator; its unsafe blocks call functions whose types it checked just before"
)]
mod wit {
    wasmtime::component::bindgen!({ path: "../wit", world: "consumer" });
}

/// As in the host's `sandbox::engine`.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;
const INSTANCES: u32 = 256;

/// A plugin, ready to be handed one event again and again.
pub struct Bare {
    engine: Engine,
    linked: wit::ConsumerPre<Done>,
    warm: Option<(Store<Done>, wit::Consumer)>,
    event: events::Event,
}

/// What the guest asked for in one handling, counted.
#[derive(Default)]
struct Done {
    adjustments: usize,
    order_changes: usize,
    entries: usize,
}

impl Bare {
    /// # Errors
    /// Where wasmtime does not take the plugin.
    pub fn load(plugin: &[u8], event: events::Event) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(INSTANCES)
            .total_core_instances(INSTANCES * 4)
            .total_memories(INSTANCES)
            .total_tables(INSTANCES * 4)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(KEEP_RESIDENT_BYTES);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let component = Component::new(&engine, plugin)?;
        let mut linker = Linker::new(&engine);
        state::add_to_linker::<_, HasSelf<_>>(&mut linker, |done| done)?;
        outbox::add_to_linker::<_, HasSelf<_>>(&mut linker, |done| done)?;
        settings::add_to_linker::<_, HasSelf<_>>(&mut linker, |done| done)?;
        linker.define_unknown_imports_as_traps(&component)?;
        let linked = wit::ConsumerPre::new(linker.instantiate_pre(&component)?)?;
        Ok(Self { engine, linked, warm: None, event })
    }

    /// # Errors
    /// Where the guest traps, refuses the event or does something else with it than `adjustments` and one of the rest.
    pub fn handle(&mut self, isolation: Isolation, adjustments: usize) -> Result<()> {
        let (mut store, guest) = match self.warm.take() {
            Some(warm) => warm,
            None => {
                let mut store = Store::new(&self.engine, Done::default());
                let guest = self.linked.instantiate(&mut store)?;
                (store, guest)
            }
        };
        let handled = guest.fanfare_consumer_handler().call_handle(&mut store, &self.event)?;
        ensure!(handled.is_ok(), "inventory does not handle an order: {handled:?}");
        let done = std::mem::take(store.data_mut());
        ensure!((done.adjustments, done.order_changes, done.entries) == (adjustments, 1, 1), "it did something else");
        if isolation == Isolation::Warm {
            self.warm = Some((store, guest));
        }
        Ok(())
    }
}

impl state::Host for Done {
    fn get(&mut self, _: String) -> Option<Vec<u8>> {
        None
    }

    fn set(&mut self, _: String, _: Vec<u8>) {
        self.entries += 1;
    }

    fn delete(&mut self, _: String) {}

    fn scan(&mut self, _: String, _: Option<String>, _: u32) -> Vec<state::Entry> {
        Vec::new()
    }

    fn count(&mut self, _: String) -> i64 {
        0
    }

    fn scan_counts(&mut self, _: String, _: Option<String>, _: u32) -> Vec<state::Counter> {
        Vec::new()
    }

    fn adjust(&mut self, adjustments: Vec<state::Adjustment>) -> std::result::Result<(), state::Shortage> {
        self.adjustments += adjustments.len();
        Ok(())
    }
}

impl outbox::Host for Done {
    fn change_order(&mut self, _: String, _: events::Change) -> std::result::Result<(), outbox::Refusal> {
        self.order_changes += 1;
        Ok(())
    }

    fn publish(&mut self, _: events::Custom) {}

    fn send(&mut self, _: outbox::Message) {}
}

impl settings::Host for Done {
    fn get(&mut self, _: String) -> Option<String> {
        None
    }
}

/// The event that the sandbox is handed, in the contract's shape.
pub fn placed(order: &fanfare::order::Order) -> events::Event {
    let content = &*order.content;
    let line = |line: &fanfare::order::Line| orders::Line {
        sku: line.sku.clone(),
        title: line.title.clone(),
        quantity: line.quantity,
        unit_amount: line.unit_amount,
        discount_amount: line.discount_amount,
    };
    let customer = orders::Customer { id: content.customer.id.clone(), name: None, email: None, phone: None };
    events::Event {
        id: fanfare::event::EventId::generate().to_string(),
        time: order.placed_at.as_millis(),
        cause: None,
        attempt: 1,
        origin: events::Origin::Live,
        body: events::Body::OrderChanged(events::OrderChanged {
            order: orders::Order {
                id: order.id.to_string(),
                reference: None,
                status: orders::Status::Placed,
                revision: order.revision,
                placed_at: order.placed_at.as_millis(),
                currency: content.currency.clone(),
                customer,
                lines: content.lines.iter().map(line).collect(),
                total_amount: content.total_amount,
                shipping_address: None,
                metadata: Vec::new(),
            },
            change: events::Change::Placed,
        }),
    }
}
