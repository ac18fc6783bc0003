//! The program as a function of AWS Lambda: the API, one consumer, or what has to go on while these stand still.
//!
//! ```text
//! start: store, consumers ─► next event ─► wake ─► answer ─► rest (publish, give the slot back) ─► hand the answer over
//!                               ▲                                                                        │
//!                               └──────────────────── stands still, for as long as it is ◄───────────────┘
//! ```
//!
//! | function | is invoked by | does |
//! |---|---|---|
//! | `api` | API Gateway, a load balancer, its URL | what a host's API does |
//! | `consumer NAME` | the consumer's queue | handles its messages; those that are not done come back |
//! | `worker` | a schedule | publishes what others left, delivers what is due, past or was not told of, makes states anew, sends messages |
//!
//! Wiring, API, consumers and store are a host's; only who asks is another.
//!
//! **Invariant**: nothing is answered before what it says is in the table and published, or left to whoever follows dead hosts.

mod api;
mod consumer;
mod follow;
mod worker;

use std::time::Duration;

use anyhow::{Result, anyhow};
use lambda_runtime::{Context, Diagnostic};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::app::Runtimes;
use crate::backend;
use crate::backend::aws::invoked::{Invoked, Until};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::consumer::status::Catalogue;
use crate::fault;
use crate::policy::ConsumerName;
use crate::sandbox::Amount;
use crate::sender;
use crate::telemetry::meters;

/// Kept back of the time of an invocation: to hand the answer over.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// To publish what was written last.
const PUBLISH_TIME: Duration = Duration::from_secs(1);
/// To commit what an event has changed, once it is handled.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// To tell Lambda why a function cannot start.
const TELL_TIME: Duration = Duration::from_secs(2);

/// What the program is.
#[derive(Clone, Debug)]
pub enum Role {
    Api,
    Consumer(ConsumerName),
    Worker,
}

/// Why an event was not answered. Lambda gives it to whoever sent the event, and to the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this function handles messages of an SQS queue, and what it was invoked with is something else: {0}")]
    NotMessages(String),
    #[error(
        "this function handles messages of {own}, the queue of consumer {name}, and these are of {other}: point its event source at that queue"
    )]
    OtherQueue { name: ConsumerName, own: String, other: String },
    #[error(
        "one event may take {handling:?} here (limits.time), and the function has no more than that: give it {least:?} or more"
    )]
    TooShort { handling: Duration, least: Duration },
    #[error(transparent)]
    Store(#[from] backend::Error),
    #[error(transparent)]
    Sender(#[from] sender::Error),
}

impl From<Error> for Diagnostic {
    fn from(error: Error) -> Self {
        let error_type = match error {
            Error::NotMessages(_) => "Fanfare.NotMessages",
            Error::OtherQueue { .. } => "Fanfare.OtherQueue",
            Error::TooShort { .. } => "Fanfare.TooShort",
            Error::Store(_) => "Fanfare.Store",
            Error::Sender(_) => "Fanfare.Sender",
        };
        Self { error_type: error_type.to_owned(), error_message: error.to_string() }
    }
}

/// Answers events of Lambda's runtime API at `runtime_api` until the process is ended.
///
/// # Errors
/// Where the function cannot start, which Lambda is told, or where Lambda does not answer.
pub fn run(config: &Config, role: Role, runtime_api: &str) -> Result<()> {
    if let Some(fault) = config.fault {
        fault::arm(fault);
    }
    let runtimes = Runtimes::start()?;
    let deliveries = runtimes.deliveries.handle();
    let outcome = match runtimes.http.block_on(Function::start(config, role, deliveries)) {
        Ok(function) => runtimes.http.block_on(function.run()),
        Err(error) => {
            tell_why(runtime_api, &error);
            Err(error)
        }
    };
    runtimes.end();
    outcome
}

enum Function {
    Api(api::Shop),
    Consumer(consumer::Queue),
    Worker(Box<worker::Worker>),
}

impl Function {
    async fn start(config: &Config, role: Role, deliveries: &Handle) -> Result<Self> {
        let (backend, invoked) = Box::pin(backend::aws::open_invoked(&config.aws)).await?;
        backend.upkeep.retain(config.retention);
        Ok(match role {
            Role::Api => Self::Api(api::Shop::open(config, &backend, invoked)),
            Role::Consumer(name) => {
                Self::Consumer(consumer::Queue::open(config, &backend, invoked, deliveries, name).await?)
            }
            Role::Worker => Self::Worker(Box::new(worker::Worker::open(config, backend, invoked, deliveries).await?)),
        })
    }

    async fn run(self) -> Result<()> {
        tracing::info!("the function is ready");
        let ended = match self {
            Self::Api(shop) => shop.run().await,
            Self::Consumer(queue) => queue.run().await,
            Self::Worker(worker) => worker.run().await,
        };
        ended.map_err(|error| anyhow!("Lambda does not answer any more: {error}"))
    }
}

/// A function that cannot start says why; Lambda would only know that it ended.
fn tell_why(runtime_api: &str, error: &anyhow::Error) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TELL_TIME)).build().into();
    let body = json!({ "errorType": "Fanfare.NotReady", "errorMessage": format!("{error:#}"), "stackTrace": [] });
    let told = agent.post(format!("http://{runtime_api}/2018-06-01/runtime/init/error"));
    let told = told.header("Lambda-Runtime-Function-Error-Type", "Fanfare.NotReady").send_json(body);
    if let Err(error) = told {
        tracing::warn!(%error, "Lambda was not told why the function cannot start");
    }
}

