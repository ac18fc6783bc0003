//! Secrets of a consumer: read when it is linked, put in the place of `{{secret:NAME}}` in headers on their way out, and
//! masked in what comes back.
//!
//! **Invariant**: the guest has the names of secrets and never a value, unless a server hands it one in another form than it
//! was sent.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use crate::file;
use crate::policy::SecretSource;

/// A secret is a line, not a file of any size.
const SECRET_BYTES_MAX: usize = 8 << 10;
/// What is shorter could be masked in innocent text, and be guessed.
const MASKED_BYTES_MIN: usize = 6;
const OPENING: &[u8] = b"{{secret:";
const CLOSING: &[u8] = b"}}";

#[derive(Default)]
pub struct Secrets(BTreeMap<String, HeaderValue>);

/// A placeholder for what is not there.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown(pub String);

impl Secrets {
    /// Reads each from where the side file says it is.
    ///
    /// # Errors
    /// What is missing, in words that say where; never a part of a value.
    pub fn read(sources: &BTreeMap<String, SecretSource>) -> Result<Self, String> {
        let mut secrets = BTreeMap::new();
        for (name, source) in sources {
            let wrong = |why: String| format!("secret {name}: {why}");
            let text = match source {
                SecretSource::Env(variable) => from_env(variable)
                    .ok_or_else(|| wrong(format!("the host has no variable {variable}, or it is empty")))?,
                SecretSource::File(path) => {
                    from_file(path).map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))?
                }
            };
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| wrong("it holds characters that cannot stand in a header".to_owned()))?;
            value.set_sensitive(true);
            secrets.insert(name.clone(), value);
        }
        Ok(Self(secrets))
    }

    /// Replaces the placeholders in `headers`. Whether there were any.
    ///
    /// # Errors
    /// [`Unknown`], where a placeholder names no secret of this consumer.
    pub fn fill(&self, headers: &mut HeaderMap) -> Result<bool, Unknown> {
        let mut filled = false;
        for value in headers.values_mut().filter(|value| find(value.as_bytes(), OPENING).is_some()) {
            *value = self.filled(value.as_bytes())?;
            filled = true;
        }
        Ok(filled)
    }

    fn filled(&self, template: &[u8]) -> Result<HeaderValue, Unknown> {
        let (mut filled, mut rest) = (Vec::new(), template);
        while let Some(at) = find(rest, OPENING) {
            let (before, opened) = rest.split_at(at);
            let named = opened.get(OPENING.len()..).unwrap_or_default();
            let name_end = find(named, CLOSING).unwrap_or(named.len());
            let name = String::from_utf8_lossy(named.get(..name_end).unwrap_or_default()).into_owned();
            let Some(secret) = self.0.get(&name) else { return Err(Unknown(name)) };
            filled.extend_from_slice(before);
            filled.extend_from_slice(secret.as_bytes());
            rest = named.get(name_end + CLOSING.len()..).unwrap_or_default();
        }
        filled.extend_from_slice(rest);
        let mut value = HeaderValue::from_bytes(&filled).map_err(|_| Unknown(String::new()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Writes asterisks over every secret in `headers`.
    pub fn mask_headers(&self, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            if self.values().any(|secret| find(value.as_bytes(), secret).is_some()) {
                let mut masked = value.as_bytes().to_vec();
                self.mask(&mut masked);
                // Asterisks can stand wherever a secret could.
                *value = HeaderValue::from_bytes(&masked).unwrap_or_else(|_| HeaderValue::from_static("***"));
            }
        }
    }

    fn mask(&self, text: &mut [u8]) {
        for found in self.found(text) {
            if let Some(found) = text.get_mut(found) {
                found.fill(b'*');
            }
        }
    }

    /// Wherever a secret stands, within another one or over the end of it too.
    fn found(&self, text: &[u8]) -> Vec<Range<usize>> {
        let of = |secret: &[u8]| {
            let windows = text.windows(secret.len()).enumerate();
            windows.filter(|(_, window)| *window == secret).map(|(at, _)| at..at + secret.len()).collect::<Vec<_>>()
        };
        self.values().flat_map(of).collect()
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.0.values().map(HeaderValue::as_bytes).filter(|secret| secret.len() >= MASKED_BYTES_MIN)
    }

    /// How much of the end of `text` may be the beginning of a secret.
    fn begun(&self, text: &[u8]) -> usize {
        let longest = |secret: &[u8]| {
            let may_be = (1..secret.len().min(text.len() + 1)).rev();
            may_be
                .into_iter()
                .find(|length| secret.get(..*length).is_some_and(|begin| text.ends_with(begin)))
                .unwrap_or(0)
        };
        self.values().map(longest).max().unwrap_or(0)
    }
}

/// Masks a body that comes in pieces. Bytes that may be the beginning of a secret are held back until more is known.
#[derive(Default)]
pub struct Masking {
    held: BytesMut,
    /// Of these, so many are the end of a secret whose beginning went on.
    covered: usize,
}

impl Masking {
    pub fn push(&mut self, piece: Bytes, secrets: &Secrets) -> Bytes {
        if self.held.is_empty() && secrets.values().next().is_none() {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        self.take(self.held.len() - secrets.begun(&self.held), secrets)
    }

    /// What is left at the end.
    pub fn end(&mut self, secrets: &Secrets) -> Bytes {
        self.take(self.held.len(), secrets)
    }

    /// The first `ready` bytes, in which no secret begins that does not end in what is held.
    fn take(&mut self, ready: usize, secrets: &Secrets) -> Bytes {
        let found = secrets.found(&self.held);
        let mut taken = self.held.split_to(ready);
        let covered = std::iter::once(0..self.covered).chain(found);
        self.covered = 0;
        for Range { start, end } in covered {
            if let Some(secret) = taken.get_mut(start..end.min(ready)) {
                secret.fill(b'*');
                self.covered = self.covered.max(end.saturating_sub(ready));
            }
        }
        taken.freeze()
    }
}

/// Without the values.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[allow(clippy::disallowed_methods, reason = "the side file names the variable; there is no setting behind it")]
fn from_env(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn from_file(path: &Path) -> std::io::Result<String> {
    // With the ends of its lines, of which none is part of it.
    let text = file::read_text(path, 2 * SECRET_BYTES_MAX as u64)?;
    let text = text.trim_end_matches(['\r', '\n']);
    match text.len() {
        0 => Err(std::io::Error::other("it is empty")),
        length if length > SECRET_BYTES_MAX => {
            Err(std::io::Error::other(format!("it has more than {SECRET_BYTES_MAX} bytes, too many for a secret")))
        }
        _ => Ok(text.to_owned()),
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(all: &[(&str, &str)]) -> Secrets {
        Secrets(all.iter().map(|(name, value)| ((*name).to_owned(), HeaderValue::from_str(value).unwrap())).collect())
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_placeholder_becomes_the_secret_and_is_shown_to_nobody() {
        let secrets = secrets(&[("TOKEN", "s3cret-value"), ("USER", "shop")]);
        let mut sent =
            headers(&[("authorization", "Bearer {{secret:TOKEN}}"), ("x", "{{secret:USER}}:{{secret:TOKEN}}!")]);
        assert_eq!(secrets.fill(&mut sent), Ok(true));
        assert_eq!(sent["authorization"], "Bearer s3cret-value");
        assert_eq!(sent["x"], "shop:s3cret-value!");
        assert!(!format!("{sent:?} {secrets:?}").contains("s3cret"));
        assert_eq!(secrets.fill(&mut headers(&[("x", "{{other}}")])), Ok(false));
    }

    #[test]
    fn a_placeholder_without_a_secret_names_it() {
        let secrets = secrets(&[("TOKEN", "s3cret-value")]);
        for (value, named) in [("{{secret:OTHER}}", "OTHER"), ("{{secret:TOKEN", "TOKEN "), ("{{secret:}}", "")] {
            let filled = secrets.fill(&mut headers(&[("x", &format!("{value} "))]));
            if value.ends_with("}}") {
                assert_eq!(filled, Err(Unknown(named.to_owned())));
            } else {
                assert_eq!(filled, Err(Unknown(named.to_owned())), "without an end, all that follows is the name");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_without_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            [("T".to_owned(), SecretSource::File(path))].into()
        };
        let good = Secrets::read(&file("good", "s3cret-value\r\n")).unwrap();
        assert_eq!(good.0["T"], "s3cret-value");
        for (name, text) in [("empty", "\n"), ("lines", "s3cret\nvalue"), ("long", &"s3cret".repeat(2_000))] {
            let told = Secrets::read(&file(name, text)).unwrap_err();
            assert!(told.starts_with("secret T: ") && !told.contains("s3cret"), "{told}");
        }
        // A pipe would be waited for until somebody writes to it.
        let device = SecretSource::File("/dev/zero".into());
        let told = Secrets::read(&[("T".to_owned(), device)].into()).unwrap_err();
        assert!(told.starts_with("secret T: cannot read /dev/zero: it is a device, a pipe or a socket"), "{told}");
        let env = SecretSource::Env("FANFARE_NO_SUCH_VARIABLE".to_owned());
        let told = Secrets::read(&[("T".to_owned(), env)].into()).unwrap_err();
        assert_eq!(told, "secret T: the host has no variable FANFARE_NO_SUCH_VARIABLE, or it is empty");
    }

    #[test]
    fn a_secret_that_comes_back_in_a_header_is_masked() {
        let secrets = secrets(&[("TOKEN", "s3cret-value")]);
        let mut received = headers(&[("x-echo", "Bearer s3cret-value, s3cret-value"), ("x", "fine")]);
        secrets.mask_headers(&mut received);
        assert_eq!(
            (&received["x-echo"], &received["x"]),
            (&HeaderValue::from_static("Bearer ************, ************"), &HeaderValue::from_static("fine"),)
        );
    }

    #[test]
    fn of_secrets_that_begin_alike_or_overlap_nothing_is_left() {
        let secrets = secrets(&[("A_KEY", "abcdef"), ("B_TOKEN", "abcdef-ghijkl"), ("C_OTHER", "jkl-mnopqr")]);
        let mut received = headers(&[("x-echo", "<abcdef-ghijkl-mnopqr>")]);
        secrets.mask_headers(&mut received);
        assert_eq!(received["x-echo"], "<********************>");
        for cut in 0..=22 {
            let (first, second) = b"<abcdef-ghijkl-mnopqr>".split_at(cut);
            let mut masking = Masking::default();
            let came = [
                masking.push(Bytes::copy_from_slice(first), &secrets),
                masking.push(Bytes::copy_from_slice(second), &secrets),
                masking.end(&secrets),
            ];
            assert_eq!(String::from_utf8_lossy(&came.concat()), "<********************>", "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_in_a_body_is_masked_wherever_it_is_cut(
            body in "(abcabd|abcabc|[abcd]){0,20}",
            cuts in prop::collection::vec(1_usize..5, 0..40),
        ) {
            let secrets = secrets(&[("ONE", "abcabc"), ("TWO", "bdabcabd")]);
            let mut whole = body.clone().into_bytes();
            secrets.mask(&mut whole);
            let (mut masking, mut came, mut rest) = (Masking::default(), Vec::new(), body.as_bytes());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                rest = behind;
                came.extend_from_slice(&masking.push(Bytes::copy_from_slice(piece), &secrets));
            }
            came.extend_from_slice(&masking.end(&secrets));
            prop_assert_eq!(String::from_utf8_lossy(&came), String::from_utf8_lossy(&whole));
            for (at, letter) in body.bytes().enumerate() {
                let covered = (0..=at).any(|from| {
                    ["abcabc", "bdabcabd"].iter().any(|secret| body[from..].starts_with(secret) && from + secret.len() > at)
                });
                prop_assert_eq!(came[at], if covered { b'*' } else { letter });
            }
        }
    }
}
