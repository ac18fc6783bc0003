//! `fanfare orders timeline`: what happened to an order, a line a moment.

use serde_json::Value;

use super::Failure;
use super::client::{Client, escaped};
use super::print::{self, Output, field, items, text};

pub fn run(client: &Client, output: &Output, id: &str, after: Option<&str>) -> Result<(), Failure> {
    let query: Vec<_> = after.iter().map(|after| ("after", *after)).collect();
    output.show(&client.get(&format!("/v1/orders/{}/timeline", escaped(id)), &query)?, overview);
    Ok(())
}

fn overview(page: &Value) -> String {
    let rows = |moment: &Value| {
        let [time, what, kind, consumer] = ["/time", "/what", "/type", "/consumer"].map(|path| text(moment, path));
        let calls = items(moment, "/calls").iter();
        let calls: Vec<_> =
            calls.map(|call| ["", "", "call", &consumer, &print::call(call)].map(str::to_owned)).collect();
        std::iter::once([time, kind, what, consumer, detail(moment)]).chain(calls)
    };
    print::page(page, ["time", "event", "what", "consumer", "detail"], items(page, "/timeline").iter().flat_map(rows))
}

fn detail(moment: &Value) -> String {
    let of = |path: &str| text(moment, path);
    match of("/what").as_str() {
        "attempt" => {
            let each = if field(moment, "run").is_object() { " on average" } else { "" };
            let how = format!("{} µs{each} by {}", of("/duration_us"), of("/version"));
            let mut said = format!("{} at attempt {}", of("/outcome"), of("/attempt"));
            if of("/origin") == "replay" {
                said.push_str(", retried");
            }
            if field(moment, "edited") == &Value::Bool(true) {
                said.push_str(", edited");
            }
            match of("/cause") {
                cause if cause.is_empty() => format!("{said}, {how}"),
                cause => format!("{said}: {cause}, {how}"),
            }
        }
        "message" => format!("{} to {}: {}", of("/kind"), of("/to"), of("/state")),
        "records" if of("/count") == "1" => format!("a row of {}", of("/dataset")),
        "records" => format!("{} rows of {}", of("/count"), of("/dataset")),
        "open" => match of("/due") {
            due if due.is_empty() => of("/state"),
            due => format!("{} at {due}", of("/state")),
        },
        "edited" => of("/data"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_moment_is_a_line() {
        let attempt = json!({"what": "attempt", "time": "T2", "type": "order.placed", "consumer": "a", "attempt": 1,
            "outcome": "retry", "cause": "later", "version": "1.0.0 (ab)", "duration_us": 7, "origin": "live",
            "edited": false, "calls": [
                {"n": 1, "method": "POST", "url": "https://d.example/v1/", "status": 503, "duration_us": 5},
                {"n": 2, "method": "GET", "url": "https://d.example/v1/", "error": "no response within 4s", "duration_us": 6}]});
        let again = json!({"what": "attempt", "time": "T3", "type": "order.placed", "consumer": "a", "attempt": 1,
            "outcome": "done", "version": "1.0.0 (ab)", "duration_us": 9, "origin": "replay", "edited": true});
        let run = json!({"what": "attempt", "time": "T3", "type": "order.placed", "consumer": "b", "attempt": 1,
            "outcome": "done", "version": "2.0.0 (cd)", "duration_us": 9, "origin": "live", "edited": false,
            "run": {"count": 40}});
        let page = json!({"timeline": [
            {"what": "event", "time": "T1", "type": "order.placed"},
            attempt, again, run,
            {"what": "message", "time": "T3", "type": "order.placed", "consumer": "b", "kind": "email", "to": "c@d",
             "state": "sent"},
            {"what": "records", "time": "T3", "type": "order.placed", "consumer": "b", "dataset": "lines", "count": 2},
            {"what": "open", "type": "order.placed", "consumer": "c", "state": "retrying", "due": "T4"},
        ]});
        insta::assert_snapshot!(overview(&page), @r"
        TIME  EVENT         WHAT     CONSUMER  DETAIL
        T1    order.placed  event
        T2    order.placed  attempt  a         retry at attempt 1: later, 7 µs by 1.0.0 (ab)
                            call     a         POST https://d.example/v1/: 503 in 5 µs
                            call     a         GET https://d.example/v1/: no response within 4s in 6 µs
        T3    order.placed  attempt  a         done at attempt 1, retried, edited, 9 µs by 1.0.0 (ab)
        T3    order.placed  attempt  b         done at attempt 1, 9 µs on average by 2.0.0 (cd)
        T3    order.placed  message  b         email to c@d: sent
        T3    order.placed  records  b         2 rows of lines
              order.placed  open     c         retrying at T4
        ");
    }
}
