//! The rules of this repository that no compiler knows.
//!
//! **Invariant**: a rule is a pure function from a file to complaints, so that each is tested on a few lines of text.

mod modules;
mod text;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::guests;
use crate::workspace::Workspace;

/// Folders with text that people wrote, and the files at the root.
const ROOTS: [&str; 10] = ["deploy", "host", "plugins", "tests", "xtask", "wit", ".ci", ".cargo", "bench", "fuzz"];

/// One text file of the repository.
pub struct File {
    /// From the root of the checkout, with `/` between the folders.
    pub path: String,
    pub text: String,
}

/// Something to mend: `path:line: what`.
pub type Complaint = String;

pub fn check(workspace: &Workspace) -> Result<()> {
    let files = read(&workspace.root)?;
    let mut complaints: Vec<Complaint> = files.iter().flat_map(text::check).collect();
    complaints.extend(modules::check(&files));
    complaints.extend(untested_fixtures(workspace, &files)?);
    complaints.extend(text::untrue_readme(&files));
    if complaints.is_empty() {
        eprintln!("{:>3} files are tidy", files.len());
        return Ok(());
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    bail!("{} things are untidy", complaints.len())
}

/// A fixture that no test names is a claim that nobody checks.
fn untested_fixtures(workspace: &Workspace, files: &[File]) -> Result<Vec<Complaint>> {
    let named = |name: &str| {
        let tests = |path: &str| path.ends_with(".rs") && !path.starts_with("plugins/");
        let spellings =
            [format!("\"{name}\""), format!("\"{name}.wasm\""), format!("\"{}.wasm\"", name.replace('-', "_"))];
        files.iter().filter(|file| tests(&file.path)).any(|file| spellings.iter().any(|name| file.text.contains(name)))
    };
    let fixtures = guests::list(workspace, "fixtures")?;
    let untested = fixtures.iter().filter(|guest| !named(&guest.name));
    Ok(untested.map(|guest| format!("plugins/fixtures: no test names the fixture \"{}\"", guest.name)).collect())
}

fn read(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in sorted(root)? {
        if entry.is_file() {
            files.extend(read_file(root, &entry)?);
        }
    }
    for folder in ROOTS {
        let folder = root.join(folder);
        if folder.is_dir() {
            read_folder(root, &folder, &mut files)?;
        }
    }
    Ok(files)
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in sorted(folder)? {
        if entry.is_file() {
            files.extend(read_file(root, &entry)?);
        } else if entry.is_dir() && entry.file_name().is_some_and(|name| name != "target") {
            read_folder(root, &entry, files)?;
        }
    }
    Ok(())
}

/// `None` for what is no text: a compiled guest, a picture.
fn read_file(root: &Path, path: &Path) -> Result<Option<File>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Ok(text) = String::from_utf8(bytes) else { return Ok(None) };
    let path = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
    Ok(Some(File { path, text }))
}

fn sorted(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}
