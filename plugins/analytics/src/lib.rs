//! Analytics: every order change as rows for analysis, and running totals that are right without any query.
//!
//! State: counters only, all adjusted without reading, so that no two events ever collide. plugins/README.md lists them.

mod rows;
#[cfg(test)]
mod tests;
mod totals;

use fanfare_sdk::prelude::*;

pub struct Analytics;

impl Consumer for Analytics {
    fn describe() -> Description {
        let description = Description::new(env!("CARGO_PKG_VERSION"), "Rows for analysis, and running totals");
        rows::datasets().into_iter().fold(description.on("order.*"), Description::needs)
    }

    fn handle(event: Event) -> Result<(), Failure> {
        let Some(OrderChanged { order, change }) = event.as_order_changed() else { return Ok(()) };
        rows::change(&event.id, event.time, order, change)?;
        if matches!(change, Change::Placed) {
            rows::order(order)?;
            rows::lines(order)?;
        }
        state::add_all(&totals::of(order, change));
        Ok(())
    }
}

fanfare_sdk::export!(Analytics);
