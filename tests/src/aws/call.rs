//! One request to AWS, and the answers that AWS refuses with.

use ureq::http::HeaderMap;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub protocol: Protocol,
    /// `TransactWriteItems`, `ReceiveMessage`, `PublishBatch`; empty where the request says none.
    pub operation: String,
    pub body: String,
}

/// How a service is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    DynamoDb,
    Sqs,
    /// SNS, and whatever else sends forms.
    Query,
}

/// What is answered in place of the emulator.
pub(super) struct Refusal {
    pub status: u16,
    pub content_type: &'static str,
    /// `x-amzn-query-error`, by which SQS tells the codes of its former protocol.
    pub query_error: Option<String>,
    pub body: String,
}

impl Refusal {
    /// What no service answers: a page.
    pub(super) fn page(status: u16) -> Self {
        let body = "<!doctype html><html><body>Bad gateway</body></html>".to_owned();
        Self { status, content_type: "text/html", query_error: None, body }
    }
}

impl Call {
    pub(super) fn new(headers: &HeaderMap, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body).into_owned();
        let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some((service, operation)) = target.split_once('.') {
            let protocol = if service == "AmazonSQS" { Protocol::Sqs } else { Protocol::DynamoDb };
            return Self { protocol, operation: operation.to_owned(), body };
        }
        let operation = body.split('&').find_map(|field| field.strip_prefix("Action=")).unwrap_or_default();
        Self { protocol: Protocol::Query, operation: operation.to_owned(), body }
    }

    /// The request, so that it is answered with its units; `None` where it asks for them, or uses none.
    pub(super) fn metered(&self) -> Option<String> {
        let uses =
            ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan", "BatchGetItem", "BatchWriteItem"];
        let asks = self.body.contains("\"ReturnConsumedCapacity\"");
        if self.protocol != Protocol::DynamoDb || !uses.contains(&self.operation.as_str()) || asks {
            return None;
        }
        let rest = self.body.strip_prefix('{')?;
        Some(format!(r#"{{"ReturnConsumedCapacity":"TOTAL",{rest}"#))
    }

    /// Too many requests, in the service's own words.
    pub(super) fn throttle(&self) -> Refusal {
        match self.protocol {
            Protocol::DynamoDb => self.refuse(400, "ProvisionedThroughputExceededException"),
            Protocol::Sqs => self.refuse(400, "RequestThrottled"),
            Protocol::Query => self.refuse(429, "Throttled"),
        }
    }

    /// The service's own fault.
    pub(super) fn fail(&self, status: u16) -> Refusal {
        match (self.protocol, status) {
            (_, 503) => self.refuse(status, "ServiceUnavailable"),
            (Protocol::DynamoDb, _) => self.refuse(status, "InternalServerError"),
            (Protocol::Sqs | Protocol::Query, _) => self.refuse(status, "InternalError"),
        }
    }

    /// That there is nothing.
    pub(super) fn nothing(&self) -> Refusal {
        Refusal { status: 200, content_type: "application/x-amz-json-1.0", query_error: None, body: "{}".to_owned() }
    }

    pub(super) fn refuse(&self, status: u16, code: &str) -> Refusal {
        let fault = if status < 500 { "Sender" } else { "Receiver" };
        let message = "the fault proxy was told to";
        let (content_type, query_error, body) = match self.protocol {
            Protocol::DynamoDb => {
                let body = format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"{message}"}}"#);
                ("application/x-amz-json-1.0", None, body)
            }
            Protocol::Sqs => {
                let body = format!(r#"{{"__type":"com.amazonaws.sqs#{code}","message":"{message}"}}"#);
                ("application/x-amz-json-1.0", Some(format!("{code};{fault}")), body)
            }
            Protocol::Query => {
                let error =
                    format!("<Error><Type>{fault}</Type><Code>{code}</Code><Message>{message}</Message></Error>");
                ("text/xml", None, format!("<ErrorResponse>{error}<RequestId>0</RequestId></ErrorResponse>"))
            }
        };
        Refusal { status, content_type, query_error, body }
    }
}
