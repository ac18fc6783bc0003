//! Requests in the words of API Gateway, as its documentation gives them.

use serde_json::{Value, json};

/// An HTTP API's event, payload format 2.0.
#[must_use]
pub fn request(method: &str, path: &str, headers: &Value, body: Option<&Value>) -> Value {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": with_json(headers),
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "r3pmxmplak",
            "domainName": "r3pmxmplak.execute-api.eu-central-1.amazonaws.com",
            "domainPrefix": "r3pmxmplak",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "205.255.255.176", "userAgent": "curl"},
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "10/Mar/2020:05:16:23 +0000",
            "timeEpoch": 1_583_817_383_220_u64,
        },
        "body": body.map(Value::to_string),
        "isBase64Encoded": false,
    })
}

/// A REST API's event, payload format 1.0, of the stage `prod`.
#[must_use]
pub fn request_v1(method: &str, path: &str, headers: &Value, body: Option<&Value>) -> Value {
    json!({
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": with_json(headers),
        "multiValueHeaders": {},
        "queryStringParameters": null,
        "multiValueQueryStringParameters": null,
        "pathParameters": {"proxy": path.trim_start_matches('/')},
        "stageVariables": null,
        "requestContext": {
            "accountId": "123456789012",
            "resourceId": "us4z18",
            "stage": "prod",
            "requestId": "41b45ea3-70b5-11e6-b7bd-69b5aaebc7d9",
            "identity": {"sourceIp": "205.255.255.176", "userAgent": "curl"},
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "apiId": "wt6mne2s9k",
            "path": format!("/prod{path}"),
            "protocol": "HTTP/1.1",
        },
        "body": body.map(Value::to_string),
        "isBase64Encoded": false,
    })
}

/// Status and body of what a function answered.
///
/// # Panics
/// If that is no answer to a request.
#[must_use]
#[track_caller]
pub fn asked(answer: &Value) -> (u64, Value) {
    let status = answer["statusCode"].as_u64().unwrap_or_else(|| panic!("no status: {answer}"));
    let text = answer["body"].as_str().unwrap_or_default();
    (status, serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
}

fn with_json(headers: &Value) -> Value {
    let mut headers = headers.clone();
    if headers["content-type"].is_null() {
        headers["content-type"] = json!("application/json");
    }
    headers["host"] = json!("r3pmxmplak.execute-api.eu-central-1.amazonaws.com");
    headers
}
