//! Rules about who may know whom.
//!
//! - A crate that a boundary exists for is named only behind it.
//! - `host/src/lib.rs` lists the modules in groups; a module names modules of its own group and of those above it,
//!   never of one below: the way of an order is a straight line.

use super::{Complaint, File};

/// A crate (as it begins in paths) → the only modules of the host that may name it.
const BOUNDARIES: [(&str, &[&str]); 7] = [
    ("axum", &["api", "dashboard", "app"]),
    ("hyper", &["api", "dashboard", "app", "capability/http"]),
    ("aws_", &["backend/aws"]),
    ("lambda_", &["lambda"]),
    ("wasmtime", &["sandbox", "capability"]),
    ("rusqlite", &["backend/embedded"]),
    ("lettre", &["sender", "config", "cli/demo"]),
];

pub fn check(files: &[File]) -> Vec<Complaint> {
    let groups =
        files.iter().find(|file| file.path == "host/src/lib.rs").map(|lib| groups(&lib.text)).unwrap_or_default();
    let mut complaints = Vec::new();
    for file in files {
        let Some(module) = file.path.strip_prefix("host/src/").and_then(|path| path.strip_suffix(".rs")) else {
            continue;
        };
        for (line, number) in file.text.lines().zip(1..) {
            let code = line.split("//").next().unwrap_or_default();
            for (name, homes) in BOUNDARIES {
                if names_crate(code, name) && !homes.iter().any(|home| is_within(module, home)) {
                    let homes = homes.join(", ");
                    complaints.push(format!("{}:{number}: `{name}` stays inside {homes}: {}", file.path, line.trim()));
                }
            }
            complaints.extend(looks_down(&groups, module, code).map(|other| {
                format!("{}:{number}: names `crate::{other}`, which stands below it in lib.rs", file.path)
            }));
        }
    }
    complaints
}

/// The modules that lib.rs declares, group by group; a blank line begins a group.
fn groups(lib: &str) -> Vec<Vec<&str>> {
    let declared = |line: &&str| line.starts_with("pub mod ") || line.starts_with("mod ");
    let name = |line: &str| -> Option<usize> { line.find("mod ").map(|at| at + "mod ".len()) };
    lib.split("\n\n")
        .map(|block| {
            let names =
                block.lines().filter(declared).filter_map(|line| line.get(name(line)?..)?.split([';', ' ']).next());
            names.collect::<Vec<_>>()
        })
        .filter(|group| !group.is_empty())
        .collect()
}

/// The module that `code` names though it stands in a group below that of `module`.
fn looks_down<'a>(groups: &'a [Vec<&str>], module: &str, code: &str) -> Option<&'a str> {
    let top = module.split('/').next()?;
    let own = groups.iter().position(|group| group.contains(&top))?;
    let below = groups.iter().skip(own + 1).flatten();
    below.copied().find(|other| {
        let path = format!("crate::{other}");
        code.match_indices(&path).any(|(at, _)| !code.get(at + path.len()..).unwrap_or_default().starts_with(is_word))
    })
}

/// Whether `code` has a path that begins with the crate `name`; for a `name` that ends in `_`, with any crate called so.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        let after = code.get(at + name.len()..).unwrap_or_default().trim_start_matches(is_word);
        !before.is_some_and(|before| is_word(before) || before == '"' || before == ':') && after.starts_with("::")
    })
}

fn is_within(module: &str, home: &str) -> bool {
    module.strip_prefix(home).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "//! Fanfare.\n\n// Words.\npub mod clock;\npub mod order;\n\npub mod backend;\n\npub mod api;\n";

    fn complaints(path: &str, text: &str) -> Vec<Complaint> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        check(&[file("host/src/lib.rs", LIB), file(path, text)])
    }

    #[test]
    fn a_crate_is_named_only_behind_its_boundary() {
        for (name, homes) in BOUNDARIES {
            let line = format!("use {name}::Thing;\n");
            assert_eq!(complaints("host/src/order.rs", &line).len(), 1, "{name}");
            for home in homes {
                assert!(complaints(&format!("host/src/{home}.rs"), &line).is_empty(), "{name} in {home}");
                assert!(complaints(&format!("host/src/{home}/part.rs"), &line).is_empty(), "{name} in {home}");
                assert_eq!(complaints(&format!("host/src/{home}less.rs"), &line).len(), 1, "{name} in {home}less");
            }
        }
        assert_eq!(complaints("host/src/order.rs", "use wasmtime_wasi::p2;\n").len(), 1);
    }

    #[test]
    fn a_crate_in_a_comment_or_a_text_is_not_named() {
        assert!(complaints("host/src/order.rs", "// axum::Router would do\n").is_empty());
        assert!(complaints("host/src/order.rs", "const TARGET: &str = \"wasmtime::x\";\n").is_empty());
    }

    #[test]
    fn a_module_does_not_name_one_below_it() {
        assert!(complaints("host/src/api/orders.rs", "use crate::backend::Intake;\n").is_empty());
        assert!(complaints("host/src/order.rs", "use crate::clock::Timestamp;\n").is_empty());
        assert_eq!(complaints("host/src/order/draft.rs", "use crate::api::Problem;\n").len(), 1);
        assert_eq!(complaints("host/src/clock.rs", "use crate::backend;\n").len(), 1);
        assert!(complaints("host/src/clock.rs", "use crate::backends;\n").is_empty());
    }
}
