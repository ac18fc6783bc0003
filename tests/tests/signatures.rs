//! Only plugins that somebody signed whom the operator trusts, where the operator says whom.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, guests, json, program};

#[test]
fn of_two_key_files_neither_is_made_where_one_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("release");
    for (there, other) in [("pub", "key"), ("key", "pub")] {
        let there = name.with_extension(there);
        fs::write(&there, "mine").expect("a file");
        let refused = program::run([Path::new("plugin"), "keygen".as_ref(), &name]);
        assert_eq!(refused.code(), Some(1), "{refused:#?}");
        let why = format!("{} is there already", there.display());
        assert!(refused.stderr.contains(&why), "{refused:#?}");
        assert_eq!(fs::read(&there).expect("a file"), b"mine");
        assert!(!name.with_extension(other).exists(), "half a pair is left: {other}");
        fs::remove_file(&there).expect("a file");
    }
    let _ = program::run([Path::new("plugin"), "keygen".as_ref(), &name]).succeeded();
}

#[test]
fn signing_touches_no_other_file() {
    let host = TestHost::new();
    let ours = Maker::new(&host, "ours");
    let draft = ours.folder.join("plugin.wasm.draft");
    fs::write(&draft, "mine").expect("a file");
    let _ = ours.signed(&guests::wasm("reports-one"));
    assert_eq!(fs::read(&draft).expect("a file"), b"mine");
    assert_eq!(fs::read_dir(&ours.folder).expect("a folder").count(), 4, "the key's two, the plugin and the draft");
}

/// A folder where plugins are built, with a key.
struct Maker {
    folder: PathBuf,
    key: String,
}

impl Maker {
    fn new(host: &TestHost, name: &str) -> Self {
        let folder = host.folder().join(name);
        fs::create_dir(&folder).expect("a new folder");
        let key = folder.join("release").display().to_string();
        let made = program::run(["--json", "plugin", "keygen", &key]).succeeded().json();
        assert_eq!(made["secret_key"], format!("{key}.key"));
        let mode = fs::metadata(folder.join("release.key")).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(program::run(["plugin", "keygen", &key]).code(), Some(1), "a key is never overwritten");
        Self { folder, key: made["key"].as_str().expect("a key").to_owned() }
    }

    fn signed(&self, plugin: &[u8]) -> Vec<u8> {
        let file = self.folder.join("plugin.wasm");
        fs::write(&file, plugin).expect("a new file");
        let key = self.folder.join("release.key");
        let _ = program::run([Path::new("plugin"), "sign".as_ref(), &file, "--key".as_ref(), &key]).succeeded();
        fs::read(file).expect("a signed file")
    }

    fn public_key_file(&self) -> String {
        format!("file:{}", self.folder.join("release.pub").display())
    }
}

fn failed(client: &Client, words: &str) -> Value {
    client.wait_for_consumer("reports", |consumer| {
        consumer["candidate"]["state"] == "failed" && consumer["candidate"]["reason"].to_string().contains(words)
    })
}

#[test]
fn a_file_that_nobody_trusted_signed_is_refused_while_the_old_version_serves_on() {
    let mut host = TestHost::new();
    let (ours, theirs) = (Maker::new(&host, "ours"), Maker::new(&host, "theirs"));
    host.consumers.put("reports", &ours.signed(&guests::wasm("reports-one")));
    host.variable("FANFARE_PLUGIN_KEYS", &ours.public_key_file()).start();
    let client = host.client();
    assert_eq!(client.consumer("reports").expect("reports")["version"], "1.0.0");

    let next = guests::wasm("reports-two");
    let mut changed = ours.signed(&next);
    changed.extend([0, 4, 3, b'n', b'e', b'w']);
    for (file, words) in [
        (next.clone(), "it is not signed"),
        (theirs.signed(&next), "by no key of plugin_keys"),
        (changed, "was changed"),
    ] {
        host.consumers.put("reports", &file);
        let refused = failed(&client, words);
        assert_eq!((&refused["state"], &refused["version"]), (&json!("running"), &json!("1.0.0")), "{refused:#}");
        client.placed(&order(&[("TEA", 1)]));
        client.wait_until_idle();
    }
    assert_eq!(client.counter("reports", "by-version/1"), 3);
    let shown = program::run(["consumers", "show", "reports", "--url", client.base()]).succeeded();
    assert!(shown.stdout.contains("was changed after it was signed"), "{shown:#?}");
    assert!(host.log().contains("was changed after it was signed"), "{}", host.log());

    // By both: one of them is trusted.
    host.consumers.put("reports", &ours.signed(&theirs.signed(&next)));
    client.wait_for_consumer("reports", |consumer| consumer["version"] == "2.0.0" && consumer["candidate"].is_null());
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "by-version/2"), 1);
}

