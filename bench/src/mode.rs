//! One mode: a fresh host, stock for all, a warm-up, the load, and the wait until everything is handled.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use crate::api::{Api, Consumer};
use crate::books::Books;
use crate::half::{self, Half};
use crate::host::{Host, Kind, Mail};
use crate::load::{self, Load, Pace, Tickets};
use crate::workload::{self, SKUS, Workload};
use crate::{Arguments, Places, machine, native};

/// Units of each SKU: more than any run takes, so that every order is in stock.
pub const STOCK: i64 = 1_000_000_000;

/// Between two looks at what is pending, at least and at most.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(5);
const LOOK_EVERY_MAX: Duration = Duration::from_millis(250);
/// The host counts what is pending when it is asked, the longer the more there is: looking is to take little of the
/// time that it needs for handling.
const LOOK_SHARE: u32 = 20;
/// Looks at nothing pending before it counts: the host may look at one consumer after another, and an event that one
/// just published can be missing from the next one's count. A chain of three events needs two looks.
const QUIET_LOOKS: u32 = 3;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(600);
const MEMORY_EVERY: Duration = Duration::from_millis(100);

/// A set of consumers, and what one order means to each.
#[derive(Debug)]
pub struct Mode {
    pub name: &'static str,
    /// Whether they are the ones that ship, and not those of plugins/bench.
    pub shipped: bool,
    /// Of an order, its placement included.
    pub events: u64,
    /// By name, with deliveries an order.
    pub consumers: [(&'static str, u64); 5],
    /// The one that holds the counters `stock/{sku}`.
    pub stock: &'static str,
}

pub const FANOUT: Mode = Mode {
    name: "fanout",
    shipped: false,
    events: 1,
    consumers: [
        ("bench-message", 1),
        ("bench-points", 1),
        ("bench-shipment", 1),
        ("bench-stock", 1),
        ("bench-totals", 1),
    ],
    stock: "bench-stock",
};

/// `placed` goes to inventory, `confirmed` to shipment and loyalty, all three to analytics and notification.
pub const JOURNEY: Mode = Mode {
    name: "journey",
    shipped: true,
    events: 3,
    consumers: [("analytics", 3), ("inventory", 1), ("loyalty", 1), ("notification", 3), ("shipment", 1)],
    stock: "inventory",
};

pub struct Figures {
    pub orders: u64,
    pub accepted_per_s: f64,
    pub end_to_end_per_s: f64,
    pub ack_p50_ms: f64,
    pub ack_p99_ms: f64,
    pub ack_p999_ms: f64,
    /// From the last answer until nothing was pending.
    pub drain_s: f64,
    pub cpu_s_per_1000: f64,
    /// Of the load generator, which shares the machine.
    pub client_cpu_s_per_1000: f64,
    pub rss_idle_mib: f64,
    pub rss_load_mib: f64,
    /// That an order left in the store; nothing where its tables are not those that the baseline knows.
    pub rows_per_order: Option<f64>,
}

/// All of one mode.
pub struct Measured {
    pub host: Figures,
    pub native: Option<Figures>,
    pub half: Option<Half>,
}

impl Mode {
    /// In order.
    pub fn names(&self) -> [&'static str; 5] {
        self.consumers.map(|(name, _)| name)
    }

    /// # Errors
    /// That there is no such mode.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        [&FANOUT, &JOURNEY].into_iter().find(|mode| mode.name == name).ok_or_else(|| format!("{name} is no mode"))
    }

    fn deliveries_per_order(&self) -> u64 {
        self.consumers.iter().map(|(_, deliveries)| deliveries).sum()
    }
}

/// The baseline first, then the host.
pub async fn measure(mode: &'static Mode, half: bool, arguments: &Arguments, places: &Places) -> Result<Measured> {
    let consumers = if mode.shipped { &places.shipped } else { &places.guests };
    let native = if arguments.without_native || arguments.mail != Mail::Off {
        None
    } else {
        native::agree::check(mode, consumers).await.context("the baseline does not do what the guests do")?;
        let folder = places.scratch.join(format!("{}-native", mode.name));
        Some(of(mode, false, arguments, Host::start_native(mode, &folder)?).await?.0)
    };
    let folder = places.scratch.join(mode.name);
    let host = Host::start(&places.program, consumers, &folder, arguments.mail)?;
    let (host, half) = of(mode, half, arguments, host).await?;
    Ok(Measured { host, native, half })
}

async fn of(mode: &'static Mode, half: bool, arguments: &Arguments, mut host: Host) -> Result<(Figures, Option<Half>)> {
    let what = if host.kind == Kind::Native { "the baseline" } else { "the host" };
    match run(mode, half, arguments, &mut host).await {
        Ok((mut figures, half, tickets, workload)) => {
            let (kind, store) = (host.kind, host.store());
            host.stop().await?;
            let books = Books::open(&store)?;
            if kind == Kind::Native {
                books.verify(mode, &workload, tickets)?;
            }
            figures.rows_per_order = books.rows_per_order();
            Ok((figures, half))
        }
        Err(error) => Err(error.context(format!("{} failed; the log of {what}:\n{}", mode.name, host.log_shown()))),
    }
}

async fn run(
    mode: &'static Mode,
    half: bool,
    arguments: &Arguments,
    host: &mut Host,
) -> Result<(Figures, Option<Half>, u64, Arc<Workload>)> {
    host.ready(&mode.names()).await?;
    let rss_idle_mib = machine::resident_mib(host.pid())?;
    let stocked = stock_up(host).await?;

    let workload = Arc::new(Workload::generate(&host.address.to_string())?);
    let tickets = Arc::new(Tickets::default());
    let seconds = Duration::from_secs(arguments.seconds);
    let load =
        |duration| Load::run(host.address, &workload, &tickets, arguments.connections, Pace::AsAnswered, duration);
    let name = if host.kind == Kind::Native { format!("{}, native", mode.name) } else { mode.name.to_owned() };
    eprintln!("{name}: warming up");
    quiet(host, &load(seconds / 5).await?).await?;

    eprintln!("{name}: {} s of load on {} connections", arguments.seconds, arguments.connections);
    let memory = watch_memory(host.pid());
    let (host_cpu, own_cpu) = (machine::cpu_seconds(host.pid())?, machine::cpu_seconds(std::process::id())?);
    let load = load(seconds).await?;
    let own_cpu = machine::cpu_seconds(std::process::id())? - own_cpu;
    let quiet = quiet(host, &load).await?;
    let host_cpu = machine::cpu_seconds(host.pid())? - host_cpu;
    let rss_load_mib = memory.stop().await?;

    let all = quiet.duration_since(load.started);
    let orders = load::count(load.orders);
    let figures = Figures {
        orders: load.orders,
        accepted_per_s: orders / load.duration.as_secs_f64(),
        end_to_end_per_s: orders / all.as_secs_f64(),
        ack_p50_ms: load.answered_within_ms(0.5),
        ack_p99_ms: load.answered_within_ms(0.99),
        ack_p999_ms: load.answered_within_ms(0.999),
        drain_s: all.saturating_sub(load.duration).as_secs_f64(),
        cpu_s_per_1000: host_cpu / orders * 1e3,
        client_cpu_s_per_1000: own_cpu / orders * 1e3,
        rss_idle_mib,
        rss_load_mib,
        rows_per_order: None,
    };
    let half = if half {
        let rate = figures.end_to_end_per_s / 2.0;
        eprintln!("{name}: {} s of load at half of that, {rate:.0} orders/s", arguments.seconds);
        let half = half::measure(mode, host.address, &workload, &tickets, arguments, rate).await?;
        drain(Api::new(host.address)).await?;
        Some(half)
    } else {
        None
    };
    if host.kind == Kind::Fanfare {
        verify(mode, Api::new(host.address), &workload, tickets.handed_out(), &stocked).await?;
    }
    Ok((figures, half, tickets.handed_out(), workload))
}

/// Brings the stock in, and waits until it is there. Returns how many events each consumer had handled by then; the
/// baseline brings its own.
pub async fn stock_up(host: &Host) -> Result<Vec<Consumer>> {
    if host.kind == Kind::Native {
        return Ok(Vec::new());
    }
    let api = Api::new(host.address);
    let skus: Vec<_> = (0..SKUS).map(workload::sku).collect();
    api.receive_stock(&skus, STOCK).await?;
    drain(api).await?;
    api.consumers().await
}

/// Since when everything is handled that an order of the load means.
async fn quiet(host: &Host, load: &Load) -> Result<Instant> {
    match host.kind {
        Kind::Fanfare => drain(Api::new(host.address)).await,
        // It answers no earlier.
        Kind::Native => Ok(load.started + load.duration),
    }
}

/// Waits until no consumer has anything pending. Returns since when.
async fn drain(api: Api) -> Result<Instant> {
    let asked = Instant::now();
    let mut quiet: Option<(Instant, u32)> = None;
    loop {
        let looked = Instant::now();
        let consumers = api.consumers().await?;
        let dead: Vec<_> = consumers.iter().filter(|consumer| consumer.dead > 0).collect();
        ensure!(dead.is_empty(), "there are dead letters: {dead:?}");
        let pending: u64 = consumers.iter().map(|consumer| consumer.pending).sum();
        quiet = match (pending, quiet) {
            (0, None) => Some((looked, 1)),
            (0, Some((since, looks))) => Some((since, looks + 1)),
            _ => None,
        };
        if let Some((since, QUIET_LOOKS..)) = quiet {
            return Ok(since);
        }
        let waited = asked.elapsed();
        ensure!(waited < DRAIN_TIME_MAX, "{pending} deliveries are pending after {waited:?}: {consumers:?}");
        tokio::time::sleep((looked.elapsed() * LOOK_SHARE).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)).await;
    }
}

