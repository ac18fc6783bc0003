//! `fanfare check`: does what stands in the store agree with itself?

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::client::Client;
use super::print::{Output, field, items, line, text, visible};
use crate::backend::embedded;
use crate::policy::Rate;

/// Findings that are told one by one.
const SHOWN_MAX: usize = 1_000;

/// Look through the store of a running host: pages, orders and their events, positions, and what belongs to nobody.
#[derive(Args, Debug)]
pub struct Check {
    /// Read at most so many rows a second, such as 500/s; the default is what nobody notices.
    #[arg(long, value_name = "N/s", conflicts_with = "data_dir")]
    rate: Option<Rate>,
    /// Look through the store in this folder instead, in which no host runs.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Default)]
struct Report {
    /// Rows looked at, by rule.
    rows: BTreeMap<String, u64>,
    findings: Vec<Value>,
    count: usize,
}

impl Check {
    pub fn run(&self, client: impl FnOnce() -> Result<Client, Failure>, output: &Output) -> Result<(), Failure> {
        let mut report = Report::default();
        let bar = output.progress(None, "{spinner} {pos} rows looked at, {per_sec}, for {elapsed}: {msg}");
        let mut tell = |step: &Value| {
            report.add(step);
            bar.inc(field(step, "rows").as_u64().unwrap_or(0));
            bar.set_message(format!("{} problems, now {}", report.count, text(step, "/rule")));
        };
        match &self.data_dir {
            Some(directory) => embedded::check_directory(directory, |step| tell(&json!(step)))?,
            None => online(&client()?, self.rate, tell)?,
        }
        bar.finish_and_clear();
        let Report { rows, findings, count } = report;
        output.show(&json!({ "rows": rows, "findings": findings, "count": count }), summary);
        match count {
            0 => Ok(()),
            1 => Err(Failure::Failed("the store does not agree with itself in one place".to_owned())),
            many => Err(Failure::Failed(format!("the store does not agree with itself in {many} places"))),
        }
    }
}

fn online(client: &Client, rate: Option<Rate>, mut tell: impl FnMut(&Value)) -> Result<(), Failure> {
    let rate = rate.map(|rate| rate.to_string());
    let query: Vec<(&str, &str)> = rate.iter().map(|rate| ("rate", rate.as_str())).collect();
    for step in client.lines("/v1/check", &query)? {
        let step: Value = serde_json::from_str(&step?).unwrap_or_default();
        if let Some(error) = field(&step, "error").as_str() {
            return Err(Failure::Failed(format!("the store cannot be read: {error}")));
        }
        if step.get("done").is_some() {
            return Ok(());
        }
        tell(&step);
    }
    Err(Failure::Unavailable("the host ended before it had looked at everything".to_owned()))
}

impl Report {
    fn add(&mut self, step: &Value) {
        let rule = text(step, "/rule");
        let findings = items(step, "/findings");
        self.count += findings.len();
        let shown = findings.iter().take(SHOWN_MAX.saturating_sub(self.findings.len())).cloned();
        self.findings.extend(shown.map(|mut finding| {
            if let Some(finding) = finding.as_object_mut() {
                finding.insert("rule".to_owned(), json!(rule));
            }
            finding
        }));
        *self.rows.entry(rule).or_default() += field(step, "rows").as_u64().unwrap_or(0);
    }
}

fn summary(report: &Value) -> String {
    for finding in items(report, "/findings") {
        let [rule, place, fault] = ["/rule", "/place", "/fault"].map(|path| visible(&text(finding, path)));
        line(&format!("{rule}: {place}: {fault}"));
    }
    let rows = field(report, "rows").as_object();
    let looked: Vec<_> = rows.into_iter().flatten().map(|(rule, rows)| format!("{rows} {rule}")).collect();
    let found = if field(report, "count") == 0 { "nothing is wrong" } else { "something is wrong" };
    format!("{found}: looked at {}", looked.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_of_which_rule_it_is() {
        let mut report = Report::default();
        let finding = json!({"place": "order 1", "fault": "it has no event"});
        report.add(&json!({"rule": "orders", "rows": 2, "findings": [finding]}));
        report.add(&json!({"rule": "orders", "rows": 1, "findings": []}));
        assert_eq!((report.findings[0]["rule"].clone(), report.rows["orders"], report.count), (json!("orders"), 3, 1));
    }
}
