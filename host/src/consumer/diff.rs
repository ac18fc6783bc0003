//! What is to be done so that what runs follows what is in the directory: a value, made by a pure function.

use std::collections::BTreeMap;

use super::scan::Sighting;
use crate::policy::ConsumerName;

/// Each name stands in one list at most.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub to_add: Vec<ConsumerName>,
    /// Another plugin file, or another side file.
    pub to_change: Vec<ConsumerName>,
    pub to_remove: Vec<ConsumerName>,
}

impl Diff {
    /// From what was taken up (whatever became of it: a refused file is not tried again until it changes) to what
    /// is wanted.
    #[must_use]
    pub fn between(taken_up: &BTreeMap<ConsumerName, Sighting>, wanted: &BTreeMap<ConsumerName, Sighting>) -> Self {
        let mut diff = Self::default();
        for (name, sighting) in wanted {
            match taken_up.get(name) {
                None => diff.to_add.push(name.clone()),
                Some(before) if before != sighting => diff.to_change.push(name.clone()),
                Some(_) => {}
            }
        }
        diff.to_remove = taken_up.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        diff
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scan::Entry;
    use super::*;

    fn table(entries: &[(&str, &str, Option<&str>)]) -> BTreeMap<ConsumerName, Sighting> {
        let other = |content: &str| Entry::Other(content.to_owned());
        entries
            .iter()
            .map(|(name, plugin, side_file)| {
                let sighting = Sighting { plugin: other(plugin), side_file: side_file.map(other) };
                (name.parse().unwrap(), sighting)
            })
            .collect()
    }

    #[test]
    fn names_are_added_changed_and_removed() {
        let taken_up =
            table(&[("gone", "1", None), ("new-file", "1", None), ("new-policy", "1", None), ("same", "1", None)]);
        let wanted = table(&[
            ("added", "1", None),
            ("new-file", "2", None),
            ("new-policy", "1", Some("p")),
            ("same", "1", None),
        ]);
        let name = |name: &str| name.parse::<ConsumerName>().unwrap();
        let expected = Diff {
            to_add: vec![name("added")],
            to_change: vec![name("new-file"), name("new-policy")],
            to_remove: vec![name("gone")],
        };
        assert_eq!(Diff::between(&taken_up, &wanted), expected);
    }

    fn tables() -> impl Strategy<Value = BTreeMap<ConsumerName, Sighting>> {
        prop::collection::btree_map("[ab][ab]?", ("[xy]", prop::option::of("[xy]")), 0..5).prop_map(|entries| {
            let rows: Vec<_> =
                entries.iter().map(|(name, (plugin, side))| (&**name, &**plugin, side.as_deref())).collect();
            table(&rows)
        })
    }

    proptest! {
        #[test]
        fn doing_what_the_diff_says_leads_to_what_is_wanted(mut taken_up in tables(), wanted in tables()) {
            let diff = Diff::between(&taken_up, &wanted);
            for name in &diff.to_remove {
                prop_assert!(taken_up.remove(name).is_some());
            }
            for name in &diff.to_add {
                prop_assert!(taken_up.insert(name.clone(), wanted[name].clone()).is_none());
            }
            for name in &diff.to_change {
                prop_assert!(taken_up.insert(name.clone(), wanted[name].clone()).is_some());
            }
            prop_assert_eq!(&taken_up, &wanted);
            prop_assert_eq!(Diff::between(&taken_up, &wanted), Diff::default());
        }
    }
}