/// Every order that was submitted was handled once by every consumer, and every unit is accounted for.
async fn verify(mode: &Mode, api: Api, workload: &Workload, orders: u64, before: &[Consumer]) -> Result<()> {
    let after = api.consumers().await?;
    let done = |consumers: &[Consumer], name| consumers.iter().find(|one| one.name == name).map_or(0, |one| one.done);
    for (name, deliveries) in mode.consumers {
        let handled = done(&after, name) - done(before, name);
        let expected = orders * deliveries;
        ensure!(handled == expected, "{name} handled {handled} events of {orders} orders, not {expected}");
    }
    let taken = workload.units(orders)?;
    let left = api.counters(mode.stock, "stock/").await?;
    ensure!(left.len() == SKUS, "{} has stock of {} SKUs, not {SKUS}", mode.stock, left.len());
    for ((key, left), (index, taken)) in left.into_iter().zip(taken.into_iter().enumerate()) {
        let sku = workload::sku(index);
        ensure!(key == format!("stock/{sku}"), "{key} stands where stock/{sku} should");
        ensure!(left == STOCK - taken, "{left} units of {sku} are left: {STOCK} came in and {taken} were sold");
    }
    if mode.shipped {
        let shipped = api.counters("analytics", "status/shipped").await?;
        let expected = i64::try_from(orders)?;
        ensure!(shipped == [("status/shipped".to_owned(), expected)], "{shipped:?} of {orders} orders");
    }
    eprintln!("{}: all {orders} orders were handled {} times each", mode.name, mode.deliveries_per_order());
    Ok(())
}

/// Looks at a process's memory until it is told to stop.
struct MemoryWatch {
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<Result<f64>>,
}

fn watch_memory(pid: u32) -> MemoryWatch {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut largest = machine::resident_mib(pid)?;
        while tokio::time::timeout(MEMORY_EVERY, &mut stopped).await.is_err() {
            largest = largest.max(machine::resident_mib(pid)?);
        }
        Ok(largest)
    });
    MemoryWatch { stop, task }
}

impl MemoryWatch {
    /// The largest that was seen, in MiB.
    fn stop(self) -> impl Future<Output = Result<f64>> {
        drop(self.stop);
        async { self.task.await? }
    }
}
