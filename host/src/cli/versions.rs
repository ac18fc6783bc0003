//! `fanfare consumers history | rollback | promote`: which version of a consumer handles its events.

use serde_json::Value;

use super::Failure;
use super::client::{Client, Payload, escaped};
use super::print::{Output, items, table, text, visible};

/// As many digits of a hash as people need to tell versions apart, and `rollback --to` takes.
const DIGITS: usize = 12;

pub fn history(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/v1/consumers/{}/versions", escaped(name));
    output.show(&client.get(&path, &[])?, |history| {
        let row = |entry: &Value| {
            let [time, outcome, version, owner, reason] =
                ["/time", "/outcome", "/version", "/owner", "/reason"].map(|path| text(entry, path));
            let kept = if entry.get("kept").and_then(Value::as_bool) == Some(true) { "yes" } else { "no" };
            [time, outcome, version, digits(entry, "/hash"), digits(entry, "/live"), kept.to_owned(), owner, reason]
        };
        let columns = ["time", "outcome", "version", "hash", "live then", "kept", "owner", "reason"];
        match items(history, "/versions") {
            [] => "nothing here".to_owned(),
            entries => table(columns, entries.iter().map(row)),
        }
    });
    Ok(())
}

pub fn step(name: &str, step: &str, body: &Value, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/v1/consumers/{}/{step}", escaped(name));
    let consumer = client.post(&path, Payload::json(body.to_string().as_bytes()))?;
    output.show(&consumer, |consumer| {
        let [name, version] = ["/name", "/version"].map(|path| visible(&text(consumer, path)));
        format!("{name} runs version {version} ({})", digits(consumer, "/hash"))
    });
    Ok(())
}

fn digits(value: &Value, path: &str) -> String {
    text(value, path).chars().take(DIGITS).collect()
}
