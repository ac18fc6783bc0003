//! List prices, and what the same orders would take if a team wired the services by hand.
//!
//! The reference has equal guarantees: an idempotency record and an outbox beside the order, a marker of what is processed
//! beside each consumer's state, FIFO topic and queues; API Gateway and Lambda in place of the host.

use super::Spent;

/// When and where these were the prices as far as we knew: on-demand list prices, without free tiers, storage and traffic.
pub const PRICED: &str = "us-east-1, 2026-11";

const MILLION: f64 = 1e6;
const SECONDS_AN_HOUR: f64 = 3_600.0;

/// Dollars: for a million, unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
    pub write_unit: f64,
    pub read_unit: f64,
    /// SNS FIFO: requests to publish, and messages that go to queues.
    pub publish: f64,
    pub subscription_message: f64,
    /// SQS FIFO.
    pub queue_request: f64,
    /// HTTP API of API Gateway.
    pub gateway_request: f64,
    pub invocation: f64,
    /// Lambda on arm64: for one GB-second.
    pub gb_second: f64,
    /// `c7g.large`, two vCPUs: for an hour.
    pub host_hour: f64,
    /// `t4g.small`: for an hour.
    pub small_host_hour: f64,
}

impl Prices {
    pub const LIST: Self = Self {
        write_unit: 0.625,
        read_unit: 0.125,
        publish: 0.30,
        subscription_message: 0.01,
        queue_request: 0.50,
        gateway_request: 1.00,
        invocation: 0.20,
        gb_second: 0.000_013_333_4,
        host_hour: 0.0725,
        small_host_hour: 0.0168,
    };
}

/// Nine deliveries of three events.
const EVENTS: f64 = 3.0;
const DELIVERIES: f64 = 9.0;

/// What a host's own items take where nothing is shared: 8 to place an order, 6 for its changes, 2 for each place.
const OWN_UNITS: f64 = 8.0 + 6.0 + 2.0 * DELIVERIES;

/// The same of the reference. Placing: order of 2 KB 4, index by customer 1, idempotency record 2, outbox 4 and 2 when it is
/// deleted. Two changes: order 4, outbox 4 and 2. A marker for each delivery: 2.
const REFERENCE_UNITS: f64 = 13.0 + 2.0 * 10.0 + 2.0 * DELIVERIES;

/// One for each delivery, and the order before each change.
const REFERENCE_READS: f64 = DELIVERIES + 2.0;

/// Memory and time of a function: a quarter of a GB; 20 ms for a request or a batch, and 10 ms for each transaction in it.
const FUNCTION_GB: f64 = 0.25;
const FUNCTION_SECONDS: f64 = 0.020;
const TRANSACTION_SECONDS: f64 = 0.010;

/// Use of a host's CPU that leaves room for peaks.
const UTILISATION: f64 = 0.5;

/// What a million orders cost by one service, in dollars.
pub type Line = (&'static str, f64);

impl Spent {
    /// Of this run, if it went on for a million orders. Slow ones need two small hosts, for one that fails; fast ones as much
    /// of large ones as they use.
    #[must_use]
    pub fn dollars(&self, prices: &Prices) -> Vec<Line> {
        let each = self.orders as f64;
        let (table, topic, queues) = (self.total("DYNAMODB"), self.total("SNS"), self.total("SQS"));
        let small = 2.0 * prices.small_host_hour / SECONDS_AN_HOUR * self.took.as_secs_f64() / each * MILLION;
        let large = prices.host_hour / 2.0 / SECONDS_AN_HOUR * self.cpu / each / UTILISATION * MILLION;
        vec![
            ("DynamoDB writes", table.write_units / each * prices.write_unit),
            ("DynamoDB reads", table.read_units / each * prices.read_unit),
            ("SNS", topic.requests as f64 / each * prices.publish + DELIVERIES * prices.subscription_message),
            ("SQS", queues.requests as f64 / each * prices.queue_request),
            ("API Gateway", 0.0),
            ("Lambda, or hosts", if large > small { large } else { small }),
        ]
    }
}

/// The reference, where consumers keep `kept` write units of state an order and batches are of `batch` messages.
#[must_use]
pub fn reference(kept: f64, batch: f64, prices: &Prices) -> Vec<Line> {
    // The API, what follows the outbox, the consumers.
    let invocations = 1.0 + EVENTS / batch + DELIVERIES / batch;
    let seconds = invocations * FUNCTION_SECONDS + (1.0 + DELIVERIES) * TRANSACTION_SECONDS;
    vec![
        ("DynamoDB writes", (REFERENCE_UNITS + kept) * prices.write_unit),
        ("DynamoDB reads", REFERENCE_READS * prices.read_unit),
        ("SNS", EVENTS / batch * prices.publish + DELIVERIES * prices.subscription_message),
        ("SQS", 2.0 * DELIVERIES / batch * prices.queue_request),
        ("API Gateway", prices.gateway_request),
        ("Lambda, or hosts", invocations * prices.invocation + seconds * FUNCTION_GB * prices.gb_second * MILLION),
    ]
}

/// What consumers keep, in write units an order, as a run shows it in which nothing was shared.
#[must_use]
pub fn kept(slow: &Spent, idle: &Spent) -> f64 {
    slow.write_units_without(idle) - OWN_UNITS
}