/// How the time of one invocation is spent.
#[derive(Clone, Copy, Debug)]
struct Times {
    began: Instant,
    /// What changes something ends.
    end: Instant,
    /// All is published, or left to others.
    answer: Instant,
}

impl Times {
    fn of(context: &Context) -> Self {
        let left = Timestamp::from_millis(context.deadline).since(Timestamp::now());
        let began = Instant::now();
        let answer = began + left.saturating_sub(ANSWER_TIME);
        Self { began, end: began + left.saturating_sub(ANSWER_TIME + PUBLISH_TIME), answer }
    }

    /// Until when events are handled that take up to `handling` each.
    fn until(self, handling: Duration) -> Result<Until, Error> {
        let last = handling + SETTLE_TIME;
        match self.end.checked_sub(last).filter(|begin| *begin > self.began) {
            Some(begin) => Ok(Until { begin, end: self.end }),
            None => {
                Err(Error::TooShort { handling, least: last + PUBLISH_TIME + ANSWER_TIME + Duration::from_secs(1) })
            }
        }
    }
}

/// How long an event may take at any consumer that is here.
fn handling_max(catalogue: &dyn Catalogue) -> Duration {
    let time = |name: &ConsumerName| match catalogue.usage(name)?.get("time")?.limit {
        Amount::Thousandths(micros) => Some(Duration::from_micros(micros)),
        Amount::Whole(millis) => Some(Duration::from_millis(millis)),
    };
    catalogue.list().iter().filter_map(|status| time(&status.name)).max().unwrap_or_default()
}

/// The end of an invocation: from here on, the process may stand still.
async fn rest(invoked: &Invoked, times: Times) {
    invoked.rest(times.answer).await;
    meters::drain();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(left: Duration) -> Times {
        let mut context = Context::default();
        context.deadline = Timestamp::now().plus(left).as_millis();
        Times::of(&context)
    }

    #[test]
    fn no_event_begins_that_might_not_end_in_time() {
        let times = times(Duration::from_secs(20));
        let until = times.until(Duration::from_secs(5)).unwrap();
        let (begin, end) = (until.begin.duration_since(times.began), until.end.duration_since(times.began));
        assert!(begin > Duration::from_secs(5) && begin <= Duration::from_millis(13_201), "{begin:?}");
        assert_eq!(end.saturating_sub(begin), Duration::from_millis(5_500));
        assert_eq!(times.answer.duration_since(times.end), PUBLISH_TIME);
    }

    #[test]
    fn a_function_that_ends_before_an_event_may_says_so() {
        let error = times(Duration::from_secs(6)).until(Duration::from_secs(5)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "one event may take 5s here (limits.time), and the function has no more than that: give it 7.8s or more"
        );
    }
}
