//! Keys that sign plugins, and signing: for those who have no other tool.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::half::Half;
use crate::cli::print::{Output, text};
use crate::consumer::directory::PLUGIN_BYTES_MAX;
use crate::file;
use crate::signature::{self, KEY_PAIR_BYTES, KeyPair};

pub fn generate(name: &Path, output: &Output) -> Result<()> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| anyhow!("this machine gives no random bytes"))?;
    let key = KeyPair::from_seed(&seed)?;
    let (secret, public) = (with_end(name, "key"), with_end(name, "pub"));
    // A key that signs already is never overwritten, and none is made whose other half would be another key's.
    create(&secret, 0o600, &signature::key_pair_file(&seed, key.public()))?;
    create(&public, 0o644, &key.public().to_file()).inspect_err(|_| drop(fs::remove_file(&secret)))?;
    let made = json!({
        "secret_key": secret.display().to_string(),
        "public_key": public.display().to_string(),
        "key": key.public().to_string(),
        "key_id": key.public().id().to_string(),
    });
    let told = |made: &Value| {
        format!(
            "{} is secret: keep it where plugins are built.\n{} is for hosts, in fanfare.toml:\n\nplugin_keys = \"{}\"",
            text(made, "/secret_key"),
            text(made, "/public_key"),
            text(made, "/key")
        )
    };
    output.show(&made, told);
    Ok(())
}

pub fn sign(file: &Path, key: &Path, to: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let pair = KeyPair::from_file(&read(key, KEY_PAIR_BYTES as u64)?);
    let pair = pair.with_context(|| format!("{} is no secret key", key.display()))?;
    let signed = signature::sign(&read(file, PLUGIN_BYTES_MAX)?, &pair);
    let signed = signed.with_context(|| format!("{} cannot be signed", file.display()))?;
    let to = to.unwrap_or(file);
    // A host that looks at this folder sees the one or the other file, and never half of one.
    let half = Half::beside(to)?;
    fs::write(half.path(), signed)
        .and_then(|()| fs::set_permissions(half.path(), fs::metadata(file)?.permissions()))
        .and_then(|()| half.replace(to))
        .with_context(|| format!("cannot write {}", to.display()))?;
    let made = json!({ "file": to.display().to_string(), "key": pair.public().to_string() });
    output.show(&made, |made| format!("{} is signed by {}", text(made, "/file"), text(made, "/key")));
    Ok(())
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    file::read(path, bytes_max).with_context(|| format!("cannot read {}", path.display()))
}

fn create(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let mut options = fs::File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let made = options.write(true).create_new(true).open(path).and_then(|mut file| {
        // On a full disk nothing is better than a part.
        file.write_all(content).inspect_err(|_| drop(fs::remove_file(path)))
    });
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow!("{} is there already: choose another NAME", path.display()),
        _ => anyhow!("cannot make {}: {error}", path.display()),
    })
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{end}"));
    name.into()
}
