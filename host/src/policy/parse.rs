//! Reads a side file `NAME.toml` into a [`Policy`].
//!
//! The text is an operator's and may be anything: reading never panics, refuses what it does not know
//! rather than passing over it, and says of each fault on which line it stands and what would be right.

pub(crate) mod table;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{Grant, HttpGrant, HttpLimits, Isolation, Limits, OnDead, Policy, Retry, Rollout, SecretSource, UrlPrefix};
use crate::event::{Subscription, Subscriptions};
use table::{Faults, Table};

/// A side file is a page of settings; what is larger is something else that got the name.
pub const SIDE_FILE_BYTES_MAX: usize = 256 << 10;
/// Faults told at once: enough to mend a file in one go, few enough to be read.
const FAULTS_MAX: usize = 8;
/// Each running delivery holds an instance with its memory; more than this is a slip of the keyboard.
const CONCURRENCY_MAX: u32 = 1024;
/// Files of this many versions fill a disk before anybody goes back that far.
const KEEP_VERSIONS_MAX: u32 = 100;
/// Memories of wasm32 end here.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Each is told in the timeline.
const HTTP_CALLS_MAX: u32 = 1_000;
/// A lane waits while its event is handled, so a handling that takes longer than this is a fault.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// What one event stages or hands over is in memory several times over.
const EVENT_BYTES_MAX: u64 = 256 << 20;
/// Each is a row of the one transaction in which an event ends; other commits wait for it.
const EVENT_ROWS_MAX: u32 = 100_000;
const HANDLES_MAX: u32 = 10_000;
/// Delays end somewhere, so that sums of them never leave the calendar.
const AGE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

const NOTHING_HEARD: &str = "an empty list would hear nothing: leave `subscribe` out for the plugin's own";

/// Why a side file was refused: each fault with its file and line, one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    file: PathBuf,
    faults: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// From 1.
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, Fault { line, message }) in self.faults.iter().take(FAULTS_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{file}:{line}: {message}")?;
        }
        match self.faults.len().saturating_sub(FAULTS_MAX) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl Policy {
    /// Reads the text of the side file `file`, which is named in faults and not opened.
    ///
    /// # Errors
    /// [`Error`] with every fault, in the order of their lines.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let refused = |faults| Error { file: file.to_owned(), faults };
        let mut faults = Faults::new(text);
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(error) => {
                faults.add_no_toml(&error);
                return Err(refused(faults.into_sorted()));
            }
        };
        let policy = read(Table::root(root), &mut faults);
        let faults = faults.into_sorted();
        if faults.is_empty() { Ok(policy) } else { Err(refused(faults)) }
    }
}

fn read(mut root: Table<'_>, faults: &mut Faults<'_>) -> Policy {
    let default = Policy::default();
    let policy = Policy {
        start: root.take("start", faults, value::start).unwrap_or(default.start),
        isolation: root
            .take("isolation", faults, |v| value::one_of(v, [("warm", Isolation::Warm), ("event", Isolation::Event)]))
            .unwrap_or(default.isolation),
        concurrency: root
            .take("concurrency", faults, |v| value::count(v, CONCURRENCY_MAX))
            .unwrap_or(default.concurrency),
        rate: root.take("rate", faults, value::rate),
        on_dead: root
            .take("on_dead", faults, |v| value::one_of(v, [("park", OnDead::Park), ("skip", OnDead::Skip)]))
            .unwrap_or(default.on_dead),
        keep_versions: root
            .take("keep_versions", faults, |v| value::count(v, KEEP_VERSIONS_MAX))
            .unwrap_or(default.keep_versions),
        keep_state_bytes: root
            .take("keep_state", faults, |v| value::size_or_none(v, u64::MAX))
            .unwrap_or(default.keep_state_bytes),
        subscribe: root
            .mixed_list("subscribe", faults, NOTHING_HEARD, |v| value::heard(v).map(Subscription::from), filtered)
            .map(Subscriptions::from_iter),
        grant: root.table("grant", faults).map(|table| grant(table, faults)).unwrap_or_default(),
        settings: root.table("settings", faults).map(|table| settings(table, faults)).unwrap_or_default(),
        limits: root.table("limits", faults).map(|table| limits(table, faults)).unwrap_or_default(),
        retry: root.table("retry", faults).map(|table| retry(table, faults)).unwrap_or_default(),
        rollout: root.table("rollout", faults).and_then(|table| rollout(table, faults)),
        shadow: root.take("shadow", faults, value::shadow),
    };
    root.finish(faults);
    policy
}

