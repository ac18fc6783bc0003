//! What can go wrong with a request, and the one table from that to an RFC 9457 problem.
//!
//! `type` is a stable relative reference such as `/problems/invalid-order`: programs match on it. `detail` is for
//! people. Causes inside the host are logged here, once, and never shown.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::limits;
use crate::backend;
use crate::order::draft::FieldError;
use crate::order::{Illegal, OrderId, Status};
use crate::policy::ConsumerName;

/// Why a request was not done. Unless a variant says otherwise, nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the body is not JSON: {detail}, at line {line}, column {column}")]
    MalformedJson { detail: String, line: usize, column: usize },
    #[error("the order was refused; `errors` names each field that is wrong")]
    InvalidOrder(Vec<FieldError>),
    #[error("the event was refused; `errors` names each attribute that is wrong")]
    InvalidEvent(Vec<FieldError>),
    #[error("the body was refused; `errors` names each field that is wrong")]
    InvalidBody(Vec<FieldError>),
    #[error("{field} {detail}")]
    InvalidParameter { field: Cow<'static, str>, detail: String },
    #[error("the body is larger than {max} bytes, the most that is taken here")]
    BodyTooLarge { max: usize },
    #[error("the body did not arrive within {} s", limits::BODY_TIME_MAX.as_secs())]
    BodyTooSlow,
    #[error("the body broke off: {0}")]
    BodyBroken(String),
    #[error("send the body as {expected}, named in the header Content-Type")]
    UnsupportedMediaType { expected: &'static str },
    #[error("send the body as it is, without a Content-Encoding")]
    UnsupportedEncoding,
    #[error("this Idempotency-Key was used before with another order; use a new key for a new order")]
    KeyReused,
    #[error("a request with this Idempotency-Key is still being handled; repeat it to get its answer")]
    KeyInUse,
    #[error("another order has the reference {reference:?}: {by}")]
    ReferenceExists { reference: String, by: OrderId },
    #[error("there is no order {0:?}")]
    UnknownOrder(String),
    #[error("there is no consumer {0:?}")]
    UnknownConsumer(String),
    #[error("the consumer {0} has not run yet, so the store knows nothing of it; its status says why")]
    NeverRan(ConsumerName),
    #[error("event {event:?} is no dead letter of {consumer}: GET /v1/consumers/{consumer}/dead-letters lists them")]
    UnknownDeadLetter { event: String, consumer: ConsumerName },
    #[error("the consumer {0} is there: remove {0}.wasm first, wait until its state is `removed`, and repeat")]
    ConsumerInUse(ConsumerName),
    #[error("a backfill of consumer {0} is under way; wait for its end or cancel it")]
    BackfillRuns(ConsumerName),
    #[error("consumer {0} has had no backfill")]
    NoBackfill(ConsumerName),
    #[error("no backfill of consumer {0} is under way")]
    NoBackfillRuns(ConsumerName),
    #[error("consumer {0} has no shadow that could be told of: its side file names one as `shadow`")]
    NoShadow(ConsumerName),
    /// A step that a person asked for, and that the consumer or its versions do not allow.
    #[error("{0}")]
    StepRefused(String),
    #[error("{0}")]
    UnknownVersion(String),
    #[error("{0:?} is not the name of a data set: use letters, digits, '-', '_' and '.'")]
    NotADataset(String),
    #[error("no plugin that is here declares a data set {name:?}, and it has no rows; {}", declared(.known))]
    UnknownDataset { name: String, known: Vec<String> },
    #[error(transparent)]
    IllegalChange(#[from] Illegal),
    #[error("nothing is at {0}; GET / lists what there is")]
    NotFound(String),
    #[error("{method} is not possible at {path}")]
    MethodNotAllowed { method: String, path: String },
    #[error("this host answers to {expected}, not to {host:?}; see the setting allowed_hosts")]
    WrongHost { host: String, expected: String },
    #[error("a page of another site ({from}) made a browser send this: only pages of this host may, and programs")]
    ForeignPage { from: String },
    #[error("{what} are limited to {max} at a time; end one or try again later")]
    TooMany { what: &'static str, max: usize },
    /// It may be stored or not.
    #[error(
        "the store has not answered within {} s; it may still happen: repeat with the same Idempotency-Key or look",
        limits::COMMIT_TIME_MAX.as_secs()
    )]
    CommitTooSlow,
    /// It may be stored or not.
    #[error(
        "the function has no time left; it may still happen: repeat with the same Idempotency-Key or look, and give the \
         function more time"
    )]
    InvocationOver,
    #[error(
        "the answer is larger than the {} bytes that a function may answer: ask for less, such as with `limit`",
        limits::FUNCTION_ANSWER_BYTES_MAX
    )]
    AnswerTooLarge,
    #[error("the store has not answered within {} s", limits::READ_TIME_MAX.as_secs())]
    ReadTooSlow,
    #[error("not ready: {0}")]
    NotReady(String),
    #[error(transparent)]
    Store(#[from] backend::Error),
    /// The host broke its own rule; the text is for the log.
    #[error("{0}")]
    Bug(String),
}

