//! Orders and events to hand to a handler.

use crate::events::{Body, Change, Custom, Event, OrderChanged, Origin};
use crate::order::{Address, Customer, Line, Order, Status};

/// 2026-11-22T10:00:00Z.
const PLACED_AT_MS: u64 = 1_795_341_600_000;

/// An order of customer `VINET` in USD, without lines or address until they are added.
pub fn order(id: &str) -> OrderBuilder {
    let customer = Customer { id: "VINET".to_owned(), name: None, email: None, phone: None };
    OrderBuilder(Order {
        id: id.to_owned(),
        reference: None,
        status: Status::Placed,
        revision: 1,
        placed_at: PLACED_AT_MS,
        currency: "USD".to_owned(),
        customer,
        lines: Vec::new(),
        total_amount: 0,
        shipping_address: None,
        metadata: Vec::new(),
    })
}

pub struct OrderBuilder(Order);

impl OrderBuilder {
    #[must_use]
    pub fn line(self, sku: &str, quantity: u32, unit_amount: i64) -> Self {
        self.discounted_line(sku, quantity, unit_amount, 0)
    }

    #[must_use]
    pub fn discounted_line(mut self, sku: &str, quantity: u32, unit_amount: i64, discount_amount: i64) -> Self {
        let title = Some(format!("Title of {sku}"));
        let line = Line { sku: sku.to_owned(), title, quantity, unit_amount, discount_amount };
        self.0.total_amount += line.total_amount();
        self.0.lines.push(line);
        self
    }

    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.0.status = status;
        self
    }

    #[must_use]
    pub fn reference(mut self, reference: &str) -> Self {
        self.0.reference = Some(reference.to_owned());
        self
    }

    #[must_use]
    pub fn currency(mut self, currency: &str) -> Self {
        self.0.currency = currency.to_owned();
        self
    }

    #[must_use]
    pub fn customer(mut self, id: &str, name: Option<&str>, email: Option<&str>) -> Self {
        self.0.customer.id = id.to_owned();
        self.0.customer.name = name.map(str::to_owned);
        self.0.customer.email = email.map(str::to_owned);
        self
    }

    #[must_use]
    pub fn country(mut self, country: &str) -> Self {
        self.0.shipping_address = Some(Address {
            name: "Paul Henriot".to_owned(),
            line1: "59 rue de l'Abbaye".to_owned(),
            line2: None,
            city: "Reims".to_owned(),
            region: None,
            postal_code: Some("51100".to_owned()),
            country: country.to_owned(),
        });
        self
    }

    #[must_use]
    pub fn metadata(mut self, name: &str, value: &str) -> Self {
        self.0.metadata.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn build(self) -> Order {
        self.0
    }
}

/// The event that tells of a new order.
pub fn placed(order: Order) -> Event {
    changed(order, Change::Placed)
}

/// The event that tells of a change. The order is to stand as it did right after the change.
pub fn changed(order: Order, change: Change) -> Event {
    let id = format!("{}/{}", order.id, change.kind());
    event(id, Body::OrderChanged(OrderChanged { order, change }))
}

/// A custom event from outside.
pub fn custom(kind: &str, subject: &str, data: &str) -> Event {
    let custom = Custom { kind: kind.to_owned(), subject: subject.to_owned(), order_id: None, data: data.to_owned() };
    event(format!("{kind}/{subject}"), Body::Custom(custom))
}

fn event(id: String, body: Body) -> Event {
    Event { id, time: PLACED_AT_MS, cause: None, attempt: 1, origin: Origin::Live, body }
}
