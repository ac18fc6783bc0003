//! Prints what one event costs inventory as native Rust, in microseconds: the yardstick for the same code in a sandbox.
//!
//! The event is an order of three lines that are in stock. What is timed is the handler on a host that is maps in memory,
//! its writes to these maps included.

use std::time::{Duration, Instant};

use fanfare_sdk::testing::{self, Host};
use inventory::Inventory;

/// Batches of events; the median of the batches counts.
const BATCHES: usize = 21;
const EVENTS_PER_BATCH: u32 = 1_000;
const STOCK: i64 = 1_000_000_000;

const LINES: [(&str, u32, i64); 3] = [("SKU-0001", 2, 1_499), ("SKU-0014", 1, 25_900), ("SKU-0333", 4, 799)];

fn main() -> Result<(), String> {
    let mut host = Host::<Inventory>::default();
    for (sku, _, _) in LINES {
        host.set_count(&format!("stock/{sku}"), STOCK);
    }
    let mut batches = Vec::with_capacity(BATCHES);
    for batch in 0..BATCHES {
        let mut spent = Duration::ZERO;
        for number in 0..EVENTS_PER_BATCH {
            spent += handle(&mut host, &format!("00000000-0000-7000-{batch:04}-{number:012}"))?;
        }
        // Anything but a confirmation of each would be another job.
        if host.changes().len() != EVENTS_PER_BATCH as usize {
            return Err(format!("{} of {EVENTS_PER_BATCH} orders were confirmed", host.changes().len()));
        }
        host.forget_effects();
        batches.push(spent / EVENTS_PER_BATCH);
    }
    batches.sort_unstable();
    let median = batches.get(BATCHES / 2).ok_or("no batches")?;
    println!("{:.3}", median.as_secs_f64() * 1e6);
    Ok(())
}

fn handle(host: &mut Host<Inventory>, id: &str) -> Result<Duration, String> {
    let mut order = testing::order(id);
    for (sku, quantity, unit_amount) in LINES {
        order = order.line(sku, quantity, unit_amount);
    }
    let order = order.build();
    host.set_order(order.clone());
    let event = testing::placed(order);
    let started = Instant::now();
    let outcome = host.run(event);
    let spent = started.elapsed();
    outcome.map(|()| spent).map_err(|failure| format!("inventory does not handle an order: {failure:?}"))
}