fn declared(known: &[String]) -> String {
    match known {
        [] => "none is declared: a plugin does that in what it says of itself".to_owned(),
        known => format!("declared are {}", known.join(", ")),
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn unknown_consumer(name: &ConsumerName) -> Self {
        Self::UnknownConsumer(name.to_string())
    }

    /// Status, `type` and title: the whole table.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::MalformedJson { .. } => (S::BAD_REQUEST, "/problems/malformed-json", "Malformed JSON"),
            Self::InvalidOrder(_) => (S::UNPROCESSABLE_ENTITY, "/problems/invalid-order", "Invalid order"),
            Self::InvalidEvent(_) => (S::UNPROCESSABLE_ENTITY, "/problems/invalid-event", "Invalid event"),
            Self::InvalidBody(_) => (S::UNPROCESSABLE_ENTITY, "/problems/invalid-body", "Invalid body"),
            Self::InvalidParameter { .. } => (S::BAD_REQUEST, "/problems/invalid-parameter", "Invalid parameter"),
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "/problems/body-too-large", "Body too large"),
            Self::BodyTooSlow => (S::REQUEST_TIMEOUT, "/problems/body-too-slow", "Body too slow"),
            Self::BodyBroken(_) => (S::BAD_REQUEST, "/problems/body-broken", "Body broken off"),
            Self::UnsupportedMediaType { .. } => {
                (S::UNSUPPORTED_MEDIA_TYPE, "/problems/unsupported-media-type", "Unsupported media type")
            }
            Self::UnsupportedEncoding => {
                (S::UNSUPPORTED_MEDIA_TYPE, "/problems/unsupported-encoding", "Unsupported content encoding")
            }
            Self::KeyReused => (S::UNPROCESSABLE_ENTITY, "/problems/idempotency-key-reused", "Idempotency key reused"),
            Self::KeyInUse => (S::CONFLICT, "/problems/idempotency-key-in-use", "Idempotency key in use"),
            Self::ReferenceExists { .. } => (S::CONFLICT, "/problems/reference-exists", "Reference exists"),
            Self::UnknownOrder(_) => (S::NOT_FOUND, "/problems/unknown-order", "Unknown order"),
            Self::UnknownConsumer(_) => (S::NOT_FOUND, "/problems/unknown-consumer", "Unknown consumer"),
            Self::UnknownDeadLetter { .. } => (S::NOT_FOUND, "/problems/unknown-dead-letter", "Unknown dead letter"),
            Self::ConsumerInUse(_) => (S::CONFLICT, "/problems/consumer-in-use", "Consumer in use"),
            Self::BackfillRuns(_) => (S::CONFLICT, "/problems/backfill-under-way", "Backfill under way"),
            Self::NoBackfill(_) => (S::NOT_FOUND, "/problems/no-backfill", "No backfill"),
            Self::NoBackfillRuns(_) => (S::CONFLICT, "/problems/no-backfill-under-way", "No backfill under way"),
            Self::NoShadow(_) => (S::NOT_FOUND, "/problems/no-shadow", "No shadow"),
            Self::StepRefused(_) => (S::CONFLICT, "/problems/step-refused", "Step refused"),
            Self::UnknownVersion(_) => (S::NOT_FOUND, "/problems/unknown-version", "Unknown version"),
            Self::NotADataset(_) | Self::UnknownDataset { .. } => {
                (S::NOT_FOUND, "/problems/unknown-dataset", "Unknown data set")
            }
            Self::NeverRan(_) => (S::CONFLICT, "/problems/consumer-never-ran", "Consumer never ran"),
            Self::IllegalChange(_) => (S::CONFLICT, "/problems/illegal-change", "Illegal change"),
            Self::NotFound(_) => (S::NOT_FOUND, "/problems/not-found", "Not found"),
            Self::MethodNotAllowed { .. } => {
                (S::METHOD_NOT_ALLOWED, "/problems/method-not-allowed", "Method not allowed")
            }
            Self::WrongHost { .. } => (S::MISDIRECTED_REQUEST, "/problems/wrong-host", "Wrong host"),
            Self::ForeignPage { .. } => (S::FORBIDDEN, "/problems/foreign-page", "Foreign page"),
            Self::TooMany { .. } => (S::SERVICE_UNAVAILABLE, "/problems/too-many", "Too many at a time"),
            Self::AnswerTooLarge => (S::INTERNAL_SERVER_ERROR, "/problems/answer-too-large", "Answer too large"),
            Self::CommitTooSlow | Self::InvocationOver => {
                (S::SERVICE_UNAVAILABLE, "/problems/outcome-unknown", "Outcome unknown")
            }
            Self::ReadTooSlow => (S::SERVICE_UNAVAILABLE, "/problems/store-unavailable", "Store unavailable"),
            Self::NotReady(_) => (S::SERVICE_UNAVAILABLE, "/problems/not-ready", "Not ready"),
            Self::Store(backend::Error::Unavailable(_)) => {
                (S::SERVICE_UNAVAILABLE, "/problems/store-unavailable", "Store unavailable")
            }
            Self::Store(backend::Error::NotHere(_)) => {
                (S::CONFLICT, "/problems/not-by-this-store", "Not by this store")
            }
            Self::Store(backend::Error::NotACursor(_)) => {
                (S::BAD_REQUEST, "/problems/invalid-parameter", "Invalid parameter")
            }
            Self::Store(backend::Error::Failed(_)) | Self::Bug(_) => {
                (S::INTERNAL_SERVER_ERROR, "/problems/internal-error", "Internal error")
            }
        }
    }

    /// The problem as an answer or a line of an import tells it.
    pub fn problem(&self) -> Problem<'_> {
        let (status, kind, title) = self.row();
        let mut problem = Problem { kind, title, status: status.as_u16(), detail: self.detail(), ..Problem::default() };
        match self {
            Self::MalformedJson { line, column, .. } => (problem.line, problem.column) = (Some(*line), Some(*column)),
            Self::InvalidOrder(errors) | Self::InvalidEvent(errors) | Self::InvalidBody(errors) => {
                problem.errors = Cow::Borrowed(errors);
            }
            Self::InvalidParameter { field, detail } => {
                let error = FieldError { field: field.to_string(), detail: detail.clone().into() };
                problem.errors = Cow::Owned(vec![error]);
            }
            Self::Store(backend::Error::NotACursor(_)) => {
                let detail = "is no cursor: hand in `next` of the page before".into();
                problem.errors = Cow::Owned(vec![FieldError { field: "after".to_owned(), detail }]);
            }
            Self::ReferenceExists { by, .. } => problem.order_id = Some(*by),
            Self::IllegalChange(illegal) => problem.order_status = Some(illegal.from),
            _ => {}
        }
        problem
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Store(backend::Error::Failed(cause)) => {
                tracing::error!(%cause, "the store failed");
                "the host failed; its log says why".into()
            }
            Self::Bug(cause) => {
                tracing::error!(%cause, "the API failed");
                "the host failed; its log says why".into()
            }
            _ => self.to_string().into(),
        }
    }
}

/// RFC 9457, with extension members.
#[derive(Debug, Default, Serialize)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: Cow<'static, str>,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: Cow<'a, [FieldError]>,
    /// Where the JSON stops being JSON, both from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    /// The order that has the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    /// The status that does not allow the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_status: Option<Status>,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A problem is texts and numbers: writing it into memory cannot fail.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(limits::RETRY_AFTER_SECONDS));
        }
        response
    }
}
