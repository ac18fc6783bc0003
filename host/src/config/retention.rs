//! How long things are kept: each by itself, and then against the others.

use std::time::Duration;

use super::Given;
use super::check::Check;
use crate::backend::{Keep, Retention};

/// What nobody means who writes a number of days.
const TIME_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

impl Check<'_> {
    pub(super) fn retention(&mut self) -> Retention {
        let default = Retention::default();
        let mut read = |key: &'static str, default: Keep| {
            let given = self.raw.take(key);
            let keep = given.as_ref().and_then(|given| self.understand(given, keep)).unwrap_or(default);
            (key, keep, given)
        };
        let events = read("retention.events", default.events);
        let orders = read("retention.orders", default.orders);
        let open_orders = read("retention.open_orders", default.open_orders);
        let idempotency = read("retention.idempotency", default.idempotency);
        let attempts = read("retention.attempts", default.attempts).1;
        let messages = read("retention.messages", default.messages).1;
        let records = read("retention.records", default.records).1;
        self.not_longer(&events, &orders, "an order stays as long as its events do");
        self.not_longer(&orders, &open_orders, "an order that can still change stays as long as one that cannot");
        self.not_longer(&idempotency, &orders, "a repeat is answered with its order, which must be there");
        let (events, orders, open_orders, idempotency) = (events.1, orders.1, open_orders.1, idempotency.1);
        Retention { events, orders, open_orders, attempts, messages, records, idempotency }
    }

    fn not_longer(&mut self, short: &Read, long: &Read, why: &str) {
        let ((short_key, short, short_given), (long_key, long, long_given)) = (short, long);
        if short.is_longer_than(*long)
            && let Some(given) = long_given.as_ref().or(short_given.as_ref())
        {
            self.faults.push(format!("{}: {short_key} must not be longer than {long_key}: {why}", given.origin));
        }
    }
}

/// A key, what it means, and what was written.
type Read = (&'static str, Keep, Option<Given>);

/// `90d`, `12h`, … or `forever`.
fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" {
        return Ok(Keep::Forever);
    }
    match time(text) {
        Some(time) if time > Duration::ZERO && time <= TIME_MAX => Ok(Keep::For(time)),
        Some(_) => Err(format!("{text:?} is not a time that anything is kept for: use 1s to 36500d, or forever")),
        None => Err(format!("{text:?} is not a time such as 90d, 12h or 30m, nor forever")),
    }
}

/// A number and its unit.
pub(super) fn time(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;

    const DAY: Duration = Duration::from_secs(86_400);

    fn read(file: &str) -> Result<Retention, String> {
        let mut raw = RawConfig::default();
        raw.read_text(Path::new("fanfare.toml"), file).map_err(|error| error.to_string())?;
        raw.check(|_| None).map(|config| config.retention).map_err(|error| error.to_string())
    }

    #[test]
    fn orders_and_events_stay_for_ever_unless_told_otherwise() {
        assert_eq!(read("").unwrap(), Retention::default());
        let set = read("[retention]\nevents = \"90d\"\norders = \"400d\"\nrecords = \"12h\"\nmessages = \"forever\"")
            .unwrap();
        assert_eq!((set.events, set.orders), (Keep::For(90 * DAY), Keep::For(400 * DAY)));
        assert_eq!((set.records, set.messages, set.open_orders), (Keep::For(DAY / 2), Keep::Forever, Keep::Forever));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let file = "[retention]\nevents = \"90\"\norders = \"0d\"\nmessages = \"1w\"\nidempotency = 7";
        insta::assert_snapshot!(read(file).unwrap_err(), @r#"
        fanfare.toml:2: retention.events: "90" is not a time such as 90d, 12h or 30m, nor forever
        fanfare.toml:3: retention.orders: "0d" is not a time that anything is kept for: use 1s to 36500d, or forever
        fanfare.toml:5: retention.idempotency: "7" is not a time such as 90d, 12h or 30m, nor forever
        fanfare.toml:4: retention.messages: "1w" is not a time such as 90d, 12h or 30m, nor forever
        "#);
    }

    #[test]
    fn nothing_is_kept_for_longer_than_what_it_needs() {
        insta::assert_snapshot!(read("[retention]\norders = \"90d\"").unwrap_err(), @"fanfare.toml:2: retention.orders: retention.events must not be longer than retention.orders: an order stays as long as its events do");
        insta::assert_snapshot!(read("[retention]\nevents = \"1d\"\norders = \"9d\"\nopen_orders = \"8d\"").unwrap_err(), @"fanfare.toml:4: retention.open_orders: retention.orders must not be longer than retention.open_orders: an order that can still change stays as long as one that cannot");
        insta::assert_snapshot!(read("[retention]\nevents = \"1d\"\norders = \"2d\"").unwrap_err(), @"fanfare.toml:3: retention.orders: retention.idempotency must not be longer than retention.orders: a repeat is answered with its order, which must be there");
    }
}
