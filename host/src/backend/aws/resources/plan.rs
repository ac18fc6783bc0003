//! The difference between what should be and what is, as a value.

use std::fmt;

use serde::Serialize;

/// What to do so that everything is as it should be; nothing, where it is. Shown as one line a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
}

/// One thing to do. Two steps are equal where they change the same thing from the same to the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    #[serde(flatten)]
    pub on: Resource,
    #[serde(flatten)]
    pub change: Change,
    /// Whether a host cannot do its work without.
    pub needed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "resource", rename_all = "kebab-case")]
pub enum Resource {
    Table {
        name: String,
    },
    Index {
        name: String,
        table: String,
    },
    Topic {
        name: String,
    },
    Queue {
        name: String,
    },
    /// Of the queue to the topic.
    Subscription {
        name: String,
        topic: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    Create {
        settings: Vec<Setting>,
    },
    /// To nothing, where the value is empty.
    Set {
        setting: Setting,
        found: Option<String>,
    },
    Tag {
        tag: Setting,
        found: Option<String>,
    },
    /// Taken away and made anew: nothing else changes what is wrong with it.
    Replace {
        found: String,
        wanted: String,
    },
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
}

impl Setting {
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Plan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether a host cannot do its work before this is done.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.steps.iter().any(|step| step.needed)
    }
}

impl Step {
    pub fn needed(on: Resource, change: Change) -> Self {
        Self { on, change, needed: true }
    }

    pub fn useful(on: Resource, change: Change) -> Self {
        Self { on, change, needed: false }
    }

    /// Steps of a lower stage come first, and what is there is looked at again before the next: what it takes then exists.
    pub fn stage(&self) -> u8 {
        match (&self.on, &self.change) {
            // Before its queue lets the topic send, a subscription loses what is published.
            (Resource::Subscription { .. }, Change::Create { .. }) => 2,
            (_, Change::Create { .. } | Change::Replace { .. }) => 0,
            _ => 1,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { on, change, .. } = self;
        match change {
            Change::Create { settings } if settings.is_empty() => write!(f, "create {on}"),
            Change::Create { settings } => {
                let settings: Vec<_> =
                    settings.iter().map(|Setting { name, value }| format!("{name} = {value}")).collect();
                write!(f, "create {on}: {}", settings.join(", "))
            }
            Change::Set { setting: Setting { name, value }, found: Some(found) } if value.is_empty() => {
                write!(f, "remove {name} of {on}: it is {found}")
            }
            Change::Set { setting: Setting { name, value }, found } => {
                write!(f, "set {name} of {on} to {value}: it is {}", found.as_deref().unwrap_or("not set"))
            }
            Change::Tag { tag: Setting { name, value }, found } => {
                write!(f, "tag {on} with {name} = {value}: it is {}", found.as_deref().unwrap_or("not there"))
            }
            Change::Replace { found, wanted } => write!(f, "replace {on}: it is {found}, and should be {wanted}"),
            Change::Delete => write!(f, "delete {on}"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { name } => write!(f, "table {name}"),
            Self::Index { name, table } => write!(f, "index {name} of table {table}"),
            Self::Topic { name } => write!(f, "topic {name}"),
            Self::Queue { name } => write!(f, "queue {name}"),
            Self::Subscription { name, topic } => write!(f, "subscription of queue {name} to topic {topic}"),
        }
    }
}
