//! Sends one e-mail for an order.

use fanfare_sdk::outbox::Email;
use fanfare_sdk::prelude::*;

pub struct BenchMessage;

impl Consumer for BenchMessage {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Sends one e-mail").on("order.placed").needs(Need::Email)
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, .. }) = event.as_order_changed() else { return Ok(()) };
        let to = order.customer.email.clone().unwrap_or_else(|| format!("{}@customers.example", order.customer.id));
        outbox::send_email(Email {
            to,
            subject: format!("We have your order {}", order.id),
            text: format!("Thank you for your order {} of {} lines.\n", order.id, order.lines.len()),
            html: None,
        });
        Ok(())
    }
}

fanfare_sdk::export!(BenchMessage);

#[cfg(test)]
mod tests {
    use fanfare_sdk::testing::{Host, order, placed};

    use super::*;

    #[test]
    fn an_order_is_one_email() {
        let mut host = Host::<BenchMessage>::default();
        host.run(placed(order("o-1").line("A", 1, 100).build())).unwrap();
        let emails = host.emails();
        assert_eq!(emails.len(), 1);
        assert_eq!(emails[0].to, "VINET@customers.example");
        assert_eq!(emails[0].text, "Thank you for your order o-1 of 1 lines.\n");
    }
}
