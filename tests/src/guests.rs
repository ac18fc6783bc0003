//! The plugins as `cargo xtask plugins` left them: `TARGET/consumers`, `TARGET/fixtures`, ….

use std::fs;
use std::path::{Path, PathBuf};

/// Folders under the target folder; a name is looked for in this order.
const SETS: [&str; 3] = ["consumers", "example-consumers", "fixtures"];

/// The five that ship with Fanfare.
pub const SHIPPED: [&str; 5] = ["analytics", "inventory", "loyalty", "notification", "shipment"];

/// The component called `name`.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn wasm(name: &str) -> Vec<u8> {
    let path = find(&format!("{name}.wasm"));
    let path = path.unwrap_or_else(|| panic!("no {name}.wasm in {}: run `cargo xtask plugins`", target().display()));
    fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The same component under another hash: it carries a section that nobody reads.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn variant(name: &str, number: u8) -> Vec<u8> {
    let mut wasm = wasm(name);
    // A custom section: id, size, and its name behind the length of that.
    wasm.extend([0, 9, 7, b'v', b'a', b'r', b'i', b'a', b'n', b't', number]);
    wasm
}

/// The side file that goes with it, if one does.
#[must_use]
pub fn side_file(name: &str) -> Option<String> {
    fs::read_to_string(find(&format!("{name}.toml"))?).ok()
}

fn find(file: &str) -> Option<PathBuf> {
    SETS.iter().map(|set| target().join(set).join(file)).find(|path| path.is_file())
}

/// `FANFARE_GUESTS`, or the folder that cargo built this test in.
fn target() -> PathBuf {
    if let Some(folder) = std::env::var_os("FANFARE_GUESTS") {
        return folder.into();
    }
    let program = std::env::current_exe().expect("a test knows where it is");
    // TARGET/debug/deps/stories-…
    program.ancestors().nth(3).map(Path::to_owned).expect("a test stands in a target folder")
}
