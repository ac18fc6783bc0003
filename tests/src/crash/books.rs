//! The books: what every consumer must hold, computed from the orders, compared with what it holds.
//!
//! Nothing is asked but what an operator could ask. A fault is a sentence; no fault is an empty list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use super::goods::SCARCE;
use super::shops::{Ledger, Sale};
use crate::{Client, Value};

/// Faults of one kind that are told; more would say the same.
const TOLD_MAX: usize = 5;
/// Between two looks at what is pending, which costs the host something.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Everything that is wrong, once the host has done all there is to do.
#[must_use]
pub fn faults(client: &Client, ledger: &Ledger) -> Vec<String> {
    let mut books = Books { client, ledger, orders: BTreeMap::new(), faults: Vec::new() };
    books.orders();
    books.lanes();
    books.analytics();
    books.inventory();
    books.loyalty();
    books.shipment();
    books.notification();
    books.faults
}

/// Waits until every consumer has done all its deliveries and every message has gone.
///
/// # Errors
/// What is still to be done when nothing has moved for as long as `patience`, or cannot be done.
pub fn settled(client: &Client, patience: Duration) -> Result<(), String> {
    settled_where(|| client.clone(), patience)
}

/// The same, asked of whichever host serves.
///
/// # Errors
/// As there.
pub fn settled_where(mut serving: impl FnMut() -> Client, patience: Duration) -> Result<(), String> {
    let mut moved = Instant::now();
    let mut before = None;
    loop {
        let client = serving();
        let consumers = client.consumers();
        let idle = consumers.iter().all(|consumer| consumer["pending"] == 0);
        let dead = consumers.iter().any(|consumer| consumer["dead"] != 0);
        let steady = before.replace(consumers.clone()).is_some_and(|before| before == consumers);
        if dead {
            return Err(format!("dead letters: {consumers:#?}"));
        }
        if idle && steady && client.messages().iter().all(|message| message["state"] == "sent") {
            return Ok(());
        }
        if !steady {
            moved = Instant::now();
        }
        if moved.elapsed() > patience {
            return Err(format!("not done, and nothing moves for {patience:?}: {consumers:#?}"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

struct Books<'a> {
    client: &'a Client,
    ledger: &'a Ledger,
    /// By id: the order as the host has it, and the sale that it came from.
    orders: BTreeMap<String, (Value, &'a Sale)>,
    faults: Vec<String>,
}

impl Books<'_> {
    /// Every order answered 201 exists once, every other at most once, and nothing else does.
    fn orders(&mut self) {
        let mut found = BTreeSet::new();
        for order in self.client.orders() {
            let reference = text(&order["reference"]);
            let Some(sale) = self.ledger.sales.get(&reference) else {
                self.fault(format!("nobody placed {order}"));
                continue;
            };
            if !found.insert(reference.clone()) {
                self.fault(format!("{reference} exists twice"));
            }
            self.order(&order, sale);
            self.orders.insert(text(&order["id"]), (order, sale));
        }
        let lost = |(reference, sale): &(&String, &Sale)| sale.id.is_some() && !found.contains(*reference);
        let lost: Vec<_> = self.ledger.sales.iter().filter(lost).map(|(reference, _)| reference).collect();
        if !lost.is_empty() {
            self.fault(format!("{} orders were answered 201 and are lost: {:?}", lost.len(), few(&lost)));
        }
    }

    fn order(&mut self, order: &Value, sale: &Sale) {
        if sale.id.as_ref().is_some_and(|id| *id != text(&order["id"])) {
            self.fault(format!("{} was answered with id {:?} and is {order}", sale.sold.reference, sale.id));
        }
        if order["total_amount"] != sale.sold.total_amount {
            self.fault(format!("the total of {} should be {}: {order}", sale.sold.reference, sale.sold.total_amount));
        }
        let legal: &[u64] = match order["status"].as_str() {
            Some("shipped") => &[3],
            Some("rejected") => &[2],
            Some("cancelled") => &[2, 3],
            _ => &[],
        };
        if !order["revision"].as_u64().is_some_and(|revision| legal.contains(&revision)) {
            self.fault(format!("no order ends like this: {order}"));
        }
        if sale.cancelled && order["status"] != "cancelled" {
            self.fault(format!("its cancellation was answered 200: {order}"));
        }
    }

    /// Each order's events came once and in turn.
    fn lanes(&mut self) {
        let expected = self.orders.iter().map(|(id, (order, _))| (format!("lane/{id}"), lane(order))).collect();
        let found = self.entries("lanes", "lane/");
        self.compare("lanes", expected, found);
        let handled = self.orders.values().map(|(order, _)| revision(order)).sum();
        let found = self.client.counter("lanes", "handled");
        self.same("handled of lanes", handled, found);
    }

    fn analytics(&mut self) {
        let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in self.rows("changes") {
            changes.entry(text(&row["order_id"])).or_default().push(row["revision"].to_string());
        }
        let found = changes.into_iter().map(|(id, revisions)| (id, revisions.join(" "))).collect();
        let expected = self.orders.iter().map(|(id, (order, _))| (id.clone(), lane(order))).collect();
        self.compare("rows of changes", expected, found);

        let mut rows: Vec<String> = self.rows("orders").iter().map(|row| text(&row["order_id"])).collect();
        rows.sort_unstable();
        let ids: Vec<String> = self.orders.keys().cloned().collect();
        self.same("number of rows of orders", ids.len(), rows.len());
        if rows != ids {
            self.fault("the rows of orders are not the orders".to_owned());
        }
        let found: i64 = self.client.counters("analytics", "status/").iter().map(|(_, count)| count).sum();
        self.same("changes counted by analytics", self.orders.values().map(|(order, _)| revision(order)).sum(), found);
        let mut units: BTreeMap<String, i64> = BTreeMap::new();
        for (_, sale) in self.orders.values() {
            sale.sold
                .units
                .iter()
                .for_each(|(sku, sold)| *units.entry(format!("units/sku/{sku}")).or_default() += sold);
        }
        let found = self.client.counters("analytics", "units/sku/").into_iter().collect();
        self.compare("units counted by analytics", units, found);
    }

    /// What was received and is not in an order that holds it is in stock.
    fn inventory(&mut self) {
        let received = self.ledger.received.iter().map(|(sku, units)| (format!("stock/{sku}"), *units));
        let mut stock: BTreeMap<String, i64> = received.collect();
        let mut taken = BTreeMap::new();
        for (id, (_, sale)) in self.orders.iter().filter(|(_, (order, _))| order["status"] == "shipped") {
            sale.sold.units.iter().for_each(|(sku, units)| *stock.entry(format!("stock/{sku}")).or_default() -= units);
            let units = serde_json::to_string(&sale.sold.units).unwrap_or_default();
            taken.insert(format!("taken/{id}"), units);
        }
        let found: BTreeMap<String, i64> = self.client.counters("inventory", "stock/").into_iter().collect();
        if let Some(oversold) = found.iter().find(|(_, units)| **units < 0) {
            self.fault(format!("oversold: {oversold:?}"));
        }
        self.compare("stock", stock, found);
        let found = self.entries("inventory", "taken/");
        self.compare("taken", taken, found);
        self.scarce();
    }

    /// What more was asked for than there was is sold to the last unit, and no unit twice.
    fn scarce(&mut self) {
        let Some(received) = self.ledger.received.get(SCARCE).copied() else { return };
        let asked = self.orders.values().filter(|(_, sale)| sale.sold.units.contains_key(SCARCE));
        let asked: Vec<bool> = asked.map(|(order, _)| order["status"] == "shipped").collect();
        let sold = asked.iter().filter(|sold| **sold).count();
        let expected = received.min(i64::try_from(asked.len()).unwrap_or(i64::MAX));
        self.same("units sold of what is scarce", expected, i64::try_from(sold).unwrap_or(i64::MAX));
    }

    fn loyalty(&mut self) {
        let mut points: BTreeMap<String, i64> = BTreeMap::new();
        for (_, sale) in self.orders.values().filter(|(order, _)| order["status"] == "shipped") {
            *points.entry(format!("points/{}", sale.sold.customer)).or_default() += sale.sold.total_amount / 100;
        }
        let found = self.client.counters("loyalty", "points/").into_iter().filter(|(_, points)| *points != 0).collect();
        self.compare("points", points, found);
    }

    fn shipment(&mut self) {
        let shipped = self.orders.iter().filter(|(_, (order, _))| order["status"] == "shipped");
        let expected = shipped.map(|(id, _)| (format!("consignment/{id}"), ())).collect();
        let found = self.entries("shipment", "consignment/").into_keys().map(|key| (key, ())).collect();
        self.compare("consignments", expected, found);
    }

    /// One message for each change of an order whose customer has an address.
    fn notification(&mut self) {
        let told = self.orders.iter().filter(|(_, (_, sale))| sale.sold.email);
        let expected = told.map(|(id, (order, _))| (id.clone(), revision(order))).collect();
        let mut found: BTreeMap<String, i64> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for message in self.client.messages() {
            *found.entry(text(&message["order_id"])).or_default() += 1;
            if !ids.insert(text(&message["id"])) {
                self.fault(format!("a message exists twice: {message}"));
            }
        }
        self.compare("messages", expected, found);
    }

    fn entries(&self, consumer: &str, prefix: &str) -> BTreeMap<String, String> {
        let entries = self.client.entries(consumer, prefix);
        entries.iter().map(|entry| (text(&entry["key"]), text(&entry["value"]))).collect()
    }

    fn rows(&self, dataset: &str) -> Vec<Value> {
        self.client.get(&format!("/v1/records/{dataset}")).expect(200).lines()
    }

    fn compare<T: PartialEq + Debug>(&mut self, what: &str, expected: BTreeMap<String, T>, found: BTreeMap<String, T>) {
        let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        let differ = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
        let differ: Vec<_> = differ.map(|key| (key, expected.get(key), found.get(key))).collect();
        if !differ.is_empty() {
            let told = few(&differ);
            self.fault(format!("{what}: {} differ (key, expected, found): {told:?}", differ.len()));
        }
    }

    fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: T, found: T) {
        if expected != found {
            self.fault(format!("{what} should be {expected:?} and is {found:?}"));
        }
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }
}

fn few<T>(all: &[T]) -> &[T] {
    &all[..all.len().min(TOLD_MAX)]
}

fn revision(order: &Value) -> i64 {
    order["revision"].as_i64().unwrap_or_default()
}

/// `1 2 3` for an order that is at revision 3.
fn lane(order: &Value) -> String {
    (1..=revision(order)).map(|revision| revision.to_string()).collect::<Vec<_>>().join(" ")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
