//! Rows for analysis, checked against the columns that the plugin declared.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::limits::{self, settable, within};
use super::{Handling, Stop};
use crate::effects::Record;
use crate::sandbox::{Column, ColumnType, Dataset};

impl Handling {
    /// Stages a row; the inner error says what does not fit.
    pub fn append(&mut self, dataset: &str, row: &str) -> Result<Result<(), String>, Stop> {
        let Some((name, declared)) = self.rights.datasets.iter().find(|(name, _)| **name == *dataset) else {
            return Err(Stop::grant(format!(
                "records {dataset}: not declared by the plugin or not granted: \
                 the plugin must need it, and {}.toml list it in grant.records",
                self.rights.consumer
            )));
        };
        let name = Arc::clone(name);
        settable("records", "records for one event", self.records.len() + 1, self.budget.limits.records)?;
        within("bytes of record", row.len(), limits::RECORD_BYTES_MAX)?;
        self.budget.stage(row.len())?;
        match fit(declared, row) {
            Ok(row) => {
                self.records.push(Record { dataset: name, row });
                Ok(Ok(()))
            }
            Err(misfit) => Ok(Err(misfit)),
        }
    }
}

/// The row as one JSON object on one line, with each column at most once.
fn fit(declared: &Dataset, row: &str) -> Result<String, String> {
    if Plain::fits(declared, row) {
        return Ok(row.to_owned());
    }
    let row: Map<String, Value> =
        serde_json::from_str(row).map_err(|error| format!("the row is not a JSON object: {error}"))?;
    if let Some(unknown) = row.keys().find(|key| declared.columns.iter().all(|column| column.name != **key)) {
        return Err(format!("{unknown}: {} has no such column", declared.name));
    }
    for Column { name, of, nullable } in &declared.columns {
        let value = row.get(name).unwrap_or(&Value::Null);
        if value.is_null() {
            if !nullable {
                return Err(format!("{name}: is missing, and the column is not nullable"));
            }
        } else if !is(*of, value) {
            return Err(format!("{name}: {} is not {}", shown(value), wanted(*of)));
        }
    }
    Ok(Value::Object(row).to_string())
}

/// A look at a row that reads it in one pass and builds nothing: what guests append fits, as a rule, and is kept as it
/// came. Where it does not hold, the whole of [`fit`] decides, and says why.
struct Plain<'d> {
    declared: &'d Dataset,
    /// A bit for each column that was there.
    seen: u64,
}

impl<'d> Plain<'d> {
    const COLUMNS_MAX: usize = 64;

    fn fits(declared: &'d Dataset, row: &str) -> bool {
        let columns = &declared.columns;
        if columns.len() > Self::COLUMNS_MAX || row.contains(['\n', '\r']) {
            return false;
        }
        let mut deserializer = serde_json::Deserializer::from_str(row);
        let read = deserializer.deserialize_map(Self { declared, seen: 0 });
        let Ok(Some(seen)) = read else { return false };
        deserializer.end().is_ok()
            && columns.iter().zip(0..).all(|(column, bit)| column.nullable || seen >> bit & 1 == 1)
    }

    /// Whether the value fits its column and the column was not there before.
    fn take(&mut self, name: &str, value: &RawValue) -> bool {
        let Some(bit) = self.declared.columns.iter().position(|column| column.name == name) else { return false };
        let new = self.seen >> bit & 1 == 0;
        self.seen |= 1 << bit;
        new && self.declared.columns.get(bit).is_some_and(|column| is_plainly(column, value.get()))
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    /// The columns that were there, if all of them fit.
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut row: A) -> Result<Self::Value, A::Error> {
        let mut fits = true;
        while let Some((name, value)) = row.next_entry::<&str, &RawValue>()? {
            fits = fits && self.take(name, value);
        }
        Ok(fits.then_some(self.seen))
    }
}

/// Whether a JSON value, as it is written, is one of the column's beyond doubt.
fn is_plainly(column: &Column, value: &str) -> bool {
    match column.of {
        // An escape of half a character (`\ud800`) is no text, and only a full parse tells.
        ColumnType::Text => value.starts_with('"') && !value.contains("\\u"),
        ColumnType::Boolean => matches!(value, "true" | "false"),
        ColumnType::Int64 => value != "-0" && value.parse::<i64>().is_ok(),
        ColumnType::Float64 => value.parse().is_ok_and(f64::is_finite),
        ColumnType::Timestamp | ColumnType::Date => value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .is_some_and(|value| !value.contains('\\') && is_time(column.of, value)),
    }
}

fn is(of: ColumnType, value: &Value) -> bool {
    match (of, value) {
        (ColumnType::Text, Value::String(_)) | (ColumnType::Boolean, Value::Bool(_)) => true,
        (ColumnType::Int64, value) => value.is_i64(),
        (ColumnType::Float64, value) => value.is_number(),
        (ColumnType::Timestamp | ColumnType::Date, Value::String(text)) => is_time(of, text),
        _ => false,
    }
}

fn is_time(of: ColumnType, text: &str) -> bool {
    match of {
        // jiff also reads a zone in brackets, which RFC 3339 does not have.
        ColumnType::Timestamp => !text.contains('[') && text.parse::<jiff::Timestamp>().is_ok(),
        _ => text.len() == "2026-11-22".len() && text.parse::<jiff::civil::Date>().is_ok(),
    }
}

