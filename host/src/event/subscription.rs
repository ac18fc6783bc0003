//! What a consumer hears: kinds of events, each narrowed by a filter or not. Pure.

use std::fmt;
use std::sync::Arc;

use super::filter::Filter;
use super::{Body, Event, KindPattern, Share};

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
pub struct Subscriptions {
    everywhere: Arc<[Subscription]>,
    /// What is heard besides, of some lanes alone.
    in_share: Option<(Share, Arc<[Subscription]>)>,
}

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
        any(&self.everywhere, event)
            || self.in_share.as_ref().is_some_and(|(share, besides)| any(besides, event) && share.has(&event.lane()))
    }

    /// These, and of the lanes in `share` what `others` hear too.
    #[must_use]
    pub fn with(&self, share: Share, others: &Self) -> Self {
        let besides = (self.everywhere != others.everywhere).then(|| (share, Arc::clone(&others.everywhere)));
        Self { everywhere: Arc::clone(&self.everywhere), in_share: besides }
    }

    /// Without what is heard of a share of the lanes.
    #[must_use]
    pub fn everywhere(&self) -> Self {
        Self { everywhere: Arc::clone(&self.everywhere), in_share: None }
    }

    /// Whether the kind of an event is not all that counts.
    #[must_use]
    pub fn filter(&self) -> bool {
        self.in_share.is_some() || self.everywhere.iter().any(|subscription| subscription.filter.is_some())
    }

    /// Whether events of `kind` are wanted, all or those that a filter lets through.
    #[must_use]
    pub fn hear(&self, kind: &str) -> bool {
        self.kinds().any(|pattern| pattern.matches(kind))
    }

    /// The kinds of everything that is heard, of every lane and of some.
    pub fn kinds(&self) -> impl Iterator<Item = &KindPattern> {
        let besides = self.in_share.iter().flat_map(|(_, besides)| besides.iter());
        self.everywhere.iter().chain(besides).map(|subscription| &subscription.kind)
    }

    /// Those of every lane.
    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.everywhere.iter()
    }
}

fn any(subscriptions: &[Subscription], event: &Event) -> bool {
    let kind = event.kind();
    subscriptions
        .iter()
        .filter(|subscription| subscription.kind.matches(kind))
        .any(|subscription| subscription.filter.as_ref().is_none_or(|filter| event.passes(filter)))
}

impl<S: Into<Subscription>> FromIterator<S> for Subscriptions {
    fn from_iter<I: IntoIterator<Item = S>>(subscriptions: I) -> Self {
        Self { everywhere: subscriptions.into_iter().map(Into::into).collect(), in_share: None }
    }
}
