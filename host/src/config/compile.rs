//! What compiling a plugin may take.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::Check;
use super::retention::time;
use crate::policy::CompileLimits;

const TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Address space, of which the allocator keeps a GiB to itself before anything is compiled.
const MEMORY: RangeInclusive<u64> = 2 << 30..=64 << 30;

impl Check<'_> {
    pub(super) fn compile(&mut self) -> CompileLimits {
        let default = CompileLimits::default();
        CompileLimits {
            time: self.read("compile.time", limit_on_time).unwrap_or(default.time),
            memory: self.read("compile.memory", limit_on_memory).unwrap_or(default.memory),
        }
    }
}

fn limit_on_time(text: &str) -> Result<Duration, String> {
    time(text)
        .filter(|time| TIMES.contains(time))
        .ok_or_else(|| format!("{text:?} is not a time from 1s to 1h, such as 30s or 2m"))
}

fn limit_on_memory(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 2] = [("MiB", 1 << 20), ("GiB", 1 << 30)];
    let size = UNITS.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse::<u64>().ok()?.checked_mul(*factor))?
    });
    size.filter(|size| MEMORY.contains(size))
        .ok_or_else(|| format!("{text:?} is not a size from 2GiB to 64GiB, such as 4GiB"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;

    fn read(text: &str) -> Result<CompileLimits, String> {
        let mut raw = RawConfig::default();
        raw.read_text(Path::new("fanfare.toml"), &format!("[compile]\n{text}")).unwrap();
        raw.check(|_| None).map(|config| config.compile).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_set_has_a_default_and_what_is_wrong_is_told() {
        let default = CompileLimits::default();
        assert_eq!(read(""), Ok(default));
        let time = Duration::from_secs(30);
        assert_eq!(read("time = \"30s\"\nmemory = \"2GiB\""), Ok(CompileLimits { time, memory: 2 << 30 }));
        for (text, told) in [
            ("time = \"0s\"", "fanfare.toml:2: compile.time: \"0s\" is not a time from 1s to 1h"),
            ("time = \"2h\"", "is not a time from 1s to 1h"),
            ("memory = \"12\"", "fanfare.toml:2: compile.memory: \"12\" is not a size from 2GiB to 64GiB"),
            ("memory = \"+1GiB\"", "is not a size"),
            ("memory = \"99999999999999999999GiB\"", "is not a size"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
