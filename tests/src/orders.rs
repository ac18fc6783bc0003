//! Orders and events as a shop sends them.

use serde_json::{Value, json};

/// What a unit costs in [`order`].
pub const UNIT_AMOUNT: i64 = 1_000;

/// An order of `lines` (SKU, quantity) for 10.00 USD a unit, by customer `C-1`. Without a reference.
#[must_use]
pub fn order(lines: &[(&str, u32)]) -> Value {
    let line = |(sku, quantity): &(&str, u32)| json!({"sku": sku, "quantity": quantity, "unit_amount": UNIT_AMOUNT});
    json!({
        "currency": "USD",
        "customer": {"id": "C-1", "name": "Ada Lovelace", "email": "ada@customers.example"},
        "lines": lines.iter().map(line).collect::<Vec<_>>(),
        "shipping_address": {"name": "Ada Lovelace", "line1": "12 St James's Square", "city": "London", "postal_code": "SW1Y 4JH", "country": "GB"},
    })
}

/// [`order`] with the shop's own number.
#[must_use]
pub fn referenced(reference: &str, lines: &[(&str, u32)]) -> Value {
    let mut order = order(lines);
    order["reference"] = json!(reference);
    order
}

/// Event: goods have arrived.
#[must_use]
pub fn received(id: &str, sku: &str, quantity: u32) -> Value {
    event(id, "com.fanfare.stock.received", sku, json!({"sku": sku, "quantity": quantity}))
}

/// A custom event of this shop, in CloudEvents' structured mode.
#[must_use]
pub fn event(id: &str, kind: &str, subject: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": kind, "subject": subject, "data": data})
}

/// One order a line.
#[must_use]
pub fn ndjson(orders: &[Value]) -> String {
    orders.iter().map(|order| format!("{order}\n")).collect()
}
