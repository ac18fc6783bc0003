//! Takes stock for all lines of an order, or none.

use fanfare_sdk::prelude::*;
use fanfare_sdk::state::Adjustment;

pub struct BenchStock;

impl Consumer for BenchStock {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Takes stock for an order").on("order.placed")
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, .. }) = event.as_order_changed() else { return Ok(()) };
        let take = |line: &Line| Adjustment::take(format!("stock/{}", line.sku), i64::from(line.quantity), 0);
        let taken: Vec<_> = order.lines.iter().map(take).collect();
        if state::adjust(&taken).is_err() {
            state::add("short", 1);
        }
        Ok(())
    }
}

fanfare_sdk::export!(BenchStock);

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, order, placed};

    use super::*;

    #[test]
    fn all_lines_are_taken_or_none() {
        let mut host = Host::<BenchStock>::default();
        host.set_count("stock/A", 5);
        host.set_count("stock/B", 1);
        host.run(placed(order("o-1").line("A", 2, 100).line("B", 1, 100).build())).unwrap();
        assert_eq!(host.counts(), [("stock/A", 3), ("stock/B", 0)]);
        host.run(placed(order("o-2").line("A", 2, 100).line("B", 1, 100).build())).unwrap();
        assert_eq!(host.counts(), [("short", 1), ("stock/A", 3), ("stock/B", 0)]);
    }
}
