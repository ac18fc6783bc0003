//! Filter policies: compiled within their bounds, or refused; and matched without falling over.

use fanfare::event::filter::Filter;
use fanfare_tests::crash::goods::Dice;
use serde_json::value::RawValue;

use crate::text::{index, one_of};
use crate::{Target, check_refusal, text};

const DATA: &str = r#"{"order":{"currency":"EUR","total_amount":168.5,"lines":[{"sku":"NW-11","quantity":12},{"sku":"NW-72"}],
    "customer":{"id":"VINET","email":null},"metadata":{"a.b":"x","":"y"}},"change":{"placed":{}},"ip":"10.0.0.1","n":[1,[2,[3]]]}"#;
const KEYS: [&str; 14] = [
    "order", "currency", "lines", "sku", "quantity", "customer", "email", "metadata", "a.b", "", "$or", "n", "change",
    "ip",
];
const VALUES: [&str; 22] = [
    r#""EUR""#,
    "null",
    "true",
    "168.5",
    "-1e9",
    "1e400",
    r#"{"prefix":"N"}"#,
    r#"{"suffix":"1"}"#,
    r#"{"anything-but":["a",1]}"#,
    r#"{"anything-but":{"prefix":"N"}}"#,
    r#"{"anything-but":{"wildcard":"*"}}"#,
    r#"{"numeric":[">=",0,"<",1e9]}"#,
    r#"{"numeric":["=",-0]}"#,
    r#"{"numeric":[">"]}"#,
    r#"{"exists":false}"#,
    r#"{"exists":1}"#,
    r#"{"cidr":"10.0.0.0/8"}"#,
    r#"{"cidr":"::/129"}"#,
    r#"{"equals-ignore-case":"eur"}"#,
    r#"{"wildcard":"*1*1*1*1*1*1*1*1*"}"#,
    r#"{"wildcard":"***"}"#,
    r#"{"prefix":{"equals-ignore-case":"nw"}}"#,
];
const DEPTH_MAX: u64 = 6;

/// Compiles filter policies and lets an event through them.
#[derive(Default)]
pub struct Filters {
    pub taken: u64,
}

impl Target for Filters {
    fn name(&self) -> &'static str {
        "filters"
    }

    fn make(&mut self, dice: &mut Dice) -> Vec<u8> {
        let filter = object(dice, DEPTH_MAX);
        if dice.below(3) == 0 { text::damage(&filter, &VALUES, dice) } else { filter }.into_bytes()
    }

    fn try_input(&mut self, input: &[u8]) -> Result<(), String> {
        let filter = match Filter::parse(&String::from_utf8_lossy(input)) {
            Ok(filter) => filter,
            Err(refusal) => return check_refusal(&refusal.to_string()),
        };
        self.taken += 1;
        let raw: &RawValue = serde_json::from_str(DATA).map_err(|error| error.to_string())?;
        let value: serde_json::Value = serde_json::from_str(DATA).map_err(|error| error.to_string())?;
        // Two ways through the same event, and the filter as it shows itself, must agree.
        let matched = filter.matches_json(raw);
        let again =
            Filter::parse(&filter.to_string()).map_err(|error| format!("as it shows itself it is refused: {error}"))?;
        let agree = matched == filter.matches(&value) && matched == again.matches_json(raw);
        if agree { Ok(()) } else { Err("the same event matches and does not".to_owned()) }
    }
}

fn object(dice: &mut Dice, depth: u64) -> String {
    let members = (0..dice.below(4)).map(|_| {
        let key = one_of(&KEYS, dice);
        let value = match dice.below(4) {
            0 if depth > 0 => object(dice, depth - 1),
            1 if depth > 0 && key == "$or" => format!("[{},{}]", object(dice, depth - 1), object(dice, depth - 1)),
            _ => list(dice),
        };
        format!("\"{key}\":{value}")
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn list(dice: &mut Dice) -> String {
    let values: Vec<_> = (0..index(dice.below(4))).map(|_| one_of(&VALUES, dice)).collect();
    format!("[{}]", values.join(","))
}
