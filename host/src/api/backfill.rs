//! Past events for a consumer: started, looked at, paused, resumed and cancelled.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::problem::{Error, Result};
use super::request::{Segment, committing, reading};
use super::{Shared, body, consumers, orders, page};
use crate::backend::{
    BACKFILL_RATE_DEFAULT, Backfill, BackfillEffects, BackfillReport, BackfillState, BackfillStep, Backfilled, Since,
    Started, Steered,
};
use crate::consumer::status::{ConsumerStatus, State as ConsumerState};
use crate::event::filter::Filter;
use crate::order::draft::FieldError;
use crate::policy::{ConsumerName, Rate};
use crate::version::Hash;

/// What `POST` takes. Texts are read here, so that a fault is told by its field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: Option<String>,
    filter: Option<Box<RawValue>>,
    rate: Option<String>,
    effects: Option<String>,
    rebuild: Option<bool>,
    dry_run: Option<bool>,
}

impl Asked {
    /// The backfill, and whether it is only to be counted.
    fn check(self) -> Result<(Backfill, bool)> {
        let mut errors = Vec::new();
        let from = read(&mut errors, "from", Some(self.from.unwrap_or_default()), since);
        let filter = self.filter.and_then(|filter| match Filter::parse(filter.get()) {
            Ok(filter) => Some(filter),
            Err(error) => {
                errors.push(FieldError { field: "filter".to_owned(), detail: error.to_string().into() });
                None
            }
        });
        let rate = read(&mut errors, "rate", self.rate, rate);
        let effects = read(&mut errors, "effects", self.effects, effects);
        let of = if self.rebuild == Some(true) { Backfilled::Rebuild } else { Backfilled::Missed };
        if of == Backfilled::Rebuild {
            check_rebuild(&mut errors, from, filter.is_some(), effects);
        }
        let (Some(from), true) = (from, errors.is_empty()) else { return Err(Error::InvalidBody(errors)) };
        let rate = rate.unwrap_or(BACKFILL_RATE_DEFAULT);
        let effects = effects.unwrap_or(match of {
            Backfilled::Missed => BackfillEffects::All,
            Backfilled::Rebuild => BackfillEffects::StateOnly,
        });
        Ok((Backfill { from, filter, rate, effects, of }, self.dry_run.unwrap_or(false)))
    }
}

