//! From the JSON of a filter policy to what is compiled of it. The text is a plugin's or an operator's and may be
//! anything: reading never panics, and refuses what it does not know rather than passing over it.

use serde_json::{Map, Number, Value};

use super::distinct::Distinct;
use super::rule::{Bound, Decimal, Network, Range, Rule, Wildcard};
use super::{BYTES_MAX, COMBINATIONS_MAX, Compiled, Condition, KEYS_MAX, Keys, Test};

const OPERATORS: [&str; 8] =
    ["prefix", "suffix", "equals-ignore-case", "wildcard", "anything-but", "numeric", "cidr", "exists"];
/// What `anything-but` can be told besides values.
const NEGATED: [&str; 3] = ["prefix", "suffix", "wildcard"];
/// As SNS allows.
const STARS_MAX: usize = 3;
/// A filter, for those that do not know how one looks.
pub const EXAMPLE: &str = r#"{"order": {"currency": ["EUR"]}}"#;
/// Longer texts are quoted no further.
const QUOTED_CHARS_MAX: usize = 100;

/// Why a text is not a filter policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{detail}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct Error {
    /// The way to what is wrong: `order.customer.id`. Empty where it is the whole.
    pub key: String,
    pub detail: String,
}

type Result<T, E = Error> = std::result::Result<T, E>;

pub fn compile(text: &str) -> Result<Compiled> {
    let mut compiler = Compiler::default();
    if text.len() > BYTES_MAX {
        return Err(compiler.wrong(format!("{} bytes are too many: at most {BYTES_MAX}", text.len())));
    }
    let policy = match serde_json::from_str(text) {
        Ok(Distinct(Value::Object(policy))) => policy,
        // Whatever else a reader of JSON says of it.
        Err(_) if !text.trim_start().starts_with('{') => return Err(compiler.no_object(text)),
        Ok(_) => return Err(compiler.no_object(text)),
        Err(error) => return Err(compiler.wrong(format!("a filter is a JSON object: {error}, in {}", clip(text)))),
    };
    let (condition, combinations) = compiler.object(&policy)?;
    if compiler.names.len() > KEYS_MAX {
        let names = compiler.names.join(", ");
        return Err(compiler.wrong(format!(
            "{} keys hold values, and at most {KEYS_MAX} may: {}",
            compiler.names.len(),
            clip(&names)
        )));
    }
    if combinations > COMBINATIONS_MAX {
        return Err(compiler.wrong(format!(
            "its values make {combinations} combinations (the values of each key × its depth, multiplied over all keys), \
             and at most {COMBINATIONS_MAX} are allowed: name fewer values, or keys less deep"
        )));
    }
    let Compiler { keys, tests, .. } = compiler;
    Ok(Compiled { text: Value::Object(policy).to_string(), keys, tests, condition })
}

#[derive(Default)]
struct Compiler {
    keys: Keys,
    tests: Vec<Test>,
    /// Keys that hold values, each once.
    names: Vec<String>,
    /// The way to where it reads.
    path: Vec<String>,
}

impl Compiler {
    /// What an object asks for, and how many combinations that makes.
    fn object(&mut self, object: &Map<String, Value>) -> Result<(Condition, u64)> {
        let (mut conditions, mut combinations) = (Vec::with_capacity(object.len()), 1_u64);
        for (key, value) in object {
            let (condition, more) = match alternatives(key, value) {
                Some(objects) => self.any(&objects)?,
                None => self.below(key, value)?,
            };
            conditions.push(condition);
            combinations = combinations.saturating_mul(more);
        }
        Ok((Condition::All(conditions), combinations))
    }

    fn any(&mut self, objects: &[&Map<String, Value>]) -> Result<(Condition, u64)> {
        let (mut conditions, mut combinations) = (Vec::with_capacity(objects.len()), 0_u64);
        for object in objects {
            if object.is_empty() {
                return Err(self.wrong("an empty object in $or would match everything: take it out, or the $or"));
            }
            let (condition, more) = self.object(object)?;
            conditions.push(condition);
            combinations = combinations.saturating_add(more);
        }
        Ok((Condition::Any(conditions), combinations))
    }

    fn below(&mut self, key: &str, value: &Value) -> Result<(Condition, u64)> {
        self.path.push(key.to_owned());
        let condition =
            match value {
                Value::Object(object) if object.is_empty() => {
                    Err(self.wrong("an empty object asks for nothing: name a key in it"))
                }
                Value::Object(object) => self.object(object),
                Value::Array(values) => self.test(values),
                other if OPERATORS.contains(&key) => Err(self
                    .wrong(format!("operators stand in a list: write [{{\"{key}\": {}}}]", clip(&other.to_string())))),
                other => Err(self.wrong(format!("values stand in a list: write [{}]", clip(&other.to_string())))),
            };
        self.path.pop();
        condition
    }

