//! `fanfare backup` and `fanfare restore`: a copy of the store, and a data directory made from one.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Payload};
use super::half::{Half, told};
use super::print::{Output, field, text};
use crate::backend::embedded::{self, RestoreError};
use crate::{config, fault};

/// The longest line before the file: a few numbers, or why there is none.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Of the file, written at once.
const PIECE_BYTES: usize = 256 << 10;

/// Copy the store of a running host into a file: everything as it is at one moment.
#[derive(Args, Debug)]
pub struct Backup {
    /// The file to write; it appears when it is complete and on disk. One that is there is not replaced.
    file: PathBuf,
    /// Copy the store in this folder instead, in which no host runs.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Make a data folder from a file that `fanfare backup` wrote.
#[derive(Args, Debug)]
pub struct Restore {
    file: PathBuf,
    /// The folder to make; it must be empty or not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

impl Backup {
    pub fn run(&self, client: impl FnOnce() -> Result<Client, Failure>, output: &Output) -> Result<(), Failure> {
        if self.file.exists() {
            return Err(Failure::Usage(format!("{}: is there already; name another file", self.file.display())));
        }
        let half = Half::beside(&self.file)?;
        let copied = match &self.data_dir {
            Some(directory) => embedded::copy(directory, half.path()).map(|()| Value::Null)?,
            None => fetch(&client()?, (half.path(), &self.file), output)?,
        };
        embedded::verify(half.path())?;
        let bytes = half.complete(&self.file).map_err(|error| Failure::Failed(told(&self.file, &error)))?;
        let shown = json!({ "file": self.file.display().to_string(), "bytes": bytes, "copied": copied });
        output.show(&shown, summary);
        Ok(())
    }
}

impl Restore {
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        if let Some(text) = config::from_env(fault::VARIABLE) {
            let fault = text.parse().map_err(|what| Failure::Usage(format!("{}: {what}", fault::VARIABLE)))?;
            fault::arm(fault);
        }
        embedded::restore(&self.file, &self.data_dir)?;
        output.show(&json!({ "data_dir": self.data_dir }), |_| {
            format!("restored; start with: fanfare serve --data-dir {}", self.data_dir.display())
        });
        Ok(())
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::NotEmpty { .. } => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Takes the copy that the host makes, into `half` of `file`. Returns what it says of it.
fn fetch(client: &Client, (half, file): (&Path, &Path), output: &Output) -> Result<Value, Failure> {
    let mut answer = client.stream("/v1/backup", Payload::json(b""))?;
    let bar = output.progress(Some(0), "{bar:40} {pos} of {len} pages, {eta} left");
    let (bytes, copied) = loop {
        let mut line = String::new();
        let read = io::Read::take(&mut answer, LINE_BYTES_MAX).read_line(&mut line);
        let news: Value = match read {
            Ok(_) if line.ends_with('\n') => serde_json::from_str(&line).unwrap_or_default(),
            Ok(_) => return Err(broken_off(&"the host ended")),
            Err(error) => return Err(broken_off(&error)),
        };
        if let Some(error) = field(&news, "error").as_str() {
            return Err(Failure::Unavailable(format!("the host could not make the copy: {error}")));
        }
        let pages = |name: &str| news.pointer(&format!("/copied/{name}")).and_then(Value::as_u64).unwrap_or(0);
        bar.set_length(pages("of"));
        bar.set_position(pages("pages"));
        if let Some(bytes) = field(&news, "bytes").as_u64() {
            break (bytes, field(&news, "copied").clone());
        }
    };
    bar.finish_and_clear();
    let not_written = |error: io::Error| Failure::Failed(format!("{}; nothing was kept of it", told(file, &error)));
    let written = keep(answer.take(bytes), File::create(half).map_err(not_written)?, not_written)?;
    if written == bytes { Ok(copied) } else { Err(broken_off(&"the host ended")) }
}

/// Writes what comes, and returns how much it was. That the host ended is another failure than a disk that is full here.
fn keep(mut copy: impl Read, mut half: impl Write, not_written: impl Fn(io::Error) -> Failure) -> Result<u64, Failure> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let read = match copy.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken_off(&error)),
        };
        half.write_all(piece.get(..read).unwrap_or_default()).map_err(&not_written)?;
        bytes += read as u64;
    }
    half.flush().map_err(not_written)?;
    Ok(bytes)
}

fn broken_off(why: &dyn std::fmt::Display) -> Failure {
    Failure::Unavailable(format!("the copy broke off: {why}; nothing was kept of it"))
}

fn summary(shown: &Value) -> String {
    let mib = |path: &str| shown.pointer(path).and_then(Value::as_u64).unwrap_or(0).div_ceil(1 << 20);
    let mut told = format!("{}: {} MiB", text(shown, "/file"), mib("/bytes"));
    if shown.pointer("/copied/of").is_some() {
        let (before, max) = (mib("/copied/wal_bytes_before"), mib("/copied/wal_bytes_max"));
        told.push_str(&format!("; the write-ahead log had {before} MiB before and {max} MiB at most meanwhile"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Breaks off.
    struct Gone;

    impl Read for Gone {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    #[test]
    fn a_disk_that_is_full_here_is_no_host_that_ended() {
        let not_written = |error: io::Error| Failure::Failed(error.to_string());
        assert!(matches!(keep(&b"copy"[..], Full, not_written), Err(Failure::Failed(_))));
        assert!(matches!(keep(Gone, Vec::new(), not_written), Err(Failure::Unavailable(_))));
        assert!(matches!(keep(&b"copy"[..], Vec::new(), not_written), Ok(4)));
    }
}
