//! `fanfare consumers backfill`: past events for a consumer that was not there.

use std::thread;
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{Client, Payload};
use super::print::{Output, text, visible};
use crate::policy::ConsumerName;

/// Between two looks at a backfill that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What to do about an event that pauses a rebuild.
const AGAIN: &str = "Resume it to begin with that event again, or cancel it";

/// What is about a backfill that was started before.
const STEERING: [&str; 4] = ["status", "pause", "resume", "cancel"];

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true)))]
pub struct Backfill {
    consumer: ConsumerName,
    /// Deliver past events: from the `beginning`, or recorded at this time or later.
    #[arg(long, value_name = "beginning|TIME", group = "what")]
    from: Option<String>,
    /// Only events whose data matches this SNS filter policy.
    #[arg(long, value_name = "JSON", conflicts_with_all = STEERING)]
    filter: Option<String>,
    /// Deliveries per second, such as 500/s.
    #[arg(long, conflicts_with_all = STEERING)]
    rate: Option<String>,
    /// Commit all effects, or state and records alone: order changes, events and messages are dropped and counted.
    #[arg(long, value_name = "all|state-only", conflicts_with_all = STEERING)]
    effects: Option<String>,
    /// Handle everything again, into a new and empty state that replaces the one in use in the end: no other effects.
    #[arg(long, conflicts_with = "filter", conflicts_with_all = STEERING)]
    rebuild: bool,
    /// Only say how many events it would deliver.
    #[arg(long, conflicts_with_all = STEERING)]
    dry_run: bool,
    /// Do not wait for its end.
    #[arg(long, conflicts_with = "dry_run", conflicts_with_all = STEERING)]
    detach: bool,
    /// Show the one that is under way, or the last one.
    #[arg(long, group = "what")]
    status: bool,
    /// Deliver no more until it is resumed.
    #[arg(long, group = "what")]
    pause: bool,
    #[arg(long, group = "what")]
    resume: bool,
    /// End it where it is; what it delivered stays. Of a rebuild, nothing stays; of a way back, what the kept state has by then.
    #[arg(long, group = "what")]
    cancel: bool,
}

impl Backfill {
    pub fn run(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let path = format!("/v1/consumers/{}/backfill", self.consumer);
        let steer = |step: &str| client.post(&format!("{path}/{step}"), Payload::json(b"{}"));
        let report = match () {
            () if self.status => client.get(&path, &[])?,
            () if self.pause => steer("pause")?,
            () if self.resume => steer("resume")?,
            () if self.cancel => steer("cancel")?,
            () => return self.start(&path, client, output),
        };
        output.show(&report, shown);
        Ok(())
    }

    fn start(&self, path: &str, client: &Client, output: &Output) -> Result<(), Failure> {
        let answer = client.post(path, Payload::json(self.asked()?.to_string().as_bytes()))?;
        if self.dry_run {
            output.show(&answer, |answer| format!("{} events would be delivered", text(answer, "/events")));
            return Ok(());
        }
        let goes_on = format!(
            "the backfill goes on with the host: `fanfare consumers backfill {} --status` shows how far it is",
            self.consumer
        );
        let report = match self.detach {
            true => answer,
            false => follow(path, client, answer, output).map_err(|failure| failure.with_advice(&goes_on))?,
        };
        output.show(&report, shown);
        match text(&report, "/state").as_str() {
            "cancelled" => Err(Failure::Failed("the backfill was cancelled".to_owned())),
            _ => Ok(()),
        }
    }

    fn asked(&self) -> Result<Value, Failure> {
        let mut asked = Map::new();
        let texts = [("from", &self.from), ("rate", &self.rate), ("effects", &self.effects)];
        asked.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?)))));
        let flags = [("rebuild", self.rebuild), ("dry_run", self.dry_run)];
        asked.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name.to_owned(), json!(true))));
        if let Some(filter) = &self.filter {
            let filter = serde_json::from_str(filter)
                .map_err(|error| Failure::Usage(format!("--filter: {filter:?} is not JSON: {error}")))?;
            asked.insert("filter".to_owned(), filter);
        }
        Ok(Value::Object(asked))
    }
}

/// Waits until the backfill that `report` tells of has ended.
fn follow(path: &str, client: &Client, mut report: Value, output: &Output) -> Result<Value, Failure> {
    let template = "{bar:40} {pos}/{len} events, {per_sec}, {msg} ({eta} left)";
    let bar = output.progress(Some(number(&report, "/events")), template);
    let mut told = None;
    while matches!(text(&report, "/state").as_str(), "running" | "paused") {
        let stands = stands(&report);
        if stands != told {
            bar.suspend(|| output.note(stands.as_deref().unwrap_or("it goes on")));
            told = stands;
        }
        thread::sleep(LOOK_EVERY);
        report = client.get(path, &[])?;
        // A rebuild has more to do with every event that is done meanwhile.
        bar.set_length(number(&report, "/events"));
        bar.set_position(number(&report, "/delivered"));
        bar.set_message(match (text(&report, "/state").as_str(), report.get("failure")) {
            (state, Some(failure)) => format!("{state}: {}", failed(failure)),
            ("paused", None) => "paused".to_owned(),
            _ => format!("{} live events wait", text(&report, "/held")),
        });
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Why it does not go on, for whoever waits for its end.
fn stands(report: &Value) -> Option<String> {
    let is_paused = text(report, "/state") == "paused";
    waits(report).or_else(|| match report.get("failure") {
        _ if !is_paused => None,
        Some(failure) => Some(format!("it is paused; {}. {AGAIN}", failed(failure))),
        None => Some("it is paused until it is resumed".to_owned()),
    })
}

/// Why nothing of it is delivered.
fn waits(report: &Value) -> Option<String> {
    let why = report.get("waits")?.as_str()?;
    Some(format!("it waits, because {}", visible(why)))
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

fn failed(failure: &Value) -> String {
    let field = |name: &str| text(failure, &format!("/{name}"));
    format!(
        "attempt {} at event {} ended {}: {}",
        field("attempt"),
        field("event_id"),
        field("outcome"),
        field("cause")
    )
}

/// A report in a line.
pub fn shown(report: &Value) -> String {
    let field = |name: &str| text(report, &format!("/{name}"));
    let what = match report.get("back_to") {
        Some(_) => format!("way back to {} ", field("back_to").chars().take(8).collect::<String>()),
        None if report["rebuild"] == true => "rebuild ".to_owned(),
        None => String::new(),
    };
    let mut shown = format!(
        "{what}{}: {} of {} events delivered from {} at {}, effects: {}",
        field("state"),
        field("delivered"),
        field("events"),
        field("from"),
        field("rate"),
        field("effects"),
    );
    if number(report, "/dropped") > 0 {
        shown.push_str(&format!("; {} effects dropped", field("dropped")));
    }
    if number(report, "/held") > 0 {
        shown.push_str(&format!("; {} live events wait for it", field("held")));
    }
    if let Some(waits) = waits(report) {
        shown.push_str(&format!("; {waits}"));
    }
    if let Some(failure) = report.get("failure") {
        shown.push_str(&format!("; {}", failed(failure)));
        if text(report, "/state") == "paused" {
            shown.push_str(&format!(". {AGAIN}"));
        }
    }
    if number(report, "/events") == 0 && what.is_empty() {
        shown.push_str("; whatever there is was delivered already");
    }
    shown
}
