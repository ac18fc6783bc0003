//! `fanfare records`: rows that consumers recorded, taken out as NDJSON.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::Failure;
use super::client::{Client, escaped};
use super::print::Output;

#[derive(Debug, Subcommand)]
pub enum Records {
    /// Write every row of a data set, one JSON object a line, oldest first.
    Export {
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
        let Some(file) = file else {
            return match copy(rows, &mut BufWriter::new(io::stdout().lock())) {
                Err(Broken::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(Failure::Failed(format!("the output cannot be written: {error}")))
                }
                Err(Broken::Input(failure)) => Err(failure),
                // The reader of a pipe has seen enough: `fanfare records export orders | head`.
                Err(Broken::Output(_)) | Ok(_) => Ok(()),
            };
        };
        let refused = |error: io::Error| Failure::Failed(format!("{}: {error}", file.display()));
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let half = folder.join(format!(".{name}.tmp"));
        let mut writer = BufWriter::new(File::create(&half).map_err(refused)?);
        let count = copy(rows, &mut writer).map_err(|broken| match broken {
            Broken::Input(failure) => failure,
            Broken::Output(error) => refused(error),
        })?;
        let whole = writer.into_inner().map_err(|error| refused(error.into_error()))?;
        whole.sync_all().map_err(refused)?;
        std::fs::rename(&half, &file).map_err(refused)?;
        output.say(&format!("{count} rows of {dataset} in {}", file.display()));
        Ok(())
    }
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
