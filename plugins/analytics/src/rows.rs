//! The data sets: their columns, and the rows that fill them. Timestamps are RFC 3339 in UTC, amounts minor units.

use fanfare_sdk::prelude::*;
use fanfare_sdk::records::Misfit;
use fanfare_sdk::time;
use serde::Serialize;

pub fn datasets() -> [Need; 3] {
    use ColumnType::{Int64, Text, Timestamp};
    [
        Need::records(
            "orders",
            vec![
                Column::new("order_id", Text),
                Column::nullable("reference", Text),
                Column::new("placed_at", Timestamp),
                Column::new("customer_id", Text),
                Column::nullable("country", Text),
                Column::new("currency", Text),
                Column::new("total_amount", Int64),
                Column::new("line_count", Int64),
                Column::new("unit_count", Int64),
            ],
        ),
        Need::records(
            "lines",
            vec![
                Column::new("order_id", Text),
                Column::new("line_number", Int64),
                Column::new("placed_at", Timestamp),
                Column::new("sku", Text),
                Column::nullable("title", Text),
                Column::new("currency", Text),
                Column::new("quantity", Int64),
                Column::new("unit_amount", Int64),
                Column::new("discount_amount", Int64),
                Column::new("total_amount", Int64),
            ],
        ),
        Need::records(
            "changes",
            vec![
                Column::new("event_id", Text),
                Column::new("time", Timestamp),
                Column::new("order_id", Text),
                Column::new("revision", Int64),
                Column::new("kind", Text),
                Column::nullable("reason", Text),
                Column::nullable("carrier", Text),
                Column::nullable("tracking_number", Text),
            ],
        ),
    ]
}

pub fn order(order: &Order) -> Result<(), Misfit> {
    #[derive(Serialize)]
    struct Row<'a> {
        order_id: &'a str,
        reference: Option<&'a str>,
        placed_at: String,
        customer_id: &'a str,
        country: Option<&'a str>,
        currency: &'a str,
        total_amount: i64,
        line_count: usize,
        unit_count: i64,
    }
    records::append(
        "orders",
        &Row {
            order_id: &order.id,
            reference: order.reference.as_deref(),
            placed_at: time::rfc3339(order.placed_at),
            customer_id: &order.customer.id,
            country: order.country(),
            currency: &order.currency,
            total_amount: order.total_amount,
            line_count: order.lines.len(),
            unit_count: order.lines.iter().map(|line| i64::from(line.quantity)).sum(),
        },
    )
}

pub fn lines(order: &Order) -> Result<(), Misfit> {
    #[derive(Serialize)]
    struct Row<'a> {
        order_id: &'a str,
        line_number: usize,
        placed_at: &'a str,
        sku: &'a str,
        title: Option<&'a str>,
        currency: &'a str,
        quantity: u32,
        unit_amount: i64,
        discount_amount: i64,
        total_amount: i64,
    }
    let placed_at = time::rfc3339(order.placed_at);
    for (line, line_number) in order.lines.iter().zip(1..) {
        records::append(
            "lines",
            &Row {
                order_id: &order.id,
                line_number,
                placed_at: &placed_at,
                sku: &line.sku,
                title: line.title.as_deref(),
                currency: &order.currency,
                quantity: line.quantity,
                unit_amount: line.unit_amount,
                discount_amount: line.discount_amount,
                total_amount: line.total_amount(),
            },
        )?;
    }
    Ok(())
}

pub fn change(event_id: &str, time_ms: u64, order: &Order, change: &Change) -> Result<(), Misfit> {
    #[derive(Serialize)]
    struct Row<'a> {
        event_id: &'a str,
        time: String,
        order_id: &'a str,
        revision: u64,
        kind: &'a str,
        reason: Option<&'a str>,
        carrier: Option<&'a str>,
        tracking_number: Option<&'a str>,
    }
    let reason = match change {
        Change::Rejected(reason) | Change::Cancelled(reason) => Some(reason.as_str()),
        _ => None,
    };
    let parcel = match change {
        Change::Shipped(parcel) => Some(parcel),
        _ => None,
    };
    records::append(
        "changes",
        &Row {
            event_id,
            time: time::rfc3339(time_ms),
            order_id: &order.id,
            revision: order.revision,
            kind: change.kind(),
            reason,
            carrier: parcel.map(|parcel| parcel.carrier.as_str()),
            tracking_number: parcel.map(|parcel| parcel.tracking_number.as_str()),
        },
    )
}
