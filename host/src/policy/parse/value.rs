//! Single values of a side file: each reader says what it expected and how it is written.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::event::filter::{EXAMPLE, Filter};
use crate::event::{KindPattern, NotAKind};
use crate::policy::{METHODS, Rate, SHADOW_DIR, SecretSource, Start, UrlPrefix};

/// What is quoted of a wrong value, in characters: enough to find it.
const QUOTED_CHARS_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 64;
/// No machine has more for one consumer.
const CORES_MAX: u16 = 1024;

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected text in quotes, got {}", told(value)))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected true or false, got {}", told(value)))
}

pub(super) fn list<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items = value.as_array().ok_or_else(|| format!("expected a list in [ ], got {}", told(value)))?;
    items.iter().map(|item| read(item.get_ref())).collect()
}

pub(super) fn one_of<T: Copy, const N: usize>(value: &DeValue<'_>, choices: [(&str, T); N]) -> Result<T, String> {
    choices.iter().find(|(name, _)| value.as_str() == Some(*name)).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        format!("expected {}, got {}", names.join(" or "), told(value))
    })
}

pub(super) fn count(value: &DeValue<'_>, max: u32) -> Result<NonZeroU32, String> {
    value
        .as_integer()
        .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok())
        .and_then(NonZeroU32::new)
        .filter(|number| number.get() <= max)
        .ok_or_else(|| format!("expected a number from 1 to {max}, got {}", told(value)))
}

/// `"500/s"`.
pub(super) fn rate(value: &DeValue<'_>) -> Result<Rate, String> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("expected a rate such as \"500/s\", got {}", told(value)))
}

/// `"50ms"`, `"5s"`, `"10m"`, `"2h"`, `"7d"`; more than nothing.
pub(super) fn duration(value: &DeValue<'_>, max: Duration) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let millis = value.as_str().and_then(|text| measured(text, &UNITS));
    let wrong = || format!("expected a time such as \"50ms\", \"5s\", \"10m\" or \"7d\", got {}", told(value));
    match Duration::from_millis(millis.ok_or_else(wrong)?) {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        long if long > max => Err(format!("{} is more than the {max:?} that are allowed", told(value))),
        fine => Ok(fine),
    }
}

/// `"64MiB"`, `"1GiB"`; more than nothing.
pub(super) fn size(value: &DeValue<'_>, max: u64) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
    let bytes = value.as_str().and_then(|text| measured(text, &UNITS));
    match bytes.ok_or_else(|| format!("expected a size such as \"64MiB\" or \"1GiB\", got {}", told(value)))? {
        0 => Err("must be more than nothing".to_owned()),
        large if large > max => Err(format!("{} is more than the {max} bytes that are allowed", told(value))),
        fine => Ok(fine),
    }
}

/// As [`size`], or `"0"`.
pub(super) fn size_or_none(value: &DeValue<'_>, max: u64) -> Result<u64, String> {
    if value.as_str() == Some("0") { Ok(0) } else { size(value, max) }
}

/// `"now"`, `"beginning"` or a time.
pub(super) fn start(value: &DeValue<'_>) -> Result<Start, String> {
    let wrong =
        || format!("expected \"now\", \"beginning\" or a time such as \"2026-11-22T10:00:00Z\", got {}", told(value));
    let text = match value {
        DeValue::Datetime(time) => time.to_string(),
        other => other.as_str().ok_or_else(wrong)?.to_owned(),
    };
    match text.as_str() {
        "now" => Ok(Start::Now),
        "beginning" => Ok(Start::Beginning),
        time => time.parse().map(Start::At).map_err(|_| wrong()),
    }
}

fn pattern(value: &DeValue<'_>) -> Result<KindPattern, String> {
    string(value)?.parse().map_err(|error: NotAKind| error.to_string())
}

/// A pattern over kinds of events that there may be.
pub(super) fn heard(value: &DeValue<'_>) -> Result<KindPattern, String> {
    pattern(value)?.heard().map_err(|error| error.to_string())
}

/// A filter policy of SNS, as JSON.
pub(super) fn filter(value: &DeValue<'_>) -> Result<Filter, String> {
    let wrong = || format!("expected a filter as JSON in single quotes, such as '{EXAMPLE}', got {}", told(value));
    Filter::parse(value.as_str().ok_or_else(wrong)?).map_err(|error| error.to_string())
}

