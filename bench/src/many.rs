//! A hundred different plugins in one host: what they take of memory, how long each takes to start, and whether one of them
//! handles an event any slower than alone.
//!
//! They are inventory, the largest of those that ship, with another text in its data: each is compiled, kept and mapped by itself.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fanfare::policy::Isolation;
use fanfare::sandbox::{Sandbox, Settings};

use crate::handling::{self, BATCHES, Sandboxed};
use crate::host::{Host, Mail};
use crate::{Places, machine, report};

const PLUGINS: usize = 100;
/// Starts with compiled plugins; the median counts.
const STARTS: usize = 3;
/// In the description that the plugin gives of itself, and nowhere else. A number takes the place of its first word.
const TEXT: &[u8] = b"Takes stock for orders";

pub struct Many {
    pub cold_ms_each: f64,
    pub cached_ms_each: f64,
    pub rss_cold_mib: f64,
    pub rss_cached_mib: f64,
    /// One event in a warm instance of one of them, and of the only plugin of another sandbox, in the same moments.
    pub warm_us: f64,
    pub warm_alone_us: f64,
}

pub async fn measure(places: &Places) -> Result<Many> {
    let inventory = handling::inventory(&places.shipped)?;
    let plugins = (0..PLUGINS).map(|number| variant(&inventory, number)).collect::<Result<Vec<_>>>()?;
    let names: Vec<_> = (0..PLUGINS).map(|number| format!("inventory-{number:02}")).collect();
    let folder = places.scratch.join("many");
    let consumers = folder.join("consumers");
    fs::create_dir_all(&consumers).with_context(|| format!("cannot create {}", consumers.display()))?;
    for (name, plugin) in names.iter().zip(&plugins) {
        fs::write(consumers.join(format!("{name}.wasm")), plugin)?;
        fs::copy(places.shipped.join("inventory.toml"), consumers.join(format!("{name}.toml")))?;
    }

    eprintln!("starting with {PLUGINS} plugins");
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (cold_ms_each, rss_cold_mib) = start(places, &consumers, &folder, &names).await?;
    let mut cached = Vec::new();
    for _ in 0..STARTS {
        cached.push(start(places, &consumers, &folder, &names).await?);
    }
    let (times, memory): (Vec<_>, Vec<_>) = cached.into_iter().unzip();
    let median = |values| report::median(values).context("nothing was measured");

    eprintln!("measuring the handling of one event beside {PLUGINS} plugins");
    let (warm, alone) = beside(&plugins).await?;
    Ok(Many {
        cold_ms_each,
        rss_cold_mib,
        cached_ms_each: median(times)?,
        rss_cached_mib: median(memory)?,
        warm_us: median(warm)?,
        warm_alone_us: median(alone)?,
    })
}

/// Another plugin that does the same.
fn variant(plugin: &[u8], number: usize) -> Result<Vec<u8>> {
    let places: Vec<_> =
        plugin.windows(TEXT.len()).enumerate().filter(|(_, bytes)| *bytes == TEXT).map(|(at, _)| at).collect();
    let [at] = places.as_slice() else {
        bail!("{:?} is in inventory {} times, not once", String::from_utf8_lossy(TEXT), places.len());
    };
    let mut plugin = plugin.to_vec();
    let text = format!("{number:05}");
    plugin.get_mut(*at..*at + text.len()).context("the text has room for a number")?.copy_from_slice(text.as_bytes());
    Ok(plugin)
}

/// Milliseconds for each plugin until all run, and the memory of the host then.
async fn start(places: &Places, consumers: &Path, folder: &Path, names: &[&str]) -> Result<(f64, f64)> {
    let mut host = Host::start(&places.program, consumers, folder, Mail::Off)?;
    let took = host.ready(names).await?;
    let resident_mib = machine::resident_mib(host.pid())?;
    host.stop().await?;
    #[allow(clippy::cast_precision_loss, reason = "there are a hundred")]
    Ok((took.as_secs_f64() * 1e3 / names.len() as f64, resident_mib))
}

/// Of each batch of events, what one took in the first of `plugins`: beside the others, and alone.
async fn beside(plugins: &[Vec<u8>]) -> Result<(Vec<f64>, Vec<f64>)> {
    let first = plugins.first().context("no plugins")?;
    let (crowded, empty) = (Sandbox::new(Settings::default())?, Sandbox::new(Settings::default())?);
    let alone = Sandboxed::link(&empty, first, Isolation::Warm).await?;
    let mut all = Vec::new();
    for plugin in plugins {
        let sandboxed = Sandboxed::link(&crowded, plugin, Isolation::Warm).await?;
        // Each leaves an instance behind that waits for its next event.
        sandboxed.handle().await?;
        all.push(sandboxed);
    }
    let one = all.first().context("no plugins")?;
    let (mut beside, mut by_itself) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        beside.push(one.batch().await?);
        by_itself.push(alone.batch().await?);
    }
    Ok((beside, by_itself))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_differ_in_their_data_and_in_nothing_else() {
        let plugin = [b"before ", TEXT, b" after"].concat();
        assert_eq!(variant(&plugin, 42).unwrap(), b"before 00042 stock for orders after");
        assert_ne!(variant(&plugin, 1).unwrap(), variant(&plugin, 2).unwrap());
        assert!(variant(b"something else", 1).is_err());
        assert!(variant(&[TEXT, TEXT].concat(), 1).is_err());
    }
}
