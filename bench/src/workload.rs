//! Orders as shops send them, drawn from a seed and written out before the clock starts.
//!
//! 1 to 8 lines, each of another SKU; 1,000 SKUs by Zipf (the n-th is sold 1/n as often as the first); 10,000 customers,
//! all alike. Every order carries an Idempotency-Key of its own, as a shop that may have to repeat itself sends one.

use std::io::Write;
use std::ops::Range;

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::json;

pub const SKUS: usize = 1_000;
const CUSTOMERS: u32 = 10_000;
const LINES_MAX: usize = 8;
const QUANTITY_MAX: u32 = 4;
/// Different orders; beyond them the same contents come again, under new keys.
const CONTENTS: usize = 1 << 15;
const SEED: u64 = 0x6661_6e66_6172_6521;

/// Digits of a ticket in its Idempotency-Key.
const TICKET_DIGITS: usize = 12;

const CITIES: [(&str, &str, &str); 6] = [
    ("Reims", "51100", "FR"),
    ("Aachen", "52066", "DE"),
    ("Lyon", "69004", "FR"),
    ("London", "WA1 1DP", "GB"),
    ("Graz", "8010", "AT"),
    ("Albuquerque", "87110", "US"),
];

pub struct Workload {
    contents: Vec<Content>,
}

struct Content {
    request: Vec<u8>,
    /// Where the ticket stands in the request.
    ticket: Range<usize>,
    lines: Vec<(usize, u32)>,
}

/// Name of the `index`-th SKU, counted from 0.
pub fn sku(index: usize) -> String {
    format!("SKU-{:04}", index + 1)
}

impl Workload {
    /// Requests for a host at `address`.
    pub fn generate(address: &str) -> Result<Self> {
        let mut rng = Rng::with_seed(SEED);
        let zipf = Zipf::new(SKUS);
        let contents = (0..CONTENTS).map(|_| Content::draw(&mut rng, &zipf, address));
        Ok(Self { contents: contents.collect::<Result<_>>()? })
    }

    /// Writes the request of the order with this ticket into `request`.
    pub fn write(&self, ticket: u64, request: &mut Vec<u8>) -> Result<()> {
        let content = self.content(ticket)?;
        request.clear();
        request.extend_from_slice(&content.request);
        let mut digits = request.get_mut(content.ticket.clone()).context("a request without a place for its ticket")?;
        write!(digits, "{ticket:0TICKET_DIGITS$}")?;
        Ok(())
    }

    /// The body of that request alone.
    pub fn body(&self, ticket: u64) -> Result<&[u8]> {
        let Content { request, ticket, .. } = self.content(ticket)?;
        // The ticket is the last of the head, and two line ends stand between head and body.
        request.get(ticket.end + b"\r\n\r\n".len()..).context("a request without a body")
    }

    /// Units that the orders with tickets from 0 to `tickets` ask for, by SKU.
    pub fn units(&self, tickets: u64) -> Result<Vec<i64>> {
        let mut units = vec![0; SKUS];
        for ticket in 0..tickets {
            for &(sku, quantity) in &self.content(ticket)?.lines {
                *units.get_mut(sku).context("a SKU that is none")? += i64::from(quantity);
            }
        }
        Ok(units)
    }

    fn content(&self, ticket: u64) -> Result<&Content> {
        let index = usize::try_from(ticket)? % self.contents.len().max(1);
        self.contents.get(index).context("a workload without orders")
    }
}

impl Content {
    fn draw(rng: &mut Rng, zipf: &Zipf, address: &str) -> Result<Self> {
        let mut lines: Vec<(usize, u32)> = Vec::with_capacity(LINES_MAX);
        let wanted = rng.usize(1..=LINES_MAX);
        while lines.len() < wanted {
            let sku = zipf.draw(rng);
            if lines.iter().all(|(other, _)| *other != sku) {
                lines.push((sku, rng.u32(1..=QUANTITY_MAX)));
            }
        }
        let body = body(rng, &lines)?;
        let mut request = Vec::with_capacity(body.len() + 256);
        write!(request, "POST /v1/orders HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n")?;
        write!(request, "Content-Length: {}\r\nIdempotency-Key: bench-", body.len())?;
        let ticket = request.len()..request.len() + TICKET_DIGITS;
        write!(request, "{:0TICKET_DIGITS$}\r\n\r\n", 0)?;
        request.extend_from_slice(&body);
        Ok(Self { request, ticket, lines })
    }
}

