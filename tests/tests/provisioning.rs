//! What `fanfare provision` makes at AWS, against emulators, and what it says where it cannot.

use std::env;
use std::process::Command;

use fanfare_tests::Value;
use fanfare_tests::consumers::Consumers;
use fanfare_tests::program::{self, Run, finish};
use tempfile::TempDir;

const DONE: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const UNREACHABLE: Option<i32> = Some(4);
const DIFFERS: Option<i32> = Some(5);

/// What stands in for AWS.
const EMULATORS: [&str; 3] = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_SQS"];

#[test]
fn what_is_planned_is_made_and_then_nothing_is_left_to_do() {
    let folder = TempDir::new().expect("a folder");
    let consumers = Consumers::create(folder.path().join("consumers"));
    consumers.add("loyalty");
    let dir = consumers.folder().to_str().expect("a path");
    let prefix = prefix(&folder);
    let run = |arguments: &[&str]| {
        let mut command = provision(&folder, &prefix);
        finish(command.args(["--consumers-dir", dir]).args(arguments))
    };

    let plan = run(&["--plan", "--json"]);
    assert_eq!(plan.code(), DIFFERS, "{plan:#?}");
    let made: Vec<_> = steps(&plan).iter().map(|step| format!("{} {}", step["resource"], step["name"])).collect();
    let expected = [
        ("table", ""),
        ("topic", ".fifo"),
        ("queue", "-loyalty-dead.fifo"),
        ("queue", "-loyalty.fifo"),
        ("subscription", "-loyalty.fifo"),
    ];
    assert_eq!(made, expected.map(|(resource, name)| format!("\"{resource}\" \"{prefix}{name}\"")));
    // The filter is what the plugin says that it hears.
    let filter = plan.stdout.contains(r#"{\"kind\":[\"order.cancelled\",\"order.confirmed\"]}"#);
    assert!(filter, "{plan:#?}");

    let done = run(&[]);
    assert_eq!(done.code(), DONE, "{done:#?}");
    assert!(done.stdout.contains(&format!("create queue {prefix}-loyalty.fifo")), "{done:#?}");
    let again = run(&["--plan", "--json"]);
    assert_eq!((again.code(), steps(&again).len()), (DONE, 0), "{again:#?}");

    // One that is named need not be there; nothing is known of what it hears.
    let named = run(&["--plan", "fraud"]);
    assert_eq!(named.code(), DIFFERS, "{named:#?}");
    assert!(named.stdout.contains(&format!("create queue {prefix}-fraud.fifo")), "{named:#?}");
    assert!(!named.stdout.contains("FilterPolicy"), "{named:#?}");
}

#[test]
fn without_region_or_credentials_it_says_where_they_may_come_from() {
    let folder = TempDir::new().expect("a folder");
    let mut command = provision(&folder, "nobody");
    let run = finish(command.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION").arg("fraud"));
    assert_eq!(run.code(), USAGE, "{run:#?}");
    assert!(run.stderr.contains("no AWS region is set: set aws.region (FANFARE_AWS_REGION)"), "{run:#?}");

    for (region, said) in [("", "no AWS region is set"), ("eu central", "\"eu central\" is not an AWS region such as")]
    {
        let run = finish(provision(&folder, "nobody").env("AWS_REGION", region).arg("fraud"));
        assert_eq!(run.code(), USAGE, "{run:#?}");
        assert!(run.stderr.contains(said), "{run:#?}");
    }

    let run = finish(provision(&folder, "nobody").env("AWS_SECRET_ACCESS_KEY", "").arg("fraud"));
    assert_eq!(run.code(), USAGE, "{run:#?}");
    assert!(run.stderr.contains("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"), "{run:#?}");
    let mut command = provision(&folder, "nobody");
    let run = finish(command.env_remove("AWS_ACCESS_KEY_ID").env("FANFARE_AWS_PROFILE", "shop").arg("fraud"));
    assert_eq!(run.code(), USAGE, "{run:#?}");
    assert!(run.stderr.contains("no AWS credentials were found in the profile \"shop\": set AWS_ACCESS"), "{run:#?}");
}

#[test]
fn an_endpoint_where_nobody_listens_is_named() {
    let folder = TempDir::new().expect("a folder");
    let mut common = provision(&folder, "nobody");
    common.env_remove("AWS_ENDPOINT_URL_SQS").env("AWS_ENDPOINT_URL", "");
    let mut own = provision(&folder, "nobody");
    own.env("AWS_ENDPOINT_URL_SQS", "");
    for mut blank in [common, own] {
        let run = finish(blank.arg("fraud"));
        assert_eq!(run.code(), USAGE, "{run:#?}");
        assert!(run.stderr.contains("the endpoint of SQS, \"\", is not a URL"), "{run:#?}");
    }
    let run = finish(provision(&folder, "nobody").env("AWS_ENDPOINT_URL_SQS", "shop.example:4566").arg("fraud"));
    assert_eq!(run.code(), USAGE, "{run:#?}");
    let said = "the endpoint of SQS, \"shop.example:4566\", is not a URL such as http://127.0.0.1:4566: see AWS_ENDPOINT_URL_SQS";
    assert!(run.stderr.contains(said), "{run:#?}");
    let mut command = provision(&folder, "nobody");
    // Nothing listens on port 1. The variable of this service alone comes before that of all.
    command.env("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1").env("FANFARE_AWS_ATTEMPTS_MAX", "1");
    let run = finish(command.arg("fraud"));
    assert_eq!(run.code(), UNREACHABLE, "{run:#?}");
    assert!(run.stderr.contains("DynamoDB at http://127.0.0.1:1 cannot be reached"), "{run:#?}");

    let mut command = provision(&folder, "nobody");
    let run = finish(command.args(["--consumers-dir", "nowhere"]));
    assert_eq!(run.code(), FAILED, "{run:#?}");
    assert!(run.stderr.contains("cannot look for consumers in nowhere: name them, or the folder"), "{run:#?}");
}

/// `fanfare provision`, with what the emulators ask for and nothing of this machine's own.
fn provision(folder: &TempDir, prefix: &str) -> Command {
    for variable in EMULATORS {
        assert!(
            env::var_os(variable).is_some(),
            "{variable} is not set: `cargo xtask test` starts emulators and sets it; for a single test start them by hand"
        );
    }
    let mut command = program::fanfare();
    command.current_dir(folder).arg("provision").env("FANFARE_AWS_PREFIX", prefix);
    for (name, value) in [
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "fanfare"),
        ("AWS_SECRET_ACCESS_KEY", "fanfare"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "no-config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "no-credentials"),
    ] {
        command.env(name, value);
    }
    command
}

fn steps(run: &Run) -> Vec<Value> {
    run.json()["steps"].as_array().cloned().unwrap_or_else(|| panic!("no steps: {run:#?}"))
}

/// Nobody else's on the emulators.
fn prefix(folder: &TempDir) -> String {
    let name = folder.path().file_name().expect("a name").to_string_lossy();
    format!("story-{}", name.trim_start_matches('.'))
}
