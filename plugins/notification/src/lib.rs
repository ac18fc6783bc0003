//! Notification: an e-mail to the customer for each step of an order, in the customer's language, and one to the shop when
//! stock runs low.
//!
//! It keeps no state: a message commits with the acknowledgement of its event, so one event is one e-mail.

mod language;
mod letter;
mod stock;
mod template;
#[cfg(test)]
mod tests;

use fanfare_sdk::outbox::Email;
use fanfare_sdk::prelude::*;

pub struct Notification;

impl Consumer for Notification {
    fn describe() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Tells customers by e-mail what becomes of their orders")
            .on("order.*")
            .on(stock::LOW)
            .needs(Need::Email)
    }

    fn handle(event: Event) -> Result<(), Failure> {
        match &event.body {
            Body::OrderChanged(changed) => {
                tell_customer(changed);
                Ok(())
            }
            Body::Custom(custom) if custom.kind == stock::LOW => stock::tell_shop(custom),
            Body::Custom(_) => Ok(()),
        }
    }
}

fanfare_sdk::export!(Notification);

fn tell_customer(OrderChanged { order, change }: &OrderChanged) {
    let Some(to) = order.customer.email.as_deref().map(str::trim).filter(|email| !email.is_empty()) else {
        return log::debug(&format!("order {} {}: its customer has no e-mail address", order.id, change.kind()));
    };
    if !is_address(to) {
        return log::warn(&format!("order {} {}: {to:?} is not an e-mail address", order.id, change.kind()));
    }
    if let Some(letter) = letter::write(order, change) {
        let template::Letter { subject, text, html } = letter;
        outbox::send_email(Email { to: to.to_owned(), subject, text, html: Some(html) });
    }
}

/// One address and nothing else: a line break or a second address would be somebody else's mail.
fn is_address(text: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ',' | ';' | '<' | '>' | '"');
    text.chars().all(plain) && text.split('@').count() == 2 && !text.starts_with('@') && !text.ends_with('@')
}
