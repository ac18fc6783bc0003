//! AWS as the tests see it: emulators, and what can happen on the way to them.
//!
//! A [`FaultProxy`] stands between a host and one emulator. It does to each request what the test says, keeps count of
//! what AWS would bill, and hands messages on in no other order than SQS promises.

mod ask;
mod bill;
mod call;
mod disorder;
mod half;
pub(crate) mod proxy;
mod way;

pub use ask::{ask, ask_sns};
pub use bill::{Bill, Tally};
pub use call::{Call, Protocol};
pub use proxy::{Fault, FaultProxy};
pub use way::Way;

/// Where the emulator of a service listens: `SNS`, `SQS`, `DYNAMODB` or `CLOUDFORMATION`.
///
/// # Panics
/// Where none runs.
#[must_use]
pub fn endpoint(service: &str) -> String {
    let name = format!("AWS_ENDPOINT_URL_{service}");
    let url = std::env::var_os(&name).and_then(|url| url.into_string().ok());
    url.unwrap_or_else(|| panic!("no {name}: set what `cargo xtask emulators` prints, or run `cargo xtask test`"))
}
