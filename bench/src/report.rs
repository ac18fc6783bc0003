//! The figures, for people and for programs.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::half::Half;
use crate::handling::{Beside, Handling};
use crate::host::Mail;
use crate::many::Many;
use crate::mode::{Figures, Measured};
use crate::startup::Startup;

pub struct Report {
    connections: u16,
    seconds: u64,
    mail: Mail,
    pub fanout: Option<Measured>,
    pub journey: Option<Measured>,
    pub handling: Option<Handling>,
    pub startup: Option<Startup>,
    pub many: Option<Many>,
}

impl Report {
    pub fn new(connections: u16, seconds: u64, mail: Mail) -> Self {
        Self { connections, seconds, mail, fanout: None, journey: None, handling: None, startup: None, many: None }
    }

    pub fn print(&self, json: bool) {
        print!("{}", self.table());
        if json {
            println!("{}", Value::Object(self.object()));
        }
    }

    fn table(&self) -> String {
        let mut table = format!(
            "\n{} s of load on {} connections; {} cores, shared with the load generator; mail {}\n\n",
            self.seconds,
            self.connections,
            cores(),
            self.mail.as_str(),
        );
        table.push_str(&self.loads());
        if let Some(half) = self.fanout.as_ref().and_then(|fanout| fanout.half.as_ref()) {
            table.push_str(&half.to_string());
        }
        if let Some(handling) = &self.handling {
            table.push_str(&handling.to_string());
        }
        if let Some(Startup { cold_ms, cached_ms }) = &self.startup {
            table.push_str(&format!("start-up with five plugins: {cold_ms:.0} ms cold, {cached_ms:.0} ms cached\n"));
        }
        if let Some(many) = &self.many {
            table.push_str(&many.to_string());
        }
        table
    }

    /// The modes side by side, each beside its baseline.
    fn loads(&self) -> String {
        let modes: Vec<_> = [("fanout", &self.fanout), ("journey", &self.journey)]
            .into_iter()
            .filter_map(|(name, measured)| Some((name, measured.as_ref()?)))
            .collect();
        if modes.is_empty() {
            return String::new();
        }
        let mut table = format!("{:<34}", "");
        for (name, _) in &modes {
            table.push_str(&format!("{name:>12}{:>12}{:>8}", "native", "ratio"));
        }
        table.push('\n');
        let mut row = |name: &str, decimals: usize, of: fn(&Figures) -> f64| {
            table.push_str(&format!("{name:<34}"));
            for (_, Measured { host, native, .. }) in &modes {
                let native = native.as_ref().map(of);
                let shown = native.map_or(String::new(), |native| format!("{native:.decimals$}"));
                let ratio = native.map_or(String::new(), |native| format!("{:.2}", of(host) / native));
                table.push_str(&format!("{:>12.decimals$}{shown:>12}{ratio:>8}", of(host)));
            }
            table.push('\n');
        };
        row("orders accepted /s", 0, |one| one.accepted_per_s);
        row("orders end to end /s", 0, |one| one.end_to_end_per_s);
        row("answer, median ms", 2, |one| one.ack_p50_ms);
        row("answer, 99 % within ms", 2, |one| one.ack_p99_ms);
        row("answer, 99.9 % within ms", 2, |one| one.ack_p999_ms);
        row("until nothing was pending s", 2, |one| one.drain_s);
        row("its CPU s /1,000 orders", 3, |one| one.cpu_s_per_1000);
        row("load generator's CPU s /1,000", 3, |one| one.client_cpu_s_per_1000);
        row("memory at rest MiB", 1, |one| one.rss_idle_mib);
        row("memory under load MiB", 1, |one| one.rss_load_mib);
        row("rows an order left in the store", 2, |one| one.rows_per_order.unwrap_or(f64::NAN));
        table
    }

    /// Every key is always there; what was not measured is null.
    fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for (prefix, measured) in [("", &self.fanout), ("journey_", &self.journey)] {
            let host = measured.as_ref().map(|one| &one.host);
            let native = measured.as_ref().and_then(|one| one.native.as_ref());
            object.extend(figures(prefix, host));
            object.extend(figures(&format!("{prefix}native_"), native));
            object.extend(ratios(prefix, host.zip(native)));
        }
        object.extend(halves(self.fanout.as_ref().and_then(|one| one.half.as_ref())));
        let (handling, startup, many) = (self.handling.as_ref(), self.startup.as_ref(), self.many.as_ref());
        let rest = [
            ("handle_warm_us", json!(handling.map(|one| rounded(one.warm.host_us)))),
            ("handle_fresh_us", json!(handling.map(|one| rounded(one.fresh.host_us)))),
            ("bare_warm_us", json!(handling.map(|one| rounded(one.warm.bare_us)))),
            ("bare_fresh_us", json!(handling.map(|one| rounded(one.fresh.bare_us)))),
            ("warm_over_bare", json!(handling.map(|one| rounded(one.warm.ratio())))),
            ("fresh_over_bare", json!(handling.map(|one| rounded(one.fresh.ratio())))),
            ("native_handle_us", json!(handling.and_then(|one| one.native_us).map(rounded))),
            ("start_cold_ms", json!(startup.map(|one| rounded(one.cold_ms)))),
            ("start_cached_ms", json!(startup.map(|one| rounded(one.cached_ms)))),
            ("many_cold_ms_each", json!(many.map(|one| rounded(one.cold_ms_each)))),
            ("many_cached_ms_each", json!(many.map(|one| rounded(one.cached_ms_each)))),
            ("many_rss_cold_mib", json!(many.map(|one| rounded(one.rss_cold_mib)))),
            ("many_rss_cached_mib", json!(many.map(|one| rounded(one.rss_cached_mib)))),
            ("many_handle_warm_us", json!(many.map(|one| rounded(one.warm_us)))),
            ("many_handle_alone_us", json!(many.map(|one| rounded(one.warm_alone_us)))),
            ("seconds", json!(self.seconds)),
            ("connections", json!(self.connections)),
            ("cores", json!(cores())),
            ("mail", json!(self.mail.as_str())),
        ];
        object.extend(rest.map(|(name, value)| (name.to_owned(), value)));
        object
    }
}

