//! Which exact plugin: its bytes, the SHA-256 of them, and the prefix by which people name it. Pure.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a plugin file. Spoken in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight digits: enough for people to tell versions apart.
    #[must_use]
    pub fn short(&self) -> String {
        let mut digits = self.to_string();
        digits.truncate(8);
        digits
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The bytes of a plugin file, with what they hash to: taken once, when they were read, and never apart from them. Cloning
/// copies neither.
#[derive(Clone)]
pub struct Binary {
    bytes: Bytes,
    hash: Hash,
}

impl Binary {
    #[must_use]
    pub fn hash(&self) -> &Hash {
        &self.hash
    }
}

impl From<Vec<u8>> for Binary {
    fn from(bytes: Vec<u8>) -> Self {
        Self { hash: Hash::of(&bytes), bytes: bytes.into() }
    }
}

impl From<&[u8]> for Binary {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Binary").field(&self.hash).finish()
    }
}

impl Deref for Binary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a text is no [`struct@Hash`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no SHA-256 in hexadecimal")]
pub struct NotAHash(String);

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(NotAHash(text.chars().take(80).collect()));
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let value = digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low);
            *byte = value.ok_or_else(|| NotAHash(text.to_owned()))?;
        }
        Ok(Self(bytes))
    }
}

/// The first digits of a [`struct@Hash`], as a person types them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPrefix(String);

/// Fewer digits would be guessed rather than copied.
pub const PREFIX_DIGITS_MIN: usize = 4;
pub const PREFIX_DIGITS_MAX: usize = 64;

impl HashPrefix {
    #[must_use]
    pub fn matches(&self, hash: &Hash) -> bool {
        hash.to_string().starts_with(&self.0)
    }
}

/// A whole hash as people tell versions apart, and anything else as the beginning that it is.
impl fmt::Display for HashPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.parse::<Hash>() {
            Ok(whole) => f.write_str(&whole.short()),
            Err(NotAHash(_)) => write!(f, "{}…", self.0),
        }
    }
}

/// Why a text is no [`HashPrefix`].
#[derive(Debug, thiserror::Error)]
#[error("must be the first {PREFIX_DIGITS_MIN} to {PREFIX_DIGITS_MAX} digits of a version's SHA-256, in hexadecimal")]
pub struct NotAPrefix;

impl FromStr for HashPrefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = (PREFIX_DIGITS_MIN..=PREFIX_DIGITS_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if legal { Ok(Self(text.to_ascii_lowercase())) } else { Err(NotAPrefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = Hash::of(b"a plugin");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        for wrong in ["", "ab", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_binary_is_its_bytes_and_knows_what_they_hash_to() {
        let binary = Binary::from(&b"a plugin"[..]);
        assert_eq!((&*binary, binary.hash()), (&b"a plugin"[..], &Hash::of(b"a plugin")));
    }

    #[test]
    fn a_prefix_is_a_few_digits_in_either_case() {
        let hash = Hash::of(b"a plugin");
        let digits = hash.to_string();
        for prefix in [&digits[..4], &digits[..8].to_uppercase(), &digits[..]] {
            assert!(prefix.parse::<HashPrefix>().unwrap().matches(&hash), "{prefix}");
        }
        let shown = |digits: &str| digits.parse::<HashPrefix>().unwrap().to_string();
        assert_eq!([shown(&digits[..12]), shown(&digits)], [format!("{}…", &digits[..12]), hash.short()]);
        assert!(!"0000000".parse::<HashPrefix>().unwrap().matches(&hash));
        for wrong in ["", "abc", "xyz1", "abcd ", &"0".repeat(65)] {
            assert!(wrong.parse::<HashPrefix>().is_err(), "{wrong}");
        }
    }
}
