//! What dead letters have in common: the words of a cause without what differs from letter to letter. Pure.

/// Of the words that stand for a group.
const CHARS_MAX: usize = 300;
/// Of a hexadecimal number that stands without the form of a UUID: shorter ones are words, such as `decade`.
const HEX_DIGITS_MIN: usize = 8;

/// `text` with UUIDs, hexadecimal and other numbers replaced by `#`, cut to a bounded length. What has been through here
/// comes back as it is.
///
/// `no stock of NW-11 for 0198c2a4-…: 3 left, 1,200 wanted` → `no stock of NW-# for #: # left, # wanted`
#[must_use]
pub fn in_general(text: &str) -> String {
    let mut general = String::with_capacity(text.len().min(CHARS_MAX));
    let (mut rest, mut in_word) = (text, false);
    for _ in 0..CHARS_MAX {
        let Some(letter) = rest.chars().next() else { break };
        let volatile = number(rest.as_bytes(), in_word);
        general.push(if volatile > 0 { '#' } else { letter });
        in_word = volatile == 0 && letter.is_ascii_alphanumeric();
        rest = rest.get(volatile.max(letter.len_utf8())..).unwrap_or_default();
    }
    general
}

/// Length of the number that `text` begins with; 0 where it begins with none.
fn number(text: &[u8], in_word: bool) -> usize {
    if !in_word && is_uuid(text) {
        return UUID.len();
    }
    let word = run(text, u8::is_ascii_alphanumeric);
    let hexadecimal = text.get(..word).is_some_and(|word| {
        word.len() >= HEX_DIGITS_MIN && word.iter().all(u8::is_ascii_hexdigit) && word.iter().any(u8::is_ascii_digit)
    });
    if !in_word && hexadecimal {
        return word;
    }
    let mut length = run(text, u8::is_ascii_digit);
    // 1,200 and 3.14 and 10:15:00 are one each.
    while length > 0 && matches!(text.get(length), Some(b'.' | b',' | b':')) {
        match run(text.get(length + 1..).unwrap_or_default(), u8::is_ascii_digit) {
            0 => break,
            more => length += 1 + more,
        }
    }
    length
}

fn run(text: &[u8], wanted: impl Fn(&u8) -> bool) -> usize {
    text.iter().take_while(|byte| wanted(byte)).count()
}

const UUID: &[u8; 36] = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

fn is_uuid(text: &[u8]) -> bool {
    let fits = |(letter, form): (&u8, &u8)| if *form == b'-' { *letter == b'-' } else { letter.is_ascii_hexdigit() };
    text.get(..UUID.len()).is_some_and(|text| text.iter().zip(UUID).all(fits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_from_letter_to_letter_is_left_out() {
        for (text, general) in [
            ("attempt 3 was told to fail", "attempt # was told to fail"),
            ("panicked by event 0198c2a4-7b1e-7c3d-8e4f-abcdefabcdef", "panicked by event #"),
            ("no stock of NW-11: 3 left, 1,200 wanted", "no stock of NW-#: # left, # wanted"),
            ("panicked at src/lib.rs:12:5: late", "panicked at src/lib.rs:#: late"),
            ("used up its time limit of 500ms", "used up its time limit of #ms"),
            ("hash 9f86d081884c7d65 is a decade and a facade old", "hash # is a decade and a facade old"),
            ("Größe 5 passt nicht", "Größe # passt nicht"),
            ("", ""),
        ] {
            assert_eq!(in_general(text), general);
        }
    }

    #[test]
    fn it_is_bounded() {
        assert_eq!(in_general(&"ü".repeat(5_000)).chars().count(), CHARS_MAX);
    }

    proptest! {
        #[test]
        fn what_stands_for_a_group_stands_for_itself(text in "[ a-f0-9.,:#xü-]{0,400}") {
            let general = in_general(&text);
            prop_assert_eq!(in_general(&general), general);
        }

        #[test]
        fn letters_that_differ_in_ids_and_numbers_alone_are_one_group(one in any::<u128>(), other in any::<u128>(), n in any::<u32>(), m in any::<u32>()) {
            let cause = |id: u128, n: u32| in_general(&format!("order {}: {n} of {n} failed", uuid::Uuid::from_u128(id)));
            prop_assert_eq!(cause(one, n), cause(other, m));
        }
    }
}
