//! Whose plugins are taken.

use super::check::Check;
use super::{Error, RawConfig};
use crate::file;
use crate::policy::CompileLimits;
use crate::signature::{KEYS_MAX, NotAKey, PublicKey};

/// More than any file of a public key has.
const FILE_BYTES_MAX: u64 = 1 << 10;

/// What is asked of plugins, and what compiling one may take.
pub(super) fn of_plugins(raw: RawConfig) -> Result<(Vec<PublicKey>, CompileLimits), Error> {
    let mut check = Check::new(raw, &|_| None);
    let (keys, limits) = (check.plugin_keys(), check.compile());
    if check.faults.is_empty() { Ok((keys, limits)) } else { Err(Error(check.faults)) }
}

impl Check<'_> {
    pub(super) fn plugin_keys(&mut self) -> Vec<PublicKey> {
        self.read("plugin_keys", keys).unwrap_or_default()
    }
}

fn keys(text: &str) -> Result<Vec<PublicKey>, String> {
    let keys = text.split(',').map(|one| key(one.trim())).collect::<Result<Vec<_>, _>>()?;
    match keys.len() {
        ..=KEYS_MAX => Ok(keys),
        count => Err(format!("{count} keys are too many: {KEYS_MAX} at most")),
    }
}

fn key(text: &str) -> Result<PublicKey, String> {
    let Some(path) = text.strip_prefix("file:") else {
        // Never repeated: it may be a secret key, written in the wrong place.
        return text.parse().map_err(|NotAKey| "write public keys as ed25519:BASE64 or file:PATH".to_owned());
    };
    let bytes = file::read(path.as_ref(), FILE_BYTES_MAX).map_err(|error| format!("{path}: {error}"))?;
    PublicKey::from_file(&bytes).map_err(|error| format!("{path} is {error}, or not the public one"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::signature::KeyPair;

    fn read(keys: &str) -> Result<Vec<PublicKey>, String> {
        let mut raw = RawConfig::default();
        let file = format!("plugin_keys = {keys:?}");
        raw.read_text(Path::new("fanfare.toml"), &file).map_err(|error| error.to_string())?;
        raw.of_plugins().map(|(keys, _)| keys).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_named_by_their_text_or_their_file() {
        let [one, other] = [1, 2].map(|seed| KeyPair::from_seed(&[seed; 32]).unwrap().public());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.pub");
        std::fs::write(&path, one.to_file()).unwrap();
        assert_eq!(read(&format!("file:{}, {other}", path.display())), Ok(vec![one, other]));
        assert_eq!(RawConfig::default().of_plugins(), Ok((Vec::new(), CompileLimits::default())));
    }

    #[test]
    fn what_is_no_public_key_is_refused_and_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.key");
        std::fs::write(&path, [0x81; 65]).unwrap();
        let secret = read(&format!("file:{}", path.display())).unwrap_err();
        assert!(
            secret.starts_with("fanfare.toml:1: plugin_keys: ") && secret.contains("not the public one"),
            "{secret}"
        );
        for wrong in ["", "ed25519:", "ed25519:AAAA", "file:/nowhere/release.pub", "release.pub"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        let many = vec![KeyPair::from_seed(&[1; 32]).unwrap().public().to_string(); KEYS_MAX + 1];
        assert!(read(&many.join(",")).unwrap_err().contains("17 keys are too many"));
    }
}
