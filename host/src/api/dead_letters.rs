//! Dead letters: by cause, one by one, and what becomes of them.
//!
//! A redrive goes through the letters in journal order, in transactions of a bounded number. One that would take longer than
//! a request may ends with `next`: hand it in as `after` to go on. Whoever goes away in between has redriven a part.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::cloudevents::nesting;
use super::limits::{CAUSES_MAX, DATA_DEPTH_MAX, EVENT_BYTES_MAX, REDRIVE_BATCH, REDRIVE_PACE, REDRIVE_TIME_MAX};
use super::problem::{Error, Result};
use super::request::{Params, Segment, Segments, bounded, committing, parsed, reading};
use super::{Shared, body, consumers, page};
use crate::backend::{
    CauseCount, CauseKey, CauseKind, DeadLetter, Durable, LetterQuery, LetterShown, Redriven, Selection, Which,
};
use crate::event::{EventId, Position, edit};
use crate::order::draft::FieldError;
use crate::policy::{ConsumerName, Rate};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    cause: Option<String>,
    outcome: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct List {
    /// What all of them died of, most frequent first.
    causes: Vec<CauseCount>,
    dead_letters: Vec<DeadLetter>,
    next: Option<String>,
}

/// `GET /v1/consumers/{name}/dead-letters`: all causes, and the letters in journal order, of one cause where `cause` says so.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    Params(params): Params<ListParams>,
) -> Result<Response> {
    consumers::require_known(&shared, &name).await?;
    let outcome = parsed("outcome", params.outcome.as_deref())?;
    let cause = match (bounded("cause", params.cause)?, outcome) {
        (Some(text), outcome) => Some(CauseKey { outcome, text }),
        (None, None) => None,
        (None, Some(_)) => {
            let detail = "narrows `cause`: name a cause too".to_owned();
            return Err(Error::InvalidParameter { field: "outcome".into(), detail });
        }
    };
    let query = LetterQuery { cause, after: bounded("after", params.after)?, limit: page::limit(params.limit)? };
    let causes = reading(shared.api.dead_letters.causes(&name, CAUSES_MAX)).await?;
    let found = reading(shared.api.dead_letters.list(&name, query)).await?;
    page::json(&List { causes, dead_letters: found.items, next: found.next })
}

/// `GET /v1/consumers/{name}/dead-letters/{event_id}`: the event, and every attempt at it that is remembered.
pub async fn show(State(shared): State<Arc<Shared>>, Segments([name, event]): Segments<2>) -> Result<Response> {
    let name: ConsumerName = name.parse().map_err(|_| Error::UnknownConsumer(super::request::clip(&name)))?;
    consumers::require_known(&shared, &name).await?;
    let unknown = || Error::UnknownDeadLetter { event: super::request::clip(&event), consumer: name.clone() };
    let id = event.parse().map_err(|_| unknown())?;
    let shown = reading(shared.api.dead_letters.show(&name, id)).await?;
    page::json(&shown.ok_or_else(unknown)?)
}

/// What is to be done with which dead letters: exactly one of `event_id`, `cause` and `all`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    /// Read here, so that what is no id is told as that.
    event_id: Option<String>,
    cause: Option<String>,
    /// Narrows `cause`.
    outcome: Option<CauseKind>,
    all: Option<bool>,
    /// `next` of the answer before.
    after: Option<Position>,
    /// Letters a second at most: `500/s`.
    rate: Option<String>,
    /// With `event_id`: the data of the copy that is delivered in place of the event. `null` is data, too.
    #[serde(default, deserialize_with = "given")]
    data: Option<Box<RawValue>>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// A command that makes sense.
enum Order {
    /// Again and again, until all are through.
    Each { which: Which, after: Option<Position>, rate: Option<Rate> },
    /// One, with other data.
    Edited { event: EventId, data: Box<RawValue> },
}

