//! Requests that any emulator answers once it is there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// No emulator looks at either.
pub const REGION: &str = "eu-central-1";
pub const CREDENTIAL: &str = "fanfare";

/// The first answer of LocalStack takes the longest: it reads what all requests and answers look like.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What there was in place of an answer.
pub type Instead = String;

pub fn tables(port: u16) -> Result<(), Instead> {
    const JSON: &str = "content-type: application/x-amz-json-1.0\r\nx-amz-target: DynamoDB_20120810.ListTables";
    list(port, "dynamodb", JSON, "{}")
}

pub fn queues(port: u16) -> Result<(), Instead> {
    const JSON: &str = "content-type: application/x-amz-json-1.0\r\nx-amz-target: AmazonSQS.ListQueues";
    list(port, "sqs", JSON, "{}")
}

pub fn topics(port: u16) -> Result<(), Instead> {
    const FORM: &str = "content-type: application/x-www-form-urlencoded";
    list(port, "sns", FORM, "Action=ListTopics&Version=2010-03-31")
}

pub fn stacks(port: u16) -> Result<(), Instead> {
    const FORM: &str = "content-type: application/x-www-form-urlencoded";
    list(port, "cloudformation", FORM, "Action=ListStacks&Version=2010-05-15")
}

fn list(port: u16, service: &str, headers: &str, body: &str) -> Result<(), Instead> {
    // LocalStack learns from the scope which service is meant, dynoxide wants a date; neither checks the signature.
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {}:{port}\r\nconnection: close\r\n{headers}\r\nx-amz-date: 20260101T000000Z\r\n\
         authorization: AWS4-HMAC-SHA256 Credential={CREDENTIAL}/20260101/{REGION}/{service}/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature=none\r\ncontent-length: {}\r\n\r\n{body}",
        Ipv4Addr::LOCALHOST,
        body.len()
    );
    let answer = ask(port, &request).map_err(|error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
}

fn ask(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
