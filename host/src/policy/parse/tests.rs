use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::policy::Rate;

fn parse(text: &str) -> Result<Policy, Error> {
    Policy::parse(Path::new("consumers/shipment.toml"), text)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

const EVERY_KEY: &str = r#"
start = "2026-11-22T10:00:00Z"
isolation = "event"
concurrency = 3
rate = "500/s"
on_dead = "skip"
keep_versions = 2
keep_state = "1MiB"
shadow = "shipment-2.wasm"
subscribe = ["order.placed", { kind = "com.example.*", filter = '{"weight_g": [{"numeric": [">", 0]}]}' }]
[grant]
change_order = true
publish = ["com.fanfare.stock.*"]
http = [{ url_prefix = "HTTPS://API.carrier.example:8443/v1/", methods = ["POST", "GET"] }, { url_prefix = "http://10.0.0.1/", methods = ["PUT"], private = true }]
email = true
sms = true
records = ["orders"]
secrets = { CARRIER_TOKEN = "env:CARRIER_TOKEN", KEY = "file:/run/key" }
[settings]
low_stock = "10"
[limits]
memory = "128MiB"
cpu = "100ms"
share = 0.25
time = "10s"
state = "2GiB"
http_calls = 3
http_bytes = "1MiB"
http_connect = "1s"
http_first_byte = "9s"
effects = "1MiB"
writes = 100
reads = 200
order_changes = 1
events = 2
messages = 3
records = 4
log = "1KiB"
call = "64KiB"
handles = 16
[retry]
max_attempts = 5
base = "2s"
cap = "20m"
max_age = "1d"
[rollout]
percent = 12.5
min_events = 50
max_failure_rate = 0.02
max_slowdown = 2
"#;

#[test]
fn every_key_is_read() {
    let policy = parse(EVERY_KEY).unwrap();
    insta::assert_debug_snapshot!(policy);
}

#[test]
fn an_empty_file_is_the_default_policy() {
    assert_eq!(parse("").unwrap(), Policy::default());
    assert_eq!(parse("# nothing here\n[grant]\n[limits]\n[retry]\n").unwrap(), Policy::default());
}

#[test]
fn a_start_may_be_a_bare_toml_time() {
    let quoted = parse("start = \"2026-11-22T10:00:00Z\"").unwrap();
    assert_eq!(parse("start = 2026-11-22T10:00:00Z").unwrap(), quoted);
}

#[test]
fn a_base_left_out_never_exceeds_the_cap() {
    let policy = parse("[retry]\ncap = \"200ms\"").unwrap();
    assert_eq!(policy.retry.base, Duration::from_millis(200));
}

#[test]
fn a_rate_is_per_second() {
    let per_second = NonZeroU32::new(7).unwrap();
    assert_eq!(parse("rate = \"7/s\"").unwrap().rate, Some(Rate { per_second }));
}

#[test]
fn each_fault_names_its_line_and_what_would_be_right() {
    let table = [
        "start = \"yesterday\"",
        "start = 5",
        "start = 2026-11-22",
        "isolation = \"hot\"",
        "\nconcurrency = 0",
        "concurrency = \"8\"",
        "concurrency = 99999999999999999999",
        "rate = 500",
        "rate = \"+5/s\"",
        "rate = \"0/s\"",
        "on_dead = \"drop\"",
        "keep_versions = 0",
        "shadow = \"../inventory.wasm\"",
        "shadow = \".wasm\"",
        "subscribe = []",
        "subscribe = \"order.placed\"",
        "subscribe = [\"order..placed\"]",
        "subscribe = [\n\"order.*\",\n{ kind = \"order.placed\" },\n]",
        "subscribe = [\n{ kind = \"order.placed\", filter = '{\"order\":{\"currency\":\"USD\"}}' }]",
        "subscribe = [{ kind = \"a\", filter = '{\"n\":[{\"numeric\":[\">\"]}]}', only = true }]",
        "subscribe = [\n{ kind = \"a\", filter = \"x\" }]",
        "subscribe = [{ kind = \"a\", filter = [\"a\"] }]",
        "subscribe = [{ kind = \"a\", filter = { n = [1] } }]",
        "subscribe = [5]",
        "concurency = 8",
        "colour = \"blue\"",
        "grant = true",
        "[grant]\nchange-order = true",
        "[grant]\nchange_order = \"yes\"",
        "[grant]\npublish = [\"order.*\"]",
        "[grant]\n\n\nhttp = [{ url_prefix = \"https:/carrier\", methods = [\"POST\"] }]",
        "[grant]\nhttp = [{ url_prefix = \"https://carrier.example\", methods = [\"POST\"] }]",
        "[grant]\nhttp = [{ url_prefix = \"https://a@b.example/\", methods = [\"POST\"] }]",
        "[grant]\nhttp = [{ url_prefix = \"https://b.example/../\", methods = [\"post\"] }]",
        "[grant]\nhttp = [{ url = \"https://b.example/\" }]",
        "[grant]\nhttp = \"https://b.example/\"",
        "[grant]\nhttp = [\"https://b.example/\"]",
        "[grant]\nhttp = [\"https://b.example\", 7]",
        "[grant]\nrecords = [\"or/ders\"]",
        "[grant]\nsecrets = { TOKEN = \"hunter2\" }",
        "[grant.secrets]\n\"A B\" = \"env:A\"",
        "[settings]\nlow_stock = 10",
        "[settings]\nlow_stock = [\"10\"]",
        "[limits]\nmemory = \"64MB\"",
        "[limits]\nmemory = \"5GiB\"",
        "[limits]\nmemory = 64",
        "[limits]\nstate = \"99999999999GiB\"",
        "[limits]\ncpu = \"0ms\"",
        "[limits]\nshare = 0",
        "[limits]\nshare = 0.001",
        "[limits]\nshare = nan",
        "[limits]\nshare = \"50%\"",
        "[limits]\ntime = \"2h\"",
        "[limits]\ntime = \"5 s\"",
        "[limits]\nfuel = 5",
        "[limits]\nevents = 0",
        "[limits]\nrecords = 100001",
        "[limits]\nhandles = \"many\"",
        "[limits]\ncall = \"1GiB\"",
        "[retry]\nbase = \"20m\"",
        "[retry]\nmax_attempt = 3",
        "[rollout]\nmin_events = 10",
        "[rollout]\npercent = 100",
        "[rollout]\npercent = \"10%\"\nmin_events = 0",
        "[rollout]\npercent = 10\nmax_failure_rate = 1\nmax_slowdown = 0.5",
        "a = 1\na = 2",
        "[grant\n",
        "start = ",
    ];
    let told: Vec<String> = table.iter().map(|text| format!("{text}\n  => {}", refusal(text))).collect();
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn all_faults_are_told_at_once_in_order_of_lines() {
    insta::assert_snapshot!(refusal("[limits]\ncpu = 5\n[grant]\nemail = 1\nsmss = true\n[retry]\nbase = \"\"\n"), @r#"
    consumers/shipment.toml:2: limits.cpu: expected a time such as "50ms", "5s", "10m" or "7d", got 5
    consumers/shipment.toml:4: grant.email: expected true or false, got 1
    consumers/shipment.toml:5: unknown key grant.smss; did you mean "sms"?
    consumers/shipment.toml:7: retry.base: expected a time such as "50ms", "5s", "10m" or "7d", got ""
    "#);
}

#[test]
fn a_flood_of_faults_is_cut_short() {
    let text: String = (0..1000).map(|n| format!("key{n} = 1\n")).collect();
    let told = refusal(&text);
    assert_eq!(told.lines().count(), FAULTS_MAX + 1);
    assert!(told.ends_with("… and 992 more"), "{told}");
}

#[test]
fn a_secret_written_into_the_file_is_not_repeated_in_the_fault() {
    assert!(!refusal("[grant]\nsecrets = { TOKEN = \"hunter2\" }").contains("hunter2"));
}

proptest! {
    #[test]
    fn arbitrary_text_is_read_or_refused(text in any::<String>()) {
        let _ = parse(&text).map_err(|error| error.to_string());
    }

    /// Cuts, splices and swaps in a file that has every key reach deeper than arbitrary text.
    #[test]
    fn a_damaged_file_is_read_or_refused_with_a_line(at in 0..EVERY_KEY.len(), to in 0..EVERY_KEY.len(), insert in "\\PC{0,8}") {
        let floor = |mut at: usize| { while !EVERY_KEY.is_char_boundary(at) { at -= 1; } at };
        let damaged = format!("{}{insert}{}", &EVERY_KEY[..floor(at)], &EVERY_KEY[floor(to)..]);
        if let Err(error) = parse(&damaged) {
            let lines = damaged.lines().count() + 1;
            prop_assert!(!error.faults.is_empty());
            prop_assert!(error.faults.iter().all(|fault| (1..=lines).contains(&fault.line)), "{}", error);
        }
    }
}

#[test]
fn a_version_is_linked_anew_for_what_it_was_linked_for_and_for_nothing_else() {
    let plain = parse("").unwrap();
    for relinked in [
        "isolation = \"event\"",
        "[grant]\nsms = true",
        "[grant]\nhttp = [{ url_prefix = \"https://a.example/\", methods = [\"GET\"] }]",
        "[grant]\nsecrets = { TOKEN = \"env:TOKEN\" }",
        "[settings]\nregion = \"eu\"",
        "[limits]\nmemory = \"1MiB\"",
        "[limits]\nhttp_calls = 1",
    ] {
        assert!(!parse(relinked).unwrap().links_like(&plain), "{relinked}");
    }
    for same in [
        "concurrency = 2",
        "rate = \"5/s\"",
        "on_dead = \"skip\"",
        "keep_versions = 2",
        "subscribe = [\"order.placed\"]",
        "shadow = \"next.wasm\"",
        "[retry]\nmax_attempts = 2",
        "[rollout]\npercent = 5",
    ] {
        assert!(parse(same).unwrap().links_like(&plain), "{same}");
    }
}