    /// A list of values, one of which must match.
    fn test(&mut self, values: &[Value]) -> Result<(Condition, u64)> {
        if values.is_empty() {
            return Err(self.wrong("an empty list matches nothing: name at least one value"));
        }
        let (mut rules, mut exists) = (Vec::with_capacity(values.len()), Vec::new());
        for value in values {
            match self.value(value)? {
                Asked::Exists(wanted) => exists.push(wanted),
                Asked::Rule(rule) => rules.push(rule),
            }
        }
        if exists.contains(&true) && exists.contains(&false) {
            return Err(self.wrong("{\"exists\": true} and {\"exists\": false} together match everything"));
        }
        let index = self.tests.len();
        self.tests.push(Test { rules, exists: exists.first().copied() });
        self.place().tests.push(index);
        let name = self.path.join(".");
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        Ok((Condition::Test(index), count(values.len()).saturating_mul(count(self.path.len()))))
    }

    /// Where the tests of this path are kept.
    fn place(&mut self) -> &mut Keys {
        let mut keys = &mut self.keys;
        for key in &self.path {
            let index = keys.below.iter().position(|(name, _)| **name == **key).unwrap_or_else(|| {
                keys.below.push((key.as_str().into(), Keys::default()));
                keys.below.len() - 1
            });
            #[allow(clippy::indexing_slicing, reason = "found, or pushed just now")]
            let (_, below) = &mut keys.below[index];
            keys = below;
        }
        keys
    }

    fn value(&self, value: &Value) -> Result<Asked> {
        Ok(Asked::Rule(match value {
            Value::Null => Rule::Null,
            Value::Bool(value) => Rule::Bool(*value),
            Value::Number(number) => Rule::Number(self.decimal(number)?),
            Value::String(text) => Rule::Text(text.as_str().into()),
            Value::Object(object) => return self.operator(object),
            Value::Array(_) => {
                return Err(self.wrong("a list in a list: values are texts, numbers, true, false, null or an operator"));
            }
        }))
    }

    fn operator(&self, object: &Map<String, Value>) -> Result<Asked> {
        let mut entries = object.iter();
        let (Some((name, operand)), None) = (entries.next(), entries.next()) else {
            return Err(self.wrong(format!("an operator is an object with one key: {}", OPERATORS.join(", "))));
        };
        Ok(Asked::Rule(match name.as_str() {
            "exists" => {
                let wanted = operand.as_bool().ok_or_else(|| self.wrong("exists takes true or false"))?;
                return Ok(Asked::Exists(wanted));
            }
            "anything-but" => Rule::AnythingBut(self.anything_but(operand)?),
            "numeric" => Rule::Numeric(self.range(operand)?),
            "cidr" => Rule::Cidr(self.network(self.text(name, operand)?)?),
            "prefix" | "suffix" | "equals-ignore-case" | "wildcard" => self.pattern(name, self.text(name, operand)?)?,
            _ if self.path.last().is_some_and(|key| key == "$or") => {
                return Err(self.wrong("an $or takes at least two objects, whose keys are no operators"));
            }
            unknown => {
                let known = OPERATORS.join(", ");
                return Err(self.wrong(format!("there is no operator {:?}; there are {known}", clip(unknown))));
            }
        }))
    }