fn body(rng: &mut Rng, lines: &[(usize, u32)]) -> Result<Vec<u8>> {
    let customer = rng.u32(0..CUSTOMERS);
    let (city, postal_code, country) = *rng.choice(&CITIES).context("no cities")?;
    let line = |&(index, quantity): &(usize, u32)| {
        // A SKU has one price.
        let unit_amount = 199 + index % 97 * 100;
        json!({
            "sku": sku(index),
            "title": format!("Article number {}", index + 1),
            "quantity": quantity,
            "unit_amount": unit_amount,
        })
    };
    let order = json!({
        "currency": "EUR",
        "customer": {
            "id": format!("C{customer:05}"),
            "name": format!("Customer {customer}"),
            "email": format!("customer-{customer}@customers.example"),
        },
        "lines": lines.iter().map(line).collect::<Vec<_>>(),
        "shipping_address": {
            "name": format!("Customer {customer}"),
            "line1": format!("{} Market Street", customer % 200 + 1),
            "city": city,
            "postal_code": postal_code,
            "country": country,
        },
        "metadata": { "channel": "web" },
    });
    Ok(serde_json::to_vec(&order)?)
}

/// Zipf's law with exponent 1 over `0..n`.
struct Zipf {
    /// Sum of the weights up to and with each.
    cumulated: Vec<f64>,
}

impl Zipf {
    fn new(n: usize) -> Self {
        let weights = (1..=n).scan(0.0, |sum, rank| {
            #[allow(clippy::cast_precision_loss, reason = "ranks are small")]
            let weight = 1.0 / rank as f64;
            *sum += weight;
            Some(*sum)
        });
        Self { cumulated: weights.collect() }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let all = self.cumulated.last().copied().unwrap_or_default();
        let at = rng.f64() * all;
        self.cumulated.partition_point(|sum| *sum <= at).min(self.cumulated.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sku_sells_ten_times_as_often_as_the_tenth() {
        let (zipf, mut rng) = (Zipf::new(SKUS), Rng::with_seed(1));
        let mut drawn = vec![0_u32; SKUS];
        (0..200_000).for_each(|_| drawn[zipf.draw(&mut rng)] += 1);
        let ratio = f64::from(drawn[0]) / f64::from(drawn[9]);
        assert!((9.0..11.0).contains(&ratio), "{ratio}");
        assert!(drawn[999] > 0);
    }

    #[test]
    fn an_order_has_the_length_and_the_ticket_that_it_says() {
        let workload = Workload::generate("127.0.0.1:1").unwrap();
        let mut request = Vec::new();
        workload.write(42, &mut request).unwrap();
        let text = String::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Idempotency-Key: bench-000000000042\r\n") || head.ends_with("bench-000000000042"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let order: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!((1..=LINES_MAX).contains(&order["lines"].as_array().unwrap().len()));
    }

    #[test]
    fn units_are_what_the_bodies_ask_for() {
        let workload = Workload::generate("127.0.0.1:1").unwrap();
        let mut asked = vec![0; SKUS];
        let mut request = Vec::new();
        for ticket in 0..100 {
            workload.write(ticket, &mut request).unwrap();
            let text = String::from_utf8(request.clone()).unwrap();
            let order: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
            for line in order["lines"].as_array().unwrap() {
                let index = (0..SKUS).find(|index| line["sku"] == sku(*index)).unwrap();
                asked[index] += line["quantity"].as_i64().unwrap();
            }
        }
        assert_eq!(workload.units(100).unwrap(), asked);
    }
}
