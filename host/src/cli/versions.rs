//! `fanfare consumers history | rollback | promote`: which version of a consumer handles its events.

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Payload};
use super::print::{Output, items, page, table, text, visible};
use crate::policy::ConsumerName;

/// As many digits of a hash as people need to tell versions apart, and `rollback --to` takes.
pub const DIGITS: usize = 12;

#[derive(Args, Debug)]
pub struct History {
    name: ConsumerName,
    /// `next` of the page before.
    #[arg(long)]
    after: Option<String>,
    #[arg(long)]
    limit: Option<u32>,
}

impl History {
    pub fn run(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let limit = self.limit.map(|limit| limit.to_string());
        let asked = [("after", self.after.as_deref()), ("limit", limit.as_deref())];
        let query: Vec<_> = asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let path = format!("/v1/consumers/{}/versions", self.name);
        output.show(&client.get(&path, &query)?, listed);
        Ok(())
    }
}

fn listed(history: &Value) -> String {
    let row = |entry: &Value| {
        let [time, outcome, version, owner, reason] =
            ["/time", "/outcome", "/version", "/owner", "/reason"].map(|path| text(entry, path));
        let kept = if entry.get("kept").and_then(Value::as_bool) == Some(true) { "yes" } else { "no" };
        [time, outcome, version, digits(entry, "/hash"), digits(entry, "/live"), kept.to_owned(), owner, reason]
    };
    let columns = ["time", "outcome", "version", "hash", "live then", "kept", "owner", "reason"];
    page(history, columns, items(history, "/versions").iter().map(row))
}

#[derive(Args, Debug)]
pub struct Rollback {
    name: ConsumerName,
    /// The first digits of the version's SHA-256; without, the version before this one.
    #[arg(long, value_name = "HASH")]
    to: Option<String>,
    /// Only from this version, tried or running, so that the command can be repeated [default: the one that is there].
    #[arg(long, value_name = "HASH")]
    from: Option<String>,
    /// Why, for whoever looks.
    #[arg(long)]
    reason: Option<String>,
}

impl Rollback {
    pub fn run(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Self { name, to, from, reason } = self;
        // What another one named or decided meanwhile is not to be left by accident.
        let seen = match (to, from) {
            (None, None) => Some(leaves(&client.get(&format!("/v1/consumers/{name}"), &[])?)),
            _ => None,
        };
        let seen = seen.filter(|hash| !hash.is_empty());
        let body = json!({ "version": to, "from": from.as_ref().or(seen.as_ref()), "reason": reason });
        step(name, "rollback", &body, client, output).map_err(|failure| match (failure, seen) {
            // Where it was done, the same command would go back once more.
            (Failure::Unavailable(why), Some(seen)) => Failure::Failed(format!(
                "{why}; nobody can tell whether it was done: to repeat it, say `fanfare consumers rollback {} --from {}`, which \
                 goes back at most once",
                name,
                visible(&seen.chars().take(DIGITS).collect::<String>())
            )),
            (failure, _) => failure,
        })
    }
}

/// The version that a consumer is rolled back from.
fn leaves(consumer: &Value) -> String {
    match text(consumer, "/candidate/state").as_str() {
        "canary" => text(consumer, "/candidate/hash"),
        _ => text(consumer, "/hash"),
    }
}

pub fn step(name: &ConsumerName, step: &str, body: &Value, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/v1/consumers/{name}/{step}");
    let consumer = client.post(&path, Payload::json(body.to_string().as_bytes()))?;
    output.show(&consumer, |consumer| {
        let [name, version] = ["/name", "/version"].map(|path| visible(&text(consumer, path)));
        if let Some(way) = way_back(consumer) {
            let back = if step == "promote" { "" } else { " back" };
            return format!(
                "{name} is on its way{back} to {way}\nversion {version} runs until that state is up to date: `fanfare consumers \
                 backfill {name} --status` shows how far it is, --pause, --resume and --cancel steer it"
            );
        }
        format!("{name} runs version {version} ({})", digits(consumer, "/hash"))
    });
    Ok(())
}

pub fn shadow(name: &ConsumerName, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/v1/consumers/{name}/shadow");
    output.show(&client.get(&path, &[])?, |shadow| {
        let [file, version, reason, compared, differing, passed_over] =
            ["/file", "/version", "/reason", "/compared", "/differing", "/passed_over"]
                .map(|path| visible(&text(shadow, path)));
        if !reason.is_empty() {
            return format!("{file} handles nothing: {reason}");
        }
        let mut shown =
            format!("{file} ({version}) did {differing} of {compared} events otherwise; {passed_over} it did not see");
        shown.push_str(&differences(shadow, "shadow"));
        shown
    });
    Ok(())
}

/// What a report says that the version called `other` did otherwise.
pub fn differences(report: &Value, other: &str) -> String {
    let mut shown = String::new();
    for group in items(report, "/differences") {
        let [what, count] = ["/what", "/count"].map(|path| text(group, path));
        let row = |example: &Value| ["/event_id", "/order_id", "/live", "/shadow"].map(|path| text(example, path));
        let examples = table(["event", "order", "live", other], items(group, "/examples").iter().map(row));
        shown.push_str(&format!("\n\n{what}: {count}\n{examples}"));
    }
    shown
}

/// The newest file, where another version runs, in a line.
pub fn candidate(consumer: &Value) -> Option<String> {
    let candidate = consumer.get("candidate")?;
    let [state, version, share, events, min_events, failed] =
        ["/state", "/version", "/share", "/events", "/min_events", "/failed"].map(|path| text(candidate, path));
    Some(match state.as_str() {
        "canary" => format!("{version} gets {share} of the orders: {events} of {min_events} events, {failed} failed"),
        _ if version.is_empty() => format!("{state}: `reason` says why"),
        _ => format!("{version} is {state}"),
    })
}

/// Where the consumer is on its way back to, in a line.
pub fn way_back(consumer: &Value) -> Option<String> {
    let way = consumer.get("way_back")?;
    let [version, layout, reason] = ["/version", "/state_version", "/reason"].map(|path| text(way, path));
    let version = if version.is_empty() { "version".to_owned() } else { format!("version {version}") };
    let waits = if reason.is_empty() { String::new() } else { format!(", and waits: {reason}") };
    Some(format!("{version} ({}) with state of layout {layout}{waits}", digits(way, "/hash")))
}

/// Its state of the layout before, in a line.
pub fn former_state(consumer: &Value) -> Option<String> {
    let former = consumer.get("former_state")?;
    let [layout, bytes, since, reason] =
        ["/state_version", "/bytes", "/since", "/reason"].map(|path| text(former, path));
    Some(match reason.as_str() {
        "" => format!("layout {layout} of version {}, {bytes} bytes, as it was at {since}", digits(former, "/hash")),
        _ => format!("not kept: {reason}"),
    })
}

/// The shadow in a line.
pub fn shadow_of(consumer: &Value) -> Option<String> {
    let shadow = consumer.get("shadow")?;
    let [file, version, reason] = ["/file", "/version", "/reason"].map(|path| text(shadow, path));
    Some(if reason.is_empty() { format!("{file} ({version})") } else { format!("{file} handles nothing: {reason}") })
}

fn digits(value: &Value, path: &str) -> String {
    text(value, path).chars().take(DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_without_a_version_is_told_of_in_words() {
        let told = |told: Value| candidate(&json!({ "candidate": told })).unwrap();
        assert_eq!(told(json!({"state": "failed", "reason": "no component"})), "failed: `reason` says why");
        assert_eq!(told(json!({"state": "rolled-back", "version": "2.0.0"})), "2.0.0 is rolled-back");
    }
}
