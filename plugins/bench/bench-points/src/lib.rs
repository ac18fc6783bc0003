//! Adds a customer's points: one for each whole unit of the order's currency.

use fanfare_sdk::money;
use fanfare_sdk::prelude::*;

pub struct BenchPoints;

impl Consumer for BenchPoints {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Adds a customer's points").on("order.placed")
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, .. }) = event.as_order_changed() else { return Ok(()) };
        let points = money::whole_units(order.total_amount, &order.currency);
        state::add(&format!("points/{}", order.customer.id), points);
        Ok(())
    }
}

fanfare_sdk::export!(BenchPoints);

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, order, placed};

    use super::*;

    #[test]
    fn points_add_up_by_customer() {
        let mut host = Host::<BenchPoints>::default();
        host.run(placed(order("o-1").line("A", 2, 1_050).build())).unwrap();
        host.run(placed(order("o-2").line("A", 1, 199).build())).unwrap();
        assert_eq!(host.counts(), [("points/VINET", 22)]);
    }
}