/// A pattern over custom kinds: order kinds are the host's own.
pub(super) fn published(value: &DeValue<'_>) -> Result<KindPattern, String> {
    let pattern = pattern(value)?;
    match pattern.to_string() {
        text if text == "order" || text.starts_with("order.") => {
            Err(format!("{text:?} cannot be granted: order events are the host's own"))
        }
        _ => Ok(pattern),
    }
}

pub(super) fn methods(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match list(value, method)? {
        none if none.is_empty() => Err("name at least one method, or nothing may be called".to_owned()),
        methods => Ok(methods),
    }
}

fn method(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value)?;
    match METHODS.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one of {}, got {}", METHODS.join(", "), told(value))),
    }
}

pub(super) fn dataset(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value)?;
    if is_name(text) { Ok(text.to_owned()) } else { Err(format!("{} is not a data set: {A_NAME}", told(value))) }
}

pub(super) fn secret_name(name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err(format!("is not a name for a secret: {A_NAME}")) }
}

/// `"env:NAME"` or `"file:PATH"`. The value itself never stands in a side file, and is not quoted in faults.
pub(super) fn secret_source(value: &DeValue<'_>) -> Result<SecretSource, String> {
    let text = value.as_str().unwrap_or_default();
    match text.split_once(':') {
        Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
            Ok(SecretSource::Env(name.to_owned()))
        }
        Some(("file", path)) if !path.is_empty() && !path.contains('\0') => Ok(SecretSource::File(PathBuf::from(path))),
        _ => Err("expected where the secret is found: \"env:NAME\" or \"file:PATH\"".to_owned()),
    }
}

/// A part of one core, or some: thousandths.
pub(super) fn cores(value: &DeValue<'_>) -> Result<u32, String> {
    let cores = number(value).filter(|cores| (0.01..=f64::from(CORES_MAX)).contains(cores));
    cores
        .map(thousandths)
        .ok_or_else(|| format!("expected a number of cores from 0.01 to {CORES_MAX}, such as 0.5, got {}", told(value)))
}

/// A share of the orders: thousandths. All of them is no share.
pub(super) fn percent(value: &DeValue<'_>) -> Result<u32, String> {
    let percent = number(value).filter(|percent| (0.1..=99.0).contains(percent));
    percent
        .map(|percent| thousandths(percent / 100.0))
        .ok_or_else(|| format!("expected percent of the orders from 0.1 to 99, such as 10, got {}", told(value)))
}

/// The name of a plugin file in the folder of shadows.
pub(super) fn shadow(value: &DeValue<'_>) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let name = |text: &&str| {
        let stem = text.strip_suffix(".wasm").unwrap_or_default();
        !stem.is_empty() && !stem.starts_with('.') && text.len() <= NAME_BYTES_MAX && text.bytes().all(legal)
    };
    value.as_str().filter(name).map(str::to_owned).ok_or_else(|| {
        format!(
            "expected the name of a file in the folder {SHADOW_DIR}/ beside the side file, such as \"candidate.wasm\", got {}",
            told(value)
        )
    })
}

pub(super) fn failure_rate(value: &DeValue<'_>) -> Result<f64, String> {
    let rate = number(value).filter(|rate| (0.0..1.0).contains(rate));
    rate.ok_or_else(|| format!("expected a part from 0 to less than 1, such as 0.01, got {}", told(value)))
}

pub(super) fn slowdown(value: &DeValue<'_>) -> Result<f64, String> {
    let factor = number(value).filter(|factor| (1.0..=1_000.0).contains(factor));
    factor
        .ok_or_else(|| format!("expected how many times the duration from 1 to 1000, such as 1.5, got {}", told(value)))
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers give 0.001 to a few thousand")]
fn thousandths(number: f64) -> u32 {
    (number * 1_000.0).round() as u32
}

/// The beginning of URLs that may be called.
pub(super) fn url_prefix(value: &DeValue<'_>) -> Result<UrlPrefix, String> {
    let text = string(value)?;
    UrlPrefix::parse(text).map_err(|why| format!("{} {why}", quoted(text)))
}

/// As plugins may name what they need.
const A_NAME: &str = "use 1 to 64 letters, digits, '_' and '-'";

fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(legal)
}

/// A wrong value as it is told in a fault.
pub(super) fn told(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => quoted_bare(&number.to_string()),
        DeValue::Float(number) => quoted_bare(&number.to_string()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", quoted_bare(text))
}

fn quoted_bare(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A whole number and one of `units`; `None` for anything else, and where the product does not fit.
fn measured(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let number_end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(number_end)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits(number)?.checked_mul(*factor)
}

fn digits(text: &str) -> Option<u64> {
    // `parse` alone would take "+5".
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
