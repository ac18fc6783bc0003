//! Adds to two running totals for each line of an order.

use fanfare_sdk::prelude::*;
use fanfare_sdk::state::Adjustment;

pub struct BenchTotals;

impl Consumer for BenchTotals {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Adds to two totals for each line").on("order.placed")
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, .. }) = event.as_order_changed() else { return Ok(()) };
        let mut totals = Vec::with_capacity(2 * order.lines.len());
        for line in &order.lines {
            totals.push(Adjustment::add(format!("units/sku/{}", line.sku), i64::from(line.quantity)));
            totals.push(Adjustment::add(format!("revenue/sku/{}", line.sku), line.total_amount()));
        }
        state::add_all(&totals);
        Ok(())
    }
}

fanfare_sdk::export!(BenchTotals);

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, order, placed};

    use super::*;

    #[test]
    fn each_line_adds_to_its_sku() {
        let mut host = Host::<BenchTotals>::default();
        let order = order("o-1").line("A", 2, 100).discounted_line("A", 1, 100, 10).line("B", 1, 5).build();
        host.run(placed(order)).unwrap();
        assert_eq!(
            host.counts(),
            [("revenue/sku/A", 290), ("revenue/sku/B", 5), ("units/sku/A", 3), ("units/sku/B", 1)]
        );
    }
}
