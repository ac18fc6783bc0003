//! A batch of which every second entry is refused.

use serde_json::{Value, json};

use super::call::{Call, Protocol};

/// Of forms, as SNS takes them.
const MEMBERS: &str = "PublishBatchRequestEntries.member.";

/// What goes on to the emulator, and what is refused.
pub(super) struct Half {
    pub body: String,
    /// Ids within the batch.
    refused: Vec<String>,
    code: &'static str,
}

impl Half {
    /// One that is no batch, or a batch of one, stays whole.
    pub fn of(call: &Call, code: &'static str) -> Self {
        let (body, refused) = match call.protocol {
            Protocol::Query => halved_form(&call.body),
            Protocol::DynamoDb | Protocol::Sqs => halved_json(&call.body),
        };
        Self { body, refused, code }
    }

    /// The emulator's answer, and beside it what was refused.
    pub fn answer(&self, call: &Call, answer: &[u8]) -> String {
        let answer = String::from_utf8_lossy(answer).into_owned();
        if self.refused.is_empty() {
            return answer;
        }
        match call.protocol {
            Protocol::Query => {
                let failed = |id: &String| {
                    format!("<member><Id>{id}</Id><Code>{}</Code><SenderFault>false</SenderFault></member>", self.code)
                };
                let failed: String = self.refused.iter().map(failed).collect();
                let answer = answer.replace("<Failed/>", "").replace("<Failed />", "").replace("<Failed></Failed>", "");
                answer.replacen("</PublishBatchResult>", &format!("<Failed>{failed}</Failed></PublishBatchResult>"), 1)
            }
            Protocol::DynamoDb | Protocol::Sqs => {
                let Ok(mut whole) = serde_json::from_str::<Value>(&answer) else { return answer };
                let failed = |id: &String| json!({"Id": id, "Code": self.code, "SenderFault": false});
                whole["Failed"] = self.refused.iter().map(failed).collect();
                whole.to_string()
            }
        }
    }
}

fn halved_json(body: &str) -> (String, Vec<String>) {
    let Ok(mut request) = serde_json::from_str::<Value>(body) else { return (body.to_owned(), Vec::new()) };
    let Some(entries) = request["Entries"].as_array().cloned() else { return (body.to_owned(), Vec::new()) };
    let (kept, refused): (Vec<_>, Vec<_>) = entries.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    request["Entries"] = kept.into_iter().map(|(_, entry)| entry).collect();
    let id = |(_, entry): (usize, Value)| entry["Id"].as_str().unwrap_or_default().to_owned();
    (request.to_string(), refused.into_iter().map(id).collect())
}

fn halved_form(body: &str) -> (String, Vec<String>) {
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for field in body.split('&') {
        let Some((number, rest)) = field.strip_prefix(MEMBERS).and_then(|rest| rest.split_once('.')) else {
            kept.push(field.to_owned());
            continue;
        };
        // They count from 1.
        let number: usize = number.parse().unwrap_or_default();
        if number % 2 == 1 {
            kept.push(format!("{MEMBERS}{}.{rest}", number.div_ceil(2)));
        } else if let Some(id) = rest.strip_prefix("Id=") {
            refused.push(id.to_owned());
        }
    }
    (kept.join("&"), refused)
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderMap;

    use super::*;

    #[test]
    fn every_second_entry_goes_on_and_the_others_are_told_to_be_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", "AmazonSQS.DeleteMessageBatch".parse().unwrap());
        let call = Call::new(&headers, br#"{"Entries":[{"Id":"a"},{"Id":"b"},{"Id":"c"}]}"#);
        let half = Half::of(&call, "InternalError");
        assert_eq!(half.body, r#"{"Entries":[{"Id":"a"},{"Id":"c"}]}"#);
        let answer: Value = serde_json::from_str(&half.answer(&call, br#"{"Successful":[{"Id":"a"}]}"#)).unwrap();
        let failed = json!([{"Id": "b", "Code": "InternalError", "SenderFault": false}]);
        assert_eq!(answer, json!({"Successful": [{"Id": "a"}], "Failed": failed}));

        let member = "PublishBatchRequestEntries.member";
        let form = format!("Action=PublishBatch&{member}.1.Id=0&{member}.2.Id=1&{member}.2.Message=b&{member}.3.Id=2");
        let call = Call::new(&HeaderMap::new(), form.as_bytes());
        let half = Half::of(&call, "InternalError");
        assert_eq!(half.body, format!("Action=PublishBatch&{member}.1.Id=0&{member}.2.Id=2"));
        let answer = half.answer(&call, b"<R><PublishBatchResult><Failed/></PublishBatchResult></R>");
        assert!(answer.contains("<Failed><member><Id>1</Id><Code>InternalError</Code>"), "{answer}");
    }
}
