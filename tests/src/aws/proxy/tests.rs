use std::thread;

use super::*;
use crate::aws::Protocol;
use crate::carrier::{Carrier, Reply};
use crate::eventually;

/// What a request says it wants, and what it sends.
const TRANSACT: (&str, &str, &str) = ("x-amz-target", "DynamoDB_20120810.TransactWriteItems", "{}");
const QUERY: (&str, &str, &str) = ("x-amz-target", "DynamoDB_20120810.Query", "{}");
const RECEIVE: (&str, &str, &str) = ("x-amz-target", "AmazonSQS.ReceiveMessage", "{}");
const PUBLISH: (&str, &str, &str) =
    ("content-type", "application/x-www-form-urlencoded", "TopicArn=a&Action=PublishBatch&Version=2010-03-31");

struct Shop {
    proxy: FaultProxy,
    emulator: Carrier,
    agent: Agent,
}

impl Shop {
    /// An emulator that answers every request as `body` says.
    fn with(body: &str) -> Self {
        let emulator = Carrier::start();
        let answer = || Reply::Answer(200, Some(("x-amzn-requestid", "R1".to_owned())), body.to_owned());
        emulator.tell((0..8).map(|_| answer()));
        let proxy = FaultProxy::before(emulator.url().trim_end_matches("v1/"));
        let config = Agent::config_builder().http_status_as_error(false);
        Self { proxy, emulator, agent: config.build().into() }
    }

    fn ask(&self, (header, value, body): (&str, &str, &str)) -> Result<(u16, HeaderMap, String), ureq::Error> {
        let mut answer = self.agent.post(self.proxy.url()).header(header, value).send(body)?;
        let body = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), answer.headers().clone(), body))
    }

    /// How many connections there were to the proxy.
    fn connections(&self) -> u64 {
        self.proxy.desk.state().opened
    }
}

