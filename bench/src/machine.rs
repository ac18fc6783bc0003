//! What the kernel tells about processes and disks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Ticks per second in /proc/PID/stat: Linux shows every program 100, whatever it counts by itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// A file system in memory, as statfs(2) names it.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// CPU time of a process so far, in user and kernel mode, all of its threads, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("{path} is not as expected: {stat}"))?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of a benchmark's run are few")]
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// `utime` and `stime`, the 14th and 15th field. The second is the name in parentheses, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    Some(fields.next()?? + fields.next()??)
}

/// Memory of a process that is resident now, in MiB.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u32>().ok());
    Ok(f64::from(kib.with_context(|| format!("{path} has no VmRSS"))?) / 1024.0)
}

/// Refuses a file system in memory: fsync costs nothing there.
pub fn check_disk(folder: &Path) -> Result<()> {
    let of = rustix::fs::statfs(folder).with_context(|| format!("cannot tell what {} is on", folder.display()))?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "its type differs between platforms")]
    let kind = of.f_type as i64;
    ensure!(kind != TMPFS_MAGIC, "{} is in memory: name a folder on a disk by --data", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 900 0 3 0 120 34 0 0 20 0 9 0 1000 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(154));
    }

    #[test]
    fn this_process_takes_memory() {
        assert!(resident_mib(std::process::id()).unwrap() > 0.5);
    }
}
