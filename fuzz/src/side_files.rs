//! Side files: read whole, or refused line by line.

use std::path::Path;

use fanfare::policy::Policy;
use fanfare_tests::crash::goods::Dice;

use crate::{Target, check_refusal, text};

const GOOD: &str = r#"
start = "2026-11-22T10:00:00Z"
isolation = "event"
concurrency = 3
rate = "500/s"
on_dead = "skip"
subscribe = ["order.placed", { kind = "com.example.*", filter = '{"weight_g": [{"numeric": [">", 0]}]}' }]
[grant]
change_order = true
publish = ["com.fanfare.stock.*"]
http = [{ url_prefix = "https://api.carrier.example:8443/v1/", methods = ["POST", "GET"] }]
email = true
sms = false
records = ["orders"]
secrets = { CARRIER_TOKEN = "env:CARRIER_TOKEN", KEY = "file:/run/key" }
[settings]
low_stock = "10"
[limits]
memory = "128MiB"
cpu = "100ms"
share = 0.25
time = "10s"
state = "2GiB"
effects = "1MiB"
events = 20
handles = 16
[retry]
max_attempts = 5
base = "2s"
cap = "20m"
max_age = "1d"
"#;
const WORDS: [&str; 16] = [
    "share",
    "=",
    "\"5s\"",
    "[limits]",
    "99999999999999999999d",
    "\"1GiB\"",
    "0.0000001",
    "inf",
    "nan",
    "1_000",
    "[[grant]]",
    "grant.http",
    "\"https://[::1]/\"",
    "0b11",
    "\"order.*\"",
    "{ kind = 1 }",
];

/// Reads side files that an operator saved in the middle of something.
#[derive(Default)]
pub struct SideFiles {
    pub taken: u64,
}

impl Target for SideFiles {
    fn name(&self) -> &'static str {
        "side-files"
    }

    fn make(&mut self, dice: &mut Dice) -> Vec<u8> {
        text::damage(GOOD, &WORDS, dice).into_bytes()
    }

    fn try_input(&mut self, input: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(input);
        match Policy::parse(Path::new("consumers/shipment.toml"), &text) {
            Ok(policy) => {
                self.taken += 1;
                let sane =
                    policy.limits.memory_bytes > 0 && policy.limits.share_permille > 0 && !policy.limits.cpu.is_zero();
                if sane { Ok(()) } else { Err(format!("a limit of nothing: {:?}", policy.limits)) }
            }
            Err(refusal) => {
                let refusal = refusal.to_string();
                check_refusal(&refusal)?;
                let lines = text.lines().count() + 1;
                let line = refusal.split(':').nth(1).and_then(|line| line.parse::<usize>().ok());
                if line.is_some_and(|line| (1..=lines).contains(&line)) {
                    Ok(())
                } else {
                    Err(format!("no line: {refusal}"))
                }
            }
        }
    }
}
