//! Wall-clock time, in the one unit that the contract speaks: milliseconds since the Unix epoch.

use std::fmt;
use std::time::Duration;

use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An offset of a whole day is none that RFC 3339 knows: its hours end with 23.
const OFFSET_SECONDS_END: u32 = 24 * 3600;

/// Milliseconds since the Unix epoch, UTC. Spoken as RFC 3339 with milliseconds in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest instant that can be written and read in every time zone: 9999-12-30T22:00:00.000Z.
    pub const MAX: Self = Self(253_402_207_200_000);

    /// Now, by the machine's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    /// `millis` since the Unix epoch; beyond [`Timestamp::MAX`] counts as `MAX`.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(millis.min(Self::MAX.0))
    }

    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// This instant and `by` more, never beyond [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This instant and `by` less, never before the epoch.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to this instant; nothing if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).map_err(|_| fmt::Error)?;
        let at = jiff::Timestamp::from_millisecond(millis).map_err(|_| fmt::Error)?;
        write!(f, "{at:.3}")
    }
}

/// Why a text is not a [`Timestamp`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time from 1970 on, such as 2026-11-22T10:00:00Z")]
pub struct NotATime(String);

impl std::str::FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotATime(text.to_owned());
        let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        let offset = Pieces::parse(text).ok().and_then(|pieces| pieces.to_numeric_offset()).ok_or_else(wrong)?;
        if offset.seconds().unsigned_abs() >= OFFSET_SECONDS_END {
            return Err(wrong());
        }
        let millis = u64::try_from(at.as_millisecond()).ok().filter(|millis| *millis <= Self::MAX.0);
        millis.map(Self).ok_or_else(wrong)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        let at = Timestamp::from_millis(1_795_341_600_123);
        assert_eq!(at.to_string(), "2026-11-22T10:00:00.123Z");
        assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
    }

    #[test]
    fn a_time_before_the_epoch_is_refused() {
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
    }

    #[test]
    fn an_offset_is_less_than_a_day() {
        let read = |text: &str| text.parse::<Timestamp>();
        let noon = read("2026-11-22T12:00:00Z").unwrap();
        assert_eq!(read("2026-11-22T13:30:00+01:30").unwrap(), noon);
        assert_eq!(read("2026-11-21T12:01:00-23:59").unwrap(), noon);
        for wrong in ["+24:00", "+25:00", "-25:59", "+25:00[+25:00]", ""] {
            let text = format!("2026-11-22T12:00:00{wrong}");
            assert_eq!(
                read(&text).unwrap_err().to_string(),
                format!("{text:?} is not an RFC 3339 time from 1970 on, such as 2026-11-22T10:00:00Z")
            );
        }
    }

    #[test]
    fn the_latest_instant_is_written_and_read_back() {
        for late in [Timestamp::MAX, Timestamp::from_millis(u64::MAX), Timestamp::now().plus(std::time::Duration::MAX)]
        {
            assert_eq!(late.to_string().parse::<Timestamp>().unwrap(), Timestamp::MAX);
        }
    }
}
