//! Which recorded events: `FROM..TO`, both included and either left out, or one event. Pure.

use std::fmt;
use std::str::FromStr;

use super::{EventId, Position};
use crate::clock::Timestamp;

/// Without `from` it begins with the oldest event that is there, without `to` it ends with the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRange {
    pub from: Option<Bound>,
    pub to: Option<Bound>,
}

/// An event, or the moment at which events were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Position(Position),
    Id(EventId),
    At(Timestamp),
}

/// Why a text is not an [`EventRange`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a range of events: write FROM..TO, each the id of an event, its position in the journal, a time such as \
     2026-11-22T10:00:00Z, or nothing; or one id or position alone"
)]
pub struct NotARange(String);

impl FromStr for EventRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotARange(text.to_owned());
        let bound = |end: &str| match end {
            "" => Ok(None),
            end => Bound::parse(end).map(Some).ok_or_else(wrong),
        };
        match text.split_once("..") {
            Some((from, to)) => Ok(Self { from: bound(from)?, to: bound(to)? }),
            None => match Bound::parse(text) {
                // Nobody means the events of one millisecond.
                None | Some(Bound::At(_)) => Err(wrong()),
                one => Ok(Self { from: one, to: one }),
            },
        }
    }
}

impl Bound {
    fn parse(text: &str) -> Option<Self> {
        let position = || text.parse().ok().and_then(Position::new).map(Self::Position);
        let id = || text.parse().ok().map(Self::Id);
        position().or_else(id).or_else(|| text.parse().ok().map(Self::At))
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => write!(f, "position {position}"),
            Self::Id(id) => write!(f, "event {id}"),
            Self::At(time) => write!(f, "{time}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> EventRange {
        text.parse().unwrap()
    }

    fn at(position: u64) -> Option<Bound> {
        Position::new(position).map(Bound::Position)
    }

    #[test]
    fn either_end_is_a_position_an_id_a_time_or_open() {
        assert_eq!(range("3..17"), EventRange { from: at(3), to: at(17) });
        assert_eq!(range(".."), EventRange { from: None, to: None });
        let id = EventId::generate();
        assert_eq!(range(&format!("{id}..")), EventRange { from: Some(Bound::Id(id)), to: None });
        let time = Timestamp::from_millis(1_795_341_600_500);
        let expected = EventRange { from: Some(Bound::At(time)), to: at(9) };
        assert_eq!(range("2026-11-22T10:00:00.500Z..9"), expected);
    }

    #[test]
    fn one_event_is_a_range_and_one_time_is_none() {
        assert_eq!(range("7"), EventRange { from: at(7), to: at(7) });
        for wrong in ["", "0", "0..5", "5..=6", "-1..", "...", "1...3", "1-3", "yesterday..", "2026-11-22T10:00:00Z"] {
            let told = wrong.parse::<EventRange>().unwrap_err().to_string();
            assert!(told.contains("write FROM..TO"), "{told}");
        }
    }
}
