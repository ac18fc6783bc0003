//! Consumers as people see them: where each stands, and its state.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::problem::{Error, Result};
use super::request::{Params, Segment, bounded, committing, reading};
use super::{Shared, page};
use crate::backend::{
    BackfillReport, ConsumerReport, Forgotten, Former, Held, HostRuns, Pause, RunningVersion, StateQuery,
};
use crate::consumer::status::{ConsumerStatus, State as ConsumerState};
use crate::policy::ConsumerName;
use crate::sandbox::{Amount, Usage};
use crate::version::Hash;

/// What the directory and the store know of one consumer.
#[derive(Serialize)]
struct ConsumerShown {
    #[serde(flatten)]
    status: ConsumerStatus,
    /// Matching events that are not done yet.
    pending: u64,
    dead: u64,
    done: u64,
    /// Since when, and why, a person stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Pause>,
    /// What it keeps in the journal that is old enough to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    holds_back: Option<Held>,
    /// The backfill that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    backfill: Option<BackfillReport>,
    /// Hosts that share the store and run it, each with its version; only where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<RunsOn>,
    /// Its limits, and the most that an event took of each; only where one consumer is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Usage>,
    /// Its state of the layout before, or why that is not kept; only where one consumer is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    former_state: Option<Former>,
    #[serde(skip)]
    state_bytes: u64,
}

impl ConsumerShown {
    fn new(status: ConsumerStatus) -> Self {
        Self {
            status,
            pending: 0,
            dead: 0,
            done: 0,
            paused: None,
            holds_back: None,
            backfill: None,
            hosts: Vec::new(),
            limits: None,
            former_state: None,
            state_bytes: 0,
        }
    }

    fn limits(&mut self, usage: Option<Usage>) {
        self.limits = usage.map(|mut usage| {
            if let Some(state) = usage.get_mut("state") {
                state.now = Some(Amount::Whole(self.state_bytes));
            }
            usage
        });
    }

    /// What keeps a consumer from running without the pause stays its state.
    fn pause(&mut self, paused: Option<Pause>) {
        if let Some(pause) = &paused
            && self.status.state == ConsumerState::Running
        {
            self.status.state = ConsumerState::Paused;
            self.status.reason = Some(paused_since(&self.status.name, pause));
        }
        self.paused = paused;
    }

    /// Hosts with different versions handle events of the same orders, until all have the same file or somebody decides.
    fn hosts(&mut self, hosts: Vec<RunsOn>) {
        let mut versions: BTreeMap<(&str, Hash), Vec<&str>> = BTreeMap::new();
        for RunsOn { host, runs } in &hosts {
            versions.entry((&runs.version, runs.hash)).or_default().push(host);
        }
        if versions.len() > 1 && self.status.state == ConsumerState::Running {
            let told = versions
                .iter()
                .map(|((version, hash), hosts)| format!("{version} ({}) on {}", hash.short(), hosts.join(", ")));
            let told = told.collect::<Vec<_>>().join("; ");
            self.status.state = ConsumerState::Mixed;
            let what = format!(
                "hosts run different versions: {told}. Put the same file into each directory, or decide for all with \
                 `fanfare consumers promote {0}` or `fanfare consumers rollback {0}`",
                self.status.name
            );
            self.status.reason =
                Some([Some(what), self.status.reason.take()].into_iter().flatten().collect::<Vec<_>>().join("\n"));
        }
        self.hosts = hosts;
    }
}

/// Since when and why a person stopped it, and how it goes on.
pub(super) fn paused_since(name: &ConsumerName, Pause { since, reason }: &Pause) -> String {
    let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("since {since}{why}; `fanfare consumers resume {name}` lets it go on")
}

/// A version, and a host on which it handles events.
#[derive(Serialize)]
struct RunsOn {
    host: String,
    #[serde(flatten)]
    runs: RunningVersion,
}

#[derive(Serialize)]
struct ConsumerList {
    consumers: Vec<ConsumerShown>,
}

