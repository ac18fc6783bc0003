//! What a plugin says about itself, checked: a description that reaches the rest of the host is well-formed and bounded.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::contract::v0_1::handler as wit;
use crate::event::filter::Filter;
use crate::event::{KindPattern, Subscription};
use crate::policy::{METHODS, UrlPrefix};

/// Subscriptions and needs are matched against every event and every grant, so neither may be many.
const SUBSCRIPTIONS_MAX: usize = 64;
const NEEDS_MAX: usize = 64;
const COLUMNS_MAX: usize = 256;
const METHODS_MAX: usize = 16;
/// A summary is one line of a table.
const SUMMARY_BYTES_MAX: usize = 500;
const NAME_BYTES_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Semantic version of the plugin.
    pub version: semver::Version,
    /// Versions with different numbers never share state at the same time.
    pub state_version: u32,
    pub summary: String,
    pub subscriptions: Vec<Subscription>,
    pub needs: Vec<Need>,
}

/// Something beyond its own state that the plugin asks the operator for.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    Http { url_prefix: UrlPrefix, methods: Vec<String> },
    Email,
    Sms,
    Records(Dataset),
    ChangeOrder,
    Publish(KindPattern),
    Setting(String),
    Secret(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    pub name: String,
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub of: ColumnType,
    pub nullable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    Text,
    Int64,
    Float64,
    Boolean,
    /// RFC 3339.
    Timestamp,
    /// `YYYY-MM-DD`.
    Date,
}

/// The need as an operator would grant it in a side file.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url_prefix, methods } => write!(f, "http {url_prefix} ({})", methods.join(", ")),
            Self::Email => f.write_str("email"),
            Self::Sms => f.write_str("sms"),
            Self::Records(dataset) => write!(f, "records {}", dataset.name),
            Self::ChangeOrder => f.write_str("change_order"),
            Self::Publish(kind) => write!(f, "publish {kind}"),
            Self::Setting(name) => write!(f, "setting {name}"),
            Self::Secret(name) => write!(f, "secret {name}"),
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
        })
    }
}

/// What is wrong with a description, in words for the plugin's author.
type Wrong = String;

impl Description {
    /// Checks what a guest returned.
    pub(super) fn check(described: wit::Description) -> Result<Self, Wrong> {
        let wit::Description { version, state_version, summary, subscriptions, needs } = described;
        at_most("subscriptions", subscriptions.len(), SUBSCRIPTIONS_MAX)?;
        at_most("needs", needs.len(), NEEDS_MAX)?;
        at_most("bytes of summary", summary.len(), SUMMARY_BYTES_MAX)?;
        at_most("bytes of version", version.len(), NAME_BYTES_MAX)?;
        if summary.chars().any(char::is_control) {
            return Err("summary: must be one line of text".to_owned());
        }
        if subscriptions.is_empty() {
            return Err("subscriptions: name at least one event kind, or nothing will ever be delivered".to_owned());
        }
        Ok(Self {
            version: semver::Version::parse(&version)
                .map_err(|error| format!("version: {version:?} is not a semantic version ({error}); use 1.2.0"))?,
            state_version,
            summary,
            subscriptions: subscriptions.into_iter().map(subscription).collect::<Result<_, _>>()?,
            needs: needs.into_iter().map(need).collect::<Result<_, _>>()?,
        })
    }
}

fn subscription(wit::Subscription { kind, filter }: wit::Subscription) -> Result<Subscription, Wrong> {
    let kind = KindPattern::from_str(&kind).map_err(|error| format!("subscriptions: {error}"))?;
    let kind = kind.heard().map_err(|error| format!("subscriptions: {error}"))?;
    let filter = filter.map(|filter| Filter::parse(&filter)).transpose();
    let filter = filter.map_err(|error| format!("subscriptions: the filter of {kind}: {error}"))?;
    Ok(Subscription { kind, filter })
}

fn need(need: wit::Need) -> Result<Need, Wrong> {
    Ok(match need {
        wit::Need::Http(wit::HttpNeed { url_prefix, methods }) => {
            at_most("methods", methods.len(), METHODS_MAX)?;
            let url_prefix =
                UrlPrefix::parse(&url_prefix).map_err(|why| format!("needs: http: {} {why}", shown(&url_prefix)))?;
            // What no side file can grant would be waited for for ever.
            if let Some(method) = methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
                let granted = METHODS.join(", ");
                return Err(format!("needs: http: {} is not a method that can be granted: {granted}", shown(method)));
            }
            if methods.is_empty() {
                return Err("needs: http: name at least one method that it calls with".to_owned());
            }
            Need::Http { url_prefix, methods }
        }
        wit::Need::Email => Need::Email,
        wit::Need::Sms => Need::Sms,
        wit::Need::Records(wit::Dataset { name, columns }) => dataset(name, columns)?,
        wit::Need::ChangeOrder => Need::ChangeOrder,
        wit::Need::Publish(kind) => {
            let kind = KindPattern::from_str(&kind).map_err(|error| format!("needs: publish: {error}"))?;
            // `*` stands for every kind that is a consumer's to publish.
            let text = kind.to_string();
            if text == "order" || text.starts_with("order.") {
                return Err(format!("needs: publish: {kind} is the host's own; use a kind such as com.example.{kind}"));
            }
            Need::Publish(kind)
        }
        wit::Need::Setting(name) => Need::Setting(named("setting", name)?),
        wit::Need::Secret(name) => Need::Secret(named("secret", name)?),
    })
}

fn dataset(name: String, columns: Vec<wit::Column>) -> Result<Need, Wrong> {
    let name = named("records", name)?;
    at_most("columns", columns.len(), COLUMNS_MAX)?;
    if columns.is_empty() {
        return Err(format!("needs: records {name}: declare at least one column"));
    }
    let columns: Vec<Column> = columns.into_iter().map(column).collect::<Result<_, _>>()?;
    for (index, column) in columns.iter().enumerate() {
        if columns.iter().take(index).any(|earlier| earlier.name == column.name) {
            return Err(format!("needs: records {name}: column {} stands twice", column.name));
        }
    }
    Ok(Need::Records(Dataset { name, columns }))
}

fn column(wit::Column { name, of, nullable }: wit::Column) -> Result<Column, Wrong> {
    let of = match of {
        wit::ColumnType::Text => ColumnType::Text,
        wit::ColumnType::Int64 => ColumnType::Int64,
        wit::ColumnType::Float64 => ColumnType::Float64,
        wit::ColumnType::Boolean => ColumnType::Boolean,
        wit::ColumnType::Timestamp => ColumnType::Timestamp,
        wit::ColumnType::Date => ColumnType::Date,
    };
    Ok(Column { name: named("column", name)?, of, nullable })
}

/// Names end up in folder names, column names and side files.
fn named(what: &str, name: String) -> Result<String, Wrong> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(legal) {
        Ok(name)
    } else {
        Err(format!("needs: {what}: {name:?} is not a name; use 1 to {NAME_BYTES_MAX} letters, digits, '-' and '_'"))
    }
}

/// A text that may be of any length.
fn shown(text: &str) -> String {
    format!("{:?}", text.get(..text.floor_char_boundary(SUMMARY_BYTES_MAX)).unwrap_or_default())
}

fn at_most(what: &str, given: usize, max: usize) -> Result<(), Wrong> {
    if given <= max { Ok(()) } else { Err(format!("{given} {what} are too many: at most {max}")) }
}

#[cfg(test)]
mod tests;