    fn text<'v>(&self, operator: &str, operand: &'v Value) -> Result<&'v str> {
        operand.as_str().ok_or_else(|| self.wrong(format!("{operator} takes a text")))
    }

    fn pattern(&self, operator: &str, text: &str) -> Result<Rule> {
        Ok(match operator {
            "prefix" => Rule::Prefix(text.into()),
            "suffix" => Rule::Suffix(text.into()),
            "equals-ignore-case" => Rule::EqualsIgnoreCase(text.into()),
            _ => self.wildcard(text)?,
        })
    }

    /// `*` stands for any text, `\*` for itself, `\\` for a backslash.
    fn wildcard(&self, pattern: &str) -> Result<Rule> {
        let (mut parts, mut letters, mut after_star) = (vec![String::new()], pattern.chars(), false);
        while let Some(letter) = letters.next() {
            let star = letter == '*';
            if star && after_star {
                return Err(self.wrong(format!("{:?} has two * side by side: one says the same", clip(pattern))));
            }
            after_star = star;
            if star {
                parts.push(String::new());
                continue;
            }
            let letter = match letter {
                '\\' => letters.next().filter(|escaped| matches!(escaped, '*' | '\\')).ok_or_else(|| {
                    self.wrong(format!("{:?}: a backslash stands before * or another backslash only", clip(pattern)))
                })?,
                letter => letter,
            };
            if let Some(part) = parts.last_mut() {
                part.push(letter);
            }
        }
        if parts.len() > STARS_MAX + 1 {
            return Err(self.wrong(format!("{:?} has more than {STARS_MAX} *", clip(pattern))));
        }
        let last = parts.pop().unwrap_or_default();
        if parts.is_empty() {
            return Ok(Rule::Text(last.into()));
        }
        let first = parts.remove(0);
        Ok(Rule::Wildcard(Wildcard { first, middle: parts, last }))
    }

    fn anything_but(&self, operand: &Value) -> Result<Vec<Rule>> {
        if let Value::Object(object) = operand {
            return self.anything_but_pattern(object);
        }
        let values = listed(operand);
        if values.is_empty() {
            return Err(self.wrong("anything-but takes at least one value"));
        }
        let one_kind = values.iter().all(Value::is_string) || values.iter().all(Value::is_number);
        if !one_kind {
            return Err(
                self.wrong("anything-but takes a text, a number, a list of either, or a prefix, suffix or wildcard")
            );
        }
        values
            .iter()
            .map(|value| match value {
                Value::Number(number) => self.decimal(number).map(Rule::Number),
                other => Ok(Rule::Text(other.as_str().unwrap_or_default().into())),
            })
            .collect()
    }

    fn anything_but_pattern(&self, object: &Map<String, Value>) -> Result<Vec<Rule>> {
        let mut entries = object.iter();
        let (Some((name, operand)), None) = (entries.next(), entries.next()) else {
            return Err(self.wrong(format!("anything-but takes one of {}", NEGATED.join(", "))));
        };
        if !NEGATED.contains(&name.as_str()) {
            let known = NEGATED.join(", ");
            return Err(self.wrong(format!("anything-but takes values, or one of {known}; not {:?}", clip(name))));
        }
        let patterns = listed(operand);
        if patterns.is_empty() {
            return Err(self.wrong(format!("anything-but takes at least one {name}")));
        }
        let pattern = |pattern| match self.text(name, pattern)? {
            "" => Err(self.wrong(format!("an empty {name} would leave nothing"))),
            text => self.pattern(name, text),
        };
        patterns.iter().map(pattern).collect()
    }

    /// `["=", 1]`, `["<", 1]`, `[">", 0, "<=", 1]`.
    fn range(&self, operand: &Value) -> Result<Range> {
        let wrong = || {
            self.wrong(format!(
                "numeric takes an operator and a number, such as [\"=\", 5], [\">=\", 0] or [\">\", 0, \"<=\", 100]; not {}",
                clip(&operand.to_string())
            ))
        };
        let bounds = match operand.as_array().map(Vec::as_slice) {
            Some([Value::String(sign), Value::Number(number)]) => (sign.as_str(), self.decimal(number)?, None),
            Some([Value::String(sign), Value::Number(number), Value::String(second), Value::Number(upper)]) => {
                (sign.as_str(), self.decimal(number)?, Some((second.as_str(), self.decimal(upper)?)))
            }
            _ => return Err(wrong()),
        };
        let bound = |sign: &str| if sign.ends_with('=') { Bound::Included } else { Bound::Excluded };
        match bounds {
            ("=", value, None) => {
                Ok(Range { lower: Some((value, Bound::Included)), upper: Some((value, Bound::Included)) })
            }
            (sign @ ("<" | "<="), value, None) => Ok(Range { upper: Some((value, bound(sign))), lower: None }),
            (sign @ (">" | ">="), value, None) => Ok(Range { lower: Some((value, bound(sign))), upper: None }),
            (sign @ (">" | ">="), lower, Some((second @ ("<" | "<="), upper))) if lower < upper => {
                Ok(Range { lower: Some((lower, bound(sign))), upper: Some((upper, bound(second))) })
            }
            _ => Err(wrong()),
        }
    }

    fn network(&self, text: &str) -> Result<Network> {
        let parsed = || {
            let (address, bits) = text.split_once('/')?;
            let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
            Network::new(address.parse().ok()?, bits.parse().ok().filter(|_| digits)?)
        };
        parsed().ok_or_else(|| {
            let text = clip(text);
            self.wrong(format!("{text:?} is not a network: write its first address and its bits, such as 10.0.0.0/24"))
        })
    }

    fn decimal(&self, number: &Number) -> Result<Decimal> {
        number.as_f64().and_then(Decimal::exact).ok_or_else(|| {
            self.wrong(format!("{number} is not a number from -1000000000 to 1000000000 with at most five decimals"))
        })
    }

    fn no_object(&self, text: &str) -> Error {
        self.wrong(format!("a filter is a JSON object such as {EXAMPLE}, not {}", clip(text)))
    }

    fn wrong(&self, detail: impl Into<String>) -> Error {
        Error { key: clip(&self.path.join(".")), detail: detail.into() }
    }
}

enum Asked {
    Rule(Rule),
    Exists(bool),
}

/// The objects of an `$or`, where it is one: else it is a key like any other.
fn alternatives<'v>(key: &str, value: &'v Value) -> Option<Vec<&'v Map<String, Value>>> {
    let values = value.as_array().filter(|values| key == "$or" && values.len() >= 2)?;
    let objects: Vec<_> = values.iter().map(Value::as_object).collect::<Option<_>>()?;
    let reserved = |object: &&Map<String, Value>| object.keys().any(|key| OPERATORS.contains(&key.as_str()));
    (!objects.iter().any(reserved)).then_some(objects)
}

/// A list as it is, and a single value as a list of one.
fn listed(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        other => std::slice::from_ref(other),
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
