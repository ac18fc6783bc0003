//! `fanfare records`: rows that consumers recorded, taken out as NDJSON.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::Failure;
use super::client::{Client, escaped};
use super::import::write_output;
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
            return copy(rows, &mut BufWriter::new(std::io::stdout().lock())).map(drop);
        };
        let refused = |error: std::io::Error| Failure::Failed(format!("{}: {error}", file.display()));
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let half = folder.join(format!(".{name}.tmp"));
        let mut writer = BufWriter::new(std::fs::File::create(&half).map_err(refused)?);
        let count = copy(rows, &mut writer)?;
        let whole = writer.into_inner().map_err(|error| refused(error.into_error()))?;
        whole.sync_all().map_err(refused)?;
        std::fs::rename(&half, &file).map_err(refused)?;
        output.say(&format!("{count} rows of {dataset} in {}", file.display()));
        Ok(())
    }
}

fn copy(rows: impl Iterator<Item = Result<String, Failure>>, out: &mut impl Write) -> Result<u64, Failure> {
    let mut count = 0;
    for row in rows {
        let mut row = row?;
        if row.is_empty() {
            continue;
        }
        row.push('\n');
        write_output(out, row.as_bytes())?;
        count += 1;
    }
    write_output(out, b"")?;
    out.flush().map_err(|error| Failure::Failed(format!("the output cannot be written: {error}")))?;
    Ok(count)
}
