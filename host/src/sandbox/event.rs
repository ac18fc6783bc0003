//! Events as the guest gets them: borrowed from what the host holds, copied once, into the guest's memory.

use super::contract::v0_1 as wit;
use crate::backend::Origin;
use crate::event::{Body, Custom, Event};
use crate::order::{Change, Order, Shipment, Status};

/// What an event in WIT's shape borrows and the host's shape does not have.
pub struct Parts<'a> {
    event: &'a Event,
    id: String,
    cause: Option<String>,
    order_id: Option<String>,
    lines: Vec<wit::orders::LineParam<'a>>,
    metadata: Vec<(&'a str, &'a str)>,
}

impl<'a> Parts<'a> {
    pub fn of(event: &'a Event) -> Self {
        let (lines, metadata) = match &event.body {
            Body::OrderChanged { order, .. } => (lines(order), metadata(order)),
            Body::Custom(_) => (Vec::new(), Vec::new()),
        };
        Self {
            event,
            id: event.id.to_string(),
            cause: event.cause.map(|cause| cause.to_string()),
            order_id: event.order_id().map(|id| id.to_string()),
            lines,
            metadata,
        }
    }

    pub fn event(&self, attempt: u32, origin: Origin) -> wit::events::Event<'_> {
        wit::events::Event {
            id: &self.id,
            time: self.event.time.as_millis(),
            cause: self.cause.as_deref(),
            attempt,
            origin: match origin {
                Origin::Live => wit::events::Origin::Live,
                Origin::Backfill => wit::events::Origin::Backfill,
                Origin::Replay => wit::events::Origin::Replay,
            },
            body: match &self.event.body {
                Body::OrderChanged { order, change } => {
                    let (order, change) = (self.order(order), self::change(change));
                    wit::events::Body::OrderChanged(wit::events::OrderChanged { order, change })
                }
                Body::Custom(custom) => wit::events::Body::Custom(self.custom(custom)),
            },
        }
    }

    fn order(&'a self, order: &'a Order) -> wit::orders::OrderParam<'a> {
        let content = &*order.content;
        let (customer, address) = (&content.customer, content.shipping_address.as_ref());
        wit::orders::OrderParam {
            id: self.order_id.as_deref().unwrap_or_default(),
            reference: content.reference.as_deref(),
            status: status(order.status),
            revision: order.revision,
            placed_at: order.placed_at.as_millis(),
            currency: &content.currency,
            customer: wit::orders::CustomerParam {
                id: &customer.id,
                name: customer.name.as_deref(),
                email: customer.email.as_deref(),
                phone: customer.phone.as_deref(),
            },
            lines: &self.lines,
            total_amount: content.total_amount,
            shipping_address: address.map(|address| wit::orders::AddressParam {
                name: &address.name,
                line1: &address.line1,
                line2: address.line2.as_deref(),
                city: &address.city,
                region: address.region.as_deref(),
                postal_code: address.postal_code.as_deref(),
                country: &address.country,
            }),
            metadata: &self.metadata,
        }
    }

    fn custom(&'a self, custom: &'a Custom) -> wit::events::CustomParam<'a> {
        wit::events::CustomParam {
            kind: &custom.kind,
            subject: &custom.subject,
            order_id: self.order_id.as_deref(),
            data: custom.data.get(),
        }
    }
}

fn lines(order: &Order) -> Vec<wit::orders::LineParam<'_>> {
    order
        .content
        .lines
        .iter()
        .map(|line| wit::orders::LineParam {
            sku: &line.sku,
            title: line.title.as_deref(),
            quantity: line.quantity,
            unit_amount: line.unit_amount,
            discount_amount: line.discount_amount,
        })
        .collect()
}

fn metadata(order: &Order) -> Vec<(&str, &str)> {
    order.content.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn status(status: Status) -> wit::orders::StatusParam<'static> {
    use wit::orders::StatusParam as Wit;
    match status {
        Status::Placed => Wit::Placed,
        Status::Confirmed => Wit::Confirmed,
        Status::Rejected => Wit::Rejected,
        Status::Shipped => Wit::Shipped,
        Status::Delivered => Wit::Delivered,
        Status::Cancelled => Wit::Cancelled,
    }
}

fn change(change: &Change) -> wit::events::ChangeParam<'_> {
    use wit::events::ChangeParam as Wit;
    match change {
        Change::Placed {} => Wit::Placed,
        Change::Confirmed {} => Wit::Confirmed,
        Change::Rejected { reason } => Wit::Rejected(reason),
        Change::Shipped(Shipment { carrier, tracking_number, tracking_url }) => {
            Wit::Shipped(wit::events::ShipmentParam { carrier, tracking_number, tracking_url: tracking_url.as_deref() })
        }
        Change::Delivered {} => Wit::Delivered,
        Change::Cancelled { reason } => Wit::Cancelled(reason),
    }
}
