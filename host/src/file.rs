//! Files that are read whole: regular ones, of a size that was foreseen. A pipe would be waited for until somebody writes to it, and a
//! device may never end.

use std::fs::File;
use std::io::{Error, Read as _, Result};
use std::path::Path;

/// Opens what is at `path`, links followed, where it is a regular file.
///
/// # Errors
/// Where it is none, or cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    let file = open_at_once(path)?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() {
        true => Ok(file),
        false if kind.is_dir() => Err(Error::other("it is a folder: name a file")),
        false => {
            Err(Error::other("it is a device, a pipe or a socket, which may never end: write a file, and name that"))
        }
    }
}

/// What is in the file at `path`.
///
/// # Errors
/// Where it is no regular file, has more than `bytes_max`, or cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Error::other(format!("it has more than {bytes_max} bytes, the most that is read here"))),
        false => Ok(bytes),
    }
}

/// [`read`], as text.
///
/// # Errors
/// As there, and where it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|error| Error::other(format!("it is not UTF-8 text: {error}")))
}

#[cfg(unix)]
fn open_at_once(path: &Path) -> Result<File> {
    std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_at_once(path: &Path) -> Result<File> {
    File::open(path)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (tell, told) = std::sync::mpsc::channel();
        let paths = [pipe, "/dev/zero".into(), "/dev/null".into(), dir.path().to_owned()];
        std::thread::spawn(move || {
            for path in paths {
                tell.send((read(&path, 10).unwrap_err(), path)).unwrap();
            }
        });
        for _ in 0..4 {
            let (refused, path) = told.recv_timeout(std::time::Duration::from_secs(60)).expect("an answer");
            assert!(refused.to_string().contains("name"), "{}: {refused}", path.display());
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_through_links_too() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, b"0123456789").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&link, 10).unwrap(), b"0123456789");
        assert!(read(&link, 9).unwrap_err().to_string().contains("more than 9 bytes"));
        std::fs::write(&file, b"\xff").unwrap();
        assert!(read_text(&link, 9).unwrap_err().to_string().contains("UTF-8"));
    }
}
