//! What a client sent, before it is an order: every field checked, every refusal naming its field.
//!
//! Pure: no async, no IO. JSON that has the right shape becomes a [`Draft`]; [`Draft::check`] finds everything that
//! is wrong with it at once, or makes the [`Content`] of an order, whose sums it computed itself.
//!
//! **Invariants of a [`CheckedOrder`]**
//! - 1 to [`LINES_MAX`] lines; every amount, every line and the total lie between 0 and [`AMOUNT_MAX`].
//! - No text holds a control character, so none can break out of a mail header, a log line or a row.
//! - An optional text is absent or not blank: `""` counts as absent, except for `reference`, where it is refused.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::order::{Address, Content, Customer, Line, MinorUnits};

mod faults;
mod iso;
mod object;

pub(crate) use faults::Faults;
pub use faults::{FAULTS_MAX, FieldError};
pub(crate) use object::Object;
use object::Pairs;

/// Bounds one transaction and one event: every consumer gets all lines in one call.
pub const LINES_MAX: usize = 500;

/// 2^53 − 1: the largest integer that every JSON reader keeps exactly.
pub const AMOUNT_MAX: MinorUnits = (1 << 53) - 1;

/// Metadata is for a few facts of the shop's own, not for documents.
pub const METADATA_PAIRS_MAX: usize = 50;

// Longest texts, in characters: generous for what people write, small enough that an order stays one message.
const REFERENCE_CHARS_MAX: usize = 128;
const CUSTOMER_ID_CHARS_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 200;
/// RFC 5321 allows a path of 256 octets, brackets included.
const EMAIL_CHARS_MAX: usize = 254;
const PHONE_CHARS_MAX: usize = 40;
const SKU_CHARS_MAX: usize = 128;
const TITLE_CHARS_MAX: usize = 500;
const STREET_CHARS_MAX: usize = 200;
const POSTAL_CODE_CHARS_MAX: usize = 20;
const METADATA_KEY_CHARS_MAX: usize = 64;
const METADATA_VALUE_CHARS_MAX: usize = 500;

/// An order as a client wrote it. Every field is optional here, so that all that are missing are named together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    reference: Option<String>,
    placed_at: Option<String>,
    currency: Option<String>,
    customer: Option<Object<DraftCustomer>>,
    lines: Option<Vec<Object<DraftLine>>>,
    total_amount: Option<MinorUnits>,
    shipping_address: Option<Object<DraftAddress>>,
    metadata: Option<Pairs>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftCustomer {
    id: Option<String>,
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftLine {
    sku: Option<String>,
    title: Option<String>,
    quantity: Option<i64>,
    unit_amount: Option<MinorUnits>,
    discount_amount: Option<MinorUnits>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftAddress {
    name: Option<String>,
    line1: Option<String>,
    line2: Option<String>,
    city: Option<String>,
    region: Option<String>,
    postal_code: Option<String>,
    country: Option<String>,
}

/// Which door the draft came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An order placed now: `placed_at` is the host's to say.
    Submit,
    /// An order that was placed elsewhere before: `placed_at` may be given.
    Import,
}

/// A draft in which nothing is wrong.
#[derive(Clone, Debug)]
pub struct CheckedOrder {
    pub content: Content,
    /// As imported; absent where the order is placed now.
    pub placed_at: Option<Timestamp>,
    /// SHA-256 of the content (and of `placed_at`, where given): equal for two drafts that say the same,
    /// however each was spelled in JSON.
    pub fingerprint: [u8; 32],
}

impl Draft {
    /// The order that the draft describes.
    ///
    /// # Errors
    /// Everything that is wrong with it, and not only the first of it; at most [`FAULTS_MAX`].
    pub fn check(self, now: Timestamp, mode: Mode) -> Result<CheckedOrder, Vec<FieldError>> {
        let mut faults = Faults::default();
        let placed_at = faults.placed_at(self.placed_at, now, mode);
        let reference = faults.reference(self.reference);
        let currency = faults.currency(self.currency);
        let customer = faults.customer(self.customer);
        let (lines, sum) = faults.lines(self.lines);
        let shipping_address = self.shipping_address.map(|Object(address)| faults.address(address));
        let Pairs(metadata) = self.metadata.unwrap_or_default();
        let metadata = faults.metadata(metadata);
        let total_amount = faults.total(self.total_amount, sum);
        faults.none()?;

        let content = Content { reference, currency, customer, lines, total_amount, shipping_address, metadata };
        let fingerprint = fingerprint(&content, placed_at);
        Ok(CheckedOrder { content, placed_at, fingerprint })
    }
}

/// Serialization of [`Content`] is canonical: its fields have one order and its one map is sorted.
fn fingerprint(content: &impl Serialize, placed_at: Option<Timestamp>) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Writing the JSON of strings and integers into memory cannot fail.
    hash.update(serde_json::to_vec(content).unwrap_or_default());
    if let Some(placed_at) = placed_at {
        hash.update(placed_at.as_millis().to_be_bytes());
    }
    hash.finalize().into()
}

