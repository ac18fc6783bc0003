//! What one event costs in the sandbox, and what the same code costs without it.
//!
//! The event is an order of three lines that are in stock, the consumer is inventory: one `adjust`, one order change, one
//! entry. What is timed in the sandbox is [`Version::handle_event`]: the event goes in, outcome and effects come out. The store
//! is a map in memory; effects are put into it between the events, outside the time. Beside it, in the same run, wasmtime does the
//! least it can to hand the same event to the same component ([`bare`]).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fanfare::backend::{Origin, View};
use fanfare::clock::Timestamp;
use fanfare::event::{Body, Event, EventId, Position};
use fanfare::order::{Change, Content, Customer, Line, Order};
use fanfare::policy::{Grant, Isolation, Policy};
use fanfare::sandbox::{Handled, Outcome, Sandbox, Settings, Version};

use crate::bare::{self, Bare};
use crate::report;
use crate::tables::Tables;

/// Batches of events; the median of the batches counts.
pub const BATCHES: usize = 21;
const EVENTS_PER_BATCH: usize = 1_000;
const STOCK: i64 = 1_000_000_000;

const LINES: [(&str, u32, i64); 3] = [("SKU-0001", 2, 1_499), ("SKU-0014", 1, 25_900), ("SKU-0333", 4, 799)];

pub struct Handling {
    /// In an instance that handled events before.
    pub warm: Beside,
    /// In a new instance.
    pub fresh: Beside,
    /// The same code as native Rust, on a host that is maps in memory; if it was built.
    pub native_us: Option<f64>,
}

/// One event in the sandbox, and by wasmtime alone in the same moments.
pub struct Beside {
    pub host_us: f64,
    pub bare_us: f64,
}

/// Measures inventory as it lies in the folder `shipped`, and as the program `native` has it.
pub async fn measure(shipped: &Path, native: Option<&Path>) -> Result<Handling> {
    let plugin = inventory(shipped)?;
    Ok(Handling {
        warm: beside(&plugin, Isolation::Warm).await?,
        fresh: beside(&plugin, Isolation::Event).await?,
        native_us: native.map(self::native).transpose()?,
    })
}

/// The plugin of inventory, as it lies in the folder `shipped`.
pub fn inventory(shipped: &Path) -> Result<Vec<u8>> {
    let file = shipped.join("inventory.wasm");
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

async fn beside(plugin: &[u8], isolation: Isolation) -> Result<Beside> {
    let sandboxed = Sandboxed::link(&Sandbox::new(Settings::default())?, plugin, isolation).await?;
    let failed = |cause: wasmtime::Error| anyhow!("wasmtime alone does not handle the event: {cause:#}");
    let mut bare = Bare::load(plugin, bare::placed(&order())).map_err(failed)?;
    let (mut host, mut alone) = (Vec::new(), Vec::new());
    // One batch of each in turn: the machine's speed drifts.
    for _ in 0..BATCHES {
        host.push(sandboxed.batch().await?);
        let started = Instant::now();
        for _ in 0..EVENTS_PER_BATCH {
            bare.handle(isolation, LINES.len()).map_err(failed)?;
        }
        alone.push(per_event_us(started.elapsed()));
    }
    let median = |batches| report::median(batches).context("no batches");
    Ok(Beside { host_us: median(host)?, bare_us: median(alone)? })
}

/// Inventory in a sandbox, over a store in memory.
pub struct Sandboxed {
    version: Arc<Version>,
    tables: Arc<Tables>,
}

impl Sandboxed {
    pub async fn link(sandbox: &Sandbox, plugin: &[u8], isolation: Isolation) -> Result<Self> {
        let plugin = sandbox.load(plugin.into()).await?;
        let grant = Grant { change_order: true, publish: vec!["com.fanfare.stock.low".parse()?], ..Grant::default() };
        let policy = Policy { isolation, grant, ..Policy::default() };
        let version = plugin.link(&"inventory".parse()?, &policy)?;
        let tables = Arc::new(Tables::stocked(LINES.map(|(sku, _, _)| sku), STOCK));
        Ok(Self { version, tables })
    }

    /// What one event took, of a batch of them.
    pub async fn batch(&self) -> Result<f64> {
        let mut spent = Duration::ZERO;
        for _ in 0..EVENTS_PER_BATCH {
            spent += self.handle().await?;
        }
        Ok(per_event_us(spent))
    }

    pub async fn handle(&self) -> Result<Duration> {
        let Self { version, tables } = self;
        let order = order();
        tables.know(order.clone());
        let event = Arc::new(placed(order));
        let view: Arc<dyn View> = Arc::clone(tables) as _;
        let started = Instant::now();
        let Handled { outcome, effects, instance, .. } = version.handle_event(&event, 1, Origin::Live, view).await;
        if let Some(instance) = instance {
            version.keep(instance);
        }
        let spent = started.elapsed();
        let Outcome::Done = outcome else { bail!("inventory does not handle an order: {outcome:?}") };
        // Confirmed, with its stock taken; anything else is another job.
        let job = (effects.adjustments.len(), effects.order_changes.len(), effects.entries.len(), effects.events.len());
        ensure!(job == (LINES.len(), 1, 1, 0), "inventory did something else: {effects:?}");
        tables.apply(effects);
        Ok(spent)
    }
}

/// Asks the program that runs the same code natively: the example `native` of plugins/inventory.
fn native(program: &Path) -> Result<f64> {
    let output = Command::new(program).output().with_context(|| format!("cannot start {}", program.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaint = || format!("{}: {}{printed}", program.display(), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), complaint());
    printed.trim().parse().with_context(complaint)
}

#[allow(clippy::cast_precision_loss, reason = "batches are small")]
fn per_event_us(spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6 / EVENTS_PER_BATCH as f64
}

fn order() -> Order {
    let line = |(sku, quantity, unit_amount): (&str, u32, i64)| Line {
        sku: sku.to_owned(),
        title: Some(format!("Title of {sku}")),
        quantity,
        unit_amount,
        discount_amount: 0,
    };
    let content = Content {
        reference: None,
        currency: "USD".to_owned(),
        customer: Customer { id: "VINET".to_owned(), name: None, email: None, phone: None },
        lines: LINES.map(line).into(),
        total_amount: LINES.iter().map(|(_, quantity, unit_amount)| i64::from(*quantity) * unit_amount).sum(),
        shipping_address: None,
        metadata: Default::default(),
    };
    Order::place(Arc::new(content), Timestamp::now())
}

fn placed(order: Order) -> Event {
    Event {
        id: EventId::generate(),
        position: Position::FIRST,
        time: order.placed_at,
        cause: None,
        depth: 0,
        body: Body::OrderChanged { order, change: Change::Placed {} },
    }
}
