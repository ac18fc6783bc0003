//! Text that was good once.

use fanfare_tests::crash::goods::Dice;

/// What breaks readers: ends, beginnings, numbers at their limits, letters that are more than one byte or none at all.
const SHARDS: [&str; 40] = [
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "[[",
    ",",
    ":",
    "=",
    "\n",
    "\r\n",
    "\t",
    "#",
    "\\",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "\u{202e}",
    "ü",
    "\u{10ffff}",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "-0",
    "0x7f",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1.5",
    "NaN",
    "2026-02-30T00:00:00Z",
    "1970-01-01",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":{\"a\":",
];

/// `good` after a few slips: pieces lost, repeated, moved, put in; often words of `words`, which the reader knows.
pub fn damage(good: &str, words: &[&str], dice: &mut Dice) -> String {
    let mut text = good.to_owned();
    for _ in 0..=dice.below(4) {
        let (from, to) = (place(&text, dice), place(&text, dice));
        let (from, to) = (from.min(to), from.max(to).min(ceil(&text, from + 40)));
        match dice.below(6) {
            0 => text.replace_range(from..to, ""),
            1 => {
                let piece = text[from..to].to_owned();
                text.insert_str(to, &piece);
            }
            2 => text.insert_str(from, one_of(&SHARDS, dice)),
            3 => text.replace_range(from..to, one_of(&SHARDS, dice)),
            4 => text.insert_str(from, &one_of(&SHARDS, dice).repeat(1 + index(dice.below(300)))),
            _ => text.replace_range(from..to, one_of(words, dice)),
        }
    }
    text
}

pub fn one_of<'a>(choices: &[&'a str], dice: &mut Dice) -> &'a str {
    choices[index(dice.below(choices.len() as u64))]
}

pub fn index(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}

fn place(text: &str, dice: &mut Dice) -> usize {
    ceil(text, index(dice.below(text.len() as u64 + 1)))
}

fn ceil(text: &str, at: usize) -> usize {
    text.ceil_char_boundary(at)
}
