//! `fanfare dead-letters`: what could not be handled.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{Client, Payload, escaped, part};
use super::import::read_input;
use super::print::{Output, field, items, set, text, visible, whole_table};
use super::{Failure, print};
use crate::policy::{ConsumerName, Rate};

/// An event's data is at most 256 KiB; a file much larger is another file.
const DATA_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// Show what a consumer's dead letters died of, and list them in journal order.
    List(List),
    /// Show one: its event, and what each attempt staged, logged and ended with.
    Show {
        consumer: ConsumerName,
        /// Id of the event.
        #[arg(value_parser = part)]
        event: String,
    },
    /// Deliver dead letters again; their lanes go on.
    Retry {
        #[command(flatten)]
        which: Which,
        /// With --event: the data of the copy that this consumer gets in place of the event, as `show` has it for
        /// data and edited (with --json, event.data and edited.data); a file, or - for standard input. Of an order, its content
        /// may be changed. The event itself stays as it is.
        #[arg(long, value_name = "FILE", requires = "event")]
        data: Option<PathBuf>,
    },
    /// Give dead letters up for good; their lanes go on behind them.
    Discard {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Args, Debug)]
pub struct List {
    consumer: ConsumerName,
    /// Only those that died of this.
    #[arg(long)]
    cause: Option<String>,
    #[arg(long, value_enum, requires = "cause")]
    outcome: Option<Outcome>,
    /// `next` of the page before.
    #[arg(long)]
    after: Option<String>,
    #[arg(long)]
    limit: Option<u32>,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub struct Which {
    consumer: ConsumerName,
    #[arg(long, group = "which")]
    all: bool,
    /// The one of this event.
    #[arg(long, value_name = "ID", group = "which")]
    event: Option<String>,
    /// Those that died of this, as `list` shows it: ids and numbers do not matter.
    #[arg(long, group = "which")]
    cause: Option<String>,
    /// Of those, the ones with this outcome.
    #[arg(long, value_enum, requires = "cause")]
    outcome: Option<Outcome>,
    /// At most so many a second, such as 500/s.
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Outcome {
    Retry,
    Reject,
    Trap,
    Timeout,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
        }
    }
}

impl DeadLetters {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List(list) => output.show(&list.read(client)?, overview),
            Self::Show { consumer, event } => {
                let path = format!("{}/{}", letters(&consumer), escaped(&event));
                output.show_as_written(&client.get_as_written(&path)?, describe);
            }
            Self::Retry { which, data } => {
                let data = data.map(|file| read_data(&file)).transpose()?;
                which.run(client, output, "retry", "retried", data)?;
            }
            Self::Discard { which } => which.run(client, output, "discard", "discarded", None)?,
        }
        Ok(())
    }
}

fn letters(consumer: &ConsumerName) -> String {
    format!("/v1/consumers/{consumer}/dead-letters")
}

fn read_data(file: &std::path::Path) -> Result<Box<RawValue>, Failure> {
    let bytes = read_input(file, DATA_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::Usage(format!("{}: not JSON: {error}", file.display())))
}

impl List {
    fn read(&self, client: &Client) -> Result<Value, Failure> {
        let limit = self.limit.map(|limit| limit.to_string());
        let asked = [
            ("cause", self.cause.as_deref()),
            ("outcome", self.outcome.map(Outcome::as_str)),
            ("after", self.after.as_deref()),
            ("limit", limit.as_deref()),
        ];
        let query: Vec<_> = asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        client.get(&letters(&self.consumer), &query)
    }
}

/// What the host is asked to redrive, and the data of a copy as it was written: numbers of any length stay what they are.
#[derive(Serialize)]
struct Asked<'a> {
    #[serde(flatten)]
    which: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

impl Asked<'_> {
    fn json(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec(self).map_err(|error| Failure::Failed(format!("no request: {error}")))
    }
}