/// `{ kind = "order.placed", filter = '{"order":{"currency":["USD"]}}' }`.
fn filtered(mut table: Table<'_>, faults: &mut Faults<'_>) -> Option<Subscription> {
    let kind = table.require("kind", faults, value::heard);
    let filter = table.require("filter", faults, value::filter);
    table.finish(faults);
    Some(Subscription { kind: kind?, filter: Some(filter?) })
}

fn grant(mut table: Table<'_>, faults: &mut Faults<'_>) -> Grant {
    let grant = Grant {
        change_order: table.take("change_order", faults, value::boolean).unwrap_or_default(),
        publish: table.take("publish", faults, |v| value::list(v, value::published)).unwrap_or_default(),
        http: table.list_of_tables("http", faults, http_example, http),
        email: table.take("email", faults, value::boolean).unwrap_or_default(),
        sms: table.take("sms", faults, value::boolean).unwrap_or_default(),
        records: table.take("records", faults, |v| value::list(v, value::dataset)).unwrap_or_default(),
        secrets: table.table("secrets", faults).map(|table| secrets(table, faults)).unwrap_or_default(),
    };
    table.finish(faults);
    grant
}

/// An entry for the URL that stands in its place.
fn http_example(url: Option<&str>) -> String {
    let legal = |url: &str| UrlPrefix::parse(url).or_else(|_| UrlPrefix::parse(&format!("{url}/"))).ok();
    let prefix = url.and_then(legal).map_or_else(|| "https://api.carrier.example/v1/".to_owned(), |it| it.to_string());
    format!("{{ url_prefix = {prefix:?}, methods = [\"GET\"] }}")
}

fn http(mut table: Table<'_>, faults: &mut Faults<'_>) -> Option<HttpGrant> {
    let url_prefix = table.require("url_prefix", faults, value::url_prefix);
    let methods = table.require("methods", faults, value::methods);
    let private = table.take("private", faults, value::boolean).unwrap_or_default();
    table.finish(faults);
    Some(HttpGrant { url_prefix: url_prefix?, methods: methods?, private })
}

fn secrets(mut table: Table<'_>, faults: &mut Faults<'_>) -> BTreeMap<String, SecretSource> {
    table.take_all(faults, |name, v| {
        value::secret_name(name)?;
        value::secret_source(v)
    })
}

fn settings(mut table: Table<'_>, faults: &mut Faults<'_>) -> BTreeMap<String, String> {
    table.take_all(faults, |_, v| match v {
        DeValue::Integer(number) => Err(format!("settings are text: write \"{number}\"")),
        DeValue::Float(number) => Err(format!("settings are text: write \"{number}\"")),
        DeValue::Boolean(flag) => Err(format!("settings are text: write \"{flag}\"")),
        other => value::string(other).map(str::to_owned),
    })
}

