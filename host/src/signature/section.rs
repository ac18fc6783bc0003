//! The section that holds the signatures, read and written. Numbers are unsigned LEB128 of at most 32 bits.

use super::{Refused, SIGNATURES_MAX};

/// Version of the format, content (WebAssembly), hash function (SHA-256).
pub const FORMAT: [u8; 3] = [1, 1, 1];
pub const ED25519: u8 = 1;
const CUSTOM: u8 = 0;
const NAME: &[u8] = b"signature";
/// Room for more signatures than may be in it, and for the hashes of a file signed in many parts.
const BYTES_MAX: usize = 16 << 10;

#[derive(Default)]
pub struct Section<'f> {
    pub sets: Vec<SignedHashes<'f>>,
}

/// Hashes of ever more of the file, and who signed them together.
pub struct SignedHashes<'f> {
    pub hashes: Vec<[u8; 32]>,
    pub signatures: Vec<Signature<'f>>,
}

pub struct Signature<'f> {
    pub key_id: &'f [u8],
    pub algorithm: u8,
    pub bytes: &'f [u8],
}

impl<'f> Section<'f> {
    /// The section at the beginning of `sections`, and what follows it.
    pub fn split(sections: &'f [u8]) -> Result<(Self, &'f [u8]), Refused> {
        let mut reader = Reader(sections);
        if reader.byte() != Some(CUSTOM) {
            return Err(Refused::Unsigned);
        }
        let cut = Refused::Damaged("it ends too early");
        let bytes = reader.number().ok_or(cut.clone())?;
        let mut named = Reader(reader.0.get(..bytes).unwrap_or(reader.0));
        if named.counted() != Some(NAME) {
            return Err(Refused::Unsigned);
        }
        if bytes > BYTES_MAX {
            return Err(Refused::Damaged("it is too large"));
        }
        reader.take(bytes).ok_or(cut)?;
        Ok((Self::read(named)?, reader.0))
    }

    fn read(mut reader: Reader<'f>) -> Result<Self, Refused> {
        if reader.take(FORMAT.len()) != Some(&FORMAT) {
            return Err(Refused::Damaged("it is of a format that is not known here"));
        }
        let section = reader.section().ok_or(Refused::Damaged("a length in it is wrong"))?;
        if !reader.0.is_empty() {
            return Err(Refused::Damaged("something follows the last signature"));
        }
        if section.signatures() > SIGNATURES_MAX {
            return Err(Refused::TooMany);
        }
        Ok(section)
    }

    pub fn signatures(&self) -> usize {
        self.sets.iter().map(|set| set.signatures.len()).sum()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        put_counted(&mut content, NAME);
        content.extend(FORMAT);
        put_number(&mut content, self.sets.len());
        for SignedHashes { hashes, signatures } in &self.sets {
            let mut set = Vec::new();
            put_number(&mut set, hashes.len());
            set.extend(hashes.as_flattened());
            put_number(&mut set, signatures.len());
            for Signature { key_id, algorithm, bytes } in signatures {
                let mut signature = Vec::new();
                put_counted(&mut signature, key_id);
                signature.push(*algorithm);
                put_counted(&mut signature, bytes);
                put_counted(&mut set, &signature);
            }
            put_counted(&mut content, &set);
        }
        let mut section = vec![CUSTOM];
        put_counted(&mut section, &content);
        section
    }
}

struct Reader<'f>(&'f [u8]);

impl<'f> Reader<'f> {
    fn take(&mut self, bytes: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0_u64;
        for group in 0..5 {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                return u32::try_from(number).ok()?.try_into().ok();
            }
        }
        None
    }

    /// As many bytes as the number before them says.
    fn counted(&mut self) -> Option<&'f [u8]> {
        let bytes = self.number()?;
        self.take(bytes)
    }

    fn section(&mut self) -> Option<Section<'f>> {
        let sets = self.number()?;
        let sets = (0..sets).map(|_| Reader(self.counted()?).whole(Reader::set));
        Some(Section { sets: sets.collect::<Option<_>>()? })
    }

    fn set(&mut self) -> Option<SignedHashes<'f>> {
        let hashes = self.number()?.checked_mul(32)?;
        let hashes = self.take(hashes)?.as_chunks().0.to_vec();
        let signatures = self.number()?;
        let signatures = (0..signatures).map(|_| Reader(self.counted()?).whole(Reader::signature));
        Some(SignedHashes { hashes, signatures: signatures.collect::<Option<_>>()? })
    }

    fn signature(&mut self) -> Option<Signature<'f>> {
        Some(Signature { key_id: self.counted()?, algorithm: self.byte()?, bytes: self.counted()? })
    }

    /// What `read` makes of it, if that leaves nothing.
    fn whole<T>(mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        read(&mut self).filter(|_| self.0.is_empty())
    }
}

fn put_number(to: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn put_counted(to: &mut Vec<u8>, bytes: &[u8]) {
    put_number(to, bytes.len());
    to.extend(bytes);
}