impl Which {
    /// The host does a part in each request and says where to go on.
    fn run(
        &self,
        client: &Client,
        output: &Output,
        step: &str,
        done: &str,
        data: Option<Box<RawValue>>,
    ) -> Result<(), Failure> {
        let mut which = match (&self.event, &self.cause) {
            (Some(event), _) => json!({ "event_id": event }),
            (_, Some(cause)) => json!({ "cause": cause, "outcome": self.outcome.map(Outcome::as_str) }),
            (None, None) => json!({ "all": true }),
        };
        set(&mut which, "rate", self.rate.map_or(Value::Null, |rate| rate.to_string().into()));
        let path = format!("{}/{step}", letters(&self.consumer));
        let bar = self.progress(client, output)?;
        let mut count = 0;
        loop {
            let asked = Asked { which: &which, data: data.as_deref() }.json()?;
            let answer = client.post(&path, Payload::json(&asked));
            let answer = answer.inspect_err(|_| bar.abandon()).map_err(|failure| stopped(failure, count, done))?;
            count += answer.get("count").and_then(Value::as_u64).unwrap_or(0);
            bar.set_position(count);
            match field(&answer, "next") {
                Value::Null => break,
                next => set(&mut which, "after", next.clone()),
            }
        }
        bar.finish_and_clear();
        let what = if count == 1 { "dead letter" } else { "dead letters" };
        output.show(&json!({ "count": count }), |_| {
            let hint = if count == 0 { self.hint() } else { String::new() };
            format!("{done}: {count} {what}{hint}")
        });
        Ok(())
    }

    /// Why there may be none.
    fn hint(&self) -> String {
        let list = format!("`fanfare dead-letters list {}` tells those that there are", self.consumer);
        match (&self.event, &self.cause) {
            (Some(event), _) => format!("; event {event} is none, {list}"),
            (_, Some(_)) => format!("; none died of this, {list}"),
            (None, None) => String::new(),
        }
    }

    /// For people who watch, how many there are in all.
    fn progress(&self, client: &Client, output: &Output) -> Result<ProgressBar, Failure> {
        if output.is_json() || !io::stderr().is_terminal() || self.event.is_some() {
            return Ok(ProgressBar::hidden());
        }
        let list = client.get(&letters(&self.consumer), &[("limit", "1")])?;
        let meant = |cause: &&Value| match &self.cause {
            Some(named) => text(cause, "/cause") == *named,
            None => true,
        };
        let counts = items(&list, "/causes").iter().filter(meant);
        let total = counts.filter_map(|cause| cause.get("count").and_then(Value::as_u64)).sum();
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} ({eta} left)") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(bar)
    }
}

fn stopped(failure: Failure, count: u64, done: &str) -> Failure {
    if count == 0 {
        return failure;
    }
    let resume = format!("{count} were {done} before; the others stay dead: run the same command again to go on");
    match failure {
        Failure::Unavailable(what) => Failure::Unavailable(format!("{what}\n{resume}")),
        Failure::Failed(what) => Failure::Failed(format!("{what}\n{resume}")),
        other => other,
    }
}

fn overview(page: &Value) -> String {
    let cause = |cause: &Value| {
        let [count, told @ ..] =
            ["/count", "/outcome", "/first_at", "/last_at", "/cause"].map(|path| text(cause, path));
        let more = if field(cause, "at_least") == &Value::Bool(true) { " or more" } else { "" };
        let [outcome, first, last, cause] = told;
        [count + more, outcome, first, last, cause]
    };
    let causes = items(page, "/causes");
    let row = |letter: &Value| {
        ["/event_id", "/type", "/order_id", "/outcome", "/attempts", "/cause", "/time"].map(|path| text(letter, path))
    };
    let columns = ["event", "type", "order", "outcome", "attempts", "cause", "time"];
    let listed = print::page(page, columns, items(page, "/dead_letters").iter().map(row));
    if causes.is_empty() {
        return listed;
    }
    // Whole: a cause is what `retry --cause` takes.
    let causes = whole_table(["count", "outcome", "first", "last", "cause"], causes.iter().map(cause));
    format!("{causes}\n\n{listed}")
}