fn limits(mut table: Table<'_>, faults: &mut Faults<'_>) -> Limits {
    let default = Limits::default();
    let mut bytes = |table: &mut Table<'_>, key, max, default| {
        let bytes = table.take(key, faults, |v| value::size(v, max));
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(default)
    };
    let (memory_bytes, effects_bytes, log_bytes, call_bytes) = (
        bytes(&mut table, "memory", MEMORY_BYTES_MAX, default.memory_bytes),
        bytes(&mut table, "effects", EVENT_BYTES_MAX, default.effects_bytes),
        bytes(&mut table, "log", EVENT_BYTES_MAX, default.log_bytes),
        bytes(&mut table, "call", EVENT_BYTES_MAX, default.call_bytes),
    );
    let mut rows = |table: &mut Table<'_>, key, max, default| {
        table.take(key, faults, |v| value::count(v, max)).map_or(default, |count| count.get() as usize)
    };
    let (writes, reads, order_changes) = (
        rows(&mut table, "writes", EVENT_ROWS_MAX, default.writes),
        rows(&mut table, "reads", EVENT_ROWS_MAX, default.reads),
        rows(&mut table, "order_changes", EVENT_ROWS_MAX, default.order_changes),
    );
    let (events, messages, records, handles) = (
        rows(&mut table, "events", EVENT_ROWS_MAX, default.events),
        rows(&mut table, "messages", EVENT_ROWS_MAX, default.messages),
        rows(&mut table, "records", EVENT_ROWS_MAX, default.records),
        rows(&mut table, "handles", HANDLES_MAX, default.handles),
    );
    let limits = Limits {
        memory_bytes,
        cpu: table.take("cpu", faults, |v| value::duration(v, TIME_MAX)).unwrap_or(default.cpu),
        share_permille: table.take("share", faults, value::cores).unwrap_or(default.share_permille),
        time: table.take("time", faults, |v| value::duration(v, TIME_MAX)).unwrap_or(default.time),
        state_bytes: table.take("state", faults, |v| value::size(v, u64::MAX)).unwrap_or(default.state_bytes),
        http: http_limits(&mut table, faults),
        effects_bytes,
        writes,
        reads,
        order_changes,
        events,
        messages,
        records,
        log_bytes,
        call_bytes,
        handles,
    };
    table.finish(faults);
    limits
}

fn http_limits(table: &mut Table<'_>, faults: &mut Faults<'_>) -> HttpLimits {
    let default = HttpLimits::default();
    let time = |v: &DeValue<'_>| value::duration(v, TIME_MAX);
    HttpLimits {
        calls: table
            .take("http_calls", faults, |v| value::count(v, HTTP_CALLS_MAX))
            .map_or(default.calls, NonZeroU32::get),
        bytes: table.take("http_bytes", faults, |v| value::size(v, MEMORY_BYTES_MAX)).unwrap_or(default.bytes),
        connect: table.take("http_connect", faults, time).unwrap_or(default.connect),
        first_byte: table.take("http_first_byte", faults, time).unwrap_or(default.first_byte),
    }
}

fn retry(mut table: Table<'_>, faults: &mut Faults<'_>) -> Retry {
    let default = Retry::default();
    let cap = table.take("cap", faults, |v| value::duration(v, AGE_MAX)).unwrap_or(default.cap);
    let base = table.take("base", faults, |v| match value::duration(v, AGE_MAX)? {
        base if base > cap => Err(format!("the first delay is longer than the longest, which is {cap:?}")),
        base => Ok(base),
    });
    let retry = Retry {
        max_attempts: table
            .take("max_attempts", faults, |v| value::count(v, NonZeroU32::MAX.get()))
            .unwrap_or(default.max_attempts),
        base: base.unwrap_or(default.base.min(cap)),
        cap,
        max_age: table.take("max_age", faults, |v| value::duration(v, AGE_MAX)).unwrap_or(default.max_age),
    };
    table.finish(faults);
    retry
}

fn rollout(mut table: Table<'_>, faults: &mut Faults<'_>) -> Option<Rollout> {
    let share_permille = table.require("percent", faults, value::percent);
    let rollout = Rollout {
        share_permille: share_permille.unwrap_or_default(),
        min_events: table
            .take("min_events", faults, |v| value::count(v, NonZeroU32::MAX.get()))
            .unwrap_or(Rollout::MIN_EVENTS_DEFAULT),
        max_failure_rate: table
            .take("max_failure_rate", faults, value::failure_rate)
            .unwrap_or(Rollout::MAX_FAILURE_RATE_DEFAULT),
        max_slowdown: table.take("max_slowdown", faults, value::slowdown),
    };
    table.finish(faults);
    share_permille.map(|_| rollout)
}

#[cfg(test)]
mod tests;
