//! Reads back over HTTP what every consumer did with the demo's orders.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::story::Placing;
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::cli::print::{field, items, set, text};
use crate::order::Status;

/// Items asked for at once.
const PAGE: &str = "500";
/// No list of the demo has more pages.
const PAGES_MAX: usize = 10_000;
/// Examples of each thing.
pub(super) const EXAMPLES: usize = 5;

/// Everything that the demo shows, as one object.
pub fn gather(client: &Client, placing: &Placing, mail_folder: Option<&Path>) -> Result<Value, Failure> {
    let consumers = client.get("/v1/consumers", &[])?;
    let mut told = json!({
        "placed": placing.placed,
        "cancelled": placing.cancelled,
        "cancelled_too_late": placing.too_late,
        "delivered": placing.delivered,
        "placed_per_s": (placing.placed as f64 / placing.took.as_secs_f64()).round(),
        "done_after_s": (placing.done_after.as_secs_f64() * 100.0).round() / 100.0,
        "ack_p50_ms": millis(percentile(&placing.answer_times, 50)),
        "ack_p99_ms": millis(percentile(&placing.answer_times, 99)),
        "consumers": field(&consumers, "consumers"),
    });
    let mut statuses = BTreeMap::new();
    for status in Status::ALL {
        let query = [("status", status.as_str()), ("limit", PAGE)];
        let orders = pages(client, "/v1/orders", &query, "/orders", PAGES_MAX)?;
        if let (Status::Shipped | Status::Delivered, Some(order)) = (status, orders.first()) {
            set(&mut told, "example_order", field(order, "id").clone());
        }
        if let (Status::Rejected, Some(order)) = (status, orders.first()) {
            set(&mut told, "example_rejected", field(order, "id").clone());
        }
        statuses.insert(status.as_str(), orders.len());
    }
    set(&mut told, "orders", json!(statuses));
    for consumer in items(&consumers, "/consumers") {
        let name = text(consumer, "/name");
        let did = match name.as_str() {
            "inventory" => inventory(client)?,
            "shipment" => shipment(client)?,
            "loyalty" => loyalty(client)?,
            "analytics" => analytics(client)?,
            "notification" => notification(client, mail_folder)?,
            _ => continue,
        };
        set(&mut told, &name, did);
    }
    Ok(told)
}

/// All items of a list, page after page, at most `pages_max` pages.
pub fn pages(
    client: &Client,
    path: &str,
    query: &[(&str, &str)],
    list: &str,
    pages_max: usize,
) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..pages_max {
        let mut asked = query.to_vec();
        asked.extend(after.as_deref().map(|after| ("after", after)));
        let page = client.get(path, &asked)?;
        all.extend(items(&page, list).iter().cloned());
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    Ok(all)
}

/// Counters of a consumer under a prefix, with the rest of their keys.
fn counters(client: &Client, consumer: &str, prefix: &str) -> Result<Vec<(String, i64)>, Failure> {
    let found = state(client, consumer, prefix, "/counters")?;
    Ok(found.into_iter().filter_map(|(key, value)| Some((key, value.as_i64()?))).collect())
}

fn state(client: &Client, consumer: &str, prefix: &str, list: &str) -> Result<Vec<(String, Value)>, Failure> {
    let path = format!("/v1/consumers/{consumer}/state");
    let found = pages(client, &path, &[("prefix", prefix), ("limit", PAGE)], list, PAGES_MAX)?;
    let pair = |item: Value| {
        let key = text(&item, "/key");
        (key.strip_prefix(prefix).unwrap_or(&key).to_owned(), field(&item, "value").clone())
    };
    Ok(found.into_iter().map(pair).collect())
}

fn inventory(client: &Client) -> Result<Value, Failure> {
    let stock = counters(client, "inventory", "stock/")?;
    let warned = state(client, "inventory", "low/", "/entries")?;
    let mut low: Vec<_> = stock.iter().filter(|(sku, _)| warned.iter().any(|(of, _)| of == sku)).collect();
    low.sort_by_key(|(_, left)| *left);
    Ok(json!({
        "skus": stock.len(),
        "units_left": stock.iter().map(|(_, left)| left).sum::<i64>(),
        "low_count": low.len(),
        "low": low.iter().map(|(sku, left)| json!({ "sku": sku, "left": left })).collect::<Vec<_>>(),
    }))
}

