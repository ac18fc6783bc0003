//! Orders, their lines, and the legal steps of their life. Pure: no async, no IO.
//!
//! ```text
//! placed ──► confirmed ──► shipped ──► delivered
//!   │ └────► rejected
//!   └──────────┴─────► cancelled          (from placed or confirmed)
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

pub mod draft;

/// Names one order: a UUID version 7, so that ids sort by the time they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(Uuid);

impl OrderId {
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// When it was made, by the clock of its host.
    #[must_use]
    pub fn made_at(self) -> Timestamp {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |time| time.to_unix());
        Timestamp::from_millis(seconds * 1_000 + u64::from(nanos) / 1_000_000)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OrderId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Count of a currency's minor unit: cents for USD, yen for JPY.
pub type MinorUnits = i64;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Placed,
    Confirmed,
    Rejected,
    Shipped,
    Delivered,
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 6] =
        [Self::Placed, Self::Confirmed, Self::Rejected, Self::Shipped, Self::Delivered, Self::Cancelled];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether no change is legal any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Rejected | Self::Delivered | Self::Cancelled)
    }

    /// The kind of the event that brings an order here: `order.placed` and so on.
    #[must_use]
    pub fn event_kind(self) -> &'static str {
        match self {
            Self::Placed => "order.placed",
            Self::Confirmed => "order.confirmed",
            Self::Rejected => "order.rejected",
            Self::Shipped => "order.shipped",
            Self::Delivered => "order.delivered",
            Self::Cancelled => "order.cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a status: use placed, confirmed, rejected, shipped, delivered or cancelled")]
pub struct UnknownStatus(String);

/// A step in an order's life. In JSON `{"placed":{}}`, `{"rejected":{"reason":"…"}}`, …
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Placed {},
    Confirmed {},
    /// Why the order cannot be fulfilled, in words for the customer.
    Rejected {
        reason: String,
    },
    Shipped(Shipment),
    Delivered {},
    /// Why, in words for the customer.
    Cancelled {
        reason: String,
    },
}

impl Change {
    /// Where the order stands after this step.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Placed {} => Status::Placed,
            Self::Confirmed {} => Status::Confirmed,
            Self::Rejected { .. } => Status::Rejected,
            Self::Shipped(_) => Status::Shipped,
            Self::Delivered {} => Status::Delivered,
            Self::Cancelled { .. } => Status::Cancelled,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    pub carrier: String,
    pub tracking_number: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_url: Option<String>,
}

/// What a shop submitted; never changed after it was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// ISO 4217.
    pub currency: String,
    pub customer: Customer,
    pub lines: Vec<Line>,
    /// The host's own sum of quantity × unit amount − discount over the lines.
    pub total_amount: MinorUnits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipping_address: Option<Address>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub sku: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// At least 1.
    pub quantity: u32,
    /// Price of one unit.
    pub unit_amount: MinorUnits,
    /// Taken off the whole line, not off one unit.
    #[serde(default)]
    pub discount_amount: MinorUnits,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub name: String,
    pub line1: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    pub city: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    /// ISO 3166-1 alpha-2.
    pub country: String,
}

/// An order as it stands at one revision. Cheap to clone: the content is shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    pub id: OrderId,
    pub status: Status,
    /// 1 when placed, one more with every change.
    pub revision: u64,
    pub placed_at: Timestamp,
    #[serde(flatten)]
    pub content: Arc<Content>,
}

impl Order {
    /// A new order, at revision 1.
    #[must_use]
    pub fn place(content: Arc<Content>, placed_at: Timestamp) -> Self {
        Self { id: OrderId::generate(), status: Status::Placed, revision: 1, placed_at, content }
    }

    /// The order after `change`, one revision on.
    ///
    /// # Errors
    /// [`Illegal`] where the order's status does not allow the step.
    pub fn after(&self, change: &Change) -> Result<Self, Illegal> {
        let status = decide(self.status, change)?;
        Ok(Self { status, revision: self.revision + 1, ..self.clone() })
    }
}

/// The step is not allowed from this status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an order that is {from} cannot become {to}")]
pub struct Illegal {
    pub from: Status,
    pub to: Status,
}

/// The rule of an order's life: the status that `change` leads to from `from`.
///
/// # Errors
/// [`Illegal`] where `from` does not allow the step; `placed` is never a step.
pub fn decide(from: Status, change: &Change) -> Result<Status, Illegal> {
    let to = change.status();
    let legal = match to {
        Status::Placed => false,
        Status::Confirmed | Status::Rejected => from == Status::Placed,
        Status::Shipped => from == Status::Confirmed,
        Status::Delivered => from == Status::Shipped,
        Status::Cancelled => matches!(from, Status::Placed | Status::Confirmed),
    };
    if legal { Ok(to) } else { Err(Illegal { from, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_drawn_steps_are_legal() {
        use Status::{Cancelled, Confirmed, Delivered, Placed, Rejected, Shipped};
        let legal = [
            (Placed, Confirmed),
            (Placed, Rejected),
            (Placed, Cancelled),
            (Confirmed, Shipped),
            (Confirmed, Cancelled),
            (Shipped, Delivered),
        ];
        for from in Status::ALL {
            for change in every_change() {
                let expected = legal.contains(&(from, change.status()));
                assert_eq!(decide(from, &change).is_ok(), expected, "{from} to {}", change.status());
            }
        }
    }

    #[test]
    fn a_change_reads_back_as_it_was_written() {
        for change in every_change() {
            let json = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
        }
        assert_eq!(serde_json::to_string(&Change::Placed {}).unwrap(), r#"{"placed":{}}"#);
    }

    fn every_change() -> [Change; 6] {
        let shipment = Shipment { carrier: "local".into(), tracking_number: "1".into(), tracking_url: None };
        [
            Change::Placed {},
            Change::Confirmed {},
            Change::Rejected { reason: "short".into() },
            Change::Shipped(shipment),
            Change::Delivered {},
            Change::Cancelled { reason: "changed my mind".into() },
        ]
    }
}
