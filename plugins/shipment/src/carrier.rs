//! Carriers: which one delivers where, and how it is asked for a parcel. The API is in plugins/README.md.

use fanfare_sdk::http::{Request, Response};
use fanfare_sdk::prelude::*;
use serde::{Deserialize, Serialize};

use crate::consignment::Consignment;

/// What a carrier says of its reasons, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// Somebody who carries parcels, by one line of setting `carriers`.
#[derive(Debug, PartialEq, Eq)]
pub struct Carrier<'a> {
    /// Ends in `/`.
    url: &'a str,
    /// Name of the secret that it is shown.
    token: Option<&'a str>,
}

#[derive(Serialize)]
struct Parcel<'a> {
    reference: &'a str,
    order: &'a str,
    recipient: Recipient<'a>,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Recipient<'a> {
    name: &'a str,
    line1: &'a str,
    line2: Option<&'a str>,
    city: &'a str,
    region: Option<&'a str>,
    postal_code: Option<&'a str>,
    country: &'a str,
    phone: Option<&'a str>,
}

#[derive(Serialize)]
struct Item<'a> {
    sku: &'a str,
    title: Option<&'a str>,
    quantity: u32,
}

#[derive(Deserialize)]
struct Booked {
    carrier: String,
    tracking_number: String,
    tracking_url: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    detail: Option<String>,
    title: Option<String>,
}

impl<'a> Carrier<'a> {
    /// The carrier for `country` by `carriers`: lines of countries, URL and, if it asks for one, the name of a secret. The
    /// first line that names the country, or `*`, counts.
    pub fn choose(carriers: &'a str, country: &str) -> Result<Self, Failure> {
        for line in carriers.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (countries, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let mut rest = rest.split_whitespace();
            let (url, token) = (rest.next().unwrap_or_default(), rest.next());
            if !url.ends_with('/') || rest.next().is_some() {
                return Err(Failure::retry(format!(
                    "settings.carriers: expected a line such as \"DE,AT https://api.carrier.example/v1/ CARRIER_TOKEN\", not {line:?}"
                )));
            }
            if countries.split(',').any(|named| named == "*" || named.eq_ignore_ascii_case(country)) {
                return Ok(Self { url, token });
            }
        }
        Err(Failure::retry(format!("settings.carriers: no line is for {country}; add one, or one for *")))
    }

    /// Has the order fetched. Asked again, it is the same parcel: the host sends the same `Idempotency-Key`.
    pub fn book(&self, order: &Order, address: &Address) -> Result<Consignment, Failure> {
        let mut request = Request::post(format!("{}parcels", self.url)).json(&parcel(order, address));
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {{{{secret:{token}}}}}"));
        }
        let response = request.header("accept", "application/json").send()?;
        if !response.is_success() {
            return Err(self.refused(&response));
        }
        // There is a parcel: the next attempt gets the same answer.
        let Ok(Booked { carrier, tracking_number, tracking_url }) = response.json() else {
            return Err(Failure::retry(format!(
                "{} booked a parcel and gave no carrier and tracking_number: {}",
                self.url,
                bounded(&response.text())
            )));
        };
        let country = Some(address.country.clone());
        Ok(Consignment { carrier, tracking_number, tracking_url, country })
    }

    /// What the carrier is short of may come back; what it does not want it will not want later either.
    fn refused(&self, response: &Response) -> Failure {
        let told = response.json().ok().and_then(|Problem { detail, title }| detail.or(title));
        let told = told.unwrap_or_else(|| response.text());
        let reason = format!("{} answered {}: {}", self.url, response.status, bounded(&told));
        match (response.status, response.retry_after_ms()) {
            (408 | 425 | 429 | 500.., Some(after_ms)) => Failure::retry_after_ms(after_ms, reason),
            (408 | 425 | 429 | 500.., None) => Failure::retry(reason),
            _ => Failure::reject(reason),
        }
    }
}

fn parcel<'a>(order: &'a Order, address: &'a Address) -> Parcel<'a> {
    let items = order.lines.iter();
    let items = items.map(|line| Item { sku: &line.sku, title: line.title.as_deref(), quantity: line.quantity });
    Parcel {
        reference: &order.id,
        order: order.reference.as_deref().unwrap_or(&order.id),
        recipient: Recipient {
            name: &address.name,
            line1: &address.line1,
            line2: address.line2.as_deref(),
            city: &address.city,
            region: address.region.as_deref(),
            postal_code: address.postal_code.as_deref(),
            country: &address.country,
            phone: order.customer.phone.as_deref(),
        },
        items: items.collect(),
    }
}

fn bounded(text: &str) -> &str {
    text.get(..text.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARRIERS: &str = "\n DE,at  https://one.example/v1/  ONE_TOKEN\n\n*\thttps://two.example/\n";

    #[test]
    fn the_first_line_for_a_country_counts() {
        let chosen = |country| Carrier::choose(CARRIERS, country).unwrap();
        assert_eq!(chosen("AT"), Carrier { url: "https://one.example/v1/", token: Some("ONE_TOKEN") });
        assert_eq!(chosen("FR"), Carrier { url: "https://two.example/", token: None });
    }

    #[test]
    fn a_wrong_setting_waits_for_its_operator() {
        for (carriers, said) in [
            ("DE https://one.example/v1/", "no line is for FR"),
            ("FR https://one.example/v1", "expected a line such as"),
            ("FR", "expected a line such as"),
            ("FR https://one.example/ A B", "expected a line such as"),
        ] {
            let failure = Carrier::choose(carriers, "FR").unwrap_err();
            assert!(matches!(failure, Failure::Retry(_)) && failure.reason().contains(said), "{failure:?}");
        }
    }
}
