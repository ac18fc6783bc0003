//! Whose plugin a file is: ed25519 signatures in its first section, as the tool conventions of WebAssembly describe it
//! (`Signatures.md` there) and `wasmsign2` writes it. Pure.
//!
//! ```text
//! header │ custom section "signature" │ all that follows: its SHA-256 is what is signed
//!          └ sets of hashes, each with its signatures
//! ```
//!
//! A file may be signed in parts, by the hash of what each prefix of it holds. Here only the last of those hashes counts, and
//! it must be of the whole: a file that was cut where a part ends is not what was signed.
//!
//! **Invariant**: whoever made the file chose every length and count in it; nothing is reserved for one before it is there.

use std::fmt;

use sha2::{Digest as _, Sha256};

mod key;
mod section;

pub use key::{KEY_PAIR_BYTES, KeyId, KeyPair, NotAKey, PublicKey, key_pair_file};
use section::{Section, SignedHashes};

/// Each signature is held against each key; more than this many signatures are nobody's.
pub const SIGNATURES_MAX: usize = 16;
/// As many hosts trust.
pub const KEYS_MAX: usize = 16;

const COMPONENT_HEADER: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Why a file is not taken for that of somebody who is trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "it is not signed, and this host takes only what a key of plugin_keys signed; sign it with `fanfare plugin sign`, or get a \
         signed file"
    )]
    Unsigned,
    #[error("it is not a WebAssembly component, so nobody can have signed it; build it for wasm32-wasip2")]
    NotAComponent,
    #[error("its signature section is damaged ({0}); copy the file again, or sign it again as it was built")]
    Damaged(&'static str),
    #[error("it has more than {SIGNATURES_MAX} signatures; sign it again as it was built, with the keys that matter")]
    TooMany,
    #[error("it was changed after it was signed; copy it again, or sign it again as it was built")]
    Changed,
    #[error("what stands in it as the signature of {0} is not by that key; copy it again, or sign it again")]
    Forged(PublicKey),
    #[error(
        "it is signed, but by no key of plugin_keys{}; add that key if you trust its owner, or sign it with one that is there",
        Listed(.0)
    )]
    UnknownKey(Vec<KeyId>),
}

/// The keys among `keys` that signed `file` as it is.
///
/// # Errors
/// [`Refused`] where none did.
pub fn verify(file: &[u8], keys: &[PublicKey]) -> Result<Vec<PublicKey>, Refused> {
    let (section, rest) = split(file)?;
    let whole = whole(&section, rest)?;
    let (mut signers, mut forged) = (Vec::new(), None);
    for key in keys {
        for (hashes, signature) in whole.iter().flat_map(|set| set.signatures.iter().map(|one| (&set.hashes, one))) {
            // An id is no proof, but one that is not the key's says that the signature is another's.
            if signature.key_id.is_empty() || *signature.key_id == key.id().0 {
                let right = signature.algorithm == section::ED25519 && key.verify(&message(hashes), signature.bytes);
                match right {
                    true if signers.contains(key) => {}
                    true => signers.push(*key),
                    false if signature.key_id.is_empty() => {}
                    false => forged = Some(*key),
                }
            }
        }
    }
    match forged {
        _ if !signers.is_empty() => Ok(signers),
        Some(key) => Err(Refused::Forged(key)),
        None => Err(Refused::UnknownKey(claimed(&whole))),
    }
}

/// The ids of the keys that `file` says it was signed with, as it is. Not looked at whether that is so.
///
/// # Errors
/// [`Refused`] where it is not signed, or was changed afterwards.
pub fn claims(file: &[u8]) -> Result<Vec<KeyId>, Refused> {
    let (section, rest) = split(file)?;
    Ok(claimed(&whole(&section, rest)?))
}

/// `file` with a signature by `key`, beside those of other keys.
///
/// # Errors
/// [`Refused`] where `file` was signed before and changed since.
pub fn sign(file: &[u8], key: &KeyPair) -> Result<Vec<u8>, Refused> {
    let (mut section, rest) = match split(file) {
        Err(Refused::Unsigned) => (Section::default(), file.get(COMPONENT_HEADER.len()..).unwrap_or_default()),
        split => split?,
    };
    if section.sets.is_empty() {
        section.sets.push(SignedHashes { hashes: vec![digest(rest)], signatures: Vec::new() });
    } else {
        whole(&section, rest)?;
    }
    let (hash, id) = (digest(rest), key.public().id());
    // The last one is of the whole, like every other that counts; which of them does not matter.
    let Some(set) = section.sets.iter_mut().find(|set| set.hashes.last() == Some(&hash)) else {
        return Err(Refused::Changed);
    };
    let signature = key.sign(&message(&set.hashes));
    set.signatures.retain(|other| *other.key_id != id.0);
    set.signatures.push(section::Signature { key_id: &id.0, algorithm: section::ED25519, bytes: &signature });
    if section.signatures() > SIGNATURES_MAX {
        return Err(Refused::TooMany);
    }
    Ok([&COMPONENT_HEADER, &*section.encode(), rest].concat())
}

/// The signature section, and what follows it.
fn split(file: &[u8]) -> Result<(Section<'_>, &[u8]), Refused> {
    let sections = file.strip_prefix(&COMPONENT_HEADER).ok_or(Refused::NotAComponent)?;
    Section::split(sections)
}

/// The sets that are of all of `rest`.
fn whole<'s, 'f>(section: &'s Section<'f>, rest: &[u8]) -> Result<Vec<&'s SignedHashes<'f>>, Refused> {
    let hash = digest(rest);
    let whole: Vec<_> = section.sets.iter().filter(|set| set.hashes.last() == Some(&hash)).collect();
    if whole.is_empty() { Err(Refused::Changed) } else { Ok(whole) }
}

fn claimed(whole: &[&SignedHashes<'_>]) -> Vec<KeyId> {
    let ids = whole.iter().flat_map(|set| &set.signatures).filter_map(|one| one.key_id.try_into().ok().map(KeyId));
    ids.collect()
}

fn message(hashes: &[[u8; 32]]) -> Vec<u8> {
    [b"wasmsig".as_slice(), &section::FORMAT, hashes.as_flattened()].concat()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// ` (12ab…, 34cd…)`, or nothing where there is nothing to list.
struct Listed<'a>(&'a [KeyId]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            ids => {
                let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
                write!(f, " (its key: {})", ids.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