fn describe(written: &RawValue) -> String {
    let letter: &Value = &serde_json::from_str(written.get()).unwrap_or_default();
    let mut shown = String::new();
    for (name, path) in [
        ("event", "/event_id"),
        ("type", "/type"),
        ("order", "/order_id"),
        ("outcome", "/outcome"),
        ("cause", "/cause"),
        ("version", "/version"),
        ("died", "/time"),
    ] {
        let value = text(letter, path);
        if !value.is_empty() {
            shown.push_str(&format!("{name:<10} {}\n", visible(&value)));
        }
    }
    let parks = field(letter, "parks") == &Value::Bool(true);
    shown.push_str(&format!("{:<10} {}\n", "its lane", if parks { "waits behind it" } else { "went on" }));
    for (name, of) in [("data", "event"), ("edited", "edited")] {
        if let Some(data) = data(written, of) {
            shown.push_str(&format!("{name:<10} {}\n", visible(&data)));
        }
    }
    for attempt in items(letter, "/history") {
        shown.push('\n');
        shown.push_str(&attempt_shown(attempt));
    }
    shown.trim_end().to_owned()
}

/// The data of the event of a dead letter, or of its edited copy, as it was written but for line breaks.
fn data(letter: &RawValue, of: &str) -> Option<String> {
    let letter: BTreeMap<&str, &RawValue> = serde_json::from_str(letter.get()).ok()?;
    let of: BTreeMap<&str, &RawValue> = serde_json::from_str(letter.get(of)?.get()).ok()?;
    Some(of.get("data")?.get().replace(['\n', '\r'], " "))
}

/// One attempt, with what it leaves.
pub fn attempt_shown(attempt: &Value) -> String {
    let [number, outcome, time, version, duration] =
        ["/attempt", "/outcome", "/time", "/version", "/duration_us"].map(|path| visible(&text(attempt, path)));
    let mut shown = format!("attempt {number}: {outcome} at {time} by {version} in {duration} µs");
    if text(attempt, "/origin") == "replay" {
        shown.push_str(", retried by a person");
    }
    if field(attempt, "edited") == &Value::Bool(true) {
        shown.push_str(", edited copy");
    }
    shown.push('\n');
    for (name, path) in [("cause", "/cause"), ("effects", "/effects"), ("backtrace", "/backtrace")] {
        let value = text(attempt, path);
        if !value.is_empty() {
            shown.push_str(&format!("  {name:<9} {}\n", visible(value.trim_end()).replace('\n', "\n            ")));
        }
    }
    for call in items(attempt, "/calls") {
        shown.push_str(&format!("  {:<9} {}\n", "call", visible(&print::call(call))));
    }
    for line in items(attempt, "/log") {
        shown.push_str(&format!("  log {:<5} {}\n", text(line, "/level"), visible(&text(line, "/text"))));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"z":123456789012345678901234567890,"a":1.10}"#;

    #[test]
    fn data_of_a_copy_is_sent_as_it_was_written() {
        let data: Box<RawValue> = serde_json::from_str(DATA).unwrap();
        let asked = Asked { which: &json!({ "event_id": "1" }), data: Some(&data) }.json().unwrap();
        assert_eq!(String::from_utf8(asked).unwrap(), format!(r#"{{"event_id":"1","data":{DATA}}}"#));
    }

    #[test]
    fn a_count_that_is_not_whole_is_told_as_one() {
        let cause =
            json!({"outcome": "reject", "cause": "no", "count": 7, "at_least": true, "first_at": "a", "last_at": "b"});
        let shown = overview(&json!({"causes": [cause], "dead_letters": [], "next": null}));
        assert!(shown.contains("7 or more"), "{shown}");
    }

    #[test]
    fn data_of_an_event_is_shown_as_it_was_written() {
        let letter = format!("{{\"event\":{{\"data\":{DATA}}},\"edited\":{{\"data\":[1.10,\n2]}},\"history\":[]}}");
        let shown = describe(serde_json::from_str(&letter).unwrap());
        assert!(shown.contains(DATA) && shown.contains("edited     [1.10, 2]"), "{shown}");
    }
}
