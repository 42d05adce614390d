//! A whole pull of 1 GiB from Debian's registry on loopback: its memory, and its time beside skopeo's copy and umoci's unpacking.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::registry::Registry;

use super::sample::{Sample, unpack};
use super::samples::{self, Packing};
use super::unpack::LARGE;
use super::{Row, Times, print, programs};

/// Memory that a pull may take, in MB.
const MEMORY: f64 = 150.0;

/// One layer and many, in both packings.
pub fn measure(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for packing in [Packing::Gzip, Packing::Zstd] {
        for layers in [1, 8] {
            rows.extend(one(cache, packing, layers, pairs.max(1))?);
        }
    }
    Ok(rows)
}

fn one(cache: &Path, packing: Packing, layers: usize, pairs: usize) -> Result<Vec<Row>> {
    // Beside the cache: /tmp may be memory.
    let dir = tempfile::tempdir_in(cache).context("make a folder")?;
    let blobs = samples::usr(cache, packing, LARGE, layers)?;
    let layout = dir.path().join("layout");
    Sample::new(cache, blobs, packing)?.layout(&layout)?;
    let registry = Registry::start()?;
    registry.push(&format!("oci:{}:x", layout.display()), "usr:1")?;
    let reference = registry.reference("usr:1");

    let name = format!("pull of 1 GiB of /usr, {layers} layers, {}", packing.name());
    let mut ours = Times::new(name.clone());
    let mut theirs = Times::new("skopeo copy, umoci unpack");
    let mut most: f64 = 0.0;
    for pair in 0..=pairs {
        let (took, memory) = pull(dir.path(), &reference)?;
        most = most.max(memory);
        // Debian's umoci reads gzip alone.
        let other = match packing {
            Packing::Gzip => Some(copy_and_unpack(cache, &reference)?),
            Packing::Zstd => None,
        };
        if pair > 0 {
            ours.add(took);
            other.into_iter().for_each(|took| theirs.add(took));
        }
    }
    let runs = pairs + 1;
    let memory = format!("{name}: memory, the most of {runs} / {MEMORY:.0} MB");
    let mut rows = vec![Row::within(memory, most, "MB", MEMORY, runs)];
    let mut things = vec![&ours];
    if packing == Packing::Gzip {
        things.push(&theirs);
        rows.push(ours.against(&theirs, 1.0));
    }
    print(&things, &rows);
    println!("{most:.1} MB");
    Ok(rows)
}

/// Into a root of its own. The time, and the process's peak of resident memory in MB, as GNU time tells it.
fn pull(dir: &Path, reference: &str) -> Result<(Duration, f64)> {
    let home = tempfile::tempdir_in(dir)?;
    let told = home.path().join("told");
    let took = samples::run(
        Command::new("time")
            .args(["-f", "%M", "-o"])
            .arg(&told)
            .arg(programs()?.join("gourd"))
            .args(["pull", "-q", reference])
            .env("GOURD_ROOT", home.path().join("root")),
    )?;
    let kib: f64 = std::fs::read_to_string(&told)?.trim().parse()?;
    Ok((took, kib * 1024.0 / 1e6))
}

fn copy_and_unpack(cache: &Path, reference: &str) -> Result<Duration> {
    let dir = tempfile::tempdir_in(cache)?;
    let layout = dir.path().join("layout");
    let copied = samples::run(
        Command::new("skopeo")
            .args(["copy", "-q", "--src-tls-verify=false"])
            .arg(format!("docker://{reference}"))
            .arg(format!("oci:{}:x", layout.display())),
    )?;
    Ok(copied + unpack(cache, &layout)?)
}
