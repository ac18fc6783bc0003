//! `fanfare records`: rows that consumers recorded, taken out as NDJSON.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::Failure;
use super::client::{Client, escaped, part};
use super::half::{Half, told};
use super::print::{Output, inert};

#[derive(Debug, Subcommand)]
pub enum Records {
    /// Write every row of a data set, one JSON object a line, oldest first.
    Export {
        #[arg(value_parser = part)]
        dataset: String,
        /// A file instead of standard output; it appears when it is complete.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

impl Records {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Self::Export { dataset, output: file } = self;
        let rows = client.lines(&format!("/v1/records/{}", escaped(&dataset)), &[])?;
        let Some(file) = file.filter(|file| !is_standard_output(file)) else {
            // It may be a terminal, and what stands in rows is a guest's.
            let rows = rows.map(|row| row.map(|row| inert(&row)));
            return match copy(rows, &mut BufWriter::new(io::stdout().lock())) {
                Err(Broken::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(Failure::Failed(format!("the output cannot be written: {error}")))
                }
                Err(Broken::Input(failure)) => Err(failure),
                // The reader of a pipe has seen enough: `fanfare records export orders | head`.
                Err(Broken::Output(_)) | Ok(_) => Ok(()),
            };
        };
        let refused = |error: io::Error| Failure::Failed(told(&file, &error));
        let count = match fs::metadata(&file) {
            Ok(there) if there.is_dir() => {
                return Err(Failure::Usage(format!("{} is a directory: name a file", file.display())));
            }
            // A device or a pipe is written to, and stays what it is.
            Ok(there) if !there.is_file() => {
                write(rows, File::options().write(true).open(&file).map_err(refused)?, &refused)?
            }
            _ => {
                // A link stays, and what it leads to is replaced.
                let file = led_to(&file).map_err(refused)?;
                let half = Half::beside(&file)?;
                let count = write(rows, File::create(half.path()).map_err(refused)?, &refused)?;
                half.replace(&file).map_err(refused)?;
                count
            }
        };
        let made = json!({ "dataset": dataset, "rows": count, "file": file.display().to_string() });
        output.show(&made, |_| format!("{count} rows of {dataset} in {}", file.display()));
        Ok(())
    }
}

/// Whether `file` is another name of where this command writes anyhow, such as `/dev/stdout`: what is a file there must not be replaced.
fn is_standard_output(file: &Path) -> bool {
    let output = io::stdout().as_fd().try_clone_to_owned().and_then(|output| File::from(output).metadata());
    let same = |one: Metadata, other: Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file == Path::new("-") || fs::metadata(file).is_ok_and(|file| output.is_ok_and(|output| same(file, output)))
}

/// The name of the file behind all links, also where it is not there yet.
fn led_to(file: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const LINKS_MAX: usize = 40;
    let mut file = file.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&file) else { return Ok(file) };
        file = file.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(io::Error::other("its links lead in a circle"))
}

/// Writes all rows into `file`, and returns how many they are.
fn write(
    rows: impl Iterator<Item = Result<String, Failure>>,
    file: File,
    refused: &impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    let mut writer = BufWriter::new(file);
    let count = copy(rows, &mut writer).map_err(|broken| match broken {
        Broken::Input(failure) => failure,
        Broken::Output(error) => refused(error),
    })?;
    Ok(count)
}

/// Which side of a copy broke off.
enum Broken {
    Input(Failure),
    Output(io::Error),
}

fn copy(rows: impl Iterator<Item = Result<String, Failure>>, out: &mut impl Write) -> Result<u64, Broken> {
    let mut count = 0;
    for row in rows {
        let row = row.map_err(Broken::Input)?;
        if !row.is_empty() {
            writeln!(out, "{row}").map_err(Broken::Output)?;
            count += 1;
        }
    }
    out.flush().map_err(Broken::Output)?;
    Ok(count)
}
