//! Building a `Description`: what a plugin is, listens to and asks for.

use crate::{Column, ColumnType, Dataset, Description, HttpNeed, Need, Subscription};

impl Description {
    /// `version` is the plugin's semantic version: `env!("CARGO_PKG_VERSION")`. The state version starts at 1.
    pub fn new(version: &str, summary: &str) -> Self {
        Self {
            version: version.to_owned(),
            state_version: 1,
            summary: summary.to_owned(),
            subscriptions: Vec::new(),
            needs: Vec::new(),
        }
    }

    /// Raise it whenever the layout of the state changes.
    #[must_use]
    pub fn state_version(mut self, state_version: u32) -> Self {
        self.state_version = state_version;
        self
    }

    /// Listens to an event kind, or to a prefix of kinds ending in `*`.
    #[must_use]
    pub fn on(mut self, kind: &str) -> Self {
        self.subscriptions.push(Subscription { kind: kind.to_owned(), filter: None });
        self
    }

    /// Listens to those events of a kind that an Amazon SNS filter policy over the event's JSON body lets through.
    #[must_use]
    pub fn on_filtered(mut self, kind: &str, filter: &str) -> Self {
        self.subscriptions.push(Subscription { kind: kind.to_owned(), filter: Some(filter.to_owned()) });
        self
    }

    /// Asks the operator for something beyond the consumer's own state.
    #[must_use]
    pub fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }
}

impl Need {
    /// To call URLs that start with `url_prefix`.
    pub fn http(url_prefix: &str, methods: &[&str]) -> Self {
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        Self::Http(HttpNeed { url_prefix: url_prefix.to_owned(), methods })
    }

    /// To append rows to a data set with these columns.
    pub fn records(name: &str, columns: Vec<Column>) -> Self {
        Self::Records(Dataset { name: name.to_owned(), columns })
    }

    /// To publish custom events of this kind, or of kinds with a prefix ending in `*`.
    pub fn publish(kind: &str) -> Self {
        Self::Publish(kind.to_owned())
    }

    /// A setting without which the consumer cannot work.
    pub fn setting(name: &str) -> Self {
        Self::Setting(name.to_owned())
    }

    /// A secret, usable as `{{secret:NAME}}` in an outgoing HTTP header.
    pub fn secret(name: &str) -> Self {
        Self::Secret(name.to_owned())
    }
}

impl Column {
    /// A column that every row must fill.
    pub fn new(name: &str, of: ColumnType) -> Self {
        Self { name: name.to_owned(), of, nullable: false }
    }

    /// A column that may be null or left out.
    pub fn nullable(name: &str, of: ColumnType) -> Self {
        Self { name: name.to_owned(), of, nullable: true }
    }
}
