//! `fanfare consumers`: what is loaded, how far each has come, and what it keeps.

use std::io::{IsTerminal as _, Write as _};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Payload};
use super::print::{Output, field, items, table, text, visible};
use super::{Failure, versions};
use crate::policy::ConsumerName;

#[derive(Debug, Subcommand)]
pub enum Consumers {
    /// List consumers with what is pending and dead.
    List,
    /// Show one consumer.
    Show { name: ConsumerName },
    /// Show a consumer's entries and counters.
    State(State),
    /// Start no more deliveries of a consumer; those that run finish, and nothing is passed by.
    Pause {
        name: ConsumerName,
        /// Why, for whoever looks.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a consumer go on where it stood when it was paused.
    Resume { name: ConsumerName },
    /// Forget a consumer whose plugin file is removed: its position, its state and its dead letters go for good.
    Forget {
        name: ConsumerName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show what became of each plugin file of a consumer, newest first.
    History(versions::History),
    /// Go back to a version that ran before; it stays until another plugin file comes.
    Rollback(versions::Rollback),
    /// Take up the plugin file that was rolled back.
    Promote {
        name: ConsumerName,
        /// Why, for whoever looks.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Show what the shadow of a consumer would have done otherwise.
    Shadow { name: ConsumerName },
    /// Deliver past events to a consumer, behind live ones.
    Backfill(super::backfill::Backfill),
}

#[derive(Args, Debug)]
pub struct State {
    name: ConsumerName,
    /// Only keys that start with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// `next` of the page before.
    #[arg(long)]
    after: Option<String>,
    #[arg(long)]
    limit: Option<u32>,
}

impl Consumers {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List => output.show(&client.get("/v1/consumers", &[])?, overview),
            Self::Show { name } => {
                output.show(&client.get(&format!("/v1/consumers/{name}"), &[])?, describe);
            }
            Self::Forget { name, yes } => forget(&name, yes, client, output)?,
            Self::State(state) => output.show(&state.read(client)?, contents),
            Self::Pause { name, reason } => step(client, output, &name, "pause", &json!({ "reason": reason }))?,
            Self::Resume { name } => step(client, output, &name, "resume", &json!({}))?,
            Self::History(history) => history.run(client, output)?,
            Self::Rollback(rollback) => rollback.run(client, output)?,
            Self::Promote { name, reason } => {
                versions::step(&name, "promote", &json!({ "reason": reason }), client, output)?;
            }
            Self::Shadow { name } => versions::shadow(&name, client, output)?,
            Self::Backfill(backfill) => backfill.run(client, output)?,
        }
        Ok(())
    }
}

fn step(client: &Client, output: &Output, name: &ConsumerName, step: &str, body: &Value) -> Result<(), Failure> {
    let path = format!("/v1/consumers/{name}/{step}");
    let consumer = client.post(&path, Payload::json(body.to_string().as_bytes()))?;
    output.show(&consumer, |consumer| {
        let [name, state, pending] = ["/name", "/state", "/pending"].map(|path| text(consumer, path));
        match field(consumer, "paused") {
            Value::Null => format!("{name} goes on: {state}, {pending} pending"),
            _ => format!("{name} is paused, {pending} pending"),
        }
    });
    Ok(())
}

fn forget(name: &ConsumerName, yes: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/v1/consumers/{name}");
    if !yes {
        // A name that is not known is refused before anybody is asked.
        let consumer = client.get(&path, &[])?;
        confirm(&format!(
            "{name} has handled {} events and has {} to do; its position, its state and its dead letters go for good.",
            text(&consumer, "/done"),
            text(&consumer, "/pending")
        ))?;
    }
    client.delete(&path)?;
    output.show(&json!({ "forgotten": name }), |_| format!("{name} is forgotten"));
    Ok(())
}

/// Asks a person; whoever is none must say `--yes`.
fn confirm(what: &str) -> Result<(), Failure> {
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() {
        return Err(Failure::Usage(format!("{what} Repeat with --yes if that is meant")));
    }
    let mut answer = String::new();
    let asked = write!(stderr, "{what} Go on? [y/N] ").and_then(|()| stdin.read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::Failed("nothing was changed".to_owned())),
    }
}

impl State {
    fn read(&self, client: &Client) -> Result<Value, Failure> {
        let limit = self.limit.map(|limit| limit.to_string());
        let asked =
            [("prefix", Some(self.prefix.as_str())), ("after", self.after.as_deref()), ("limit", limit.as_deref())];
        let query: Vec<_> = asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        client.get(&format!("/v1/consumers/{}/state", self.name), &query)
    }
}

fn overview(list: &Value) -> String {
    let row = |consumer: &Value| {
        ["/name", "/state", "/version", "/pending", "/dead", "/done", "/reason"].map(|path| text(consumer, path))
    };
    let columns = ["name", "state", "version", "pending", "dead", "done", "reason"];
    table(columns, items(list, "/consumers").iter().map(row))
}

fn describe(consumer: &Value) -> String {
    let fields = [
        "name",
        "state",
        "reason",
        "version",
        "hash",
        "loaded_at",
        "summary",
        "subscriptions",
        "needs",
        "not_kept",
        "pending",
        "dead",
        "done",
        "holds_back",
    ];
    let mut shown = Vec::new();
    for name in fields {
        let value = match field(consumer, name) {
            Value::Object(_) if name == "holds_back" => held(consumer),
            Value::Array(items) => items.iter().map(|item| text(item, "")).collect::<Vec<_>>().join(", "),
            value => text(value, ""),
        };
        if !value.is_empty() {
            shown.push(format!("{:<14} {}", name.replace('_', " "), visible(&value)));
        }
    }
    let told = [
        ("candidate", versions::candidate(consumer)),
        ("way back", versions::way_back(consumer)),
        ("former state", versions::former_state(consumer)),
        ("shadow", versions::shadow_of(consumer)),
    ];
    for (name, told) in told {
        shown.extend(told.map(|told| format!("{name:<14} {}", visible(&told))));
    }
    if let Some(backfill) = consumer.get("backfill") {
        shown.push(format!("{:<14} {}", "backfill", super::backfill::shown(backfill)));
    }
    if let Some(Value::Object(limits)) = consumer.get("limits") {
        let row = |(name, gauge): (&String, &Value)| {
            let [limit, now, high_water, unit] =
                ["/limit", "/now", "/high_water", "/unit"].map(|path| text(gauge, path));
            [name.clone(), limit, now, high_water, unit]
        };
        shown.push(format!("\n{}", table(["limit", "at most", "now", "most so far", "unit"], limits.iter().map(row))));
    }
    shown.join("\n")
}

fn held(consumer: &Value) -> String {
    let [events, since, reason] =
        ["events", "since", "reason"].map(|name| text(consumer, &format!("/holds_back/{name}")));
    format!("{events} events since {since} that are old enough to go, because of its {reason}")
}

fn contents(state: &Value) -> String {
    let row = |entry: &Value| ["/key", "/value"].map(|path| text(entry, path));
    let mut shown = Vec::new();
    for (name, path) in [("counter", "/counters"), ("entry", "/entries")] {
        if !items(state, path).is_empty() {
            shown.push(table([name, "value"], items(state, path).iter().map(row)));
        }
    }
    if shown.is_empty() {
        shown.push("nothing here".to_owned());
    }
    if let Some(next) = state.get("next").and_then(Value::as_str) {
        shown.push(format!("more: --after {}", visible(next)));
    }
    shown.join("\n\n")
}
