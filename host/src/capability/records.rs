//! Rows for analysis, checked against the columns that the plugin declared.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::limits::{self, within};
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
        within("records for one event", self.records.len() + 1, limits::RECORDS_MAX)?;
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

/// The row as one JSON object with each column at most once.
fn fit(declared: &Dataset, row: &str) -> Result<String, String> {
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

fn is(of: ColumnType, value: &Value) -> bool {
    match (of, value) {
        (ColumnType::Text, Value::String(_)) | (ColumnType::Boolean, Value::Bool(_)) => true,
        (ColumnType::Int64, value) => value.is_i64(),
        (ColumnType::Float64, value) => value.is_number(),
        // jiff also reads a zone in brackets, which RFC 3339 does not have.
        (ColumnType::Timestamp, Value::String(text)) => !text.contains('[') && text.parse::<jiff::Timestamp>().is_ok(),
        (ColumnType::Date, Value::String(text)) => {
            text.len() == "2026-11-22".len() && text.parse::<jiff::civil::Date>().is_ok()
        }
        _ => false,
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
