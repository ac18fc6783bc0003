//! Needs against grants: pure. What a plugin asks for and its policy does not give is told as the very lines that
//! an operator would add to the side file.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::policy::{HttpGrant, Policy, UrlPrefix};
use crate::sandbox::{Description, Need};

/// What is missing, as lines for the side file. Lists stand there whole, with what is granted already, so that they
/// can replace the lines that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub lines: String,
}

/// Compares what the plugin needs with what the policy grants.
///
/// # Errors
/// [`Missing`], where something is needed and not granted.
pub fn check(description: &Description, policy: &Policy) -> Result<(), Missing> {
    let ungranted: Vec<_> = description.needs.iter().filter(|need| !granted(need, policy)).collect();
    if ungranted.is_empty() { Ok(()) } else { Err(Missing { lines: lines(&ungranted, policy) }) }
}

fn granted(need: &Need, policy: &Policy) -> bool {
    let grant = &policy.grant;
    match need {
        Need::ChangeOrder => grant.change_order,
        Need::Email => grant.email,
        Need::Sms => grant.sms,
        Need::Publish(kind) => grant.publish.iter().any(|granted| granted.covers(kind)),
        Need::Records(dataset) => grant.records.contains(&dataset.name),
        Need::Setting(name) => policy.settings.contains_key(name),
        Need::Secret(name) => grant.secrets.contains_key(name),
        Need::Http { url_prefix, methods } => http_granted(&grant.http, url_prefix, methods),
    }
}

fn http_granted(grants: &[HttpGrant], needed: &UrlPrefix, methods: &[String]) -> bool {
    let covering: Vec<_> = grants.iter().filter(|grant| grant.url_prefix.covers(needed)).collect();
    !covering.is_empty() && methods.iter().all(|method| covering.iter().any(|grant| grant.methods.contains(method)))
}

fn lines(ungranted: &[&Need], policy: &Policy) -> String {
    let mut grant = BTreeSet::new();
    let mut settings = BTreeSet::new();
    for need in ungranted {
        match need {
            Need::ChangeOrder => grant.insert("change_order = true".to_owned()),
            Need::Email => grant.insert("email = true".to_owned()),
            Need::Sms => grant.insert("sms = true".to_owned()),
            Need::Publish(_) => grant.insert(publish_line(ungranted, policy)),
            Need::Records(_) => grant.insert(records_line(ungranted, policy)),
            Need::Http { .. } => grant.insert(http_line(ungranted, policy)),
            Need::Secret(_) => grant.insert(secrets_line(ungranted, policy)),
            Need::Setting(name) => settings.insert(format!("{name} = \"…\"")),
        };
    }
    let mut told = String::new();
    for (section, lines) in [("grant", grant), ("settings", settings)] {
        if !lines.is_empty() {
            let separator = if told.is_empty() { "" } else { "\n" };
            let lines: Vec<_> = lines.into_iter().collect();
            // Writing to a String cannot fail.
            let _ = write!(told, "{separator}[{section}]\n{}", lines.join("\n"));
        }
    }
    told
}

fn publish_line(ungranted: &[&Need], policy: &Policy) -> String {
    let needed = ungranted.iter().filter_map(|need| match need {
        Need::Publish(kind) => Some(quoted(&kind.to_string())),
        _ => None,
    });
    listed("publish", policy.grant.publish.iter().map(|kind| quoted(&kind.to_string())).chain(needed))
}

fn records_line(ungranted: &[&Need], policy: &Policy) -> String {
    let needed = ungranted.iter().filter_map(|need| match need {
        Need::Records(dataset) => Some(quoted(&dataset.name)),
        _ => None,
    });
    listed("records", policy.grant.records.iter().map(|name| quoted(name)).chain(needed))
}

fn http_line(ungranted: &[&Need], policy: &Policy) -> String {
    let entry = |url_prefix: &UrlPrefix, methods: &[String], private: bool| {
        let methods: Vec<_> = methods.iter().map(|method| quoted(method)).collect();
        let private = if private { ", private = true" } else { "" };
        format!("{{ url_prefix = {}, methods = [{}]{private} }}", quoted(&url_prefix.to_string()), methods.join(", "))
    };
    let needed = ungranted.iter().filter_map(|need| match need {
        Need::Http { url_prefix, methods } => Some(entry(url_prefix, methods, false)),
        _ => None,
    });
    let granted = policy.grant.http.iter();
    let granted = granted.map(|grant| entry(&grant.url_prefix, &grant.methods, grant.private));
    listed("http", granted.chain(needed))
}

fn secrets_line(ungranted: &[&Need], policy: &Policy) -> String {
    use crate::policy::SecretSource::{Env, File};
    let granted = policy.grant.secrets.iter().map(|(name, source)| match source {
        Env(variable) => format!("{name} = {}", quoted(&format!("env:{variable}"))),
        File(path) => format!("{name} = {}", quoted(&format!("file:{}", path.display()))),
    });
    let needed = ungranted.iter().filter_map(|need| match need {
        Need::Secret(name) => Some(format!("{name} = \"env:{name}\"")),
        _ => None,
    });
    format!("secrets = {{ {} }}", granted.chain(needed).collect::<Vec<_>>().join(", "))
}