impl Faults {
    fn placed_at(&mut self, placed_at: Option<String>, now: Timestamp, mode: Mode) -> Option<Timestamp> {
        let field = format_args!("placed_at");
        let text = placed_at?;
        if mode == Mode::Submit {
            self.add(field, "is taken only by POST /v1/orders:import; leave it out");
            return None;
        }
        match text.parse::<Timestamp>() {
            Ok(at) if at > now => self.add(field, format!("lies in the future: it is {now} now")),
            Ok(at) => return Some(at),
            Err(err) => self.add(field, err.to_string()),
        }
        None
    }

    fn reference(&mut self, reference: Option<String>) -> Option<String> {
        reference.map(|text| self.required(format_args!("reference"), Some(text), REFERENCE_CHARS_MAX))
    }

    fn currency(&mut self, currency: Option<String>) -> String {
        let currency = currency.unwrap_or_default();
        if currency.is_empty() {
            self.add(format_args!("currency"), "is required");
        } else if !iso::is_currency(&currency) {
            self.add(format_args!("currency"), "is not an ISO 4217 code in capitals, such as EUR");
        }
        currency
    }

    fn customer(&mut self, customer: Option<Object<DraftCustomer>>) -> Customer {
        let Some(Object(DraftCustomer { id, name, email, phone })) = customer else {
            self.add(format_args!("customer"), "is required");
            return Customer { id: String::new(), name: None, email: None, phone: None };
        };
        let email = self.optional(format_args!("customer.email"), email, EMAIL_CHARS_MAX);
        if email.as_deref().is_some_and(|email| !looks_like_email(email)) {
            self.add(format_args!("customer.email"), "is not an e-mail address: name@domain, without spaces");
        }
        Customer {
            id: self.required(format_args!("customer.id"), id, CUSTOMER_ID_CHARS_MAX),
            name: self.optional(format_args!("customer.name"), name, NAME_CHARS_MAX),
            email,
            phone: self.optional(format_args!("customer.phone"), phone, PHONE_CHARS_MAX),
        }
    }

    /// The lines, and their sum if it could be computed.
    fn lines(&mut self, drafts: Option<Vec<Object<DraftLine>>>) -> (Vec<Line>, Option<MinorUnits>) {
        let drafts = drafts.unwrap_or_default();
        if drafts.is_empty() {
            self.add(format_args!("lines"), "must hold at least one line");
            return (Vec::new(), None);
        }
        if drafts.len() > LINES_MAX {
            let detail = format!("hold {} lines; at most {LINES_MAX} are allowed in one order", drafts.len());
            self.add(format_args!("lines"), detail);
            return (Vec::new(), None);
        }
        let mut lines = Vec::with_capacity(drafts.len());
        let mut sum = Some(0);
        for (index, Object(draft)) in drafts.into_iter().enumerate() {
            let (line, amount) = self.line(index, draft);
            lines.push(line);
            sum = match (sum, amount) {
                (Some(sum), Some(amount)) => Some(add(sum, amount)),
                _ => None,
            };
        }
        if sum.is_some_and(|sum| sum > AMOUNT_MAX) {
            self.add(format_args!("lines"), format!("add up to more than {AMOUNT_MAX}"));
            sum = None;
        }
        (lines, sum)
    }