#[test]
fn a_key_that_is_no_longer_named_takes_all_that_it_signed_with_it() {
    let mut host = TestHost::new();
    let (old, new) = (Maker::new(&host, "old"), Maker::new(&host, "new"));
    let [one, two] = ["reports-one", "reports-two"].map(guests::wasm);
    host.consumers.put("reports", &old.signed(&one));
    host.variable("FANFARE_PLUGIN_KEYS", &format!("{}, {}", old.key, new.key)).start();
    host.consumers.put("reports", &new.signed(&two));
    host.client().wait_for_consumer("reports", |consumer| consumer["version"] == "2.0.0");
    host.kill();

    // What is kept, and compiled, of the version before is not run any more.
    host.variable("FANFARE_PLUGIN_KEYS", &new.key).start();
    let client = host.client();
    assert_eq!(client.consumer("reports").expect("reports")["version"], "2.0.0");
    let refused = client.post("/v1/consumers/reports/rollback", &json!({})).problem(409);
    assert!(refused["detail"].to_string().contains("by no key of plugin_keys"), "{refused:#}");
    host.kill();

    // Nor is what ran when the host stopped, whether from the directory or from its kept file; events wait.
    host.variable("FANFARE_PLUGIN_KEYS", &old.key).start();
    let client = host.client();
    let refused = client.consumer("reports").expect("reports");
    assert_eq!(refused["state"], "failed", "{refused:#}");
    assert!(refused["reason"].to_string().contains("by no key of plugin_keys"), "{refused:#}");
    client.placed(&order(&[("TEA", 1)]));
    host.consumers.put("reports", &old.signed(&two));
    client.wait_for_consumer("reports", |consumer| consumer["state"] == "running");
    client.wait_until_idle();
    assert_eq!(client.counter("reports", "by-version/2"), 1);
}

#[test]
fn a_candidate_and_a_shadow_are_asked_for_their_signatures_too() {
    let mut host = TestHost::new();
    let ours = Maker::new(&host, "ours");
    let [one, two] = ["reports-one", "reports-two"].map(guests::wasm);
    host.consumers.put("reports", &ours.signed(&one));
    host.consumers.set_policy("reports", "shadow = \"next.wasm\"\n[rollout]\npercent = 50\nmin_events = 1000\n");
    let shadows = host.consumers.folder().join("shadow");
    fs::create_dir_all(&shadows).expect("a folder for shadows");
    fs::write(shadows.join("next.wasm"), &two).expect("a new file");
    host.variable("FANFARE_PLUGIN_KEYS", &ours.key).start();
    let client = host.client();
    client.wait_for_consumer("reports", |consumer| {
        consumer["shadow"]["reason"].as_str().is_some_and(|reason| reason.contains("it is not signed"))
    });
    host.consumers.put("reports", &two);
    failed(&client, "it is not signed");
    host.consumers.put("reports", &ours.signed(&two));
    client.wait_for_consumer("reports", |consumer| consumer["candidate"]["state"] == "canary");
    fs::write(shadows.join("unfinished"), ours.signed(&two)).expect("a new file");
    fs::rename(shadows.join("unfinished"), shadows.join("next.wasm")).expect("a new file in place");
    client.wait_for_consumer("reports", |consumer| {
        consumer["shadow"].is_object() && consumer["shadow"]["reason"].is_null()
    });
}

#[test]
fn a_check_says_by_which_key_a_file_is_signed() {
    let host = TestHost::new();
    let ours = Maker::new(&host, "ours");
    host.consumers.put("reports", &guests::wasm("reports-one"));
    let file = host.consumers.folder().join("reports.wasm").display().to_string();
    let check = |keys: Option<&str>| {
        let mut check = program::fanfare();
        check.args(["--json", "plugin", "check", &file]).envs(keys.map(|keys| ("FANFARE_PLUGIN_KEYS", keys)));
        program::finish(&mut check)
    };
    let unsigned = check(Some(&ours.key));
    assert_eq!((unsigned.code(), &unsigned.json()["signed_by"]), (Some(1), &json!([])));
    assert!(unsigned.stdout.contains("it is not signed"), "{unsigned:#?}");
    host.consumers.put("reports", &ours.signed(&guests::wasm("reports-one")));
    let signed = check(Some(&ours.key)).succeeded().json();
    assert_eq!(signed["signed_by"], json!([{"key": ours.key, "verified": true}]));
    let claimed = check(None).succeeded().json();
    assert_eq!(claimed["signed_by"][0]["verified"], false, "{claimed:#}");
    let wrong = check(Some("release.pub"));
    assert_eq!(wrong.code(), Some(2), "{wrong:#?}");
}