fn listed(key: &str, items: impl Iterator<Item = String>) -> String {
    format!("{key} = [{}]", items.collect::<Vec<_>>().join(", "))
}

/// As TOML quotes text; a plugin chose it, so it may hold quotes and line breaks.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sandbox::{Column, ColumnType, Dataset};

    fn description(needs: Vec<Need>) -> Description {
        Description {
            version: semver::Version::new(1, 0, 0),
            state_version: 1,
            summary: String::new(),
            subscriptions: Vec::new(),
            needs,
        }
    }

    fn every_need() -> Vec<Need> {
        let columns = vec![Column { name: "id".to_owned(), of: ColumnType::Text, nullable: false }];
        vec![
            Need::Http {
                url_prefix: UrlPrefix::parse("https://api.carrier.example/v1/").unwrap(),
                methods: vec!["GET".to_owned(), "POST".to_owned()],
            },
            Need::Email,
            Need::Sms,
            Need::Records(Dataset { name: "orders".to_owned(), columns }),
            Need::ChangeOrder,
            Need::Publish("com.example.a.*".parse().unwrap()),
            Need::Publish("com.example.b".parse().unwrap()),
            Need::Setting("region".to_owned()),
            Need::Secret("CARRIER_TOKEN".to_owned()),
        ]
    }

    fn policy(text: &str) -> Policy {
        Policy::parse(Path::new("a.toml"), text).unwrap()
    }

    #[test]
    fn without_a_side_file_every_need_is_missing() {
        insta::assert_snapshot!(check(&description(every_need()), &Policy::default()).unwrap_err().lines, @r#"
        [grant]
        change_order = true
        email = true
        http = [{ url_prefix = "https://api.carrier.example/v1/", methods = ["GET", "POST"] }]
        publish = ["com.example.a.*", "com.example.b"]
        records = ["orders"]
        secrets = { CARRIER_TOKEN = "env:CARRIER_TOKEN" }
        sms = true
        [settings]
        region = "…"
        "#);
    }

    #[test]
    fn the_lines_told_are_a_side_file_that_grants_every_need() {
        let description = description(every_need());
        let missing = check(&description, &Policy::default()).unwrap_err();
        assert_eq!(check(&description, &policy(&missing.lines)), Ok(()));
    }

    #[test]
    fn lines_keep_what_is_granted_already() {
        let policy = policy("[grant]\npublish = [\"com.example.a.*\"]\nsecrets = { OTHER = \"file:/run/other\" }");
        let needs = vec![Need::Publish("com.example.b".parse().unwrap()), Need::Secret("TOKEN".to_owned())];
        insta::assert_snapshot!(check(&description(needs), &policy).unwrap_err().lines, @r#"
        [grant]
        publish = ["com.example.a.*", "com.example.b"]
        secrets = { OTHER = "file:/run/other", TOKEN = "env:TOKEN" }
        "#);
    }

    #[test]
    fn a_wider_pattern_grants_a_narrower_need_and_not_the_reverse() {
        let granted = |grant: &str, need: &str| {
            let policy = policy(&format!("[grant]\npublish = [{grant:?}]"));
            check(&description(vec![Need::Publish(need.parse().unwrap())]), &policy).is_ok()
        };
        assert!(granted("com.example.*", "com.example.a.*"));
        assert!(!granted("com.example.a", "com.example.*"));
        assert!(!granted("com.example.a.*", "com.example.b"));
    }

    #[test]
    fn an_http_need_wants_its_prefix_and_all_its_methods() {
        let granted = |http: &str, url_prefix: &str| {
            let policy = policy(&format!("[grant]\nhttp = [{http}]"));
            let methods = vec!["GET".to_owned(), "POST".to_owned()];
            check(
                &description(vec![Need::Http { url_prefix: UrlPrefix::parse(url_prefix).unwrap(), methods }]),
                &policy,
            )
            .is_ok()
        };
        let both = r#"{ url_prefix = "https://a.example/", methods = ["GET", "POST"] }"#;
        assert!(granted(both, "https://a.example/v1/"));
        assert!(granted(both, "HTTPS://A.example/v1/"));
        assert!(!granted(both, "http://a.example/"));
        assert!(!granted(both, "https://a.example.evil.test/"));
        assert!(!granted(
            r#"{ url_prefix = "https://a.example/v1/", methods = ["GET", "POST"] }"#,
            "https://a.example/"
        ));
        let get = r#"{ url_prefix = "https://a.example/", methods = ["GET"] }"#;
        assert!(!granted(get, "https://a.example/"));
        let post = r#"{ url_prefix = "https://a.example/v1/", methods = ["POST"] }"#;
        assert!(granted(&format!("{get}, {post}"), "https://a.example/v1/"));
    }
}
