//! Shows what every consumer did, and checks that the numbers fit together.

use serde_json::Value;

use super::gather::EXAMPLES;
use crate::cli::Failure;
use crate::cli::print::{field, grouped, items, money, table, text as at};

/// The report for people.
pub fn text(told: &Value) -> String {
    let mut shown = String::new();
    let mut section = |title: &str, body: String| shown.push_str(&format!("\n{title}\n{body}\n"));
    let statuses = field(told, "orders").as_object().into_iter().flatten();
    let orders = table(["status", "orders"], statuses.map(|(status, count)| [status.clone(), number(count)]));
    let answered =
        format!("answered in {} ms (median), {} ms (99 of 100)", field(told, "ack_p50_ms"), field(told, "ack_p99_ms"));
    section("ORDERS", format!("{orders}\n {answered}"));

    let row =
        |consumer: &Value| ["/name", "/state", "/version", "/done", "/pending", "/dead"].map(|path| at(consumer, path));
    let columns = ["name", "state", "version", "done", "pending", "dead"];
    section("CONSUMERS", table(columns, items(told, "/consumers").iter().map(row)));

    if let Some(inventory) = told.get("inventory") {
        let row = |sku: &Value| [at(sku, "/sku"), number(field(sku, "left"))];
        let low = table(["low on stock", "left"], items(inventory, "/low").iter().take(EXAMPLES).map(row));
        let [skus, left, low_count] = ["skus", "units_left", "low_count"].map(|name| number(field(inventory, name)));
        section("INVENTORY", format!(" {skus} SKUs, {left} units left, {low_count} below their threshold\n{low}"));
    }
    if let Some(shipment) = told.get("shipment") {
        let row = |parcel: &Value| ["/tracking_number", "/carrier", "/country"].map(|path| at(parcel, path));
        let some = table(["consignment", "carrier", "to"], items(shipment, "/examples").iter().map(row));
        section("SHIPMENT", format!(" {} consignments\n{some}", number(field(shipment, "consignments"))));
    }
    if let Some(loyalty) = told.get("loyalty") {
        let row =
            |customer: &Value| [at(customer, "/customer"), number(field(customer, "points")), at(customer, "/tier")];
        let top = table(["customer", "points", "tier"], items(loyalty, "/top").iter().map(row));
        let [customers, points] = ["customers", "points"].map(|name| number(field(loyalty, name)));
        let [silver, gold] = ["silver", "gold"].map(|name| number(field(loyalty, name)));
        section("LOYALTY", format!(" {customers} customers hold {points} points; {silver} silver, {gold} gold\n{top}"));
    }
    if let Some(analytics) = told.get("analytics") {
        section("ANALYTICS", analytics_text(analytics));
    }
    if let Some(notification) = told.get("notification") {
        let row = |mail: &Value| ["/to", "/subject", "/state"].map(|path| at(mail, path));
        let newest = table(["newest to", "subject", "state"], items(notification, "/newest").iter().map(row));
        let mut counts = format!(" {} e-mails", number(field(notification, "messages")));
        for (state, count) in field(notification, "states").as_object().into_iter().flatten() {
            counts.push_str(&format!(", {} {state}", number(count)));
        }
        if let Some(folder) = field(notification, "folder").as_str() {
            counts.push_str(&format!("; {} files in {folder}", number(field(notification, "files"))));
        }
        section("NOTIFICATION", format!("{counts}\n{newest}"));
    }
    shown
}

/// Fails where the numbers do not fit together: a demo that shows nonsense must not end well.
pub fn verdict(told: &Value) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let count = |path: &str| told.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let mut same = |what: &str, left: u64, right: u64| {
        if left != right {
            faults.push(format!("{what}: {left} and {right}"));
        }
    };
    let settled = ["rejected", "shipped", "delivered", "cancelled"].map(|status| count(&format!("/orders/{status}")));
    same("orders placed and orders that came to rest", count("/placed"), settled.iter().sum());
    if told.get("shipment").is_some() {
        let left = count("/orders/shipped") + count("/orders/delivered");
        same("parcels and orders that left", count("/shipment/consignments"), left);
    }
    if told.get("analytics").is_some() {
        same("orders placed and orders that analytics counted", count("/placed"), count("/analytics/changes/placed"));
        same("rows of orders and orders placed", count("/analytics/rows/orders"), count("/placed"));
    }
    if told.pointer("/notification/folder").is_some_and(Value::is_string) {
        same("e-mails sent and files", count("/notification/states/sent"), count("/notification/files"));
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(format!("the numbers disagree: {}", faults.join("; "))))
    }
}

fn analytics_text(analytics: &Value) -> String {
    let revenue = |day: &Value| {
        let amount = field(day, "amount").as_i64().unwrap_or(0);
        [at(day, "/day"), money(amount, &at(day, "/currency"))]
    };
    let revenue = table(["day", "revenue"], items(analytics, "/revenue_by_day").iter().map(revenue));
    let country = |row: &Value| [at(row, "/country"), number(field(row, "orders"))];
    let countries = table(["country", "orders"], items(analytics, "/countries").iter().map(country));
    let sku = |row: &Value| [at(row, "/sku"), number(field(row, "units"))];
    let skus = table(["best sold", "units"], items(analytics, "/top_skus").iter().map(sku));
    let [orders, lines, changes] =
        ["orders", "lines", "changes"].map(|dataset| number(field(field(analytics, "rows"), dataset)));
    let rows = format!(" rows recorded: {orders} orders, {lines} lines, {changes} changes");
    format!("{revenue}\n\n{countries}\n\n{skus}\n{rows}")
}

fn number(value: &Value) -> String {
    value.as_i64().map_or_else(|| at(value, ""), grouped)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_disagree_are_a_failure() {
        let mut told = json!({
            "placed": 3, "orders": { "shipped": 2, "rejected": 1 }, "shipment": { "consignments": 2 },
        });
        verdict(&told).unwrap();
        told["shipment"]["consignments"] = json!(1);
        assert!(verdict(&told).unwrap_err().to_string().contains("parcels and orders that left: 1 and 2"));
    }
}
