//! What SNS lets through to a consumer's queue: events of the kinds that the consumer hears.
//!
//! **Invariant**: never less than the consumer hears. More does no harm, since the host looks at every event again; it
//! costs a message that is thrown away.

use serde_json::{Value, json};

use super::names::KIND_ATTRIBUTE;
use crate::event::{KindPattern, Subscriptions};

/// More values in a policy SNS does not take.
const VALUES_MAX: usize = 150;

/// What a subscription's filter policy should be; `None` is none at all.
pub fn policy(hears: &Subscriptions) -> Option<Value> {
    let mut patterns: Vec<&KindPattern> = Vec::new();
    for pattern in hears.kinds() {
        if !patterns.iter().any(|known| known.covers(pattern)) {
            patterns.retain(|known| !pattern.covers(known));
            patterns.push(pattern);
        }
    }
    let mut values: Vec<_> = patterns.into_iter().map(ToString::to_string).collect();
    values.sort();
    let values: Vec<_> = match values.as_slice() {
        // The attribute is always there: nothing passes.
        [] => vec![json!({ "exists": false })],
        [all] if all == "*" => return None,
        many if many.len() > VALUES_MAX => return None,
        some => some.iter().map(|value| told(value)).collect(),
    };
    Some(json!({ KIND_ATTRIBUTE: values }))
}

/// Whether what passes `found` is at least what passes `wanted`. A policy that this host would not write is taken for
/// one that keeps something back.
pub fn passes_at_least(found: Option<&Value>, wanted: Option<&Value>) -> bool {
    let (found, wanted) = match (found, wanted) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(found), Some(wanted)) => (patterns(found), patterns(wanted)),
    };
    let (Some(found), Some(wanted)) = (found, wanted) else { return false };
    wanted.iter().all(|wanted| found.iter().any(|found| found.covers(wanted)))
}

/// The patterns that a policy is made of.
fn patterns(policy: &Value) -> Option<Vec<KindPattern>> {
    let fields = policy.as_object().filter(|fields| fields.len() == 1)?;
    let values = fields.get(KIND_ATTRIBUTE)?.as_array()?;
    if values.as_slice() == [json!({ "exists": false })] {
        return Some(Vec::new());
    }
    let read = |value: &Value| match value {
        Value::String(kind) => kind.parse().ok(),
        Value::Object(rule) if rule.len() == 1 => format!("{}*", rule.get("prefix")?.as_str()?).parse().ok(),
        _ => None,
    };
    values.iter().map(read).collect()
}

fn told(pattern: &str) -> Value {
    match pattern.strip_suffix('*') {
        Some(prefix) => json!({ "prefix": prefix }),
        None => json!(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Share;
    use crate::version::Hash;

    fn hears(kinds: &[&str]) -> Subscriptions {
        kinds.iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect()
    }

    #[test]
    fn kinds_are_values_and_patterns_are_prefixes() {
        let policy = policy(&hears(&["order.placed", "com.fanfare.stock.*", "order.placed"]));
        assert_eq!(policy, Some(json!({ "kind": [{ "prefix": "com.fanfare.stock." }, "order.placed"] })));
    }

    #[test]
    fn what_a_wider_pattern_covers_is_left_out() {
        for kinds in [["order.placed", "order.*"], ["order.*", "order.placed"]] {
            assert_eq!(policy(&hears(&kinds)), Some(json!({ "kind": [{ "prefix": "order." }] })));
        }
    }

    #[test]
    fn everything_or_too_much_is_no_policy_and_nothing_is_one_that_lets_nothing_through() {
        assert_eq!(policy(&hears(&["order.placed", "*"])), None);
        let many: Vec<_> = (0..=VALUES_MAX).map(|n| format!("com.example.k{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(policy(&hears(&many)), None);
        assert!(policy(&hears(&many[1..])).is_some());
        assert_eq!(policy(&hears(&[])), Some(json!({ "kind": [{ "exists": false }] })));
    }

    #[test]
    fn what_a_candidate_hears_passes_too() {
        let live = hears(&["order.placed"]);
        let both = live.with(Share::of(&Hash::of(b"candidate"), 100), &hears(&["order.shipped"]));
        assert_eq!(policy(&both), Some(json!({ "kind": ["order.placed", "order.shipped"] })));
    }

    #[test]
    fn a_policy_is_enough_where_it_lets_through_more() {
        let [narrow, wide, nothing] = [&["order.placed"][..], &["order.*", "com.a"], &[]].map(|it| policy(&hears(it)));
        let (narrow, wide, nothing) = (narrow.as_ref(), wide.as_ref(), nothing.as_ref());
        assert!(passes_at_least(wide, narrow) && !passes_at_least(narrow, wide));
        assert!(passes_at_least(None, wide) && !passes_at_least(wide, None));
        assert!(passes_at_least(narrow, nothing) && !passes_at_least(nothing, narrow));
        for strange in
            [json!({ "kind": ["order.placed"], "other": ["x"] }), json!({ "kind": [{ "anything-but": "x" }] })]
        {
            assert!(!passes_at_least(Some(&strange), narrow), "{strange}");
        }
    }
}
