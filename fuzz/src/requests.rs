//! Orders and CloudEvents, sent to the real program: taken, or refused as a problem; never an error of its own.

use fanfare_tests::TestHost;
use fanfare_tests::crash::goods::Dice;
use fanfare_tests::orders;

use crate::{REFUSAL_BYTES_MAX, Target, text};

const WORDS: [&str; 14] = [
    "\"lines\"",
    "\"quantity\"",
    "\"sku\"",
    "\"unit_amount\"",
    "\"specversion\":\"0.3\"",
    "\"data_base64\"",
    "\"id\"",
    "\"EUR\"",
    "\"shipping_address\":null",
    "\"metadata\":{\"a\":\"b\"}",
    "\"time\":\"now\"",
    "4294967296",
    "\"\"",
    "\"subject\":7",
];

/// A host that is sent damaged requests, half of them orders.
pub struct Requests {
    host: TestHost,
    order: String,
    event: String,
    pub taken: u64,
}

impl Default for Requests {
    fn default() -> Self {
        let mut host = TestHost::new();
        host.start();
        let order = orders::referenced("NW-10248", &[("TEA", 1), ("COFFEE", 3)]).to_string();
        Self { host, order, event: orders::received("received-1", "TEA", 7).to_string(), taken: 0 }
    }
}

impl Target for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    /// The first byte says which of both it is.
    fn make(&mut self, dice: &mut Dice) -> Vec<u8> {
        let (kind, good) = if dice.below(2) == 0 { ("o", &self.order) } else { ("e", &self.event) };
        format!("{kind}{}", text::damage(good, &WORDS, dice)).into_bytes()
    }

    fn try_input(&mut self, input: &[u8]) -> Result<(), String> {
        let (kind, body) = input.split_at_checked(1).ok_or("no input")?;
        let (path, content) = match kind {
            b"o" => ("/v1/orders", "application/json"),
            _ => ("/v1/events", "application/cloudevents+json"),
        };
        let answer = self.host.client().try_post(path, &[("content-type", content)], body);
        let answer = answer.map_err(|error| format!("no answer: {error}; {}", self.host.log()))?;
        let refused =
            answer.status.is_client_error() && answer.header("content-type") == Some("application/problem+json");
        self.taken += u64::from(answer.status.is_success());
        if !refused && !answer.status.is_success() || answer.text.len() > REFUSAL_BYTES_MAX {
            return Err(format!("{answer:#?}"));
        }
        Ok(())
    }
}