#[test]
fn what_passes_comes_through_unchanged_over_one_connection() {
    let shop = Shop::with(r#"{"ConsumedCapacity":[{"TableName":"t","WriteCapacityUnits":7.0,"CapacityUnits":7.0}]}"#);
    for _ in 0..3 {
        let (status, headers, body) = shop.ask(TRANSACT).unwrap();
        assert_eq!((status, &headers["x-amzn-requestid"]), (200, &"R1".parse().unwrap()));
        assert!(body.contains(r#""TableName":"t""#), "{body}");
    }
    let requests = shop.emulator.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!(request.line, "POST / HTTP/1.1");
        assert_eq!((request.header(TRANSACT.0), request.body.as_str()), (TRANSACT.1, "{}"));
    }
    assert_eq!(shop.connections(), 1);
    assert_eq!(shop.proxy.bill().total(), crate::aws::Tally { requests: 3, read_units: 0.0, write_units: 21.0 });
    assert_eq!(shop.proxy.take_bill().requests("TransactWriteItems"), 3);
    assert_eq!(shop.proxy.bill(), Bill::default());
}

#[test]
fn each_service_is_throttled_in_its_own_words_without_its_hearing_of_it() {
    let shop = Shop::with("{}");
    shop.proxy.tell(Fault::Throttle);
    let (status, _, body) = shop.ask(TRANSACT).unwrap();
    assert_eq!(status, 400);
    let dynamodb: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dynamodb["__type"], "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException");
    assert!(dynamodb["message"].is_string());
    let (status, headers, body) = shop.ask(RECEIVE).unwrap();
    assert_eq!((status, &headers["x-amzn-query-error"]), (400, &"RequestThrottled;Sender".parse().unwrap()));
    assert!(body.contains("#RequestThrottled"), "{body}");
    let (status, _, body) = shop.ask(PUBLISH).unwrap();
    assert_eq!(status, 429);
    assert!(body.contains("<Type>Sender</Type><Code>Throttled</Code>"), "{body}");

    assert!(shop.emulator.requests().is_empty());
    let bill = shop.proxy.bill();
    let asked = ["TransactWriteItems", "ReceiveMessage", "PublishBatch"].map(|operation| bill.requests(operation));
    assert_eq!(asked, [1, 1, 1]);
    assert_eq!(shop.connections(), 1);
}

#[test]
fn each_service_fails_in_its_own_words() {
    let shop = Shop::with("{}");
    shop.proxy.tell(Fault::Fail(500));
    for (call, code) in [(QUERY, "#InternalServerError"), (RECEIVE, "#InternalError"), (PUBLISH, ">InternalError<")] {
        let (status, _, body) = shop.ask(call).unwrap();
        assert_eq!(status, 500);
        assert!(body.contains(code), "{body}");
    }
    shop.proxy.tell(Fault::Fail(503));
    assert!(shop.ask(QUERY).unwrap().2.contains("#ServiceUnavailable"));
    assert!(shop.emulator.requests().is_empty());
}

#[test]
fn an_answer_that_is_lost_is_of_something_done_and_a_request_that_is_lost_of_nothing() {
    let shop = Shop::with("{}");
    shop.proxy.tell(Fault::HangUp);
    shop.ask(TRANSACT).unwrap_err();
    assert!(shop.emulator.requests().is_empty());

    shop.proxy.tell(Fault::LoseAnswer);
    shop.ask(TRANSACT).unwrap_err();
    assert_eq!(shop.emulator.requests().len(), 1);

    // The next is answered: nothing of the connections before is left.
    shop.proxy.tell(Fault::Pass);
    assert_eq!(shop.ask(TRANSACT).unwrap().0, 200);
    assert_eq!(shop.proxy.bill().requests("TransactWriteItems"), 3);
}

#[test]
fn what_arrives_late_was_given_up_and_comes_behind_what_was_asked_since() {
    let shop = Shop::with("{}");
    shop.proxy.tell(Fault::ArriveLate(Duration::from_millis(200)));
    shop.ask(TRANSACT).unwrap_err();
    shop.proxy.tell(Fault::Pass);
    assert_eq!(shop.ask(QUERY).unwrap().0, 200);
    eventually("it arrives", || match shop.proxy.arrived_late() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    let targets: Vec<_> = shop.emulator.requests().iter().map(|it| it.header("x-amz-target").to_owned()).collect();
    assert_eq!(targets, [QUERY.1, TRANSACT.1]);
}

#[test]
fn faults_can_be_chosen_request_by_request() {
    let shop = Shop::with("{}");
    let mut writes = 0;
    shop.proxy.choose(move |call| {
        let is_write = call.protocol == Protocol::DynamoDb && call.operation == "TransactWriteItems";
        writes += u32::from(is_write);
        if is_write && writes == 2 { Fault::Throttle } else { Fault::Pass }
    });
    let answered = [TRANSACT, QUERY, TRANSACT, QUERY, TRANSACT].map(|call| shop.ask(call).unwrap().0);
    assert_eq!(answered, [200, 200, 400, 200, 200]);
}

#[test]
fn what_is_delayed_comes_all_the_same() {
    const DELAY: Duration = Duration::from_millis(50);
    let shop = Shop::with("{}");
    shop.proxy.tell(Fault::Delay(DELAY));
    let begin = std::time::Instant::now();
    assert_eq!(shop.ask(QUERY).unwrap().0, 200);
    assert!(begin.elapsed() >= DELAY);
}

#[test]
fn connections_that_wait_for_an_answer_can_be_cut() {
    let shop = Shop::with("{}");
    shop.proxy.tell(Fault::Pass);
    while shop.emulator.requests().len() < 8 {
        shop.ask(QUERY).unwrap();
    }
    shop.emulator.tell([Reply::Silence]);
    thread::scope(|scope| {
        let asks = scope.spawn(|| shop.ask(RECEIVE));
        eventually("the emulator is asked", || match shop.emulator.requests().len() {
            9 => Ok(()),
            count => Err(format!("{count} requests")),
        });
        shop.proxy.cut();
        asks.join().unwrap().unwrap_err();
    });
}
