//! The folder of consumers, as an operator handles it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::guests;

pub struct Consumers {
    folder: PathBuf,
}

impl Consumers {
    #[must_use]
    pub fn create(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).expect("a folder for consumers");
        Self { folder }
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Drops a guest in together with its side file.
    pub fn add(&self, guest: &str) {
        if let Some(side_file) = guests::side_file(guest) {
            self.set_policy(guest, &side_file);
        }
        self.put(guest, &guests::wasm(guest));
    }

    /// Makes `bytes` the plugin of consumer `name`, all at once.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.put_file(&format!("{name}.wasm"), bytes);
    }

    /// Makes `toml` the side file of consumer `name`, all at once.
    pub fn set_policy(&self, name: &str, toml: &str) {
        self.put_file(&format!("{name}.toml"), toml.as_bytes());
    }

    /// Opens the plugin of consumer `name` as a copying program does: empty at first, and written in place.
    #[must_use]
    pub fn begin_copy(&self, name: &str) -> Copy {
        Copy { file: fs::File::create(self.folder.join(format!("{name}.wasm"))).expect("a new file") }
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(format!("{name}.wasm"))).expect("the plugin was there");
    }

    /// Puts a folder where a plugin should be.
    pub fn make_folder(&self, name: &str) {
        fs::create_dir(self.folder.join(format!("{name}.wasm"))).expect("a new folder");
    }

    /// Names of the consumers whose plugin is there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).expect("the folder of consumers");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix(".wasm").map(str::to_owned)).collect()
    }

    fn put_file(&self, name: &str, bytes: &[u8]) {
        let unfinished = self.folder.join(format!("{name}.unfinished"));
        fs::write(&unfinished, bytes).expect("a new file");
        fs::rename(&unfinished, self.folder.join(name)).expect("a new file in place");
    }
}

/// A copy that is under way.
pub struct Copy {
    file: fs::File,
}

impl Copy {
    pub fn write(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).expect("room for a plugin");
        self.file.flush().expect("room for a plugin");
    }
}
