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
