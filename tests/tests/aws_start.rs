//! A host that cannot begin on AWS ends and says why, and what to do.

use fanfare_tests::aws::{self, Fault, Way};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, json, program};

/// What the exit codes mean.
const USAGE: i32 = 2;
const REFUSED: Option<i32> = Some(3);
const UNREACHABLE: i32 = 4;

/// A host on the store of `prefix` that may not make anything there.
fn host(prefix: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws").variable("FANFARE_AWS_PREFIX", prefix);
    host.consumers.put("reports", &fanfare_tests::guests::wasm("reports-one"));
    host
}

fn host_that_provisions(prefix: &str) -> TestHost {
    let mut host = host(prefix);
    host.variable("FANFARE_AWS_PROVISION", "true");
    host
}

#[track_caller]
fn ends(mut host: TestHost, code: i32, said: &[&str]) {
    let status = host.start_in_vain();
    let log = host.log();
    assert_eq!(status.code(), Some(code), "{log}");
    for part in said {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
}

#[test]
fn without_credentials() {
    let mut host = host_that_provisions(&prefix());
    host.variable("AWS_ACCESS_KEY_ID", "").variable("AWS_EC2_METADATA_DISABLED", "true");
    host.variable("AWS_CONFIG_FILE", "none").variable("AWS_SHARED_CREDENTIALS_FILE", "none");
    ends(host, USAGE, &["no AWS credentials were found", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"]);
}

#[test]
fn in_another_region_than_its_store() {
    let prefix = prefix();
    host_that_provisions(&prefix).start();
    let mut elsewhere = host(&prefix);
    elsewhere.variable("FANFARE_AWS_REGION", "us-west-2");
    ends(elsewhere, 1, &["not everything at AWS is in", "create topic", "us-west-2 as this host needs it"]);
}

#[test]
fn where_nobody_listens() {
    let mut host = host_that_provisions(&prefix());
    host.variable("AWS_ENDPOINT_URL_SNS", "http://127.0.0.1:1").variable("FANFARE_AWS_ATTEMPTS_MAX", "1");
    ends(host, UNREACHABLE, &["SNS at http://127.0.0.1:1 cannot be reached", "Check the network and aws.region"]);
}

#[test]
fn where_something_else_answers() {
    for status in [200, 403, 502] {
        let mut host = host_that_provisions(&prefix());
        host.variable("FANFARE_AWS_ATTEMPTS_MAX", "1");
        let way = Way::of(&mut host);
        way.sns.tell(Fault::Page(status));
        let answered = format!("the answer is not the service's own: HTTP status {status} (text/html)");
        ends(host, UNREACHABLE, &["SNS at http://127.0.0.1", "cannot be reached", &answered, "and the endpoint"]);
    }
}

#[test]
fn something_else_that_answers_for_a_while_is_told_in_a_line_and_passes() {
    let mut host = host_that_provisions(&prefix());
    host.variable("FANFARE_AWS_ATTEMPTS_MAX", "1");
    let way = Way::of(&mut host);
    host.start();
    let client = host.client();
    way.dynamodb.tell(Fault::Page(502));
    let refused = client.get("/readyz");
    assert_eq!(refused.status, 503, "{refused:#?}");
    let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
    assert!(detail.ends_with("the answer is not the service's own: HTTP status 502 (text/html)"), "{detail}");
    way.dynamodb.tell(Fault::Refuse(400, "ResourceNotFoundException"));
    let detail = client.get("/readyz").json()["detail"].as_str().expect("a detail").to_owned();
    assert!(detail.ends_with("ResourceNotFoundException: the fault proxy was told to"), "{detail}");
    assert!(detail.contains("the table of this store is not there"), "{detail}");
    assert_eq!(client.place(&order(&[("TEA", 1)])).status, 503);
    way.dynamodb.tell(Fault::Pass);
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
}

#[test]
fn a_backup_is_refused_with_who_makes_copies() {
    let mut host = host_that_provisions(&prefix());
    host.start();
    let (client, file) = (host.client(), host.folder().join("copy"));
    let run = program::finish(program::fanfare().args(["backup", "--url", client.base()]).arg(&file));
    assert_eq!(run.code(), REFUSED, "{run:#?}");
    assert!(run.stderr.contains("on AWS, DynamoDB makes the copies"), "{run:#?}");
    assert!(!file.exists());
}

#[test]
fn with_a_clock_that_is_wrong() {
    for code in ["InvalidSignatureException", "RequestTimeTooSkewed", "RequestExpired"] {
        let mut host = host_that_provisions(&prefix());
        let way = Way::of(&mut host);
        way.tell(&Fault::Refuse(403, code));
        ends(host, 1, &["does not let these credentials", code, "and this machine's clock"]);
    }
}

#[test]
fn on_a_table_without_an_index() {
    let prefix = prefix();
    host_that_provisions(&prefix).start();
    let table = |operation: &str, mut body: fanfare_tests::Value| {
        body["TableName"] = json!(prefix);
        aws::ask(&aws::endpoint("DYNAMODB"), &format!("DynamoDB_20120810.{operation}"), &body)
    };
    let update = json!({"GlobalSecondaryIndexUpdates": [{"Delete": {"IndexName": "customer"}}]});
    assert_eq!(table("UpdateTable", update).0, 200);
    ends(host(&prefix), 1, &["not everything at AWS is in", "create index customer of", "fanfare provision"]);
    host_that_provisions(&prefix).start();
}

#[test]
fn where_each_service_throttles_at_first_it_begins_all_the_same() {
    let mut host = host_that_provisions(&prefix());
    let way = Way::of(&mut host);
    for proxy in [&way.dynamodb, &way.sns, &way.sqs] {
        let mut asked = 0;
        proxy.choose(move |_| {
            asked += 1;
            if asked <= 2 { Fault::Throttle } else { Fault::Pass }
        });
    }
    host.start();
    assert_eq!(host.client().consumer("reports").expect("reports")["state"], "running");
}