/// What the consumer did took effect then: a rebuild must not do it again, and leaves nothing out.
fn check_rebuild(errors: &mut Vec<FieldError>, from: Option<Since>, filters: bool, effects: Option<BackfillEffects>) {
    let mut refuse = |field: &str, detail: &'static str| {
        errors.push(FieldError { field: field.to_owned(), detail: detail.into() });
    };
    if matches!(from, Some(Since::At(_))) {
        refuse("from", r#"must be "beginning" with a rebuild: the new state takes the place of the whole one"#);
    }
    if filters {
        refuse("filter", "goes with no rebuild, which is of all that the consumer listens to");
    }
    if effects == Some(BackfillEffects::All) {
        refuse("effects", r#"must be "state-only" with a rebuild: all other effects took place already"#);
    }
}

fn read<T>(
    errors: &mut Vec<FieldError>,
    field: &str,
    text: Option<String>,
    parse: fn(&str) -> Result<T, &'static str>,
) -> Option<T> {
    match parse(&text?) {
        Ok(value) => Some(value),
        Err(expected) => {
            errors.push(FieldError { field: field.to_owned(), detail: expected.into() });
            None
        }
    }
}

fn since(text: &str) -> Result<Since, &'static str> {
    match text {
        "beginning" => Ok(Since::Beginning),
        time => {
            time.parse().map(Since::At).map_err(|_| r#"must be "beginning" or a time such as "2026-11-22T10:00:00Z""#)
        }
    }
}

fn rate(text: &str) -> Result<Rate, &'static str> {
    text.parse().map_err(|_| r#"must be a rate such as "500/s""#)
}

fn effects(text: &str) -> Result<BackfillEffects, &'static str> {
    match text {
        "all" => Ok(BackfillEffects::All),
        "state-only" => Ok(BackfillEffects::StateOnly),
        _ => Err(r#"must be "all" or "state-only""#),
    }
}

#[derive(Serialize)]
struct Counted {
    dry_run: bool,
    /// Events that it would deliver.
    events: u64,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    report: BackfillReport,
    /// Why none of its events is delivered although it runs, and what to do about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
}

async fn shown(shared: &Shared, name: &ConsumerName, report: BackfillReport) -> Result<Response> {
    let waits = match report.state {
        BackfillState::Running => match waits(shared, name, report.back_to) {
            None => stopped(shared, name).await.or_else(|| lags(&report)),
            waits => waits,
        },
        _ => None,
    };
    page::json(&Shown { report, waits })
}

/// Whether a person stopped the consumer. Where nobody can tell, how far it is counts for more.
async fn stopped(shared: &Shared, name: &ConsumerName) -> Option<String> {
    let paused = reading(shared.api.consumers.pause(name)).await.ok()??;
    Some(format!("the consumer {name} is paused, {}", consumers::paused_since(name, &paused)))
}

/// All that it has to deliver is delivered, and yet it goes on.
fn lags(report: &BackfillReport) -> Option<String> {
    let why = "live deliveries of its consumer lag behind; it is handed over as soon as they have nearly caught up";
    report.lags.then(|| why.to_owned())
}

/// Why no version is there that would handle what is delivered.
fn waits(shared: &Shared, name: &ConsumerName, back_to: Option<Hash>) -> Option<String> {
    let status = shared.api.catalogue.list().into_iter().find(|status| status.name == *name);
    let absent = || {
        let (state, why) = shared.api.catalogue.absent();
        ConsumerStatus::bare(name.clone(), state, Some(why.to_owned()))
    };
    let ConsumerStatus { state, reason, way_back, .. } = status.unwrap_or_else(absent);
    let why = |reason: Option<String>| reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    match state {
        ConsumerState::AwaitingGrant | ConsumerState::Failed | ConsumerState::Removed => {
            let runs_elsewhere = shared.api.fleet.hosts().iter().any(|host| host.running.contains_key(name));
            (!runs_elsewhere).then(|| format!("the consumer {name} is {state}{}", why(reason)))
        }
        ConsumerState::Running | ConsumerState::Paused | ConsumerState::Mixed => {
            let reason = way_back.filter(|_| back_to.is_some())?.reason?;
            Some(format!("the version that it leads to does not run: {reason}"))
        }
        // A moment later it is one of the others.
        ConsumerState::Loading | ConsumerState::Draining => None,
    }
}

/// `POST /v1/consumers/{name}/backfill`: 202 and how it stands; with `"dry_run": true`, 200 and what it would deliver.
pub async fn start(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    let bytes = orders::command(request).await?;
    let (asked, dry_run) = body::parse::<Asked>(&bytes, Error::InvalidBody)?.check()?;
    consumers::require_known(&shared, &name).await?;
    let backfills = &shared.api.backfills;
    if dry_run {
        let events = reading(backfills.count(&name, &asked)).await?.ok_or_else(|| Error::NeverRan(name.clone()))?;
        return page::json(&Counted { dry_run, events });
    }
    match committing(backfills.start(&name, asked)).await?.into_inner() {
        Started::Yes(report) => Ok((StatusCode::ACCEPTED, shown(&shared, &name, report).await?).into_response()),
        Started::UnknownConsumer => Err(Error::NeverRan(name.clone())),
        Started::Runs => Err(Error::BackfillRuns(name)),
    }
}

/// `GET /v1/consumers/{name}/backfill`: the one that is under way, or else the last one.
pub async fn show(State(shared): State<Arc<Shared>>, Segment(name): Segment<ConsumerName>) -> Result<Response> {
    consumers::require_known(&shared, &name).await?;
    let report = reading(shared.api.backfills.latest(&name)).await?;
    let Some(report) = report else { return Err(Error::NoBackfill(name)) };
    shown(&shared, &name, report).await
}

/// `POST /v1/consumers/{name}/backfill/pause`.
pub async fn pause(
    State(shared): State<Arc<Shared>>,
    name: Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    steer(&shared, name, request, BackfillStep::Pause).await
}

/// `POST /v1/consumers/{name}/backfill/resume`.
pub async fn resume(
    State(shared): State<Arc<Shared>>,
    name: Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    steer(&shared, name, request, BackfillStep::Resume).await
}

/// `POST /v1/consumers/{name}/backfill/cancel`.
pub async fn cancel(
    State(shared): State<Arc<Shared>>,
    name: Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    steer(&shared, name, request, BackfillStep::Cancel).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The body is `{}` or empty.
async fn steer(
    shared: &Shared,
    Segment(name): Segment<ConsumerName>,
    request: Request,
    step: BackfillStep,
) -> Result<Response> {
    let bytes = orders::command(request).await?;
    if !bytes.is_empty() {
        let Nothing {} = body::parse(&bytes, Error::InvalidBody)?;
    }
    consumers::require_known(shared, &name).await?;
    match committing(shared.api.backfills.steer(&name, step)).await?.into_inner() {
        Steered::Yes(report) => self::shown(shared, &name, report).await,
        Steered::None => Err(Error::NoBackfillRuns(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> Result<(Backfill, bool)> {
        body::parse::<Asked>(json.as_bytes(), Error::InvalidBody)?.check()
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let (backfill, dry_run) = asked(r#"{"from":"beginning"}"#).unwrap();
        assert_eq!((backfill.from, backfill.rate, dry_run), (Since::Beginning, BACKFILL_RATE_DEFAULT, false));
        assert_eq!((backfill.effects, backfill.of), (BackfillEffects::All, Backfilled::Missed));
        let (rebuild, _) = asked(r#"{"from":"beginning","rebuild":true}"#).unwrap();
        assert_eq!((rebuild.effects, rebuild.of), (BackfillEffects::StateOnly, Backfilled::Rebuild));
    }

    #[test]
    fn every_fault_is_told_by_its_field() {
        let fields = |json: &str| match asked(json) {
            Err(Error::InvalidBody(errors)) => errors.into_iter().map(|error| error.field).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(fields("{}"), ["from"]);
        let all = r#"{"from":"yesterday","filter":{"order":1},"rate":"0/s","effects":"none"}"#;
        assert_eq!(fields(all), ["from", "filter", "rate", "effects"]);
        assert_eq!(fields(r#"{"from":"beginning","rat":"1/s"}"#), ["rat"]);
        let part = r#"{"from":"beginning","rebuild":true,"filter":{"order":{"currency":["EUR"]}},"effects":"all"}"#;
        assert_eq!(fields(part), ["filter", "effects"]);
        assert_eq!(fields(r#"{"from":"2026-11-01T00:00:00Z","rebuild":true}"#), ["from"]);
    }
}
