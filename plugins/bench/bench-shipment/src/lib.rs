//! Writes one entry for an order.

use fanfare_sdk::prelude::*;

pub struct BenchShipment;

impl Consumer for BenchShipment {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Writes one entry for an order").on("order.placed")
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, .. }) = event.as_order_changed() else { return Ok(()) };
        let value = format!(r#"{{"carrier":"local","tracking_number":"FF-{}"}}"#, order.id);
        state::set(&format!("shipment/{}", order.id), value.as_bytes());
        Ok(())
    }
}

fanfare_sdk::export!(BenchShipment);

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, order, placed};

    use super::*;

    #[test]
    fn an_order_is_one_entry() {
        let mut host = Host::<BenchShipment>::default();
        host.run(placed(order("o-1").build())).unwrap();
        assert_eq!(host.entry("shipment/o-1"), Some(r#"{"carrier":"local","tracking_number":"FF-o-1"}"#));
    }
}