fn figures(prefix: &str, figures: Option<&Figures>) -> Vec<(String, Value)> {
    let number = |of: fn(&Figures) -> f64| json!(figures.map(|one| rounded(of(one))));
    let all = [
        ("orders", json!(figures.map(|one| one.orders))),
        ("accepted_per_s", number(|one| one.accepted_per_s)),
        ("end_to_end_per_s", number(|one| one.end_to_end_per_s)),
        ("ack_p50_ms", number(|one| one.ack_p50_ms)),
        ("ack_p99_ms", number(|one| one.ack_p99_ms)),
        ("ack_p999_ms", number(|one| one.ack_p999_ms)),
        ("drain_s", number(|one| one.drain_s)),
        ("cpu_s_per_1000", number(|one| one.cpu_s_per_1000)),
        ("client_cpu_s_per_1000", number(|one| one.client_cpu_s_per_1000)),
        ("rss_idle_mib", number(|one| one.rss_idle_mib)),
        ("rss_load_mib", number(|one| one.rss_load_mib)),
        ("rows_per_order", json!(figures.and_then(|one| one.rows_per_order).map(rounded))),
    ];
    all.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
}

/// The host over its baseline.
fn ratios(prefix: &str, both: Option<(&Figures, &Figures)>) -> [(String, Value); 2] {
    let ratio = |of: fn(&Figures) -> f64| json!(both.map(|(host, native)| rounded(of(host) / of(native))));
    [
        (format!("{prefix}end_to_end_over_native"), ratio(|one| one.end_to_end_per_s)),
        (format!("{prefix}cpu_over_native"), ratio(|one| one.cpu_s_per_1000)),
    ]
}

fn halves(half: Option<&Half>) -> [(String, Value); 7] {
    let number = |of: fn(&Half) -> f64| json!(half.map(|one| rounded(of(one))));
    let all = [
        ("half_orders_per_s", number(|one| one.orders_per_s)),
        ("half_ack_p50_ms", number(|one| one.ack_p50_ms)),
        ("half_ack_p99_ms", number(|one| one.ack_p99_ms)),
        ("half_ack_p999_ms", number(|one| one.ack_p999_ms)),
        ("half_done_p50_ms", number(|one| one.done_p50_ms)),
        ("half_done_p99_ms", number(|one| one.done_p99_ms)),
        ("half_followed", json!(half.map(|one| one.followed))),
    ];
    all.map(|(name, value)| (name.to_owned(), value))
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orders_per_s, ack_p50_ms, ack_p99_ms, done_p50_ms, done_p99_ms, followed, .. } = self;
        writeln!(f, "\nfanout at half of its rate, {orders_per_s:.0} orders/s, in ms: {:>6} {:>8}", "median", "99 %")?;
        writeln!(f, "{:<46} {ack_p50_ms:>12.2} {ack_p99_ms:>8.2}", "answer")?;
        let done = format!("all five done after the answer, of {followed} orders");
        writeln!(f, "{done:<46} {done_p50_ms:>12.2} {done_p99_ms:>8.2}")
    }
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\none event of inventory, in µs: {:>12} {:>8} {:>8}", "host", "bare", "ratio")?;
        for (name, beside) in [("warm instance", &self.warm), ("fresh instance", &self.fresh)] {
            writeln!(f, "{name:<31} {:>12.1} {:>8.1} {:>8.2}", beside.host_us, beside.bare_us, beside.ratio())?;
        }
        self.native_us.map_or(Ok(()), |native| writeln!(f, "{:<31} {native:>12.1}", "as native Rust"))
    }
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cold_ms_each, cached_ms_each, rss_cold_mib, rss_cached_mib, warm_us, warm_alone_us } = self;
        writeln!(f, "\n100 plugins: {cold_ms_each:.1} ms each to start cold, {cached_ms_each:.1} ms cached")?;
        writeln!(f, "memory with all of them: {rss_cold_mib:.0} MiB compiled anew, {rss_cached_mib:.0} MiB cached")?;
        writeln!(f, "one event of one of them: {warm_us:.1} µs warm, {warm_alone_us:.1} µs where it is alone")
    }
}

impl Beside {
    fn ratio(&self) -> f64 {
        self.host_us / self.bare_us
    }
}

/// The middle one, or the upper of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// To a thousandth: what stands behind it was not measured.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn every_promised_key_is_there_even_if_nothing_was_measured() {
        let object = Report::new(64, 10, Mail::Off).object();
        for key in [
            "accepted_per_s",
            "end_to_end_per_s",
            "ack_p50_ms",
            "ack_p99_ms",
            "cpu_s_per_1000",
            "handle_warm_us",
            "handle_fresh_us",
            "bare_warm_us",
            "fresh_over_bare",
            "native_handle_us",
            "native_end_to_end_per_s",
            "end_to_end_over_native",
            "journey_end_to_end_over_native",
            "half_done_p99_ms",
            "journey_end_to_end_per_s",
            "start_cold_ms",
            "start_cached_ms",
            "many_cached_ms_each",
            "many_rss_cached_mib",
            "rss_idle_mib",
            "rss_load_mib",
        ] {
            assert_eq!(object.get(key), Some(&Value::Null), "{key}");
        }
    }
}
