//! What a consumer hears: kinds of events, each narrowed by a filter or not. Pure.

use std::fmt;
use std::sync::Arc;

use super::filter::Filter;
use super::{Body, Event, KindPattern};

/// Events of a kind, and of those the ones whose data matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub kind: KindPattern,
    pub filter: Option<Filter>,
}

impl From<KindPattern> for Subscription {
    fn from(kind: KindPattern) -> Self {
        Self { kind, filter: None }
    }
}

/// The kind, and behind it the filter.
impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.filter {
            Some(filter) => write!(f, "{} {filter}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

/// All that one consumer hears. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriptions(Arc<[Subscription]>);

impl Event {
    /// Whether the event's data matches.
    #[must_use]
    pub fn passes(&self, filter: &Filter) -> bool {
        match &self.body {
            Body::OrderChanged { order, change } => filter.matches(&super::Changed { order, change }),
            Body::Custom(custom) => filter.matches_json(&custom.data),
        }
    }
}

impl Subscriptions {
    #[must_use]
    pub fn want(&self, event: &Event) -> bool {
        let kind = event.kind();
        self.0
            .iter()
            .filter(|subscription| subscription.kind.matches(kind))
            .any(|subscription| subscription.filter.as_ref().is_none_or(|filter| event.passes(filter)))
    }

    /// Whether the kind of an event is not all that counts.
    #[must_use]
    pub fn filter(&self) -> bool {
        self.0.iter().any(|subscription| subscription.filter.is_some())
    }

    /// Whether events of `kind` are wanted, all or those that a filter lets through.
    #[must_use]
    pub fn hear(&self, kind: &str) -> bool {
        self.0.iter().any(|subscription| subscription.kind.matches(kind))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter()
    }
}

impl<S: Into<Subscription>> FromIterator<S> for Subscriptions {
    fn from_iter<I: IntoIterator<Item = S>>(subscriptions: I) -> Self {
        Self(subscriptions.into_iter().map(Into::into).collect())
    }
}
