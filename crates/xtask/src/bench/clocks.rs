//! The two clocks of a start, as `gourd run --timings=FILE` tells them: what the guest's kernel takes, and what a person waits for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Times, print};

/// What some starts took.
#[derive(Debug)]
pub struct Clocks {
    kernel: Times,
    first_byte: Times,
}

impl Clocks {
    /// Of nothing yet.
    pub fn new() -> Clocks {
        Clocks {
            kernel: Times::new("from the kernel's start to init's"),
            first_byte: Times::new("from the command line to the container's first byte"),
        }
    }

    /// A start whose phases are in this file.
    pub fn add(&mut self, file: &Path) -> Result<()> {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let told: Value = serde_json::from_slice(&text).context("the timings")?;
        let phases = told["phases"].as_array().context("the timings' phases")?;
        let at = |name: &str| -> Result<Duration> {
            let mut found = phases.iter().filter(|phase| phase["name"] == name);
            let ms = found.next().and_then(|phase| phase["at_ms"].as_f64());
            let ms = ms.with_context(|| format!("the timings have no phase {name:?}"))?;
            Ok(Duration::from_secs_f64(ms / 1000.0))
        };
        let kernel = at("init started")?.saturating_sub(at("kernel started")?);
        self.kernel.add(kernel);
        self.first_byte.add(at("first byte")?);
        Ok(())
    }

    /// Both with their spread.
    pub fn print(&self) {
        print(&[&self.kernel, &self.first_byte], &[]);
    }
}
