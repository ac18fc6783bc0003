use std::path::Path;

use insta::assert_snapshot;

use super::settings::SETTINGS;
use super::*;

#[test]
fn nothing_set_is_a_host_on_loopback_with_a_mail_folder() {
    let config = RawConfig::default().check(|_| None).unwrap();
    assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
    assert!(matches!(config.mail.transport, Transport::Folder(folder) if folder == Path::new("data/mail")));
}

#[test]
fn a_flag_beats_a_variable_beats_the_file() {
    let mut raw = RawConfig::default();
    raw.read_text(Path::new("fanfare.toml"), "listen = \"127.0.0.1:1\"\ndata_dir = \"a\"\nconsumers_dir = \"a\"")
        .unwrap();
    raw.read_environment(|name| match name {
        "FANFARE_LISTEN" => Some("127.0.0.1:2".to_owned()),
        "FANFARE_DATA_DIR" => Some("b".to_owned()),
        _ => None,
    });
    raw.set_flag(SETTINGS[0], "127.0.0.1:3".to_owned());
    let config = raw.check(|_| None).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!((config.data_dir.as_path(), config.consumers_dir.as_path()), (Path::new("b"), Path::new("a")));
}

#[test]
fn every_wrong_setting_is_told_with_its_place() {
    let file = r#"listen = "0.0.0.0:8080"
backend = "cloud"
data_dir = ""

[mail]
transport = "pigeon"
port = 99999
tls = "maybe"
password = "hunter2"
concurrency = 0
rate = "often"
from = "nobody"

[log]
format = "xml"
level = "loud"
"#;
    assert_snapshot!(refusal(file), @r#"
    fanfare.toml:1: listen: "0.0.0.0:8080" can be reached from other machines, and callers are not asked who they are: listen on 127.0.0.1 behind a proxy that asks, or pass --insecure
    fanfare.toml:3: data_dir: "" is not a folder
    fanfare.toml:2: backend: "cloud" is not known here: use embedded or aws
    fanfare.toml:6: mail.transport: "pigeon" is not known here: use folder or smtp or off
    fanfare.toml:7: mail.port: "99999" is not a port from 1 to 65535
    fanfare.toml:8: mail.tls: "maybe" is not known here: use implicit or starttls or off
    fanfare.toml:9: mail.password: write where the password is found, not the password: env:NAME or file:PATH
    fanfare.toml:12: mail.from: "nobody" is not a sender such as Shop <shop@example.com>
    fanfare.toml:10: mail.concurrency: "0" is not a number from 1 to 64
    fanfare.toml:11: mail.rate: "often" is not a rate such as 50/s
    fanfare.toml:15: log.format: "xml" is not known here: use text or json
    fanfare.toml:16: log.level: "loud" is not a log level: use error, warn, info, debug, trace, or info,fanfare=debug (a name without a level)
    "#);
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    assert_snapshot!(refusal("\n[mail]\ntransprot = \"off\""), @"fanfare.toml:3: unknown key mail.transprot; did you mean \"transport\"?");
    assert_snapshot!(refusal("lissten = 1"), @"fanfare.toml:1: unknown key lissten; did you mean \"listen\"?");
    assert_snapshot!(refusal("[mail]\nport = 0"), @"fanfare.toml:2: mail.port: \"0\" is not a port from 1 to 65535");
    assert_snapshot!(refusal("allowed_hosts = [\"a\", \"b\"]"), @"fanfare.toml:1: allowed_hosts: expected one text in quotes, got a list: where there are several, write \"one, two\"");
    assert_snapshot!(refusal("mail = 3"), @"fanfare.toml:1: mail: expected a table, got integer");
}

#[test]
fn a_wrong_variable_or_flag_is_named() {
    let mut raw = RawConfig::default();
    raw.read_environment(|name| (name == "FANFARE_LISTEN").then(|| "here".to_owned()));
    raw.set_flag(SETTINGS[5], "oracle".to_owned());
    assert_snapshot!(raw.check(|_| None).unwrap_err(), @r#"
    FANFARE_LISTEN: "here" is not an address and port such as 127.0.0.1:8080 or [::1]:8080
    --backend: "oracle" is not known here: use embedded or aws
    "#);
}

#[test]
fn names_of_the_host_are_a_list_or_any() {
    let read = |text: &str| {
        let mut raw = RawConfig::default();
        raw.set_flag(SETTINGS[2], text.to_owned());
        raw.check(|_| None).map(|config| config.allowed_hosts)
    };
    assert_eq!(read("*").unwrap(), AllowedHosts::Any);
    assert_eq!(read("Shop.example, [::1]").unwrap(), AllowedHosts::Only(vec!["shop.example".into(), "[::1]".into()]));
    assert_snapshot!(read("a,,b").unwrap_err(), @r#"--allowed-hosts: "" is not the name of a host; write names with commas between, or *"#);
}

#[test]
fn insecure_lets_the_host_listen_to_others() {
    let mut raw = RawConfig::default();
    raw.read_text(Path::new("fanfare.toml"), "listen = \"0.0.0.0:80\"\ninsecure = true").unwrap();
    assert_eq!(raw.check(|_| None).unwrap().listen, "0.0.0.0:80".parse().unwrap());
}

#[test]
fn a_mail_server_gets_the_port_of_its_tls_and_the_password_from_a_variable() {
    let mut raw = RawConfig::default();
    let file =
        "[mail]\ntransport = \"smtp\"\nhost = \"mail.example\"\nuser = \"shop\"\npassword = \"env:MAIL_PASSWORD\"";
    raw.read_text(Path::new("fanfare.toml"), file).unwrap();
    let config = raw.check(|name| (name == "MAIL_PASSWORD").then(|| "hunter2".to_owned())).unwrap();
    let Transport::Smtp(smtp) = &config.mail.transport else { panic!("{:?}", config.mail) };
    assert_eq!((smtp.port, smtp.tls), (587, Tls::StartTls));
    assert_eq!(smtp.login.as_ref().unwrap().password, "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_mail_server_must_be_named_and_reached_in_private() {
    assert_snapshot!(refusal("[mail]\ntransport = \"smtp\""), @"mail.host: transport smtp needs a server: set mail.host or FANFARE_MAIL_HOST");
    assert_snapshot!(
        refusal("[mail]\ntransport = \"smtp\"\nhost = \"mail.example\"\ntls = \"off\""),
        @"fanfare.toml:4: mail.tls: without TLS anybody on the way to mail.example could read the messages: use starttls or implicit, or pass --insecure"
    );
}

fn refusal(file: &str) -> String {
    let mut raw = RawConfig::default();
    match raw.read_text(Path::new("fanfare.toml"), file) {
        Ok(()) => raw.check(|_| None).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}