/// `GET /v1/consumers`: by name.
pub async fn list(State(shared): State<Arc<Shared>>) -> Result<Response> {
    page::json(&ConsumerList { consumers: all(&shared).await? })
}

/// `GET /v1/consumers/{name}`.
pub async fn show(State(shared): State<Arc<Shared>>, Segment(name): Segment<ConsumerName>) -> Result<Response> {
    one(&shared, &name).await
}

pub(super) async fn one(shared: &Shared, name: &ConsumerName) -> Result<Response> {
    let mut consumers = all(shared).await?.into_iter();
    let shown = consumers.find(|shown| shown.status.name == *name);
    let mut shown = shown.ok_or_else(|| Error::unknown_consumer(name))?;
    shown.limits(shared.api.catalogue.usage(name));
    shown.former_state = reading(shared.api.layouts.former(name)).await?;
    page::json(&shown)
}

async fn all(shared: &Shared) -> Result<Vec<ConsumerShown>> {
    let known = reading(shared.api.consumers.known()).await?;
    let mut shown = join(shared.api.catalogue.list(), known, shared.api.catalogue.absent());
    let hosts = shared.api.fleet.hosts();
    if hosts.len() > 1 {
        for consumer in &mut shown {
            consumer.hosts(running(&hosts, &consumer.status.name));
        }
    }
    Ok(shown)
}

fn running(hosts: &[HostRuns], name: &ConsumerName) -> Vec<RunsOn> {
    let runs = |host: &HostRuns| Some(RunsOn { host: host.host.clone(), runs: host.running.get(name)?.clone() });
    hosts.iter().filter_map(runs).collect()
}

/// A consumer without a plugin is `absent`; one that the store has not seen yet has no events.
fn join(
    statuses: Vec<ConsumerStatus>,
    known: Vec<ConsumerReport>,
    absent: (ConsumerState, &str),
) -> Vec<ConsumerShown> {
    let mut shown: BTreeMap<ConsumerName, ConsumerShown> = BTreeMap::new();
    for status in statuses {
        shown.insert(status.name.clone(), ConsumerShown::new(status));
    }
    for ConsumerReport { name, pending, dead, done, state_bytes, paused, held, backfill, cut_off } in known {
        let entry = shown.entry(name.clone()).or_insert_with(|| {
            let (state, reason) = absent;
            ConsumerShown::new(ConsumerStatus::bare(name, state, Some(reason.to_owned())))
        });
        (entry.pending, entry.dead, entry.done, entry.state_bytes) = (pending, dead, done, state_bytes);
        (entry.holds_back, entry.backfill) = (held, backfill);
        entry.pause(paused);
        if entry.status.state == ConsumerState::Running && cut_off.is_some() {
            entry.status.reason = cut_off;
        }
    }
    shown.into_values().collect()
}

/// Fails if neither the directory nor the store knows the name.
pub(super) async fn require_known(shared: &Shared, name: &ConsumerName) -> Result<()> {
    if shared.api.catalogue.list().iter().any(|status| status.name == *name) {
        return Ok(());
    }
    let known = reading(shared.api.consumers.known()).await?;
    if known.iter().any(|report| report.name == *name) { Ok(()) } else { Err(Error::unknown_consumer(name)) }
}

