//! A disk that is soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::TestHost;

/// Room for the store as it is made, and for some orders.
const DISK_BYTES: u64 = 12 << 20;
/// A preamble for [`TestHost::prepare_process`]: a file that may not grow is an error, and not the end of the process.
pub const TAKE_WRITE_ERRORS: &str = "trap '' XFSZ";

/// The data folder of one host, on a disk of its own where this user may mount one; otherwise in a process whose
/// files cannot grow.
pub enum SmallDisk {
    Mounted(PathBuf),
    Limited,
}

impl SmallDisk {
    /// Makes a host that does not run yet keep its data on a small disk.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn under(host: &mut TestHost) -> Self {
        let folder = host.folder().join("disk");
        fs::create_dir(&folder).expect("a folder to mount on");
        let size = format!("size={DISK_BYTES}");
        if succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder)) {
            host.keep_data_in(folder.join("data"));
            return Self::Mounted(folder);
        }
        // In units of 512 bytes.
        host.prepare_process(&format!("{TAKE_WRITE_ERRORS}; ulimit -S -f {}", DISK_BYTES / 512));
        Self::Limited
    }

    /// Leaves no room at all.
    ///
    /// # Panics
    /// If it cannot.
    pub fn fill(&self, host: &TestHost) {
        match self {
            Self::Mounted(folder) => {
                let error = fs::write(ballast(folder), vec![0; usize::try_from(DISK_BYTES).expect("a small disk")]);
                assert!(error.is_err(), "the disk holds more than its size");
            }
            Self::Limited => limit_files(host, "0"),
        }
    }

    /// Makes room again.
    ///
    /// # Panics
    /// If it cannot.
    pub fn free(&self, host: &TestHost) {
        match self {
            Self::Mounted(folder) => fs::remove_file(ballast(folder)).expect("ballast to throw off"),
            Self::Limited => limit_files(host, "unlimited"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Self::Mounted(folder) = self {
            // Lazily: the host may still be at it, and goes right after.
            succeeds(Command::new("umount").arg("-l").arg(folder));
        }
    }
}

fn ballast(folder: &Path) -> PathBuf {
    folder.join("ballast")
}

/// Lets no file of a host grow beyond `bytes` ("0", "unlimited"). Without [`TAKE_WRITE_ERRORS`] the first try ends it.
///
/// # Panics
/// If it cannot.
pub fn limit_files(host: &TestHost, bytes: &str) {
    let pid = host.pid().to_string();
    let limit = format!("--fsize={bytes}:");
    assert!(succeeds(Command::new("prlimit").args(["--pid", &pid, &limit])), "prlimit {limit}");
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
