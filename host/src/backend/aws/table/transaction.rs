//! Writes, and what must hold for each.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::{AttributeValue, ConditionCheck, Delete, Put, TransactWriteItem, Update};

use crate::backend::aws::item::{Item, Key, weights};
use crate::backend::{Error, Result};

/// An update of one item, and the condition under which it is made. Expressions as DynamoDB reads them.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub(super) update: String,
    pub(super) condition: Option<String>,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Change {
    /// `SET …`, `REMOVE …` or both.
    pub fn of(update: impl Into<String>) -> Self {
        Self { update: update.into(), ..Self::default() }
    }

    #[must_use]
    pub fn update(mut self, update: impl Into<String>) -> Self {
        self.update = update.into();
        self
    }

    /// What `name`, such as `#ttl`, stands for where the attribute's own name is a word of DynamoDB.
    #[must_use]
    pub fn name(mut self, name: &str, attribute: &str) -> Self {
        self.names.insert(name.to_owned(), attribute.to_owned());
        self
    }

    /// What the attributes are after `SET a = :a, …`.
    #[cfg(test)]
    pub fn written(&self) -> HashMap<String, AttributeValue> {
        let set = self.update.trim_start_matches("SET ").split(" REMOVE ").next().unwrap_or_default();
        let pairs = set.split(", ").filter_map(|pair| pair.split_once(" = "));
        pairs.filter_map(|(name, value)| Some((name.to_owned(), self.values.get(value)?.clone()))).collect()
    }

    /// Together with what another change does. Conditions stay this one's.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        fn parts(update: &str) -> (&str, &str) {
            let (set, remove) = update.split_once("REMOVE ").unwrap_or((update, ""));
            (set.trim().trim_start_matches("SET "), remove)
        }
        let ((set, remove), (more, less)) = (parts(&self.update), parts(&other.update));
        let joined = |word: &str, parts: [&str; 2]| {
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            if parts.is_empty() { String::new() } else { format!("{word} {}", parts.join(", ")) }
        };
        let update = [joined("SET", [set, more]), joined("REMOVE", [remove, less])];
        self.update = update.join(" ").trim().to_owned();
        self.names.extend(other.names);
        self.values.extend(other.values);
        self
    }

    #[must_use]
    pub fn only_if(mut self, condition: impl Into<String>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    /// Under the condition of another change, too.
    #[must_use]
    pub fn only_if_also(mut self, other: &Self) -> Self {
        let Some(condition) = &other.condition else { return self };
        self.condition = Some(match self.condition.take() {
            Some(own) => format!("{} AND {}", apart(&own), apart(condition)),
            None => condition.clone(),
        });
        self.values.extend(used(condition, &other.values));
        self
    }

    /// The update alone, and the values that it names.
    pub fn unconditionally(&self) -> (&str, HashMap<String, AttributeValue>) {
        (&self.update, used(&self.update, &self.values).collect())
    }

    /// What `name`, such as `:value`, stands for.
    #[must_use]
    pub fn value(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }
}

/// Writes that are made together or not at all. Each is marked with what a refusal of it means.
#[derive(Debug)]
pub struct Transaction<M> {
    pub(super) writes: Vec<(M, Write)>,
}

impl<M> Default for Transaction<M> {
    fn default() -> Self {
        Self { writes: Vec::new() }
    }
}

#[derive(Debug)]
pub enum Write {
    /// Where nothing is yet.
    New(Item),
    Put(Item),
    Update(Key, Change),
    /// Nothing is written, and the condition of the change must hold.
    Check(Key, Change),
    /// The condition of the change must hold.
    Delete(Key, Change),
}

impl<M> Transaction<M> {
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    pub fn into_writes(self) -> Vec<(M, Write)> {
        self.writes
    }

    pub fn push(&mut self, mark: M, write: Write) {
        self.writes.push((mark, write));
    }

    pub fn iter(&self) -> impl Iterator<Item = &(M, Write)> {
        self.writes.iter()
    }

    pub fn create(&mut self, mark: M, item: Item) {
        self.writes.push((mark, Write::New(item)));
    }

    pub fn put(&mut self, mark: M, item: Item) {
        self.writes.push((mark, Write::Put(item)));
    }

    pub fn update(&mut self, mark: M, key: Key, change: Change) {
        self.writes.push((mark, Write::Update(key, change)));
    }

    pub fn check(&mut self, mark: M, key: Key, change: Change) {
        self.writes.push((mark, Write::Check(key, change)));
    }

    /// The condition of `change` must hold.
    pub fn delete(&mut self, mark: M, key: Key, change: Change) {
        self.writes.push((mark, Write::Delete(key, change)));
    }
}

