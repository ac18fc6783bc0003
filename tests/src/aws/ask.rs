//! Requests to an emulator, unsigned: none of them checks signatures.

use serde_json::Value;

/// There has to be one.
const DATE: &str = "20260101T000000Z";

/// LocalStack learns from the scope which service is meant.
fn authorization(service: &str) -> String {
    let scope = format!("20260101/eu-central-1/{service}/aws4_request");
    format!("AWS4-HMAC-SHA256 Credential=fanfare/{scope}, SignedHeaders=host, Signature=none")
}

/// Status and answer of one request in JSON, at `url`: `AmazonSQS.CreateQueue`, `DynamoDB_20120810.GetItem`.
///
/// # Panics
/// If no answer comes.
#[must_use]
pub fn ask(url: &str, target: &str, body: &Value) -> (u16, Value) {
    let service = if target.starts_with("AmazonSQS") { "sqs" } else { "dynamodb" };
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(url).header("authorization", authorization(service)).header("x-amz-date", DATE);
    let request = request.header("x-amz-target", target).content_type("application/x-amz-json-1.0");
    let mut answer = request.send(body.to_string()).expect("an answer");
    let text = answer.body_mut().read_to_string().expect("a text");
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// What SNS answers to a form.
///
/// # Panics
/// If no answer comes.
#[must_use]
pub fn ask_sns(url: &str, form: &[(&str, &str)]) -> String {
    let request = ureq::post(url).header("authorization", authorization("sns")).header("x-amz-date", DATE);
    let mut answer = request.send_form(form.iter().copied()).expect("an answer");
    answer.body_mut().read_to_string().expect("a text")
}
