//! What a guest may say of itself, and what it may not.

use super::*;

fn good() -> wit::Description {
    wit::Description {
        version: "1.2.0".to_owned(),
        state_version: 1,
        summary: "Counts".to_owned(),
        subscriptions: vec![subscribed("order.*")],
        needs: Vec::new(),
    }
}

fn subscribed(kind: &str) -> wit::Subscription {
    wit::Subscription { kind: kind.to_owned(), filter: None }
}

fn needing(need: wit::Need) -> wit::Description {
    wit::Description { needs: vec![need], ..good() }
}

fn http(url_prefix: &str, methods: &[&str]) -> wit::Description {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    needing(wit::Need::Http(wit::HttpNeed { url_prefix: url_prefix.to_owned(), methods }))
}

fn records(name: &str, columns: &[&str]) -> wit::Description {
    let column = |name: &&str| wit::Column { name: (*name).to_owned(), of: wit::ColumnType::Text, nullable: true };
    let columns = columns.iter().map(column).collect();
    needing(wit::Need::Records(wit::Dataset { name: name.to_owned(), columns }))
}

#[test]
fn what_could_not_be_kept_granted_or_shown_is_refused_in_words_for_its_author() {
    let numbered: Vec<_> = (0..=COLUMNS_MAX).map(|number| format!("c{number}")).collect();
    let numbered: Vec<_> = numbered.iter().map(String::as_str).collect();
    let publish = |kind: &str| needing(wit::Need::Publish(kind.to_owned()));
    for (wrong, words) in [
        (wit::Description { version: "1.2".to_owned(), ..good() }, "not a semantic version"),
        (wit::Description { version: format!("1.2.0-{}", "a".repeat(NAME_BYTES_MAX)), ..good() }, "bytes of version"),
        (wit::Description { summary: "one\ntwo".to_owned(), ..good() }, "one line of text"),
        (wit::Description { summary: "\u{1b}[2J".to_owned(), ..good() }, "one line of text"),
        (wit::Description { summary: "a".repeat(SUMMARY_BYTES_MAX + 1), ..good() }, "bytes of summary"),
        (wit::Description { subscriptions: Vec::new(), ..good() }, "at least one event kind"),
        (
            wit::Description { subscriptions: vec![subscribed("order.*"); SUBSCRIPTIONS_MAX + 1], ..good() },
            "are too many",
        ),
        (wit::Description { subscriptions: vec![subscribed("order.plaid")], ..good() }, "subscriptions: "),
        (wit::Description { subscriptions: vec![subscribed("or der")], ..good() }, "subscriptions: "),
        (wit::Description { needs: vec![wit::Need::Email; NEEDS_MAX + 1], ..good() }, "needs are too many"),
        (http("http:/a.example/", &["GET"]), "is not a URL"),
        (http("http://a.example/", &["get"]), "not a method that can be granted"),
        (http("http://a.example/", &["CONNECT"]), "not a method that can be granted"),
        (http("http://a.example/", &[]), "at least one method"),
        (http("http://a.example/", &["GET"; METHODS_MAX + 1]), "methods are too many"),
        (records("../elsewhere", &["id"]), "is not a name"),
        (records("", &["id"]), "is not a name"),
        (records("rows", &["a/b"]), "is not a name"),
        (records("rows", &[]), "at least one column"),
        (records("rows", &["id", "n", "id"]), "column id stands twice"),
        (records("rows", &numbered), "columns are too many"),
        (publish("order.placed"), "the host's own"),
        (publish("order.*"), "the host's own"),
        (publish("order"), "the host's own"),
        (publish("com example"), "needs: publish: "),
        (needing(wit::Need::Setting("a b".to_owned())), "is not a name"),
        (needing(wit::Need::Secret("a\nb".to_owned())), "is not a name"),
    ] {
        let told = Description::check(wrong).map_or_else(|why| why, |_| "it was taken".to_owned());
        assert!(told.contains(words) && !told.contains(char::is_control), "{words}: {told}");
    }
}

#[test]
fn what_is_right_is_taken_up_to_its_bounds() {
    let columns: Vec<_> = (0..COLUMNS_MAX).map(|number| format!("c{number}")).collect();
    let columns: Vec<_> = columns.iter().map(String::as_str).collect();
    for right in [
        wit::Description { subscriptions: vec![subscribed("com.example.*"); SUBSCRIPTIONS_MAX], ..good() },
        wit::Description { needs: vec![wit::Need::Sms; NEEDS_MAX], ..good() },
        wit::Description { summary: "ä".repeat(SUMMARY_BYTES_MAX / 2), ..good() },
        http("https://a.example/v1/", &["GET", "DELETE"]),
        records("rows", &columns),
        needing(wit::Need::Publish("*".to_owned())),
    ] {
        let told = format!("{right:?}");
        assert!(Description::check(right).is_ok(), "{told}");
    }
}
