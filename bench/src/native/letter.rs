//! The letters of plugins/notification in English, which is what customers without a locale are written in.

use std::fmt::Write;

use fanfare::order::{Order, Shipment};

use super::{MINOR_PER_MAJOR, line_amount};

pub struct Letter {
    pub subject: String,
    pub text: String,
    pub html: String,
}

pub fn placed(order: &Order, id: &str) -> Letter {
    let shown = order.content.reference.as_deref().unwrap_or(id);
    let lines = order.content.lines.iter().map(|line| {
        let title = line.title.as_deref().unwrap_or(&line.sku);
        (format!("{} × {title}", line.quantity), money(line_amount(line), &order.content.currency))
    });
    let total = ("Total".to_owned(), money(order.content.total_amount, &order.content.currency));
    let table: Vec<_> = lines.chain([total]).collect();
    let body = format!("Thank you for your order {shown}. We are checking our stock for:");
    render(order, format!("We have your order {shown}"), &body, &table)
}

pub fn confirmed(order: &Order, id: &str) -> Letter {
    let shown = order.content.reference.as_deref().unwrap_or(id);
    let body = format!("Everything you ordered with {shown} is in stock. We are packing it.");
    render(order, format!("Your order {shown} is confirmed"), &body, &[])
}

pub fn shipped(order: &Order, id: &str, parcel: &Shipment) -> Letter {
    let shown = order.content.reference.as_deref().unwrap_or(id);
    let Shipment { carrier, tracking_number, .. } = parcel;
    let body = format!(
        "We have handed your order {shown} to the carrier. Carrier: {carrier}. Tracking number: {tracking_number}."
    );
    render(order, format!("Your order {shown} is on its way"), &body, &[])
}

fn render(order: &Order, subject: String, body: &str, table: &[(String, String)]) -> Letter {
    const CLOSING: &str = "Kind regards, your shop";
    let greeting = match order.content.customer.name.as_deref() {
        Some(name) => format!("Hello {name},"),
        None => "Hello,".to_owned(),
    };
    let mut text = format!("{greeting}\n\n{body}");
    let mut html = String::from("<!doctype html><html><body>");
    for paragraph in [&*greeting, body] {
        html.push_str("<p>");
        escape(paragraph, &mut html);
        html.push_str("</p>");
    }
    if !table.is_empty() {
        text.push('\n');
        html.push_str("<table>");
        for (what, amount) in table {
            // Writing to a text cannot fail.
            let _ = write!(text, "\n  {what}: {amount}");
            html.push_str("<tr><td>");
            escape(what, &mut html);
            html.push_str("</td><td align=\"right\">");
            escape(amount, &mut html);
            html.push_str("</td></tr>");
        }
        html.push_str("</table>");
    }
    let _ = write!(text, "\n\n{CLOSING}\n");
    let _ = write!(html, "<p>{CLOSING}</p></body></html>");
    Letter { subject, text, html }
}

fn escape(text: &str, escaped: &mut String) {
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
}

/// `EUR 1,234.50`, with a space that does not break.
fn money(amount: i64, currency: &str) -> String {
    let major = (amount / MINOR_PER_MAJOR).to_string();
    let mut shown = format!("{currency}\u{a0}");
    for (position, digit) in major.chars().enumerate() {
        if position > 0 && (major.len() - position).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    let _ = write!(shown, ".{:02}", amount % MINOR_PER_MAJOR);
    shown
}
