//! What the aws backend is set to.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Given;
use super::check::{Check, boolean, one_of};
use super::retention::time;
use super::without_login;
use crate::backend::aws::{Endpoints, NotAPrefix, Settings, TopicKind};

/// Each waits longer than the one before; after this many the answer comes too late for anybody.
const ATTEMPTS_MAX: u32 = 10;
/// Shorter is less than a far region takes; longer, and a message is handled by another host meanwhile.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(50);

impl Check<'_> {
    /// Checked whether it is used or not.
    pub(super) fn aws(&mut self, insecure: bool) -> Settings {
        let default = Settings::default();
        let read = |text: &str| text.parse().map_err(|error: NotAPrefix| error.to_string());
        let prefix = self.read("aws.prefix", read).unwrap_or(default.prefix);
        let mut endpoint = |key| self.read(key, |text| endpoint(text, insecure));
        let endpoints = Endpoints {
            all: endpoint("aws.endpoint_url"),
            dynamodb: endpoint("aws.endpoint_url_dynamodb"),
            sns: endpoint("aws.endpoint_url_sns"),
            sqs: endpoint("aws.endpoint_url_sqs"),
        };
        let mut timeout = |key: &'static str, default: Duration| {
            let given = self.raw.take(key);
            let time = given.as_ref().and_then(|given| self.understand(given, timeout)).unwrap_or(default);
            (key, time, given)
        };
        let connect = timeout("aws.connect_timeout", default.connect_timeout);
        let attempt = timeout("aws.attempt_timeout", default.attempt_timeout);
        let operation = timeout("aws.operation_timeout", default.operation_timeout);
        self.within(&connect, &attempt);
        self.within(&attempt, &operation);
        Settings {
            prefix,
            endpoints,
            region: self.read("aws.region", region),
            profile: self.read("aws.profile", |text| Ok(text.to_owned())),
            provision: self.read("aws.provision", boolean).unwrap_or(default.provision),
            topic: self.read("aws.topic", topic).unwrap_or(default.topic),
            attempts_max: self.read("aws.attempts_max", attempts).unwrap_or(default.attempts_max),
            connect_timeout: connect.1,
            attempt_timeout: attempt.1,
            operation_timeout: operation.1,
        }
    }

    fn within(&mut self, short: &Read, long: &Read) {
        let ((short_key, short, short_given), (long_key, long, long_given)) = (short, long);
        if short > long
            && let Some(given) = short_given.as_ref().or(long_given.as_ref())
        {
            self.faults.push(format!(
                "{}: {short_key} ({short:?}) must not be longer than {long_key} ({long:?}), which it is part of",
                given.origin
            ));
        }
    }
}

