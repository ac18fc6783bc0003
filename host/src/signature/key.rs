//! The keys, in the forms in which the tool conventions keep them in files, and in one that is a line of text.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

const PUBLIC_KEY: u8 = 0x01;
const KEY_PAIR: u8 = 0x81;
const PREFIX: &str = "ed25519:";
/// Its algorithm, the secret and the public key.
pub const KEY_PAIR_BYTES: usize = 65;

/// Spoken as `ed25519:` and Base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// By which a signature tells its key, without being a proof. Spoken in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId(pub(super) [u8; 12]);

/// A secret key with its public one.
pub struct KeyPair(Ed25519KeyPair);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ed25519 key such as `fanfare plugin keygen` or `wasmsign2 keygen` make")]
pub struct NotAKey;

impl PublicKey {
    /// From the file of a public key.
    ///
    /// # Errors
    /// [`NotAKey`], as where it is the secret one.
    pub fn from_file(bytes: &[u8]) -> Result<Self, NotAKey> {
        match bytes {
            [PUBLIC_KEY, key @ ..] => key.try_into().map(Self).map_err(|_| NotAKey),
            _ => Err(NotAKey),
        }
    }

    #[must_use]
    pub fn to_file(self) -> Vec<u8> {
        [&[PUBLIC_KEY], self.0.as_slice()].concat()
    }

    /// As `wasmsign2` derives it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), b"key_id");
        KeyId(mac.as_ref().first_chunk().copied().unwrap_or_default())
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl KeyPair {
    /// From 32 random bytes.
    ///
    /// # Errors
    /// None that is known of.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, NotAKey> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| NotAKey)
    }

    /// From the file of a key pair.
    ///
    /// # Errors
    /// [`NotAKey`], as where the public key in it is another's.
    pub fn from_file(bytes: &[u8]) -> Result<Self, NotAKey> {
        let Some((&KEY_PAIR, keys)) = bytes.split_first() else { return Err(NotAKey) };
        let (seed, public) = keys.split_at_checked(32).ok_or(NotAKey)?;
        Ed25519KeyPair::from_seed_and_public_key(seed, public).map(Self).map_err(|_| NotAKey)
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().unwrap_or_default())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().unwrap_or([0; 64])
    }
}

/// What the file of a key pair holds whose secret is `seed`.
#[must_use]
pub fn key_pair_file(seed: &[u8; 32], public: PublicKey) -> Vec<u8> {
    [&[KEY_PAIR], seed.as_slice(), &public.0].concat()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let key = text.strip_prefix(PREFIX).and_then(|key| BASE64.decode(key).ok()).ok_or(NotAKey)?;
        key.as_slice().try_into().map(Self).map_err(|_| NotAKey)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
