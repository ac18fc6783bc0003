//! Questions that many consumers ask of orders and events.

use std::collections::BTreeMap;

use crate::events::{Change, Event, OrderChanged};
use crate::order::{Line, Order, Status};

impl Order {
    /// Where it goes: ISO 3166-1 alpha-2.
    pub fn country(&self) -> Option<&str> {
        self.shipping_address.as_ref().map(|address| address.country.as_str())
    }

    /// The first metadata value under `name`.
    pub fn metadata_value(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Units wanted of each SKU, in SKU order; several lines of one SKU are added up.
    pub fn units_by_sku(&self) -> BTreeMap<&str, i64> {
        let mut units = BTreeMap::new();
        for line in &self.lines {
            *units.entry(line.sku.as_str()).or_insert(0) += i64::from(line.quantity);
        }
        units
    }
}

impl Line {
    /// What the customer pays for the line, in minor units. The host has checked the order's sums for overflow.
    pub fn total_amount(&self) -> i64 {
        i64::from(self.quantity) * self.unit_amount - self.discount_amount
    }
}

impl Event {
    /// The order change in it, unless it is a custom event.
    pub fn as_order_changed(&self) -> Option<&OrderChanged> {
        match &self.body {
            crate::events::Body::OrderChanged(changed) => Some(changed),
            crate::events::Body::Custom(_) => None,
        }
    }
}

impl Change {
    /// The event kind without `order.`: `placed`, `confirmed`, …
    pub fn kind(&self) -> &str {
        match self {
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Rejected(_) => "rejected",
            Self::Shipped(_) => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled(_) => "cancelled",
            Self::Other(custom) => custom.kind.strip_prefix("order.").unwrap_or(&custom.kind),
        }
    }
}

impl Status {
    /// As the API spells it.
    pub fn name(&self) -> &str {
        match self {
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Other(name) => name,
        }
    }
}
