//! Where things are: the checkout and its target folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub struct Workspace {
    pub root: PathBuf,
    /// Wherever cargo was told to build: `target` in the checkout unless `CARGO_TARGET_DIR` or a config says otherwise.
    pub target: PathBuf,
}

impl Workspace {
    pub fn find() -> Result<Self> {
        // Cargo tells a program that it runs where its package is; the compiled-in path would be wrong where
        // several checkouts share one target folder.
        let manifest_dir =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let root = Path::new(&manifest_dir).parent().context("xtask has no folder above it")?.to_owned();

        let program = std::env::current_exe().context("cannot tell where xtask was built")?;
        let target = program.ancestors().nth(2).context("xtask was not built by cargo")?.to_owned();
        Ok(Self { root, target })
    }

    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// Where the plugins are built, apart from the host: another workspace with other profiles.
    pub fn plugins_target(&self) -> PathBuf {
        self.target.join("plugins")
    }
}
