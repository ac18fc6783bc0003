//! What AWS would bill: requests, and units of DynamoDB's capacity.

use std::collections::BTreeMap;

use serde_json::Value;

use super::call::{Call, Protocol};

/// Operations that read; every other one writes.
const READS: [&str; 6] = ["GetItem", "Query", "Scan", "BatchGetItem", "TransactGetItems", "ExecuteStatement"];

/// By operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bill(pub BTreeMap<String, Tally>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Those that were refused too.
    pub requests: u64,
    /// Of what answered with its consumed capacity: a request has to ask for that.
    pub read_units: f64,
    pub write_units: f64,
}

impl Bill {
    /// How often an operation was asked for.
    #[must_use]
    pub fn requests(&self, operation: &str) -> u64 {
        self.0.get(operation).map_or(0, |tally| tally.requests)
    }

    /// Of all operations together.
    #[must_use]
    pub fn total(&self) -> Tally {
        self.0.values().fold(Tally::default(), |sum, tally| Tally {
            requests: sum.requests + tally.requests,
            read_units: sum.read_units + tally.read_units,
            write_units: sum.write_units + tally.write_units,
        })
    }

    pub(super) fn asked(&mut self, call: &Call) {
        self.0.entry(call.operation.clone()).or_default().requests += 1;
    }

    pub(super) fn answered(&mut self, call: &Call, answer: &[u8]) {
        if call.protocol != Protocol::DynamoDb {
            return;
        }
        let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return };
        let tally = self.0.entry(call.operation.clone()).or_default();
        // One for each table, where the operation can touch several.
        let consumed = match &answer["ConsumedCapacity"] {
            Value::Array(tables) => tables.as_slice(),
            table => std::slice::from_ref(table),
        };
        for table in consumed {
            let units = |kind: &str| table[kind].as_f64();
            // A transaction that is repeated by its token reads, though the operation writes.
            match (units("ReadCapacityUnits"), units("WriteCapacityUnits")) {
                (None, None) if READS.contains(&call.operation.as_str()) => {
                    tally.read_units += units("CapacityUnits").unwrap_or(0.0);
                }
                (None, None) => tally.write_units += units("CapacityUnits").unwrap_or(0.0),
                (read, write) => {
                    tally.read_units += read.unwrap_or(0.0);
                    tally.write_units += write.unwrap_or(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ureq::http::HeaderMap;

    use super::*;

    fn call(operation: &str) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", format!("DynamoDB_20120810.{operation}").parse().unwrap());
        Call::new(&headers, b"{}")
    }

    fn bill(operation: &str, consumed: &Value) -> Tally {
        let mut bill = Bill::default();
        bill.asked(&call(operation));
        bill.answered(&call(operation), json!({"ConsumedCapacity": consumed}).to_string().as_bytes());
        bill.total()
    }

    #[test]
    fn units_are_read_or_written_as_the_answer_says_and_else_as_the_operation_does() {
        let units = |read_units, write_units| Tally { requests: 1, read_units, write_units };
        assert_eq!(bill("PutItem", &json!({"CapacityUnits": 4.0})), units(0.0, 4.0));
        assert_eq!(bill("Query", &json!({"CapacityUnits": 0.5})), units(0.5, 0.0));
        assert_eq!(bill("BatchGetItem", &json!([{"CapacityUnits": 1.0}, {"CapacityUnits": 2.5}])), units(3.5, 0.0));
        let first = json!([{"CapacityUnits": 10.0, "WriteCapacityUnits": 10.0}]);
        assert_eq!(bill("TransactWriteItems", &first), units(0.0, 10.0));
        let repeated = json!([{"CapacityUnits": 8.0, "ReadCapacityUnits": 8.0}]);
        assert_eq!(bill("TransactWriteItems", &repeated), units(8.0, 0.0));
        assert_eq!(bill("PutItem", &Value::Null), units(0.0, 0.0));
    }

    #[test]
    fn requests_are_counted_by_operation_whatever_becomes_of_them() {
        let mut bill = Bill::default();
        for operation in ["Query", "PutItem", "Query"] {
            bill.asked(&call(operation));
        }
        assert_eq!((bill.requests("Query"), bill.requests("PutItem"), bill.requests("Scan")), (2, 1, 0));
        assert_eq!(bill.total().requests, 3);
    }
}
