//! Takes stock for all lines of an order, or none. What there is to take comes in by `com.fanfare.stock.received`.

use fanfare_sdk::json::Data;
use fanfare_sdk::prelude::*;
use fanfare_sdk::state::Adjustment;

/// `{sku, quantity}`: so many units came in.
const RECEIVED: &str = "com.fanfare.stock.received";

/// Sums of such numbers do not overflow.
const QUANTITY_MAX: i64 = 1_000_000_000_000;

pub struct BenchStock;

impl Consumer for BenchStock {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Takes stock for an order").on("order.placed").on(RECEIVED)
    }

    fn handle(event: Event) -> Result<(), Failure> {
        match &event.body {
            Body::OrderChanged(OrderChanged { order, .. }) => take(order),
            Body::Custom(custom) => receive(&Data::parse(&custom.data)?)?,
        }
        Ok(())
    }
}

fanfare_sdk::export!(BenchStock);

fn take(order: &Order) {
    let take = |line: &Line| Adjustment::take(key(&line.sku), i64::from(line.quantity), 0);
    let taken: Vec<_> = order.lines.iter().map(take).collect();
    if state::adjust(&taken).is_err() {
        state::add("short", 1);
    }
}

fn receive(data: &Data) -> Result<(), Failure> {
    let (sku, quantity) = (data.text("sku")?, data.integer("quantity", 1..=QUANTITY_MAX)?);
    state::add(&key(sku), quantity);
    Ok(())
}

fn key(sku: &str) -> String {
    format!("stock/{sku}")
}

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, custom, order, placed};

    use super::*;

    #[test]
    fn all_lines_are_taken_or_none() {
        let mut host = Host::<BenchStock>::default();
        host.run(custom(RECEIVED, "A", r#"{"sku":"A","quantity":5}"#)).unwrap();
        host.run(custom(RECEIVED, "B", r#"{"sku":"B","quantity":1}"#)).unwrap();
        host.run(placed(order("o-1").line("A", 2, 100).line("B", 1, 100).build())).unwrap();
        assert_eq!(host.counts(), [("stock/A", 3), ("stock/B", 0)]);
        host.run(placed(order("o-2").line("A", 2, 100).line("B", 1, 100).build())).unwrap();
        assert_eq!(host.counts(), [("short", 1), ("stock/A", 3), ("stock/B", 0)]);
    }
}