/// `DELETE /v1/consumers/{name}`: only of a consumer whose plugin file is gone.
pub async fn forget(State(shared): State<Arc<Shared>>, Segment(name): Segment<ConsumerName>) -> Result<StatusCode> {
    let there = shared.api.catalogue.list().into_iter().find(|status| status.name == name);
    let state = there.as_ref().map_or(shared.api.catalogue.absent().0, |status| status.state);
    if state != ConsumerState::Removed {
        return Err(Error::ConsumerInUse(name));
    }
    let kept = reading(shared.api.versions.kept()).await?;
    match committing(shared.api.consumers.forget(&name)).await?.into_inner() {
        Forgotten::InUse => return Err(Error::ConsumerInUse(name)),
        Forgotten::Unknown if there.is_none() => return Err(Error::unknown_consumer(&name)),
        // One that never ran is known to the directory alone.
        Forgotten::Done | Forgotten::Unknown => shared.api.catalogue.forget(&name),
    }
    let still_kept = reading(shared.api.versions.kept()).await?;
    shared.api.catalogue.let_go(kept.difference(&still_kept).copied().collect());
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateParams {
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct StateShown {
    entries: Vec<Entry>,
    counters: Vec<Counter>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    key: String,
    value: Value,
}

/// A value that is UTF-8 is shown as text, JSON in it not being looked into; another as `{"base64": "…"}`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Value {
    Base64(String),
    #[serde(untagged)]
    Text(String),
}

#[derive(Serialize)]
struct Counter {
    key: String,
    value: i64,
}

/// `GET /v1/consumers/{name}/state`: entries and counters, by key.
pub async fn state(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    Params(params): Params<StateParams>,
) -> Result<Response> {
    require_known(&shared, &name).await?;
    let query = StateQuery {
        prefix: bounded("prefix", params.prefix)?.unwrap_or_default(),
        after: bounded("after", params.after)?,
        limit: page::limit(params.limit)?,
    };
    let found = reading(shared.api.consumers.state(&name, query)).await?;
    let entries = found.entries.into_iter().map(|(key, value)| Entry { key, value: shown(value) }).collect();
    let counters = found.counters.into_iter().map(|(key, value)| Counter { key, value }).collect();
    page::json(&StateShown { entries, counters, next: found.next })
}

fn shown(value: Vec<u8>) -> Value {
    match String::from_utf8(value) {
        Ok(text) => Value::Text(text),
        Err(err) => Value::Base64(base64::engine::general_purpose::STANDARD.encode(err.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::HeldBy;
    use crate::clock::Timestamp;

    #[test]
    fn directory_and_store_are_joined_by_name() {
        let name = |text: &str| text.parse::<ConsumerName>().unwrap();
        let statuses = vec![
            ConsumerStatus::bare(name("loyalty"), ConsumerState::Running, None),
            ConsumerStatus::bare(name("shipment"), ConsumerState::Running, None),
            ConsumerStatus::bare(name("audit"), ConsumerState::Loading, None),
        ];
        let paused = Some(Pause { since: Timestamp::from_millis(0), reason: Some("stocktaking".to_owned()) });
        let since = Timestamp::from_millis(1_795_341_600_000);
        let held = Some(Held { by: name("gone"), reason: HeldBy::Position, events: 3, since });
        let known = vec![
            ConsumerReport {
                name: name("gone"),
                pending: 3,
                dead: 0,
                done: 9,
                state_bytes: 0,
                paused: paused.clone(),
                held,
                backfill: None,
                cut_off: None,
            },
            ConsumerReport {
                name: name("loyalty"),
                pending: 1,
                dead: 2,
                done: 4,
                state_bytes: 0,
                paused: None,
                held: None,
                backfill: None,
                cut_off: Some("its queue is gone".to_owned()),
            },
            ConsumerReport {
                name: name("shipment"),
                pending: 1,
                dead: 0,
                done: 0,
                state_bytes: 0,
                paused,
                held: None,
                backfill: None,
                cut_off: None,
            },
        ];
        let absent = (ConsumerState::Removed, "its plugin file is not there; put it back and nothing was missed");
        insta::assert_json_snapshot!(join(statuses, known, absent));
    }

    #[test]
    fn values_that_are_no_text_are_shown_in_base64() {
        assert_eq!(serde_json::to_string(&shown(b"{\"a\":1}".to_vec())).unwrap(), r#""{\"a\":1}""#);
        assert_eq!(serde_json::to_string(&shown(vec![0xff, 0])).unwrap(), r#"{"base64":"/wA="}"#);
    }
}
