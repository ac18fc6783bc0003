//! Timestamps as text, in UTC. A consumer has no calendar library: this is all that the shipped ones need.

const DAY_MS: u64 = 86_400_000;

/// `2026-11-22`.
pub fn date(timestamp_ms: u64) -> String {
    let (year, month, day) = civil(timestamp_ms / DAY_MS);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-22T10:00:00.000Z`, RFC 3339.
pub fn rfc3339(timestamp_ms: u64) -> String {
    let ms = timestamp_ms % DAY_MS;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", date(timestamp_ms), ms % 1_000)
}

/// Days since 1970-01-01 to year, month and day of the Gregorian calendar: Howard Hinnant's `civil_from_days`, for days
/// after the epoch only. <https://howardhinnant.github.io/date_algorithms.html>
fn civil(days: u64) -> (u64, u64, u64) {
    // Years start in March here, so that the leap day is the last of its year; eras are 400 years of 146 097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_turn_at_midnight_utc() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(DAY_MS - 1), "1970-01-01");
        assert_eq!(date(DAY_MS), "1970-01-02");
    }

    #[test]
    fn leap_days_fall_where_the_gregorian_calendar_has_them() {
        assert_eq!(date(951_782_400_000), "2000-02-29");
        assert_eq!(date(1_709_164_800_000), "2024-02-29");
        assert_eq!(date(4_107_542_400_000), "2100-03-01");
        assert_eq!(date(4_107_542_399_999), "2100-02-28");
    }

    #[test]
    fn rfc3339_keeps_milliseconds() {
        assert_eq!(rfc3339(1_795_341_600_007), "2026-11-22T10:00:00.007Z");
    }
}
