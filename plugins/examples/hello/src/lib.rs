//! The smallest consumer that does something: counts orders per country.

use fanfare_sdk::prelude::*;

pub struct Hello;

impl Consumer for Hello {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Counts orders per country").on("order.placed")
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, .. }) = event.as_order_changed() else { return Ok(()) };
        let country = order.country().unwrap_or("unknown");
        state::add(&format!("orders/{country}"), 1);
        log::info(&format!("hello, order {} to {country}", order.id));
        Ok(())
    }
}

fanfare_sdk::export!(Hello);

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, order, placed};

    use super::*;

    #[test]
    fn orders_are_counted_by_country() {
        let mut host = Host::<Hello>::default();
        host.handle(placed(order("o-1").country("FR").build())).unwrap();
        host.handle(placed(order("o-2").country("FR").build())).unwrap();
        host.handle(placed(order("o-3").build())).unwrap();
        assert_eq!(host.counts(), [("orders/FR", 2), ("orders/unknown", 1)]);
    }
}
