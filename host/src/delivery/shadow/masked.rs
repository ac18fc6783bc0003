//! Texts without what differs by nature from one handling to another: ids that were made up, and the time. Pure.

use crate::clock::Timestamp;

/// What a handler may have written down as "now" lies in here; clocks tick in between.
pub struct Mask {
    known: Vec<String>,
    from: Timestamp,
    to: Timestamp,
}

/// Digits of milliseconds since the epoch, from 2001 to 2286.
const MILLIS_DIGITS: usize = 13;

impl Mask {
    /// Ids that are `known` stand as they are, and so do times that do not lie within the handling.
    #[must_use]
    pub fn new(known: Vec<String>, from: Timestamp, to: Timestamp) -> Self {
        Self { known, from, to }
    }

    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let word_start = rest.find(|letter: char| letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let (gap, behind) = rest.split_at(word_start);
            let word_end = behind.find(|letter| !in_word(letter)).unwrap_or(behind.len());
            let (whole, next) = behind.split_at(word_end);
            // What ends a sentence belongs to no word.
            let word = whole.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            masked.push_str(gap);
            masked.push_str(self.word(word));
            masked.push_str(whole.strip_prefix(word).unwrap_or_default());
            rest = next;
        }
        masked
    }

    fn word<'t>(&self, word: &'t str) -> &'t str {
        if uuid::Uuid::try_parse(word).is_ok() && !self.known.iter().any(|known| known == word) {
            return "(id)";
        }
        let millis = (word.len() == MILLIS_DIGITS).then(|| word.parse().ok().map(Timestamp::from_millis)).flatten();
        match millis.or_else(|| word.parse().ok()) {
            Some(time) if self.from <= time && time <= self.to => "(time)",
            _ => word,
        }
    }
}

fn in_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '-' | ':' | '.' | '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_ids_and_the_time_are_masked_and_what_both_were_told_is_not() {
        let [known, made_up] = ["0198f2a1-0000-7000-8000-000000000001", "0198f2a1-0000-7000-8000-000000000002"];
        let at = Timestamp::from_millis(1_795_341_600_000);
        let mask = Mask::new(vec![known.to_owned()], at, at.plus(std::time::Duration::from_millis(50)));
        let text =
            format!(r#"{{"order":"{known}","parcel":"{made_up}","at":"{at}","ms":1795341600020,"due":1795341700000}}"#);
        let expected =
            format!(r#"{{"order":"{known}","parcel":"(id)","at":"(time)","ms":(time),"due":1795341700000}}"#);
        assert_eq!(mask.text(&text), expected);
        assert_eq!(mask.text("12 St James's Square, ünïcode 10.50"), "12 St James's Square, ünïcode 10.50");
        assert_eq!(mask.text(""), "");
    }
}
