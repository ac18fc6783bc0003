//! What stands in for AWS does what the stories about AWS count on.

use fanfare_tests::aws::{self, Bill, FaultProxy};
use fanfare_tests::{Value, eventually, json};

fn ask(proxy: &FaultProxy, target: &str, body: &Value) -> (u16, Value) {
    aws::ask(&proxy.url(), target, body)
}

/// What SNS answers to a form, as far as it stands in `element`.
fn ask_sns(proxy: &FaultProxy, form: &[(&str, &str)], element: &str) -> String {
    let text = aws::ask_sns(&proxy.url(), form);
    let found = text.split(&format!("<{element}>")).nth(1).and_then(|rest| rest.split('<').next());
    found.unwrap_or_else(|| panic!("no {element} in {text}")).to_owned()
}

/// A name that no other test has.
fn name(kind: &str) -> String {
    format!("emulators-{kind}-{}", std::process::id())
}

#[test]
fn a_transaction_is_written_once_for_its_token_and_billed_as_aws_does() {
    let proxy = FaultProxy::before(&aws::endpoint("DYNAMODB"));
    let table = name("table");
    let dynamodb = |operation: &str, body: &Value| ask(&proxy, &format!("DynamoDB_20120810.{operation}"), body);
    let key = json!({"AttributeName": "pk", "KeyType": "HASH"});
    let attribute = json!({"AttributeName": "pk", "AttributeType": "S"});
    let description = json!({"TableName": table, "BillingMode": "PAY_PER_REQUEST", "KeySchema": [key],
        "AttributeDefinitions": [attribute]});
    assert_eq!(dynamodb("CreateTable", &description).0, 200);
    eventually("the table is active", || {
        let (_, answer) = dynamodb("DescribeTable", &json!({"TableName": table}));
        if answer["Table"]["TableStatus"] == "ACTIVE" { Ok(()) } else { Err(answer.to_string()) }
    });

    let put =
        json!({"TableName": table, "Item": {"pk": {"S": "order"}}, "ConditionExpression": "attribute_not_exists(pk)"});
    let add = json!({"TableName": table, "Key": {"pk": {"S": "stock"}}, "UpdateExpression": "ADD n :one",
        "ExpressionAttributeValues": {":one": {"N": "1"}}});
    let transaction = |token: &str| {
        json!({"TransactItems": [{"Put": put}, {"Update": add}], "ClientRequestToken": token,
            "ReturnConsumedCapacity": "TOTAL"})
    };
    let write = |token| dynamodb("TransactWriteItems", &transaction(token));
    let _ = proxy.take_bill();
    assert_eq!(write("first").0, 200);
    // Two units for each item of up to 1 KB.
    assert_eq!(proxy.take_bill().total().write_units, 4.0);
    assert_eq!(write("first").0, 200);
    let Bill(repeated) = proxy.take_bill();
    assert_eq!(repeated["TransactWriteItems"].write_units, 0.0);

    let (status, refused) = write("second");
    assert_eq!((status, &refused["CancellationReasons"][0]["Code"]), (400, &json!("ConditionalCheckFailed")));
    let stock = json!({"TableName": table, "Key": {"pk": {"S": "stock"}}, "ConsistentRead": true});
    assert_eq!(dynamodb("GetItem", &stock).1["Item"]["n"], json!({"N": "1"}));
}

#[test]
fn what_is_published_arrives_raw_and_once_with_its_attributes() {
    let (sns, sqs) = (FaultProxy::before(&aws::endpoint("SNS")), FaultProxy::before(&aws::endpoint("SQS")));
    let ask_sqs = |operation: &str, body: &Value| ask(&sqs, &format!("AmazonSQS.{operation}"), body).1;
    let fifo = |kind| format!("{}.fifo", name(kind));
    let topic = [
        ("Action", "CreateTopic"),
        ("Name", &fifo("topic")),
        ("Attributes.entry.1.key", "FifoTopic"),
        ("Attributes.entry.1.value", "true"),
    ];
    let topic = ask_sns(&sns, &topic, "TopicArn");
    let queue = json!({"QueueName": fifo("queue"), "Attributes": {"FifoQueue": "true"}});
    let url = ask_sqs("CreateQueue", &queue)["QueueUrl"].take();
    let attributes = ask_sqs("GetQueueAttributes", &json!({"QueueUrl": url, "AttributeNames": ["QueueArn"]}));
    let arn = attributes["Attributes"]["QueueArn"].as_str().expect("an ARN");
    let subscription = [
        ("Action", "Subscribe"),
        ("TopicArn", &topic),
        ("Protocol", "sqs"),
        ("Endpoint", arn),
        ("Attributes.entry.1.key", "RawMessageDelivery"),
        ("Attributes.entry.1.value", "true"),
    ];
    ask_sns(&sns, &subscription, "SubscriptionArn");

    let publish = |body: &str, id: &str| {
        let message = [
            ("Action", "Publish"),
            ("TopicArn", &topic),
            ("Message", body),
            ("MessageGroupId", "lane"),
            ("MessageDeduplicationId", id),
            ("MessageAttributes.entry.1.Name", "kind"),
            ("MessageAttributes.entry.1.Value.DataType", "String"),
            ("MessageAttributes.entry.1.Value.StringValue", "order.placed"),
        ];
        ask_sns(&sns, &message, "MessageId")
    };
    publish("one", "1");
    publish("one again", "1");
    publish("two", "2");

    let mut arrived = Vec::new();
    eventually("two messages arrive", || {
        let request = json!({"QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1,
            "MessageAttributeNames": ["All"]});
        for message in ask_sqs("ReceiveMessage", &request)["Messages"].as_array().into_iter().flatten() {
            let delete = json!({"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]});
            ask_sqs("DeleteMessage", &delete);
            assert_eq!(message["MessageAttributes"]["kind"]["StringValue"], "order.placed");
            arrived.push(message["Body"].as_str().unwrap_or_default().to_owned());
        }
        if arrived.last().is_some_and(|last| last == "two") { Ok(()) } else { Err(format!("{arrived:?}")) }
    });
    assert_eq!(arrived, ["one", "two"]);
    assert_eq!((sns.bill().requests("Publish"), sqs.bill().requests("DeleteMessage")), (3, 2));
}
