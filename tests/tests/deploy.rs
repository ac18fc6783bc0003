//! What `deploy/` holds: a template that CloudFormation takes, and that makes all that a host needs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use fanfare_tests::consumers::Consumers;
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::guests::SHIPPED;
use fanfare_tests::orders::order;
use fanfare_tests::program::{self, finish};
use fanfare_tests::{TestHost, aws, eventually};
use tempfile::TempDir;

fn template() -> PathBuf {
    deployed("cloudformation.yaml")
}

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

#[test]
fn the_templates_have_nothing_that_the_linter_complains_of() {
    let linter = env::var_os("FANFARE_CFN_LINT")
        .expect("FANFARE_CFN_LINT, which `cargo xtask emulators` prints and `cargo xtask test` sets");
    for template in [template(), deployed("lambda.yaml")] {
        let run = finish(Command::new(&linter).args(["--regions", "eu-central-1", "--template"]).arg(template));
        assert_eq!((run.code(), run.stdout.as_str()), (Some(0), ""), "{run:#?}");
    }
}

#[test]
fn a_host_that_may_make_nothing_runs_on_what_the_template_made() {
    let prefix = prefix();
    let stack = Stack::create(&prefix);

    let folder = TempDir::new().expect("a folder");
    let consumers = Consumers::create(folder.path().join("consumers"));
    SHIPPED.iter().for_each(|name| consumers.add(name));
    let mut plan = program::fanfare();
    plan.current_dir(&folder).args(["provision", "--plan", "--consumers-dir", "consumers"]);
    plan.env("FANFARE_AWS_PREFIX", &prefix).envs(stack.environment());
    // The emulator leaves this out of what a template says of a table (ministack 1.5.33); CloudFormation does not.
    let left = format!("set time to live of table {prefix} to ttl: it is not set\n");
    let plan = finish(&mut plan);
    assert_eq!(plan.stdout, left, "the template differs from what `fanfare provision` makes: {plan:#?}");

    let mut host = TestHost::new();
    SHIPPED.iter().for_each(|name| host.consumers.add(name));
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", &prefix).variable("FANFARE_AWS_PROVISION", "false");
    for (name, value) in stack.environment() {
        host.variable(name, &value);
    }
    host.start();
    let client = host.client();
    client.stock(&["TEA"], 10);
    let id = client.placed(&order(&[("TEA", 2)]));
    client.wait_for_status(&id, "shipped");
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 8);
}

/// A stack of the template on the emulator, and all services there.
struct Stack {
    url: String,
}

impl Stack {
    fn create(prefix: &str) -> Self {
        let stack = Self { url: aws::endpoint("CLOUDFORMATION") };
        let text = std::fs::read_to_string(template()).expect("the template");
        let _ = stack.ask(&[
            ("Action", "CreateStack"),
            ("StackName", prefix),
            ("TemplateBody", &text),
            ("Parameters.member.1.ParameterKey", "Prefix"),
            ("Parameters.member.1.ParameterValue", prefix),
            ("Capabilities.member.1", "CAPABILITY_IAM"),
        ]);
        eventually("the stack is there", || {
            let answer = stack.ask(&[("Action", "DescribeStacks"), ("StackName", prefix)]);
            if answer.contains("<StackStatus>CREATE_COMPLETE<") { Ok(()) } else { Err(answer) }
        });
        stack
    }

    fn ask(&self, form: &[(&str, &str)]) -> String {
        let scope = "20260101/eu-central-1/cloudformation/aws4_request";
        let signed = format!("AWS4-HMAC-SHA256 Credential=fanfare/{scope}, SignedHeaders=host, Signature=none");
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.post(&self.url).header("authorization", signed).header("x-amz-date", "20260101T000000Z");
        let mut answer = request.send_form(form.iter().copied().chain([("Version", "2010-05-15")])).expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a text");
        assert_eq!(answer.status(), 200, "{text}");
        text
    }

    /// Makes a client of AWS talk to it alone.
    fn environment(&self) -> [(&'static str, String); 3] {
        ["AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"]
            .map(|name| (name, self.url.clone()))
    }
}