impl Command {
    fn check(self) -> Result<Order> {
        let Self { event_id, cause, outcome, all, after, rate, data } = self;
        let event_id = match event_id.map(|text| text.parse::<EventId>().map_err(|_| text)).transpose() {
            Ok(event_id) => event_id,
            Err(text) => {
                return refuse("event_id", format!("{:?} is no event's id", super::request::clip(&text)));
            }
        };
        let which = match (event_id, cause, all) {
            (Some(id), None, None) => Which::Event(id),
            (None, Some(text), None) => Which::Cause(CauseKey { outcome, text }),
            (None, None, Some(true)) => Which::All,
            _ => return refuse("body", r#"must hold exactly one of "event_id", "cause" and "all": true"#),
        };
        if outcome.is_some() && !matches!(which, Which::Cause(_)) {
            return refuse("outcome", "narrows a cause: name a cause too");
        }
        let rate = rate.map(|text| text.parse::<Rate>());
        let rate = match rate.transpose() {
            Ok(rate) => rate,
            Err(error) => return refuse("rate", error.to_string()),
        };
        match (data, &which) {
            (None, _) => Ok(Order::Each { which, after, rate }),
            (Some(data), Which::Event(_)) if nesting(data.get()) > DATA_DEPTH_MAX => {
                drop(data);
                refuse("data", format!("nests deeper than {DATA_DEPTH_MAX} arrays and objects"))
            }
            (Some(data), Which::Event(event)) => Ok(Order::Edited { event: *event, data }),
            (Some(_), _) => refuse("data", "is of one event: name it with \"event_id\""),
        }
    }
}

fn refuse<T>(field: &str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Result<T> {
    Err(Error::InvalidBody(vec![FieldError { field: field.to_owned(), detail: detail.into() }]))
}

/// `POST /v1/consumers/{name}/dead-letters/retry`.
pub async fn retry(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    let letters = &shared.api.dead_letters;
    match command(&shared, &name, request).await? {
        Order::Each { which, after, rate } => {
            let step = |selection| committing(letters.retry(&name, selection));
            page::json(&each(which, after, rate, REDRIVE_TIME_MAX, step).await?)
        }
        Order::Edited { event, data } => {
            let unknown = || Error::UnknownDeadLetter { event: event.to_string(), consumer: name.clone() };
            let LetterShown { event: original, .. } = reading(letters.show(&name, event)).await?.ok_or_else(unknown)?;
            let copy = edit::edited(&original, data).map_err(Error::InvalidBody)?;
            let retried = committing(letters.retry_edited(&name, event, copy)).await?.into_inner();
            page::json(&Redriven { count: u64::from(retried), next: None })
        }
    }
}

/// `POST /v1/consumers/{name}/dead-letters/discard`.
pub async fn discard(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    match command(&shared, &name, request).await? {
        Order::Each { which, after, rate } => {
            let step = |selection| committing(shared.api.dead_letters.discard(&name, selection));
            page::json(&each(which, after, rate, REDRIVE_TIME_MAX, step).await?)
        }
        Order::Edited { .. } => refuse("data", "is for a retry: what is discarded is not delivered"),
    }
}

async fn command(shared: &Shared, name: &ConsumerName, request: Request) -> Result<Order> {
    let (parts, body) = request.into_parts();
    body::require_json(&parts.headers)?;
    let bytes = body::read(&parts.headers, body, EVENT_BYTES_MAX).await?;
    let command: Command = body::parse(&bytes, Error::InvalidBody)?;
    let order = command.check()?;
    consumers::require_known(shared, name).await?;
    Ok(order)
}

/// Goes on until all letters are through, or `time_max` is over.
async fn each<Step: Future<Output = Result<Durable<Redriven>>>>(
    which: Which,
    mut after: Option<Position>,
    rate: Option<Rate>,
    time_max: Duration,
    step: impl Fn(Selection) -> Step,
) -> Result<Redriven> {
    let began = Instant::now();
    let mut count = 0;
    loop {
        let selection = Selection { which: which.clone(), after, limit: batch(rate) };
        let done = step(selection).await?.into_inner();
        count += done.count;
        after = done.next;
        let due = began + paced(rate, count);
        let over = due.max(Instant::now()) >= began + time_max;
        // The pace is kept over requests, too.
        sleep_until(due).await;
        if after.is_none() || over {
            return Ok(Redriven { count, next: after });
        }
    }
}

/// Letters in one transaction: under a rate, those of [`REDRIVE_PACE`].
fn batch(rate: Option<Rate>) -> usize {
    let Some(Rate { per_second }) = rate else { return REDRIVE_BATCH };
    let share = u128::from(per_second.get()) * REDRIVE_PACE.as_millis() / 1_000;
    usize::try_from(share).unwrap_or(REDRIVE_BATCH).clamp(1, REDRIVE_BATCH)
}

/// How long `count` letters must have taken.
fn paced(rate: Option<Rate>, count: u64) -> Duration {
    let Some(Rate { per_second }) = rate else { return Duration::ZERO };
    Duration::from_micros(count.saturating_mul(1_000_000) / u64::from(per_second.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> Result<Order> {
        serde_json::from_str::<Command>(json).unwrap().check()
    }

    #[test]
    fn a_command_is_about_exactly_one() {
        for bad in ["{}", r#"{"all":false}"#, r#"{"all":true,"cause":"x"}"#, r#"{"all":true,"outcome":"trap"}"#] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        match checked(r#"{"event_id":"none"}"#) {
            Err(Error::InvalidBody(errors)) => {
                assert_eq!((&*errors[0].field, &*errors[0].detail), ("event_id", "\"none\" is no event's id"));
            }
            _ => panic!(),
        }
        let Ok(Order::Each { which: Which::Cause(key), .. }) = checked(r#"{"cause":"x","outcome":"trap"}"#) else {
            panic!()
        };
        assert_eq!((key.text.as_str(), key.outcome), ("x", Some(CauseKind::Trap)));
    }

    #[test]
    fn a_copy_is_of_one_event() {
        let id = EventId::generate();
        for data in ["{}", "null"] {
            let edited = checked(&format!(r#"{{"event_id":"{id}","data":{data}}}"#));
            assert!(matches!(edited, Ok(Order::Edited { data: copy, .. }) if copy.get() == data), "{data}");
        }
        assert!(checked(r#"{"all":true,"data":{}}"#).is_err());
        let deep = format!("{}{}", "[".repeat(DATA_DEPTH_MAX + 1), "]".repeat(DATA_DEPTH_MAX + 1));
        assert!(checked(&format!(r#"{{"event_id":"{id}","data":{deep}}}"#)).is_err());
    }

    #[tokio::test]
    async fn a_rate_is_kept_and_a_request_ends_in_time() {
        let step = async |selection: Selection| {
            let first = selection.after.map_or(1, |after| after.get() + 1);
            let last = first + selection.limit as u64 - 1;
            Ok(Durable::asserted(Redriven { count: selection.limit as u64, next: Position::new(last) }))
        };
        let (rate, began) = ("200/s".parse::<Rate>().unwrap(), Instant::now());
        let part = each(Which::All, None, Some(rate), Duration::from_millis(150), step).await.unwrap();
        assert_eq!((part.count, part.next), (40, Position::new(40)), "20 in each tenth of a second, and there is more");
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    }

    #[test]
    fn under_a_rate_the_steps_are_small() {
        let rate = |text: &str| text.parse::<Rate>().ok();
        assert_eq!([None, rate("1/s"), rate("500/s"), rate("1000000/s")].map(batch), [500, 1, 50, 500]);
    }
}