fn shipment(client: &Client) -> Result<Value, Failure> {
    let parcels = state(client, "shipment", "consignment/", "/entries")?;
    let examples: Vec<_> = parcels.iter().take(EXAMPLES).map(|(_, parcel)| decoded(parcel)).collect();
    Ok(json!({ "consignments": parcels.len(), "examples": examples }))
}

fn loyalty(client: &Client) -> Result<Value, Failure> {
    let mut points = counters(client, "loyalty", "points/")?;
    let tiers: BTreeMap<_, _> = state(client, "loyalty", "tier/", "/entries")?.into_iter().collect();
    points.sort_by_key(|(_, points)| std::cmp::Reverse(*points));
    let tier = |customer: &str| tiers.get(customer).and_then(Value::as_str).unwrap_or("bronze");
    let of = |name: &str| tiers.values().filter(|tier| tier.as_str() == Some(name)).count();
    let top = points.iter().take(EXAMPLES);
    Ok(json!({
        "customers": points.len(),
        "points": points.iter().map(|(_, points)| points).sum::<i64>(),
        "silver": of("silver"),
        "gold": of("gold"),
        "top": top
            .map(|(customer, points)| json!({ "customer": customer, "points": points, "tier": tier(customer) }))
            .collect::<Vec<_>>(),
    }))
}

fn analytics(client: &Client) -> Result<Value, Failure> {
    let object = |found: Vec<(String, i64)>| found.into_iter().collect::<BTreeMap<_, _>>();
    let mut rows = BTreeMap::new();
    for dataset in ["orders", "lines", "changes"] {
        let mut count = 0;
        for row in client.lines(&format!("/v1/records/{dataset}"), &[])? {
            count += usize::from(!row?.is_empty());
        }
        rows.insert(dataset, count);
    }
    let revenue = counters(client, "analytics", "revenue/")?;
    let by_day = |(key, minor): &(String, i64)| {
        let (currency, day) = key.split_once("/day/")?;
        Some(json!({ "currency": currency, "day": day, "amount": minor }))
    };
    let mut countries = counters(client, "analytics", "orders/country/")?;
    countries.sort_by_key(|(_, orders)| std::cmp::Reverse(*orders));
    let mut units = counters(client, "analytics", "units/sku/")?;
    units.sort_by_key(|(_, units)| std::cmp::Reverse(*units));
    let named = |found: &[(String, i64)], name: &str, count: &str| {
        found.iter().map(|(key, value)| json!({ name: key, count: value })).collect::<Vec<_>>()
    };
    Ok(json!({
        "changes": object(counters(client, "analytics", "status/")?),
        "orders_by_day": object(counters(client, "analytics", "orders/day/")?),
        "revenue_by_day": revenue.iter().filter_map(by_day).collect::<Vec<_>>(),
        "countries": named(&countries, "country", "orders"),
        "top_skus": named(units.get(..EXAMPLES.min(units.len())).unwrap_or_default(), "sku", "units"),
        "rows": rows,
    }))
}

fn notification(client: &Client, folder: Option<&Path>) -> Result<Value, Failure> {
    let messages = pages(client, "/v1/messages", &[("limit", PAGE)], "/messages", PAGES_MAX)?;
    let mut states = BTreeMap::<String, u64>::new();
    for message in &messages {
        *states.entry(text(message, "/state")).or_default() += 1;
    }
    let files = folder.map(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "eml")).count()
    });
    Ok(json!({
        "messages": messages.len(),
        "states": states,
        "files": files,
        "folder": folder.map(|folder| folder.display().to_string()),
        "newest": messages.iter().take(EXAMPLES).collect::<Vec<_>>(),
    }))
}

/// A state entry's value where it is JSON in a text.
fn decoded(value: &Value) -> Value {
    value.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| value.clone())
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_fiftieth_percentile() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (times[50], times[99]));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
