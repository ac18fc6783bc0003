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

/// Seconds since 1970 of a date as HTTP writes it, `Sun, 06 Nov 1994 08:49:37 GMT`: IMF-fixdate of RFC 9110, 5.6.7. `None`
/// for anything else, the obsolete forms included.
pub fn parse_http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let [day, month, year, clock] = rest.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let [hours, minutes, seconds] = clock.split(':').map(digits).collect::<Option<Vec<_>>>()?.try_into().ok()?;
    let month = (1..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
    let (day, year) = (digits(day)?, digits(year)?);
    let fits = (1..=31).contains(&day) && (1970..10_000).contains(&year) && hours < 24 && minutes < 60 && seconds < 61;
    fits.then(|| days(year, month, day) * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The reverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year).saturating_sub(719_468)
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
    fn dates_of_http_are_read_back() {
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for day in (0..60_000).step_by(37) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
        for wrong in
            ["", "soon", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nix 1994 08:49:37 GMT", "Sun, 6 Nov +994 8:9:7 GMT"]
        {
            assert_eq!(parse_http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rfc3339_keeps_milliseconds() {
        assert_eq!(rfc3339(1_795_341_600_007), "2026-11-22T10:00:00.007Z");
    }
}
