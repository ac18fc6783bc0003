//! Rules that look at one file's text alone.

use super::{Complaint, File};

/// Beyond this a file has more than one purpose.
const LINES_MAX: usize = 500;

/// What must not be left behind, and what to do instead.
const LEFT_BEHIND: [(&str, &str); 6] = [
    (concat!("TO", "DO"), "do it, or file an issue"),
    (concat!("FIX", "ME"), "fix it, or file an issue"),
    (concat!("X", "XX:"), "say what is wrong in words"),
    (concat!("#[", "ignore"), "a test that does not run says nothing: make it run or remove it"),
    (concat!("dbg", "!("), "remove it, or log what it shows"),
    (concat!("unimplemented", "!("), "implement it, or leave the call out"),
];

pub fn check(file: &File) -> Vec<Complaint> {
    let File { path, text } = file;
    let is_rust = path.ends_with(".rs");
    // Cargo writes these.
    if path.ends_with("Cargo.lock") || path.ends_with(".snap") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        // Two spaces at the end of a line are a line break in Markdown, and nobody sees them there either.
        if line.ends_with([' ', '\t']) {
            complaints.push(format!("{path}:{number}: white space at the end of the line"));
        }
        for (mark, remedy) in LEFT_BEHIND {
            if (is_rust || path.ends_with(".py")) && line.contains(mark) {
                complaints.push(format!("{path}:{number}: `{mark}`: {remedy}"));
            }
        }
    }
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        complaints.push(format!("{path}: ends without exactly one line feed"));
    }
    if is_rust && text.lines().count() > LINES_MAX {
        complaints.push(format!("{path}: longer than {LINES_MAX} lines: give each purpose a file of its own"));
    }
    if path.ends_with("/mod.rs") {
        complaints.push(format!("{path}: modules are called `name.rs`, beside the folder `name/`"));
    }
    complaints
}

/// The README's consumer is the one that the tests run: what a newcomer copies works.
pub fn untrue_readme(files: &[File]) -> Option<Complaint> {
    const EXAMPLE: &str = "plugins/examples/hello/src/lib.rs";
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let shown = text("README.md").and_then(|readme| readme.split("```rust\n").nth(1)?.split("```").next());
    let tested = text(EXAMPLE).and_then(|example| example.split("\n#[cfg(test)]").next());
    let same = shown.map(str::trim_end) == tested.map(str::trim_end);
    (!same).then(|| format!("README.md: the consumer shown is not {EXAMPLE} without its tests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<Complaint> {
        check(&File { path: path.to_owned(), text: text.to_owned() })
    }

    #[test]
    fn a_tidy_file_has_no_complaints() {
        assert!(complaints("host/src/order.rs", "//! Orders.\n\nfn order() {}\n").is_empty());
    }

    #[test]
    fn each_mark_that_is_left_behind_is_found_with_its_line() {
        for (mark, _) in LEFT_BEHIND {
            let found = complaints("host/src/order.rs", &format!("//! Orders.\n    {mark}x\n"));
            assert!(matches!(found.as_slice(), [one] if one.starts_with("host/src/order.rs:2: ")), "{mark}: {found:?}");
        }
    }

    #[test]
    fn long_files_stray_space_and_mod_rs_are_found() {
        assert_eq!(complaints("host/src/order.rs", &"x\n".repeat(LINES_MAX)).len(), 0);
        assert_eq!(complaints("host/src/order.rs", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(complaints("README.md", "x \ny\n").len(), 1);
        assert_eq!(complaints("README.md", "x").len(), 1);
        assert_eq!(complaints("host/src/order/mod.rs", "x\n").len(), 1);
    }

    #[test]
    fn the_readme_shows_the_example_that_is_tested() {
        let files = |shown: &str| {
            let file = |path: &str, text: String| File { path: path.to_owned(), text };
            let example = "fn hello() {}\n\n#[cfg(test)]\nmod tests {}\n".to_owned();
            [
                file("README.md", format!("# Hello\n```rust\n{shown}\n```\n")),
                file("plugins/examples/hello/src/lib.rs", example),
            ]
        };
        assert_eq!(untrue_readme(&files("fn hello() {}")), None);
        assert!(untrue_readme(&files("fn goodbye() {}")).is_some());
    }
}