impl Write {
    /// Names the item among those of a table.
    pub fn key(&self) -> (&str, &str) {
        match self {
            Self::New(item) | Self::Put(item) => {
                (item.text_or_none("pk").unwrap_or_default(), item.text_or_none("sk").unwrap_or_default())
            }
            Self::Update(key, _) | Self::Check(key, _) | Self::Delete(key, _) => (&key.pk, &key.sk),
        }
    }

    /// What changes or looks at an item that there may be, and so has a condition.
    pub fn changes(&self) -> Option<(&Key, &Change)> {
        match self {
            Self::New(_) | Self::Put(_) => None,
            Self::Update(key, change) | Self::Check(key, change) | Self::Delete(key, change) => Some((key, change)),
        }
    }

    /// What it weighs, roughly.
    pub fn bytes(&self) -> usize {
        let attributes = match self {
            Self::New(item) | Self::Put(item) => &item.0,
            Self::Update(_, change) | Self::Check(_, change) | Self::Delete(_, change) => &change.values,
        };
        weights(attributes)
    }

    pub(super) fn item(&self, table: &str) -> Result<TransactWriteItem> {
        let wrong = |error: aws_sdk_dynamodb::error::BuildError| Error::Failed(error.to_string().into());
        let item = TransactWriteItem::builder();
        Ok(match self {
            Self::New(Item(new)) => {
                let put = Put::builder().table_name(table).set_item(Some(new.clone()));
                item.put(put.condition_expression("attribute_not_exists(pk)").build().map_err(wrong)?)
            }
            Self::Put(Item(new)) => {
                item.put(Put::builder().table_name(table).set_item(Some(new.clone())).build().map_err(wrong)?)
            }
            Self::Update(key, Change { update, condition, names, values }) => item.update(
                Update::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .update_expression(update)
                    .set_condition_expression(condition.clone())
                    .set_expression_attribute_names(some(names.clone()))
                    .set_expression_attribute_values(some(values.clone()))
                    .build()
                    .map_err(wrong)?,
            ),
            Self::Check(key, Change { condition, names, values, .. }) => item.condition_check(
                ConditionCheck::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(condition.clone())
                    .set_expression_attribute_names(some(names.clone()))
                    .set_expression_attribute_values(some(values.clone()))
                    .build()
                    .map_err(wrong)?,
            ),
            Self::Delete(key, Change { condition, names, values, .. }) => item.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(condition.clone())
                    .set_expression_attribute_names(some(names.clone()))
                    .set_expression_attribute_values(some(values.clone()))
                    .build()
                    .map_err(wrong)?,
            ),
        }
        .build())
    }
}

/// A condition beside another one. DynamoDB takes no parentheses that change nothing.
fn apart(condition: &str) -> Cow<'_, str> {
    if condition.contains(" OR ") { Cow::Owned(format!("({condition})")) } else { Cow::Borrowed(condition) }
}

/// The values that an expression names: DynamoDB takes no others.
fn used(expression: &str, values: &HashMap<String, AttributeValue>) -> impl Iterator<Item = (String, AttributeValue)> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':' || c == '_'));
    let words: HashSet<&str> = words.filter(|word| word.starts_with(':')).collect();
    let values = values.iter().filter(move |(name, _)| words.contains(name.as_str()));
    values.map(|(name, value)| (name.clone(), value.clone()))
}

/// An SDK takes nothing for an empty map.
pub fn some<V>(map: HashMap<String, V>) -> Option<HashMap<String, V>> {
    (!map.is_empty()).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::aws::item::number;

    #[test]
    fn changes_are_made_together() {
        let both = |one: &str, other: &str| Change::of(one).and(Change::of(other)).update;
        assert_eq!(both("SET a = :a REMOVE b", "SET c = :c REMOVE d, e"), "SET a = :a, c = :c REMOVE b, d, e");
        assert_eq!(both("SET a = :a", "REMOVE d"), "SET a = :a REMOVE d");
        assert_eq!(both("REMOVE b", "SET c = :c"), "SET c = :c REMOVE b");
        assert_eq!(both("REMOVE b", "REMOVE d"), "REMOVE b, d");
    }

    #[test]
    fn a_condition_goes_without_the_values_of_its_update_and_the_other_way_round() {
        let change = Change::of("SET v = :v").only_if("v = :ver OR n < :n").value(":v", number(1));
        let change = change.value(":ver", number(2)).value(":n", number(3));
        let lock = Change::of("SET lk = :lock").only_if("a = :a").value(":a", number(4)).only_if_also(&change);
        assert_eq!(lock.condition.as_deref(), Some("a = :a AND (v = :ver OR n < :n)"));
        let names = |values: &HashMap<String, AttributeValue>| {
            let mut names: Vec<String> = values.keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(&lock.values), [":a", ":n", ":ver"]);
        let (update, values) = change.unconditionally();
        assert_eq!((update, names(&values)), ("SET v = :v", vec![":v".to_owned()]));
    }
}
