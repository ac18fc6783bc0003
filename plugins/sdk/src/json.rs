//! Reading the JSON of custom events and of one's own entries, with errors that name the field.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Serialize;
pub use serde_json::{Map, Value, json};

/// What is wrong with a piece of JSON, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    field: String,
    problem: String,
}

impl Error {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Error {}

/// The `data` of a custom event, which must be a JSON object.
pub struct Data(Map<String, Value>);

impl Data {
    pub fn parse(data: &str) -> Result<Self, Error> {
        match serde_json::from_str(data) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Error::new("data", "must be a JSON object")),
            Err(error) => Err(Error::new("data", format!("is not JSON: {error}"))),
        }
    }

    /// A text that is not empty.
    pub fn text(&self, field: &str) -> Result<&str, Error> {
        match self.0.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            found => Err(misfit(field, "a text that is not empty", found)),
        }
    }

    /// A whole number within `range`. `3.0` and `"3"` are not whole numbers.
    pub fn integer(&self, field: &str, range: RangeInclusive<i64>) -> Result<i64, Error> {
        let found = self.0.get(field);
        match found.and_then(Value::as_i64) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(misfit(field, &expected, found))
            }
        }
    }
}

/// The JSON text of a value that always has one: no map keys but texts, no failing `Serialize`.
pub fn to_string(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn misfit(field: &str, expected: &str, found: Option<&Value>) -> Error {
    let problem = match found {
        None => format!("is missing; it must be {expected}"),
        Some(found) => format!("must be {expected}, not {}", shortened(&found.to_string())),
    };
    Error::new(format!("data.{field}"), problem)
}

/// The sender chose the value: reasons are stored and shown, so only its beginning is repeated.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem<T>(result: Result<T, Error>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn errors_name_the_field_and_what_stood_there() {
        let Ok(data) = Data::parse(r#"{"sku": "", "quantity": 1.5}"#) else { panic!("an object") };
        assert_eq!(problem(data.text("sku")), r#"data.sku: must be a text that is not empty, not """#);
        assert_eq!(
            problem(data.integer("quantity", 1..=9)),
            "data.quantity: must be a whole number from 1 to 9, not 1.5"
        );
        assert_eq!(problem(data.text("name")), "data.name: is missing; it must be a text that is not empty");
    }

    #[test]
    fn numbers_beyond_the_range_are_refused() {
        let Ok(data) = Data::parse(r#"{"low": 0, "high": 10, "fits": 9, "huge": 18446744073709551615}"#) else {
            panic!("an object")
        };
        assert!(data.integer("low", 1..=9).is_err());
        assert!(data.integer("high", 1..=9).is_err());
        assert!(data.integer("huge", 1..=9).is_err());
        assert_eq!(data.integer("fits", 1..=9), Ok(9));
    }

    #[test]
    fn only_objects_are_data() {
        assert_eq!(problem(Data::parse("[1]")), "data: must be a JSON object");
        assert!(problem(Data::parse("{")).starts_with("data: is not JSON: "));
    }

    #[test]
    fn long_values_are_shortened_at_a_character() {
        let long = "ü".repeat(100);
        let Ok(data) = Data::parse(&format!(r#"{{"n": "{long}"}}"#)) else { panic!("an object") };
        assert!(problem(data.integer("n", 0..=1)).ends_with("ü…"));
    }
}
