//! What the five consumers that ship do for an order that is in stock, by hand: it is confirmed and shipped at once.
//!
//! Left out is what no order of the load meets: shortage, low stock, cancellation. Left out, too, are the reads by which a
//! consumer finds out that it handled an order before: here every order is handled once, in the transaction that places it.

use std::collections::BTreeMap;

use fanfare::clock::Timestamp;
use fanfare::effects::Message;
use fanfare::order::{Change, Order, Shipment};
use serde::Serialize;

use super::letter::{self, Letter};
use super::staged::{Rule, Staged};
use super::{MINOR_PER_MAJOR, line_amount};

// In the order of `mode::JOURNEY`.
const ANALYTICS: usize = 0;
const INVENTORY: usize = 1;
const LOYALTY: usize = 2;
const NOTIFICATION: usize = 3;
const SHIPMENT: usize = 4;

/// Below it, inventory warns.
const LOW_STOCK: i64 = 10;

pub fn stage(order: &Order, now: Timestamp) -> serde_json::Result<Staged> {
    let id = order.id.to_string();
    let parcel = Shipment { carrier: "local".to_owned(), tracking_number: local_number(&id), tracking_url: None };
    let mut staged = Staged::of([Change::Placed {}, Change::Confirmed {}, Change::Shipped(parcel.clone())])?;
    take_stock(&mut staged, order, &id)?;
    ship(&mut staged, order, &id, &parcel)?;
    grant_points(&mut staged, order, &id)?;
    write_letters(&mut staged, order, &id, &parcel)?;
    total(&mut staged, order);
    record(&mut staged, order, &id, now, &parcel)?;
    Ok(staged)
}

fn take_stock(staged: &mut Staged, order: &Order, id: &str) -> serde_json::Result<()> {
    let mut wanted: BTreeMap<&str, i64> = BTreeMap::new();
    for line in &order.content.lines {
        *wanted.entry(&line.sku).or_default() += i64::from(line.quantity);
    }
    for (sku, units) in &wanted {
        staged.adjust(INVENTORY, &["stock/", sku], -units, Rule::Floor(LOW_STOCK));
    }
    staged.enter(INVENTORY, format!("taken/{id}"), serde_json::to_vec(&wanted)?);
    Ok(())
}

fn ship(staged: &mut Staged, order: &Order, id: &str, parcel: &Shipment) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Consignment<'a> {
        carrier: &'a str,
        tracking_number: &'a str,
        country: Option<&'a str>,
    }
    let Shipment { carrier, tracking_number, .. } = parcel;
    let consignment = Consignment { carrier, tracking_number, country: country(order) };
    staged.enter(SHIPMENT, format!("consignment/{id}"), serde_json::to_vec(&consignment)?);
    Ok(())
}

fn grant_points(staged: &mut Staged, order: &Order, id: &str) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Entry<'a> {
        points: i64,
        currency: &'a str,
        total_amount: i64,
        reversed: bool,
    }
    let content = &*order.content;
    let (customer, currency, total_amount) = (&content.customer.id, &content.currency, content.total_amount);
    let points = total_amount / MINOR_PER_MAJOR;
    let entry = Entry { points, currency, total_amount, reversed: false };
    staged.enter(LOYALTY, format!("ledger/{customer}/{id}"), serde_json::to_vec(&entry)?);
    const PREFIX: &str = "points/";
    staged.adjust(LOYALTY, &[PREFIX, customer], points, Rule::Tier(PREFIX.len()));
    Ok(())
}

fn write_letters(staged: &mut Staged, order: &Order, id: &str, parcel: &Shipment) -> serde_json::Result<()> {
    let Some(to) = &order.content.customer.email else { return Ok(()) };
    let letters = [letter::placed(order, id), letter::confirmed(order, id), letter::shipped(order, id, parcel)];
    for (event, letter) in letters.into_iter().enumerate() {
        let Letter { subject, text, html } = letter;
        let message = Message::Email { to: to.clone(), subject, text, html: Some(html) };
        staged.send(NOTIFICATION, "notification", event, &message)?;
    }
    Ok(())
}

