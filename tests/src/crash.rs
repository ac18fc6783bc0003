//! A shop that goes on through crashes of its host, and the books that must balance afterwards.
//!
//! ```text
//! Shops ──► orders, cancellations, goods received ──► host ── dies ──► host, started again ── …
//!   └── what was answered ──► books::faults ◄── what the last host says
//! ```

pub mod books;
pub mod cloud;
pub mod fleet;
pub mod goods;
pub mod network;
pub mod operator;
pub mod points;
pub mod power;
pub mod random;
pub mod relaid;
pub mod shops;

use crate::TestHost;

/// What runs while the host is crashed: the five that ship, and one that writes down the order of what it hears.
pub const CONSUMERS: [&str; 6] = ["analytics", "inventory", "lanes", "loyalty", "notification", "shipment"];

/// Those whose state can be made anew: shipment keeps a consignment only where it is the one that ships the order.
pub const REBUILT: [&str; 5] = ["analytics", "inventory", "lanes", "loyalty", "notification"];

/// A host with [`CONSUMERS`] that does not run yet.
#[must_use]
pub fn host() -> TestHost {
    let mut host = TestHost::new();
    for name in CONSUMERS {
        host.consumers.add(name);
    }
    // What `lanes` panics with is not worth a page each time.
    host.variable("FANFARE_LOG_LEVEL", "info,fanfare::consumer=error").leave_deliveries();
    host
}