    /// One line, and what it costs if nothing is wrong with its numbers.
    fn line(&mut self, index: usize, draft: DraftLine) -> (Line, Option<MinorUnits>) {
        let DraftLine { sku, title, quantity, unit_amount, discount_amount } = draft;
        let sku = self.required(format_args!("lines[{index}].sku"), sku, SKU_CHARS_MAX);
        let title = self.optional(format_args!("lines[{index}].title"), title, TITLE_CHARS_MAX);
        let quantity = self.quantity(format_args!("lines[{index}].quantity"), quantity);
        let unit_amount = self.amount(format_args!("lines[{index}].unit_amount"), unit_amount);
        let discount_amount =
            self.amount(format_args!("lines[{index}].discount_amount"), Some(discount_amount.unwrap_or(0)));

        let mut line = Line { sku, title, quantity: 0, unit_amount: 0, discount_amount: 0 };
        let (Some(quantity), Some(unit_amount), Some(discount_amount)) = (quantity, unit_amount, discount_amount)
        else {
            return (line, None);
        };
        line = Line { quantity, unit_amount, discount_amount, ..line };
        match MinorUnits::from(quantity).checked_mul(unit_amount) {
            Some(gross) if discount_amount > gross => {
                let detail = format!("is more than the line's quantity × unit_amount, which is {gross}");
                self.add(format_args!("lines[{index}].discount_amount"), detail);
                (line, None)
            }
            Some(gross) if gross <= AMOUNT_MAX => (line, Some(gross - discount_amount)),
            _ => {
                let detail = format!("costs more than {AMOUNT_MAX}: quantity × unit_amount is too large");
                self.add(format_args!("lines[{index}]"), detail);
                (line, None)
            }
        }
    }

    fn quantity(&mut self, field: fmt::Arguments<'_>, quantity: Option<i64>) -> Option<u32> {
        match quantity {
            None => self.add(field, "is required"),
            Some(quantity) if quantity < 1 => self.add(field, "must be at least 1"),
            Some(quantity) => match u32::try_from(quantity) {
                Ok(quantity) => return Some(quantity),
                Err(_) => self.add(field, format!("must be at most {}", u32::MAX)),
            },
        }
        None
    }

    fn amount(&mut self, field: fmt::Arguments<'_>, amount: Option<MinorUnits>) -> Option<MinorUnits> {
        match amount {
            None => self.add(field, "is required, in minor units of the currency: 1400 for 14.00 USD"),
            Some(amount) if amount < 0 => self.add(field, "must not be negative"),
            Some(amount) if amount > AMOUNT_MAX => self.add(field, format!("must be at most {AMOUNT_MAX}")),
            Some(amount) => return Some(amount),
        }
        None
    }

    fn address(&mut self, address: DraftAddress) -> Address {
        let DraftAddress { name, line1, line2, city, region, postal_code, country } = address;
        let country = country.unwrap_or_default();
        if country.is_empty() {
            self.add(format_args!("shipping_address.country"), "is required");
        } else if !iso::is_country(&country) {
            let detail = "is not an ISO 3166-1 code of two capitals, such as FR";
            self.add(format_args!("shipping_address.country"), detail);
        }
        Address {
            name: self.required(format_args!("shipping_address.name"), name, NAME_CHARS_MAX),
            line1: self.required(format_args!("shipping_address.line1"), line1, STREET_CHARS_MAX),
            line2: self.optional(format_args!("shipping_address.line2"), line2, STREET_CHARS_MAX),
            city: self.required(format_args!("shipping_address.city"), city, STREET_CHARS_MAX),
            region: self.optional(format_args!("shipping_address.region"), region, STREET_CHARS_MAX),
            postal_code: self.optional(
                format_args!("shipping_address.postal_code"),
                postal_code,
                POSTAL_CODE_CHARS_MAX,
            ),
            country,
        }
    }

    fn metadata(&mut self, metadata: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if metadata.len() > METADATA_PAIRS_MAX {
            let detail = format!("holds {} pairs; at most {METADATA_PAIRS_MAX} are allowed", metadata.len());
            self.add(format_args!("metadata"), detail);
            return metadata;
        }
        for (key, value) in &metadata {
            if key.trim().is_empty() {
                self.add(format_args!("metadata"), "holds an empty key");
            } else if self.fits(format_args!("metadata"), key, METADATA_KEY_CHARS_MAX) {
                // The key is quoted only after it was found short and free of control characters.
                self.fits(format_args!("metadata.{key}"), value, METADATA_VALUE_CHARS_MAX);
            }
        }
        metadata
    }

    /// The host's own total; what was sent may only agree with it.
    fn total(&mut self, sent: Option<MinorUnits>, sum: Option<MinorUnits>) -> MinorUnits {
        if let (Some(sent), Some(sum)) = (sent, sum)
            && sent != sum
        {
            self.add(format_args!("total_amount"), format!("is {sent}, but the lines add up to {sum}"));
        }
        sum.unwrap_or(0)
    }
}

/// One more than [`AMOUNT_MAX`] stands for every larger sum, so that adding never overflows.
fn add(sum: MinorUnits, amount: MinorUnits) -> MinorUnits {
    sum.saturating_add(amount).min(AMOUNT_MAX + 1)
}

/// Whether mail could be sent there; the mail server has the last word.
fn looks_like_email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';'))
}

#[cfg(test)]
mod tests;