fn total(staged: &mut Staged, order: &Order) {
    for status in ["status/placed", "status/confirmed", "status/shipped"] {
        staged.adjust(ANALYTICS, &[status], 1, Rule::Free);
    }
    let content = &*order.content;
    let (currency, amount) = (content.currency.as_str(), content.total_amount);
    let placed_at = order.placed_at.to_string();
    let day = placed_at.split('T').next().unwrap_or_default();
    let country = country(order).unwrap_or("ZZ");
    staged.adjust(ANALYTICS, &["orders/day/", day], 1, Rule::Free);
    staged.adjust(ANALYTICS, &["revenue/", currency, "/day/", day], amount, Rule::Free);
    staged.adjust(ANALYTICS, &["orders/country/", country], 1, Rule::Free);
    staged.adjust(ANALYTICS, &["revenue/", currency, "/country/", country], amount, Rule::Free);
    for line in &content.lines {
        staged.adjust(ANALYTICS, &["units/sku/", &line.sku], i64::from(line.quantity), Rule::Free);
        staged.adjust(ANALYTICS, &["revenue/", currency, "/sku/", &line.sku], line_amount(line), Rule::Free);
    }
}

fn record(staged: &mut Staged, order: &Order, id: &str, now: Timestamp, parcel: &Shipment) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct Changed<'a> {
        carrier: Option<&'a str>,
        event_id: String,
        kind: &'a str,
        order_id: &'a str,
        reason: Option<&'a str>,
        revision: usize,
        time: &'a str,
        tracking_number: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Placed<'a> {
        country: Option<&'a str>,
        currency: &'a str,
        customer_id: &'a str,
        line_count: usize,
        order_id: &'a str,
        placed_at: &'a str,
        reference: Option<&'a str>,
        total_amount: i64,
        unit_count: i64,
    }
    #[derive(Serialize)]
    struct Line<'a> {
        currency: &'a str,
        discount_amount: i64,
        line_number: usize,
        order_id: &'a str,
        placed_at: &'a str,
        quantity: u32,
        sku: &'a str,
        title: Option<&'a str>,
        total_amount: i64,
        unit_amount: i64,
    }
    let content = &*order.content;
    let (time, placed_at) = (now.to_string(), order.placed_at.to_string());
    for (event, kind) in ["placed", "confirmed", "shipped"].into_iter().enumerate() {
        let shipped = (kind == "shipped").then_some(parcel);
        let row = Changed {
            carrier: shipped.map(|parcel| parcel.carrier.as_str()),
            event_id: staged.events.get(event).map(|fact| fact.id_text.clone()).unwrap_or_default(),
            kind,
            order_id: id,
            reason: None,
            revision: event + 1,
            time: &time,
            tracking_number: shipped.map(|parcel| parcel.tracking_number.as_str()),
        };
        staged.record(ANALYTICS, event, "changes", &row)?;
    }
    let row = Placed {
        country: country(order),
        currency: &content.currency,
        customer_id: &content.customer.id,
        line_count: content.lines.len(),
        order_id: id,
        placed_at: &placed_at,
        reference: content.reference.as_deref(),
        total_amount: content.total_amount,
        unit_count: content.lines.iter().map(|line| i64::from(line.quantity)).sum(),
    };
    staged.record(ANALYTICS, 0, "orders", &row)?;
    for (line, line_number) in content.lines.iter().zip(1..) {
        let row = Line {
            currency: &content.currency,
            discount_amount: line.discount_amount,
            line_number,
            order_id: id,
            placed_at: &placed_at,
            quantity: line.quantity,
            sku: &line.sku,
            title: line.title.as_deref(),
            total_amount: line_amount(line),
            unit_amount: line.unit_amount,
        };
        staged.record(ANALYTICS, 0, "lines", &row)?;
    }
    Ok(())
}

fn country(order: &Order) -> Option<&str> {
    order.content.shipping_address.as_ref().map(|address| address.country.as_str())
}

/// `FF` and 64 bits of FNV-1a in Crockford's base 32, as plugins/shipment has them.
fn local_number(order_id: &str) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let hash = order_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let digits = (0..13).rev().map(|place| (hash >> (5 * place)) & 31);
    let digits = digits.filter_map(|digit| ALPHABET.get(usize::try_from(digit).ok()?).copied().map(char::from));
    "FF".chars().chain(digits).collect()
}