fn wanted(of: ColumnType) -> &'static str {
    match of {
        ColumnType::Text => "text",
        ColumnType::Int64 => "a whole number of 64 bits",
        ColumnType::Float64 => "a number",
        ColumnType::Boolean => "true or false",
        ColumnType::Timestamp => "an RFC 3339 time such as 2026-11-22T10:00:00Z",
        ColumnType::Date => "a date such as 2026-11-22",
    }
}

/// The value, short enough for an error.
fn shown(value: &Value) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Memory, custom, dataset, everything, handling, overstep, rights};
    use super::*;
    use crate::policy::Grant;

    #[test]
    fn a_row_that_fits_is_staged_as_one_object() {
        let mut handling = handling(Memory::default());
        let row = r#"{"id":"a","n":-3,"x":1.5,"ok":true,"at":"2026-11-22T10:00:00+01:00","day":"2026-11-22"}"#;
        assert_eq!(handling.append("orders", row).unwrap(), Ok(()));
        assert_eq!(handling.append("orders", r#"{"id":"b", "id":"c", "n":null}"#).unwrap(), Ok(()));
        let (_, effects) = handling.finish();
        let rows: Vec<Value> = effects.records.iter().map(|row| serde_json::from_str(&row.row).unwrap()).collect();
        assert_eq!(rows[0], serde_json::from_str::<Value>(row).unwrap());
        assert_eq!(effects.records[1].row, r#"{"id":"c","n":null}"#, "each column stands once");
        assert_eq!(&*effects.records[0].dataset, "orders");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let misfit = |row: &str| fit(&dataset(), row).unwrap_err();
        for (row, words) in [
            (r#"[1]"#, "the row is not a JSON object"),
            (r#"{"n":1}"#, "id: is missing, and the column is not nullable"),
            (r#"{"id":"a","colour":"red"}"#, "colour: orders has no such column"),
            (r#"{"id":1}"#, "id: 1 is not text"),
            (r#"{"id":"\ud800"}"#, "the row is not a JSON object: unexpected end of hex escape"),
            (r#"{"id":"a","x":1e999}"#, "the row is not a JSON object: number out of range"),
            (r#"{"id":"a","n":1.5}"#, "n: 1.5 is not a whole number of 64 bits"),
            (r#"{"id":"a","n":9223372036854775808}"#, "n: 9223372036854775808 is not a whole number"),
            (r#"{"id":"a","x":"1"}"#, r#"x: "1" is not a number"#),
            (r#"{"id":"a","ok":0}"#, "ok: 0 is not true or false"),
            (r#"{"id":"a","at":"2026-11-22"}"#, "is not an RFC 3339 time"),
            (r#"{"id":"a","at":"2026-11-22T10:00:00Z[UTC]"}"#, "is not an RFC 3339 time"),
            (r#"{"id":"a","day":"2026-02-30"}"#, "is not a date"),
            (r#"{"id":"a","day":"2026-02-20T00:00:00"}"#, "is not a date"),
        ] {
            let said = misfit(row);
            assert!(said.contains(words), "{row}: {said}");
        }
    }

    #[test]
    fn a_row_on_several_lines_becomes_one() {
        let row = "{\"id\":\n\"a\"}";
        assert_eq!(fit(&dataset(), row).unwrap(), r#"{"id":"a"}"#);
    }

    proptest::proptest! {
        #[test]
        fn what_plainly_fits_fits(row in rows()) {
            let plainly = Plain::fits(&dataset(), &row);
            let declared = dataset();
            let whole = serde_json::from_str::<Map<String, Value>>(&row).is_ok_and(|row| {
                row.keys().all(|key| declared.columns.iter().any(|column| column.name == *key))
                    && declared.columns.iter().all(|column| match row.get(&column.name).unwrap_or(&Value::Null) {
                        Value::Null => column.nullable,
                        value => is(column.of, value),
                    })
            });
            proptest::prop_assert!(!plainly || whole, "{row}");
        }
    }

    /// Objects of columns and values that are right, nearly right and wrong.
    fn rows() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let names = prop::sample::select(vec!["id", "n", "x", "ok", "at", "day", "other"]);
        let values = prop::sample::select(vec![
            "null",
            "true",
            "0",
            "-0",
            "-3",
            "1.5",
            "1e3",
            "1e999",
            "9223372036854775808",
            "\"a\"",
            "\"\\ud800\"",
            "\"\\ud83d\\ude00\"",
            "\"2026-11-22\"",
            "\"2026-11-22T10:00:00Z\"",
            "\"2026-11-22T10:00:00Z[UTC]\"",
            "\"\\u0032026-11-22\"",
            "[]",
            "{}",
        ]);
        prop::collection::vec((names, values), 0..7).prop_map(|columns| {
            let columns = columns.iter().map(|(name, value)| format!("\"{name}\":{value}"));
            format!("{{{}}}", columns.collect::<Vec<_>>().join(","))
        })
    }

    #[test]
    fn a_misfit_is_an_answer_and_stages_nothing() {
        let mut handling = handling(Memory::default());
        assert!(handling.append("orders", "{}").unwrap().is_err());
        assert!(handling.finish().1.is_empty());
    }

    #[test]
    fn a_data_set_must_be_declared_and_granted() {
        let mut granted = Handling::new(rights(everything()), custom("a", 0), Arc::new(Memory::default()));
        assert_eq!(overstep(granted.append("lines", "{}")).0, "grant");
        let mut denied = Handling::new(rights(Grant::default()), custom("a", 0), Arc::new(Memory::default()));
        let (kind, message) = overstep(denied.append("orders", r#"{"id":"a"}"#));
        assert_eq!(kind, "grant");
        assert!(message.contains("inventory.toml list it in grant.records"), "{message}");
    }
}
