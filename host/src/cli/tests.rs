use clap::CommandFactory;

use super::*;

#[test]
fn the_commands_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_tells_the_exit_codes() {
    let help = Cli::command().render_help().to_string();
    for code in
        ["0  done", "2  wrong usage", "3  refused", "4  the host cannot be reached", "5  what was compared differs"]
    {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let problem = failure::Problem::default();
    let failures = [
        (Failure::Failed(String::new()), 1),
        (Failure::Usage(String::new()), 2),
        (Failure::Refused(problem), 3),
        (Failure::Unavailable(String::new()), 4),
        (Failure::Differs(String::new()), 5),
    ];
    for (failure, code) in failures {
        assert_eq!(failure.code(), code);
    }
}

#[test]
fn a_problem_names_every_field() {
    let problem: failure::Problem = serde_json::from_str(
        r#"{"type":"about:blank","title":"The order is not valid","status":422,
            "errors":[{"field":"lines[0].quantity","detail":"must be at least 1"},{"field":"currency","detail":"is required"}]}"#,
    )
    .unwrap();
    insta::assert_snapshot!(Failure::Refused(problem), @r"
    the host refused: The order is not valid
      lines[0].quantity must be at least 1
      currency is required
    ");
}

#[test]
fn wrong_usage_is_refused_before_any_host_is_asked() {
    for arguments in [
        &["fanfare"][..],
        &["fanfare", "orders", "get"],
        &["fanfare", "events", "publish"],
        &["fanfare", "events", "publish", "--type", "com.x"],
        &["fanfare", "events", "publish", "events.json", "--subject", "s"],
        &["fanfare", "events", "publish", "events.json", "--data", "1"],
        &["fanfare", "events", "publish", "events.json", "--source", "urn:x"],
        &["fanfare", "dead-letters", "retry", "loyalty"],
        &["fanfare", "dead-letters", "retry", "loyalty", "--all", "--cause", "x"],
        &["fanfare", "demo", "--orders", "0"],
    ] {
        assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
    }
}

#[test]
fn what_is_no_name_asks_for_no_other_resource() {
    let of_a_consumer = [
        &["consumers", "show"][..],
        &["consumers", "state"],
        &["consumers", "pause"],
        &["consumers", "resume"],
        &["consumers", "forget", "--yes"],
        &["consumers", "history"],
        &["consumers", "rollback"],
        &["consumers", "promote"],
        &["consumers", "shadow"],
        &["consumers", "backfill", "--status"],
        &["dead-letters", "list"],
        &["dead-letters", "retry", "--all"],
        &["dead-letters", "discard", "--all"],
        &["provision"],
        &["lambda", "consumer"],
    ];
    let of_others = [
        &["orders", "get"][..],
        &["orders", "timeline"],
        &["orders", "cancel"],
        &["orders", "deliver"],
        &["records", "export"],
        &["dead-letters", "show", "loyalty"],
    ];
    let taken = |command: &[&str], name: &str| {
        let arguments = std::iter::once("fanfare").chain(command.iter().copied()).chain([name]);
        Cli::try_parse_from(arguments).is_ok()
    };
    for command in of_a_consumer {
        assert!(taken(command, "loyalty"), "{command:?}");
        assert!(!["", ".", "..", "a/b", "a?b", "Loyalty"].iter().any(|none| taken(command, none)), "{command:?}");
    }
    for command in of_others {
        assert!(taken(command, "orders"), "{command:?}");
        assert!(!["", ".", ".."].iter().any(|none| taken(command, none)), "{command:?}");
    }
}

#[test]
fn what_an_event_is_made_of_goes_with_its_type() {
    for arguments in [
        &["fanfare", "events", "publish", "events.json"][..],
        &["fanfare", "events", "publish", "--type", "com.x", "--subject", "s"],
        &["fanfare", "events", "publish", "--type", "com.x", "--subject", "s", "--data", "1", "--id", "1"],
    ] {
        assert!(Cli::try_parse_from(arguments).is_ok(), "{arguments:?}");
    }
}
