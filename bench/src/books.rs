//! What a process left in its store, read when it has ended.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::mode::{Mode, STOCK};
use crate::workload::{self, Workload};

pub struct Books(Connection);

impl Books {
    pub fn open(file: &Path) -> Result<Self> {
        let books = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        Ok(Self(books.with_context(|| format!("cannot open {}", file.display()))?))
    }

    /// Rows in the tables that grow with the orders, for each.
    pub fn rows_per_order(&self) -> Option<f64> {
        let number = |sql: &str| self.0.query_row(sql, [], |row| row.get::<_, f64>(0)).ok();
        let orders = number("SELECT CAST(count(*) AS REAL) FROM orders")?;
        let rows = number(
            "SELECT CAST((SELECT count(*) FROM orders) + (SELECT count(*) FROM idempotency)
                       + (SELECT count(*) FROM events WHERE order_number IS NOT NULL) + (SELECT count(*) FROM entries)
                       + (SELECT count(*) FROM messages) + (SELECT count(*) FROM records) AS REAL)",
        )?;
        (orders > 0.0).then_some(rows / orders)
    }

    /// Every order that was submitted is there with all that becomes of it, and every unit of stock is accounted for.
    pub fn verify(&self, mode: &Mode, workload: &Workload, orders: u64) -> Result<()> {
        let orders_stored = self.count("SELECT count(*) FROM orders")?;
        ensure!(orders_stored == orders, "{orders_stored} orders are in the store, not {orders}");
        let events = self.count("SELECT count(*) FROM events")?;
        ensure!(events == orders * mode.events, "{events} events are in the store, not {}", orders * mode.events);
        for (name, deliveries) in mode.consumers {
            let done: i64 = self.0.query_row("SELECT done FROM consumers WHERE name = ?1", [name], |row| row.get(0))?;
            ensure!(u64::try_from(done)? == orders * deliveries, "{name} handled {done} events of {orders} orders");
        }
        if mode.shipped {
            let shipped = self.count("SELECT count(*) FROM orders WHERE status = 'shipped' AND revision = 3")?;
            ensure!(shipped == orders, "{shipped} of {orders} orders are shipped");
        }
        let mut left = self.0.prepare(
            "SELECT value FROM counters JOIN consumers USING (state) WHERE name = ?1 AND key = 'stock/' || ?2",
        )?;
        for (index, taken) in workload.units(orders)?.into_iter().enumerate() {
            let sku = workload::sku(index);
            let left: i64 = left.query_row([mode.stock, &sku], |row| row.get(0))?;
            ensure!(left == STOCK - taken, "{left} units of {sku} are left: {STOCK} came in and {taken} were sold");
        }
        eprintln!("{}, native: all {orders} orders are in the store with all that becomes of them", mode.name);
        Ok(())
    }

    fn count(&self, sql: &str) -> Result<u64> {
        let count: i64 = self.0.query_row(sql, [], |row| row.get(0))?;
        Ok(u64::try_from(count)?)
    }
}
