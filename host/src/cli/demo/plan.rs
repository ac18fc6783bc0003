//! Everything that the demo will do, decided before it begins, from the seed alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::catalogue::{ARTICLES, sku};
use super::customers::{Customer, customers};
use super::random::{Random, Zipf};
use crate::cli::print::set;

const CUSTOMERS: usize = 300;
/// Of a hundred orders, from somebody who buys often; the others come from anybody.
const REGULARS: usize = 30;
const LINES_MAX: usize = 5;
/// Of a hundred orders, cancelled right after they were placed.
const CANCELLED: usize = 4;
/// Of a hundred lines, discounted.
const DISCOUNTED: usize = 10;
/// Every so manieth article is stocked short of what will be wanted.
const SHORT_EVERY: usize = 7;

pub struct Plan {
    pub seed: u64,
    /// Units to load before the first order, by SKU.
    pub stock: BTreeMap<String, u64>,
    pub orders: Vec<Planned>,
}

pub struct Planned {
    pub reference: String,
    /// Body of `POST /v1/orders`.
    pub body: Value,
    /// Why it is cancelled right after it was placed, if it is.
    pub cancel: Option<&'static str>,
}

impl Plan {
    pub fn make(seed: u64, count: usize) -> Self {
        let mut random = Random::seeded(seed);
        let customers = customers(&mut random, CUSTOMERS);
        let (popular, loyal) = (Zipf::over(ARTICLES.len()), Zipf::over(CUSTOMERS));
        let mut wanted = BTreeMap::new();
        let orders = (1..=count)
            .map(|number| {
                let regular = random.chance(REGULARS);
                let rank = if regular { loyal.draw(&mut random) } else { random.below(CUSTOMERS) };
                let customer = customers.get(rank);
                let lines = lines(&mut random, &popular, customer, &mut wanted);
                planned(&mut random, seed, number, customer, &lines)
            })
            .collect();
        Self { seed, stock: stock(&mut random, &wanted), orders }
    }

    /// The events that load the stock. Their ids come from the seed, so that a second run loads nothing twice.
    pub fn stock_events(&self) -> Vec<Value> {
        let event = |(sku, quantity): (&String, &u64)| {
            json!({
                "specversion": "1.0",
                "id": format!("demo-{}-{}-{sku}", self.seed, self.orders.len()),
                "source": "urn:fanfare:demo",
                "type": "com.fanfare.stock.received",
                "subject": sku,
                "datacontenttype": "application/json",
                "data": { "sku": sku, "quantity": quantity },
            })
        };
        self.stock.iter().map(event).collect()
    }
}

fn lines(
    random: &mut Random,
    popular: &Zipf,
    customer: Option<&Customer>,
    wanted: &mut BTreeMap<usize, u64>,
) -> Vec<Value> {
    // Small baskets are the most frequent: the smaller of two throws.
    let count = 1 + random.below(LINES_MAX).min(random.below(LINES_MAX));
    let mut ranks: Vec<usize> = (0..count).map(|_| popular.draw(random)).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let mut lines = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let (Some(article), Some(customer)) = (ARTICLES.get(rank), customer) else { continue };
        let quantity = if random.chance(75) { 1 } else { 2 + random.below(3) };
        let quantity = u64::try_from(quantity).unwrap_or(1);
        *wanted.entry(rank).or_default() += quantity;
        let price = customer.currency.price(article.cents);
        let mut line = json!({ "sku": sku(rank), "title": article.title, "quantity": quantity, "unit_amount": price });
        if random.chance(DISCOUNTED) {
            set(&mut line, "discount_amount", json!(price / 10));
        }
        lines.push(line);
    }
    lines
}

fn planned(random: &mut Random, seed: u64, number: usize, customer: Option<&Customer>, lines: &[Value]) -> Planned {
    let reference = format!("DEMO-{seed}-{number:05}");
    let channel = random.word(&["web", "web", "app", "app", "store"]);
    let body = customer.map_or(Value::Null, |customer| {
        json!({
            "reference": reference,
            "currency": customer.currency.code(),
            "customer": customer.person,
            "lines": lines,
            "shipping_address": customer.address,
            "metadata": { "channel": channel, "locale": customer.locale },
        })
    });
    let reasons = ["ordered twice by mistake", "found it elsewhere", "changed my mind"];
    let cancel = random.chance(CANCELLED).then(|| random.word(&reasons));
    Planned { reference, body, cancel }
}

/// Enough of most articles, too little of some.
fn stock(random: &mut Random, wanted: &BTreeMap<usize, u64>) -> BTreeMap<String, u64> {
    let shift = random.below(SHORT_EVERY);
    let loaded = |rank: usize| {
        let wanted = wanted.get(&rank).copied().unwrap_or(0);
        if rank % SHORT_EVERY == shift { wanted * 7 / 10 + 1 } else { wanted + wanted / 8 + 12 }
    };
    (0..ARTICLES.len()).map(|rank| (sku(rank), loaded(rank))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let bodies = |seed| Plan::make(seed, 200).orders.into_iter().map(|order| order.body).collect::<Vec<_>>();
        assert_eq!(bodies(7), bodies(7));
        assert_ne!(bodies(7), bodies(8));
        assert_eq!(Plan::make(7, 200).stock_events(), Plan::make(7, 200).stock_events());
    }

    #[test]
    fn every_order_is_one_that_the_host_takes() {
        use crate::clock::Timestamp;
        use crate::order::draft::{Draft, Mode};
        for order in Plan::make(1, 1000).orders {
            let draft: Draft = serde_json::from_value(order.body.clone()).unwrap();
            if let Err(faults) = draft.check(Timestamp::now(), Mode::Submit) {
                panic!("{}: {faults:?}", order.body);
            }
        }
    }

    #[test]
    fn there_are_several_currencies_cancellations_and_short_articles() {
        let plan = Plan::make(1, 1000);
        for currency in ["USD", "EUR", "GBP", "JPY"] {
            assert!(plan.orders.iter().any(|order| order.body["currency"] == currency), "{currency}");
        }
        let cancelled = plan.orders.iter().filter(|order| order.cancel.is_some()).count();
        assert!((20..80).contains(&cancelled), "{cancelled}");
        let mut wanted = BTreeMap::<&str, u64>::new();
        for line in plan.orders.iter().flat_map(|order| order.body["lines"].as_array().unwrap()) {
            *wanted.entry(line["sku"].as_str().unwrap()).or_default() += line["quantity"].as_u64().unwrap();
        }
        let short = wanted.iter().filter(|(sku, wanted)| plan.stock[**sku] < **wanted).count();
        assert!((3..15).contains(&short), "{short}");
    }
}
