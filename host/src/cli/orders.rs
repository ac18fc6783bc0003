//! `fanfare orders`: place orders and follow them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Payload, escaped, part};
use super::import::Import;
use super::print::{Output, items, money, table, text};
use super::{Failure, print};

/// An order is at most 256 KiB; a file much larger is another file.
const ORDER_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Subcommand)]
pub enum Orders {
    /// Place one order from a JSON file.
    Submit(Submit),
    /// Place many orders, one JSON object a line. Run it again to resume: an order with a reference is placed once.
    Import(Import),
    /// Show an order and what each consumer did with it.
    Get {
        #[arg(value_parser = part)]
        id: String,
    },
    /// Show everything that happened to an order, in order of time.
    Timeline {
        #[arg(value_parser = part)]
        id: String,
        /// `next` of the page before.
        #[arg(long)]
        after: Option<String>,
    },
    /// List orders, newest first.
    List(List),
    /// Cancel an order that is placed or confirmed.
    Cancel {
        #[arg(value_parser = part)]
        id: String,
        /// Why, in words for the customer.
        #[arg(long, default_value = "cancelled by the shop")]
        reason: String,
    },
    /// Mark a shipped order as delivered.
    Deliver {
        #[arg(value_parser = part)]
        id: String,
    },
}

#[derive(Args, Debug)]
pub struct Submit {
    /// A file, or - for standard input.
    file: PathBuf,
    /// The same key with the same order is placed once, however often it is sent.
    #[arg(long)]
    idempotency_key: Option<String>,
}

#[derive(Args, Debug)]
pub struct List {
    #[arg(long)]
    customer: Option<String>,
    /// placed, confirmed, rejected, shipped, delivered or cancelled
    #[arg(long)]
    status: Option<String>,
    /// `next` of the page before.
    #[arg(long)]
    after: Option<String>,
    #[arg(long)]
    limit: Option<u32>,
}

impl Orders {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Submit(submit) => submit.run(client, output),
            Self::Import(import) => import.run(client, output),
            Self::Get { id } => {
                let order = client.get(&format!("/v1/orders/{}", escaped(&id)), &[])?;
                output.show(&order, describe);
                Ok(())
            }
            Self::Timeline { id, after } => super::timeline::run(client, output, &id, after.as_deref()),
            Self::List(list) => list.run(client, output),
            Self::Cancel { id, reason } => change(client, output, &id, "cancel", &json!({ "reason": reason })),
            Self::Deliver { id } => change(client, output, &id, "deliver", &json!({})),
        }
    }
}

impl Submit {
    fn run(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let body = super::import::read_input(&self.file, ORDER_BYTES_MAX)?;
        // One that is made up, too: whoever has no answer must be able to repeat the order, and not to place another.
        let key = self.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let payload = Payload { idempotency_key: Some(&key), ..Payload::json(&body) };
        let order = client.post("/v1/orders", payload).map_err(|failure| {
            failure
                .with_advice(&format!("it may be placed all the same: with --idempotency-key {key} it is placed once"))
        })?;
        output.show(&order, |order| {
            format!("{} is {}, total {}", text(order, "/id"), text(order, "/status"), total(order))
        });
        Ok(())
    }
}

impl List {
    fn run(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let limit = self.limit.map(|limit| limit.to_string());
        let asked = [
            ("customer", self.customer.as_deref()),
            ("status", self.status.as_deref()),
            ("after", self.after.as_deref()),
            ("limit", limit.as_deref()),
        ];
        let query: Vec<_> = asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page = client.get("/v1/orders", &query)?;
        output.show(&page, overview);
        Ok(())
    }
}

fn change(client: &Client, output: &Output, id: &str, step: &str, body: &Value) -> Result<(), Failure> {
    let path = format!("/v1/orders/{}/{step}", escaped(id));
    let order = client.post(&path, Payload::json(body.to_string().as_bytes()))?;
    output.show(&order, |order| format!("{id} is {}", text(order, "/status")));
    Ok(())
}

fn overview(page: &Value) -> String {
    let row = |order: &Value| {
        let [id, reference, status, customer, placed_at] =
            ["/id", "/reference", "/status", "/customer/id", "/placed_at"].map(|path| text(order, path));
        [id, reference, status, customer, total(order), placed_at]
    };
    let columns = ["id", "reference", "status", "customer", "total", "placed at"];
    print::page(page, columns, items(page, "/orders").iter().map(row))
}

fn describe(order: &Value) -> String {
    let mut shown = String::new();
    for (name, path) in [
        ("id", "/id"),
        ("reference", "/reference"),
        ("status", "/status"),
        ("placed at", "/placed_at"),
        ("customer", "/customer/id"),
        ("name", "/customer/name"),
        ("country", "/shipping_address/country"),
    ] {
        let value = text(order, path);
        if !value.is_empty() {
            shown.push_str(&format!("{name:<10} {}\n", print::visible(&value)));
        }
    }
    shown.push_str(&format!("{:<10} {}\n\n", "total", total(order)));
    let currency = text(order, "/currency");
    let line = |line: &Value| {
        let amount = |path| line.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let sku = text(line, "/sku");
        let price = money(amount("/unit_amount"), &currency);
        let discount = money(amount("/discount_amount"), &currency);
        [sku, text(line, "/title"), text(line, "/quantity"), price, discount]
    };
    shown.push_str(&table(["sku", "title", "quantity", "price", "discount"], items(order, "/lines").iter().map(line)));
    let changes = items(order, "/changes");
    if !changes.is_empty() {
        shown.push_str("\n\n");
        shown.push_str(&table(["change", "time", "detail"], changes.iter().map(change_row)));
    }
    let delivery = |delivery: &Value| {
        ["/consumer", "/type", "/state", "/attempts", "/last_error"].map(|path| text(delivery, path))
    };
    let deliveries = items(order, "/deliveries");
    if !deliveries.is_empty() {
        shown.push_str("\n\n");
        let columns = ["consumer", "event", "state", "attempts", "last error"];
        shown.push_str(&table(columns, deliveries.iter().map(delivery)));
    }
    shown
}

/// `order.shipped`, when, and what else the change says: a reason, or where the parcel is.
fn change_row(change: &Value) -> [String; 3] {
    let said = change.get("change").and_then(Value::as_object).and_then(|change| change.values().next());
    let details = said.and_then(Value::as_object).into_iter().flatten().map(|(_, detail)| text(detail, ""));
    let detail = details.collect::<Vec<_>>().join(" ");
    [text(change, "/type"), text(change, "/time"), detail]
}

fn total(order: &Value) -> String {
    let minor = order.pointer("/total_amount").and_then(Value::as_i64).unwrap_or(0);
    money(minor, &text(order, "/currency"))
}
