//! From starting the program until it is ready with the five shipped plugins running.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{Host, Mail};
use crate::{Places, mode, report};

/// Starts of each sort; the median counts.
const STARTS: usize = 3;

pub struct Startup {
    /// Into an empty data folder: every plugin is compiled.
    pub cold_ms: f64,
    /// Into a data folder that holds the compiled plugins.
    pub cached_ms: f64,
}

pub async fn measure(places: &Places) -> Result<Startup> {
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for start in 0..STARTS {
        let folder = places.scratch.join(format!("start-{start}"));
        for times in [&mut cold, &mut cached] {
            let mut host = Host::start(&places.program, &places.shipped, &folder, Mail::Off)?;
            times.push(milliseconds(host.ready(&mode::JOURNEY.names()).await?));
            host.stop().await?;
        }
    }
    let median = |times| report::median(times).context("nothing was started");
    Ok(Startup { cold_ms: median(cold)?, cached_ms: median(cached)? })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