/// A key, what it means, and what was written.
type Read = (&'static str, Duration, Option<Given>);

fn timeout(text: &str) -> Result<Duration, String> {
    let (least, most) = (TIMEOUTS.start(), TIMEOUTS.end());
    time(text)
        .filter(|time| TIMEOUTS.contains(time))
        .ok_or_else(|| format!("{text:?} is not a time from {least:?} to {most:?}, such as 500ms or 5s"))
}

/// Whether a region can be called so: it is a part of the names of AWS's hosts.
pub fn is_region(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(legal)
}

/// Whether it says by which scheme whom to call.
pub fn is_endpoint(text: &str) -> bool {
    let url = text.parse::<http::Uri>();
    url.is_ok_and(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")))
}

fn region(text: &str) -> Result<String, String> {
    if is_region(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a region such as eu-central-1")) }
}

fn endpoint(text: &str, insecure: bool) -> Result<String, String> {
    let shown = without_login(text);
    let wrong = || format!("{shown:?} is not a URL such as http://127.0.0.1:4566");
    let url: http::Uri = text.parse().map_err(|_| wrong())?;
    let host = url.host().ok_or_else(wrong)?;
    let this_machine = host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{shown:?}: requests are signed, and need no login: leave it out"));
    }
    match url.scheme_str() {
        Some("https") => Ok(text.to_owned()),
        Some("http") if this_machine || insecure => Ok(text.to_owned()),
        Some("http") => Err(format!(
            "{shown:?}: without TLS anybody on the way to {host} could read the orders: use https, or pass --insecure"
        )),
        _ => Err(wrong()),
    }
}

fn topic(text: &str) -> Result<TopicKind, String> {
    one_of(text, &[("fifo", TopicKind::Fifo), ("standard", TopicKind::Standard)])
}

fn attempts(text: &str) -> Result<NonZeroU32, String> {
    let wrong = || format!("{text:?} is not a number from 1 to {ATTEMPTS_MAX}");
    text.parse().ok().filter(|given: &NonZeroU32| given.get() <= ATTEMPTS_MAX).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;

    fn read(file: &str) -> Result<Settings, String> {
        let mut raw = RawConfig::default();
        raw.read_text(Path::new("fanfare.toml"), file).map_err(|error| error.to_string())?;
        raw.check(|_| None).map(|config| config.aws).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_can_be_set() {
        let file = r#"[aws]
prefix = "shop"
region = "eu-central-1"
profile = "production"
endpoint_url = "https://vpce.example.com"
endpoint_url_sns = "http://[::1]:4566"
provision = true
topic = "standard"
attempts_max = 2
connect_timeout = "500ms"
operation_timeout = "30s"
"#;
        let set = read(file).unwrap();
        assert_eq!((set.prefix.as_str(), set.region.as_deref()), ("shop", Some("eu-central-1")));
        assert_eq!((set.profile.as_deref(), set.provision), (Some("production"), true));
        let Endpoints { all, sns, sqs, dynamodb } = set.endpoints;
        assert_eq!((all.as_deref(), sns.as_deref()), (Some("https://vpce.example.com"), Some("http://[::1]:4566")));
        assert_eq!((sqs, dynamodb), (None, None));
        assert_eq!((set.topic, set.attempts_max.get()), (TopicKind::Standard, 2));
        assert_eq!(set.connect_timeout, Duration::from_millis(500));
        assert_eq!((set.attempt_timeout, set.operation_timeout), (Duration::from_secs(5), Duration::from_secs(30)));
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_never_shown() {
        for url in ["https://user:hunter2@x", "http://user:hunter2@x", "ftp://user:hunter2@x", "user:hunter2@x"] {
            let refused = read(&format!("[aws]\nendpoint_url = {url:?}")).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        assert!(read("[aws]\nendpoint_url = \"https://x/a@b\"").is_ok(), "no login");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let file = r#"[aws]
prefix = "my shop"
region = "Frankfurt"
endpoint_url = "127.0.0.1:4566"
endpoint_url_sqs = "http://queues.example.com"
endpoint_url_sns = "ftp://127.0.0.1"
provision = "yes"
topic = "lifo"
attempts_max = 0
connect_timeout = "6s"
operation_timeout = "1h"
"#;
        insta::assert_snapshot!(read(file).unwrap_err(), @r#"
        fanfare.toml:2: aws.prefix: "my shop" is no beginning of names at AWS: use 3 to 40 letters, digits, '-' and '_'
        fanfare.toml:4: aws.endpoint_url: "127.0.0.1:4566" is not a URL such as http://127.0.0.1:4566
        fanfare.toml:6: aws.endpoint_url_sns: "ftp://127.0.0.1" is not a URL such as http://127.0.0.1:4566
        fanfare.toml:5: aws.endpoint_url_sqs: "http://queues.example.com": without TLS anybody on the way to queues.example.com could read the orders: use https, or pass --insecure
        fanfare.toml:11: aws.operation_timeout: "1h" is not a time from 100ms to 50s, such as 500ms or 5s
        fanfare.toml:10: aws.connect_timeout: aws.connect_timeout (6s) must not be longer than aws.attempt_timeout (5s), which it is part of
        fanfare.toml:3: aws.region: "Frankfurt" is not a region such as eu-central-1
        fanfare.toml:7: aws.provision: "yes" is not known here: use true or false
        fanfare.toml:8: aws.topic: "lifo" is not known here: use fifo or standard
        fanfare.toml:9: aws.attempts_max: "0" is not a number from 1 to 10
        "#);
        insta::assert_snapshot!(read("[aws]\nendpoint = \"x\"").unwrap_err(), @r#"fanfare.toml:2: unknown key aws.endpoint; did you mean "endpoint_url"?"#);
    }
}
