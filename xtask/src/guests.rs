//! Which guests there are in `plugins/`, and what is left in the target folder once they are built.
//!
//! ```text
//! plugins/NAME            → TARGET/consumers/NAME.wasm        what a host runs
//! plugins/bench/NAME      → TARGET/bench-consumers/NAME.wasm  what the benchmark measures
//! plugins/examples/NAME   → TARGET/example-consumers/NAME.wasm
//! plugins/fixtures/NAME   → TARGET/fixtures/NAME.wasm         what the tests try the host with
//! ```
//! A side file `NAME.toml` beside a guest's Cargo.toml goes with it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Folder of the guests in `plugins/` → folder under the target folder.
pub const SETS: [(&str, &str); 4] =
    [("", "consumers"), ("bench", "bench-consumers"), ("examples", "example-consumers"), ("fixtures", "fixtures")];

/// One guest's crate.
#[derive(Debug)]
pub struct Guest {
    /// As a consumer: `_` stands as `-`.
    pub name: String,
    dir: PathBuf,
    wasm: PathBuf,
}

/// The guests in one of the [`SETS`], by name.
pub fn list(workspace: &Workspace, set: &str) -> Result<Vec<Guest>> {
    let dir = workspace.plugins().join(set);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let built = workspace.plugins_target().join("wasm32-wasip2/release");
    let mut guests = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let dir = entry?.path();
        let Ok(manifest) = fs::read_to_string(dir.join("Cargo.toml")) else { continue };
        // A guest is a dynamic library; what is not (the SDK) is no guest.
        if !manifest.contains("\"cdylib\"") {
            continue;
        }
        let package = package_name(&manifest).with_context(|| format!("{}: no `name = \"…\"`", dir.display()))?;
        let wasm = built.join(format!("{}.wasm", package.replace('-', "_")));
        let stem = dir.file_name().unwrap_or_default().to_string_lossy().replace('_', "-");
        guests.push(Guest { name: stem, dir, wasm });
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

/// Copies what was built to where hosts, benchmarks and tests look for it, and removes what has no guest any more.
pub fn lay_out(workspace: &Workspace) -> Result<()> {
    for (set, folder) in SETS {
        let to = workspace.target.join(folder);
        fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut expected = BTreeSet::new();
        let guests = list(workspace, set)?;
        for guest in &guests {
            let mut copy = |from: &Path, name: String| -> Result<()> {
                replace(from, &to.join(&name))?;
                expected.insert(OsString::from(name));
                Ok(())
            };
            copy(&guest.wasm, format!("{}.wasm", guest.name))?;
            let side_file = guest.dir.join(format!("{}.toml", guest.name));
            if side_file.is_file() {
                copy(&side_file, format!("{}.toml", guest.name))?;
            }
        }
        for entry in fs::read_dir(&to)? {
            let entry = entry?;
            if !expected.contains(&entry.file_name()) {
                fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        eprintln!("{:>3} guests in {}", guests.len(), to.display());
    }
    Ok(())
}

/// Makes `to` the same as `from`, all at once, and only if it is not: a host that watches the folder sees each new
/// version once, whole, and none when nothing changed.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let unfinished = to.with_extension("unfinished");
    fs::write(&unfinished, new).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, to).with_context(|| format!("cannot write {}", to.display()))
}

fn package_name(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| line.trim().strip_prefix("name = \"")?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_changed_nothing_leaves_the_file_alone() {
        let dir = std::env::temp_dir().join(format!("fanfare-xtask-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to.wasm"));
        fs::write(&from, "one").unwrap();
        replace(&from, &to).unwrap();
        let before = fs::metadata(&to).unwrap().modified().unwrap();
        replace(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), before);
        fs::write(&from, "two").unwrap();
        replace(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_name_of_a_package_is_read_from_its_manifest() {
        assert_eq!(package_name("[package]\nname = \"always-retry\"\n"), Some("always-retry"));
        assert_eq!(package_name("[package]\n"), None);
    }
}
